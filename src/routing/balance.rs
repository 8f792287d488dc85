//! Choosing one of several equally good nodes.

use crate::cluster::NodeId;

/// How new sessions are spread over the nodes of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// The node with the fewest sessions; among equals, in turn.
    #[default]
    LeastConnections,
    /// One after the other.
    RoundRobin,
    /// By lot.
    Random,
}

impl Balance {
    /// Picks from `pool`. `turn` counts the listener's choices; `load` is a node's present number of sessions.
    ///
    /// `None` only if the pool is empty.
    pub fn pick(self, pool: &[NodeId], turn: u64, load: impl Fn(NodeId) -> u32) -> Option<NodeId> {
        let count = u64::try_from(pool.len()).ok().filter(|count| *count > 0)?;
        let nth = |n: u64| pool[(n % count) as usize];
        match self {
            Balance::RoundRobin => Some(nth(turn)),
            Balance::Random => Some(nth(scramble(turn))),
            Balance::LeastConnections => (0..count).map(|step| nth(turn + step)).min_by_key(|id| load(*id)),
        }
    }
}

/// SplitMix64's output function: turns a counter into a number that looks drawn by lot.
fn scramble(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: [NodeId; 3] = [NodeId(1), NodeId(4), NodeId(7)];

    fn picks(balance: Balance, count: u64) -> Vec<usize> {
        (0..count).map(|turn| balance.pick(&POOL, turn, |_| 0).expect("the pool is not empty").0).collect()
    }

    #[test]
    fn round_robin_goes_round() {
        assert_eq!(picks(Balance::RoundRobin, 5), [1, 4, 7, 1, 4]);
    }

    #[test]
    fn least_connections_takes_the_emptiest_and_rotates_among_equals() {
        let load = |id: NodeId| if id == NodeId(4) { 2 } else { 9 };
        assert_eq!(Balance::LeastConnections.pick(&POOL, 0, load), Some(NodeId(4)));
        assert_eq!(picks(Balance::LeastConnections, 4), [1, 4, 7, 1]);
    }

    #[test]
    fn random_reaches_every_node_about_equally() {
        let drawn = picks(Balance::Random, 3000);
        for node in POOL {
            let hits = drawn.iter().filter(|id| **id == node.0).count();
            assert!((900..=1100).contains(&hits), "{node:?} was drawn {hits} times of 3000");
        }
    }

    #[test]
    fn an_empty_pool_gives_nobody() {
        assert_eq!(Balance::Random.pick(&[], 3, |_| 0), None);
    }
}
