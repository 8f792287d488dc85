//! The client programs: how each is started before one of pgvane's ports, and what it reports.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::pgvane::PgvaneBuilder;
use pgvane_loadtest::programs::{self, Postgresql};
use tokio::process::Command;

/// A client that hangs is given up after this time; every check has a deadline of its own before.
const RUN_MAX: Duration = Duration::from_secs(120);

/// A program whose checks are in a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// psql of this version.
    Psql(Postgresql),
    /// psycopg 3, with the libpq that it brings along.
    Psycopg,
    Asyncpg,
    NodePostgres,
    /// PHP, with Debian's libpq.
    Php,
}

impl Program {
    pub const ALL: [Program; 6] = [
        Program::Psql(Postgresql::Packaged),
        Program::Psql(Postgresql::Eighteen),
        Program::Psycopg,
        Program::Asyncpg,
        Program::NodePostgres,
        Program::Php,
    ];

    /// Runs its script; returns as [`checked`] does.
    pub async fn run_checks(self, port: &str, server: Postgresql, visit: &Visit) -> Result<Vec<String>, String> {
        let mut command = match self {
            Program::Psql(version) => {
                let mut command = visit.python("psql_checks.py");
                command.env("PSQL", version.program("psql").expect("psql is installed"));
                command.env("SERVER_VERSION", if server == Postgresql::Eighteen { "18" } else { "" });
                command
            }
            Program::Psycopg => visit.python("psycopg_checks.py"),
            Program::Asyncpg => visit.python("asyncpg_checks.py"),
            Program::NodePostgres => visit.node("node_postgres_checks.js"),
            Program::Php => visit.command(&programs::on_path("php").expect("PHP is installed"), Some("php_checks.php")),
        };
        command.arg(port);
        checked(command).await
    }
}

/// Runs a script and returns the names of its checks, all of which have passed; or else what it has printed.
pub async fn checked(mut command: Command) -> Result<Vec<String>, String> {
    let output = tokio::time::timeout(RUN_MAX, command.output()).await.map_err(|_| "it hangs".to_owned())?;
    let output = output.expect("it starts");
    let printed = [output.stdout, output.stderr].concat();
    all_passed(&String::from_utf8_lossy(&printed), output.status.success())
}

/// Reads the Test Anything Protocol: a plan, `1..7`, and as many lines that begin with `ok`.
fn all_passed(printed: &str, ended_well: bool) -> Result<Vec<String>, String> {
    let plan = printed.lines().find_map(|line| line.strip_prefix("1..")?.parse::<usize>().ok());
    let passed = printed.lines().filter(|line| line.starts_with("ok "));
    let passed: Vec<String> = passed.filter_map(|line| Some(line.split_once(" - ")?.1.to_owned())).collect();
    if ended_well && plan == Some(passed.len()) { Ok(passed) } else { Err(printed.to_owned()) }
}

#[test]
fn a_script_has_passed_only_if_all_that_it_planned_has() {
    assert_eq!(all_passed("# of libpq 18\n1..2\nok 1 - one\nok 2 - two\n", true), Ok(vec!["one".into(), "two".into()]));
    for told in ["1..2\nok 1 - one\n", "1..2\nok 1 - one\nnot ok 2 - two\n", "ok 1 - one\n", ""] {
        assert_eq!(all_passed(told, true), Err(told.to_owned()));
    }
    assert!(all_passed("1..1\nok 1 - one\n", false).is_err());
}

/// How connections are encrypted: what the clients ask for, and what pgvane's listeners are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// From the client to the server: pgvane passes on what it cannot read.
    PassedThrough,
    /// From the client to pgvane, and anew from there to the server.
    Terminated,
}

impl Encryption {
    pub const ALL: [Encryption; 3] = [Encryption::None, Encryption::PassedThrough, Encryption::Terminated];

    /// What libpq calls it.
    pub fn sslmode(self) -> &'static str {
        match self {
            Encryption::None => "disable",
            Encryption::PassedThrough | Encryption::Terminated => "require",
        }
    }

    /// Configures both listeners for it. Where pgvane needs a certificate, it is that of the lab's first node.
    pub fn configure(self, lab: &Lab, pgvane: PgvaneBuilder) -> PgvaneBuilder {
        match self {
            Encryption::None | Encryption::PassedThrough => pgvane,
            Encryption::Terminated => {
                let node = lab.nodes()[0].data_directory();
                let node = node.parent().expect("the data is in the node's directory").display().to_string();
                let line = format!(
                    "tls = {{ mode = \"terminate\", cert_file = \"{node}/server.crt\", key_file = \"{node}/server.key\" }}\n\
                     server_tls = \"require\""
                );
                pgvane.write_listener(&line).read_listener(&line)
            }
        }
    }

    /// Whether what reaches the server is encrypted.
    fn reaches_server(self) -> bool {
        self == Encryption::PassedThrough
    }

    /// Whether an encrypted cancel request cannot be told from a session: it goes to one node, by chance the right one.
    pub fn hides_cancels(self) -> bool {
        self == Encryption::PassedThrough
    }

    /// What becomes of a cancel request that is sent in clear, in the words of `pgvane_cancels_total`.
    pub fn outcome_of_cancels(self) -> &'static str {
        match self {
            Encryption::None | Encryption::Terminated => "delivered",
            Encryption::PassedThrough => "fanned-out",
        }
    }
}

/// Where a client goes, and how.
#[derive(Debug, Clone)]
pub struct Visit {
    pub address: SocketAddr,
    pub encryption: Encryption,
    /// Where it may leave files.
    pub directory: PathBuf,
}

impl Visit {
    /// A script of this folder, run by the Python that has the client libraries.
    pub fn python(&self, script: &str) -> Command {
        self.command(&programs::in_venv("python").expect("Python is installed"), Some(script))
    }

    /// A script of this folder, run by Node.js.
    pub fn node(&self, script: &str) -> Command {
        let mut command = self.command(&programs::in_venv("node").expect("Node.js is installed"), Some(script));
        command.env("NODE_PATH", programs::node_packages().expect("node-postgres is installed"));
        command
    }

    /// psql of this version, without what a user's settings would change.
    pub fn psql(&self, version: Postgresql) -> Command {
        let mut command = self.command(&version.program("psql").expect("psql is installed"), None);
        command.args(["-X", "-A", "-t", "-q", "-v", "VERBOSITY=verbose"]);
        command
    }

    /// A program that finds its way by libpq's environment variables, as the user `app`, and nothing else of ours.
    pub fn command(&self, program: &Path, script: Option<&str>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("PGHOST", self.address.ip().to_string()).env("PGPORT", self.address.port().to_string());
        command.env("PGUSER", Login::App.user()).env("PGDATABASE", Login::App.database());
        command.env("PGPASSWORD", Login::App.password().unwrap_or_default());
        command.env("PGSSLMODE", self.encryption.sslmode()).env("PGCONNECT_TIMEOUT", "30");
        let yes_or_no = |yes| if yes { "yes" } else { "no" };
        command.env("ENCRYPTED_AT_SERVER", yes_or_no(self.encryption.reaches_server()));
        command.env("CANCELS_HIDDEN", yes_or_no(self.encryption.hides_cancels()));
        if self.encryption == Encryption::Terminated {
            command.env("PGCHANNELBINDING", "disable"); // the certificate is not that of every node
        }
        command.env("LC_ALL", "C.UTF-8").env("HOME", &self.directory).env("PYTHONDONTWRITEBYTECODE", "1");
        command.current_dir(&self.directory).stdin(Stdio::null()).kill_on_drop(true);
        command.args(script.map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients").join(name)));
        command
    }
}
