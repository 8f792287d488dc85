//! The cluster as a whole: its leader, whether it is complete, switchover, pause.

use std::process::Stdio;
use std::time::Duration;

use super::{Lab, Node};
use crate::error::Doing;
use crate::{Error, Result, http, wait};

/// After this long without an answer, a request to Patroni has failed.
const REST_WITHIN: Duration = Duration::from_secs(1);
/// `patronictl` waits for what it has started; a switchover of this size takes about 3 s.
const PATRONICTL_WITHIN: Duration = Duration::from_secs(60);
/// From `patronictl`'s success until the new leader says so itself.
const NEW_LEADER_WITHIN: Duration = Duration::from_secs(30);

/// The result of a switchover that Patroni was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switchover {
    /// This node leads now.
    To(usize),
    /// Patroni has not done it, for this reason.
    Refused(String),
}

impl Lab {
    /// The node that holds the leader lock with a running primary, by its own report.
    pub async fn leader(&self) -> Option<usize> {
        let asked: Vec<_> = self.nodes.iter().cloned().map(|node| tokio::spawn(leads(node))).collect();
        let mut leader = None;
        for (index, answer) in asked.into_iter().enumerate() {
            if answer.await.unwrap_or(false) {
                leader = Some(index);
            }
        }
        leader
    }

    /// Waits until there is a leader.
    pub async fn wait_for_leader(&self, within: Duration) -> Result<usize> {
        let seen = || async { self.leader().await.ok_or_else(|| self.states()) };
        wait::until("a leader", within, seen).await.map_err(|error| self.with_logs(error))
    }

    /// Waits until a node other than `previous` leads.
    pub async fn wait_for_leader_other_than(&self, previous: usize, within: Duration) -> Result<usize> {
        wait::until("another leader", within, || async {
            match self.leader().await {
                Some(leader) if leader != previous => Ok(leader),
                Some(_) => Err(format!("{} still leads", self.nodes[previous].name)),
                None => Err("no leader".to_owned()),
            }
        })
        .await
    }

    /// Waits until a leader runs, and every other node streams from it and is reported healthy by its Patroni.
    pub async fn wait_until_all_streaming(&self, within: Duration) -> Result<()> {
        let waited = wait::until("all replicas streaming", within, || self.all_streaming()).await;
        waited.map_err(|error| self.with_logs(error))
    }

    /// Switches over to a node of Patroni's choice and returns it.
    pub async fn switchover(&self) -> Result<usize> {
        self.switch(&[]).await
    }

    /// Switches over to `node`.
    pub async fn switchover_to(&self, node: usize) -> Result<usize> {
        self.switch(&["--candidate", &self.nodes[node].name]).await
    }

    /// Asks the leader's Patroni, by its REST API, to hand the lead to a node of its choice. Patroni may refuse, or try
    /// and not succeed.
    pub async fn ask_for_switchover(&self) -> Result<Switchover> {
        let previous = self.wait_for_leader(NEW_LEADER_WITHIN).await?;
        let order = serde_json::json!({ "leader": self.nodes[previous].name });
        let answer = http::post(self.nodes[previous].rest, "/switchover", &order, PATRONICTL_WITHIN).await;
        match answer {
            Ok(answer) if answer.status == 200 => {
                self.wait_for_leader_other_than(previous, NEW_LEADER_WITHIN).await.map(Switchover::To)
            }
            Ok(answer) => Ok(Switchover::Refused(format!("status {}: {}", answer.status, answer.body.trim()))),
            Err(error) => Ok(Switchover::Refused(format!("no answer: {error}"))),
        }
    }

    /// Waits until Patroni has named a synchronous standby: only with one can the lead go over without a loss.
    pub async fn wait_for_sync_standby(&self, within: Duration) -> Result<()> {
        wait::until("a synchronous standby", within, || async {
            let leader = self.leader().await.ok_or_else(|| self.states())?;
            let answer = http::get(self.nodes[leader].rest, "/cluster", REST_WITHIN).await;
            let members = answer.map_err(|error| error.to_string())?.json()["members"].take();
            let is_sync = |member: &serde_json::Value| member["role"] == "sync_standby";
            match members.as_array().is_some_and(|members| members.iter().any(is_sync)) {
                true => Ok(()),
                false => Err(members.to_string()),
            }
        })
        .await
    }

    /// The timeline that `node`'s Patroni reports, or 0.
    pub async fn timeline(&self, node: usize) -> u64 {
        let answer = http::get(self.nodes[node].rest, "/patroni", REST_WITHIN).await;
        answer.ok().and_then(|answer| answer.json()["timeline"].as_u64()).unwrap_or_default()
    }

    /// Puts Patroni into maintenance mode: it changes no roles by itself.
    pub async fn pause(&self) -> Result<()> {
        self.patronictl(&["pause", "--wait"]).await.map(drop)
    }

    /// Ends maintenance mode.
    pub async fn resume(&self) -> Result<()> {
        self.patronictl(&["resume", "--wait"]).await.map(drop)
    }

    /// Runs `patronictl` on this cluster and returns what it printed.
    pub async fn patronictl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.setting.account.command(&self.setting.patronictl);
        command.arg("-c").arg(self.nodes[0].patroni_config()).args(arguments);
        command.current_dir(self.directory()).stdin(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        let running = command.kill_on_drop(true).output();
        let name = format!("patronictl {}", arguments.join(" "));
        let output = match tokio::time::timeout(PATRONICTL_WITHIN, running).await {
            Ok(output) => output.doing(|| format!("running {name}"))?,
            Err(_elapsed) => {
                return Err(Error::Command { command: name, output: "it did not end".to_owned() });
            }
        };
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        match output.status.success() {
            true => Ok(printed),
            false => Err(Error::Command { command: name, output: printed }),
        }
    }

    async fn switch(&self, candidate: &[&str]) -> Result<usize> {
        let previous = self.wait_for_leader(NEW_LEADER_WITHIN).await?;
        let arguments = [&["switchover", "--force"], candidate].concat();
        let output = self.patronictl(&arguments).await?;
        if !output.contains("Successfully switched over") {
            return Err(Error::Command { command: format!("patronictl {}", arguments.join(" ")), output });
        }
        self.wait_for_leader_other_than(previous, NEW_LEADER_WITHIN).await
    }

    async fn all_streaming(&self) -> std::result::Result<(), String> {
        let leader = self.leader().await.ok_or_else(|| self.states())?;
        let answer = http::get(self.nodes[leader].rest, "/primary", REST_WITHIN).await;
        let report = answer.map_err(|error| format!("leader's Patroni: {error}"))?.json();
        let connections = report["replication"].as_array().map_or(&[][..], Vec::as_slice);
        for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| *index != leader) {
            let streams = |connection: &serde_json::Value| {
                connection["application_name"] == node.name.as_str() && connection["state"] == "streaming"
            };
            if !connections.iter().any(streams) {
                return Err(format!("{} does not stream", node.name));
            }
            self.says_healthy_replica(index).await?;
        }
        Ok(())
    }

    async fn says_healthy_replica(&self, node: usize) -> std::result::Result<(), String> {
        let Node { name, rest, .. } = &self.nodes[node];
        match http::get(*rest, "/replica?replication_state=streaming", REST_WITHIN).await {
            // A node with the tag `noloadbalance` answers 503 to /replica for ever, though it runs well.
            Ok(answer) if answer.status == 200 || answer.json()["tags"]["noloadbalance"] == true => Ok(()),
            Ok(answer) => Err(format!("{name}: status {} {:.200}", answer.status, answer.body)),
            Err(error) => Err(format!("{name}: {error}")),
        }
    }

    /// Which of the servers are running.
    fn states(&self) -> String {
        let running = |(node, patroni): (&Node, &std::sync::Mutex<Option<crate::process::Process>>)| {
            let mut patroni = patroni.lock().expect("nobody panics with this lock");
            let state = match patroni.as_mut().map(|process| process.ended()) {
                Some(None) => "running".to_owned(),
                Some(Some(status)) => format!("ended, {status}"),
                None => "not started".to_owned(),
            };
            format!("{} {state}", node.name)
        };
        let states: Vec<_> = self.nodes.iter().zip(&self.patronis).map(running).collect();
        format!("no leader; Patroni: {}", states.join(", "))
    }

    /// Adds the end of each Patroni's log to a wait that has failed, because the directory is removed with the lab.
    fn with_logs(&self, error: Error) -> Error {
        let Error::TooLate { waited_for, within, mut last_seen } = error else {
            return error;
        };
        for (index, node) in self.nodes.iter().enumerate() {
            let tail = crate::error::last_lines(&self.log_text(index));
            last_seen = format!("{last_seen}\n--- {}'s Patroni:\n{tail}", node.name);
        }
        Error::TooLate { waited_for, within, last_seen }
    }
}

/// 200 alone is not enough: `/primary` answers it whenever the lock is held, even with PostgreSQL down.
async fn leads(node: Node) -> bool {
    let Ok(answer) = http::get(node.rest, "/primary", REST_WITHIN).await else {
        return false;
    };
    let report = answer.json();
    answer.status == 200 && report["state"] == "running" && (report["role"] == "primary" || report["role"] == "master")
}
