//! `pgvane import`, side by side: each sample is started as HAProxy's configuration and as what the import makes of it,
//! before the same nodes, and both must send clients to the same nodes, whatever the nodes are just then.
//!
//! What Patroni answers is said by Patroni's own code (`nodes.py`). [`world`] says which nodes a listener is for; both
//! proxies are held against that, so that a fault of one is not excused by the same fault of the other. Where they are
//! known to differ, [`TOLD`] says how, and the report of the import must say it too.

mod files;
mod nodes;
mod visits;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgvane_loadtest::name_server::{NameServer, ResolverFiles};
use pgvane_loadtest::process::Process;
use pgvane_loadtest::scratch::Scratch;
use pgvane_loadtest::{namespace, programs, wait};

use self::files::Addresses;
use self::nodes::Nodes;
use self::visits::Client;
use self::world::{Listener, Scenario, World};
use crate::binary;
use crate::wire::SOON;

/// Where HAProxy and pgvane send clients to different nodes, and what the report says about it.
const TOLD: [Told; 5] = [
    Told {
        sample: "05-sync-async-lag",
        listener: "sync_only",
        scenario: Scenario::Quorum,
        only_by: Proxy::Pgvane,
        report: "quorum",
    },
    Told {
        sample: "05-sync-async-lag",
        listener: "leader",
        scenario: Scenario::StandbyCluster,
        only_by: Proxy::Haproxy,
        report: "standby cluster",
    },
    Told {
        sample: "06-http-check-chain",
        listener: "anywhere",
        scenario: Scenario::NoLoadBalance,
        only_by: Proxy::Haproxy,
        report: "noloadbalance",
    },
    Told {
        sample: "07-tcp-check-http-env-quotes",
        listener: "any",
        scenario: Scenario::NoLoadBalance,
        only_by: Proxy::Haproxy,
        report: "noloadbalance",
    },
    Told {
        sample: "07-tcp-check-http-env-quotes",
        listener: "write",
        scenario: Scenario::StandbyCluster,
        only_by: Proxy::Haproxy,
        report: "standby cluster",
    },
];

/// A node that only one of the two sends clients to.
struct Told {
    sample: &'static str,
    listener: &'static str,
    scenario: Scenario,
    only_by: Proxy,
    /// A part of the line in the import's report.
    report: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proxy {
    Haproxy,
    Pgvane,
}

macro_rules! side_by_side {
    ($($test:ident: $number:literal $sample:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            route_the_same($number, $sample).await;
        })*
    };
}

side_by_side! {
    the_listen_pair_of_patronis_template_routes_as_before: 1 "01-listen-pair";
    frontends_backends_and_names_from_dns_route_as_before: 2 "02-frontend-backend-resolvers";
    two_clusters_with_backups_route_as_before: 3 "03-two-clusters-master-backup";
    a_bare_httpchk_with_two_nodes_on_one_host_routes_as_before: 4 "04-bare-httpchk-crlf";
    a_port_for_each_standing_routes_as_before: 5 "05-sync-async-lag";
    chains_of_http_checks_route_as_before: 6 "06-http-check-chain";
    http_by_hand_with_variables_and_quotes_routes_as_before: 7 "07-tcp-check-http-env-quotes";
    checks_with_a_client_certificate_route_as_before: 8 "08-check-ssl-client-cert";
    checks_without_verification_route_as_before: 9 "09-check-ssl-verify-none";
    poolers_beside_postgresql_route_as_before: 10 "10-pooler-and-direct";
    questions_to_postgresql_route_as_before: 11 "11-sql-in-tcp-check";
    limits_and_access_lists_route_as_before: 12 "12-limits-acl";
    inherited_defaults_route_as_before: 13 "13-debian-defaults-twice";
}

/// Both proxies of a sample, their nodes, and what the import said.
struct Stage {
    sample: &'static str,
    addresses: Addresses,
    listeners: Vec<Listener>,
    report: String,
    haproxy: Process,
    pgvane: Process,
    nodes: Nodes,
    _names: Option<NameServer>,
    _scratch: Scratch,
}

async fn route_the_same(number: u8, sample: &'static str) {
    let Some(mut stage) = Stage::set(number, sample).await else { return };
    for scenario in Scenario::ALL {
        let world = World::new(scenario, stage.nodes.members());
        stage.nodes.become_as(&world).await;
        for listener in 0..stage.listeners.len() {
            stage.both_send_clients_as_they_should(&world, listener).await;
        }
    }
    stage.strangers_are_turned_away().await;
    for told in TOLD.iter().filter(|told| told.sample == sample) {
        assert!(stage.report.contains(told.report), "{:?} is not told:\n{}", told.report, stage.report);
    }
}

impl Stage {
    async fn set(number: u8, sample: &'static str) -> Option<Stage> {
        let scratch = Scratch::new().expect("a directory");
        let directory = scratch.directory().to_owned();
        let text =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/import/samples/{sample}.cfg")))
                .expect("the sample is there");
        let addresses = Addresses::numbered(number);
        let has_names = text.contains("resolvers");
        if has_names && let Some(reason) = namespace::unavailable_because() {
            eprintln!("not tested here, because names of our own need root: {reason}");
            return None;
        }
        let haproxy_cfg = directory.join(format!("{sample}.cfg"));
        fs::write(&haproxy_cfg, addresses.in_haproxys_file(&text, &directory)).expect("is written");
        files::certificates(&directory, &addresses);
        let import = Command::new(binary::pgvane())
            .arg("import")
            .arg(&haproxy_cfg)
            .current_dir(&directory)
            .output()
            .expect("pgvane starts");
        let report = String::from_utf8_lossy(&import.stderr).into_owned();
        assert!(import.status.success(), "{sample} is not imported:\n{report}");
        let toml = addresses.in_pgvanes_file(&String::from_utf8(import.stdout).expect("is text"));
        let pgvane_toml = directory.join(format!("{sample}.toml"));
        fs::write(&pgvane_toml, &toml).expect("is written");

        let table: toml::Table = toml.parse().expect("what the import writes is TOML");
        let mut nodes = Nodes::of(&table, &addresses, &directory).await;
        nodes.become_as(&World::new(Scenario::Calm, nodes.members())).await;
        let names = if has_names { Some(addresses.name_server(nodes.members()).await) } else { None };
        let resolver = names.as_ref().map(|names| names.files(&directory).expect("files"));
        Some(Stage {
            sample,
            listeners: world::listeners(&table),
            report,
            haproxy: start_haproxy(&haproxy_cfg, &directory),
            pgvane: start_pgvane(&pgvane_toml, &directory, resolver.as_ref()),
            addresses,
            nodes,
            _names: names,
            _scratch: scratch,
        })
    }

    async fn both_send_clients_as_they_should(&mut self, world: &World, listener: usize) {
        let listener = &self.listeners[listener];
        let told = TOLD.iter().find(|told| {
            (told.sample, told.listener, told.scenario) == (self.sample, listener.name.as_str(), world.scenario)
        });
        for proxy in [Proxy::Haproxy, Proxy::Pgvane] {
            let mut expected = listener.serves(world);
            if let Some(told) = told {
                let also = listener.differs(world);
                assert!(!also.is_empty() && expected.is_disjoint(&also), "nothing to tell: {also:?}");
                if told.only_by == proxy {
                    expected.extend(also);
                }
            }
            for bind in &listener.binds {
                let bind = self.addresses.of(proxy, *bind);
                let client = Client { from: self.addresses.client(), to: bind };
                let what = format!("{proxy:?} with {} at {}, {:?}", self.sample, listener.name, world.scenario);
                let seen = wait::until(&what, SOON, async || client.is_served_by_exactly(&expected).await).await;
                if let Err(error) = seen {
                    let process = if proxy == Proxy::Haproxy { &mut self.haproxy } else { &mut self.pgvane };
                    panic!("{error}\n{:?}\n{}", process.still_runs(), process.log_text());
                }
            }
        }
    }

    /// A client from another network than those that are allowed, where the file has a list of them.
    async fn strangers_are_turned_away(&mut self) {
        let world = World::new(Scenario::Calm, self.nodes.members());
        self.nodes.become_as(&world).await;
        for listener in 0..self.listeners.len() {
            self.both_send_clients_as_they_should(&world, listener).await;
            let Listener { name, binds, has_allow, .. } = &self.listeners[listener];
            for proxy in [Proxy::Haproxy, Proxy::Pgvane] {
                let to = self.addresses.of(proxy, binds[0]);
                let answer = Client { from: self.addresses.stranger(), to }.visit().await;
                assert_eq!(answer.is_none(), *has_allow, "{proxy:?}, {name}: {answer:?}");
            }
        }
    }
}

fn start_haproxy(file: &Path, directory: &Path) -> Process {
    let mut command = Command::new(programs::on_path("haproxy").expect("HAProxy is installed"));
    command.arg("-db").arg("-f").arg(file);
    Process::start("haproxy", command, directory, &directory.join("haproxy.log")).expect("HAProxy starts")
}

fn start_pgvane(file: &Path, directory: &Path, resolver: Option<&ResolverFiles>) -> Process {
    let program: PathBuf = binary::pgvane();
    let mut command = match resolver {
        Some(files) => files.command(&program).expect("root may"),
        None => Command::new(program),
    };
    command.args(["run", "--config"]).arg(file);
    Process::start("pgvane", command, directory, &directory.join("pgvane.log")).expect("pgvane starts")
}
