//! A session that has stopped between two transactions leaves its server, and goes on with another one.

use super::Relay;
use super::client_side::ClientSide;
use crate::config::RelayMode;
use crate::net::Stream;

impl Relay {
    /// Whether the client can go on with another server: it has stopped between two transactions, and neither of the two
    /// is in the middle of a message to the other.
    pub fn can_leave_server(&self) -> bool {
        let framing = self.framing.as_ref();
        let is_between_messages =
            framing.is_some_and(|framing| framing.is_between_transactions() && framing.is_client_at_boundary());
        let is_in_memory = self.up.is_in_memory() && self.up.has_delivered() && self.down.is_in_memory();
        is_between_messages && is_in_memory && !self.client_terminated && !self.up.has_read_all()
    }

    /// Closes the connection to the server. Gives the relay back if [`Relay::can_leave_server`] is false.
    ///
    /// # Errors
    ///
    /// The relay, if the client cannot go on with another server.
    pub fn leave_server(mut self) -> Result<ClientSide, Box<Relay>> {
        if !self.can_leave_server() {
            return Err(Box::new(self));
        }
        self.terminate_server();
        match self.framing.take() {
            Some(framing) => Ok(ClientSide {
                stream: self.client,
                for_server: self.up.into_bytes(),
                for_client: self.down.into_bytes(),
                framing,
            }),
            None => Err(Box::new(self)),
        }
    }

    /// A relay between this client and a server on which its session is between two transactions.
    pub fn with_another_server(mode: RelayMode, client: ClientSide, server: Stream) -> Relay {
        let ClientSide { stream, for_server, for_client, framing } = client;
        let mut relay = Relay::new(mode, stream, server, Some(framing), for_server, for_client);
        relay.down.flush_first();
        relay
    }
}
