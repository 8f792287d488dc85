//! Starting, killing and freezing the lab's servers.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Lab, Node};
use crate::error::Doing;
use crate::process::Process;
use crate::scratch::{processes_in, signal_all_in};
use crate::{Error, Result, http, wait};

/// SIGKILL takes effect at once, unless a process is stuck in the kernel.
const KILL_WITHIN: Duration = Duration::from_secs(10);
/// etcd answers well under a second after its start.
const DCS_WITHIN: Duration = Duration::from_secs(20);

/// What of a PostgreSQL server is stopped with SIGSTOP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// The postmaster alone: existing sessions continue, new ones get no answer.
    Postmaster,
    /// Every process of it: as if the machine had stopped, except that the kernel still accepts packets.
    Everything,
}

impl Lab {
    /// Starts Patroni on `node`, which starts PostgreSQL. Does not wait; without effect if it runs.
    pub fn start_node(&self, node: usize) -> Result<()> {
        let mut patroni = self.patroni(node);
        if patroni.as_mut().is_some_and(|process| process.ended().is_none()) {
            return Ok(());
        }
        let Node { name, directory, .. } = &self.nodes[node];
        let mut command = self.setting.account.command(&self.setting.patroni);
        command.arg(self.nodes[node].patroni_config()).env("HOME", directory);
        let title = format!("Patroni on {name}");
        *patroni = Some(Process::start(&title, command, directory, &self.nodes[node].patroni_log())?);
        Ok(())
    }

    /// Kills Patroni and PostgreSQL on `node` at once, with every backend, and returns when they have ended.
    pub fn kill_node(&self, node: usize) -> Result<()> {
        if let Some(mut patroni) = self.patroni(node).take() {
            patroni.kill();
        }
        kill_all_in(&self.nodes[node].name, &self.nodes[node].directory)
    }

    /// Kills Patroni on `node` and leaves PostgreSQL running.
    pub fn kill_patroni(&self, node: usize) {
        if let Some(mut patroni) = self.patroni(node).take() {
            patroni.kill();
        }
    }

    /// Ends Patroni on `node` with SIGTERM and waits for its end. PostgreSQL goes on only while Patroni is paused.
    pub async fn terminate_patroni(&self, node: usize, within: Duration) -> Result<()> {
        let patroni = self.patroni(node).take();
        let Some(mut patroni) = patroni else { return Ok(()) };
        patroni.signal(Signal::TERM)?;
        patroni.wait(within).await.map(drop)
    }

    /// Which start of PostgreSQL runs on `node`, as process id and start time; it changes with each restart.
    pub fn postgres_start(&self, node: usize) -> String {
        let text = fs::read_to_string(self.nodes[node].data_directory().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{} {}", lines.first().unwrap_or(&"none"), lines.get(2).unwrap_or(&""))
    }

    /// Kills PostgreSQL on `node` with every backend; Patroni keeps running and reacts to it.
    pub fn kill_postgres(&self, node: usize) -> Result<()> {
        kill_all_in(&self.nodes[node].name, &self.nodes[node].data_directory())
    }

    /// Stops Patroni on `node` with SIGSTOP: its REST API takes connections and never answers.
    pub fn freeze_patroni(&self, node: usize) -> Result<()> {
        self.signal_patroni(node, Signal::STOP)
    }

    /// Continues a frozen Patroni.
    pub fn thaw_patroni(&self, node: usize) -> Result<()> {
        self.signal_patroni(node, Signal::CONT)
    }

    /// Stops PostgreSQL on `node` with SIGSTOP.
    pub fn freeze_postgres(&self, node: usize, what: Frozen) -> Result<()> {
        if what == Frozen::Everything {
            signal_all_in(&self.nodes[node].data_directory(), Signal::STOP);
        }
        // The postmaster again in any case, because it must be stopped.
        kill_process(self.postmaster(node)?, Signal::STOP)
            .map_err(Into::into)
            .doing(|| format!("freezing PostgreSQL on {}", self.nodes[node].name))
    }

    /// Continues a frozen PostgreSQL.
    pub fn thaw_postgres(&self, node: usize) {
        signal_all_in(&self.nodes[node].data_directory(), Signal::CONT);
    }

    /// Kills etcd; its data stays.
    pub fn stop_dcs(&self) {
        if let Some(mut etcd) = self.etcd.lock().expect("nobody panics with this lock").take() {
            etcd.kill();
        }
    }

    /// Starts etcd and waits until it is healthy.
    pub async fn start_dcs(&self) -> Result<()> {
        let etcd = self.spawn_etcd()?;
        *self.etcd.lock().expect("nobody panics with this lock") = Some(etcd);
        wait::until("a healthy etcd", DCS_WITHIN, || async {
            match http::get(self.setting.etcd_client, "/health", Duration::from_secs(1)).await {
                Ok(answer) if answer.json()["health"] == "true" => Ok(()),
                Ok(answer) => Err(answer.body),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    fn spawn_etcd(&self) -> Result<Process> {
        let directory = self.directory().join("etcd");
        let client = format!("http://{}", self.setting.etcd_client);
        let peer = format!("http://{}", self.setting.etcd_peer);
        let mut command = self.setting.account.command(&self.setting.etcd_program);
        command.args(["--name", "lab", "--log-level", "warn", "--data-dir", "data"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("lab={peer}")]);
        Process::start("etcd", command, &directory, &directory.join("etcd.log"))
    }

    fn signal_patroni(&self, node: usize, signal: Signal) -> Result<()> {
        match self.patroni(node).as_ref() {
            Some(patroni) => patroni.signal(signal),
            None => Err(Error::Command {
                command: format!("{signal:?} to Patroni on {}", self.nodes[node].name),
                output: "it does not run".to_owned(),
            }),
        }
    }

    fn postmaster(&self, node: usize) -> Result<Pid> {
        let file = self.nodes[node].data_directory().join("postmaster.pid");
        let text = fs::read_to_string(&file).doing(|| format!("reading {}", file.display()))?;
        let pid = text.lines().next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw);
        pid.ok_or_else(|| Error::Command { command: format!("reading {}", file.display()), output: text })
    }

    fn patroni(&self, node: usize) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.patronis[node].lock().expect("nobody panics with this lock")
    }
}

/// Kills every process in `directory`, again and again, because a process that is just being forked may be missed.
fn kill_all_in(name: &str, directory: &std::path::Path) -> Result<()> {
    let deadline = Instant::now() + KILL_WITHIN;
    while !processes_in(directory).is_empty() {
        if Instant::now() > deadline {
            let waited_for = format!("the end of every process on {name}");
            return Err(Error::TooLate { waited_for, within: KILL_WITHIN, last_seen: "some are left".to_owned() });
        }
        signal_all_in(directory, Signal::KILL);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
