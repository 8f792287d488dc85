//! A session's server is asked for the session's state between two transactions: because somebody wants to know it, or
//! because the session is being parked and may have to go on at another server.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::rare::{Asked, Prospect, Rare, forget};
use crate::cluster::node::ServerKind;
use crate::protocol::login_again::Credential;
use crate::protocol::session_question::Answer;
use crate::proxy::context::ListenerContext;
use crate::proxy::end::{NotCarried, NotCarriedReason};
use crate::proxy::relay::Relay;
use crate::proxy::sessions::cluster_parking::CarryLimits;
use crate::proxy::sessions::guard::SessionGuard;
use crate::proxy::sessions::openings::Opening;
use crate::routing::SessionPark;

impl Prospect {
    fn of(answer: Answer, guard: &SessionGuard, context: &ListenerContext, limits: Arc<CarryLimits>) -> Prospect {
        let is_pooled = {
            let topology = context.cluster.topology();
            let member = &topology.node(guard.node()).member;
            context.settings.server_kind_on(member) == ServerKind::Pooler
        };
        let state = match answer {
            _ if is_pooled => {
                let why = "its server is a connection pooler".to_owned();
                Err(NotCarried { reason: NotCarriedReason::State, why })
            }
            Err(why) => Err(NotCarried { reason: NotCarriedReason::Unknown, why: why.to_string() }),
            Ok(state) => match state.obstacles().as_slice() {
                [] => again(guard).map(|_| state),
                obstacles => {
                    let obstacles: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
                    Err(NotCarried { reason: NotCarriedReason::State, why: obstacles.join("; ") })
                }
            },
        };
        Prospect { limits, state }
    }
}

/// What the session can log in with at another server: its own startup packet, and a credential.
pub(super) fn again(guard: &SessionGuard) -> Result<(Arc<Opening>, Credential), NotCarried> {
    guard.log_in_again().map_err(|why| NotCarried { reason: NotCarriedReason::Login, why: why.to_string() })
}

/// Asks the server for the session's state if that is wanted. Returns whether the relay has to stop for that, or has to wait
/// for the answer.
pub(super) fn attend_to_question(
    relay: &mut Relay,
    guard: &SessionGuard,
    context: &ListenerContext,
    rare: &mut Option<Box<Rare>>,
) -> bool {
    let for_park = match guard.control().park() {
        SessionPark::Finishing if relay.is_parked() && rare.as_ref().is_none_or(|rare| rare.prospect.is_none()) => {
            context.registry.parking(context.settings.cluster).carry()
        }
        _ => None,
    };
    let custom_settings = match &for_park {
        Some(limits) => Arc::clone(&limits.custom_settings),
        None if !guard.control().is_asked() => return false,
        None if !relay.is_parked() => return relay.is_at_rest(),
        None => guard.custom_settings(),
    };
    match (relay.ask(&custom_settings), for_park) {
        (Some(question), for_park) => {
            rare.get_or_insert_default().question = Some(Asked { question, for_park });
            true
        }
        (None, Some(limits)) => {
            let why = "its server could not be asked for its state".to_owned();
            let state = Err(NotCarried { reason: NotCarriedReason::Unknown, why });
            rare.get_or_insert_default().prospect = Some(Box::new(Prospect { limits, state }));
            false
        }
        (None, None) => false,
    }
}

/// Waits for the answer if the server has been asked for the session's state, and passes it on.
pub(super) fn poll_question(
    relay: &mut Relay,
    guard: &SessionGuard,
    context: &ListenerContext,
    rare: &mut Option<Box<Rare>>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if let Some(Rare { question: Some(Asked { question, .. }), .. }) = rare.as_deref_mut() {
        let answer = ready!(relay.poll_answer(cx, guard.control().bytes(), question));
        let asked = rare.as_mut().and_then(|rare| rare.question.take());
        match asked.and_then(|asked| asked.for_park) {
            Some(limits) => {
                rare.get_or_insert_default().prospect = Some(Box::new(Prospect::of(answer, guard, context, limits)));
            }
            None => {
                forget(rare, |_| {});
                guard.answer(answer);
            }
        }
    }
    Poll::Ready(())
}
