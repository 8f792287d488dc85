//! TLS that ends at the proxy, in front of a server in plaintext.

use pgvane_loadtest::Result;
use pgvane_loadtest::bench::proxy::{Certificate, Proxy, Setup};
use pgvane_loadtest::lab::certificate::{self, Key};
use pgvane_loadtest::process::Account;
use pgvane_loadtest::programs;

use super::{Bench, Group, start_all};

/// HAProxy cannot be measured: it does not answer PostgreSQL's request for TLS.
const BASELINE: &str = "PgBouncer";

/// What the names of the rows end with, where the certificate makes no difference.
const SUFFIX: &str = ", TLS";

/// Certificates, and what the names of their handshakes' rows end with.
const CERTIFICATES: [(Key, &str); 2] = [(Key::Ecdsa, ", TLS, ECDSA P-256"), (Key::Rsa, ", TLS, RSA-2048")];

/// The rows, without their ends; the first one is there for each certificate.
const ROWS: [&str; 5] = [
    "connect + query + close",
    "round trip, 1 session",
    "round trip, 64 sessions",
    "streaming out, 8 kB pieces",
    "streaming in",
];

/// Sessions of the round trips.
const SESSIONS: [usize; 2] = [1, 64];

impl Bench<'_> {
    /// Connections with certificates of both kinds; round trips and streams with the first one, because their keys
    /// do not depend on it. There are no direct figures: the null backend has no TLS.
    pub(super) async fn tls(&mut self) -> Result<()> {
        let proxies = self.proxies_with_tls();
        for (key, suffix) in CERTIFICATES {
            let rows = if key == Key::Ecdsa { &ROWS[..] } else { &ROWS[..1] };
            if !rows.iter().any(|row| self.is_wanted(&format!("{row}{suffix}"))) {
                continue;
            }
            let certificate = self.certificate(key)?;
            let mut group = Group {
                running: start_all(&proxies, &Setup { certificate: Some(&certificate), ..self.setup() }).await?,
                suffix: suffix.to_owned(),
                baseline: BASELINE,
                direct: None,
                is_plotted: false,
            };
            self.connects(&group).await?;
            if key == Key::Ecdsa {
                SUFFIX.clone_into(&mut group.suffix);
                for sessions in SESSIONS {
                    self.round_trips(sessions, &group).await?;
                }
                self.streams(&group).await?;
            }
        }
        Ok(())
    }

    fn proxies_with_tls(&self) -> Vec<Proxy> {
        let has_tls = |proxy: &&Proxy| matches!(proxy, Proxy::Pgvane { .. } | Proxy::PgBouncer);
        let mut proxies: Vec<Proxy> = self.proxies.iter().filter(has_tls).cloned().collect();
        let stunnel = Proxy::Stunnel;
        let is_left_out = self.options.without.iter().any(|name| name == stunnel.name());
        match programs::on_path("stunnel") {
            Ok(_) if is_left_out => {}
            Ok(_) => proxies.push(stunnel),
            Err(_) => eprintln!("stunnel is not installed, and is left out (`scripts/setup --bench` installs it)"),
        }
        proxies
    }

    fn certificate(&self, key: Key) -> Result<Certificate> {
        // PgBouncer must be able to read it
        let account = Account::for_servers()?;
        let directory = self.scratch.directory().join(format!("{key:?}").to_lowercase());
        account.make_directory(&directory)?;
        let [file, key] = certificate::make(account, key, "bench", &directory)?;
        Ok(Certificate { file, key })
    }
}
