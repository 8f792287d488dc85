//! The input and the output of the cluster's [`machine`](super::machine): events go in, actions come out.

use std::sync::Arc;
use std::time::Duration;

use super::admin_state::AdminState;
use super::machine_settings::Settings;
use super::moment::Moment;
use super::node::{Member, NodeId, NodeSet, Observation, Report};
use super::ports::SessionPort;
use super::suspicion::Suspicion;
use super::topology::Topology;

/// What can happen to a cluster, as the proxy sees it.
#[derive(Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A check has ended.
    Checked(Observation),
    /// Something happened in a session that makes this node's role doubtful.
    Suspicion(NodeId, Suspicion),
    /// A client got no session on this port of the node; with the reason. Other clients try it last for a while. It may
    /// be a suspicion too.
    Failure(NodeId, SessionPort, String, Option<Suspicion>),
    /// A client got a session on this port of the node, where other clients had failed.
    Served(NodeId, SessionPort),
    /// A node reported at a login on this port whether it is in recovery, and its checks say the opposite. A newer check
    /// has to decide.
    LoginHint(NodeId, SessionPort, bool),
    /// pgvane was suspended: what it knows may be that old.
    Suspended,
    /// The result of discovery, and which nodes have sessions.
    Discovered(Discovery, NodeSet),
    /// An operator has set the administrative state of a node.
    Administered(NodeId, AdminState),
    /// An operator has set the weight of a node, or wants the configured one again.
    Weighed(NodeId, Option<u32>),
    /// The configuration has changed.
    Reconfigured(Reconfigured),
}

/// A changed configuration of a cluster.
#[derive(Debug, Clone)]
pub struct Reconfigured {
    /// The new settings; the seed stays as it was.
    pub settings: Settings,
    /// The nodes that the operator names now.
    pub members: Vec<Member>,
    /// Whether members that the operator does not name are found. If not, only the named ones stay.
    pub discovers: bool,
    /// Which nodes have sessions.
    pub busy: NodeSet,
}

/// The cluster as its DCS describes it.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    /// The members. Static ones stay even if they are not listed.
    pub members: Vec<Member>,
    /// The reports of the REST APIs that the operator has named. If the operator has named no nodes, these reports
    /// decide which cluster is meant.
    pub named: Vec<Arc<Report>>,
    /// A switchover that is scheduled for later, as text.
    pub scheduled_switchover: Option<String>,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Action {
    /// Send a check to this node now, and pass its observation back with this moment in it.
    Check {
        /// The node to check.
        node: NodeId,
        /// Becomes [`Observation::asked_at`].
        asked_at: Moment,
    },
    /// Make this topology the current one.
    Publish(Arc<Topology>),
    /// Report this change to the operators.
    Tell(Change),
}

/// A change that is reported to operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node has become the leader.
    LeadTaken {
        /// The leader before, even if that is long ago.
        from: Option<NodeId>,
        /// The leader now.
        to: NodeId,
        /// The new leader's timeline.
        timeline: Option<u32>,
        /// How long there was no leader; since the start of the process if there was none before.
        leaderless: Duration,
    },
    /// There is no leader any more.
    LeadLost {
        /// The leader until now.
        from: NodeId,
        /// The reason, as far as known.
        why: String,
        /// The age of the leader's last good answer: the lead was really lost within this time.
        last_seen: Duration,
        /// Several nodes claim the lead.
        is_contested: bool,
    },
    /// There is still no leader, for another reason.
    StillLeaderless {
        /// The reason, as far as known.
        why: String,
        /// Several nodes claim the lead.
        is_contested: bool,
    },
    /// Clients get no session on this node, although its checks may be answered.
    PortFailed {
        /// The node.
        node: NodeId,
        /// The port.
        port: SessionPort,
        /// Why.
        why: String,
    },
    /// Clients get sessions on this node again.
    PortRestored {
        /// The node.
        node: NodeId,
        /// The port.
        port: SessionPort,
        /// How long they got none.
        after: Duration,
    },
    /// There are more nodes than pgvane can manage: this member is ignored.
    NoRoom {
        /// Its name.
        name: String,
    },
    /// The nodes agree on another system identifier than before: the cluster was created again.
    Rebuilt {
        /// The system identifier until now.
        from: String,
        /// The system identifier now.
        to: String,
    },
    /// A newer check has refuted what a node reports at logins about recovery: there is a pooler in front of it.
    LoginHintRefuted {
        /// The node.
        node: NodeId,
    },
    /// A node's role or health has changed.
    Node {
        /// The node.
        node: NodeId,
        /// Its standing before, as text.
        from: String,
        /// Its standing now, as text.
        to: String,
    },
}
