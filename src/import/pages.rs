//! HAProxy's statistics page and its exporter: pgvane's `[admin]`.

use super::front::Fronts;
use super::ledger::Ledger;
use super::plan::Admin;
use super::proxy::Proxy;

/// Where pgvane serves its page if nothing else is said.
const DEFAULT_PORT: u16 = 8404;

/// Reads the sections with pages; the first has the address.
pub(super) fn read(fronts: &Fronts, proxies: &[Proxy], ledger: &mut Ledger) -> Admin {
    let mut admin = Admin::default();
    let has_stats = |place: &&usize| !proxies[**place].stats.is_empty();
    let first = fronts.pages.iter().find(has_stats).or(fronts.pages.first());
    for place in &fronts.pages {
        let proxy = &proxies[*place];
        if Some(place) == first {
            read_one(proxy, &mut admin, ledger);
        } else {
            proxy.findings.enter_faults(ledger);
            for line in &proxy.own_lines {
                ledger.dropped(*line, "pgvane has one address for its page and its metrics: [admin] bind");
            }
        }
    }
    if first.is_none() {
        let ports = fronts.routes.iter().flat_map(|route| &route.binds).flat_map(|listening| &listening.binds);
        admin.is_off = ports.filter_map(super::address::Bind::port).any(|port| port == DEFAULT_PORT);
        if admin.is_off {
            ledger.remark(
                "there is no statistics page, and a listener has pgvane's default port for it: [admin] enabled = false",
            );
        } else {
            ledger.remark("there is no statistics page; pgvane has one at 127.0.0.1:8404 ([admin])");
        }
    }
    admin
}

fn read_one(proxy: &Proxy, admin: &mut Admin, ledger: &mut Ledger) {
    for line in &proxy.stats {
        let (number, word) = (line.number, line.word(1));
        match word {
            "enable" => ledger.used(number),
            "uri" => {
                let path = line.word(2);
                ledger.used(number);
                if path != "/" {
                    ledger.note(number, format!("stats uri {path}: pgvane's page is at / (and at /stats)"));
                }
            }
            "auth" => {
                ledger.dropped(number, "the password is not copied");
                ledger.note(
                    number,
                    "stats auth: looking at pgvane's page needs no password (require_login = true asks for one), and nobody may \
                     change anything until [admin] has users. By hand: users = [{ name = \"ops\", password_file = \
                     \"/etc/pgvane/admin-password\" }]",
                );
                admin.had_password = true;
            }
            "admin" => ledger.dropped(
                number,
                "only users of [admin] may take nodes out of service (pgvane drain, maint, ready), wherever they come from",
            ),
            "refresh" => ledger.dropped(number, "pgvane's page says itself how often it is refreshed"),
            "realm" => ledger.dropped(number, "pgvane's realm is fixed"),
            _ => ledger.dropped(number, "pgvane's page always shows the same"),
        }
    }
    let is_loopback = |bind: &super::address::Bind| match bind {
        super::address::Bind::Tcp(address) => address.ip().is_loopback(),
        super::address::Bind::Unix(_) => false,
    };
    let all: Vec<_> =
        proxy.binds.iter().flat_map(|listening| listening.binds.iter().map(move |bind| (listening, bind))).collect();
    let tcp = all.iter().find(|(_, bind)| bind.port().is_some());
    match tcp {
        Some((listening, bind)) if listening.tls.is_some() && !is_loopback(bind) => {
            let local = format!("127.0.0.1:{}", bind.port().unwrap_or(DEFAULT_PORT));
            ledger.note(
                listening.line,
                format!(
                    "pgvane's page has no TLS: it is for this host only ({local}), not at {} in plaintext",
                    bind.text()
                ),
            );
            admin.bind = Some(local);
        }
        Some((_, bind)) => admin.bind = Some(bind.text()),
        None => ledger.note(proxy.line, "pgvane's page has an IP address and a port only: it is at 127.0.0.1:8404"),
    }
    for (listening, bind) in all.iter().filter(|(_, bind)| admin.bind.as_deref() != Some(&bind.text())) {
        if tcp.is_some_and(|(_, first)| first != bind) {
            ledger
                .note(listening.line, format!("{} is not imported: pgvane has one address for its page", bind.text()));
        }
    }
    if proxy.has_http_service {
        ledger.note(
            proxy.line,
            "metrics: /metrics has pgvane's own names; HAProxy's names are at /metrics/haproxy. /healthz and /readyz answer \
             health checks",
        );
    }
    proxy.findings.enter(ledger);
    ledger.used(proxy.line);
    for line in &proxy.own_lines {
        ledger.dropped(*line, "pgvane's page has no such setting");
    }
}
