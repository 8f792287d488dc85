//! Machines to follow a README on: each with a disk, a network address and systemd, in namespaces on this host.
//!
//! A machine's disk begins as a copy of this host's, without services and their configuration: the packages are
//! installed, and nothing is set up. The machines see each other and nobody else, so that their addresses can be those of
//! the README. A machine can be shut down, or lose its power, and be started again.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use crate::error::{Doing, last_lines};
use crate::process::Process;
use crate::scratch::Scratch;
use crate::{Error, Result, programs, wait};

/// systemd takes two seconds to start, and longer beside other machines.
const BOOT_WITHIN: Duration = Duration::from_secs(60);
/// Services may take their time to stop: PostgreSQL writes its memory to disk.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(120);

/// Why no machines can be made here; `None` if they can.
pub fn unavailable_because() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("machines in namespaces need root".to_owned());
    }
    if !Path::new("/lib/systemd/systemd").exists() {
        return Some("systemd is not installed".to_owned());
    }
    let missing = ["ip", "unshare", "nsenter"].into_iter().find_map(|program| programs::on_path(program).err());
    missing.map(|missing| missing.to_string()).or_else(|| {
        let switch = Switch::new().err()?;
        Some(format!("no network namespace can be made: {switch}"))
    })
}

/// The network that connects machines.
///
/// Removed when it is dropped; drop the machines first. If this program is killed, a process of its own removes it.
#[derive(Debug)]
pub struct Switch {
    name: String,
    keeper: Child,
    scratch: Scratch,
}

impl Switch {
    /// A network of its own, without a way out.
    pub fn new() -> Result<Switch> {
        let scratch = Scratch::new()?;
        // The scratch directory's name is unique on this host.
        let name = scratch.directory().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let script = "ip netns add \"$1\" && ip -n \"$1\" link add switch type bridge && ip -n \"$1\" link set switch up \
                      && echo prepared; cat >/dev/null; ip netns delete \"$1\"";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "pgvane-switch-keeper", &name]);
        let mut keeper = start_keeper(command)?;
        wait_until_prepared(&mut keeper, "a switch")?;
        Ok(Switch { name, keeper, scratch })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ended = self.keeper.wait();
    }
}

/// A machine. Dropping it takes its power away and removes its disk.
#[derive(Debug)]
pub struct Machine {
    name: String,
    directory: PathBuf,
    orders: Mutex<Option<ChildStdin>>,
    keeper: Child,
}

impl Machine {
    /// A machine with this host name and this IPv4 address, in a network of 256 addresses. It is off.
    pub fn new(switch: &Switch, name: &str, address: &str) -> Result<Machine> {
        let directory = switch.scratch.directory().join(name);
        fs::create_dir(&directory).doing(|| format!("making {}", directory.display()))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "/bin/sh", "-c", include_str!("machine_keeper.sh"), "pgvane-machine-keeper"]);
        command.args([name, address, &switch.name]).arg(&directory);
        command.env("machine_boot", include_str!("machine_boot.sh"));
        let mut keeper = start_keeper(command)?;
        wait_until_prepared(&mut keeper, name)?;
        let orders = Mutex::new(keeper.stdin.take());
        Ok(Machine { name: name.to_owned(), directory, orders, keeper })
    }

    /// Starts it, and waits until systemd has started what is enabled.
    pub async fn boot(&self) -> Result<()> {
        self.order("boot")?;
        let waited_for = format!("{} to start", self.name);
        let booted = wait::until(&waited_for, BOOT_WITHIN, || async {
            let state = self.output("systemctl is-system-running").map_err(|error| error.to_string())?;
            if ["running", "degraded"].contains(&state.trim()) { Ok(()) } else { Err(state) }
        });
        booted.await.map_err(|error| error.with_log(&self.console()))
    }

    /// Shuts it down, as `systemctl poweroff` does, and waits until it is off.
    pub async fn shut_down(&self) -> Result<()> {
        self.run("systemctl poweroff")?;
        self.wait_until_off().await
    }

    /// Takes its power away: it says no word more to anybody.
    pub async fn cut_power(&self) -> Result<()> {
        self.order("cut")?;
        self.wait_until_off().await
    }

    async fn wait_until_off(&self) -> Result<()> {
        wait::until(&format!("{} to be off", self.name), SHUTDOWN_WITHIN, || async {
            if self.init().is_none() { Ok(()) } else { Err("it runs".to_owned()) }
        })
        .await
    }

    /// Runs a shell script on it as root in `/root`, and returns what it printed. It is an error if the script fails.
    pub fn run(&self, script: &str) -> Result<String> {
        let mut command = self.shell(script);
        let output = command.stdin(Stdio::null()).output().doing(|| format!("running {script:?} on {}", self.name))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(printed),
            false => Err(Error::Command {
                command: format!("on {}: {script}", self.name),
                output: last_lines(&format!("{printed}{}", String::from_utf8_lossy(&output.stderr))),
            }),
        }
    }

    /// What a script printed, whether it failed or not.
    pub fn output(&self, script: &str) -> Result<String> {
        self.run(&format!("( {script}\n) || true"))
    }

    /// Starts a shell script that goes on by itself, with its output in a file of this host.
    pub fn start(&self, name: &str, script: &str) -> Result<Process> {
        let log = self.directory.join(format!("{name}.log"));
        Process::start(name, self.shell(script), Path::new("/"), &log)
    }

    /// Copies a file or a directory of this host to `/root` of the machine.
    pub fn copy(&self, from: &Path) -> Result<()> {
        let init = self.init().unwrap_or_default();
        let mut command = Command::new("cp");
        command.arg("-r").arg("--").arg(from).arg(format!("/proc/{init}/root/root/"));
        let output = command.output().doing(|| format!("copying {}", from.display()))?;
        let printed = || String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.success() {
            true => Ok(()),
            false => Err(Error::Command { command: format!("{command:?}"), output: printed() }),
        }
    }

    /// What systemd and the kernel's stand-in have printed since the first start.
    pub fn console(&self) -> String {
        crate::process::read_log(&self.directory.join("console"))
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn shell(&self, script: &str) -> Command {
        // Without the machine nothing may run: process id 0 does not exist.
        let init = self.init().unwrap_or_else(|| "0".to_owned());
        let mut command = Command::new("nsenter");
        command.args(["--target", &init, "--mount", "--uts", "--net", "--pid", "--cgroup", "--root", "--wd"]);
        command.args(["/usr/bin/env", "-i", "HOME=/root", "LC_ALL=C.UTF-8"]);
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(["/bin/bash", "-ec", &format!("cd /root; {script}")]);
        command
    }

    /// The process id of its systemd on this host.
    fn init(&self) -> Option<String> {
        let id = fs::read_to_string(self.directory.join("init")).ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    }

    fn order(&self, order: &str) -> Result<()> {
        let mut orders = self.orders.lock().expect("nobody panics with it");
        let orders = orders.as_mut().expect("is there until the machine is dropped");
        writeln!(orders, "{order}").doing(|| format!("telling {} to {order}", self.name))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.orders.lock().expect("nobody panics with it").take());
        let _ended = self.keeper.wait();
    }
}

fn start_keeper(mut command: Command) -> Result<Child> {
    command.current_dir("/").process_group(0); // so that Ctrl-C at the terminal does not reach the keeper
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().doing(|| "starting /bin/sh".to_owned())
}

fn wait_until_prepared(keeper: &mut Child, what: &str) -> Result<()> {
    let output = keeper.stdout.take().expect("is a pipe");
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).doing(|| format!("preparing {what}"))?;
    match line.trim() {
        "prepared" => Ok(()),
        _ => Err(Error::Command { command: format!("prepare {what}"), output: "see standard error".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[ignore = "starts systemd twice"]
    async fn a_machine_keeps_its_disk_and_loses_its_processes_when_the_power_is_cut() {
        if unavailable_because().is_some() {
            return;
        }
        let switch = Switch::new().expect("a network");
        let [one, other] = [("one", "10.0.0.1"), ("other", "10.0.0.2")]
            .map(|(name, address)| Machine::new(&switch, name, address).unwrap_or_else(|error| panic!("{error}")));
        one.boot().await.unwrap_or_else(|error| panic!("{error}"));
        other.boot().await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(one.run("hostname").expect("runs"), "one\n");
        one.run(
            "echo kept >file; systemd-run --quiet --unit=server --working-directory=/root python3 -m http.server 80",
        )
        .expect("runs");
        let asked = "curl --silent --fail --max-time 2 --retry 20 --retry-connrefused http://10.0.0.1/file";
        assert_eq!(other.run(asked).expect("they see each other"), "kept\n");

        one.cut_power().await.expect("is off");
        assert!(other.run("curl --silent --max-time 1 http://10.0.0.1/").is_err(), "it is off");
        one.boot().await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(one.run("cat file").expect("runs"), "kept\n");
        other.shut_down().await.expect("is off");
        assert!(other.run("true").is_err(), "it is off");
        let name = switch.name.clone();
        drop((one, other, switch));
        assert!(!Path::new("/run/netns").join(&name).exists());
    }
}
