//! What operators have made of a node, whatever it says of itself. HAProxy's administrative states, by their names there.

/// An administrative state. It takes a node's sessions away and gives it nothing: who leads is decided without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AdminState {
    /// Used as its role and its health allow.
    #[default]
    Ready,
    /// Gets no new sessions; those that it has end between two transactions.
    Drain,
    /// The same, and it is expected to go away: that it does not answer is nothing to worry about.
    Maint,
}

impl AdminState {
    /// Every state.
    pub const ALL: [AdminState; 3] = [AdminState::Ready, AdminState::Drain, AdminState::Maint];

    /// The word for it, as operators type it and as metrics and pages show it.
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
    pub fn why_unfit(self) -> Option<&'static str> {
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
            assert_eq!(state.why_unfit().is_none(), state == AdminState::Ready);
        }
        assert_eq!(AdminState::from_label("down"), None);
    }
}
