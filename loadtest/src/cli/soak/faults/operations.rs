//! What operators do to pgvane: reloads with a changed file, upgrades, parks. None of it may cut a session.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pgvane_loadtest::{Error, Result, crowd, tls, wait};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::super::plan::Step;
use super::super::world::{World, io_error};
use super::{SERVED_WITHIN, Target};

const RELOADED: &str = "configuration reloaded";
const REFUSED: &str = "the new configuration was not accepted; nothing was changed";
const SOON: Duration = Duration::from_secs(60);
/// Longer than the sessions last that cannot move, because their TLS ends at pgvane.
const OLD_PROCESS_ENDS_WITHIN: Duration = Duration::from_secs(180);
const CROWD_EVERY: Duration = Duration::from_millis(20);

pub(super) async fn reload_weights(world: &World, step: Step) -> Result<()> {
    let weights = [1 + step.choice, 300 - step.choice, 100];
    let before = text_of(world)?;
    let mut changed = before.clone();
    for (node, weight) in world.lab.nodes().iter().zip(weights) {
        changed = with_line_after(&changed, &format!("name = \"{}\"", node.name), &format!("weight = {weight}"))?;
    }
    with_file(world, &before, &changed, RELOADED, || async { Ok(()) }).await
}

pub(super) async fn reload_limits(world: &World, step: Step) -> Result<()> {
    let before = text_of(world)?;
    let limits = format!("sessions_max = {}\npending_connections_max = {}", 200 + step.choice, 900 - step.choice);
    let changed = with_line_after(&before, "name = \"write\"", &limits)?;
    let changed = with_line_after(&changed, "name = \"read\"", &limits)?;
    with_file(world, &before, &changed, RELOADED, || async { Ok(()) }).await
}

/// A node is removed from the file and added again; it may be the leader. Its sessions go on.
pub(super) async fn reload_nodes(target: Target<'_>, step: Step) -> Result<()> {
    let world = target.world;
    let before = text_of(world)?;
    let node = &world.lab.nodes()[step.choice % world.lab.nodes().len()].name;
    let changed = without_node(&before, node)?;
    with_file(world, &before, &changed, RELOADED, || async {
        sleep(step.lasts / 2).await;
        Ok(())
    })
    .await?;
    target.load.is_served(&world.lab, SERVED_WITHIN).await
}

pub(super) async fn reload_certificates(world: &World) -> Result<()> {
    let Some(files) = &world.certificate else {
        return Err(Error::Missing { program: "a certificate of pgvane".to_owned() });
    };
    let newer = world.lab.make_certificate("newer")?;
    for (from, to) in newer.iter().zip(files) {
        fs::rename(from, to).map_err(|error| io_error("replacing a certificate", error))?;
    }
    reload(world, RELOADED).await?;
    let wanted = CertificateDer::from_pem_file(&files[0])
        .map_err(|error| Error::Command { command: "reading a certificate".to_owned(), output: error.to_string() })?;
    wait::until("pgvane's new certificate", SOON, || async {
        let stream = TcpStream::connect(world.pgvane.write_addr).await.map_err(|error| error.to_string())?;
        let stream = tls::start(stream).await.map_err(|error| error.to_string())?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        if shown == [wanted.clone()] { Ok(()) } else { Err("another certificate".to_owned()) }
    })
    .await
}

pub(super) async fn reload_faulty_file(world: &World) -> Result<()> {
    let before = text_of(world)?;
    let faulty = format!("{before}\nhold_maximum = 1\n");
    with_file(world, &before, &faulty, REFUSED, || async { Ok(()) }).await
}

pub(super) async fn upgrade(world: &World) -> Result<()> {
    let process = world.pgvane.newest_process_id();
    world.ordered(&["upgrade"]).await?;
    is_upgraded(world, process).await
}

pub(super) async fn upgrades_by_signal(world: &World, times: usize) -> Result<()> {
    for _ in 0..times {
        let process = world.pgvane.newest_process_id();
        world.pgvane.upgrade().await?;
        is_upgraded(world, process).await?;
    }
    Ok(())
}

pub(super) async fn upgrade_with_crowd(world: &World, clients: usize) -> Result<()> {
    let process = world.pgvane.newest_process_id();
    let (crowd, upgraded) =
        tokio::join!(crowd::visit(world.ports().write, clients, CROWD_EVERY), world.ordered(&["upgrade"]));
    upgraded?;
    if let Some(failure) = crowd.failures.first() {
        let output = format!("{} of {clients} were not served: {}", crowd.failures.len(), failure.message);
        return Err(Error::Command { command: "connecting during an upgrade".to_owned(), output });
    }
    is_upgraded(world, process).await
}

pub(super) async fn upgrade_that_fails(world: &World) -> Result<()> {
    let before = text_of(world)?;
    let process = world.pgvane.newest_process_id();
    write(world, &format!("{before}\nhold_maximum = 1\n"))?;
    let answer = world.operator(&["upgrade"]).await;
    write(world, &before)?;
    let (is_success, output) = answer?;
    if is_success || world.pgvane.newest_process_id() != process {
        let output = format!("it succeeded with a faulty file: {output}");
        return Err(Error::Command { command: "pgvane upgrade".to_owned(), output });
    }
    only_one_process(world).await
}

/// Every session that can be parked must be: those that cannot end their transactions in time are named.
pub(super) async fn park(world: &World) -> Result<()> {
    let (is_success, printed) = world.operator(&["park"]).await?;
    if is_success {
        return Ok(());
    }
    let sessions = world.pgvane.admin_get("/api/sessions?limit=1000").await?.json();
    let is_late = |session: &&serde_json::Value| session["listener"] == "write" && session["state"] != "parked";
    let late = sessions["sessions"].as_array().into_iter().flatten().filter(is_late);
    let names: Vec<&str> = late.filter_map(|session| session["application_name"].as_str()).collect();
    let output = format!("{printed}not parked: {}", names.join(", "));
    Err(Error::Command { command: "pgvane park".to_owned(), output })
}

async fn is_upgraded(world: &World, before: u32) -> Result<()> {
    if world.pgvane.newest_process_id() == before {
        let output = format!("process {before} accepts connections as before");
        return Err(Error::Command { command: "pgvane upgrade".to_owned(), output });
    }
    only_one_process(world).await
}

async fn only_one_process(world: &World) -> Result<()> {
    wait::until("the end of pgvane's old process", OLD_PROCESS_ENDS_WITHIN, || async {
        let processes = world.pgvane.processes().ids();
        if processes == [world.pgvane.newest_process_id()] { Ok(()) } else { Err(format!("{processes:?} run")) }
    })
    .await
}

/// Reloads with another file, which must have this effect, and then with the one of before.
async fn with_file<F>(
    world: &World,
    before: &str,
    changed: &str,
    effect: &str,
    meanwhile: impl FnOnce() -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    write(world, changed)?;
    let done = match reload(world, effect).await {
        Ok(()) => meanwhile().await,
        Err(error) => Err(error),
    };
    write(world, before)?;
    reload(world, RELOADED).await?;
    done
}

async fn reload(world: &World, effect: &str) -> Result<()> {
    let from = world.pgvane.log_length();
    world.pgvane.reload()?;
    world.pgvane.wait_for_log(effect, from, SOON).await
}

fn text_of(world: &World) -> Result<String> {
    fs::read_to_string(world.pgvane.config_path()).map_err(|error| io_error("reading pgvane's configuration", error))
}

fn write(world: &World, text: &str) -> Result<()> {
    let file: &Path = world.pgvane.config_path();
    fs::write(file, text).map_err(|error| io_error("writing pgvane's configuration", error))
}

fn with_line_after(text: &str, line: &str, new: &str) -> Result<String> {
    let changed = text.replacen(&format!("{line}\n"), &format!("{line}\n{new}\n"), 1);
    if changed == text { Err(no_such_line(line)) } else { Ok(changed) }
}

fn without_node(text: &str, node: &str) -> Result<String> {
    let head = format!("\n[[cluster.node]]\nname = \"{node}\"\n");
    let begins = text.find(&head).ok_or_else(|| no_such_line(&head))?;
    let length = text[begins + head.len()..].find("\n[[").map(|rest| head.len() + rest);
    let ends = length.map_or(text.len(), |length| begins + length);
    Ok([&text[..begins], &text[ends..]].concat())
}

fn no_such_line(line: &str) -> Error {
    Error::Missing { program: format!("{line:?} in pgvane's configuration") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_removed_with_all_its_lines_and_nothing_else() {
        let node = |name: &str| format!("\n[[cluster.node]]\nname = \"{name}\"\naddress = \"{name}:1\"\n");
        let listener = "\n[[listener]]\nname = \"write\"\n";
        let text = ["[[cluster]]\n", &node("node1"), &node("node2"), listener].concat();
        assert_eq!(
            without_node(&text, "node1").expect("is there"),
            ["[[cluster]]\n", &node("node2"), listener].concat()
        );
        assert_eq!(
            without_node(&text, "node2").expect("is there"),
            ["[[cluster]]\n", &node("node1"), listener].concat()
        );
        assert!(without_node(&text, "node3").is_err());
        let weighed = with_line_after(&text, "name = \"node2\"", "weight = 3").expect("is there");
        assert!(weighed.contains("name = \"node2\"\nweight = 3\naddress"), "{weighed}");
    }
}
