//! `server-template`: HAProxy fills places from what DNS says about one name, and pgvane wants nodes that it can tell
//! apart. A node to be filled in stands for them in what is proposed.

use super::address::{Target, server as read_address};
use super::findings::Findings;
use super::front::Route;
use super::ledger::Ledger;
use super::lexer::Environment;
use super::proxy::Proxy;
use super::server::{Server, Settings};

/// The host of a node that is to be filled in.
const STAND_IN: &str = "ADDRESS-OF-ONE-NODE";

/// What the proposal is called.
pub(super) const TITLE: &str = "# What may be meant, with one address to fill in:";

/// Whether a node is to be filled in.
pub(super) fn is_stand_in(address: &Target) -> bool {
    address.host == STAND_IN
}

/// Gives each section with `server-template` lines one server for them.
pub(super) fn stand_in(proxies: &mut [Proxy], environment: &Environment) {
    for proxy in proxies {
        let Some(line) = proxy.templates.first().cloned() else { continue };
        let mut findings = Findings::default();
        let mut settings: Settings = proxy.defaults().clone();
        settings.read(&line, 4, environment, &mut findings);
        let port = read_address(line.word(3)).map_or(5432, |target| target.port);
        proxy.servers.push(Server {
            line: line.number,
            name: format!("{}1", line.word(1)),
            address: Target { host: STAND_IN.to_owned(), port },
            settings,
        });
    }
}

/// Refuses the lines of the sections that are for PostgreSQL.
pub(super) fn refuse(routes: &[Route], proxies: &[Proxy], ledger: &mut Ledger) {
    for line in routes.iter().flat_map(|route| &proxies[route.back].templates) {
        ledger.propose(
            line.number,
            format!(
                "server-template: HAProxy fills the places {} from what DNS says about {}; pgvane wants nodes that it can tell \
                 apart. A node at {} would be another machine at each connect",
                line.word(2),
                line.word(3).split(':').next().unwrap_or_default(),
                line.word(3)
            ),
            "write one [[cluster.node]] at least, with an address of its own, and discover = true: Patroni says where the others \
             are",
        );
    }
}
