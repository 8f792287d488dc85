//! Positions in the configuration's lists, as types, so that a listener's position cannot be used for a cluster's.

/// A position in [`super::Config::listeners`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerIndex(pub usize);

/// A position in [`super::Config::clusters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterIndex(pub usize);
