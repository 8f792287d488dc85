//! Why a line has no place in pgvane's configuration.

use super::lexer::Line;

/// The reason for a directive that is not imported.
pub(super) fn reason(line: &Line) -> String {
    let text = match (line.word(0), line.word(1)) {
        ("log", _)
        | ("log-tag" | "log-format" | "log-format-sd" | "error-log-format" | "log-steps" | "log-send-hostname", _) => {
            "pgvane writes its log to standard error, in its own format (see [log])"
        }
        (
            "option",
            "tcplog"
            | "httplog"
            | "httpslog"
            | "dontlognull"
            | "dontlog-normal"
            | "logasap"
            | "log-health-checks"
            | "log-separate-errors",
        ) => "pgvane's log has its own format and levels (see [log])",
        ("option", "tcpka" | "clitcpka" | "srvtcpka")
        | ("clitcpka-cnt" | "clitcpka-idle" | "clitcpka-intvl", _)
        | ("srvtcpka-cnt" | "srvtcpka-idle" | "srvtcpka-intvl", _) => {
            "pgvane always uses TCP keepalive on both sides (tcp_keepalive, 30s)"
        }
        ("option", "redispatch") => "pgvane always tries another node if one does not answer",
        ("option", "allbackups") => "pgvane uses all backups, or follows the role",
        ("option", "splice-auto" | "splice-request" | "splice-response") => {
            "pgvane splices by itself (relay = \"auto\")"
        }
        (
            "option",
            "http-server-close"
            | "httpclose"
            | "forwardfor"
            | "http-keep-alive"
            | "http-no-delay"
            | "http-buffer-request",
        ) => "it is for HTTP",
        ("option", "abortonclose") => "pgvane always drops a client that goes while it waits",
        (
            "option",
            "nolinger"
            | "tcp-smart-accept"
            | "tcp-smart-connect"
            | "contstats"
            | "socket-stats"
            | "persist"
            | "independent-streams"
            | "transparent"
            | "idle-close-on-response",
        ) => "pgvane has nothing like it, and needs nothing like it",
        ("retries" | "retry-on", _) => "pgvane tries again, on every node that fits, until hold_max",
        ("description" | "id" | "guid", _) => "it is a text for people, or a number for HAProxy's own pages",
        ("errorfile" | "errorfiles" | "errorloc" | "errorloc302" | "errorloc303" | "http-error", _) => "it is for HTTP",
        (
            "http-request"
            | "http-response"
            | "http-after-response"
            | "http-reuse"
            | "http-send-name-header"
            | "compression"
            | "cookie"
            | "capture"
            | "redirect",
            _,
        ) => "it is for HTTP",
        ("stick" | "persist" | "hash-type" | "hash-balance-factor" | "hash-preserve-affinity", _) => {
            "pgvane does not bind a client to a node: the role decides"
        }
        ("fullconn" | "max-keep-alive-queue" | "max-session-srv-conns" | "backlog" | "rate-limit", _) => {
            "pgvane has nothing like it (see sessions_max and connection_rate_max_per_client)"
        }
        ("email-alert", _) => "pgvane sends no mail: use the alerts in prometheus-alerts.yml",
        ("external-check", _) => "pgvane runs no programs for checks",
        ("tcp-response" | "filter" | "declare" | "unique-id-format" | "unique-id-header", _) => {
            "pgvane does not look into sessions"
        }
        ("load-server-state-from-file" | "server-state-file-name", _) => {
            "pgvane learns the state of nodes from their checks"
        }
        ("bind-process" | "grace", _) => "pgvane is one process (threads)",
        ("monitor" | "monitor-uri", _) => "pgvane answers health checks at [admin]: /healthz and /readyz",
        ("timeout", name) => timeout(name),
        _ => "pgvane has nothing like it",
    };
    text.to_owned()
}

/// The reason for a timeout that is not imported.
pub(super) fn timeout(name: &str) -> &'static str {
    match name {
        "client" | "server" | "tunnel" => {
            "sessions are not ended for being idle; peers that are gone are found by tcp_keepalive and tcp_user_timeout"
        }
        "client-fin" | "server-fin" => "pgvane closes both sides when one has ended",
        _ => "it is for HTTP",
    }
}

/// The reason for a line of `global`.
pub(super) fn global(word: &str) -> &'static str {
    match word {
        "log" | "log-tag" | "log-send-hostname" => "pgvane writes its log to standard error (see [log])",
        "daemon" | "master-worker" | "mworker-max-reloads" | "pidfile" | "quiet" | "zero-warning" => {
            "pgvane stays in the foreground: systemd or Docker starts it"
        }
        "user" | "group" | "uid" | "gid" | "chroot" | "set-dumpable" | "setcap" | "ulimit-n" | "fd-hard-limit" => {
            "set it in pgvane's systemd unit (User, Group, LimitNOFILE …)"
        }
        "nbthread" | "cpu-map" | "thread-groups" | "thread-group" | "numa-cpu-mapping" | "cpu-policy" | "cpu-set" => {
            "pgvane uses all CPU cores that it may use (threads)"
        }
        "hard-stop-after" | "grace" | "close-spread-time" => "see drain_timeout",
        "spread-checks" | "max-spread-checks" => "pgvane varies each interval by a tenth",
        "external-check" | "insecure-fork-wanted" | "insecure-setuid-wanted" => "pgvane runs no programs",
        "presetenv" | "setenv" | "unsetenv" | "resetenv" => "its value stands where it was used",
        "maxconnrate" | "maxsessrate" | "maxsslrate" | "maxsslconn" => {
            "pgvane limits clients, not all of them together (connection_rate_max_per_client)"
        }
        word if word.starts_with("tune.") => "it is for HAProxy's own memory and speed",
        word if word.starts_with("ssl-") => "pgvane's TLS has its own settings (TLS 1.2 and 1.3 only)",
        _ => "it is for HAProxy itself",
    }
}
