//! The health check of a section: which rules HAProxy executes, in which order. Rules of `option httpchk`, `http-check`
//! and `tcp-check` are put together as HAProxy does it (src/tcpcheck.c), with what `defaults` sections hand down.

use super::address::{self, Target};
use super::lexer::{Environment, Line};

/// One step of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rule {
    Connect(Connect),
    Send { line: usize, what: Sent },
    Expect { line: usize, expect: Expect },
}

/// Where a check connects to. What is not said here is what the server line says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Connect {
    pub line: usize,
    pub port: Option<u16>,
    pub address: Option<Target>,
    /// TLS although the server line does not say so.
    pub ssl: bool,
    /// TLS as the server line says: of an implicit connect, and of `connect default`.
    pub as_server: bool,
}

/// What a check sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    Http { method: Option<String>, path: Option<String>, from_option: bool },
    Bytes(Vec<u8>),
}

/// What a check waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expect {
    pub is_negated: bool,
    pub pattern: Pattern,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    Status(Vec<(u16, u16)>),
    StatusRegex(String),
    /// In an HTTP check in the body, in a TCP check in everything.
    Text(String),
    TextRegex(String),
    Binary(Vec<u8>),
    BinaryRegex(String),
}

/// Which kind of check holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only whether a connection opens.
    Connect,
    Http,
    Tcp,
    Pgsql {
        user: String,
    },
    External,
    /// `mysql-check`, `redis-check` and others.
    NotPostgresql(String),
}

/// The check of one section, while its lines are read.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub kind: Kind,
    /// The line that says so; 0 without one.
    pub line: usize,
    /// The rules that hold.
    active: Vec<Rule>,
    own_http: Vec<Rule>,
    own_tcp: Vec<Rule>,
    /// TCP rules of the section that this one inherits from.
    inherited_tcp: Vec<Rule>,
    /// Every line about checks, whether it holds or not.
    pub all_lines: Vec<usize>,
    /// What a rule replaced, by line.
    pub notes: Vec<(usize, String)>,
}

/// One request of a check and the answers that it accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub connect: Connect,
    /// What is sent; several parts are one request.
    pub sent: Vec<(usize, Sent)>,
    pub expects: Vec<(usize, Expect)>,
    /// Whether something is expected before the last part is sent.
    pub is_dialogue: bool,
}

type Fault = (String, String);

impl Check {
    /// Without any line about checks.
    pub fn none() -> Check {
        let empty = Vec::new;
        Check {
            kind: Kind::Connect,
            line: 0,
            active: empty(),
            own_http: empty(),
            own_tcp: empty(),
            inherited_tcp: empty(),
            all_lines: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// At the beginning of a section that inherits from `parent`.
    pub fn inherited(parent: &Check) -> Check {
        Check {
            kind: parent.kind.clone(),
            line: parent.line,
            active: parent.active.clone(),
            own_http: Vec::new(),
            own_tcp: Vec::new(),
            inherited_tcp: parent.own_tcp.clone(),
            all_lines: parent.all_lines.clone(),
            notes: Vec::new(),
        }
    }

    /// Follows `option …`, `http-check …` and `tcp-check …`. Returns whether the line is one of these. Errors: why
    /// HAProxy refuses it, or pgvane.
    pub fn follow(&mut self, line: &Line, environment: &Environment) -> Result<bool, Fault> {
        match (line.word(0), line.word(1)) {
            ("option", "httpchk") => {
                self.set(Kind::Http, line.number);
                let (method, path) = match (line.word(2), line.word(3)) {
                    ("", _) => (None, None),
                    (path, "") => (None, Some(path)),
                    (method, path) => (Some(method), Some(path)),
                };
                let what =
                    Sent::Http { method: method.map(str::to_owned), path: path.map(str::to_owned), from_option: true };
                add_option(&mut self.own_http, line.number, what);
                self.active = self.own_http.clone();
            }
            ("option", "tcp-check") => {
                let held = self.kind == Kind::Tcp && !self.active.is_empty();
                self.set(Kind::Tcp, line.number);
                if !held {
                    let own = if self.own_tcp.is_empty() { &self.inherited_tcp } else { &self.own_tcp };
                    self.active = own.clone();
                }
            }
            ("option", "pgsql-check") => {
                let user = if line.word(2) == "user" { line.word(3) } else { "" };
                self.set(Kind::Pgsql { user: user.to_owned() }, line.number);
            }
            ("option", "external-check") => self.set(Kind::External, line.number),
            ("option", name) if name.ends_with("-check") || matches!(name, "smtpchk" | "ssl-hello-chk") => {
                self.set(Kind::NotPostgresql(name.to_owned()), line.number);
            }
            ("http-check", _) => {
                if let Some(rule) = rule(line, environment, true)? {
                    self.notes.extend(replaced(&self.own_http, &rule));
                    add_http(&mut self.own_http, rule, self.kind == Kind::Http)?;
                    if self.kind == Kind::Http {
                        self.active = self.own_http.clone();
                    }
                }
            }
            ("tcp-check", _) => {
                if let Some(rule) = rule(line, environment, false)? {
                    self.own_tcp.push(rule);
                    if self.kind == Kind::Tcp {
                        self.active = self.own_tcp.clone();
                    }
                }
            }
            _ => return Ok(false),
        }
        self.all_lines.push(line.number);
        Ok(true)
    }

    fn set(&mut self, kind: Kind, line: usize) {
        (self.kind, self.line) = (kind, line);
    }

    /// The lines that the check is made of.
    pub fn lines(&self) -> Vec<usize> {
        let of_rules = self.active.iter().map(|rule| match rule {
            Rule::Connect(connect) => connect.line,
            Rule::Send { line, .. } | Rule::Expect { line, .. } => *line,
        });
        std::iter::once(self.line).chain(of_rules).filter(|line| *line > 0).collect()
    }

    /// The requests, one after the other. All of them must be answered as expected.
    pub fn requests(&self) -> Vec<Request> {
        let mut rules = self.active.clone();
        if self.kind == Kind::Http {
            complete_http(&mut rules);
        }
        if !matches!(rules.first(), Some(Rule::Connect(_))) {
            rules.insert(0, Rule::Connect(Connect { as_server: true, ..Connect::default() }));
        }
        let mut requests: Vec<Request> = Vec::new();
        for rule in rules {
            match (rule, requests.last_mut()) {
                (Rule::Connect(connect), _) => {
                    requests.push(Request { connect, sent: Vec::new(), expects: Vec::new(), is_dialogue: false });
                }
                (Rule::Send { line, what }, Some(request)) => {
                    request.is_dialogue |= !request.expects.is_empty();
                    request.sent.push((line, what));
                }
                (Rule::Expect { line, expect }, Some(request)) => request.expects.push((line, expect)),
                (_, None) => {}
            }
        }
        requests
    }
}

/// `option httpchk`: its request is the first, or completes the one that `http-check send` gave before it.
fn add_option(rules: &mut Vec<Rule>, line: usize, what: Sent) {
    let place = usize::from(matches!(rules.first(), Some(Rule::Connect(_))));
    match rules.get_mut(place) {
        Some(Rule::Send { what: Sent::Http { from_option: true, .. }, .. }) => {
            rules[place] = Rule::Send { line, what };
        }
        Some(Rule::Send { what: old, .. }) => overwrite(old, what),
        _ => rules.insert(0, Rule::Send { line, what }),
    }
}

fn overwrite(old: &mut Sent, new: Sent) {
    let (Sent::Http { method, path, .. }, Sent::Http { method: new_method, path: new_path, .. }) = (old, new) else {
        return;
    };
    *method = new_method.or(method.take());
    *path = new_path.or(path.take());
}

/// `http-check connect`, `send` and `expect`. The first explicit request takes the place of the option's.
fn add_http(rules: &mut Vec<Rule>, rule: Rule, is_active: bool) -> Result<(), Fault> {
    let is_option = |rule: &Rule| matches!(rule, Rule::Send { what: Sent::Http { from_option: true, .. }, .. });
    if is_active {
        let missing = match (rules.last(), &rule) {
            (None, _) => None,
            (Some(last), _) if is_option(last) => None,
            (Some(last), Rule::Send { .. }) => (!matches!(last, Rule::Connect(_))).then_some("connect"),
            (Some(last), Rule::Expect { .. }) => matches!(last, Rule::Connect(_)).then_some("send"),
            (Some(last), Rule::Connect(_)) => (!matches!(last, Rule::Expect { .. })).then_some("expect"),
        };
        if let Some(missing) = missing {
            return Err((
                format!("a rule \"http-check {missing}\" is missing before it: HAProxy refuses the file"),
                "haproxy -c must accept the file".to_owned(),
            ));
        }
        if let (Rule::Send { line, what }, Some(true)) = (&rule, rules.first().map(is_option)) {
            let Rule::Send { what: mut merged, .. } = rules.remove(0) else { return Ok(()) };
            overwrite(&mut merged, what.clone());
            if let Sent::Http { from_option, .. } = &mut merged {
                *from_option = false;
            }
            rules.push(Rule::Send { line: *line, what: merged });
            return Ok(());
        }
    }
    rules.push(rule);
    Ok(())
}

/// A path of `option httpchk` that an explicit request replaces.
fn replaced(rules: &[Rule], new: &Rule) -> Option<(usize, String)> {
    let (
        Some(Rule::Send { line: option, what: Sent::Http { path: Some(old), from_option: true, .. } }),
        Rule::Send { line, what },
    ) = (rules.first(), new)
    else {
        return None;
    };
    let Sent::Http { path: Some(path), .. } = what else { return None };
    (old != path).then(|| (*option, format!("{old} is not asked for: http-check send at line {line} says {path}")))
}

/// The rules that HAProxy adds itself.
fn complete_http(rules: &mut Vec<Rule>) {
    let is_option = matches!(rules.first(), Some(Rule::Send { what: Sent::Http { from_option: true, .. }, .. }));
    if is_option && matches!(rules.get(1), Some(Rule::Connect(_))) {
        rules.swap(0, 1);
    }
    if let Some(Rule::Send { line, .. }) = rules.last() {
        let expect = Expect { is_negated: false, pattern: Pattern::Status(vec![(200, 399)]) };
        rules.push(Rule::Expect { line: *line, expect });
    }
}

/// One rule; `None` for rules without meaning for the role.
fn rule(line: &Line, environment: &Environment, is_http: bool) -> Result<Option<Rule>, Fault> {
    let fault = |why: &str| (format!("{}: {why}", line.words.join(" ")), "haproxy -c must accept the file".to_owned());
    match line.word(1) {
        "comment" | "disable-on-404" | "send-state" | "set-var" | "unset-var" => Ok(None),
        name if name.starts_with("set-var") || name.starts_with("unset-var") => Ok(None),
        "connect" => connect(line, environment).map(|connect| Some(Rule::Connect(connect))),
        "send" if is_http => http_send(line).map(Some),
        "send" | "send-binary" if !is_http && !matches!(line.word(3), "" | "comment") => {
            Err(fault(&format!("\"{}\" is too much", line.word(3))))
        }
        "send" => {
            let bytes = line.word(2).as_bytes().to_vec();
            Ok(Some(Rule::Send { line: line.number, what: Sent::Bytes(bytes) }))
        }
        "send-binary" if !is_http => {
            let bytes = hex(line.word(2)).ok_or_else(|| fault("not a hexadecimal string"))?;
            Ok(Some(Rule::Send { line: line.number, what: Sent::Bytes(bytes) }))
        }
        "send-lf" | "send-binary-lf" => Err(not_known(line)),
        "expect" => expect(line, is_http).map(|expect| Some(Rule::Expect { line: line.number, expect })),
        other => Err(fault(&format!("unknown rule \"{other}\""))),
    }
}

fn not_known(line: &Line) -> Fault {
    let label = format!("{} {}", line.word(0), line.word(1));
    (format!("pgvane cannot tell what this check asks for: {label}"), "write the check with option httpchk".to_owned())
}

fn connect(line: &Line, environment: &Environment) -> Result<Connect, Fault> {
    let mut connect = Connect { line: line.number, ..Connect::default() };
    let mut words = line.rest(2).iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "default" => connect.as_server = true,
            "ssl" => connect.ssl = true,
            "port" => {
                let text = words.next().map_or("", String::as_str);
                connect.port = Some(text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
                    (format!("connect port: \"{text}\" is not a port"), "write a number from 1 to 65535".to_owned())
                })?);
            }
            "addr" => {
                let text = words.next().map_or("", String::as_str);
                let (text, _) =
                    environment.expand_address(text).map_err(|why| (why, "write the address".to_owned()))?;
                let with_port = if text
                    .rsplit_once(':')
                    .is_some_and(|(host, port)| !host.ends_with(':') && port.parse::<u16>().is_ok())
                {
                    text
                } else {
                    format!("{text}:1")
                };
                let target = address::server(&with_port);
                connect.address = Some(target.map_err(|why| (why, "write an address".to_owned()))?);
            }
            "linger" | "send-proxy" | "via-socks4" => {}
            "proto" | "comment" | "sni" | "alpn" => drop(words.next()),
            other => {
                let why = format!("unknown word \"{other}\" in {} connect: HAProxy refuses the file", line.word(0));
                return Err((why, "haproxy -c must accept the file".to_owned()));
            }
        }
    }
    Ok(connect)
}

fn http_send(line: &Line) -> Result<Rule, Fault> {
    let (mut method, mut path) = (None, None);
    let mut words = line.rest(2).iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "meth" => method = words.next().cloned(),
            "uri" => path = words.next().cloned(),
            "ver" | "comment" | "body" | "body-lf" => drop(words.next()),
            "hdr" => {
                if (words.next(), words.next()).1.is_none() {
                    return Err((
                        "hdr without a value: HAProxy refuses the file".to_owned(),
                        "add the value".to_owned(),
                    ));
                }
            }
            "uri-lf" => return Err(not_known(line)),
            other => {
                let why = format!("unknown word \"{other}\" in http-check send: HAProxy refuses the file");
                return Err((why, "haproxy -c must accept the file".to_owned()));
            }
        }
    }
    Ok(Rule::Send { line: line.number, what: Sent::Http { method, path, from_option: false } })
}

fn expect(line: &Line, is_http: bool) -> Result<Expect, Fault> {
    let mut is_negated = false;
    let mut pattern = None;
    let mut words = line.rest(2).iter();
    while let Some(word) = words.next() {
        let bare = word.trim_start_matches('!');
        is_negated ^= (word.len() - bare.len()) % 2 == 1;
        let mut value = || words.next().cloned().unwrap_or_default();
        match bare {
            "" => {}
            "min-recv" | "comment" | "on-success" | "on-error" | "ok-status" | "error-status" | "tout-status"
            | "status-code" => drop(value()),
            "string" | "rstring" | "binary" | "rbinary" | "rstatus" if line.words.last() == Some(word) => {
                return Err((
                    format!("expect {bare} without a pattern: HAProxy refuses the file"),
                    "add it".to_owned(),
                ));
            }
            "status" if is_http => pattern = Some(Pattern::Status(codes(&value()).ok_or_else(|| not_known(line))?)),
            "rstatus" if is_http => pattern = Some(Pattern::StatusRegex(value())),
            "string" => pattern = Some(Pattern::Text(value())),
            "rstring" => pattern = Some(Pattern::TextRegex(value())),
            "binary" if !is_http => pattern = Some(Pattern::Binary(hex(&value()).ok_or_else(|| not_known(line))?)),
            "rbinary" if !is_http => pattern = Some(Pattern::BinaryRegex(value())),
            _ => return Err(not_known(line)),
        }
    }
    pattern.map(|pattern| Expect { is_negated, pattern }).ok_or_else(|| not_known(line))
}

/// `200`, `200-299`, `200,204-299`.
fn codes(text: &str) -> Option<Vec<(u16, u16)>> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').map(range).collect()
}

/// The bytes of a string of hexadecimal digits.
pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    (digits.len() % 2 == 0).then(|| digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect())
}
