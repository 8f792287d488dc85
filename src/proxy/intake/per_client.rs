//! How many sessions each client has on a listener: each IPv4 address, and each IPv6 network of 64 bits, because one
//! machine can use every address of such a network.

use std::net::IpAddr;

use parking_lot::Mutex;

use super::counts::Counts;
use crate::net::Peer;

/// The sessions of one listener, by client address. Clients on Unix sockets have no address and are not counted.
#[derive(Debug)]
pub struct PerClient {
    max: usize,
    counts: Mutex<Counts<IpAddr>>,
}

impl PerClient {
    /// At most `max` sessions for each address; nothing is counted if that is `usize::MAX`.
    pub fn new(max: usize) -> PerClient {
        PerClient { max, counts: Mutex::default() }
    }

    /// Counts a new session, unless its client has reached the limit; returns false then.
    pub fn enter(&self, peer: Peer) -> bool {
        let Some(ip) = self.counted(peer) else { return true };
        let mut counts = self.counts.lock();
        let has_room = counts.of(&ip) < self.max;
        if has_room {
            counts.add(ip);
        }
        has_room
    }

    /// Removes a counted session from the count.
    pub fn leave(&self, peer: Peer) {
        let Some(ip) = self.counted(peer) else { return };
        self.counts.lock().remove(&ip);
    }

    fn counted(&self, peer: Peer) -> Option<IpAddr> {
        peer.source().filter(|_| self.max < usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn peer(text: &str) -> Peer {
        text.parse::<SocketAddr>().expect("an address").into()
    }

    #[test]
    fn each_address_has_its_own_limit_for_all_its_ports() {
        let sessions = PerClient::new(2);
        assert!(sessions.enter(peer("192.0.2.7:1")) && sessions.enter(peer("[::ffff:192.0.2.7]:2")));
        assert!(!sessions.enter(peer("192.0.2.7:3")));
        assert!(sessions.enter(peer("192.0.2.8:1")));
        sessions.leave(peer("192.0.2.7:2"));
        assert!(sessions.enter(peer("192.0.2.7:3")));
        assert!((0..5).all(|_| sessions.enter(Peer::Unix)), "they have no address");
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_client() {
        let sessions = PerClient::new(2);
        assert!(sessions.enter(peer("[2001:db8::1]:1")) && sessions.enter(peer("[2001:db8::ffff:0:0:2]:1")));
        assert!(!sessions.enter(peer("[2001:db8::3]:1")));
        assert!(sessions.enter(peer("[2001:db8:0:1::1]:1")));
    }

    #[test]
    fn nothing_is_kept_of_those_who_have_left() {
        let sessions = PerClient::new(2);
        for _ in 0..2 {
            assert!(sessions.enter(peer("192.0.2.7:1")));
        }
        for _ in 0..2 {
            sessions.leave(peer("192.0.2.7:1"));
        }
        assert!(sessions.counts.lock().is_empty());
        let unlimited = PerClient::new(usize::MAX);
        assert!(unlimited.enter(peer("192.0.2.7:1")) && unlimited.counts.lock().is_empty());
    }
}
