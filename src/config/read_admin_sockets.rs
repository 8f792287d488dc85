//! Reads `[[admin.sockets]]`: UNIX sockets that take the commands of HAProxy's runtime API.

use std::time::Duration;

use super::read_access::{account, mode};
use super::section::{Section, set};
use super::{AdminSocket, SocketLevel, account};
use crate::net::{Bind, UnixBind};

/// HAProxy's `stats timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Its owner may connect.
const MODE: u32 = 0o600;

/// Reads the array of tables. Sockets with a fault are left out.
pub(super) fn sockets(admin: &Section<'_>) -> Vec<AdminSocket> {
    admin.sections("sockets").into_iter().filter_map(socket).collect()
}

fn socket(section: Section<'_>) -> Option<AdminSocket> {
    let file = file(&section);
    let levels = SocketLevel::ALL.map(|level| (level.label(), level));
    let level = section.choice("level", &levels).unwrap_or(SocketLevel::Operator);
    let mut idle_timeout = IDLE_TIMEOUT;
    let bounds = Duration::from_millis(100)..Duration::from_secs(3601);
    set(&mut idle_timeout, section.duration("idle_timeout", bounds));
    section.finish();
    Some(AdminSocket { file: file?, level, idle_timeout })
}

fn file(section: &Section<'_>) -> Option<UnixBind> {
    const HINT: &str = "write an absolute path, for example path = \"/run/pgvane/admin.sock\"";
    let path = section.required_string("path", HINT);
    let mode = section.string("mode").and_then(|text| mode(section, "mode", &text)).unwrap_or(MODE);
    let owner = account(section, "owner", account::user);
    let group = account(section, "group", account::group);
    let path = path?;
    match Bind::parse(&format!("unix:{}", path.strip_prefix("unix:").unwrap_or(&path))) {
        Ok(Bind::Unix(unix)) => Some(UnixBind { mode, owner, group, ..unix }),
        _ => {
            section.fault_at("path", format!("admin.sockets.path: \"{path}\" is not the path of a socket"), HINT);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const REST: &str = "[[cluster]]\n[[cluster.node]]\naddress = \"10.0.0.1:5432\"\n\
                        [[listener]]\nbind = \"0.0.0.0:6432\"\ntarget = \"leader\"\n";

    fn read(socket: &str) -> Result<Vec<AdminSocket>, String> {
        let read = Config::from_toml("test.toml", &format!("[[admin.sockets]]\n{socket}\n{REST}"));
        read.map(|config| config.admin_sockets).map_err(|faults| faults.to_string())
    }

    #[test]
    fn a_socket_is_for_its_owner_and_changes_nothing_unless_the_file_says_so() {
        let smallest = read("path = \"/run/pgvane/admin.sock\"").expect("is valid");
        let [AdminSocket { file, level, idle_timeout }] = &smallest[..] else { panic!("{smallest:?}") };
        assert_eq!((file.path.to_str(), file.mode, file.owner), (Some("/run/pgvane/admin.sock"), 0o600, None));
        assert_eq!((*level, *idle_timeout), (SocketLevel::Operator, Duration::from_secs(10)));
        let all = "path = \"unix:/s\"\nmode = \"0660\"\nowner = \"root\"\ngroup = \"7\"\nlevel = \"admin\"\n\
                   idle_timeout = \"2min\"";
        let socket = read(all).expect("is valid").remove(0);
        let UnixBind { path, mode, owner, group } = socket.file;
        assert_eq!((path.to_str(), mode, owner, group), (Some("/s"), 0o660, Some(0), Some(7)));
        assert_eq!((socket.level, socket.idle_timeout), (SocketLevel::Admin, Duration::from_secs(120)));
    }

    #[test]
    fn the_socket_is_there_also_without_a_stats_page() {
        let text = format!("[admin]\nenabled = false\nsockets = [{{ path = \"/s\" }}]\n{REST}");
        let config = Config::from_toml("test.toml", &text).expect("is valid");
        assert_eq!((config.admin.is_none(), config.admin_sockets.len()), (true, 1));
    }

    #[test]
    fn faults_name_their_key() {
        for (socket, fault) in [
            ("", "admin.sockets.path is missing"),
            ("path = \"run/s\"", "admin.sockets.path: \"run/s\" is not the path of a socket"),
            ("path = \"/s\"\nmode = \"rw\"", "mode: \"rw\" is not a file mode"),
            ("path = \"/s\"\nlevel = \"root\"", "unknown value \"root\": expected user, operator or admin"),
            ("path = \"/s\"\nowner = \"no such user\"", "does not exist on this host"),
            ("path = \"/s\"\nidle_timeout = \"1d\"", "idle_timeout"),
            ("path = \"/s\"\nprocess = \"1\"", "unknown key \"process\""),
            ("path = \"/s\"\n[[admin.sockets]]\npath = \"/s\"", "[[admin.sockets]] listens on unix:/s twice"),
        ] {
            let faults = read(socket).expect_err(socket);
            assert!(faults.contains(fault), "{socket}: {faults}");
        }
    }
}
