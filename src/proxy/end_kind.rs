//! The kinds of ends, for counting: one word for each in the metrics and the log.

use super::end::End;

/// Defines the kinds, each with its word; so none can be without.
macro_rules! kinds {
    ($($(#[$doc:meta])+ $kind:ident = $word:literal,)+) => {
        /// An [`End`] without its particulars, for counting.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EndKind {
            $($(#[$doc])+ $kind,)+
        }

        impl EndKind {
            /// Every kind, in the order of its discriminant.
            pub const ALL: &'static [EndKind] = &[$(EndKind::$kind,)+];

            /// The word for it in metrics and logs.
            pub fn label(self) -> &'static str {
                match self {
                    $(EndKind::$kind => $word,)+
                }
            }
        }
    };
}

kinds! {
    /// See [`End::ClientClosed`].
    ClientClosed = "client-closed",
    /// See [`End::ClientFailed`].
    ClientFailed = "client-failed",
    /// See [`End::ClientLeftEarly`].
    ClientLeftEarly = "client-left-early",
    /// See [`End::OpeningTimedOut`].
    OpeningTimedOut = "opening-timed-out",
    /// See [`End::NotPostgres`].
    NotPostgres = "not-postgres",
    /// See [`End::TlsFailed`].
    TlsFailed = "tls-failed",
    /// See [`End::TlsRequired`].
    TlsRequired = "tls-required",
    /// See [`End::ChannelBinding`].
    ChannelBinding = "channel-binding",
    /// See [`End::Proxy`].
    ProxyHeader = "proxy-header",
    /// See [`End::AddressNotAllowed`].
    AddressNotAllowed = "address-not-allowed",
    /// See [`End::UserNotAllowed`].
    UserNotAllowed = "user-not-allowed",
    /// See [`End::DatabaseNotAllowed`].
    DatabaseNotAllowed = "database-not-allowed",
    /// See [`End::NamesHidden`].
    NamesHidden = "names-hidden",
    /// See [`End::PendingFull`].
    PendingFull = "pending-full",
    /// See [`End::ClientLeftHeld`].
    ClientLeftHeld = "client-left-held",
    /// See [`End::ServerClosed`].
    ServerClosed = "server-closed",
    /// See [`End::ServerFailed`].
    ServerFailed = "server-failed",
    /// See [`End::NoNode`].
    NoNode = "no-node",
    /// See [`End::HoldFull`].
    HoldFull = "hold-full",
    /// See [`End::SessionsFull`].
    SessionsFull = "sessions-full",
    /// See [`End::ClientFull`].
    ClientFull = "client-full",
    /// See [`End::NodesFull`].
    NodesFull = "nodes-full",
    /// See [`End::WrongNode`].
    WrongNode = "wrong-node",
    /// See [`End::Cut`].
    Cut = "cut",
    /// See [`End::Drained`].
    Drained = "drained",
    /// See [`End::DrainTimedOut`].
    DrainTimedOut = "drain-timed-out",
    /// See [`End::Rebalanced`].
    Rebalanced = "rebalanced",
    /// See [`End::Stopped`].
    Stopped = "stopped",
    /// See [`End::Cancel`].
    Cancel = "cancel",
    /// See [`End::Lost`].
    Lost = "lost",
}

impl End {
    /// Without the particulars.
    pub fn kind(&self) -> EndKind {
        match self {
            End::ClientClosed => EndKind::ClientClosed,
            End::ClientFailed(_) => EndKind::ClientFailed,
            End::ClientLeftEarly => EndKind::ClientLeftEarly,
            End::OpeningTimedOut => EndKind::OpeningTimedOut,
            End::NotPostgres(_) => EndKind::NotPostgres,
            End::TlsFailed(_) => EndKind::TlsFailed,
            End::TlsRequired => EndKind::TlsRequired,
            End::ChannelBinding => EndKind::ChannelBinding,
            End::Proxy(_) => EndKind::ProxyHeader,
            End::AddressNotAllowed(_) => EndKind::AddressNotAllowed,
            End::UserNotAllowed(_) => EndKind::UserNotAllowed,
            End::DatabaseNotAllowed(_) => EndKind::DatabaseNotAllowed,
            End::NamesHidden => EndKind::NamesHidden,
            End::PendingFull => EndKind::PendingFull,
            End::ClientLeftHeld => EndKind::ClientLeftHeld,
            End::ServerClosed(_) => EndKind::ServerClosed,
            End::ServerFailed(_) => EndKind::ServerFailed,
            End::NoNode(_) => EndKind::NoNode,
            End::HoldFull => EndKind::HoldFull,
            End::SessionsFull => EndKind::SessionsFull,
            End::ClientFull(_) => EndKind::ClientFull,
            End::NodesFull => EndKind::NodesFull,
            End::WrongNode(_) => EndKind::WrongNode,
            End::Cut(_) => EndKind::Cut,
            End::Drained(_) => EndKind::Drained,
            End::DrainTimedOut(_) => EndKind::DrainTimedOut,
            End::Rebalanced => EndKind::Rebalanced,
            End::Stopped => EndKind::Stopped,
            End::Cancel(_) => EndKind::Cancel,
            End::Lost => EndKind::Lost,
        }
    }
}
