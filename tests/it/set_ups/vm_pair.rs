//! `config/vm-pair`: two nodes with PostgreSQL 18, etcd and pgvane on a third machine, TLS and a firewall everywhere, by
//! the README.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use pgvane_loadtest::machine::Machine;
use pgvane_loadtest::programs::{self, Postgresql};

use super::php::PhpWriter;
use super::readme::Readme;
use super::{copied, machines, patroni_is_downloaded, postgresql_is_downloaded, typed, typed_until};
use crate::binary;

const SOON: Duration = Duration::from_secs(60);
const SWITCHOVER_WITHIN: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "four machines: a minute"]
async fn two_machines_and_a_third_one_serve_with_tls_through_a_firewall() {
    let wanted = [("db1", "10.0.0.11"), ("db2", "10.0.0.12"), ("proxy", "10.0.0.13"), ("app", "10.0.0.20")];
    let Some((_switch, [db1, db2, proxy, app])) = machines(wanted).await else { return };
    let readme = Readme::of("vm-pair");
    readme.leaves_no_address_behind("0.", r"10\.0\.0\.[0-9]");
    let [copy] = readme.commands("1.");
    let folder = with_certificates(&readme, copy);
    for machine in [&db1, &db2, &proxy] {
        copied(machine, copy);
        machine.copy(&folder.path().join("vm-pair")).expect("is copied");
    }
    let [firewall] = readme.commands("2.");
    for machine in [&db1, &db2, &proxy] {
        assert!(typed(machine, firewall).contains("policy drop"));
    }
    let [etcd] = readme.commands("3.");
    typed_until(&proxy, etcd, |answer| answer.contains(r#""health":"true""#)).await;
    let [_needs_the_internet, start, list] = readme.commands("4.");
    for node in [&db1, &db2] {
        patroni_is_downloaded(node);
        postgresql_is_downloaded(node, 18, Postgresql::Eighteen);
        typed(node, start);
    }
    typed_until(&db1, list, |list| list.contains(" Leader ") && list.contains(" streaming ")).await;
    let [configure, start, docker, image, container, status] = readme.commands("5.");
    typed(&proxy, configure);
    typed(&proxy, start);

    app.copy(&folder.path().join("vm-pair/tls/ca.crt")).expect("is copied");
    let [connect, switch_over] = readme.commands("6.");
    let answers = typed(&app, connect);
    assert!(answers.contains(" | f\n") && answers.contains(" | t\n"), "{answers}");
    for (host, port) in [("10.0.0.11", 5432), ("10.0.0.11", 8008), ("10.0.0.13", 2379), ("10.0.0.13", 8404)] {
        let knock = format!("timeout 1 bash -c '</dev/tcp/{host}/{port}'");
        assert!(app.run(&knock).is_err(), "the firewall lets strangers in at {host}:{port}");
    }
    let encrypted = "PGPASSWORD=change-me-postgres psql -h 10.0.0.13 -U postgres -d postgres -AtX -p 5432 -c";
    let ask = format!("{encrypted} 'select ssl, version from pg_stat_ssl where pid = pg_backend_pid()'");
    assert_eq!(typed(&app, &ask), "t|TLSv1.3\n", "between pgvane and the node");
    let plain = app.run(&format!("PGSSLMODE=disable {ask}")).expect_err("TLS is required").to_string();
    assert!(plain.contains("pgvane:"), "{plain}");
    let [slots] = readme.commands("7.");
    assert!(typed(&app, slots).contains("| t      | reserved"), "{}", typed(&app, slots));

    let dsn = "pgsql:host=10.0.0.13;port=5432;dbname=postgres;sslmode=verify-full;sslrootcert=/root/ca.crt";
    let php = PhpWriter::start(&app, dsn, "postgres", "change-me-postgres");
    php.goes_on(SOON).await;
    // Patroni refuses a switchover while no node replicates synchronously
    typed_until(&db1, list, |list| list.contains(" Sync Standby ") && list.contains(" streaming ")).await;
    let moment = php.now();
    let said = typed(&db1, switch_over);
    assert!(said.contains("Successfully switched over"), "{said}");
    php.goes_on(SWITCHOVER_WITHIN).await;
    let seen = php.seen_since(moment);
    println!("switchover: {seen:?}"); // with --nocapture
    assert!(seen.errors.len() <= 1, "{seen:?}");
    drop(php);

    if programs::on_path("dockerd").is_ok() && programs::on_path("docker-compose").is_ok() {
        typed(&proxy, "systemctl disable --now pgvane");
        typed(&proxy, docker);
        assert!(image.contains("docker load"));
        image_is_loaded(&proxy);
        // Docker can give a container no more descriptors than this host gives its programs
        typed(&proxy, "sed -i \"s/nofile: .*/nofile: $(ulimit -Hn)/\" vm-pair/docker-compose.yml");
        let checked = typed(&proxy, container);
        assert!(checked.contains("listener write on 0.0.0.0:5432: sessions go to"), "{checked}");
        typed_until(&proxy, status, |nodes| nodes.matches("  up  ").count() == 2).await;
        let answers = typed(&app, connect);
        assert!(answers.contains(" | f\n") && answers.contains(" | t\n"), "{answers}");
    } else {
        // the macros' output is shown of failed tests only
        let _ = writeln!(std::io::stderr(), "SKIPPED, pgvane as a container: there is no Docker here");
    }
    readme.assert_all_is_used();
}

/// What `docker load` leaves there: an image like the Dockerfile's, with the program that is tested.
fn image_is_loaded(machine: &Machine) {
    machine.copy(&binary::pgvane()).expect("is copied");
    let script = "systemctl start docker
        mkdir -p image/usr/local/bin && cp pgvane image/usr/local/bin/
        ldd pgvane | grep -o '/[^ ]*' | xargs cp --parents -L -t image
        tar -C image -c . | docker import --change 'USER 65532:65532' \
            --change 'ENTRYPOINT [\"/usr/local/bin/pgvane\"]' \
            --change 'CMD [\"run\", \"--config\", \"/etc/pgvane/pgvane.toml\"]' - pgvane:latest";
    typed(machine, script);
}

#[test]
fn promtool_accepts_the_alert_rules_of_vm_pair() {
    let mut command = Command::new(programs::on_path("promtool").expect("promtool is installed"));
    let output = command.args(["check", "rules"]).arg(Readme::of("vm-pair").folder().join("alerts.yml")).output();
    let output = output.expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
}

/// The folder with its certificates, in a directory of the test: the README's first command makes them.
fn with_certificates(readme: &Readme, copy: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let make = copy.lines().find(|line| line.contains("make-certificates")).expect("makes certificates");
    let script = format!("cp -r {} .; {}", readme.folder().display(), make.replace("config/", ""));
    let run =
        Command::new("bash").args(["-ec", &script]).current_dir(directory.path()).output().expect("bash is there");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    directory
}
