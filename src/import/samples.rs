//! Sample files and what must come out of them: whole configurations, refusals, and files that differ in one place.

use std::collections::BTreeMap;

use super::*;

macro_rules! imported {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("samples/", $name, ".cfg")) as &[u8], include_str!(concat!("samples/", $name, ".toml")))),*]
    };
}

macro_rules! refused {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("samples/", $name, ".cfg")) as &[u8])),*]
    };
}

const IMPORTED: [(&str, &[u8], &str); 13] = imported!(
    "01-listen-pair",
    "02-frontend-backend-resolvers",
    "03-two-clusters-master-backup",
    "04-bare-httpchk-crlf",
    "05-sync-async-lag",
    "06-http-check-chain",
    "07-tcp-check-http-env-quotes",
    "08-check-ssl-client-cert",
    "09-check-ssl-verify-none",
    "10-pooler-and-direct",
    "11-sql-in-tcp-check",
    "12-limits-acl",
    "13-debian-defaults-twice"
);

const REFUSED: [(&str, &[u8]); 5] = refused!(
    "14-pgsql-check-no-role",
    "15-citus-leaders",
    "16-server-template",
    "17-template-marker",
    "18-crlf-no-final-newline"
);

/// Imports, and makes sure that each line is used or reported.
fn imported(bytes: &[u8], variables: &[(&str, &str)], role_source: Option<RoleSource>) -> Outcome {
    let environment: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request = Request {
        file: "haproxy.cfg",
        bytes,
        environment: &environment,
        read_file: &|_| Err("no such file".to_owned()),
        role_source,
        one_cluster: &[],
    };
    let (file, mut ledger) = section::read(request.file, bytes, &environment);
    let (outcome, _) = run(&request, &file, &mut ledger);
    if outcome.toml.is_some() {
        assert_eq!(ledger.unreported(&outcome.report), [0_usize; 0], "lines are lost:\n{}", outcome.report);
    }
    outcome
}

fn text(place: usize) -> String {
    let bytes = IMPORTED[place - 1].1;
    String::from_utf8(bytes.to_vec()).expect("samples are text")
}

/// A sample with one part replaced by another, at every place.
fn changed(place: usize, from: &str, to: &str) -> Outcome {
    let before = text(place);
    let after = before.replace(from, to);
    assert_ne!(before, after, "{from} is not in the sample");
    imported(after.as_bytes(), &[], None)
}

fn assert_refused(outcome: &Outcome, expected: &[&str]) {
    assert_eq!(outcome.toml, None, "{}", outcome.report);
    for part in expected {
        assert!(outcome.report.contains(part), "{part:?} is missing in\n{}", outcome.report);
    }
}

fn assert_has(outcome: &Outcome, expected: &[&str]) {
    let toml = outcome.toml.as_ref().unwrap_or_else(|| panic!("refused:\n{}", outcome.report));
    for part in expected {
        assert!(toml.contains(part), "{part:?} is missing in\n{toml}");
    }
}

#[test]
fn each_sample_gives_its_configuration() {
    for (name, bytes, expected) in IMPORTED {
        let outcome = imported(bytes, &[], None);
        let toml = outcome.toml.unwrap_or_else(|| panic!("{name} is refused:\n{}", outcome.report));
        let body = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(body(&toml), body(expected), "{name}");
        assert!(!toml.contains('\r') && !outcome.report.contains('\r'), "{name}");
    }
}

#[test]
fn each_report_says_what_changes() {
    for (place, expected) in [
        (
            1,
            &[
                "haproxy.cfg:4: dropped: log",
                "haproxy.cfg:13: dropped: timeout client 45m",
                "haproxy.cfg:28: note: on-marked-down",
            ][..],
        ),
        (
            2,
            &[
                "haproxy.cfg:18: dropped: resolvers",
                "haproxy.cfg:65: dropped: backend on_anything: no frontend leads to",
            ],
        ),
        (
            3,
            &[
                "haproxy.cfg:57: note: /pg/master",
                "haproxy.cfg:29: dropped: balance first",
                "haproxy.cfg:34: note: backup",
            ],
        ),
        (4, &["there is no port for reads"]),
        (
            5,
            &[
                "haproxy.cfg:12: note: timeout queue has no effect",
                "haproxy.cfg:26: note: OPTIONS /leader also",
                "lag_max = \"2GB\"",
                "sync-only",
            ],
        ),
        (
            6,
            &[
                "haproxy.cfg:40: note: /primary is not asked for",
                "haproxy.cfg:46: note: port 8009 is not asked",
                "noloadbalance",
            ],
        ),
        (8, &["pgvane wants the host of the REST API's URL", "count from the directory"]),
        (
            9,
            &[
                "haproxy.cfg:23: note: WARNING: verify none",
                "ca_file = \"/etc/pgvane/patroni-ca.pem\" and verify = \"full\"",
            ],
        ),
        (10, &["haproxy.cfg:27: note: slowstart", "is not PostgreSQL's word"]),
        (11, &["needs no \"trust\" line", "password_file", "check = \"patroni\" is better"]),
        (12, &["haproxy.cfg:45: note: timeout queue becomes hold_max", "haproxy.cfg:39: note: maxqueue 60"]),
        (13, &["haproxy.cfg:80: dropped: listen web", "/metrics/haproxy", "haproxy.cfg:33: note: stats auth"]),
    ] {
        let report = imported(IMPORTED[place - 1].1, &[], None).report;
        for part in expected {
            assert!(report.contains(part), "{part:?} is missing in\n{report}");
        }
    }
}

#[test]
fn a_password_is_in_neither_the_result_nor_the_report() {
    let outcome = imported(IMPORTED[12].1, &[], None);
    assert!(!outcome.report.contains("CHANGE-ME") && !outcome.toml.is_some_and(|toml| toml.contains("CHANGE-ME")));
}

#[test]
fn the_environment_decides_as_in_haproxy() {
    let variables = [
        ("WRITE_PORT", "6432"),
        ("READ_PORT", "6433"),
        ("MAX_LAG", "48MB"),
        ("REST_PORT", "8108"),
        ("CONNECT_TIMEOUT", "1500ms"),
    ];
    let outcome = imported(IMPORTED[6].1, &variables, None);
    assert_has(
        &outcome,
        &["100:6432\"", "100:6433\"", "100:5434\"", "lag_max = \"48MB\"", "connect_timeout = \"1500ms\"", "12:8108\""],
    );
    assert!(!outcome.toml.unwrap_or_default().contains("8008"));
}

#[test]
fn what_cannot_be_told_is_refused_with_lines_and_proposals() {
    for (place, expected) in [
        (
            0,
            &[
                "haproxy.cfg:21: ",
                "haproxy.cfg:29: ",
                "be it a standby or not",
                "read goes to the leader too",
                "--check sql",
                "user = \"balancer\"",
                "http://10.0.0.12:8008",
            ][..],
        ),
        (1, &["haproxy.cfg:28: workers", "several clusters", "group1…, group2…", "name = \"coordinator\""]),
        (
            2,
            &["haproxy.cfg:36: ", "haproxy.cfg:43: ", "discover = true", "target = \"leader\"", "target = \"replica\""],
        ),
        (3, &["haproxy.cfg:18: {{cluster_title}}", "haproxy.cfg:32: {{max_lag}}"]),
        (4, &["haproxy.cfg:26: ", "Missing LF on last line"]),
    ] {
        assert_refused(&imported(REFUSED[place].1, &[], None), expected);
    }
    let patroni = imported(REFUSED[0].1, &[], Some(RoleSource::Patroni));
    assert_has(
        &patroni,
        &["http://10.0.0.11:8008", "weight = 40", "weight = 100", "target = \"leader\"", "target = \"replica\""],
    );
    let sql = imported(REFUSED[0].1, &[], Some(RoleSource::Sql));
    assert_has(&sql, &["check = \"sql\"", "user = \"balancer\""]);
}

#[test]
fn a_file_without_its_last_byte_is_refused() {
    for (name, bytes, _) in IMPORTED {
        let end = bytes.len() - if name.starts_with("04") { 2 } else { 1 };
        assert_refused(&imported(&bytes[..end], &[], None), &["the file may be cut off"]);
    }
}

#[test]
fn one_change_to_a_path_changes_the_target_or_the_file_is_refused() {
    for (to, expected) in [
        ("/read-only", "target = \"any\""),
        ("/read-only?lag=1MB", "target = \"any\"\nbalance = \"round-robin\"\nlag_max = \"1MB\""),
        ("/replicas", "target = \"replica\""),
        ("/standby-leader", "target = \"standby-leader\""),
        ("/quorum", "target = \"quorum\""),
        ("/read-only-sync", "target = \"sync-only\"\ninclude_leader = true"),
        ("/replica?replication_state=streaming", "replication = \"streaming\""),
        ("/replica?tag_a=b&tag_c=d", "tags = { a = \"b\", c = \"d\" }"),
    ] {
        assert_has(&changed(1, "/replica", to), &[expected]);
    }
    assert_has(&changed(1, "/primary", "/my-leader-check"), &["target = \"leader\""]);
    for to in ["/standby", "/synced", "/async/", "/metrics", "/patroni"] {
        assert_refused(&changed(1, "/replica", to), &["haproxy.cfg:35: "]);
    }
    for to in ["patroni", "cluster", "history", "config", "metrics", "liveness"] {
        let outcome = changed(1, "OPTIONS /replica", &format!("GET /{to}"));
        assert_refused(&outcome, &["does not ask for the role"]);
    }
    assert_refused(&changed(1, "status 200", "status 503"), &["PostgreSQL is down"]);
    assert_has(&changed(1, "status 200", "rstatus ^2.."), &["target = \"replica\""]);
    // without a status, the text of the answer decides alone: a running leader says no with the same text
    let by_text = changed(
        1,
        "OPTIONS /replica\n    http-check expect status 200",
        "GET /replica\n    http-check expect string running",
    );
    assert_has(&by_text, &["target = \"any\""]);
}

#[test]
fn variables_outside_of_quotes_and_variables_that_are_not_set_are_refused() {
    let port = text(1).replace("check port 8008", "check port ${REST_PORT}");
    assert_refused(&imported(port.as_bytes(), &[("REST_PORT", "8008")], None), &["haproxy.cfg:29: "]);
    assert_refused(&changed(7, "${PG2_HOST}:5432", "10.0.0.12:${PG_PORT-5432}"), &["haproxy.cfg:47: "]);
    assert_refused(&changed(7, "    presetenv PG2_HOST 10.0.0.12\n", ""), &["PG2_HOST is not set", "haproxy.cfg:46: "]);
}

#[test]
fn access_lists_let_nobody_in_who_was_out() {
    let with = |rule: &str| changed(12, "    tcp-request connection reject if !apps !ops\n", rule);
    assert_refused(
        &with(
            "    tcp-request connection reject if !apps !ops\n    tcp-request connection reject if { src 192.0.2.66 }\n",
        ),
        &["who may"],
    );
    assert_refused(
        &with("    tcp-request connection reject if !apps\n    tcp-request connection reject if !ops\n"),
        &["nobody"],
    );
    assert_has(
        &with("    tcp-request connection accept if apps\n    tcp-request connection reject\n"),
        &["allow = [\"10.0.0.0/24\", \"192.0.2.0/25\"]"],
    );
    assert_refused(
        &with("    acl file src -f /etc/nets\n    tcp-request connection reject if !file\n"),
        &["/etc/nets"],
    );
    assert_has(
        &with(
            "    stick-table type ip size 1m expire 10s store conn_rate(3s)\n    tcp-request connection track-sc0 src\n    \
             tcp-request connection reject if { sc0_conn_rate gt 50 }\n",
        ),
        &["connection_rate_max_per_client = \"50/3s\""],
    );
}

#[test]
fn sections_that_cannot_work_are_refused() {
    let http = text(1).replace("    option httpchk", "    mode http\n    option httpchk");
    assert_refused(&imported(http.as_bytes(), &[], None), &["haproxy.cfg:24: ", "HAProxy speaks HTTP"]);
    let two = text(10).replace("5432 check port 8008", "5432 check port 8009");
    assert_refused(&imported(two.as_bytes(), &[], None), &["one node with a pooler, or two nodes"]);
}

#[test]
fn what_haproxy_refuses_is_refused() {
    for (from, to) in [
        ("    retries 4\n", "    retreis 4\n"),
        ("inter 2s", "inter 2x"),
        ("timeout connect 3s", "timeout connect 3 s q\n    timeout conect 3s"),
        ("on-marked-down", "on-marked-dwon"),
        ("listen read\n", "listen write\n"),
        ("listen read\n", "listen read from nothing\n"),
        ("listen read\n", "listen read *:5001\n"),
        ("    retries 4\n", "    contimeout 4\n"),
        ("    retries 4\n", "    log \"global\n"),
        ("    log global\n", "    log global x\n"),
        ("bind *:5001", "bind"),
        ("timeout client 45m", "timeout client 45m 45m"),
        ("stats uri /", "stats uri"),
        ("    mode tcp\n", "    mode tcp tcp\n"),
    ] {
        assert_refused(&changed(1, from, to), &["haproxy.cfg:"]);
    }
}

#[test]
fn a_check_that_haproxy_never_sends_is_refused() {
    let file = "defaults\n mode tcp\n option httpchk OPTIONS /primary\nlisten pg\n bind *:5432\n http-check expect status 200\n \
                server a 10.0.0.1:5432 check port 8008\n server b 10.0.0.2:5432 check port 8008\n";
    assert_refused(&imported(file.as_bytes(), &[], None), &["haproxy.cfg:3: ", "HAProxy sends no request"]);
    let own = file.replace(" http-check", " option httpchk OPTIONS /primary\n http-check");
    assert_has(&imported(own.as_bytes(), &[], None), &["target = \"leader\""]);
}

#[test]
fn files_of_other_programs_are_refused() {
    let galera = "defaults\n mode tcp\n timeout connect 1s\n timeout client 1s\n timeout server 1s\nlisten galera\n bind *:3306\n \
                  option httpchk\n server a 10.0.0.1:3306 check port 9200\n server b 10.0.0.2:3306 check port 9200 backup\n";
    assert_refused(&imported(galera.as_bytes(), &[], None), &["no section"]);
    for check in ["mysql-check user haproxy", "redis-check"] {
        let other = galera.replace("httpchk", check);
        assert_refused(&imported(other.as_bytes(), &[], None), &["no section"]);
    }
    assert_refused(&imported(b"", &[], None), &["no section"]);
}

#[test]
fn conditions_decide_which_backend_serves() {
    let head = "defaults\n mode tcp\n default-server check port 8008\nbackend w\n option httpchk GET /primary\n server a \
                10.0.0.1:5432\n server b 10.0.0.2:5432\nbackend r\n option httpchk GET /replica\n server a 10.0.0.1:5432\n server \
                b 10.0.0.2:5432\n";
    let with = |front: &str| imported(format!("{head}frontend pg\n{front}").as_bytes(), &[], None);
    assert_has(
        &with(" bind *:5432\n use_backend r if { nbsrv(r) gt 0 }\n default_backend w\n"),
        &["target = \"replica\"\nfallback = \"leader\""],
    );
    assert_has(
        &with(" bind *:5432\n bind *:5433\n acl reads dst_port 5433\n use_backend r if reads\n default_backend w\n"),
        &["bind = \"0.0.0.0:5433\"\ntarget = \"replica\"", "bind = \"0.0.0.0:5432\"\ntarget = \"leader\""],
    );
    assert_refused(
        &with(" bind *:5432\n use_backend r if { src 10.0.0.0/8 }\n default_backend w\n"),
        &["use_backend r"],
    );
    assert_refused(&with(" bind *:5432\n default_backend nothing\n"), &["there is no backend \"nothing\""]);
    assert_has(
        &with(
            ".if defined(NONE)\n bind *:1\n.else\n bind ipv6@:5432,/run/pg.sock mode 660\n.endif\n default_backend w\n",
        ),
        &["bind = [\"[::]:5432\", \"unix:/run/pg.sock\"]", "unix_socket_mode = \"0660\""],
    );
}

#[test]
fn a_stats_socket_becomes_an_admin_socket_behind_comment_signs() {
    let head = "global\n stats socket /run/haproxy/admin.sock mode 660 user root level admin expose-fd listeners\n \
                stats socket ipv4@127.0.0.1:9999 level admin\n stats socket unix@/s\n stats timeout 2m\n";
    let outcome = imported((head.to_owned() + &text(1).replacen("global\n", "", 1)).as_bytes(), &[], None);
    let toml = outcome.toml.unwrap_or_else(|| panic!("{}", outcome.report));
    let without = Config::from_toml("result", &toml).expect("is valid");
    assert_eq!(without.admin_sockets, [], "pgvane starts also where it cannot listen there");
    for told in ["haproxy.cfg:2: dropped: stats socket", "[[admin.sockets]]", "on Unix sockets only"] {
        assert!(outcome.report.contains(told), "{told:?} is not in\n{}", outcome.report);
    }
    let is_socket = |line: &str| {
        ["# [[admin.sockets]]", "# path", "# mode", "# owner", "# level", "# idle"]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let used: String =
        toml.lines().map(|line| format!("{}\n", if is_socket(line) { &line[2..] } else { line })).collect();
    let config = Config::from_toml("result", &used).unwrap_or_else(|faults| panic!("{faults}\n{used}"));
    let shown: Vec<_> = config
        .admin_sockets
        .iter()
        .map(|socket| (socket.file.path.display().to_string(), socket.file.mode, socket.level.label()))
        .collect();
    let expected = [("/run/haproxy/admin.sock".to_owned(), 0o660, "admin"), ("/s".to_owned(), 0o600, "operator")];
    assert_eq!(shown, expected);
    assert!(config.admin_sockets.iter().all(|socket| socket.idle_timeout.as_secs() == 120));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_no_line_is_lost(
        sample in 0..18_usize,
        edits in proptest::collection::vec((0..4000_usize, proptest::num::u8::ANY, 0..4_u8), 0..6),
    ) {
        let bytes = IMPORTED.iter().map(|(_, bytes, _)| *bytes).chain(REFUSED.map(|(_, bytes)| bytes)).nth(sample);
        let mut bytes = bytes.unwrap_or_default().to_vec();
        for (at, byte, edit) in edits {
            let at = at % bytes.len().max(1);
            match edit {
                0 => bytes.insert(at.min(bytes.len()), byte),
                1 if !bytes.is_empty() => drop(bytes.remove(at)),
                2 if !bytes.is_empty() => bytes[at] = byte,
                _ => bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)),
            }
        }
        let _ = imported(&bytes, &[], None);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(global|defaults|listen x|frontend x|backend x|bind|server|mode tcp|[ \\n\"'\\\\$#{}a-z0-9:.*]){0,60}") {
        let _ = imported(text.as_bytes(), &[], None);
    }
}
