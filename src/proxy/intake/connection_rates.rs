//! How fast each client of a listener may connect: a number of connections in a time, which may come all at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use parking_lot::Mutex;

use crate::cluster::rate::{RateLimit, RateUse};
use crate::config::ConnectionRate;

/// The maximum number of clients that are remembered, 60 bytes each. While more than that have just connected, other
/// clients are not limited: a limit for each client cannot stop so many in any case.
const CLIENTS_MAX: usize = 100_000;

/// With fewer clients than this, it is not worth looking for those that need not be remembered.
const SWEEP_FROM: usize = 1024;

/// What the clients of one listener have used of their rates.
#[derive(Debug, Default)]
pub struct ConnectionRates(Mutex<Clients>);

#[derive(Debug, Default)]
struct Clients {
    used: HashMap<IpAddr, RateUse<Instant>>,
    /// The number of clients from which it is worth looking for those that need not be remembered.
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
        let limit = RateLimit { interval: rate.within / rate.count.get(), burst: rate.count.get() };
        if let Some(used) = clients.used.get_mut(&client) {
            return used.admits(now, limit);
        }
        let mut used = RateUse::default();
        let is_admitted = used.admits(now, limit);
        if clients.used.len() < CLIENTS_MAX {
            clients.used.insert(client, used);
        }
        is_admitted
    }
}

impl Clients {
    /// Forgets clients that may connect again as often as new ones, each time the number of clients has doubled.
    fn make_room(&mut self, now: Instant) {
        if self.used.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.used.retain(|_, used| !used.is_free(now));
            self.sweep_at = (self.used.len() * 2).min(CLIENTS_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;

    fn rate(count: u32, seconds: u64) -> ConnectionRate {
        ConnectionRate { count: NonZeroU32::new(count).expect("not zero"), within: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_client_connects_as_often_as_the_rate_allows_and_more_often_with_time() {
        let (rates, start) = (ConnectionRates::default(), Instant::now());
        let [one, other] = [7, 8].map(|last| IpAddr::from([192, 0, 2, last]));
        let admitted = |client, after_ms, tries: u32| {
            let now = start + Duration::from_millis(after_ms);
            (0..tries).filter(|_| rates.admit_at(client, rate(6, 3), now)).count()
        };
        assert_eq!(admitted(one, 0, 100), 6, "all at once");
        assert_eq!(admitted(other, 0, 1), 1, "another client has its own rate");
        assert_eq!(admitted(one, 499, 100), 0, "refused connections are not counted");
        assert_eq!(admitted(one, 500, 100), 1);
        assert_eq!(admitted(one, 1500, 100), 2);
        assert_eq!(admitted(one, 60_000, 100), 6, "not more than that, however long it has not connected");
    }

    #[test]
    fn clients_that_may_connect_like_new_ones_are_forgotten() {
        let (rates, start) = (ConnectionRates::default(), Instant::now());
        for second in 0..20_u32 {
            for number in 0..1000 {
                let client = Ipv4Addr::from_bits(second * 1000 + number).into();
                assert!(rates.admit_at(client, rate(1, 1), start + Duration::from_secs(second.into())));
            }
        }
        assert!(rates.0.lock().used.len() <= 3000, "{}", rates.0.lock().used.len());
    }
}
