//! The administrative state that an operator has set for a node. The states and their names are those of HAProxy.

/// An administrative state. It can only take sessions away from a node. It has no part in the decision who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AdminState {
    /// Used as its role and its health allow.
    #[default]
    Ready,
    /// Gets no new sessions; those that it has end between two transactions.
    Drain,
    /// The same, and the node is expected to go down: no alarm is needed if it does not answer.
    Maint,
}

impl AdminState {
    /// Every state.
    pub const ALL: [AdminState; 3] = [AdminState::Ready, AdminState::Drain, AdminState::Maint];

    /// Its label, as operators type it and as metrics and pages show it.
    pub fn label(self) -> &'static str {
        match self {
            AdminState::Ready => "ready",
            AdminState::Drain => "drain",
            AdminState::Maint => "maint",
        }
    }

    /// The state of this name.
    pub fn from_label(label: &str) -> Option<AdminState> {
        AdminState::ALL.into_iter().find(|state| state.label() == label)
    }

    /// Why a node in this state gets no sessions, after "is"; `None` if it may get some.
    pub fn why_not_eligible(self) -> Option<&'static str> {
        match self {
            AdminState::Ready => None,
            AdminState::Drain => Some("drained by an operator"),
            AdminState::Maint => Some("in maintenance"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_found_by_its_name() {
        for state in AdminState::ALL {
            assert_eq!(AdminState::from_label(state.label()), Some(state));
            assert_eq!(state.why_not_eligible().is_none(), state == AdminState::Ready);
        }
        assert_eq!(AdminState::from_label("down"), None);
    }
}
