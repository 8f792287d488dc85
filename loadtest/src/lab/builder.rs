//! How a lab is described and started.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use super::{Lab, Node, Setting, certificate, files};
use crate::error::Doing;
use crate::login::Login;
use crate::process::Account;
use crate::programs::{Patroni, Postgresql};
use crate::scratch::Scratch;
use crate::{Error, Result, ports, programs};

/// Making a first node takes about 5 s, most of it `initdb`; on a busy machine it takes several times as long.
const FIRST_LEADER_WITHIN: Duration = Duration::from_secs(60);
/// Copies from the first node, all at once.
const REPLICAS_WITHIN: Duration = Duration::from_secs(90);

/// Fixed ports for a lab that people use: PostgreSQL, REST API (each plus the node's number), etcd's two.
const DEMO_PG: u16 = 15430;
const DEMO_REST: u16 = 18000;
const DEMO_ETCD: [u16; 2] = [12379, 12380];

/// The description of a cluster; [`LabBuilder::start`] makes it.
#[derive(Debug, Clone)]
pub struct LabBuilder {
    pub(super) nodes: usize,
    pub(super) scope: String,
    pub(super) synchronous_mode: bool,
    postgresql: Postgresql,
    patroni: Patroni,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) tls: bool,
    pub(super) hba: Vec<String>,
    pub(super) tags: Vec<(usize, String, String)>,
    pub(super) visitors: Option<String>,
    demo_ports: bool,
}

impl Default for LabBuilder {
    fn default() -> Self {
        Self {
            nodes: 3,
            scope: "lab".to_owned(),
            synchronous_mode: false,
            postgresql: Postgresql::Packaged,
            patroni: Patroni::Newest,
            parameters: files::default_parameters(),
            tls: false,
            hba: Vec::new(),
            tags: Vec::new(),
            visitors: None,
            demo_ports: false,
        }
    }
}

impl LabBuilder {
    /// Number of nodes.
    pub fn nodes(mut self, count: usize) -> Self {
        self.nodes = count;
        self
    }

    /// The nodes' PostgreSQL; Debian's by default.
    pub fn postgresql(mut self, postgresql: Postgresql) -> Self {
        self.postgresql = postgresql;
        self
    }

    /// The nodes' Patroni; the newest by default.
    pub fn patroni(mut self, patroni: Patroni) -> Self {
        self.patroni = patroni;
        self
    }

    /// The versions of PostgreSQL and Patroni, as these state them.
    pub fn versions(&self) -> Result<[String; 2]> {
        let postgres = programs::version_of(&self.postgresql.program("postgres")?)?;
        Ok([postgres, programs::version_of(&self.patroni.program("patroni")?)?])
    }

    /// The cluster's name in Patroni.
    pub fn scope(mut self, scope: &str) -> Self {
        scope.clone_into(&mut self.scope);
        self
    }

    /// Patroni's synchronous mode.
    pub fn synchronous_mode(mut self, on: bool) -> Self {
        self.synchronous_mode = on;
        self
    }

    /// A parameter of PostgreSQL on every node, with a value that needs no quotes; replaces the lab's own.
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Lets every node take encrypted connections too, with a certificate of its own that nobody else has signed.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// A line of `pg_hba.conf` that goes before the lab's own.
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// A Patroni tag of one node: `nofailover`, `noloadbalance`, `nosync`, or any other.
    pub fn tag(mut self, node: usize, name: &str, value: &str) -> Self {
        self.tags.push((node, name.to_owned(), value.to_owned()));
        self
    }

    /// Lets PostgreSQL and the REST API be reached from another network, such as
    /// [`namespace::NETWORK`](crate::namespace::NETWORK), too. They then listen on all addresses, PostgreSQL lets in
    /// nobody else for that, and the REST API takes orders from loopback alone. What Patroni announces stays loopback.
    pub fn reachable_from(mut self, network: &str) -> Self {
        self.visitors = Some(network.to_owned());
        self
    }

    /// Fixed ports: PostgreSQL 15431…, REST API 18001…, etcd 12379.
    pub fn demo_ports(mut self) -> Self {
        self.demo_ports = true;
        self
    }

    /// Starts the cluster and returns once it has a leader, its accounts, and all replicas streaming.
    pub async fn start(self) -> Result<Lab> {
        let lab = self.prepare()?;
        lab.start_dcs().await?;
        // The first node alone: the others then copy it at once, and do not wait for the leader race.
        lab.start_node(0)?;
        lab.wait_for_leader(FIRST_LEADER_WITHIN).await?;
        lab.create_accounts().await?;
        for node in 1..lab.nodes.len() {
            lab.start_node(node)?;
        }
        lab.wait_until_all_streaming(REPLICAS_WITHIN).await?;
        Ok(lab)
    }

    /// Everything on disk, nothing running.
    fn prepare(&self) -> Result<Lab> {
        let setting = self.setting()?;
        let addresses = (0..self.nodes).map(|node| self.node_ports(node)).collect::<Result<Vec<_>>>()?;
        let scratch = Scratch::new()?;
        setting.account.make_directory(scratch.directory())?;
        setting.account.make_directory(&scratch.directory().join("etcd"))?;
        let mut nodes = Vec::with_capacity(self.nodes);
        for (index, (pg, rest)) in addresses.into_iter().enumerate() {
            let name = format!("node{}", index + 1);
            let node = Node { directory: scratch.directory().join(&name), name, pg, rest };
            setting.account.make_directory(&node.directory)?;
            setting.account.make_directory(&node.directory.join("run"))?;
            if self.tls {
                certificate::make(setting.account, certificate::Key::Ecdsa, &node.name, &node.directory)?;
            }
            let file = node.patroni_config();
            fs::write(&file, files::patroni_config(self, &setting, index, &node))
                .doing(|| format!("writing {}", file.display()))?;
            nodes.push(node);
        }
        let patronis = nodes.iter().map(|_| Mutex::new(None)).collect();
        Ok(Lab { patronis, etcd: Mutex::new(None), nodes, setting, scratch })
    }

    fn setting(&self) -> Result<Setting> {
        let [etcd_client, etcd_peer] = match self.demo_ports {
            true => [ports::fixed(DEMO_ETCD[0])?, ports::fixed(DEMO_ETCD[1])?],
            false => [ports::free()?, ports::free()?],
        };
        Ok(Setting {
            account: Account::for_servers()?,
            etcd_program: programs::on_path("etcd")?,
            patroni: self.patroni.program("patroni")?,
            patronictl: self.patroni.program("patronictl")?,
            postgresql_bin: self.postgresql.bin()?,
            etcd_client,
            etcd_peer,
        })
    }

    fn node_ports(&self, node: usize) -> Result<(SocketAddr, SocketAddr)> {
        if !self.demo_ports {
            return Ok((ports::free()?, ports::free()?));
        }
        let number = u16::try_from(node + 1).map_err(|_too_many| Error::NoFreePort)?;
        Ok((ports::fixed(DEMO_PG + number)?, ports::fixed(DEMO_REST + number)?))
    }
}

impl Lab {
    /// The roles of [`Login`], and the database they use.
    async fn create_accounts(&self) -> Result<()> {
        let client = self.connect_direct(0).await?;
        let statements = [
            format!("create role {} login password '{}'", Login::App.user(), Login::App.password().unwrap_or_default()),
            format!("create role {} login", Login::Trusting.user()),
            format!("create database {} owner {}", Login::App.database(), Login::App.user()),
        ];
        for statement in statements {
            let done = client.batch_execute(&statement).await;
            done.map_err(|source| Error::Postgres { doing: statement, source })?;
        }
        Ok(())
    }
}
