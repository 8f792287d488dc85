//! The configuration that a lab's servers are started with.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};

use super::{LabBuilder, Node, Setting, certificate};
use crate::login::Login;

/// The account that replicas stream with.
const REPLICATOR: &str = "replicator";

/// Patroni's timing in seconds. Patroni wants `loop_wait + 2 * retry_timeout <= ttl`.
const TTL: u32 = 20;
const LOOP_WAIT: u32 = 5;
const RETRY_TIMEOUT: u32 = 5;

/// PostgreSQL's parameters in a lab: small, quick to start, and with a log worth reading.
pub(super) fn default_parameters() -> BTreeMap<String, String> {
    let parameters = [
        ("fsync", "off"),
        ("synchronous_commit", "on"),
        ("max_connections", "200"),
        ("shared_buffers", "16MB"),
        ("wal_keep_size", "256MB"),
        ("log_connections", "on"),
        ("log_disconnections", "on"),
        ("logging_collector", "on"),
        ("log_filename", "postgres.log"),
        ("log_rotation_age", "0"),
        ("log_rotation_size", "0"),
    ];
    parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// `patroni.yml` of one node.
pub(super) fn patroni_config(lab: &LabBuilder, setting: &Setting, index: usize, node: &Node) -> String {
    let LabBuilder { scope, synchronous_mode, .. } = lab;
    let Node { name, pg, rest, directory } = node;
    let directory = directory.display();
    let etcd = setting.etcd_client;
    let bin = setting.postgresql_bin.display();
    let superuser = Login::Superuser.user();
    let superuser_password = Login::Superuser.password().unwrap_or_default();
    let (shared_parameters, own_parameters) = (parameters(lab.parameters.iter(), 8), own_parameters(lab, node));
    let hba = hba(lab);
    let tags = tags(lab, index);
    let (pg_listen, rest_listen) = (listen(lab, *pg), listen(lab, *rest));
    format!(
        "\
scope: {scope}
name: {name}
restapi:
  listen: {rest_listen}
  connect_address: {rest}
  allowlist: [127.0.0.1]
etcd3:
  hosts: {etcd}
bootstrap:
  dcs:
    ttl: {TTL}
    loop_wait: {LOOP_WAIT}
    retry_timeout: {RETRY_TIMEOUT}
    synchronous_mode: {synchronous_mode}
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
{shared_parameters}  initdb:
    - encoding: UTF8
    - locale: C.UTF-8
    - data-checksums
postgresql:
  listen: {pg_listen}
  connect_address: {pg}
  bin_dir: {bin}
  data_dir: {directory}/data
  pgpass: {directory}/pgpass
  use_unix_socket: true
  authentication:
    superuser: {{username: {superuser}, password: {superuser_password}}}
    replication: {{username: {REPLICATOR}, password: {REPLICATOR}}}
  basebackup:
    - checkpoint: fast
    - no-sync
  parameters:
{own_parameters}  pg_hba:
{hba}tags:
{tags}"
    )
}

fn listen(lab: &LabBuilder, address: SocketAddr) -> SocketAddr {
    match lab.visitors {
        Some(_) => (Ipv4Addr::UNSPECIFIED, address.port()).into(),
        None => address,
    }
}

/// Patroni takes some parameters, `wal_level` and `max_connections` among them, from the cluster's configuration alone.
fn parameters(given: impl Iterator<Item = (impl Display, impl Display)>, indent: usize) -> String {
    given.map(|(name, value)| format!("{:indent$}{name}: '{value}'\n", "")).collect()
}

/// Those of one node.
fn own_parameters(lab: &LabBuilder, node: &Node) -> String {
    let in_directory = |name: &str| node.directory.join(name).display().to_string();
    let mut own = vec![("unix_socket_directories", in_directory("run")), ("log_directory", in_directory(""))];
    if lab.tls {
        own.push(("ssl", "on".to_owned()));
        own.extend(certificate::FILES.map(|(parameter, file)| (parameter, in_directory(file))));
    }
    parameters(own.into_iter(), 4)
}

fn hba(lab: &LabBuilder) -> String {
    let replicator = format!("host replication {REPLICATOR} 127.0.0.1/32 scram-sha-256");
    let mut lines: Vec<String> =
        lab.hba.iter().cloned().chain(["local all all trust".to_owned(), replicator]).collect();
    for network in std::iter::once("127.0.0.1/32").chain(lab.visitors.as_deref()) {
        lines.push(format!("host all {} {network} trust", Login::Trusting.user()));
        lines.push(format!("host all all {network} scram-sha-256"));
    }
    lines.iter().map(|line| format!("    - {line}\n")).collect()
}

fn tags(lab: &LabBuilder, index: usize) -> String {
    let of_node = lab.tags.iter().filter(|(node, ..)| *node == index);
    let lines = of_node.map(|(_, name, value)| format!("  {name}: {value}\n"));
    // An empty mapping must be written out; `lab` keeps it from being one.
    std::iter::once("  lab: true\n".to_owned()).chain(lines).collect()
}
