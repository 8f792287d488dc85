//! The configuration that a lab's servers are started with.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{LabBuilder, Node, Setting};
use crate::login::Login;

/// The account that replicas stream with.
const REPLICATOR: &str = "replicator";

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
    let LabBuilder { scope, ttl, loop_wait, retry_timeout, synchronous_mode, .. } = lab;
    let Node { name, pg, rest, directory } = node;
    let directory = directory.display();
    let etcd = setting.etcd_client;
    let bin = setting.postgresql_bin.display();
    let superuser = Login::Superuser.user();
    let superuser_password = Login::Superuser.password().unwrap_or_default();
    let parameters = parameters(lab, node);
    let hba = hba(lab);
    let tags = tags(lab, index);
    format!(
        "\
scope: {scope}
name: {name}
restapi:
  listen: {rest}
  connect_address: {rest}
etcd3:
  hosts: {etcd}
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    synchronous_mode: {synchronous_mode}
    postgresql:
      use_pg_rewind: true
      use_slots: true
  initdb:
    - encoding: UTF8
    - locale: C.UTF-8
    - data-checksums
postgresql:
  listen: {pg}
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
{parameters}  pg_hba:
{hba}tags:
{tags}"
    )
}

fn parameters(lab: &LabBuilder, node: &Node) -> String {
    let directory = node.directory.display();
    let mut text = format!("    unix_socket_directories: '{directory}/run'\n    log_directory: '{directory}'\n");
    for (name, value) in &lab.parameters {
        writeln!(text, "    {name}: '{value}'").expect("writing to a string cannot fail");
    }
    text
}

fn hba(lab: &LabBuilder) -> String {
    let trusting = format!("host all {} 127.0.0.1/32 trust", Login::Trusting.user());
    let replicator = format!("host replication {REPLICATOR} 127.0.0.1/32 scram-sha-256");
    let rest = ["local all all trust", &replicator, &trusting, "host all all 127.0.0.1/32 scram-sha-256"];
    let lines = lab.hba.iter().map(String::as_str).chain(rest);
    lines.map(|line| format!("    - {line}\n")).collect()
}

fn tags(lab: &LabBuilder, index: usize) -> String {
    let of_node = lab.tags.iter().filter(|(node, ..)| *node == index);
    let lines = of_node.map(|(_, name, value)| format!("  {name}: {value}\n"));
    // An empty mapping must be written out; `lab` keeps it from being one.
    std::iter::once("  lab: true\n".to_owned()).chain(lines).collect()
}
