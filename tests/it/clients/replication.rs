//! Backups, WAL and changes, streamed through the write port by the programs that come with each server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::process::Process;
use pgvane_loadtest::programs::Postgresql;
use pgvane_loadtest::tokio_postgres::Client;
use pgvane_loadtest::wait;
use tokio::process::Command;

use super::program::{Encryption, Visit};
use crate::stage::{pgvane_before, sound_cluster_of};
use crate::wire::SOON;

/// The lab's account for replication.
const REPLICATOR: &str = "replicator";

const SLOT: &str = "listener_of_changes";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_packaged_postgresql_replicates_through_the_write_port() {
    replicates_through_the_write_port(Postgresql::Packaged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_18_replicates_through_the_write_port() {
    replicates_through_the_write_port(Postgresql::Eighteen).await;
}

async fn replicates_through_the_write_port(server: Postgresql) {
    let lab = sound_cluster_of(server).await;
    for encryption in Encryption::ALL {
        let pgvane = pgvane_before(&lab, |pgvane| encryption.configure(&lab, pgvane)).await;
        let story = Story::new(&lab, server, encryption, pgvane.write_addr).await;
        story.a_backup_is_whole().await;
        story.wal_arrives().await;
        story.changes_arrive().await;
    }
}

struct Story<'a> {
    lab: &'a Lab,
    server: Postgresql,
    visit: Visit,
    /// For the files that this story leaves.
    directory: PathBuf,
    writer: Client,
}

impl Story<'_> {
    async fn new(lab: &Lab, server: Postgresql, encryption: Encryption, address: SocketAddr) -> Story<'_> {
        let directory = lab.directory().join(format!("replication-{}", address.port()));
        std::fs::create_dir(&directory).expect("it is ours");
        let writer = Login::App.connect(address, SOON).await.expect("a session");
        writer.batch_execute("create table if not exists changes (what text)").await.expect("it is the leader");
        Story { lab, server, visit: Visit { address, encryption, directory: directory.clone() }, directory, writer }
    }

    /// With the WAL that was written meanwhile, over a connection of its own.
    async fn a_backup_is_whole(&self) {
        let target = self.directory.join("backup");
        let mut backup = self.program("pg_basebackup");
        backup.args(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--pgdata"]).arg(&target);
        succeeds(backup).await;
        let mut verification = self.program("pg_verifybackup");
        verification.arg("--quiet").arg(&target);
        succeeds(verification).await;
        std::fs::remove_dir_all(&target).expect("it is ours");
    }

    async fn wal_arrives(&self) {
        let target = self.directory.join("wal");
        std::fs::create_dir(&target).expect("it is ours");
        let mut receiver = self.program("pg_receivewal");
        receiver.args(["--no-loop", "--no-sync", "--directory"]).arg(&target);
        let mut receiver = self.start("pg_receivewal", receiver);
        self.arrives(&mut receiver, "in the WAL", || found_below(&target)).await;
    }

    async fn changes_arrive(&self) {
        let mut receiver = self.program("pg_recvlogical");
        receiver.args(["--dbname", Login::App.database(), "--slot", SLOT, "--create-slot", "--if-not-exists"]);
        receiver.args(["--start", "--plugin", "test_decoding", "--no-loop", "--file", "-"]);
        let mut receiver = self.start("pg_recvlogical", receiver);
        let log = receiver.log_path().to_owned();
        self.arrives(&mut receiver, "a change", || found_in(&log)).await;
        receiver.signal(rustix::process::Signal::INT).expect("it runs");
        let status = receiver.wait(SOON).await.expect("it ends");
        assert!(status.success(), "{status}: {}", receiver.log_text());
        let drop_slot = format!("select pg_drop_replication_slot('{SLOT}')");
        let superuser = self.lab.connect_direct(self.lab.leader().await.expect("a leader")).await.expect("a session");
        // Patroni removes slots that it has not made, and may have been quicker
        let _removed_already = superuser.batch_execute(&drop_slot).await;
    }

    /// Writes again and again, until what was written has come out at the other end: the receiver may not be listening
    /// yet at the first time.
    async fn arrives(&self, receiver: &mut Process, what: &str, mut found: impl FnMut() -> String) {
        let mark = format!("{what}, {:?}", self.visit.encryption);
        let arrived = wait::until(&mark, SOON, || {
            let runs = receiver.still_runs();
            let is_there = found().contains(&mark);
            let (writer, mark) = (&self.writer, &mark);
            async move {
                runs.map_err(|error| error.to_string())?;
                let written = writer.execute("insert into changes values ($1)", &[mark]).await;
                written.map_err(|error| error.to_string())?;
                if is_there { Ok(()) } else { Err("nothing of it".to_owned()) }
            }
        });
        arrived.await.unwrap_or_else(|error| panic!("{:?}: {error}\n{}", self.server, receiver.log_text()));
    }

    fn program(&self, name: &str) -> Command {
        let program = self.server.program(name).expect("it comes with the server");
        let mut command = self.visit.command(&program, None);
        command.env("PGUSER", REPLICATOR).env("PGPASSWORD", REPLICATOR).env_remove("PGDATABASE");
        command
    }

    fn start(&self, name: &str, command: Command) -> Process {
        let log = self.directory.join(format!("{name}.log"));
        Process::start(name, command.into_std(), &self.directory, &log).expect("it starts")
    }
}

async fn succeeds(mut command: Command) {
    let done = tokio::time::timeout(3 * SOON, command.output()).await;
    let output = done.unwrap_or_else(|_| panic!("{command:?} hangs")).expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
}

fn found_in(file: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned()
}

fn found_below(directory: &Path) -> String {
    let files = std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    files.map(|file| found_in(&file)).collect()
}
