//! How many sessions each client has on a listener, see [`crate::net::Peer::source`].

use std::net::IpAddr;

use parking_lot::Mutex;

use super::counts::Counts;

/// The sessions of one listener, by client. Those of clients without a limit are not counted.
#[derive(Debug, Default)]
pub struct PerClient(Mutex<Counts<IpAddr>>);

impl PerClient {
    /// Counts a new session, unless its client has `max`; returns false then.
    pub fn enter(&self, client: IpAddr, max: usize) -> bool {
        let mut counts = self.0.lock();
        let has_room = counts.of(&client) < max;
        if has_room {
            counts.add(client);
        }
        has_room
    }

    /// Removes a counted session from the count.
    pub fn leave(&self, client: IpAddr) {
        self.0.lock().remove(&client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn each_client_has_its_own_limit() {
        let sessions = PerClient::default();
        assert!(sessions.enter(client(7), 2) && sessions.enter(client(7), 2));
        assert!(!sessions.enter(client(7), 2));
        assert!(sessions.enter(client(8), 2));
        sessions.leave(client(7));
        assert!(sessions.enter(client(7), 2));
    }

    #[test]
    fn nothing_is_kept_of_clients_that_have_left() {
        let sessions = PerClient::default();
        for _ in 0..2 {
            assert!(sessions.enter(client(7), 2));
        }
        for _ in 0..2 {
            sessions.leave(client(7));
        }
        assert!(sessions.0.lock().is_empty());
    }
}
