//! A `listen`, `frontend` or `backend` section with everything that it inherits, line by line.

use super::address::{self, Bind, Time};
use super::check::Check;
use super::drops;
use super::findings::Findings;
use super::lexer::{Environment, Line};
use super::section::{File, Kind, Section};
use super::server::{self, Server, Settings};

/// One section that accepts connections, or passes them on, or both.
#[derive(Debug, Clone)]
pub(super) struct Proxy {
    pub kind: Kind,
    pub name: String,
    pub line: usize,
    /// Its own lines, without those of `defaults`.
    pub own_lines: Vec<usize>,
    pub findings: Findings,
    /// `mode http`; HAProxy's default is TCP.
    pub is_http: bool,
    /// Where `mode` is said.
    pub mode_line: usize,
    pub is_disabled: bool,
    pub binds: Vec<Listening>,
    pub maxconn: Option<u64>,
    pub default_backend: Option<(usize, String)>,
    pub use_backends: Vec<Line>,
    pub check: Check,
    pub servers: Vec<Server>,
    /// `server-template` lines.
    pub templates: Vec<Line>,
    pub balance: Option<Balance>,
    pub timeout_connect: Option<Time>,
    pub timeout_check: Option<Time>,
    pub timeout_queue: Option<(usize, Time)>,
    /// `acl` lines.
    pub acls: Vec<Line>,
    /// `tcp-request` and `stick-table` lines, which can decide who may connect.
    pub rules: Vec<Line>,
    pub stick_table: Option<Line>,
    pub stats: Vec<Line>,
    /// `http-request` lines and others of HTTP.
    pub has_http_service: bool,
    default_server: Settings,
}

/// One `bind` line.
#[derive(Debug, Clone)]
pub(super) struct Listening {
    pub line: usize,
    pub binds: Vec<Bind>,
    pub tls: Option<Tls>,
    pub accepts_proxy: bool,
    pub unix: UnixSocket,
}

/// The files of TLS with clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    pub certificate: String,
    pub ca_file: Option<String>,
    pub verify: Option<String>,
}

/// Permissions of a Unix socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UnixSocket {
    pub mode: Option<String>,
    pub owner: Option<String>,
    pub group: Option<String>,
}

/// `balance`.
#[derive(Debug, Clone)]
pub(super) struct Balance {
    pub line: usize,
    pub name: String,
    /// Said in the section itself, not in `defaults`.
    pub is_own: bool,
}

impl Proxy {
    /// Reads a section with what it inherits.
    pub fn read(file: &File, section: &Section) -> Proxy {
        let mut proxy = Proxy::empty(section);
        let mut chain = Vec::new();
        let mut next = section.defaults;
        while let Some(place) = next {
            let defaults = &file.sections[place];
            chain.push(defaults);
            next = defaults.defaults.filter(|earlier| *earlier < place);
        }
        for defaults in chain.iter().rev() {
            proxy.check = Check::inherited(&proxy.check);
            for line in &defaults.lines {
                proxy.follow(line, false, &file.environment);
            }
        }
        proxy.check = Check::inherited(&proxy.check);
        for line in &section.lines {
            proxy.follow(line, true, &file.environment);
        }
        proxy
    }

    fn empty(section: &Section) -> Proxy {
        Proxy {
            kind: section.kind,
            name: section.name.clone(),
            line: section.line,
            own_lines: std::iter::once(section.line).chain(section.lines.iter().map(|line| line.number)).collect(),
            findings: Findings::default(),
            is_http: false,
            mode_line: section.line,
            is_disabled: false,
            binds: Vec::new(),
            maxconn: None,
            default_backend: None,
            use_backends: Vec::new(),
            check: Check::none(),
            servers: Vec::new(),
            templates: Vec::new(),
            balance: None,
            timeout_connect: None,
            timeout_check: None,
            timeout_queue: None,
            acls: Vec::new(),
            rules: Vec::new(),
            stick_table: None,
            stats: Vec::new(),
            has_http_service: false,
            default_server: Settings::default(),
        }
    }

    /// What `default-server` lines say.
    pub fn defaults(&self) -> &Settings {
        &self.default_server
    }

    /// Whether it accepts connections.
    pub fn is_front(&self) -> bool {
        matches!(self.kind, Kind::Listen | Kind::Frontend)
    }

    fn follow(&mut self, line: &Line, is_own: bool, environment: &Environment) {
        match self.check.follow(line, environment) {
            Ok(true) => return self.follow_check(line),
            Ok(false) => {}
            Err((why, hint)) => return self.findings.fault(line.number, why, hint),
        }
        let (number, value) = (line.number, line.word(1));
        match line.word(0) {
            "mode" => {
                (self.is_http, self.mode_line) = (value == "http", number);
                self.findings.uses(number);
            }
            "disabled" => self.is_disabled = true,
            "enabled" => self.is_disabled = false,
            "bind" => self.bind(line, environment),
            "maxconn" => match value.parse() {
                Ok(max) => {
                    self.maxconn = Some(max).filter(|max| *max > 0);
                    self.findings.uses(number);
                }
                Err(_) => self.findings.fault(number, format!("maxconn {value}: not a number"), "write a whole number"),
            },
            "default_backend" => {
                self.default_backend = Some((number, value.to_owned()));
                self.findings.uses(number);
            }
            "use_backend" => self.use_backends.push(line.clone()),
            "default-server" => self.default_server.read(line, 1, environment, &mut self.findings),
            "server" => {
                let found = server::server(line, &self.default_server, environment, &mut self.findings);
                self.servers.extend(found);
            }
            "server-template" => self.templates.push(line.clone()),
            "balance" => self.balance = Some(Balance { line: number, name: value.to_owned(), is_own }),
            "timeout" => self.timeout(line),
            "acl" => self.acls.push(line.clone()),
            "tcp-request" => self.rules.push(line.clone()),
            "stick-table" => self.stick_table = Some(line.clone()),
            "stats" => self.stats.push(line.clone()),
            "no" | "default" => self.negated(line),
            "dispatch" | "use-server" | "transparent" => self.findings.obstacle(
                number,
                format!("{}: HAProxy sends sessions to a server without asking for its role", line.word(0)),
                "remove it, or leave the section to HAProxy",
            ),
            "source" => self.findings.drops(number, "the system chooses the address that pgvane connects from"),
            _ => {
                self.has_http_service |= line.word(0).starts_with("http-re") || line.word(0) == "monitor-uri";
                self.findings.drops(number, drops::reason(line));
            }
        }
    }

    fn follow_check(&mut self, line: &Line) {
        let why = match line.word(1) {
            "comment" => "a comment of a check",
            "disable-on-404" => "Patroni answers no health check with 404",
            "send-state" => "Patroni does not read the state that HAProxy sends",
            "set-var" | "unset-var" => "the variables of a check",
            // a line of the check that holds is used; what another line replaced is dropped
            _ => return,
        };
        self.findings.drops(line.number, why);
    }

    fn negated(&mut self, line: &Line) {
        let name = line.word(2);
        if line.word(1) == "option" && (name == "httpchk" || name.ends_with("-check") || name == "smtpchk") {
            self.findings.fault(
                line.number,
                format!("{} option {name}: HAProxy knows no negation of it, and refuses the file", line.word(0)),
                "remove the line",
            );
        }
        self.findings.drops(line.number, "it switches off something that pgvane does not have");
    }

    fn timeout(&mut self, line: &Line) {
        let Some(time) = Time::read(line.word(2)) else {
            return self.findings.fault(
                line.number,
                format!("timeout {} {}: not a time: HAProxy refuses the file", line.word(1), line.word(2)),
                "write, for example, 2s or 500ms",
            );
        };
        match line.word(1) {
            "connect" => self.timeout_connect = Some(time),
            "check" => self.timeout_check = Some(time),
            "queue" => self.timeout_queue = Some((line.number, time)),
            _ => return self.findings.drops(line.number, drops::timeout(line.word(1))),
        }
        self.findings.uses(line.number);
    }

    fn bind(&mut self, line: &Line, environment: &Environment) {
        let mut listening = Listening {
            line: line.number,
            binds: Vec::new(),
            tls: None,
            accepts_proxy: false,
            unix: UnixSocket::default(),
        };
        for text in line.word(1).split(',') {
            let read = environment.expand_address(text.trim()).and_then(|(text, unset)| {
                let is_complete = unset.is_empty();
                self.findings.expands(line.number, unset);
                if is_complete { address::binds(&text) } else { Ok(Vec::new()) }
            });
            match read {
                Ok(binds) => listening.binds.extend(binds),
                Err(why) => self.findings.obstacle(
                    line.number,
                    format!("bind: {why}"),
                    "write IP:PORT, or the path of a Unix socket",
                ),
            }
        }
        bind_words(line, &mut listening, &mut self.findings);
        self.findings.uses(line.number);
        self.binds.push(listening);
    }
}

fn bind_words(line: &Line, listening: &mut Listening, findings: &mut Findings) {
    let number = line.number;
    let (mut is_tls, mut tls) = (false, Tls::default());
    let mut words = line.rest(2).iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().unwrap_or_default();
        match word.as_str() {
            "ssl" => is_tls = true,
            "crt" => tls.certificate = value(),
            "ca-file" => tls.ca_file = Some(value()),
            "verify" => tls.verify = Some(value()),
            "accept-proxy" => listening.accepts_proxy = true,
            "mode" => listening.unix.mode = Some(value()),
            "user" | "uid" => listening.unix.owner = Some(value()),
            "group" | "gid" => listening.unix.group = Some(value()),
            "name" | "id" | "nice" | "process" | "thread" | "shards" | "backlog" | "proto" | "label" | "guid"
            | "cc" => drop(value()),
            "maxconn" | "tcp-ut" | "mss" | "severity-output" | "level" | "namespace" | "idle-ping" => {
                let value = value();
                findings.note(number, format!("bind … {word} {value}: not imported; pgvane has nothing like it"));
            }
            "tfo" | "defer-accept" | "v4v6" | "expose-fd" => {
                if word == "expose-fd" {
                    drop(value());
                }
            }
            "v6only" => findings.note(number, "bind … v6only: not imported; pgvane accepts IPv4 there too"),
            "interface" | "transparent" | "accept-netscaler-cip" => findings.obstacle(
                number,
                format!("bind … {word}: pgvane would accept connections that HAProxy does not, or in another way"),
                "bind to an address of the interface",
            ),
            "alpn" | "npn" | "ciphers" | "ciphersuites" | "curves" | "ecdhe" | "ssl-min-ver" | "ssl-max-ver"
            | "crl-file" | "crt-list" | "ca-ignore-err" | "crt-ignore-err" | "tls-ticket-keys" | "ca-sign-file"
            | "ca-sign-pass" | "ca-verify-file" | "sigalgs" | "client-sigalgs" | "default-crt" | "ocsp-update" => {
                drop(value());
                findings.note(number, format!("bind … {word}: not imported; see [listener.tls]"));
            }
            "strict-sni"
            | "prefer-client-ciphers"
            | "allow-0rtt"
            | "no-ca-names"
            | "generate-certificates"
            | "ssl-reuse"
            | "tls-tickets" => findings.note(number, format!("bind … {word}: not imported; see [listener.tls]")),
            other if other.starts_with("no-") || other.starts_with("force-") => {
                findings
                    .note(number, format!("bind … {other}: not imported; see min_protocol_version in [listener.tls]"));
            }
            other => findings.fault(
                number,
                format!("bind: unknown word \"{other}\": HAProxy refuses the file"),
                "correct the word; haproxy -c must accept the file",
            ),
        }
    }
    listening.tls = is_tls.then_some(tls);
}
