//! Reads how connections are encrypted: a listener's `tls` and `server_tls`, and the TLS keys of `[cluster.sql]`.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::Listener;
use super::section::{Section, set};
use crate::tls::{
    Acceptor, ClientTls, IdentityFiles, Negotiation, ServerTls, SslMode, Terminate, TlsError, TlsSettings,
    VerifyClient, Version, expiries,
};

/// A certificate that expires within this time is worth a warning: the usual ones are renewed a month before.
const EXPIRES_SOON_DAYS: i64 = 21;

const SECONDS_A_DAY: i64 = 86_400;

const SSLMODES: [(&str, SslMode); 5] = [
    ("disable", SslMode::Disable),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

/// `listener.tls.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Passthrough,
    Disable,
    Terminate,
}

const MODES: [(&str, Mode); 3] =
    [("passthrough", Mode::Passthrough), ("disable", Mode::Disable), ("terminate", Mode::Terminate)];

/// Reads a listener's `tls` and `server_tls`. A faulty value is reported, and its default is used, so that all faults
/// are found.
pub(super) fn listener(section: &Section<'_>, listener: &Listener) -> (ClientTls, TlsSettings) {
    let tls = towards_clients(section).unwrap_or_else(|| listener.tls.clone());
    let server_tls = match section.section_if_table("server_tls") {
        Some(table) => {
            let settings = towards_servers(&table, listener.server_tls.mode);
            table.finish();
            settings
        }
        None => TlsSettings::of_mode(server_mode(section).unwrap_or(listener.server_tls.mode)),
    };
    if tls == ClientTls::Passthrough && server_tls.mode != SslMode::Disable {
        section.fault_at(
            "server_tls",
            "listener.server_tls has no effect with tls = \"passthrough\"",
            "remove server_tls: clients negotiate TLS with the node themselves; or write tls = \"disable\", or \
             mode = \"terminate\" in [listener.tls]",
        );
    }
    (tls, server_tls)
}

/// `server_tls = "require"`: a mode that needs no files.
fn server_mode(section: &Section<'_>) -> Option<SslMode> {
    let mode = section.choice("server_tls", &SSLMODES)?;
    if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) {
        section.fault_at(
            "server_tls",
            "listener.server_tls.ca_file is missing: this sslmode verifies certificates",
            "write server_tls = { sslmode = \"verify-full\", ca_file = \"/path/of/ca.pem\" }",
        );
        return None;
    }
    Some(mode)
}

/// `None` if the key is absent or its value is faulty.
fn towards_clients(section: &Section<'_>) -> Option<ClientTls> {
    let Some(table) = section.section_if_table("tls") else {
        return match section.choice("tls", &MODES)? {
            Mode::Passthrough => Some(ClientTls::Passthrough),
            Mode::Disable => Some(ClientTls::Disable),
            Mode::Terminate => {
                section.fault_at(
                    "tls",
                    "listener.tls = \"terminate\" needs a certificate",
                    "write [listener.tls] with mode = \"terminate\", cert_file and key_file",
                );
                None
            }
        };
    };
    let mode = table.choice("mode", &MODES);
    if !table.has("mode") {
        table.fault("listener.tls.mode is missing", "write mode = \"terminate\", \"passthrough\" or \"disable\"");
    }
    let terminate = terminate(&table, mode);
    table.finish();
    match mode? {
        Mode::Passthrough => Some(ClientTls::Passthrough),
        Mode::Disable => Some(ClientTls::Disable),
        Mode::Terminate => terminate.map(ClientTls::Terminate),
    }
}

/// Reads the keys for `mode = "terminate"`. With another mode they are faults.
fn terminate(table: &Section<'_>, mode: Option<Mode>) -> Option<Terminate> {
    let before = table.fault_count();
    if let Some(mode @ (Mode::Passthrough | Mode::Disable)) = mode {
        let keys = ["cert_file", "key_file", "sslmode", "verify_client", "client_ca_file", "min_protocol_version"];
        for key in keys.into_iter().filter(|key| table.has(key)) {
            let name = MODES.iter().find(|(_, known)| *known == mode).map_or("", |(name, _)| name);
            let message = format!("{} has no effect with mode = \"{name}\"", table.named(key));
            table.fault_at(key, message, "remove it, or write mode = \"terminate\"");
            table.mark_known(key);
        }
        return None;
    }
    let hint = "name a PEM file with pgvane's certificate, followed by the intermediate certificates";
    let cert_file = table.required_string("cert_file", hint);
    let key_file = table.required_string("key_file", "name a PEM file with the private key of the certificate");
    let is_required = table.choice("sslmode", &[("prefer", false), ("require", true)]);
    let min_version = table.choice("min_protocol_version", &Version::ALL.map(|version| (version.label(), version)));
    let verify_client = verify_client(table, is_required.unwrap_or(false));

    let terminate = Terminate {
        identity: IdentityFiles { cert_file: cert_file?.into(), key_file: key_file?.into() },
        is_required: is_required.unwrap_or(false),
        verify_client,
        min_version: min_version.unwrap_or(Version::Tls12),
    };
    try_files(table, before, || Acceptor::new(&terminate).err());
    Some(terminate)
}

/// `listener.tls.verify_client`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientCertificate {
    None,
    Optional,
    Required,
}

fn verify_client(table: &Section<'_>, is_tls_required: bool) -> VerifyClient {
    use ClientCertificate as Wanted;
    let choices = [("none", Wanted::None), ("optional", Wanted::Optional), ("required", Wanted::Required)];
    let wanted = table.choice("verify_client", &choices);
    // if the value is misspelt, it is not known whether the other keys contradict it
    let is_known = wanted.is_some() || !table.has("verify_client");
    let file = table.string("client_ca_file").map(PathBuf::from);
    if wanted == Some(Wanted::Required) && !is_tls_required {
        table.fault_at(
            "verify_client",
            "listener.tls.verify_client = \"required\" needs sslmode = \"require\", or clients may omit TLS",
            "add sslmode = \"require\", or write verify_client = \"optional\"",
        );
    }
    match (wanted.unwrap_or(Wanted::None), file) {
        (Wanted::Optional, Some(file)) => return VerifyClient::Optional(file),
        (Wanted::Required, Some(file)) => return VerifyClient::Required(file),
        (Wanted::Optional | Wanted::Required, None) => table.fault_at(
            "verify_client",
            "listener.tls.client_ca_file is missing: verify_client needs it",
            "name a PEM file with the certificate of the authority that signs the clients' certificates",
        ),
        (Wanted::None, Some(_)) if is_known => table.fault_at(
            "client_ca_file",
            "listener.tls.client_ca_file has no effect with verify_client = \"none\"",
            "remove it, or write verify_client = \"required\" or \"optional\"",
        ),
        (Wanted::None, _) => {}
    }
    VerifyClient::None
}

/// Reads a table's keys for TLS with servers. They have the names and values of libpq's parameters.
pub(super) fn towards_servers(section: &Section<'_>, default: SslMode) -> TlsSettings {
    let before = section.fault_count();
    let mut settings = TlsSettings::of_mode(default);
    let mode = section.choice("sslmode", &SSLMODES);
    // if the mode is misspelt, it is not known whether the other keys contradict it
    let is_known = mode.is_some() || !section.has("sslmode");
    set(&mut settings.mode, mode);
    let negotiations = [("postgres", Negotiation::Postgres), ("direct", Negotiation::Direct)];
    set(&mut settings.negotiation, section.choice("sslnegotiation", &negotiations));
    settings.ca_file = section.string("ca_file").map(PathBuf::from);
    let cert_file = section.string("client_cert_file").map(PathBuf::from);
    let key_file = section.string("client_key_file").map(PathBuf::from);
    let incomplete = |given, missing, hint: &str| {
        section.fault_at(given, format!("{} is missing", section.named(missing)), hint);
    };
    match (&cert_file, &key_file) {
        (Some(_), None) => incomplete(
            "client_cert_file",
            "client_key_file",
            "client_cert_file needs it: add client_key_file with the private key",
        ),
        (None, Some(_)) => incomplete(
            "client_key_file",
            "client_cert_file",
            "client_key_file needs it: add client_cert_file with the certificate",
        ),
        _ => {}
    }
    settings.identity = cert_file.zip(key_file).map(|(cert_file, key_file)| IdentityFiles { cert_file, key_file });
    if is_known {
        contradictions(section, &settings);
        try_files(section, before, || ServerTls::new(&settings).err());
    }
    settings
}

fn contradictions(section: &Section<'_>, settings: &TlsSettings) {
    let verifies = matches!(settings.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    match (settings.mode, &settings.ca_file) {
        (SslMode::Disable | SslMode::Prefer, Some(_)) => section.fault_at(
            "ca_file",
            format!("{} has no effect with this sslmode: no certificate is verified", section.named("ca_file")),
            "write sslmode = \"verify-full\", or \"verify-ca\" if the certificates do not contain the host names",
        ),
        (_, None) if verifies => section.fault_at(
            "sslmode",
            format!("{} is missing: this sslmode verifies certificates", section.named("ca_file")),
            "name a PEM file with the authority's certificate; the system's authorities are often in \
             /etc/ssl/certs/ca-certificates.crt",
        ),
        _ => {}
    }
    if settings.mode == SslMode::Disable && settings.identity.is_some() {
        section.fault_at(
            "client_cert_file",
            format!("{} has no effect with sslmode = \"disable\"", section.named("client_cert_file")),
            "remove client_cert_file and client_key_file, or write sslmode = \"verify-full\"",
        );
    }
    if settings.negotiation == Negotiation::Direct && matches!(settings.mode, SslMode::Disable | SslMode::Prefer) {
        section.fault_at(
            "sslnegotiation",
            format!(
                "{} = \"direct\" needs TLS, and this sslmode allows connections without TLS",
                section.named("sslnegotiation")
            ),
            "write sslmode = \"require\", \"verify-ca\" or \"verify-full\"",
        );
    }
}

/// Reads the files, but only if the table has no other fault, so that one mistake is not reported twice.
fn try_files(section: &Section<'_>, faults_before: usize, read: impl FnOnce() -> Option<TlsError>) {
    if section.fault_count() > faults_before {
        return;
    }
    warn_of_expiry(section);
    if let Some(error) = read() {
        let keys = ["cert_file", "key_file", "client_ca_file", "ca_file", "client_cert_file", "client_key_file"];
        let named = |key: &&str| error.file().is_some_and(|file| section.is_string(key, &file.to_string_lossy()));
        let message = |name: String| format!("{name}: {error}");
        let hint = "write the path of a PEM file that pgvane can read and that matches the other files";
        match keys.into_iter().find(named) {
            Some(key) => section.fault_at(key, message(section.named(key)), hint),
            None => section.fault(message(section.path().to_owned()), hint),
        }
    }
}

/// Warns of certificates that have expired, or will soon, in the files that a table names.
pub(super) fn warn_of_expiry(section: &Section<'_>) {
    let now = Timestamp::now();
    for key in ["cert_file", "client_ca_file", "ca_file", "client_cert_file", "client_identity_file"] {
        let Some(file) = section.text(key) else { continue };
        for (names, expires) in expiries(Path::new(&file)) {
            let of = if names.is_empty() { String::new() } else { format!(" of {names}") };
            let days = expires.duration_since(now).as_secs() / SECONDS_A_DAY;
            let when = match expires <= now {
                true => format!("expired on {expires}"),
                false if days < EXPIRES_SOON_DAYS => format!("expires in {days} days, on {expires}"),
                false => continue,
            };
            section.warn_at(key, format!("{}: the certificate{of} in {file} {when}", section.named(key)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Config;
    use crate::tls::world::World;

    fn read(listener: &str) -> Result<Config, String> {
        let text = format!(
            "[[cluster]]\n[[cluster.node]]\naddress = \"10.0.0.1:5432\"\n\
             [[listener]]\nbind = \"0.0.0.0:6432\"\ntarget = \"leader\"\n{listener}\n"
        );
        Config::from_toml("test.toml", &text).map_err(|faults| faults.to_string())
    }

    fn good(listener: &str) -> (ClientTls, TlsSettings) {
        let listener = read(listener).unwrap_or_else(|faults| panic!("{faults}")).listeners.remove(0);
        (listener.tls, listener.server_tls)
    }

    fn faults(listener: &str) -> String {
        read(listener).map(|_| ()).expect_err("has faults")
    }

    #[test]
    fn a_string_is_enough_if_no_files_are_needed() {
        let disable = TlsSettings::of_mode(SslMode::Disable);
        assert_eq!(good(""), (ClientTls::Passthrough, disable.clone()));
        assert_eq!(good("tls = \"passthrough\"\nserver_tls = \"disable\""), (ClientTls::Passthrough, disable.clone()));
        assert_eq!(good("tls = \"disable\""), (ClientTls::Disable, disable));
        let require = TlsSettings::of_mode(SslMode::Require);
        assert_eq!(good("tls = \"disable\"\nserver_tls = \"require\""), (ClientTls::Disable, require));
    }

    #[test]
    fn certificates_that_expire_are_warnings_with_their_lines() {
        let world = World::new();
        let read_with = |year, month, day| {
            let mut params = rcgen::CertificateParams::new(["db.example.org".to_owned()]).expect("a name");
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, month, day);
            let key = rcgen::KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("a certificate");
            let (cert, key) = (world.file("c.pem", &certificate.pem()), world.file("c.key", &key.serialize_pem()));
            let files = format!("cert_file = \"{}\"\nkey_file = \"{}\"", cert.display(), key.display());
            let config = read(&format!("[listener.tls]\nmode = \"terminate\"\n{files}")).expect("is valid");
            (cert.display().to_string(), config.file_warnings)
        };
        let (file, warnings) = read_with(2020, 1, 1);
        let named = format!("test.toml:9: listener.tls.cert_file: the certificate of db.example.org in {file}");
        assert_eq!(warnings, [format!("{named} expired on 2020-01-01T00:00:00Z")]);
        let soon = Timestamp::now() + std::time::Duration::from_secs(5 * 86_400);
        let soon = soon.to_zoned(jiff::tz::TimeZone::UTC).date();
        let (_, warnings) = read_with(soon.year().into(), soon.month() as u8, soon.day() as u8);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with(&format!("{named} expires in 4 days, on {soon}")), "{warnings:?}");
        assert_eq!(read_with(2090, 1, 1).1, Vec::<String>::new());
    }

    #[test]
    fn a_key_that_others_can_read_is_a_fault_at_its_key() {
        let world = World::new();
        let IdentityFiles { cert_file, key_file } = world.identity("pgvane", "localhost");
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).expect("is ours");
        let [cert, key] = [&cert_file, &key_file].map(|file| file.display());
        for table in ["tls]\nmode = \"terminate\"\n", "server_tls]\nsslmode = \"require\"\nclient_"] {
            let second = table.rsplit('\n').next().unwrap_or_default();
            let text = format!("[listener.{table}cert_file = \"{cert}\"\n{second}key_file = \"{key}\"\n");
            let text = if second.is_empty() { text } else { format!("tls = \"disable\"\n{text}") };
            let shown = faults(&text);
            assert!(shown.contains(&format!("other users can read the private key in {key}")), "{shown}");
            assert!(shown.contains("key_file: "), "{shown}");
        }
    }

    #[test]
    fn every_key_is_read() {
        let world = World::new();
        let IdentityFiles { cert_file, key_file } = world.identity("pgvane", "localhost");
        let ca_file = world.ca_file();
        let [cert, key, ca] = [&cert_file, &key_file, &ca_file].map(|file| file.display());
        let files = format!("[listener.tls]\nmode = \"terminate\"\ncert_file = \"{cert}\"\nkey_file = \"{key}\"\n");
        let identity = IdentityFiles { cert_file: cert_file.clone(), key_file: key_file.clone() };
        let least = Terminate {
            identity: identity.clone(),
            is_required: false,
            verify_client: VerifyClient::None,
            min_version: Version::Tls12,
        };
        assert_eq!(good(&files).0, ClientTls::Terminate(least));

        let (tls, server_tls) = good(&format!(
            "{files}sslmode = \"require\"\nverify_client = \"required\"\nclient_ca_file = \"{ca}\"\n\
             min_protocol_version = \"TLSv1.3\"\n\
             [listener.server_tls]\nsslmode = \"verify-full\"\nsslnegotiation = \"direct\"\nca_file = \"{ca}\"\n\
             client_cert_file = \"{cert}\"\nclient_key_file = \"{key}\"\n"
        ));
        let most = Terminate {
            identity: identity.clone(),
            is_required: true,
            verify_client: VerifyClient::Required(ca_file.clone()),
            min_version: Version::Tls13,
        };
        assert_eq!(tls, ClientTls::Terminate(most));
        let (mode, negotiation) = (SslMode::VerifyFull, Negotiation::Direct);
        let settings = TlsSettings { mode, negotiation, ca_file: Some(ca_file), identity: Some(identity) };
        assert_eq!(server_tls, settings);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let told = faults(
            "[listener.tls]\nmode = \"terminate\"\nkey_file = \"/nowhere/k\"\nverify_client = \"optional\"\n\
             min_protocol_version = \"TLSv1.1\"\ncert = \"/nowhere/c\"\n\
             [listener.server_tls]\nsslmode = \"prefer\"\nsslnegotiation = \"direct\"\nca_file = \"/nowhere/ca\"\n",
        );
        for line in [
            "test.toml:10: listener.tls.client_ca_file is missing",
            "test.toml:11: listener.tls.min_protocol_version: unknown value \"TLSv1.1\": expected TLSv1.2 or TLSv1.3",
            "test.toml:12: unknown key \"cert\" in [listener.tls]",
            "test.toml:15: listener.server_tls.sslnegotiation = \"direct\" needs TLS",
            "test.toml:16: listener.server_tls.ca_file has no effect with this sslmode",
        ] {
            assert!(told.contains(line), "{line} is not in:\n{told}");
        }
        assert!(!told.contains("cert_file is missing"), "\"cert\" stands for it:\n{told}");
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let world = World::new();
        let IdentityFiles { cert_file, key_file } = world.identity("pgvane", "localhost");
        let [cert, key, ca] = [cert_file, key_file, world.ca_file()].map(|file| file.display().to_string());
        let terminate = format!("[listener.tls]\nmode = \"terminate\"\ncert_file = \"{cert}\"\nkey_file = \"{key}\"\n");
        assert!(faults("tls = \"terminate\"").contains("needs a certificate"));
        assert!(faults("[listener.tls]\n").contains("listener.tls.mode is missing"));
        let useless = faults(&format!("[listener.tls]\nmode = \"disable\"\ncert_file = \"{cert}\"\n"));
        assert!(useless.contains("listener.tls.cert_file has no effect with mode = \"disable\""), "{useless}");
        assert!(!useless.contains("unknown key"), "{useless}");
        assert!(faults("server_tls = \"require\"").contains("has no effect with tls = \"passthrough\""));
        assert!(faults("tls = \"disable\"\nserver_tls = \"verify-full\"").contains("ca_file is missing"));
        let of = |line: &str| faults(&format!("{terminate}{line}\n"));
        assert!(of(&format!("client_ca_file = \"{ca}\"")).contains("has no effect with verify_client = \"none\""));
        let bypassed = of(&format!("verify_client = \"required\"\nclient_ca_file = \"{ca}\""));
        assert!(
            bypassed.contains("test.toml:11: listener.tls.verify_client = \"required\" needs sslmode"),
            "{bypassed}"
        );
    }

    #[test]
    fn files_that_cannot_be_used_are_named_at_their_keys() {
        let world = World::new();
        let IdentityFiles { cert_file, key_file } = world.identity("pgvane", "localhost");
        let other = world.identity("other", "localhost").key_file;
        let of = |cert: &Path, key: &Path, more: &str| {
            let files = format!("cert_file = \"{}\"\nkey_file = \"{}\"\n", cert.display(), key.display());
            faults(&format!("[listener.tls]\nmode = \"terminate\"\n{files}{more}"))
        };
        let mismatched = of(&cert_file, &other, "");
        let told = "test.toml:9: listener.tls.cert_file: the private key does not match the certificate";
        assert!(mismatched.contains(told), "{mismatched}");
        let keyless = of(&cert_file, &cert_file, "");
        assert!(keyless.contains("test.toml:9: listener.tls.cert_file: no private key in"), "{keyless}");
        let absent = of(&cert_file, "/nowhere/k".as_ref(), "");
        assert!(absent.contains("test.toml:10: listener.tls.key_file: no private key in /nowhere/k"), "{absent}");
        let empty = world.file("empty.pem", "").display().to_string();
        let asking = format!("verify_client = \"optional\"\nclient_ca_file = \"{empty}\"\n");
        let unsigned = of(&cert_file, &key_file, &asking);
        assert!(unsigned.contains("test.toml:12: listener.tls.client_ca_file: no certificate in"), "{unsigned}");
    }
}
