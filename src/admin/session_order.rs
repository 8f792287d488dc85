//! The order in which sessions are listed.

use std::cmp::Reverse;

use strum::{EnumString, IntoStaticStr, VariantArray};

use super::status::Session;

/// By what sessions are ordered. Among equal ones the oldest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum SessionOrder {
    /// The oldest first.
    #[default]
    Age,
    /// Those that have moved most bytes first.
    Bytes,
    /// By the client's address.
    Client,
    /// By user.
    User,
    /// By database.
    Database,
    /// By application.
    Application,
    /// By node.
    Node,
    /// By listener.
    Listener,
    /// By state.
    State,
}

impl SessionOrder {
    /// The names of all orders.
    pub fn labels() -> impl Iterator<Item = &'static str> {
        SessionOrder::VARIANTS.iter().map(|order| order.label())
    }

    /// Its name: `age`, `bytes`, …
    pub fn label(self) -> &'static str {
        self.into()
    }

    /// Orders sessions that are ordered by age.
    pub(super) fn sort(self, sessions: &mut [Session]) {
        let by_text = |sessions: &mut [Session], text: fn(&Session) -> &str| {
            sessions.sort_by(|one, other| text(one).cmp(text(other)));
        };
        match self {
            SessionOrder::Age => {}
            SessionOrder::Bytes => {
                sessions.sort_by_key(|session| Reverse(session.bytes_to_server + session.bytes_to_client));
            }
            SessionOrder::Client => by_text(sessions, |session| &session.client),
            SessionOrder::User => by_text(sessions, |session| &session.user),
            SessionOrder::Database => by_text(sessions, |session| &session.database),
            SessionOrder::Application => by_text(sessions, |session| &session.application_name),
            SessionOrder::Node => by_text(sessions, |session| &session.node),
            SessionOrder::Listener => by_text(sessions, |session| &session.listener),
            SessionOrder::State => by_text(sessions, |session| &session.state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_ordered_by_what_is_wanted_and_the_oldest_of_equal_ones_come_first() {
        let session = |id, user: &str, bytes_to_client| Session {
            id,
            user: user.to_owned(),
            bytes_to_client,
            ..Session::default()
        };
        let sessions = [session(1, "b", 5), session(2, "a", 1), session(3, "b", 9)];
        for (order, expected) in [("age", [1, 2, 3]), ("bytes", [3, 1, 2]), ("user", [2, 1, 3]), ("node", [1, 2, 3])] {
            let mut sorted = sessions.clone();
            order.parse::<SessionOrder>().expect("is an order").sort(&mut sorted);
            assert_eq!(sorted.map(|session| session.id), expected, "{order}");
        }
        assert!("size".parse::<SessionOrder>().is_err());
    }
}
