//! Chooses one of several equally good nodes.

use crate::cluster::NodeId;

/// How new sessions are spread over the nodes of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// The node with the fewest sessions for its weight; among equals, in turn. If no node has a session, all are equals,
    /// as in HAProxy: clients that come one at a time are spread over all nodes, also over those of little weight.
    #[default]
    LeastConnections,
    /// One after the other; weighted where weights differ.
    RoundRobin,
    /// At random, weighted.
    Random,
}

/// A node to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: NodeId,
    /// Its share, relative to the other nodes. Zero counts as one.
    pub weight: u64,
    /// The number of its sessions now.
    pub load: u32,
}

impl Balance {
    /// Its name in the configuration file.
    pub fn label(self) -> &'static str {
        match self {
            Balance::LeastConnections => "least-connections",
            Balance::RoundRobin => "round-robin",
            Balance::Random => "random",
        }
    }

    /// Picks from `pool`; `turn` counts the listener's choices. `None` only if the pool is empty.
    pub fn pick(self, pool: &[Choice], turn: u64) -> Option<NodeId> {
        let count = u64::try_from(pool.len()).ok().filter(|count| *count > 0)?;
        let nth = |n: u64| pool[(n % count) as usize];
        let chosen = match self {
            Balance::LeastConnections if pool.iter().all(|choice| choice.load == 0) => nth(turn),
            Balance::LeastConnections => (0..count).map(|step| nth(turn.wrapping_add(step))).min_by_key(cost)?,
            Balance::RoundRobin if pool.iter().all(|choice| choice.weight == pool[0].weight) => nth(turn),
            // multiples of the golden ratio are spread evenly over the shares, even after a few turns
            Balance::RoundRobin => by_share(pool, turn.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            Balance::Random => by_share(pool, scramble(turn)),
        };
        Some(chosen.node)
    }
}

/// A node's load per weight, with one more session.
fn cost(choice: &Choice) -> u64 {
    (u64::from(choice.load) + 1).saturating_mul(1 << 32) / choice.weight.max(1)
}

/// The node whose share contains `place`. All shares together are the range of u64.
fn by_share(pool: &[Choice], place: u64) -> Choice {
    let total: u128 = pool.iter().map(|choice| u128::from(choice.weight.max(1))).sum();
    let mut at = (u128::from(place) * total) >> 64;
    for choice in pool {
        let share = u128::from(choice.weight.max(1));
        if at < share {
            return *choice;
        }
        at -= share;
    }
    pool[pool.len() - 1]
}

/// SplitMix64's output function: turns a counter into a number that looks random.
fn scramble(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(node: usize, weight: u64, load: u32) -> Choice {
        Choice { node: NodeId::new(node), weight, load }
    }

    fn equals() -> [Choice; 3] {
        [choice(1, 100, 0), choice(4, 100, 0), choice(7, 100, 0)]
    }

    fn picks(balance: Balance, pool: &[Choice], count: u64) -> Vec<usize> {
        (0..count).map(|turn| balance.pick(pool, turn).expect("the pool is not empty").index()).collect()
    }

    fn share(drawn: &[usize], node: usize) -> f64 {
        drawn.iter().filter(|id| **id == node).count() as f64 / drawn.len() as f64
    }

    #[test]
    fn round_robin_goes_round() {
        assert_eq!(picks(Balance::RoundRobin, &equals(), 5), [1, 4, 7, 1, 4]);
    }

    #[test]
    fn round_robin_keeps_to_weights_even_over_few_turns() {
        let drawn = picks(Balance::RoundRobin, &[choice(0, 300, 0), choice(1, 100, 0)], 20);
        assert!((share(&drawn, 0) - 0.75).abs() <= 0.051, "{drawn:?}");
    }

    #[test]
    fn least_connections_takes_the_emptiest_for_its_weight_and_rotates_among_equals() {
        let pool = [choice(1, 100, 9), choice(4, 100, 2), choice(7, 100, 9)];
        assert_eq!(Balance::LeastConnections.pick(&pool, 0), Some(NodeId::new(4)));
        assert_eq!(picks(Balance::LeastConnections, &equals(), 4), [1, 4, 7, 1]);
        let uneven = [choice(1, 300, 8), choice(4, 100, 3)];
        assert_eq!(Balance::LeastConnections.pick(&uneven, 0), Some(NodeId::new(1)), "9/300 is less than 4/100");
    }

    #[test]
    fn nodes_take_turns_whatever_their_weight_while_none_has_a_session() {
        let idle = [choice(1, 60, 0), choice(4, 120, 0), choice(7, 120, 0)];
        assert_eq!(picks(Balance::LeastConnections, &idle, 4), [1, 4, 7, 1]);
        let not_all_idle = [choice(1, 60, 0), choice(4, 120, 0), choice(7, 120, 1)];
        assert_eq!(picks(Balance::LeastConnections, &not_all_idle, 4), [4; 4], "their shares count again");
    }

    #[test]
    fn random_reaches_every_node_by_its_weight() {
        let drawn = picks(Balance::Random, &[choice(1, 50, 0), choice(4, 100, 0), choice(7, 50, 0)], 3000);
        for (node, expected) in [(1, 0.25), (4, 0.5), (7, 0.25)] {
            assert!((share(&drawn, node) - expected).abs() < 0.03, "{node}: {}", share(&drawn, node));
        }
    }

    #[test]
    fn an_empty_pool_has_no_choice_and_weight_zero_counts_as_one() {
        assert_eq!(Balance::Random.pick(&[], 3), None);
        assert_eq!(Balance::RoundRobin.pick(&[choice(1, 0, 0)], u64::MAX), Some(NodeId::new(1)));
    }
}
