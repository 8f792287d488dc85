//! What `pgvane top` knows: the newest state, the sessions in the chosen order, and the rates since the last update.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Instant;

use serde::Deserialize;

use crate::admin::status::{Listener, Status};

/// The answer of `/api/sessions`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Sessions {
    /// The number of all sessions; the list may have fewer.
    pub(super) total: usize,
    pub(super) sessions: Vec<Session>,
    /// This pgvane does not list its sessions: it is of an older version.
    #[serde(skip)]
    pub(super) is_unknown: bool,
}

/// A session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Session {
    pub(super) client: String,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) application_name: String,
    pub(super) node: String,
    pub(super) listener: String,
    pub(super) seconds: u64,
    pub(super) state: String,
    pub(super) bytes_to_server: u64,
    pub(super) bytes_to_client: u64,
}

impl Sessions {
    pub(super) fn unknown() -> Sessions {
        Sessions { is_unknown: true, ..Sessions::default() }
    }
}

/// The order of the sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Order {
    /// The oldest first.
    #[default]
    Age,
    /// Those with the most bytes first.
    Bytes,
    /// By user and database.
    User,
    /// By node.
    Node,
}

impl Order {
    const ALL: [Order; 4] = [Order::Age, Order::Bytes, Order::User, Order::Node];

    /// Its name on the screen.
    pub(super) fn label(self) -> &'static str {
        match self {
            Order::Age => "age",
            Order::Bytes => "bytes",
            Order::User => "user",
            Order::Node => "node",
        }
    }
}

/// Bytes per second of a listener, to the servers and to the clients.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Rates {
    pub(super) to_server: f64,
    pub(super) to_client: f64,
}

/// All that is shown.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) status: Status,
    pub(super) sessions: Sessions,
    pub(super) order: Order,
    /// The number of the first session that is shown.
    pub(super) first: usize,
    /// Why the last update failed, if it did. What is shown is older then.
    pub(super) error: Option<String>,
    rates: HashMap<String, Rates>,
    taken_at: Option<Instant>,
}

impl Model {
    /// Takes a new state.
    pub(super) fn take(&mut self, status: Status, sessions: Sessions, at: Instant) {
        let seconds = self.taken_at.map_or(0.0, |before| (at - before).as_secs_f64());
        // after a restart the counts begin again at zero, and there is no rate
        let is_comparable = seconds > 0.0 && status.uptime_seconds >= self.status.uptime_seconds;
        let before = &self.status.listeners;
        let rates = status.listeners.iter().filter(|_| is_comparable).filter_map(|listener| {
            let before = before.iter().find(|before| before.name == listener.name)?;
            Some((listener.name.clone(), rates(before, listener, seconds)))
        });
        self.rates = rates.collect();
        (self.status, self.sessions, self.taken_at, self.error) = (status, sessions, Some(at), None);
        self.sort();
    }

    /// The update failed.
    pub(super) fn failed(&mut self, why: String) {
        self.error = Some(why);
    }

    /// A listener's rates; `None` before the second update.
    pub(super) fn rates_of(&self, listener: &str) -> Option<Rates> {
        self.rates.get(listener).copied()
    }

    /// Moves the list of sessions by so many lines.
    pub(super) fn scroll(&mut self, lines: i32) {
        let distance = usize::try_from(lines.unsigned_abs()).unwrap_or(usize::MAX);
        self.first = if lines < 0 { self.first.saturating_sub(distance) } else { self.first.saturating_add(distance) };
        self.keep_in_range();
    }

    /// Orders the sessions by the next field.
    pub(super) fn sort_by_next(&mut self) {
        let place = Order::ALL.iter().position(|order| *order == self.order).unwrap_or(0);
        self.order = Order::ALL[(place + 1) % Order::ALL.len()];
        self.sort();
    }

    fn sort(&mut self) {
        let sessions = &mut self.sessions.sessions;
        match self.order {
            Order::Age => sessions.sort_by_key(|session| Reverse(session.seconds)),
            Order::Bytes => sessions.sort_by_key(|session| Reverse(session.bytes_to_server + session.bytes_to_client)),
            Order::User => sessions.sort_by_cached_key(|session| (session.user.clone(), session.database.clone())),
            Order::Node => sessions.sort_by_cached_key(|session| session.node.clone()),
        }
        self.keep_in_range();
    }

    fn keep_in_range(&mut self) {
        self.first = self.first.min(self.sessions.sessions.len().saturating_sub(1));
    }
}

fn rates(before: &Listener, now: &Listener, seconds: f64) -> Rates {
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    Rates {
        to_server: rate(before.bytes_to_server, now.bytes_to_server),
        to_client: rate(before.bytes_to_client, now.bytes_to_client),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn status(uptime_seconds: u64, bytes: u64) -> Status {
        let listener = Listener { name: "write".to_owned(), bytes_to_client: bytes, ..Listener::default() };
        Status { uptime_seconds, listeners: vec![listener], ..Status::default() }
    }

    #[test]
    fn rates_are_those_since_the_last_update_and_none_across_a_restart() {
        let (mut model, start) = (Model::default(), Instant::now());
        model.take(status(10, 1000), Sessions::default(), start);
        assert_eq!(model.rates_of("write"), None);
        model.take(status(12, 3000), Sessions::default(), start + Duration::from_secs(2));
        assert_eq!(model.rates_of("write"), Some(Rates { to_server: 0.0, to_client: 1000.0 }));
        model.take(status(1, 10), Sessions::default(), start + Duration::from_secs(4));
        assert_eq!(model.rates_of("write"), None);
    }

    #[test]
    fn sessions_have_the_chosen_order_and_the_list_stays_in_range() {
        let session = |user: &str, seconds, bytes_to_client| Session {
            user: user.to_owned(),
            seconds,
            bytes_to_client,
            ..Session::default()
        };
        let sessions = Sessions {
            total: 3,
            sessions: vec![session("b", 1, 5), session("a", 3, 1), session("c", 2, 9)],
            is_unknown: false,
        };
        let mut model = Model::default();
        model.take(Status::default(), sessions, Instant::now());
        let users = |model: &Model| -> String { model.sessions.sessions.iter().map(|one| one.user.as_str()).collect() };
        assert_eq!(users(&model), "acb", "the oldest first");
        for expected in ["cba", "abc", "abc", "acb"] {
            model.sort_by_next();
            assert_eq!(users(&model), expected);
        }
        model.scroll(10);
        assert_eq!(model.first, 2);
        model.scroll(i32::MIN);
        assert_eq!(model.first, 0);
    }
}
