//! The packages on a machine with systemd: from their installation to their removal, the Debian package with an upgrade
//! under load.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use pgvane_loadtest::machine::{self, Machine, Switch};
use pgvane_loadtest::{programs, wait};

const SOON: Duration = Duration::from_secs(60);

/// A primary without Patroni, so that one machine suffices.
const CONFIGURATION: &str = "
[[cluster]]
check = \"sql\"
[cluster.sql]
user = \"pgvane\"
[[cluster.node]]
address = \"127.0.0.1:5432\"
[[listener]]
name = \"write\"
bind = \"127.0.0.1:6432\"
target = \"leader\"
[[listener]]
name = \"read\"
bind = \"127.0.0.1:6433\"
target = \"replica\"
";

/// Everything that a package could leave behind.
const FILES: &str = "find /etc /usr /lib/systemd /var /opt -xdev \
    -not -path '/var/lib/dpkg/*' -not -path '/var/cache/*' -not -path '/var/log/*' -not -path '/var/tmp/*' \
    -not -path '/var/lib/systemd/*' -not -path '/etc/postgresql*' -not -path '/var/lib/postgresql*' -not -name '*-' \
    | sort";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs what `make package` makes, and a machine"]
async fn the_debian_package_installs_serves_reloads_upgrades_and_leaves_nothing() {
    let Some((_switch, host)) = Host::with("deb").await else { return };
    host.runs("rm -f /usr/sbin/policy-rc.d"); // where it exists, packages start no services
    let before = host.runs(FILES);

    host.installs("pgvane_*.deb");
    host.serves_as_it_is_installed().await;
    host.reloads_another_configuration().await;
    host.upgrades_under_load().await;
    host.keeps_its_configuration_when_it_is_removed().await;

    host.runs("dpkg --purge pgvane");
    assert_eq!(difference(&before, &host.runs(FILES)), [""; 0], "left behind, or missing");
    let traces = "(getent passwd pgvane; getent group pgvane; systemctl list-unit-files --no-legend 'pgvane*'; \
                  dpkg-query --show pgvane 2>/dev/null) || :";
    assert_eq!(host.runs(traces), "");
}

/// With Debian's rpm: it takes the package apart and runs its scripts as another system's does, and knows nothing of the
/// libraries that Debian's packages have installed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs what `make package` makes, and a machine"]
async fn the_rpm_package_installs_serves_and_is_removed() {
    if programs::on_path("rpm").is_err() {
        eprintln!("SKIPPED, the RPM on a machine: rpm is not installed");
        return;
    }
    let Some((_switch, host)) = Host::with("rpm").await else { return };
    let before = host.runs(FILES);
    host.runs("rpm --install --nodeps pgvane-*.rpm 2>&1");
    assert_eq!(host.runs("systemctl is-active pgvane || :"), "inactive\n", "there the operator starts services");
    host.runs("systemctl enable --now pgvane 2>&1");
    host.serves_as_it_is_installed().await;
    host.runs("echo '# by the operator' >>/etc/pgvane/pgvane.toml");
    let main = host.main_process();
    host.runs("rpm --upgrade --replacepkgs --nodeps pgvane-*.rpm 2>&1");
    host.becomes_true("another process", &format!("[ $(systemctl show -P MainPID pgvane) != {main} ]")).await;
    assert!(host.runs("cat /etc/pgvane/pgvane.toml").ends_with("# by the operator\n"), "the file is the operator's");
    host.runs("systemctl is-active pgvane");
    host.runs("rpm --erase --nodeps pgvane 2>&1");
    host.runs("! ss -Hltn | grep -qE ':(6432|6433|8404) ' && ! pgrep -x pgvane && ! command -v pgvane");
    let left = host.runs(FILES);
    // directories of other packages, on the systems that RPM is for
    let of_others =
        |path: &&str| path.starts_with("/var/lib/rpm") || path.ends_with("share/licenses") || path.contains("zsh");
    let left: Vec<&str> = difference(&before, &left).into_iter().filter(|path| !of_others(path)).collect();
    assert_eq!(left, ["/etc/pgvane", "/etc/pgvane/pgvane.toml.rpmsave"], "left behind, or missing");
}

struct Host(Machine);

impl Host {
    /// A machine, and in its directory `/root` the package with this ending; `None` where there can be no machine.
    async fn with(ending: &str) -> Option<(Switch, Host)> {
        if let Some(reason) = machine::unavailable_because() {
            eprintln!("SKIPPED, the package on a machine: {reason}");
            return None;
        }
        let switch = Switch::new().unwrap_or_else(|error| panic!("{error}"));
        let machine = Machine::new(&switch, "host", "10.0.0.1").unwrap_or_else(|error| panic!("{error}"));
        machine.boot().await.unwrap_or_else(|error| panic!("{error}"));
        machine.copy(&package(ending)).unwrap_or_else(|error| panic!("{error}"));
        Some((switch, Host(machine)))
    }

    fn runs(&self, script: &str) -> String {
        self.0.run(script).unwrap_or_else(|error| panic!("{error}\n{}", self.journal()))
    }

    fn journal(&self) -> String {
        self.0.output("journalctl --no-pager --lines 30 --unit pgvane --unit load; cat load").unwrap_or_default()
    }

    /// What dpkg and the package's scripts have said.
    fn installs(&self, file: &str) -> String {
        self.runs(&format!("DEBIAN_FRONTEND=noninteractive dpkg --install {file} 2>&1"))
    }

    async fn becomes_true(&self, what: &str, script: &str) {
        let tried = wait::until(what, SOON, async || self.0.run(script).map(drop).map_err(|error| error.to_string()));
        tried.await.unwrap_or_else(|error| panic!("{error}\n{}", self.journal()));
    }

    fn main_process(&self) -> String {
        self.runs("systemctl show --property=MainPID --value pgvane").trim().to_owned()
    }

    /// Without a cluster: the ports are open, and clients wait.
    async fn serves_as_it_is_installed(&self) {
        self.becomes_true("pgvane serves", "systemctl is-active pgvane && pgvane healthcheck").await;
        assert_eq!(self.runs("systemctl is-enabled pgvane"), "enabled\n");
        assert_eq!(self.runs(&format!("ps -o user= -p {}", self.main_process())), "pgvane\n");
        for port in [6432, 6433, 8404] {
            self.runs(&format!("ss -Hltn 'sport = :{port}' | grep -q LISTEN"));
        }
        let checked = self.runs("pgvane check /etc/pgvane/pgvane.toml 2>&1");
        assert!(!checked.contains("warning"), "{checked}");
        self.runs("systemd-analyze verify /lib/systemd/system/pgvane.service");
        self.runs("zgrep -q pgvane /usr/share/man/man1/pgvane.1.gz");
        let completed = "source /usr/share/bash-completion/completions/pgvane && complete -p pgvane";
        assert!(self.runs(completed).contains("pgvane"));
    }

    async fn reloads_another_configuration(&self) {
        self.runs(
            "version=$(ls /usr/lib/postgresql | sort -V | tail -n 1); pg_createcluster --port 5432 $version main
             sed -i 's/scram-sha-256/trust/' /etc/postgresql/$version/main/pg_hba.conf
             systemctl start postgresql@$version-main",
        );
        self.runs("psql -h 127.0.0.1 -U postgres -qc 'create role pgvane login' -c 'create database bench'");
        self.runs("pgbench -h 127.0.0.1 -U postgres -iq bench 2>&1");
        let main = self.main_process();
        self.runs(&format!("cat >/etc/pgvane/pgvane.toml <<'END'\n{CONFIGURATION}\nEND"));
        self.runs("systemctl reload pgvane");
        self.becomes_true("writes reach PostgreSQL", "psql -h 127.0.0.1 -p 6432 -U postgres -c 'select 1'").await;
        assert_eq!(self.main_process(), main, "a reload is no restart");
    }

    /// A next version is installed while pgbench runs through pgvane, with sessions that stay and with one session for each
    /// transaction: another process serves then, and no transaction has failed.
    async fn upgrades_under_load(&self) {
        self.runs(
            "dpkg-deb --raw-extract pgvane_*.deb next
             sed -i 's/^Version: .*/&+next/' next/DEBIAN/control && dpkg-deb --build --root-owner-group next next.deb",
        );
        let main = self.main_process();
        for (name, option) in [("load", ""), ("connects", "--connect")] {
            let load = format!("pgbench -h 127.0.0.1 -p 6432 -U postgres -n -T 10 -c 4 {option} bench");
            let script = format!("{load} >{name} 2>&1; echo $? >>{name}");
            self.runs(&format!("systemd-run --quiet --unit={name} --working-directory=/root bash -c '{script}'"));
        }
        let connected = "[ $(ss -Htn state established 'dport = :6432' | wc -l) -gt 4 ]";
        self.becomes_true("both have connected", connected).await;
        let said = self.installs("next.deb");
        assert_ne!(self.main_process(), main, "{said}\n{}", self.journal());
        assert!(!said.contains("systemctl restart pgvane"), "{said}");
        for name in ["load", "connects"] {
            self.becomes_true("pgbench has ended", &format!("tail -n 1 {name} | grep -qx '[0-9]*'")).await;
            let load = self.runs(&format!("cat {name}"));
            assert!(load.contains("number of failed transactions: 0 (0.000%)") && load.ends_with("\n0\n"), "{load}");
            println!("{load}");
        }
        assert_eq!(self.runs("cat /etc/pgvane/pgvane.toml").trim(), CONFIGURATION.trim(), "the file is the operator's");
        self.runs("systemctl restart pgvane && systemctl is-active pgvane");
        self.becomes_true("the new version serves", "psql -h 127.0.0.1 -p 6432 -U postgres -c 'select 1'").await;
    }

    async fn keeps_its_configuration_when_it_is_removed(&self) {
        self.runs("dpkg --remove pgvane");
        self.runs("! ss -Hltn | grep -qE ':(6432|6433|8404) ' && ! pgrep -x pgvane && ! command -v pgvane");
        assert_eq!(self.runs("cat /etc/pgvane/pgvane.toml").trim(), CONFIGURATION.trim());
        self.installs("pgvane_*.deb");
        self.becomes_true("it serves again", "psql -h 127.0.0.1 -p 6432 -U postgres -c 'select 1'").await;
    }
}

/// The newest one in `target/package` with this ending.
fn package(ending: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/package");
    let entries = directory.read_dir().unwrap_or_else(|error| panic!("run `make package` first: {error}"));
    let packages = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut packages: Vec<PathBuf> =
        packages.filter(|path| path.extension().is_some_and(|end| end == ending)).collect();
    packages.sort();
    packages.pop().expect("`make package` makes one")
}

/// Lines that are only in one of the two.
fn difference<'a>(one: &'a str, other: &'a str) -> Vec<&'a str> {
    let [one, other]: [BTreeSet<&str>; 2] = [one, other].map(|text| text.lines().collect());
    one.symmetric_difference(&other).copied().collect()
}
