//! Reads `[admin]`: where the stats page is served, and which users may change the state of nodes.

use super::read_secret::password;
use super::section::{Section, distinct};
use super::{Admin, AdminSocket, AdminUser, read_admin_sockets};
use crate::net::Bind;

const PATH: &str = "admin.users";

/// Reads the table: what is served over HTTP, `None` if `enabled` is false; and the sockets.
pub(super) fn admin(root: &Section<'_>) -> (Option<Admin>, Vec<AdminSocket>) {
    let mut admin = Admin::default();
    let Some(section) = root.section("admin") else { return (Some(admin), Vec::new()) };
    let sockets = read_admin_sockets::sockets(&section);
    let is_enabled = section.boolean("enabled").unwrap_or(true);
    match section.bind("bind") {
        Some(Bind::Tcp(address)) => admin.bind = address,
        Some(Bind::Unix(_)) => {
            section.fault_at(
                "bind",
                "admin.bind is a Unix socket",
                "the stats page is served on TCP only: write IP:PORT",
            );
        }
        None => {}
    }
    admin.users = section.sections("users").into_iter().filter_map(user).collect();
    admin.requires_login = section.boolean("require_login").unwrap_or(false);
    if admin.requires_login && !section.has("users") {
        section.fault_at(
            "require_login",
            "admin.require_login needs users",
            "add [[admin.users]] with name and password",
        );
    }
    admin.hosts = hosts(&section);
    distinct(&section, "users", &admin.users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>());
    section.finish();
    (is_enabled.then_some(admin), sockets)
}

fn hosts(section: &Section<'_>) -> Vec<String> {
    const HINT: &str = "write host names without a port, for example hosts = [\"pgvane.example.com\"]";
    let hosts = section.strings("hosts");
    let is_name = |host: &str| {
        host == "*" || !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
    };
    for wrong in hosts.iter().filter(|host| !is_name(host.as_str())) {
        section.fault_at("hosts", format!("admin.hosts has \"{wrong}\", which is not a host name"), HINT);
    }
    hosts
}

fn user(section: Section<'_>) -> Option<AdminUser> {
    let name = section.required_string("name", "write the name to log in with, for example name = \"ops\"");
    if name.as_ref().is_some_and(|name| name.contains(':')) {
        section.fault_at(
            "name",
            format!("{PATH}.name contains a colon"),
            "remove the colon: HTTP Basic authentication does not allow it in a name",
        );
    }
    let password = password(&section, PATH);
    if !section.has("password") && !section.has("password_file") {
        section.missing(
            "password",
            format!("{PATH}.password is missing"),
            "write password_file = \"/etc/pgvane/admin-password\"",
        );
    }
    if password.as_ref().is_some_and(|password| password.reveal().is_empty()) {
        section.fault_at(
            "password",
            format!("{PATH}.password is empty"),
            "write a password of at least twenty characters",
        );
    }
    section.finish();
    Some(AdminUser { name: name?, password: password? })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use crate::config::Config;

    const REST: &str = "[[cluster]]\n[[cluster.node]]\naddress = \"10.0.0.1:5432\"\n\
                        [[listener]]\nbind = \"0.0.0.0:6432\"\ntarget = \"leader\"\n";

    fn read(admin: &str) -> Result<Config, Vec<(Option<usize>, String)>> {
        let read = Config::from_toml("test.toml", &format!("{admin}\n{REST}"));
        read.map_err(|faults| faults.list.into_iter().map(|fault| (fault.line, fault.message)).collect())
    }

    #[test]
    fn each_user_has_a_password() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("password");
        std::fs::write(&file, "from a file\n").expect("is writable");
        let users = format!(
            "[admin]\nusers = [{{ name = \"ops\", password = \"own\" }}, {{ name = \"bot\", password_file = \"{}\" }}]",
            file.display()
        );
        let admin = read(&users).expect("is valid").admin.expect("is served");
        let shown: Vec<_> = admin.users.iter().map(|user| (user.name.as_str(), user.password.reveal())).collect();
        assert_eq!(shown, [("ops", "own"), ("bot", "from a file")]);
        assert!(!format!("{admin:?}").contains("own"));
    }

    #[test]
    fn a_password_file_of_root_may_be_readable_for_a_group_but_not_for_everybody() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("password");
        std::fs::write(&file, "secret").expect("is ours");
        let users = format!("[admin]\nusers = [{{ name = \"ops\", password_file = \"{}\" }}]", file.display());
        let warnings = |mode| {
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).expect("is ours");
            read(&users).expect("is valid").file_warnings
        };
        assert_eq!(warnings(0o600), Vec::<String>::new());
        let is_root = std::fs::metadata(&file).expect("is there").uid() == 0;
        assert_eq!(warnings(0o640).is_empty(), is_root, "pgvane may be of the group, as with a private key");
        let everybody = warnings(0o644);
        assert!(everybody[0].contains("chmod 0600") && everybody[0].contains("chmod 0640"), "{everybody:?}");
    }

    #[test]
    fn hosts_are_names_without_a_port() {
        let read_hosts = |hosts: &str| read(&format!("[admin]\nhosts = {hosts}"));
        let admin = read_hosts("[\"pgvane.example.com\", \"pg_1\"]").expect("is valid").admin.expect("is served");
        assert_eq!(admin.hosts, ["pgvane.example.com", "pg_1"]);
        for wrong in ["[\"pgvane:8404\"]", "[\"http://pgvane\"]", "[\"\"]", "\"pgvane\"", "[\"a b\"]"] {
            let faults = read_hosts(wrong).expect_err(wrong);
            assert!(faults.iter().all(|fault| fault.1.contains("hosts")) && !faults.is_empty(), "{wrong}: {faults:?}");
        }
    }

    #[test]
    fn users_without_a_name_or_a_password_are_faults() {
        for (user, fault) in [
            ("{ name = \"ops\" }", "admin.users.password is missing"),
            ("{ name = \"ops\", password = \"\" }", "admin.users.password is empty"),
            ("{ name = \"ops\", password_file = \"/no/such/file\" }", "cannot read /no/such/file"),
            ("{ password = \"x\" }", "admin.users.name is missing"),
            ("{ name = \"a:b\", password = \"x\" }", "colon"),
            ("{ name = \"ops\", password = \"x\", role = \"any\" }", "unknown key \"role\" in [admin.users]"),
            (
                "{ name = \"ops\", password = \"x\" }, { name = \"ops\", password = \"y\" }",
                "users \"ops\" is given twice",
            ),
        ] {
            let faults = read(&format!("[admin]\nusers = [{user}]")).expect_err(user);
            assert_eq!(faults.len(), 1, "{user}: {faults:?}");
            assert!(faults[0].1.contains(fault) && faults[0].0 == Some(2), "{user}: {faults:?}");
        }
    }
}
