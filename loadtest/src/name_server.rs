//! A name server (DNS over UDP) that answers as a test says, and the files that make a program use it and nothing else.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::error::Doing;
use crate::{Result, programs};

/// DNS' own port: `resolv.conf` cannot name another one.
const PORT: u16 = 53;

/// The longest question that is read: a name has at most 255 bytes.
const QUESTION_LENGTH_MAX: usize = 512;

const HEADER_LENGTH: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CODE_OK: u8 = 0;
const CODE_SERVER_FAILURE: u8 = 2;
const CODE_NO_SUCH_NAME: u8 = 3;

/// How the server treats questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers them; names that it does not know do not exist.
    Answers,
    /// Does not answer.
    Silent,
    /// Answers that it has failed (SERVFAIL).
    Fails,
    /// Answers that the name exists and has no address.
    Empty,
}

/// A name server; ends when it is dropped.
#[derive(Debug)]
pub struct NameServer {
    zone: Arc<Mutex<Zone>>,
    ip: Ipv4Addr,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Zone {
    behaviour: Behaviour,
    names: HashMap<String, Vec<IpAddr>>,
    questions: usize,
}

/// Files to be put in place of this host's own, see [`PgvaneBuilder::by_name`](crate::pgvane::PgvaneBuilder::by_name).
#[derive(Debug, Clone)]
pub struct ResolverFiles {
    pub(crate) hosts: PathBuf,
    pub(crate) resolv_conf: PathBuf,
}

impl ResolverFiles {
    /// A command that runs `program`, in the process that is started, with these files in place of `/etc/hosts` and
    /// `/etc/resolv.conf`, for this program alone. Takes root.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(programs::on_path("unshare")?);
        command.arg("--mount");
        self.put_before(program, &mut command);
        Ok(command)
    }

    /// Completes a command that runs its arguments in a mount namespace of its own.
    pub(crate) fn put_before(&self, program: &Path, command: &mut Command) {
        const SCRIPT: &str =
            "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && shift 2 && exec \"$@\"";
        command.args(["/bin/sh", "-c", SCRIPT, "sh"]).arg(&self.hosts).arg(&self.resolv_conf).arg(program);
    }
}

impl NameServer {
    /// Starts one at this address, which knows no names.
    pub async fn start(ip: Ipv4Addr) -> Result<NameServer> {
        let socket = UdpSocket::bind((ip, PORT)).await.doing(|| format!("listening on {ip}, UDP port {PORT}"))?;
        let zone = Zone { behaviour: Behaviour::Answers, names: HashMap::new(), questions: 0 };
        let zone = Arc::new(Mutex::new(zone));
        let task = tokio::spawn(serve(socket, Arc::clone(&zone)));
        Ok(NameServer { zone, ip, task })
    }

    /// From now on the name has these addresses.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        self.with_zone(|zone| drop(zone.names.insert(name.to_owned(), addresses.to_vec())));
    }

    /// From now on the name does not exist.
    pub fn remove(&self, name: &str) {
        self.with_zone(|zone| drop(zone.names.remove(name)));
    }

    /// From now on it treats questions so.
    pub fn behave(&self, behaviour: Behaviour) {
        self.with_zone(|zone| zone.behaviour = behaviour);
    }

    /// The number of questions that have reached it.
    pub fn questions(&self) -> usize {
        self.with_zone(|zone| zone.questions)
    }

    /// Writes the files that make a program ask this server, into `directory`.
    pub fn files(&self, directory: &Path) -> Result<ResolverFiles> {
        let write = |name: &str, text: String| {
            let file = directory.join(name);
            fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
            Ok(file)
        };
        let hosts = write("names-hosts", "127.0.0.1 localhost\n".to_owned())?;
        let resolv_conf = write("names-resolv.conf", format!("nameserver {}\n", self.ip))?;
        Ok(ResolverFiles { hosts, resolv_conf })
    }

    fn with_zone<T>(&self, act: impl FnOnce(&mut Zone) -> T) -> T {
        act(&mut self.zone.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut question = [0; QUESTION_LENGTH_MAX];
    while let Ok((length, from)) = socket.recv_from(&mut question).await {
        let answer = {
            let mut zone = zone.lock().unwrap_or_else(PoisonError::into_inner);
            zone.questions += 1;
            zone.answer(&question[..length])
        };
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, from).await; // the program may have ended
        }
    }
}

impl Zone {
    /// The answer to a message with one question (RFC 1035, section 4); none if it is not such a message.
    fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let (name, end) = read_name(message)?;
        let kind = u16::from_be_bytes(message.get(end..end + 2)?.try_into().ok()?);
        let question = message.get(HEADER_LENGTH..end + 4)?;
        let (code, addresses) = match (self.behaviour, self.names.get(&name)) {
            (Behaviour::Silent, _) => return None,
            (Behaviour::Fails, _) => (CODE_SERVER_FAILURE, &[][..]),
            (Behaviour::Empty, _) => (CODE_OK, &[][..]),
            (Behaviour::Answers, None) => (CODE_NO_SUCH_NAME, &[][..]),
            (Behaviour::Answers, Some(addresses)) => (CODE_OK, &addresses[..]),
        };
        let records: Vec<Vec<u8>> = addresses.iter().filter_map(|address| record(*address, kind)).collect();
        let count = u16::try_from(records.len()).ok()?.to_be_bytes();
        let mut answer = message.get(..2)?.to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1, count[0], count[1], 0, 0, 0, 0]);
        answer.extend(question);
        answer.extend(records.concat());
        Some(answer)
    }
}

/// The name in the question, and where it ends.
fn read_name(message: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), HEADER_LENGTH);
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8(message.get(at..at + length)?.to_vec()).ok()?);
        at += length;
    }
}

/// A record for the name in the question, if it is of the kind that is wanted. It may not be cached.
fn record(address: IpAddr, wanted: u16) -> Option<Vec<u8>> {
    let (kind, data) = match address {
        IpAddr::V4(ip) => (TYPE_A, ip.octets().to_vec()),
        IpAddr::V6(ip) => (TYPE_AAAA, ip.octets().to_vec()),
    };
    let length = u8::try_from(data.len()).ok()?;
    let head = [0xc0, 0x0c, 0, u8::try_from(kind).ok()?, 0, 1, 0, 0, 0, 0, 0, length];
    (kind == wanted).then(|| [&head[..], &data].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_with_the_records_of_its_kind() {
        let addresses = vec![Ipv4Addr::LOCALHOST.into(), "2001:db8::1".parse().expect("an address")];
        let names = HashMap::from([("pg1.test".to_owned(), addresses)]);
        let mut zone = Zone { behaviour: Behaviour::Answers, names, questions: 0 };
        let question =
            |name: &[u8], kind: u8| [&[7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &[0, 0, kind, 0, 1]].concat();
        let answer = zone.answer(&question(b"\x03pg1\x04test", 1)).expect("is a question");
        assert_eq!(answer[..12], [7, 9, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert!(answer.ends_with(&[0, 4, 127, 0, 0, 1]), "{answer:?}");
        let answer = zone.answer(&question(b"\x03pg1\x04test", 28)).expect("is a question");
        assert_eq!((answer[7], answer.last()), (1, Some(&1)), "{answer:?}");
        let answer = zone.answer(&question(b"\x03pg2\x04test", 1)).expect("is a question");
        assert_eq!((answer[3], answer[7]), (0x83, 0));
        assert_eq!(zone.answer(b"\x07\x09"), None);
        zone.behaviour = Behaviour::Empty;
        let answer = zone.answer(&question(b"\x03pg1\x04test", 1)).expect("is a question");
        assert_eq!((answer[3], answer[7]), (0x80, 0), "the name exists and has no address");
    }
}
