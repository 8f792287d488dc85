//! The SQL check against a fake server, which does what real servers rarely do, and records how it is treated.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::cluster::HostPort;
use crate::cluster::node::Claim;
use crate::config::{Check, Config};

/// No single step takes this long unless something is wrong.
const SOON: Duration = Duration::from_secs(10);

/// How the server treats a connection.
#[derive(Debug, Clone, Copy)]
enum Behaviour {
    /// Answers the startup packet with an error of this SQLSTATE and text.
    Refuses(&'static str, &'static str),
    /// The same, after a moment.
    RefusesSlowly(&'static str, &'static str),
    /// Never answers the startup packet.
    Hangs,
    /// Logs everybody in and answers each question, being a primary or not.
    Answers { in_recovery: bool },
    /// Logs everybody in and answers no question.
    LogsIn,
    /// As it answers, but says 42501 to the question that needs more rights than the bare one.
    AnswersTheBareQuestion,
}

/// What the server saw of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Opened,
    /// The last message's type, or nothing.
    Closed(Option<u8>),
}

struct Server {
    address: String,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Server {
    async fn with(behaviour: Behaviour) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (tell, seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tell.send(Seen::Opened).expect("the test listens");
                let tell = tell.clone();
                tokio::spawn(async move {
                    let last = serve(stream, behaviour).await;
                    let _ = tell.send(Seen::Closed(last)); // the test may be over
                });
            }
        });
        Server { address, seen }
    }

    async fn saw(&mut self) -> Seen {
        tokio::time::timeout(SOON, self.seen.recv()).await.expect("in time").expect("the server runs")
    }

    fn node(&self, more: &str) -> SqlNode {
        let (access, member) = self.access_to(more, &[]);
        SqlNode::new(access, Arc::new(member))
    }

    /// How to log in to the server, if discovered nodes may only be in these networks.
    fn access_to(&self, more: &str, discover_allow: &[&str]) -> (Access, Member) {
        let text = format!(
            "[[cluster]]\ncheck = \"sql\"\n[cluster.sql]\nuser = \"u\"\nsslmode = \"disable\"\n{more}\n\
             [[cluster.node]]\naddress = \"{}\"\n[[listener]]\nbind = \"*:1\"\ntarget = \"leader\"\n",
            self.address
        );
        let config = Config::from_toml("test", &text).unwrap_or_else(|faults| panic!("{faults}"));
        let cluster = &config.clusters[0];
        let Check::Sql(sql) = &cluster.check else { panic!("is sql") };
        let mut access = Access::new(sql, cluster, Resolver::system()).expect("no files");
        access.dialer.discover_allow = discover_allow.iter().map(|net| net.parse().expect("is a network")).collect();
        (access, cluster.nodes[0].clone())
    }
}

/// Serves until the client is gone; the type of its last message.
async fn serve(mut stream: TcpStream, behaviour: Behaviour) -> Option<u8> {
    let length = stream.read_u32().await.ok()?;
    let mut startup = vec![0; length as usize - 4];
    stream.read_exact(&mut startup).await.ok()?;
    match behaviour {
        Behaviour::Hangs => return stream.read_u8().await.ok(),
        Behaviour::Refuses(code, text) => {
            stream.write_all(&error("FATAL", code, text)).await.ok()?;
            return None;
        }
        Behaviour::RefusesSlowly(code, text) => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            stream.write_all(&error("FATAL", code, text)).await.ok()?;
            return None;
        }
        _ => stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await.ok()?,
    }
    let mut last = None;
    loop {
        let Ok(kind) = stream.read_u8().await else { return last };
        last = Some(kind);
        let length = stream.read_u32().await.ok()?;
        let mut body = vec![0; length as usize - 4];
        stream.read_exact(&mut body).await.ok()?;
        let asks_all = String::from_utf8_lossy(&body).contains("pg_control_system");
        let answer = match behaviour {
            Behaviour::Answers { in_recovery } => row(in_recovery),
            Behaviour::AnswersTheBareQuestion if !asks_all => row(true),
            Behaviour::AnswersTheBareQuestion => {
                [error("ERROR", "42501", "permission denied for function pg_control_system"), b"Z\0\0\0\x05I".to_vec()]
                    .concat()
            }
            _ => continue,
        };
        if kind == b'Q' {
            stream.write_all(&answer).await.ok()?;
        }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("is short");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn error(severity: &str, code: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("S{severity}\0V{severity}\0C{code}\0M{text}\0\0").as_bytes())
}

fn row(in_recovery: bool) -> Vec<u8> {
    let column = [b"\0\x01in_recovery\0".as_slice(), &[0; 18]].concat();
    let value = if in_recovery { b"\0\x01\0\0\0\x01t" } else { b"\0\x01\0\0\0\x01f" };
    [message(b'T', &column), message(b'D', value), message(b'C', b"SELECT 1\0"), b"Z\0\0\0\x05I".to_vec()].concat()
}

fn soon() -> Instant {
    Instant::now() + SOON
}

fn in_ms(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

#[tokio::test]
async fn one_connection_answers_many_checks_and_ends_with_terminate() {
    let mut server = Server::with(Behaviour::Answers { in_recovery: false }).await;
    let node = server.node("");
    for _ in 0..5 {
        assert_eq!(node.ask(soon()).await.expect("an answer").claim, Claim::Leader);
    }
    assert_eq!(server.saw().await, Seen::Opened);
    drop(node);
    assert_eq!(server.saw().await, Seen::Closed(Some(b'X')), "and no second connection before");
}

#[tokio::test]
async fn a_check_that_times_out_sends_terminate_and_the_next_one_logs_in_again() {
    let mut server = Server::with(Behaviour::LogsIn).await;
    let node = server.node("");
    assert_eq!(node.ask(in_ms(300)).await, Err(CheckError::TimedOut));
    assert_eq!(server.saw().await, Seen::Opened);
    assert_eq!(node.ask(in_ms(300)).await, Err(CheckError::TimedOut));
    assert_eq!(server.saw().await, Seen::Opened, "an answer may still come on the first: it is not asked again");
    assert_eq!(server.saw().await, Seen::Closed(Some(b'X')));
    assert_eq!(server.saw().await, Seen::Closed(Some(b'X')));
}

#[tokio::test]
async fn checks_of_a_frozen_server_share_one_login() {
    let mut server = Server::with(Behaviour::Hangs).await;
    let node = server.node("");
    for _ in 0..4 {
        assert_eq!(node.ask(in_ms(50)).await, Err(CheckError::TimedOut));
    }
    assert_eq!(server.saw().await, Seen::Opened);
    assert!(server.seen.try_recv().is_err(), "no second login, and the first goes on");
}

#[tokio::test]
async fn the_result_of_a_login_that_ended_after_its_check_is_not_used() {
    let mut server = Server::with(Behaviour::RefusesSlowly("57P03", "the database system is starting up")).await;
    let node = server.node("");
    assert_eq!(node.ask(in_ms(50)).await, Err(CheckError::TimedOut));
    assert_eq!(server.saw().await, Seen::Opened);
    assert_eq!(server.saw().await, Seen::Closed(None));
    let ended = async {
        while !node.connection.lock().await.login.as_ref().is_some_and(JoinHandle::is_finished) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, ended).await.expect("it ends with the connection");
    let report = node.ask(soon()).await.expect("is an answer");
    assert_eq!(report.state, "starting");
    assert_eq!(server.saw().await, Seen::Opened, "it was asked again");
}

#[tokio::test]
async fn a_server_that_is_shutting_down_has_answered_and_one_that_refuses_the_password_has_not() {
    let server = Server::with(Behaviour::Refuses("57P03", "the database system is shutting down")).await;
    let report = server.node("").ask(soon()).await.expect("is an answer");
    assert_eq!((report.claim, report.state.as_str()), (Claim::OutOfService, "stopping"));

    let mut server = Server::with(Behaviour::Refuses("28P01", "password authentication failed for user \"u\"")).await;
    let node = server.node("");
    for _ in 0..3 {
        let error = node.ask(soon()).await.expect_err("is not an answer");
        assert_eq!(error.to_string(), "login refused: password authentication failed for user \"u\"");
    }
    assert_eq!(server.saw().await, Seen::Opened);
    assert_eq!(server.saw().await, Seen::Closed(None), "and there is no other attempt so soon");
}

#[tokio::test]
async fn a_role_without_rights_on_all_functions_asks_for_the_recovery_state() {
    let server = Server::with(Behaviour::AnswersTheBareQuestion).await;
    let node = server.node("");
    for _ in 0..2 {
        assert_eq!(node.ask(soon()).await.expect("an answer").claim, Claim::Replica);
    }
}

#[tokio::test]
async fn a_refused_connection_is_reported_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let server =
        Server { address: listener.local_addr().expect("bound").to_string(), seen: mpsc::unbounded_channel().1 };
    drop(listener);
    assert_eq!(server.node("").ask(soon()).await, Err(CheckError::Refused));
}

#[tokio::test]
async fn a_discovered_node_outside_the_allowed_networks_is_not_connected_to() {
    let server = Server::with(Behaviour::Answers { in_recovery: false }).await;
    let (access, configured) = server.access_to("", &["10.0.0.0/8"]);
    let name = HostPort::new("localhost", configured.address.port()).expect("is a host");
    let discovered = Member { is_discovered: true, ..configured.clone() };
    for stranger in [Member { address: name, ..discovered.clone() }, discovered] {
        let error = SqlNode::new(access.clone(), Arc::new(stranger)).ask(soon()).await.expect_err("is not asked");
        assert!(error.to_string().ends_with("is not within discover_allow"), "{error}");
    }
    let configured = SqlNode::new(access, Arc::new(configured));
    assert_eq!(configured.ask(soon()).await.expect("the operator has named it").claim, Claim::Leader);
}
