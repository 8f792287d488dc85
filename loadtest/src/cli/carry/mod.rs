//! `loadtest carry`: many sessions with state of their own through switchovers that were asked for, through pgvane, which
//! carries them, and beside it through HAProxy and by the clients' own list of hosts.

mod bound;
mod crowd;
mod drivers;
mod report;
mod session;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use pgvane_loadtest::error::Doing;
use pgvane_loadtest::haproxy::Haproxy;
use pgvane_loadtest::lab::{BeforeStop, Lab};
use pgvane_loadtest::login::Login;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::programs::Postgresql;
use pgvane_loadtest::writer::{RunningWriter, Writer, longest_gap};
use pgvane_loadtest::{Error, Result, wait};
use tokio::process::Command;

use self::bound::Bound;
use self::crowd::{Crowd, Way};
use self::drivers::Drivers;
use self::report::{Round, WayReport, table};
use super::unless_interrupted;

/// The old leader comes back as a replica and catches up.
const STREAMING_WITHIN: Duration = Duration::from_secs(120);

/// The direct writers have to have written before a switchover, and after it.
const ACKS: usize = 50;
const ACKS_WITHIN: Duration = Duration::from_secs(90);

/// A dry run asks every session, which takes seconds of processor time with a thousand.
const NAMED_WITHIN: Duration = Duration::from_secs(60);

/// Connections besides those of the clients: replication, Patroni, writers, checks.
const OTHER_CONNECTIONS: usize = 100;

/// Patroni's template for HAProxy has `maxconn 100` for each server.
const HAPROXY_SESSIONS_MAX: usize = 90;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// pgvane's binary
    #[arg(long, value_name = "PATH")]
    pgvane: PathBuf,
    /// Number of clients
    #[arg(long, value_name = "N", default_value_t = 1000)]
    sessions: usize,
    /// Number of switchovers through pgvane, every second one by patronictl and the hook
    #[arg(long, value_name = "N", default_value_t = 20)]
    rounds: usize,
    /// Number of switchovers through HAProxy and by a list of hosts, each
    #[arg(long, value_name = "N", default_value_t = 3)]
    beside: usize,
    /// With PostgreSQL 18 in place of Debian's
    #[arg(long)]
    postgresql_18: bool,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    unless_interrupted(carry(options)).await.map(drop)
}

async fn carry(options: &Options) -> Result<()> {
    let connections = (options.sessions + OTHER_CONNECTIONS).to_string();
    let version = if options.postgresql_18 { Postgresql::Eighteen } else { Postgresql::Packaged };
    let lab = Lab::builder().postgresql(version).parameter("max_connections", &connections);
    let [postgres, patroni] = lab.versions()?;
    println!("{postgres}; {patroni}; {} sessions", options.sessions);
    let lab = lab.start().await?;
    prepare(&lab, options.sessions).await?;
    let stage = Stage::new(&lab, options).await?;
    let mut ways = vec![stage.through_pgvane(options).await?];
    let haproxy = Haproxy::start(lab.directory(), lab.nodes()).await?;
    let nodes = lab.nodes().iter().map(|node| node.pg).collect();
    for way in [Way::Haproxy(haproxy.write_addr), Way::ListOfHosts(nodes)] {
        if options.beside > 0 {
            ways.push(stage.beside(&way, options).await?);
        }
    }
    stage.hook.remove(&lab).await?;
    println!("\n{}", table(&ways));
    match ways[0].has_failures() {
        true => {
            Err(Error::Command { command: "carry".to_owned(), output: "clients of pgvane saw failures".to_owned() })
        }
        false => Ok(()),
    }
}

/// The tables, the roles, and what pgvane asks for keys.
async fn prepare(lab: &Lab, sessions: usize) -> Result<()> {
    Writer::prepare(lab).await?;
    let leader = lab.wait_for_leader(STREAMING_WITHIN).await?;
    let execute = async |login: Login, text: &str| {
        let client = login.connect(lab.nodes()[leader].pg, STREAMING_WITHIN).await?;
        let doing = || "preparing the cluster".to_owned();
        client.batch_execute(text).await.map_err(|source| Error::Postgres { doing: doing(), source })
    };
    let [app, trusting] = [Login::App, Login::Trusting].map(Login::user);
    let roles =
        format!("create role carried; grant carried to {app}, {trusting}; create role pgvane login password 'pgvane';");
    execute(Login::Superuser, &roles).await?;
    execute(Login::Superuser, include_str!("../../../../config/carry-verifier.sql")).await?;
    let counters = format!(
        "create table counters (id integer primary key, n bigint not null) with (fillfactor = 50); \
         insert into counters select id, 0 from generate_series(0, {}) as ids (id); \
         grant select, update on counters to {trusting}, carried",
        sessions + drivers::ROWS
    );
    execute(Login::App, &counters).await
}

/// The cluster, and pgvane in front of it.
struct Stage<'a> {
    lab: &'a Lab,
    pgvane: Pgvane,
    hook: BeforeStop,
    operator: Operator,
}

/// Runs pgvane's commands as its user.
struct Operator {
    binary: PathBuf,
    admin: String,
    password_file: PathBuf,
}

impl Operator {
    async fn says(&self, arguments: &[&str]) -> Result<String> {
        let Operator { binary, admin, password_file } = self;
        let mut command = Command::new(binary);
        command.args(arguments).args(["--user", "ops", "--admin", admin, "--password-file"]).arg(password_file);
        let output = command.kill_on_drop(true).output().await.doing(|| format!("starting {}", binary.display()))?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        match output.status.success() {
            true => Ok(text),
            false => Err(Error::Command { command: format!("pgvane {}", arguments.join(" ")), output: text }),
        }
    }
}

impl<'a> Stage<'a> {
    async fn new(lab: &'a Lab, options: &Options) -> Result<Stage<'a>> {
        let directory = lab.directory();
        let password_file = directory.join("password");
        fs::write(&password_file, "a password of twenty letters\n").doing(|| "writing a password".to_owned())?;
        let [certificate, key] = lab.make_certificate("carry")?;
        let users = format!("users = [{{ name = \"ops\", password_file = \"{}\" }}]", password_file.display());
        let (certificate, key) = (certificate.display(), key.display());
        let tls = format!("tls = {{ mode = \"terminate\", cert_file = \"{certificate}\", key_file = \"{key}\" }}");
        let mut pgvane =
            Pgvane::builder(&options.pgvane, lab.nodes()).hold_max("60s").admin(&users).write_listener(&tls);
        for line in [
            "park = true",
            "carry = true",
            "carry_settings = [\"app.tenant\"]",
            "carry_auth_query = \"select rolname, verifier from pgvane.verifier($1)\"",
            "sql = { user = \"pgvane\", password = \"pgvane\" }",
        ] {
            pgvane = pgvane.cluster(line);
        }
        let pgvane = pgvane.start(directory).await?;
        // where Patroni's account can run it
        let program = directory.join("pgvane-for-the-hook");
        fs::copy(&options.pgvane, &program).doing(|| "copying pgvane".to_owned())?;
        let admin = format!("http://{}", pgvane.admin_addr);
        let hook = BeforeStop::set(lab, |node| {
            let (program, password_file) = (program.display(), password_file.display());
            format!(
                "{program} park --node {} --admin {admin} --user ops --password-file {password_file} --wait 10s",
                node.name
            )
        });
        let operator =
            Operator { binary: options.pgvane.clone(), admin: admin.clone(), password_file: password_file.clone() };
        Ok(Stage { lab, hook: hook.await?, pgvane, operator })
    }

    async fn through_pgvane(&self, options: &Options) -> Result<WayReport> {
        let way = Way::Pgvane(self.pgvane.write_addr);
        let crowd = Crowd::start(options.sessions, &way, &[Login::Trusting, Login::App, Login::App]).await?;
        let drivers = Drivers::start(self.pgvane.write_addr, self.lab.directory(), options.sessions).await?;
        let mut report = WayReport::of(way.name());
        for number in 0..options.rounds {
            let bound = Bound::start(self.pgvane.write_addr).await?;
            // its time may be over before all have answered: then it says that of the others
            wait::until("a dry run that names the tied sessions", NAMED_WITHIN, || async {
                let answer = self.operator.says(&["switchover", "--dry-run", "--json"]).await;
                answer.and_then(|answer| bound.are_named_by(&answer)).map_err(|error| error.to_string())
            })
            .await?;
            let by = if number % 2 == 0 { "pgvane switchover" } else { "patronictl" };
            report.add(self.round(&crowd, by).await?);
            bound.have_ended().await?;
        }
        crowd.stop().await;
        report.add_problems(drivers.stop().await?);
        Ok(report)
    }

    async fn beside(&self, way: &Way, options: &Options) -> Result<WayReport> {
        let size = match way {
            Way::Haproxy(_) => options.sessions.min(HAPROXY_SESSIONS_MAX),
            Way::Pgvane(_) | Way::ListOfHosts(_) => options.sessions,
        };
        println!("{}: {size} sessions", way.name());
        let crowd = Crowd::start(size, way, &[Login::Trusting, Login::App, Login::App]).await?;
        let mut report = WayReport::of(way.name());
        for _ in 0..options.beside {
            report.add(self.round(&crowd, "patronictl").await?);
        }
        crowd.stop().await;
        Ok(report)
    }

    /// One switchover.
    async fn round(&self, crowd: &Crowd, by: &'static str) -> Result<Round> {
        let lab = self.lab;
        lab.wait_until_all_streaming(STREAMING_WITHIN).await?;
        let leader = lab.wait_for_leader(STREAMING_WITHIN).await?;
        crowd.is_ready(Instant::now()).await?;
        let direct: Vec<RunningWriter> = Writer::direct(lab).into_iter().map(Writer::start).collect();
        direct[leader].wait_for_acks(ACKS, ACKS_WITHIN).await?;
        let new_leader = match by {
            "patronictl" => lab.switchover().await?,
            _ => {
                self.operator.says(&["switchover"]).await?;
                lab.wait_for_leader_other_than(leader, STREAMING_WITHIN).await?
            }
        };
        direct[new_leader].wait_for_acks(ACKS, ACKS_WITHIN).await?;
        crowd.is_ready(Instant::now()).await?;
        let mut acks = Vec::new();
        for writer in direct {
            acks.extend(writer.finish().await.acks);
        }
        let gap = longest_gap(&acks).ok_or_else(|| Error::Command {
            command: "the direct writers".to_owned(),
            output: "they have written nothing".to_owned(),
        })?;
        Ok(Round { by, gap: gap.length(), seen: crowd.seen(gap) })
    }
}
