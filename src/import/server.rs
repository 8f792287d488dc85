//! `server` and `default-server` lines: where a node is, and how it is checked.

use super::address::{self, Target, Time};
use super::findings::Findings;
use super::keywords;
use super::lexer::{Environment, Line};

/// What the words behind a server's address say, with what `default-server` lines said before.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// The lines that they come from.
    pub lines: Vec<usize>,
    pub is_checked: bool,
    pub port: Option<u16>,
    pub check_address: Option<Target>,
    pub check_ssl: bool,
    pub ssl: Option<usize>,
    /// The line and the value.
    pub verify: Option<(usize, String)>,
    pub ca_file: Option<String>,
    pub certificate: Option<String>,
    pub verify_host: Option<String>,
    pub is_backup: bool,
    pub is_disabled: bool,
    pub weight: Option<u32>,
    pub maxconn: Option<(usize, u64)>,
    pub inter: Option<Time>,
    pub fall: Option<u32>,
    pub rise: Option<u32>,
    pub slow_start: Option<(usize, Time)>,
    pub send_proxy: Proxying,
    pub track: Option<String>,
}

/// Whether sessions begin with a PROXY header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Proxying {
    #[default]
    None,
    V1,
    V2,
}

/// One server.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub line: usize,
    pub name: String,
    pub address: Target,
    pub settings: Settings,
}

/// Reads a `server` line. `None` if pgvane cannot use it; `findings` says why.
pub(super) fn server(
    line: &Line,
    defaults: &Settings,
    environment: &Environment,
    findings: &mut Findings,
) -> Option<Server> {
    let mut settings = defaults.clone();
    settings.read(line, 3, environment, findings);
    if line.word(2).is_empty() {
        findings.fault(line.number, format!("server {}: no address", line.word(1)), "write ADDRESS:PORT");
        return None;
    }
    let address = environment.expand_address(line.word(2)).and_then(|(text, unset)| {
        findings.expands(line.number, unset.clone());
        if unset.is_empty() { address::server(&text).map(Some) } else { Ok(None) }
    });
    match address {
        Ok(Some(address)) => Some(Server { line: line.number, name: line.word(1).to_owned(), address, settings }),
        // the variable that is not set is reported for the line as a whole
        Ok(None) => {
            findings.uses(line.number);
            None
        }
        Err(why) => {
            findings.obstacle(line.number, format!("server {}: {why}", line.word(1)), "write HOST:PORT of the node");
            None
        }
    }
}

impl Settings {
    /// Reads the words of a line from this place on.
    pub fn read(&mut self, line: &Line, from: usize, environment: &Environment, findings: &mut Findings) {
        self.lines.push(line.number);
        let mut place = from;
        while place < line.words.len() {
            let word = line.word(place);
            let Some(values) = keywords::server_values(word) else {
                findings.fault(
                    line.number,
                    format!("{} {}: unknown word \"{word}\": HAProxy refuses the file", line.word(0), line.word(1)),
                    "correct the word; haproxy -c must accept the file",
                );
                return;
            };
            let value = line.word(place + 1);
            if values > 0 && place + 1 >= line.words.len() {
                findings.fault(
                    line.number,
                    format!("\"{word}\" has no value: HAProxy refuses the file"),
                    "add the value",
                );
                return;
            }
            self.word(line, word, value, environment, findings);
            place += 1 + values;
        }
    }

    fn word(&mut self, line: &Line, word: &str, value: &str, environment: &Environment, findings: &mut Findings) {
        let number = line.number;
        match word {
            "check" => self.is_checked = true,
            "no-check" => self.is_checked = false,
            "port" => match value.parse::<u16>().ok().filter(|port| *port > 0) {
                Some(port) => self.port = Some(port),
                None => findings.fault(
                    number,
                    format!("check port {value}: not a port; HAProxy takes it for 0 and asks the server's own port"),
                    "write the port of Patroni's REST API, for example 8008",
                ),
            },
            "addr" => self.check_address(number, value, environment, findings),
            "inter" => self.inter = time(number, word, value, findings),
            "fall" => self.fall = count(number, word, value, findings),
            "rise" => self.rise = count(number, word, value, findings),
            "slowstart" => self.slow_start = time(number, word, value, findings).map(|time| (number, time)),
            "check-ssl" => self.check_ssl = true,
            "no-check-ssl" => self.check_ssl = false,
            "ssl" => self.ssl = Some(number),
            "no-ssl" => self.ssl = None,
            "verify" => self.verify = Some((number, value.to_owned())),
            "ca-file" => self.ca_file = Some(value.to_owned()),
            "crt" => self.certificate = Some(value.to_owned()),
            "verifyhost" => self.verify_host = Some(value.to_owned()),
            "backup" => self.is_backup = true,
            "no-backup" => self.is_backup = false,
            "disabled" => self.is_disabled = true,
            "enabled" => self.is_disabled = false,
            "weight" => self.weight = count(number, word, value, findings),
            "maxconn" => {
                self.maxconn =
                    number_of(number, word, value, findings).map(|max| (number, max)).filter(|(_, max)| *max > 0);
            }
            "send-proxy" => self.send_proxy = Proxying::V1,
            "send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => self.send_proxy = Proxying::V2,
            "no-send-proxy" | "no-send-proxy-v2" => self.send_proxy = Proxying::None,
            "on-marked-down" if value != "shutdown-sessions" => findings.fault(
                number,
                format!("on-marked-down {value}: HAProxy knows shutdown-sessions only, and refuses the file"),
                "correct the word; haproxy -c must accept the file",
            ),
            "track" => self.track = Some(value.to_owned()),
            "socks4" | "namespace" | "redir" | "usesrc" => findings.obstacle(
                number,
                format!("\"{word} {value}\": pgvane cannot reach a node in this way"),
                "remove it, or leave the section to HAProxy",
            ),
            other => {
                if let Some(note) = note(other, value) {
                    findings.note(number, note);
                }
            }
        }
    }

    fn check_address(&mut self, line: usize, value: &str, environment: &Environment, findings: &mut Findings) {
        let expanded = environment.expand_address(value);
        let read = expanded.and_then(|(text, unset)| {
            findings.expands(line, unset);
            let has_port =
                text.rsplit_once(':').is_some_and(|(host, port)| !host.contains(':') && port.parse::<u16>().is_ok());
            // without a port: 1 stands for "none"
            address::server(&if has_port { text } else { format!("{text}:1") })
        });
        match read {
            Ok(address) => self.check_address = Some(address),
            Err(why) => findings.obstacle(line, format!("addr: {why}"), "write the address of the REST API"),
        }
    }
}

/// What is said about a word that has no counterpart; `None` where nothing has to be said.
fn note(word: &str, value: &str) -> Option<String> {
    let text = match word {
        "fastinter" => format!(
            "fastinter {value}: not imported; fast_interval (100ms) is how often pgvane checks while there is no leader"
        ),
        "downinter" => format!("downinter {value}: not imported; pgvane checks silent nodes at interval too"),
        "on-marked-down" => format!(
            "on-marked-down {value}: pgvane ends the sessions of a node that lost the lead, with or without it, and not \
             those of a node that misses a check (see `on`)"
        ),
        "on-marked-up" => {
            format!("on-marked-up {value}: not imported; pgvane ends no sessions because another node comes back")
        }
        "maxqueue" => format!(
            "maxqueue {value}: not imported; HAProxy heeds it with stickiness only. hold_sessions_max limits how many wait"
        ),
        "minconn" => format!("minconn {value}: not imported; sessions_max does not depend on the load"),
        "resolvers" | "init-addr" | "resolve-prefer" | "resolve-opts" | "resolve-net" => {
            format!("{word} {value}: not imported; pgvane looks names up at each connect")
        }
        "agent-check" => {
            "agent-check: not imported; pgvane asks no agent, and an agent can no longer take a node out of \
                          service (use `pgvane drain`)"
                .to_owned()
        }
        "agent-addr" | "agent-inter" | "agent-port" | "agent-send" => return None,
        "observe" | "on-error" | "error-limit" => {
            format!("{word} {value}: not imported; pgvane checks the nodes at once when a session meets an error")
        }
        "source" => format!("source {value}: not imported; the system chooses the address that pgvane connects from"),
        "interface" => format!("interface {value}: not imported; the system chooses the interface"),
        "sni" | "check-sni" => format!("{word} {value}: not imported; pgvane sends the host of the node's URL"),
        "crl-file" => format!("crl-file {value}: not imported; pgvane reads no revocation lists"),
        "id" | "cookie" | "check-proto" | "enabled" | "tfo" | "no-tfo" => return None,
        "" => return None,
        _ => format!("{word}: not imported; pgvane has nothing like it"),
    };
    Some(text)
}

fn time(line: usize, word: &str, value: &str, findings: &mut Findings) -> Option<Time> {
    let time = Time::read(value);
    if time.is_none() {
        findings.fault(
            line,
            format!("{word} {value}: not a time: HAProxy refuses the file"),
            "write, for example, 2s or 500ms",
        );
    }
    time
}

fn count(line: usize, word: &str, value: &str, findings: &mut Findings) -> Option<u32> {
    number_of(line, word, value, findings).and_then(|number| u32::try_from(number).ok())
}

fn number_of(line: usize, word: &str, value: &str, findings: &mut Findings) -> Option<u64> {
    let number = value.parse().ok();
    if number.is_none() {
        findings.fault(line, format!("{word} {value}: not a number"), "write a whole number");
    }
    number
}
