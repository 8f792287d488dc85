//! The integration tests, in one program: pgvane as users run it, from its binary.
//!
//! - [`cluster`]: before a real PostgreSQL cluster, through switchovers, crashes and freezes
//! - [`sql`]: roles learnt from PostgreSQL itself, alone or beside Patroni
//! - [`garbage`]: before clients that are none
//! - [`faults`]: before fakes, for what a real cluster does not do on demand
//! - [`neighbours`]: before fakes that behave as neighbours and strangers do in the field
//! - [`attackers`]: before strangers in numbers, servers that lie, and logs and descriptors that run out
//! - [`members`]: before members that come, go, move and are invented
//! - [`access`]: who is let in, whom a proxy speaks for, Unix sockets
//! - [`listeners`]: what a listener's settings do: addresses, ports, choice of nodes, waiting
//! - [`cancels`]: which node a cancel request goes to, and which go nowhere
//! - [`clients`]: clients of every kind before servers of two versions
//! - [`haproxy_outputs`]: the CSV, JSON and metrics of HAProxy, for programs that read HAProxy
//! - [`admin_socket`]: HAProxy's runtime API on a UNIX socket, held beside HAProxy's own
//! - [`dashboard`]: the Grafana dashboard and the alert rules, held against a real Prometheus
//! - [`browser`]: the pages in a real browser
//! - [`page`]: what the stats page and its JSON say when something is wrong
//! - [`figures`]: what is counted of listeners and nodes
//! - [`carry_state`]: the state of a session, asked for and restored
//! - [`park`]: write sessions that are held between two transactions
//! - [`operators`]: nodes taken out of service, and who may do that
//! - [`reload`]: a configuration that changes while pgvane runs
//! - [`reload_kinds`]: the same, for each part of a configuration
//! - [`upgrade`]: another process takes over, and no session is cut
//! - [`service_manager`]: what systemd is told
//! - [`session_list`]: the list of sessions, and one that is picked from it and closed
//! - [`set_ups`]: the set-ups of `config/`, followed as their READMEs say
//! - [`threads`]: sessions that change their thread
//! - [`tls`]: encryption that ends at pgvane, on either side
//! - [`command_line`]: what users type, and the exit codes that answer
//! - [`json_output`]: the JSON that commands print for scripts
//! - [`terminal`]: what the command line offers to people: `top`, completions, the manual page, explanations
//! - [`bench`]: the proxies that `loadtest bench` compares, started as they are measured
//! - [`fuzz`]: the rules for everything that reads a stranger's bytes
//! - [`imported`]: what `pgvane import` writes, beside HAProxy with the file that it was made from
//! - [`package`]: the Debian package, from its installation to its purge
//! - [`layout`]: the order of the source: imports run down, and the pure parts know no sockets and clocks
//! - [`binary`], [`stage`], [`fake`], [`wire`], [`metrics`], [`certificates`]: what the others stand on

mod access;
mod admin_socket;
mod attackers;
mod bench;
mod binary;
mod browser;
mod cancels;
mod carry_state;
mod certificates;
mod check_connect;
mod clients;
mod cluster;
mod command_line;
mod dashboard;
mod fake;
mod faults;
mod figures;
mod fuzz;
mod garbage;
mod haproxy_outputs;
mod imported;
mod json_output;
mod layout;
mod listeners;
mod members;
mod metrics;
mod neighbours;
mod operators;
mod package;
mod page;
mod park;
mod reload;
mod reload_kinds;
mod service_manager;
mod session_list;
mod set_ups;
mod soak;
mod sql;
mod stage;
mod terminal;
mod threads;
mod tls;
mod upgrade;
mod waiting;
mod wire;
