//! A cluster of fakes, for faults that a real one does not produce on demand.

use std::ops::Index;

use pgvane_loadtest::fake::{FakePatroni, FakePostgres};
use pgvane_loadtest::lab::Node;
use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};
use pgvane_loadtest::scratch::Scratch;
use serde_json::{Value, json};

use crate::binary;
use crate::metrics;
use crate::wire::SOON;

/// A cluster of fakes, and the directory in which a pgvane before it keeps its files.
pub struct FakeCluster {
    nodes: Vec<FakeNode>,
    scratch: Scratch,
    check_settings: &'static [&'static str],
}

/// So that a test need not wait a second for each check.
const QUICK_CHECKS: &[&str] = &["interval = \"200ms\"", "fast_interval = \"50ms\"", "timeout = \"500ms\""];

/// So that every check has a reason.
const RARE_CHECKS: &[&str] = &["interval = \"1h\"", "fast_interval = \"1h\"", "leader_grace = \"3h\""];

/// A node: what its Patroni says and what its PostgreSQL does need not fit together.
pub struct FakeNode {
    pub name: String,
    pub patroni: FakePatroni,
    pub postgres: FakePostgres,
}

impl FakeNode {
    /// A replica of timeline 1.
    pub async fn replica(name: &str) -> FakeNode {
        let (patroni, postgres) = (FakePatroni::start(name).await, FakePostgres::start(name).await);
        postgres.is_in_recovery(true);
        FakeNode { name: name.to_owned(), patroni, postgres }
    }

    /// It is the leader of this timeline from now on.
    pub fn leads(&self, timeline: u32) {
        self.postgres.is_in_recovery(false);
        self.patroni.leads(timeline);
    }

    /// It is a replica from now on.
    pub fn follows(&self) {
        self.patroni.follows();
        self.postgres.is_in_recovery(true);
    }

    /// It as a member in the answer to `GET /cluster`.
    pub fn as_member(&self) -> Value {
        let (postgres, patroni) = (self.postgres.address(), self.patroni.address());
        json!({"name": self.name, "host": postgres.ip(), "port": postgres.port(), "state": "running",
            "api_url": format!("http://{patroni}/patroni")})
    }
}

impl FakeCluster {
    /// So many nodes: `node1` leads, the others follow.
    pub async fn of(count: usize) -> FakeCluster {
        let mut nodes = Vec::with_capacity(count);
        for number in 1..=count {
            let node = FakeNode::replica(&format!("node{number}")).await;
            if number == 1 {
                node.leads(1);
            }
            nodes.push(node);
        }
        FakeCluster { nodes, scratch: Scratch::new().expect("a directory"), check_settings: QUICK_CHECKS }
    }

    /// pgvane will check each node once, and then only if it is given a reason to.
    pub fn rarely_checked(mut self) -> FakeCluster {
        self.check_settings = RARE_CHECKS;
        self
    }

    /// The nodes as pgvane's configuration names them.
    pub fn addresses(&self) -> Vec<Node> {
        let address = |node: &FakeNode| Node::elsewhere(&node.name, node.postgres.address(), node.patroni.address());
        self.nodes.iter().map(address).collect()
    }

    /// A node's PostgreSQL, to open or close its port.
    pub fn postgres_of(&mut self, node: usize) -> &mut FakePostgres {
        &mut self.nodes[node].postgres
    }

    pub fn directory(&self) -> &std::path::Path {
        self.scratch.directory()
    }

    /// A pgvane that may not be ready yet.
    pub fn spawn_pgvane(&self, configured: impl FnOnce(PgvaneBuilder) -> PgvaneBuilder) -> Pgvane {
        let builder = Pgvane::builder(&binary::pgvane(), &self.addresses());
        let builder = self.check_settings.iter().fold(builder, |builder, line| builder.cluster(line));
        configured(builder).spawn(self.directory()).expect("pgvane's files can be written")
    }

    /// A pgvane that has heard every node's Patroni.
    pub async fn pgvane(&self, configured: impl FnOnce(PgvaneBuilder) -> PgvaneBuilder) -> Pgvane {
        let pgvane = self.spawn_pgvane(configured).wait_until_ready(SOON).await;
        let pgvane = pgvane.unwrap_or_else(|error| panic!("pgvane does not get ready: {error}"));
        for node in &self.nodes {
            metrics::wait_for(&pgvane, &format!("pgvane_node_up{{cluster=\"main\",node=\"{}\"}}", node.name), 1.0)
                .await;
        }
        pgvane
    }

    /// `node` takes the lead over, as Patroni would do it: the old leader steps down first.
    pub fn switch_over(&self, from: usize, to: usize) {
        self[from].follows();
        self[to].leads(2);
    }
}

impl Index<usize> for FakeCluster {
    type Output = FakeNode;

    fn index(&self, node: usize) -> &FakeNode {
        &self.nodes[node]
    }
}
