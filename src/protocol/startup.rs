//! The content of a startup packet: its parameters, and the user and database in them. It is read as PostgreSQL's
//! `ProcessStartupPacket` reads it, because the access rules of a listener depend on it.

use std::fmt;
use std::ops::Range;

/// Length and protocol version.
pub(super) const HEADER_LENGTH: usize = 8;

/// `NAMEDATALEN` without the terminating zero: PostgreSQL truncates longer names.
pub const NAME_LENGTH_MAX: usize = 63;

/// As much of a name as PostgreSQL keeps of one, in whole characters: a client may send ten thousand bytes of it.
pub fn cut_to_name_length(name: &str) -> &str {
    let end = (0..=name.len().min(NAME_LENGTH_MAX)).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or_default()]
}

/// The parameters of a startup packet that pgvane uses. The names are kept in one allocation: there may be thousands of
/// sessions.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct StartupParameters {
    all: Box<str>,
    /// The ends of the user and of the database.
    ends: [u16; 2],
    /// Whether the client requests a replication connection.
    pub replication: Replication,
}

/// The client's `replication` parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replication {
    /// An ordinary session.
    #[default]
    None,
    /// Physical replication: a standby, `pg_basebackup`, `pg_receivewal`. It is not connected to a database.
    Physical,
    /// Logical replication, in one database: a subscription, `pg_recvlogical`.
    Logical,
}

/// What is wrong with a startup packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartupError {
    /// It names no user.
    NoUser,
    /// Its parameters are malformed; with the reason.
    Malformed(&'static str),
}

impl StartupParameters {
    /// A client with these names that requests an ordinary session.
    pub fn new(user: &str, database: &str, application_name: &str) -> StartupParameters {
        // a startup packet has less than 65536 bytes
        let end = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        let ends = [end(user.len()), end(user.len() + database.len())];
        StartupParameters {
            all: [user, database, application_name].concat().into(),
            ends,
            replication: Replication::None,
        }
    }

    /// Reads one whole startup packet. Errors: what is wrong with it.
    pub(super) fn read(packet: &[u8]) -> Result<StartupParameters, StartupError> {
        let (mut user, mut database, mut application_name) = (None, None, None);
        let mut walsender = Walsender::default();
        for parameter in parameters(packet) {
            let (name, value) = parameter.map_err(StartupError::Malformed)?;
            let value = &packet[value];
            match name {
                b"user" => user = Some(value),
                b"database" => database = Some(value),
                b"application_name" => application_name = Some(value),
                b"replication" => walsender.read(&String::from_utf8_lossy(value)),
                _ => {}
            }
        }
        let user = user.filter(|user| !user.is_empty()).ok_or(StartupError::NoUser)?;
        let database = database.filter(|name| !name.is_empty()).unwrap_or(user);
        let [user, database, application_name] =
            [user, database, application_name.unwrap_or_default()].map(String::from_utf8_lossy);
        Ok(StartupParameters {
            replication: walsender.replication(),
            ..StartupParameters::new(&user, &database, &application_name)
        })
    }

    /// The role to log in as.
    pub fn user(&self) -> &str {
        &self.all[..self.ends[0].into()]
    }

    /// The database; PostgreSQL takes the user's name if the client names none.
    pub fn database(&self) -> &str {
        &self.all[self.ends[0].into()..self.ends[1].into()]
    }

    /// The client's `application_name`.
    pub fn application_name(&self) -> &str {
        &self.all[self.ends[1].into()..]
    }
}

impl fmt::Debug for StartupParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StartupParameters({:?}, {:?}, ", self.user(), self.database())?;
        write!(f, "{:?}, {:?})", self.application_name(), self.replication)
    }
}

/// What PostgreSQL stores when it reads `replication` in a startup packet (`am_walsender`, `am_db_walsender`). If the
/// parameter comes twice, an earlier `database` still counts.
#[derive(Default)]
struct Walsender {
    is_one: bool,
    has_database: bool,
}

impl Walsender {
    /// Reads one value. False is every spelling of it that PostgreSQL's `parse_bool` accepts. Any other value except
    /// `database` means true, or PostgreSQL refuses it.
    fn read(&mut self, value: &str) {
        if value == "database" {
            (self.is_one, self.has_database) = (true, true);
            return;
        }
        let value = value.to_ascii_lowercase();
        let is_short_for = |spelling: &str, length_min| value.len() >= length_min && spelling.starts_with(&value);
        self.is_one = !(is_short_for("false", 1) || is_short_for("no", 1) || is_short_for("off", 2) || value == "0");
    }

    fn replication(&self) -> Replication {
        match (self.is_one, self.has_database) {
            (false, _) => Replication::None,
            (true, false) => Replication::Physical,
            (true, true) => Replication::Logical,
        }
    }
}

/// The parameters of a startup packet, in order: names, and the positions of their values. If a parameter comes twice,
/// the last one counts. The list ends one byte before the packet ends. An error, with the reason, is the last item.
pub(super) fn parameters(packet: &[u8]) -> impl Iterator<Item = Result<(&[u8], Range<usize>), &'static str>> {
    let text = |start: usize| {
        let length = packet.get(start..)?.iter().position(|byte| *byte == 0)?;
        Some(start..start + length)
    };
    let mut next = Some(HEADER_LENGTH);
    std::iter::from_fn(move || {
        let start = next.take()?;
        let both = text(start).and_then(|name| match name.is_empty() {
            true => Some((name.clone(), name)),
            false => text(name.end + 1).map(|value| (name, value)),
        });
        match both {
            None => Some(Err("a parameter is not terminated")),
            Some((name, _)) if name.is_empty() => {
                (start + 1 != packet.len()).then_some(Err("expected terminator as last byte"))
            }
            Some((name, value)) => {
                next = Some(value.end + 1);
                Some(Ok((&packet[name], value)))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use pgwire::messages::startup::Startup;
    use pgwire::messages::{DecodeContext, Message};
    use proptest::prelude::*;

    use super::*;

    fn packet(listed: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_LENGTH + listed.len()).expect("is short");
        [&length.to_be_bytes()[..], &(3u32 << 16).to_be_bytes(), listed].concat()
    }

    fn of(parameters: &[(&str, &str)]) -> Vec<u8> {
        let listed: String = parameters.iter().map(|(name, value)| format!("{name}\0{value}\0")).collect();
        packet(&[listed.as_bytes(), b"\0"].concat())
    }

    #[test]
    fn names_come_out_as_they_went_in() {
        let parameters = StartupParameters::new("app", "", "psql");
        assert_eq!([parameters.user(), parameters.database(), parameters.application_name()], ["app", "", "psql"]);
        let nobody = StartupParameters::default();
        assert_eq!([nobody.user(), nobody.database(), nobody.application_name()], [""; 3]);
    }

    #[test]
    fn the_database_is_the_users_unless_named() {
        for parameters in [&[("user", "app")][..], &[("user", "app"), ("database", "")]] {
            assert_eq!(StartupParameters::read(&of(parameters)), Ok(StartupParameters::new("app", "app", "")));
        }
    }

    /// PostgreSQL takes the last value; an access rule must do the same.
    #[test]
    fn of_a_parameter_that_comes_twice_the_last_one_counts() {
        let twice = [("user", "app"), ("database", "shop"), ("user", "root"), ("database", "vault")];
        assert_eq!(StartupParameters::read(&of(&twice)), Ok(StartupParameters::new("root", "vault", "")));
    }

    #[test]
    fn replication_is_read_as_postgresql_reads_it() {
        use Replication::{Logical, None, Physical};
        for (value, wanted) in [
            ("true", Physical),
            ("1", Physical),
            ("yes", Physical),
            ("On", Physical),
            ("?", Physical),
            ("database", Logical),
            ("OFF", None),
            ("f", None),
            ("no", None),
            ("0", None),
        ] {
            let parameters =
                StartupParameters::read(&of(&[("user", "app"), ("replication", value)])).expect("is sound");
            assert_eq!(parameters.replication, wanted, "{value}");
        }
    }

    /// As in PostgreSQL, where `replication=true` behind `replication=database` is a session in that database.
    #[test]
    fn a_repeated_key_is_read_as_postgresql_reads_it() {
        let of_replication = |values: &[&str]| {
            let listed: Vec<(&str, &str)> = values.iter().map(|value| ("replication", *value)).collect();
            StartupParameters::read(&of(&[&[("user", "app")][..], &listed].concat())).expect("is sound").replication
        };
        assert_eq!(of_replication(&["database", "true"]), Replication::Logical);
        assert_eq!(of_replication(&["true", "database"]), Replication::Logical);
        assert_eq!(of_replication(&["database", "off"]), Replication::None);
        assert_eq!(of_replication(&["off", "on"]), Replication::Physical);
    }

    #[test]
    fn malformed_packets_are_refused() {
        for (listed, why) in [
            (&b"database\0x\0\0"[..], StartupError::NoUser),
            (b"user\0\0\0", StartupError::NoUser),
            (b"user\0app\0", StartupError::Malformed("a parameter is not terminated")),
            (b"user\0app\0database", StartupError::Malformed("a parameter is not terminated")),
            (b"user\0app\0database\0shop", StartupError::Malformed("a parameter is not terminated")),
            (b"user\0app\0\0database\0shop\0\0", StartupError::Malformed("expected terminator as last byte")),
            (b"", StartupError::Malformed("a parameter is not terminated")),
        ] {
            assert_eq!(StartupParameters::read(&packet(listed)), Err(why), "{}", listed.escape_ascii());
        }
    }

    proptest! {
        /// Two independent readers of one format.
        #[test]
        fn it_is_read_as_pgwire_reads_it(
            sent in proptest::collection::vec((prop_oneof![
                Just("user".to_owned()), Just("database".to_owned()), Just("application_name".to_owned()), "[a-z_.]{1,9}"
            ], "[^\0]{0,30}"), 0..9),
        ) {
            let borrowed: Vec<(&str, &str)> = sent.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            let packet = of(&borrowed);
            let theirs = Startup::decode(&mut BytesMut::from(&packet[..]), &DecodeContext::default());
            let theirs = theirs.expect("is sound").expect("is whole").parameters;
            let parameter = |name: &str| theirs.get(name).map_or("", String::as_str);
            match StartupParameters::read(&packet) {
                Ok(parameters) => {
                    prop_assert_eq!(parameters.user(), parameter("user"));
                    let database = parameter("database");
                    prop_assert_eq!(parameters.database(), if database.is_empty() { parameters.user() } else { database });
                    prop_assert_eq!(parameters.application_name(), parameter("application_name"));
                }
                Err(_) => prop_assert_eq!(parameter("user"), ""),
            }
        }

        #[test]
        fn no_bytes_make_it_panic(packet in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = StartupParameters::read(&packet);
        }
    }
}
