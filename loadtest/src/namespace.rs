//! A network namespace for a proxy, connected to this host by one veth pair. Single nodes of a lab can be made
//! unreachable from there, while the nodes still reach each other.
//!
//! The firewall rules are inside the namespace. On this host only the veth pair is added, and it is removed with the
//! namespace.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::error::Doing;
use crate::lab::Node;
use crate::name_server::ResolverFiles;
use crate::{Error, Result, programs};

/// The addresses of all namespaces: a lab's nodes have to accept them.
pub const NETWORK: &str = "10.77.0.0/24";

/// Namespaces that can exist at the same time on this host: [`NETWORK`] has this many pairs of addresses.
const NAMESPACES_MAX: u32 = 64;

/// A network namespace; on drop it is removed with everything that runs in it.
///
/// As with [`Scratch`](crate::scratch::Scratch), a shell script in a process of its own does that, even if this program
/// is killed.
#[derive(Debug)]
pub struct Namespace {
    address: NamespaceAddress,
    keeper: Child,
}

/// A namespace's name and addresses: what is needed to run something in it.
#[derive(Debug, Clone)]
pub(crate) struct NamespaceAddress {
    /// The namespace's name, and that of this host's end of the pair.
    name: String,
    /// This host, as seen from inside.
    pub(crate) outer: Ipv4Addr,
    /// The namespace, as seen from this host.
    pub(crate) inner: Ipv4Addr,
}

/// How a node becomes unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Packets get lost, both ways.
    Silent,
    /// Each packet is answered with a reset, as by a firewall or by a host that has restarted.
    Loud,
}

/// Why no namespace can be made here; `None` if one can be made.
pub fn unavailable_because() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let missing = ["ip", "iptables"].into_iter().find_map(|program| programs::on_path(program).err());
    if let Some(missing) = missing {
        return Some(missing.to_string());
    }
    // In a container, root is usually not allowed to.
    let made = Namespace::new().and_then(|namespace| namespace.iptables(&["-S"]));
    made.err().map(|error| format!("no network namespace can be made: {error}"))
}

impl Namespace {
    /// Makes one, with `lo` and the pair up.
    pub fn new() -> Result<Namespace> {
        // If several test programs run at the same time, each begins with another one.
        let addresses = (0..NAMESPACES_MAX)
            .map(|step| NamespaceAddress::numbered(std::process::id().wrapping_add(step) % NAMESPACES_MAX));
        let mut refusal = None;
        for address in addresses {
            // If two programs want the same name, one of them gets an error and tries the next.
            match run("ip", &["netns", "add", &address.name]) {
                Ok(()) => return Namespace::at(address),
                Err(error) => refusal = Some(error),
            }
        }
        Err(refusal.expect("at least one was tried"))
    }

    fn at(address: NamespaceAddress) -> Result<Namespace> {
        let keeper = start_keeper(&address.name)?;
        let namespace = Namespace { address, keeper };
        let NamespaceAddress { name, outer, inner } = &namespace.address;
        run("ip", &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        run("ip", &["address", "add", &format!("{outer}/30"), "dev", name])?;
        run("ip", &["link", "set", name, "up"])?;
        run("ip", &["-n", name, "address", "add", &format!("{inner}/30"), "dev", "eth0"])?;
        run("ip", &["-n", name, "link", "set", "eth0", "up"])?;
        run("ip", &["-n", name, "link", "set", "lo", "up"])?; // resets from our own firewall rules come back through it
        Ok(namespace)
    }

    /// Makes PostgreSQL and Patroni of `node` unreachable from inside, for existing and for new connections.
    pub fn cut_off(&self, node: &Node, cut: Cut) -> Result<()> {
        let outer = self.address.outer.to_string();
        for port in [node.pg, node.rest].map(|address| address.port().to_string()) {
            let to_node = ["-A", "OUTPUT", "-p", "tcp", "-d", &outer, "--dport", &port, "-j"];
            let from_node = ["-A", "INPUT", "-p", "tcp", "-s", &outer, "--sport", &port, "-j"];
            match cut {
                Cut::Silent => {
                    self.iptables(&[&to_node[..], &["DROP"]].concat())?;
                    self.iptables(&[&from_node[..], &["DROP"]].concat())?;
                }
                Cut::Loud => self.iptables(&[&to_node[..], &["REJECT", "--reject-with", "tcp-reset"]].concat())?,
            }
        }
        Ok(())
    }

    /// Makes every node reachable again.
    pub fn heal(&self) -> Result<()> {
        self.iptables(&["-F"])
    }

    /// This host's address in the namespace's network.
    pub fn outer(&self) -> Ipv4Addr {
        self.address.outer
    }

    /// Gives this host a second address from which it reaches the namespace: clients of their own, to limits by address.
    pub fn second_client(&self) -> Result<Ipv4Addr> {
        let NamespaceAddress { name, outer, .. } = &self.address;
        let [.., last] = outer.octets();
        let second = Ipv4Addr::new(10, 77, 1, last);
        run("ip", &["address", "add", &format!("{second}/32"), "dev", name])?;
        run("ip", &["-n", name, "route", "add", &format!("{second}/32"), "via", &outer.to_string()])?;
        Ok(second)
    }

    /// Gives the namespace an IPv6 network in which no host answers, and returns an address in it: packets to it are
    /// lost.
    pub fn black_hole(&self) -> Result<Ipv6Addr> {
        let name = &self.address.name;
        // A prefix for documentation: to getaddrinfo(3) it is a global one, and comes before IPv4.
        let (own, nobody) = ("2001:db8:77::1/64", "2001:db8:77::2");
        run("ip", &["-n", name, "-6", "address", "add", own, "dev", "eth0", "nodad"])?;
        run(
            "ip",
            &[
                "-n",
                name,
                "-6",
                "neigh",
                "add",
                nobody,
                "lladdr",
                "02:00:00:00:00:77",
                "nud",
                "permanent",
                "dev",
                "eth0",
            ],
        )?;
        Ok(nobody.parse().expect("is an address"))
    }

    pub(crate) fn address(&self) -> &NamespaceAddress {
        &self.address
    }

    fn iptables(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.address.command(&programs::on_path("iptables")?)?;
        command.arg("-w").args(arguments); // iptables in other namespaces may hold the lock
        finish(command)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        match self.keeper.wait() {
            Ok(status) if status.success() => {}
            other => eprintln!("the network namespace {} may not be removed: {other:?}", self.address.name),
        }
    }
}

impl NamespaceAddress {
    fn numbered(number: u32) -> NamespaceAddress {
        let block = u8::try_from(number * 4).expect("64 blocks of 4 addresses");
        NamespaceAddress {
            name: format!("pgvane-lab-{number}"), // an interface's name has 15 letters at the most
            outer: Ipv4Addr::new(10, 77, 0, block + 1),
            inner: Ipv4Addr::new(10, 77, 0, block + 2),
        }
    }

    /// A command that runs `program` inside, in the process that is started.
    pub(crate) fn command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(programs::on_path("ip")?);
        command.args(["netns", "exec", &self.name]).arg(program);
        Ok(command)
    }

    /// The same with other files in place of `/etc/hosts` and `/etc/resolv.conf`, for this program alone: `ip netns exec`
    /// has given it a mount namespace of its own.
    pub(crate) fn command_with(&self, program: &Path, files: &ResolverFiles) -> Result<Command> {
        let mut command = Command::new(programs::on_path("ip")?);
        command.args(["netns", "exec", &self.name]);
        files.put_before(program, &mut command);
        Ok(command)
    }

    /// A server of this host, as seen from inside.
    pub(crate) fn seen_from_inside(&self, server: SocketAddr) -> SocketAddr {
        (self.outer, server.port()).into()
    }
}

fn start_keeper(name: &str) -> Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", include_str!("namespace_keeper.sh"), "pgvane-namespace-keeper", name])
        .current_dir("/")
        .process_group(0) // so that Ctrl-C at the terminal does not reach the keeper
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .doing(|| "starting /bin/sh".to_owned())
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(programs::on_path(program)?);
    command.args(arguments);
    finish(command)
}

fn finish(mut command: Command) -> Result<()> {
    let output = command.output().doing(|| format!("running {command:?}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Command {
            command: format!("{command:?}"),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn each_namespace_has_its_own_addresses_and_a_name_that_an_interface_can_have() {
        let all: Vec<NamespaceAddress> = (0..NAMESPACES_MAX).map(NamespaceAddress::numbered).collect();
        let mut addresses: Vec<Ipv4Addr> = all.iter().flat_map(|address| [address.outer, address.inner]).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 128);
        assert!(all.iter().all(|address| address.name.len() <= 15));
    }

    /// Ends within a deadline and not by itself.
    fn is_killed(mut process: Child) -> bool {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Some(status) = process.try_wait().expect("our child") {
                return !status.success();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = process.kill();
        let _ = process.wait();
        false
    }

    // The only test here that makes namespaces: their names are given out again as soon as they are free.
    #[test]
    fn processes_in_it_end_with_it_and_nothing_is_left() {
        if unavailable_because().is_some() {
            return;
        }
        for delay in 0..20 {
            let namespace = Namespace::new().expect("namespaces can be made");
            let address = namespace.address().clone();
            // the other end of the pair is here: something can listen on this host's address
            drop(TcpListener::bind((address.outer, 0)).expect("this host has the address"));
            let mut command = address.command(Path::new("sleep")).expect("namespaces can be made");
            let entering = std::thread::spawn(move || command.arg("600").spawn().expect("sleep exists"));
            std::thread::sleep(Duration::from_millis(delay)); // while it enters: another moment each time
            drop(namespace);
            assert!(is_killed(entering.join().expect("no panic")), "begun {delay} ms before the end");
            assert!(!Path::new("/run/netns").join(&address.name).exists());
            assert!(!Path::new("/sys/class/net").join(&address.name).exists());
        }
    }
}
