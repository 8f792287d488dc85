//! Channel binding: psql of two versions with every `channel_binding` and `sslmode`, before every way in which pgvane can
//! stand in between, and real servers. Each cell of the table in docs/tls.md is what has happened here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::programs::Postgresql;
use tokio::process::Command;

use super::{certificates, terminate, terminate_as};
use crate::certificates::Certificates;
use crate::stage::{leader_and_replicas, pgvane_before, sound_cluster_of};
use crate::wire::in_time;

/// How pgvane stands in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proxy {
    Passthrough,
    /// TLS ends at pgvane, and the way to the server is in clear.
    ServerInClear,
    /// pgvane ends the client's TLS and opens TLS of its own to the server.
    ServerEncrypted,
    /// The same, with the server's own certificate at pgvane.
    SameCertificate,
    /// Without TLS towards clients, with TLS towards the server.
    ClientInClear,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Nothing,
    Tls,
    DirectTls,
}

/// What a client has met with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Met {
    /// A session.
    Works,
    /// An error: its place in [`ERRORS`].
    Error(usize),
}

/// Who says what.
const ERRORS: [(&str, &str); 5] = [
    ("libpq", "channel binding required, but SSL not in use"),
    (
        "libpq",
        "channel binding is required, but server did not offer an authentication method that supports channel binding",
    ),
    ("pgvane, 28000", "FATAL:  pgvane: channel binding is not possible through listener \"write\""),
    ("libpq", "server does not support SSL, but SSL was required"),
    ("libpq 17 or later", "SSL error: unexpected eof while reading"),
];

const BINDINGS: [&str; 3] = ["disable", "prefer", "require"];

impl Proxy {
    const ALL: [Proxy; 5] = [
        Proxy::Passthrough,
        Proxy::ServerInClear,
        Proxy::ServerEncrypted,
        Proxy::SameCertificate,
        Proxy::ClientInClear,
    ];

    /// As the table has it.
    fn words(self) -> &'static str {
        match self {
            Proxy::Passthrough => "`tls = \"passthrough\"`",
            Proxy::ServerInClear => "`terminate`, `server_tls = \"disable\"`",
            Proxy::ServerEncrypted => "`terminate`, `server_tls = \"require\"`",
            Proxy::SameCertificate => "the same, with the server's certificate",
            Proxy::ClientInClear => "`tls = \"disable\"`, `server_tls = \"require\"`",
        }
    }

    fn settings(self, files: &Certificates, server: &Path) -> String {
        let own = terminate(files, "");
        match self {
            Proxy::Passthrough => String::new(),
            Proxy::ServerInClear => own,
            Proxy::ServerEncrypted => format!("{own}\nserver_tls = \"require\""),
            Proxy::SameCertificate => {
                let file = |name| server.join(name).display().to_string();
                let servers = terminate_as(&file("server.crt"), &file("server.key"), "");
                format!("{servers}\nserver_tls = \"require\"")
            }
            Proxy::ClientInClear => "tls = \"disable\"\nserver_tls = \"require\"".to_owned(),
        }
    }

    /// Whether the server sees an encrypted connection.
    fn reaches_server_encrypted(self, asks: Asks) -> bool {
        match self {
            Proxy::Passthrough => asks != Asks::Nothing,
            Proxy::ServerInClear => false,
            Proxy::ServerEncrypted | Proxy::SameCertificate | Proxy::ClientInClear => true,
        }
    }
}

impl Asks {
    const ALL: [Asks; 3] = [Asks::Nothing, Asks::Tls, Asks::DirectTls];

    /// Of which versions psql can ask for this.
    fn versions(self) -> &'static [Postgresql] {
        match self {
            Asks::Nothing | Asks::Tls => &[Postgresql::Packaged, Postgresql::Eighteen],
            Asks::DirectTls => &[Postgresql::Eighteen],
        }
    }

    fn parameters(self) -> &'static str {
        match self {
            Asks::Nothing => "sslmode=disable",
            Asks::Tls => "sslmode=require",
            Asks::DirectTls => "sslmode=require sslnegotiation=direct",
        }
    }
}

/// psql's outcome with these parameters.
async fn met(psql: Postgresql, server: SocketAddr, parameters: &str, expects_encrypted: bool) -> Met {
    let mut command = Command::new(psql.program("psql").expect("psql is installed"));
    command.args(["-XAtc", "select ssl from pg_stat_ssl where pid = pg_backend_pid()"]);
    command.arg(format!("host=127.0.0.1 port={} user=app password=app dbname=app {parameters}", server.port()));
    let output = in_time("psql", command.env("LC_ALL", "C.UTF-8").output()).await.expect("it starts");
    let [said, told] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("is text"));
    if output.status.success() {
        assert_eq!(said.trim(), if expects_encrypted { "t" } else { "f" }, "{parameters}: what the server sees");
        return Met::Works;
    }
    let known = ERRORS.iter().position(|(_, words)| told.contains(words));
    let known = known.unwrap_or_else(|| panic!("{psql:?} {parameters}: an error that nobody has foreseen:\n{told}"));
    if known == 2 {
        for words in ["DETAIL:  TLS with the client ends at pgvane", "HINT:  Connect with channel_binding=disable."] {
            assert!(told.contains(words), "{words} is not in\n{told}");
        }
    }
    Met::Error(known)
}

/// One pgvane for each way to stand in between, before a real cluster.
async fn standing_in_between(lab: &Lab, files: &Certificates) -> Vec<(Proxy, Pgvane)> {
    let (leader, _) = leader_and_replicas(lab).await;
    let node = lab.nodes()[leader].data_directory();
    let node = node.parent().expect("the data is in the node's directory");
    let mut all = Vec::new();
    for proxy in Proxy::ALL {
        let settings = proxy.settings(files, node);
        all.push((proxy, pgvane_before(lab, |pgvane| pgvane.write_listener(&settings)).await));
    }
    all
}

/// A row of the table: what psql of this version has met with, by [`BINDINGS`].
#[derive(Debug, PartialEq, Eq)]
struct Row {
    proxy: Proxy,
    asks: Asks,
    psql: Postgresql,
    cells: [Met; 3],
}

async fn rows(pgvanes: &[(Proxy, Pgvane)]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (proxy, pgvane) in pgvanes {
        for asks in Asks::ALL {
            for psql in asks.versions().iter().copied() {
                let mut cells = [Met::Works; 3];
                for (cell, binding) in cells.iter_mut().zip(BINDINGS) {
                    let parameters = format!("{} channel_binding={binding}", asks.parameters());
                    let encrypted = proxy.reaches_server_encrypted(asks);
                    *cell = met(psql, pgvane.write_addr, &parameters, encrypted).await;
                }
                rows.push(Row { proxy: *proxy, asks, psql, cells });
            }
        }
    }
    rows
}

/// The table as docs/tls.md has it. Rows that differ in nothing but the version are one.
fn table(rows: &[Row]) -> String {
    let mut text =
        "| pgvane | client | psql | `channel_binding=disable` | `prefer` | `require` |\n|---|---|---|---|---|---|\n"
            .to_owned();
    let mut errors = BTreeSet::new();
    for (at, row) in rows.iter().enumerate() {
        let twin = |other: &Row| (other.proxy, other.asks, other.cells) == (row.proxy, row.asks, row.cells);
        if at > 0 && twin(&rows[at - 1]) {
            continue;
        }
        let version = match (row.psql, rows.get(at + 1).is_some_and(twin)) {
            (Postgresql::Packaged, true) => "15, 18",
            (Postgresql::Packaged, false) => "15",
            (Postgresql::Eighteen, _) => "18",
        };
        let cells = row.cells.map(|cell| match cell {
            Met::Works => "works".to_owned(),
            Met::Error(number) => format!("({})", number + 1),
        });
        let (proxy, asks, cells) = (row.proxy.words(), row.asks.parameters(), cells.join(" | "));
        writeln!(text, "| {proxy} | `{asks}` | {version} | {cells} |").expect("writing to a string cannot fail");
        errors.extend(row.cells);
    }
    text.push('\n');
    for met in errors {
        if let Met::Error(number) = met {
            let (who, words) = ERRORS[number];
            writeln!(text, "{}. {who}: `{words}`", number + 1).expect("writing to a string cannot fail");
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_in_the_documentation_is_what_psql_meets_with() {
    let files = certificates();
    let lab = sound_cluster_of(Postgresql::Eighteen).await;
    let pgvanes = standing_in_between(&lab, &files).await;
    let rows = rows(&pgvanes).await;
    let table = table(&rows);
    let documentation = include_str!("../../../docs/tls.md");
    assert!(documentation.contains(&table), "docs/tls.md should have this:\n\n{table}");

    // libpq's default comes again in clear, to whoever takes it so
    let (_, encrypted) = pgvanes.iter().find(|(proxy, _)| *proxy == Proxy::ServerEncrypted).expect("is one of all");
    for psql in [Postgresql::Packaged, Postgresql::Eighteen] {
        assert_eq!(met(psql, encrypted.write_addr, "sslmode=prefer", true).await, Met::Works);
    }
    let refused = "pgvane_session_ends_total{listener=\"write\",reason=\"channel-binding\"}";
    let cells = rows.iter().filter(|row| row.proxy == Proxy::ServerEncrypted).flat_map(|row| row.cells);
    let expected = cells.filter(|cell| *cell == Met::Error(2)).count() + 2;
    assert_eq!(crate::metrics::value(encrypted, refused).await, expected as f64);
}

/// The same before a server that knows nothing of direct TLS, which matters only where that is passed through to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_server_makes_no_difference_where_tls_ends_at_pgvane() {
    let files = certificates();
    let lab = sound_cluster_of(Postgresql::Packaged).await;
    let rows = rows(&standing_in_between(&lab, &files).await).await;
    for row in &rows {
        let expected = match (row.proxy, row.asks) {
            (Proxy::Passthrough | Proxy::ClientInClear, Asks::DirectTls) => [Met::Error(4); 3],
            (Proxy::ClientInClear, Asks::Tls) => [Met::Error(3); 3],
            (_, Asks::Nothing) => [Met::Works, Met::Works, Met::Error(0)],
            (Proxy::ServerInClear, _) => [Met::Works, Met::Works, Met::Error(1)],
            (Proxy::ServerEncrypted, _) => [Met::Works, Met::Error(2), Met::Error(2)],
            (Proxy::Passthrough | Proxy::SameCertificate, _) => [Met::Works; 3],
        };
        assert_eq!(row.cells, expected, "{row:?}");
    }
}
