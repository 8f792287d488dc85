//! Causes one fault: in the cluster, in pgvane, or by clients of its ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use pgvane_loadtest::bench::usage;
use pgvane_loadtest::lab::{Frozen, Lab, Switchover};
use pgvane_loadtest::login::Login;
use pgvane_loadtest::messages::{PROTOCOL_3_0, query, startup};
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::tls::{self, Endpoint};
use pgvane_loadtest::{Error, Result};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use super::plan::{Fault, On, Step};

/// After a crash, Patroni's ttl of 20 s has to pass, and a busy machine needs more.
const NEW_LEADER_WITHIN: Duration = Duration::from_secs(120);
const PATRONI_ENDS_WITHIN: Duration = Duration::from_secs(60);
const CONNECT_WITHIN: Duration = Duration::from_secs(90);
const RELOADS_EVERY: Duration = Duration::from_millis(500);
/// pgvane's limit, soft and hard: enough for the largest crowd and its servers.
pub(super) const DESCRIPTORS_MAX: u32 = 4096;
const CROWD_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 99);

/// Whether the fault happened.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// Patroni has refused it, for this reason. The cluster has to continue as before.
    Refused(String),
}

/// What a fault is caused in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) lab: &'a Lab,
    pub(super) pgvane: &'a Pgvane,
    /// pgvane's port for writes, as clients use it.
    pub(super) write: Endpoint,
    /// The node that leads.
    pub(super) leader: usize,
}

/// Causes the fault and ends it: a stopped process continues, a killed node starts again.
pub(super) async fn inflict(step: Step, target: Target<'_>) -> Result<Outcome> {
    if step.fault == Fault::Switchover {
        return target.lab.ask_for_switchover().await.map(|switchover| match switchover {
            Switchover::To(_) => Outcome::Done,
            Switchover::Refused(reason) => Outcome::Refused(reason),
        });
    }
    inflict_by_force(step, target).await.map(|()| Outcome::Done)
}

async fn inflict_by_force(step: Step, target: Target<'_>) -> Result<()> {
    let Target { lab, pgvane, write, leader } = target;
    let connections = step.fault.connections();
    let replicas: Vec<usize> = (0..lab.nodes().len()).filter(|node| *node != leader).collect();
    let node = |on| if on == On::Leader { leader } else { replicas[step.replica % replicas.len()] };
    match step.fault {
        Fault::Switchover => lab.ask_for_switchover().await.map(drop),
        Fault::KillNode(on) => kill_node(lab, node(on), on, step.lasts).await,
        Fault::FreezePatroni(on) => {
            lab.freeze_patroni(node(on))?;
            sleep(step.lasts).await;
            lab.thaw_patroni(node(on))
        }
        Fault::FreezePostmaster(on) => {
            lab.freeze_postgres(node(on), Frozen::Postmaster)?;
            sleep(step.lasts).await;
            lab.thaw_postgres(node(on));
            Ok(())
        }
        Fault::FreezePostgres(on) => {
            lab.freeze_postgres(node(on), Frozen::Everything)?;
            sleep(step.lasts).await;
            lab.thaw_postgres(node(on));
            Ok(())
        }
        Fault::FreezePgvane => {
            signal(pgvane, Signal::STOP)?;
            sleep(step.lasts).await;
            signal(pgvane, Signal::CONT)
        }
        Fault::KillPatroni => {
            lab.kill_patroni(leader);
            sleep(step.lasts / 2).await;
            lab.start_node(leader)
        }
        Fault::RestartPatroniInPause => {
            lab.pause().await?;
            lab.terminate_patroni(leader, PATRONI_ENDS_WITHIN).await?;
            sleep(step.lasts).await;
            lab.start_node(leader)?;
            lab.wait_for_leader(NEW_LEADER_WITHIN).await?;
            lab.resume().await
        }
        Fault::StopEtcd => {
            lab.stop_dcs();
            sleep(step.lasts).await;
            lab.start_dcs().await
        }
        Fault::Reload => reload(pgvane, step.lasts).await,
        Fault::NoDescriptors => no_descriptors(pgvane, step.lasts).await,
        Fault::ReadOnlyErrors => read_only_writers(write, connections, step.lasts).await,
        Fault::SilentAdminConnections => crowd(pgvane.admin_addr, connections, b"", step.lasts).await,
        Fault::OneByteConnections => crowd(write.address, connections, b"\0", step.lasts).await,
        Fault::NonReadingClients => non_reading_clients(write, connections, step.lasts).await,
    }
}

async fn kill_node(lab: &Lab, node: usize, on: On, lasts: Duration) -> Result<()> {
    lab.kill_node(node)?;
    match on {
        On::Leader => lab.wait_for_leader_other_than(node, NEW_LEADER_WITHIN).await.map(drop)?,
        On::Replica => sleep(lasts).await,
    }
    lab.start_node(node)
}

fn signal(pgvane: &Pgvane, signal: Signal) -> Result<()> {
    kill_process(pid(pgvane), signal).map_err(|error| io_error("sending a signal to pgvane", error.into()))
}

fn pid(pgvane: &Pgvane) -> Pid {
    i32::try_from(pgvane.process_id()).ok().and_then(Pid::from_raw).expect("a process id is a positive i32")
}

async fn reload(pgvane: &Pgvane, lasts: Duration) -> Result<()> {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        pgvane.reload()?;
        sleep(RELOADS_EVERY).await;
    }
    Ok(())
}

/// Lowers pgvane's limit so that it cannot open anything until it closes something.
async fn no_descriptors(pgvane: &Pgvane, lasts: Duration) -> Result<()> {
    // The kernel gives the lowest free number to what is opened, and the limit is for these numbers.
    let open = usage::open_descriptors(pgvane.process_id())?;
    let lowest_free = (0..).find(|number| !open.contains(number)).unwrap_or_default();
    let set = |current| {
        let limits = Rlimit { current: Some(current), maximum: Some(DESCRIPTORS_MAX.into()) };
        prlimit(Some(pid(pgvane)), Resource::Nofile, limits)
            .map_err(|error| io_error("changing pgvane's limit of descriptors", error.into()))
    };
    set(lowest_free)?;
    sleep(lasts).await;
    set(DESCRIPTORS_MAX.into()).map(drop)
}

/// Clients that write in read-only transactions, one after another: as many errors 25006 as possible.
async fn read_only_writers(server: Endpoint, count: usize, lasts: Duration) -> Result<()> {
    let until = Instant::now() + lasts;
    let writes = || async move {
        while Instant::now() < until {
            let client = Login::Trusting.connect(server, CONNECT_WITHIN).await?;
            for _ in 0..20 {
                let _refused =
                    client.batch_execute("begin read only; insert into writes values ('read only', 0, 0)").await;
                let _ended = client.batch_execute("rollback").await;
            }
        }
        Ok(())
    };
    let clients: Vec<_> = (0..count).map(|_| tokio::spawn(writes())).collect();
    for client in clients {
        client.await.expect("a client does not panic")?;
    }
    Ok(())
}

/// Connections that send `bytes` and nothing else.
/// All of them come from an address that no other client has: pgvane limits what one address may use.
async fn crowd(server: SocketAddr, size: usize, bytes: &[u8], lasts: Duration) -> Result<()> {
    let mut connections = Vec::with_capacity(size);
    for _ in 0..size {
        let mut stream = connect_from(CROWD_ADDRESS, server).await?;
        let _closed_by_a_limit = stream.write_all(bytes).await;
        connections.push(stream);
    }
    sleep(lasts).await;
    Ok(())
}

/// Sessions that send a query with a large result and do not read it.
async fn non_reading_clients(server: Endpoint, count: usize, lasts: Duration) -> Result<()> {
    let mut clients: Vec<Box<dyn Send>> = Vec::with_capacity(count);
    for _ in 0..count {
        let client = non_reading_client(server).await;
        clients.push(client.map_err(|error| io_error("logging in as a client that does not read", error))?);
    }
    sleep(lasts).await;
    Ok(())
}

async fn non_reading_client(server: Endpoint) -> std::io::Result<Box<dyn Send>> {
    let mut stream = TcpStream::connect(server.address).await?;
    if server.tls {
        let mut stream = tls::start(stream).await?;
        query_much(&mut stream).await?;
        return Ok(Box::new(stream));
    }
    query_much(&mut stream).await?;
    Ok(Box::new(stream))
}

async fn query_much(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(&startup(PROTOCOL_3_0, &[("user", "trusting"), ("database", "app")])).await?;
    let mut answer = Vec::new();
    // ReadyForQuery outside a transaction is the end of the login.
    while !answer.ends_with(b"Z\0\0\0\x05I") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    stream.write_all(&query("select repeat('x', 1000) from generate_series(1, 1000000)")).await?;
    stream.flush().await
}

async fn connect_from(client: Ipv4Addr, server: SocketAddr) -> Result<TcpStream> {
    let connected = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((client, 0).into())?;
        socket.connect(server).await
    };
    connected.await.map_err(|error| io_error("connecting to pgvane", error))
}

fn io_error(doing: &str, source: std::io::Error) -> Error {
    Error::Io { doing: doing.to_owned(), source }
}
