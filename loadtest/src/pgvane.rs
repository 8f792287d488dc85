//! pgvane in front of a lab's nodes: its binary, started with a configuration file for the test.

mod upgrading;

use std::fmt::Write;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::error::Doing;
use crate::lab::Node;
use crate::name_server::ResolverFiles;
use crate::namespace::{Namespace, NamespaceAddress};
use crate::process::{Process, read_log_from};
use crate::{Result, http, ports, programs, wait};

pub use upgrading::Processes;

/// It asks every node once when it starts, and is ready as soon as it knows a leader.
const READY_WITHIN: Duration = Duration::from_secs(15);

/// A running pgvane; killed when it is dropped.
#[derive(Debug)]
pub struct Pgvane {
    /// Where writes go.
    pub write_addr: SocketAddr,
    /// Where reads go.
    pub read_addr: SocketAddr,
    /// Stats page, admin API and metrics.
    pub admin_addr: SocketAddr,
    config: PathBuf,
    process: Process,
}

/// How pgvane is to be started; [`PgvaneBuilder::start`] does it.
#[derive(Debug, Clone)]
pub struct PgvaneBuilder {
    binary: PathBuf,
    nodes: Vec<Node>,
    fixed_ports: Option<[u16; 3]>,
    namespace: Option<NamespaceAddress>,
    names: Option<(String, ResolverFiles)>,
    top_lines: String,
    admin_lines: String,
    cluster_lines: String,
    node_lines: Vec<(String, String)>,
    write_lines: String,
    read_lines: String,
    more: String,
    environment: Vec<(String, String)>,
    error_output: Option<Arc<File>>,
    descriptors_max: Option<u32>,
    link: Option<PathBuf>,
}

impl Pgvane {
    /// A pgvane from `binary` in front of `nodes`, on free ports.
    pub fn builder(binary: &Path, nodes: &[Node]) -> PgvaneBuilder {
        PgvaneBuilder {
            binary: binary.to_owned(),
            nodes: nodes.to_vec(),
            fixed_ports: None,
            namespace: None,
            names: None,
            top_lines: String::new(),
            admin_lines: String::new(),
            cluster_lines: String::new(),
            node_lines: Vec::new(),
            write_lines: String::new(),
            read_lines: String::new(),
            more: String::new(),
            environment: Vec::new(),
            error_output: None,
            descriptors_max: None,
            link: None,
        }
    }

    /// Its configuration file.
    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// What it has logged so far.
    pub fn log_text(&self) -> String {
        self.process.log_text()
    }

    /// What it has logged after the first `from` bytes.
    pub fn log_from(&self, from: usize) -> String {
        read_log_from(self.process.log_path(), from)
    }

    /// How many bytes it has logged so far.
    pub fn log_length(&self) -> usize {
        let length = fs::metadata(self.process.log_path()).map(|file| file.len());
        length.ok().and_then(|length| usize::try_from(length).ok()).unwrap_or_default()
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        self.process.log_path()
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// GET on its admin port.
    pub async fn admin_get(&self, path: &str) -> Result<http::Answer> {
        let answer = http::get(self.admin_addr, path, Duration::from_secs(5)).await;
        answer.doing(|| format!("asking pgvane for {path}"))
    }

    /// Waits until `/readyz` answers 200: ports open, and a first good answer from the cluster.
    pub async fn wait_until_ready(mut self, within: Duration) -> Result<Self> {
        let admin = self.admin_addr;
        let ready = wait::until("a ready pgvane", within, || {
            let runs = self.process.still_runs();
            async move {
                match runs {
                    Ok(()) => readiness(admin).await.map(Ok),
                    Err(ended) => Ok(Err(ended)), // waiting longer cannot help
                }
            }
        });
        match ready.await {
            Ok(ready) => ready.map(|()| self),
            Err(error) => Err(error.with_log(&self.log_text())),
        }
    }

    /// Sends SIGHUP to the process that accepts connections now.
    pub fn reload(&self) -> Result<()> {
        self.signal_newest(Signal::HUP)
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Stops it where it is, as a suspended virtual machine does. Returns once no thread of it runs: the signal stops one
    /// thread, and that one stops the others.
    pub async fn suspend(&self) -> Result<()> {
        self.process.signal(Signal::STOP)?;
        let tasks = format!("/proc/{}/task", self.process_id());
        wait::until("pgvane's threads to be stopped", Duration::from_secs(10), async || {
            match runs_one_of(Path::new(&tasks)) {
                Ok(false) => Ok(()),
                Ok(true) => Err("a thread that runs".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Waits for its end.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        self.process.wait(within).await
    }

    /// Waits until its log contains `text`, which must not have been there in the first `from` bytes.
    pub async fn wait_for_log(&self, text: &str, from: usize, within: Duration) -> Result<()> {
        wait::until(&format!("{text:?} in pgvane's log"), within, || async {
            let new = self.log_from(from);
            if new.contains(text) { Ok(()) } else { Err(crate::error::last_lines(&new)) }
        })
        .await
    }
}

impl PgvaneBuilder {
    /// Fixed loopback ports for writes, reads and admin.
    pub fn ports(mut self, write: u16, read: u16, admin: u16) -> Self {
        self.fixed_ports = Some([write, read, admin]);
        self
    }

    /// Runs it inside `namespace`, with its ports there. The nodes must listen on this host's address in that network,
    /// see [`LabBuilder::reachable_from`](crate::lab::LabBuilder::reachable_from).
    pub fn in_namespace(mut self, namespace: &Namespace) -> Self {
        let address = namespace.address();
        for node in &mut self.nodes {
            (node.pg, node.rest) = (address.seen_from_inside(node.pg), address.seen_from_inside(node.rest));
        }
        self.namespace = Some(address.clone());
        self
    }

    /// Reaches the nodes by names such as `node1.DOMAIN`, which are resolved as these files say. Takes a namespace.
    pub fn by_name(mut self, domain: &str, files: &ResolverFiles) -> Self {
        self.names = Some((domain.to_owned(), files.clone()));
        self
    }

    /// How long a connection is held on both listeners while no node can serve it, such as `"30s"`.
    pub fn hold_max(self, duration: &str) -> Self {
        let line = format!("hold_max = \"{duration}\"");
        self.write_listener(&line).read_listener(&line)
    }

    /// A line of TOML for the top of the file, where the settings of the whole program are.
    pub fn top(mut self, line: &str) -> Self {
        append(&mut self.top_lines, line);
        self
    }

    /// A line of TOML for `[admin]`.
    pub fn admin(mut self, line: &str) -> Self {
        append(&mut self.admin_lines, line);
        self
    }

    /// A line of TOML for `[[cluster]]`. One that sets `name` or `check` replaces the lab's own.
    pub fn cluster(mut self, line: &str) -> Self {
        append(&mut self.cluster_lines, line);
        self
    }

    /// A line of TOML for the `[[cluster.node]]` of this name.
    pub fn node(mut self, name: &str, line: &str) -> Self {
        self.node_lines.push((name.to_owned(), line.to_owned()));
        self
    }

    /// A line of TOML for the write listener. One that sets `target` replaces the lab's own.
    pub fn write_listener(mut self, line: &str) -> Self {
        append(&mut self.write_lines, line);
        self
    }

    /// A line of TOML for the read listener. One that sets `target` or `fallback` replaces the lab's own.
    pub fn read_listener(mut self, line: &str) -> Self {
        append(&mut self.read_lines, line);
        self
    }

    /// TOML for the end of the file: further listeners, other sections.
    pub fn more(mut self, text: &str) -> Self {
        append(&mut self.more, text);
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// It is started by this link to the program, so that an upgrade starts what the link names then.
    pub fn by_link(mut self, link: &Path) -> Self {
        self.link = Some(link.to_owned());
        self
    }

    /// How many file descriptors it may have, by the hard limit too.
    pub fn descriptors_max(mut self, max: u32) -> Self {
        self.descriptors_max = Some(max);
        self
    }

    /// Where its log goes, in place of a file beside its configuration.
    pub fn log_to(mut self, file: File) -> Self {
        self.error_output = Some(Arc::new(file));
        self
    }

    /// Starts it with its files in `directory`, usually the lab's, and waits until `/readyz` answers 200.
    pub async fn start(self, directory: &Path) -> Result<Pgvane> {
        let pgvane = self.spawn(directory)?;
        pgvane.wait_until_ready(READY_WITHIN).await
    }

    /// Starts it and does not wait: for a cluster that does not run yet.
    pub fn spawn(self, directory: &Path) -> Result<Pgvane> {
        let [write_addr, read_addr, admin_addr] = match self.fixed_ports {
            Some([write, read, admin]) => [ports::fixed(write)?, ports::fixed(read)?, ports::fixed(admin)?],
            None => [ports::free()?, ports::free()?, ports::free()?],
        };
        let inside = |address: SocketAddr| match &self.namespace {
            Some(namespace) => (namespace.inner, address.port()).into(),
            None => address,
        };
        let [write_addr, read_addr, admin_addr] = [write_addr, read_addr, admin_addr].map(inside);
        let config = directory.join(format!("pgvane-{}.toml", write_addr.port()));
        let text = self.configuration(write_addr, read_addr, admin_addr);
        fs::write(&config, text).doing(|| format!("writing {}", config.display()))?;
        // The child starts in another directory; a relative path would not be found from there.
        let binary = self.binary.canonicalize().doing(|| format!("looking for {}", self.binary.display()))?;
        let binary = match self.link {
            Some(link) => {
                symlink(&binary, &link).doing(|| format!("making {}", link.display()))?;
                link
            }
            None => binary,
        };
        let limit = self.descriptors_max.map(|max| format!("--nofile={max}:{max}"));
        let program = match limit {
            Some(_) => programs::on_path("prlimit")?,
            None => binary.clone(),
        };
        let mut command = match (&self.namespace, &self.names) {
            (Some(namespace), Some((_, files))) => namespace.command_with(&program, files)?,
            (Some(namespace), None) => namespace.command(&program)?,
            (None, _) => Command::new(&program),
        };
        if let Some(limit) = limit {
            command.arg(limit).arg(&binary);
        }
        command.args(["run", "--config"]).arg(&config).envs(self.environment);
        let log = config.with_extension("log");
        let process = match self.error_output {
            None => Process::start("pgvane", command, directory, &log)?,
            Some(file) => {
                let file = file.try_clone().doing(|| "opening its log twice".to_owned())?;
                Process::start_with("pgvane", command, directory, &log, file)?
            }
        };
        Ok(Pgvane { write_addr, read_addr, admin_addr, config, process })
    }

    /// The configuration file's text.
    pub fn configuration(&self, write: SocketAddr, read: SocketAddr, admin: SocketAddr) -> String {
        let mut text = format!("{}\n[admin]\nbind = \"{admin}\"\n{}", self.top_lines, self.admin_lines);
        let cluster = with_defaults(&self.cluster_lines, &[("name", "main"), ("check", "patroni")]);
        write!(text, "\n[[cluster]]\n{cluster}").expect("writing to a string cannot fail");
        for Node { name, pg, rest, .. } in &self.nodes {
            let by_name = |address: &SocketAddr| match &self.names {
                Some((domain, _)) => format!("{name}.{domain}:{}", address.port()),
                None => address.to_string(),
            };
            let (pg, rest) = (by_name(pg), by_name(rest));
            let node =
                format!("\n[[cluster.node]]\nname = \"{name}\"\naddress = \"{pg}\"\npatroni = \"http://{rest}\"\n");
            text.push_str(&node);
            for (_, line) in self.node_lines.iter().filter(|(of, _)| of == name) {
                append(&mut text, line);
            }
        }
        let writes = with_defaults(&self.write_lines, &[("target", "leader")]);
        let reads = with_defaults(&self.read_lines, &[("target", "replica"), ("fallback", "leader")]);
        for (name, bind, lines) in [("write", write, writes), ("read", read, reads)] {
            let listener = format!("\n[[listener]]\nname = \"{name}\"\nbind = \"{bind}\"\n{lines}");
            text.push_str(&listener);
        }
        text.push('\n');
        text.push_str(&self.more);
        text
    }
}

async fn readiness(admin: SocketAddr) -> std::result::Result<(), String> {
    match http::get(admin, "/readyz", Duration::from_secs(1)).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("/readyz: {} {}", answer.status, answer.body.trim_end())),
        Err(error) => Err(format!("/readyz: {error}")),
    }
}

/// Whether one of the threads in a process's `task` directory is not stopped.
fn runs_one_of(tasks: &Path) -> std::io::Result<bool> {
    for task in fs::read_dir(tasks)? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        if !status.lines().any(|line| line.starts_with("State:\tT")) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn append(lines: &mut String, line: &str) {
    lines.push_str(line);
    lines.push('\n');
}

/// `lines` with those of the keys that they do not set themselves.
fn with_defaults(lines: &str, defaults: &[(&str, &str)]) -> String {
    let sets = |key: &str| lines.lines().any(|line| line.split('=').next().is_some_and(|left| left.trim() == key));
    let missing = defaults.iter().filter(|(key, _)| !sets(key));
    let missing: String = missing.map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
    missing + lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_test_replaces_the_default() {
        let builder = Pgvane::builder(Path::new("pgvane"), &[]).cluster("check = \"sql\"").hold_max("2s");
        let [write, read, admin] = [1, 2, 3].map(ports::loopback);
        let text = builder.configuration(write, read, admin);
        assert!(text.contains("[[cluster]]\nname = \"main\"\ncheck = \"sql\"\n"), "{text}");
        assert!(!text.contains("check = \"patroni\""), "{text}");
        assert_eq!(text.matches("hold_max = \"2s\"").count(), 2, "{text}");
    }
}
