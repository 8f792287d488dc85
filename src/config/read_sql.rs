//! Reads `[cluster.sql]`: how pgvane logs in to PostgreSQL for checks.

use super::read_secret::password;
use super::section::{Section, at_least_ms, set};
use super::{RequireAuth, Sql, read_tls};

const USER_HINT: &str = "write the role to log in as, for example user = \"pgvane\"; it needs LOGIN and no other right";

/// Reads the table. A faulty value is reported, and its default is used, so that all faults are found.
pub(super) fn sql(section: Section<'_>) -> Sql {
    let user = section.required_string("user", USER_HINT).unwrap_or_default();
    let mut sql = Sql::of_user(&user);
    sql.password = password(&section, "cluster.sql");
    let methods =
        [("scram-sha-256", RequireAuth::ScramSha256), ("md5", RequireAuth::Md5), ("password", RequireAuth::Password)];
    set(&mut sql.require_auth, section.choice("require_auth", &methods));
    set(&mut sql.database, section.string("database"));
    set(&mut sql.application_name, section.string("application_name"));
    set(&mut sql.reconnect, section.duration("reconnect", at_least_ms(1000)));
    sql.tls = read_tls::towards_servers(&section, sql.tls.mode);
    section.finish();
    sql
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use crate::config::Secret;
    use crate::config::{Check, Config, Faults};
    use crate::tls::{SslMode, TlsSettings};

    fn file(cluster: &str, sql: &str) -> Result<Config, Faults> {
        let text = format!(
            "[[cluster]]\n{cluster}\n{sql}\n[[cluster.node]]\naddress = \"10.0.0.1:5432\"\n\
             [[listener]]\nbind = \"0.0.0.0:6432\"\ntarget = \"leader\"\n"
        );
        Config::from_toml("test.toml", &text)
    }

    fn check(cluster: &str, sql: &str) -> Check {
        file(cluster, sql).unwrap_or_else(|faults| panic!("{faults}")).clusters[0].check.clone()
    }

    fn faults(cluster: &str, sql: &str) -> String {
        file(cluster, sql).map(|_| ()).expect_err("has faults").to_string()
    }

    #[test]
    fn the_shortest_table_has_every_default() {
        let Check::Sql(sql) = check("check = \"sql\"", "[cluster.sql]\nuser = \"pgvane\"") else { panic!("is sql") };
        assert_eq!((sql.user.as_str(), sql.database.as_str()), ("pgvane", "postgres"));
        assert_eq!((sql.password, sql.tls), (None, TlsSettings::of_mode(SslMode::Prefer)));
        assert_eq!((sql.reconnect, sql.application_name.as_str()), (Duration::from_secs(300), "pgvane check"));
    }

    #[test]
    fn every_key_is_read_and_the_password_is_not_shown() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        fs::write(&path, "  s3cret\n").expect("is written");
        let table = format!(
            "[cluster.sql]\nuser = \"u\"\npassword_file = \"{}\"\ndatabase = \"d\"\nsslmode = \"require\"\n\
             reconnect = \"1min\"\napplication_name = \"a\"",
            path.display()
        );
        let Check::Patroni { second_opinion: Some(sql) } = check("", &table) else { panic!("is a second opinion") };
        assert_eq!(sql.password.as_ref().map(Secret::reveal), Some("s3cret"));
        assert_eq!((sql.tls.mode, sql.reconnect), (SslMode::Require, Duration::from_secs(60)));
        assert!(!format!("{sql:?}").contains("s3cret"));
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let table = "[cluster.sql]\nusr = \"x\"\npassword = \"p\"\npassword_file = \"/nowhere/p\"\n\
                     sslmode = \"verify_full\"\nclient_cert_file = \"/nowhere/c\"\nreconnect = 5";
        let told = faults("check = \"sql\"\ndiscover = true", table);
        for line in [
            "test.toml:3: cluster.discover",
            "test.toml:5: unknown key \"usr\"",
            "test.toml:7: cluster.sql has both",
            "test.toml:7: cluster.sql.password_file: cannot read /nowhere/p",
            "hint: write \"verify-full\"",
            "test.toml:9: cluster.sql.client_key_file is missing",
            "test.toml:10: cluster.sql.reconnect: the unit of the duration is missing",
        ] {
            assert!(told.contains(line), "{line} is not in:\n{told}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        assert!(faults("check = \"sql\"", "").contains("needs [cluster.sql]"));
        let of = |line: &str| faults("check = \"sql\"", &format!("[cluster.sql]\nuser = \"u\"\n{line}"));
        assert!(of("sslmode = \"verify-full\"").contains("ca_file is missing"));
        assert!(of("ca_file = \"/x\"").contains("has no effect"));
        assert!(of("sslmode = \"require\"\nca_file = \"/nowhere/ca\"").contains("no certificate in /nowhere/ca"));
        let keyed = "sslmode = \"disable\"\nclient_cert_file = \"/c\"\nclient_key_file = \"/k\"";
        assert!(of(keyed).contains("no effect with sslmode = \"disable\""));
    }

    #[test]
    fn a_pooler_is_not_asked_by_the_sql_check() {
        let of = |lines: &str, sql: &str| {
            let text = format!(
                "[[cluster]]\n{sql}\n[[cluster.node]]\naddress = \"pg1:6432\"\nkind = \"pooler\"\n{lines}\n\
                 [[listener]]\nbind = \"*:6432\"\ntarget = \"leader\"\n"
            );
            Config::from_toml("test.toml", &text).map(|config| config.clusters[0].nodes[0].clone())
        };
        let sql = "[cluster.sql]\nuser = \"u\"";
        let node = of("check_address = \"pg1:5432\"", sql).expect("is valid");
        let shown = [node.checked_address(), &node.address].map(ToString::to_string);
        assert_eq!(shown, ["pg1:5432", "pg1:6432"]);
        let unasked = of("", "").expect("only Patroni is asked");
        assert_eq!(unasked.checked_address(), &unasked.address);
        assert!(of("", sql).expect_err("is missing").to_string().contains("check_address is missing"));
        assert!(of("check_address = \"pg1\"", sql).expect_err("no port").to_string().contains("is not HOST:PORT"));
    }

    #[test]
    fn a_nodes_patroni_may_stay_in_the_file() {
        let text = "[[cluster]]\ncheck = \"sql\"\n[cluster.sql]\nuser = \"u\"\n[[cluster.node]]\n\
                    address = \"pg1:5432\"\npatroni = \"http://pg1:8008\"\n[[listener]]\nbind = \"*:6432\"\n\
                    target = \"leader\"\n";
        assert!(Config::from_toml("test.toml", text).is_ok());
    }
}
