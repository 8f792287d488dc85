//! How fast each client of a listener may connect: a number of connections in a time, which may come all at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::ConnectionRate;

/// The most clients that are remembered, 60 bytes each. While there are more that have just connected, further ones are
/// not limited: a limit for each client cannot stop so many in any case.
const CLIENTS_MAX: usize = 100_000;

/// Clients that may be remembered before those are looked for that need not be.
const SWEEP_FROM: usize = 1024;

/// What the clients of one listener have used of their rates.
#[derive(Debug, Default)]
pub struct ConnectionRates(Mutex<Clients>);

#[derive(Debug, Default)]
struct Clients {
    /// When each client may again connect as often as one that has never come.
    recovered_at: HashMap<IpAddr, Instant>,
    /// The number of clients from which on it is worth looking for those that have recovered.
    sweep_at: usize,
}

impl ConnectionRates {
    /// Whether a connection of this client keeps to the rate. One that does not is not counted.
    pub fn admit(&self, client: IpAddr, rate: ConnectionRate) -> bool {
        self.admit_at(client, rate, Instant::now())
    }

    fn admit_at(&self, client: IpAddr, rate: ConnectionRate, now: Instant) -> bool {
        let mut clients = self.0.lock();
        clients.make_room(now);
        let known = clients.recovered_at.get(&client).copied();
        let recovered_at = known.map_or(now, |at| at.max(now)) + rate.interval();
        if recovered_at > now + rate.within {
            return false;
        }
        if known.is_some() || clients.recovered_at.len() < CLIENTS_MAX {
            clients.recovered_at.insert(client, recovered_at);
        }
        true
    }
}

impl Clients {
    /// Forgets clients that have recovered, each time their number has doubled.
    fn make_room(&mut self, now: Instant) {
        if self.recovered_at.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.recovered_at.retain(|_, recovered_at| *recovered_at > now);
            self.sweep_at = (self.recovered_at.len() * 2).min(CLIENTS_MAX);
        }
    }
}

impl ConnectionRate {
    /// The time in which one connection is earned again.
    fn interval(self) -> Duration {
        self.within / self.count.get()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::num::NonZeroU32;

    use super::*;

    fn rate(count: u32, seconds: u64) -> ConnectionRate {
        ConnectionRate { count: NonZeroU32::new(count).expect("not zero"), within: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_client_connects_as_often_as_it_may_and_earns_more_with_time() {
        let (rates, start) = (ConnectionRates::default(), Instant::now());
        let [one, other] = [7, 8].map(|last| IpAddr::from([192, 0, 2, last]));
        let admitted = |client, after_ms, tries: u32| {
            let now = start + Duration::from_millis(after_ms);
            (0..tries).filter(|_| rates.admit_at(client, rate(6, 3), now)).count()
        };
        assert_eq!(admitted(one, 0, 100), 6, "all at once");
        assert_eq!(admitted(other, 0, 1), 1, "another client has its own rate");
        assert_eq!(admitted(one, 499, 100), 0, "those that were refused have cost it nothing");
        assert_eq!(admitted(one, 500, 100), 1);
        assert_eq!(admitted(one, 1500, 100), 2);
        assert_eq!(admitted(one, 60_000, 100), 6, "not more than that, however long it was quiet");
    }

    #[test]
    fn clients_that_have_recovered_are_forgotten() {
        let (rates, start) = (ConnectionRates::default(), Instant::now());
        for second in 0..20_u32 {
            for number in 0..1000 {
                let client = Ipv4Addr::from_bits(second * 1000 + number).into();
                assert!(rates.admit_at(client, rate(1, 1), start + Duration::from_secs(second.into())));
            }
        }
        assert!(rates.0.lock().recovered_at.len() <= 3000, "{}", rates.0.lock().recovered_at.len());
    }
}
