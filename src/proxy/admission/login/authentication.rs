//! The server asks the client to authenticate: who answers, and whether channel binding may be offered.

use super::{Following, Login, LoginOutcome};
use crate::protocol::sasl;
use crate::proxy::end::End;
use crate::proxy::intake::handshake::Authentication;

/// What happens if a client chooses channel binding (SCRAM-SHA-256-PLUS), which binds its answer to the certificate that
/// it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChannelBinding {
    /// It works, or the server does not offer it.
    Works,
    /// The client's connection is not encrypted, so it has seen no certificate: the offer must not reach it.
    RemoveOffer,
    /// The client has seen another certificate than the server's: the offer must reach it, and it must not choose it.
    MustNotBeChosen,
}

impl Login<'_> {
    /// The server asks the client to authenticate. The client answers the first such request; if it has answered the
    /// same request of another node, that answer is sent again.
    ///
    /// Returns how many bytes of the request the client has to be sent.
    pub(super) async fn authentication_request(
        &mut self,
        login: &mut Following,
        length: usize,
    ) -> Result<usize, LoginOutcome> {
        let length = self.without_unusable_channel_binding(login, length);
        let request = &login.received[login.examined..login.examined + length];
        login.exchange.iter_mut().for_each(|exchange| exchange.server_asks(request));
        login.answer_due = None;
        let Some(Authentication { request: asked, answer }) = self.client.authentication() else {
            self.client.note_authentication_request(request);
            return Ok(length);
        };
        if login.is_bound_to_node || login.has_answered() {
            login.is_bound_to_node = true;
            return Ok(length);
        }
        if asked[..] != *request || !sasl::fits_any_server(request) {
            let why =
                "the server was lost during the login, and another server asks for another authentication".to_owned();
            return Err(LoginOutcome::End(End::LoginBroken(why)));
        }
        let answer = answer.clone();
        let rest = login.received.split_off(login.examined + length);
        login.received.truncate(login.examined);
        login.received.unsplit(rest);
        if let Some(answer) = answer {
            self.send_to_server(login, &answer).await?;
        }
        Ok(0)
    }

    /// Removes the offer of channel binding from the request, if it must not reach the client. Returns the request's new
    /// length.
    fn without_unusable_channel_binding(&mut self, login: &mut Following, length: usize) -> usize {
        let end = login.examined + length;
        let Some(without) = sasl::without_plus(&login.received[login.examined..end]) else { return length };
        match self.channel_binding() {
            ChannelBinding::Works => length,
            ChannelBinding::MustNotBeChosen => {
                login.must_not_bind = true;
                length
            }
            ChannelBinding::RemoveOffer => {
                let behind = login.received.split_off(end);
                login.received.truncate(login.examined);
                login.received.extend_from_slice(&without);
                login.received.unsplit(behind);
                without.len()
            }
        }
    }

    fn channel_binding(&mut self) -> ChannelBinding {
        match (self.client.stream().is_encrypted(), self.server.is_encrypted()) {
            (_, false) => ChannelBinding::Works, // a server offers it over TLS only
            // libpq takes this offer for an attack on a connection without TLS
            (false, true) => ChannelBinding::RemoveOffer,
            (true, true) if self.client.has_seen_certificate_of(self.server) => ChannelBinding::Works,
            // without the offer, the client says that it could have used channel binding, and the server takes that
            // for an attack
            (true, true) => ChannelBinding::MustNotBeChosen,
        }
    }
}
