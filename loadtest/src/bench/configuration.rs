//! The configuration files of HAProxy, PgBouncer and stunnel, and what pgvane's has besides that of the tests.

use std::fmt::Write;
use std::net::SocketAddr;

use super::proxy::Certificate;

/// HAProxy in TCP mode, two threads.
pub(super) fn haproxy(binds: &[SocketAddr], backend: SocketAddr, sessions_max: usize, splices: bool) -> String {
    // pipes are two descriptors each, and by default HAProxy reserves one for every fourth session
    let (splice, pipes) = match splices {
        true => ("option splice-auto", "    maxpipes 256\n"),
        false => ("no option splice-auto", ""),
    };
    let mut text = format!(
        "\
global
    nbthread 2
    maxconn {sessions_max}
{pipes}
defaults
    mode tcp
    {splice}
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m

listen primary
"
    );
    for bind in binds {
        writeln!(text, "    bind {bind}").expect("writing to a string cannot fail");
    }
    writeln!(text, "    server null {backend}").expect("writing to a string cannot fail");
    text
}

/// PgBouncer with `pool_mode = session`. It has a single port.
pub(super) fn pgbouncer(
    bind: SocketAddr,
    backend: SocketAddr,
    sessions_max: usize,
    certificate: Option<&Certificate>,
) -> String {
    let tls = certificate.map_or(String::new(), |Certificate { file, key }| {
        format!(
            "client_tls_sslmode = require\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n",
            file.display(),
            key.display()
        )
    });
    format!(
        "\
[databases]
bench = host={} port={} user=bench

[pgbouncer]
listen_addr = {}
listen_port = {}
unix_socket_dir =
auth_type = any
pool_mode = session
max_client_conn = {sessions_max}
default_pool_size = {sessions_max}
server_reset_query =
server_idle_timeout = 5
server_tls_sslmode = disable
log_connections = 0
log_disconnections = 0
{tls}",
        backend.ip(),
        backend.port(),
        bind.ip(),
        bind.port(),
    )
}

/// stunnel, which does nothing but TLS. By default it logs two lines for each connection; here only warnings, as the
/// others do.
pub(super) fn stunnel(bind: SocketAddr, backend: SocketAddr, certificate: &Certificate) -> String {
    let Certificate { file, key } = certificate;
    format!(
        "\
foreground = yes
pid =
syslog = no
debug = warning

[postgresql]
accept = {bind}
connect = {backend}
protocol = pgsql
cert = {}
key = {}
",
        file.display(),
        key.display()
    )
}

/// TOML for a listener of pgvane's where TLS ends.
pub(super) fn terminating(certificate: &Certificate) -> String {
    let Certificate { file, key } = certificate;
    format!("tls = {{ mode = \"terminate\", cert_file = \"{}\", key_file = \"{}\" }}", file.display(), key.display())
}

/// pgvane's further listeners, for its write port's target; `binds` are without the first one.
pub(super) fn further_listeners(binds: &[SocketAddr], lines: &str) -> String {
    let listener = |(number, bind): (usize, &SocketAddr)| {
        format!("[[listener]]\nname = \"write{}\"\nbind = \"{bind}\"\ntarget = \"leader\"\n{lines}\n", number + 2)
    };
    binds.iter().enumerate().map(listener).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::loopback;

    #[test]
    fn every_port_is_a_listener_of_its_own_in_front_of_the_one_server() {
        let binds = [7001, 7002, 7003].map(loopback);
        let text = haproxy(&binds, loopback(5432), 9900, false);
        for line in ["bind 127.0.0.1:7001", "bind 127.0.0.1:7003", "server null 127.0.0.1:5432", "maxconn 9900"] {
            assert!(text.contains(&format!("    {line}\n")), "{line} in {text}");
        }
        let text = further_listeners(&binds[1..], "relay = \"copy\"");
        assert_eq!(text.matches("[[listener]]").count(), 2, "{text}");
        assert!(text.contains("name = \"write3\"\nbind = \"127.0.0.1:7003\"\ntarget = \"leader\"\nrelay ="), "{text}");
        assert!(!text.contains("7001"), "the first one is written elsewhere: {text}");
    }

    /// Two descriptors a pipe: they would not leave enough for 10,000 sessions.
    #[test]
    fn haproxy_reserves_pipes_only_where_it_splices() {
        let of = |splices| haproxy(&[loopback(7001)], loopback(5432), 9000, splices);
        assert!(of(true).contains("    maxpipes 256\n") && of(true).contains("    option splice-auto\n"));
        assert!(!of(false).contains("maxpipes") && of(false).contains("    no option splice-auto\n"));
    }

    #[test]
    fn tls_ends_at_the_proxy_and_not_at_the_server() {
        let certificate = Certificate { file: "/tmp/server.crt".into(), key: "/tmp/server.key".into() };
        let (bind, backend) = (loopback(7001), loopback(5432));
        let text = pgbouncer(bind, backend, 9000, Some(&certificate));
        assert!(text.contains("\nclient_tls_sslmode = require\nclient_tls_cert_file = /tmp/server.crt\n"), "{text}");
        assert!(text.contains("\nserver_tls_sslmode = disable\n"), "{text}");
        assert!(!pgbouncer(bind, backend, 9000, None).contains("client_tls"), "without a certificate there is none");
        let text = stunnel(bind, backend, &certificate);
        let service = "accept = 127.0.0.1:7001\nconnect = 127.0.0.1:5432\nprotocol = pgsql\ncert = /tmp/server.crt\n";
        assert!(text.contains(service), "{text}");
        assert!(terminating(&certificate).ends_with("key_file = \"/tmp/server.key\" }"));
    }
}
