//! The proxies that `loadtest bench` compares, each started once as it is measured: no figures, only that they work.

use std::net::SocketAddr;

use pgvane_loadtest::bench::backend;
use pgvane_loadtest::bench::load::{self, Session};
use pgvane_loadtest::bench::proxy::{Certificate, Proxy, Setup};
use pgvane_loadtest::fake::FakePatroni;
use pgvane_loadtest::lab::certificate::{self, Key};
use pgvane_loadtest::process::Account;
use pgvane_loadtest::programs;
use pgvane_loadtest::scratch::Scratch;

use crate::binary;

fn pgvane() -> Proxy {
    Proxy::Pgvane { name: "pgvane".to_owned(), binary: binary::pgvane(), listener: String::new() }
}

/// What all proxies stand in front of, and where their files are.
struct Stage {
    scratch: Scratch,
    backend: SocketAddr,
    leader: FakePatroni,
}

impl Stage {
    async fn new() -> Self {
        let leader = FakePatroni::start_without_name().await;
        leader.leads(1);
        let scratch = Scratch::new().expect("a writable /tmp");
        Self { scratch, backend: backend::start().expect("starts"), leader }
    }

    fn setup(&self) -> Setup<'_> {
        Setup {
            directory: self.scratch.directory(),
            backend: self.backend,
            rest: self.leader.address(),
            sessions_max: 100,
            ports: 1,
            certificate: None,
        }
    }

    fn certificate(&self, key: Key) -> Certificate {
        let account = Account::for_servers().expect("there is one");
        let directory = self.scratch.directory().join(format!("{key:?}"));
        account.make_directory(&directory).expect("a writable directory");
        let [file, key] = certificate::make(account, key, "bench", &directory).expect("openssl is installed");
        Certificate { file, key }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pgvane_and_haproxy_serve_sessions_on_each_of_sixteen_ports() {
    let stage = Stage::new().await;
    for proxy in [pgvane(), Proxy::Haproxy { splices: false }] {
        let running = proxy.start(&Setup { ports: 16, ..stage.setup() }).await.expect("starts");
        let mut ports: Vec<u16> = running.server.addresses.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 16, "{}", proxy.name());
        let mut sessions = load::open_many(&running.server, 32).expect("opens them on all ports");
        sessions.iter_mut().try_for_each(Session::query).expect("answers on all ports");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_ends_at_each_proxy_that_is_measured_with_either_certificate() {
    let stage = Stage::new().await;
    let mut proxies = vec![pgvane(), Proxy::PgBouncer];
    if programs::on_path("stunnel").is_ok() {
        proxies.push(Proxy::Stunnel); // only `make bench` needs it
    }
    for key in [Key::Ecdsa, Key::Rsa] {
        let certificate = stage.certificate(key);
        for proxy in &proxies {
            let setup = Setup { certificate: Some(&certificate), ..stage.setup() };
            let running = proxy.start(&setup).await.expect("starts");
            assert!(running.server.tls, "{}", proxy.name());
            let mut session = Session::open(&running.server, 0).expect("logs in");
            session.query().expect("answers");
            assert_eq!(session.copy_out("out", 1).expect("streams out"), 64 * 1024, "{}", proxy.name());
            assert!(session.copy_in(100_000).expect("streams in") >= 100_000, "{}", proxy.name());
            session.close().expect("closes");
        }
    }
}
