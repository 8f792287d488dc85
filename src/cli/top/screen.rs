//! Draws what `pgvane top` knows.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table};

use super::model::{Model, Session};
use crate::admin::status::{Cluster, Lead, Listener, Node};
use crate::config::size_text;

const TITLE: Style = Style::new().add_modifier(Modifier::BOLD);
const HEADER: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let lines = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX);
    let clusters = &model.status.clusters;
    let heights = clusters.iter().map(|cluster| Constraint::Length(lines(cluster.nodes.len() + 3)));
    let parts = [Constraint::Length(2)].into_iter().chain(heights).chain([
        Constraint::Length(lines(model.status.listeners.len() + 2)),
        Constraint::Min(3),
        Constraint::Length(1),
    ]);
    let areas = Layout::vertical(parts).split(frame.area());
    head(frame, areas[0], model);
    for (cluster, area) in clusters.iter().zip(&areas[1..]) {
        nodes(frame, *area, cluster);
    }
    listeners(frame, areas[clusters.len() + 1], model);
    sessions(frame, areas[clusters.len() + 2], model);
    let keys =
        format!("q quits   s sorts by another field (now: {})   up and down move the sessions", model.order.label());
    frame.render_widget(Paragraph::new(keys), areas[clusters.len() + 3]);
}

fn head(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let status = &model.status;
    let sum = |of: fn(&Listener) -> usize| status.listeners.iter().map(of).sum::<usize>();
    let text = format!(
        "pgvane {}, up for {}, {} connections, {} new per second, {} waiting",
        status.version,
        age(status.uptime_seconds),
        sum(|listener| listener.sessions),
        sum(|listener| listener.connects_per_second as usize),
        sum(|listener| listener.held),
    );
    let mut lines = vec![Line::from(Span::styled(text, TITLE))];
    let bad = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
    match &model.error {
        Some(error) => lines.push(Line::styled(format!("no update: {error}"), bad)),
        None if status.is_stopping => lines.push(Line::styled("pgvane is stopping", bad)),
        None => {}
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn nodes(frame: &mut Frame<'_>, area: Rect, cluster: &Cluster) {
    let color = match cluster.lead {
        Lead::Led => Color::Green,
        Lead::Doubted | Lead::OutOfService => Color::Yellow,
        Lead::Silent | Lead::Vacant | Lead::Contested => Color::Red,
    };
    let [title, table] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let headline = format!("{}: {}", cluster.name, cluster.headline);
    frame.render_widget(Paragraph::new(Line::styled(headline, TITLE.fg(color))), title);
    let header = ["NODE", "ROLE", "STATE", "CHECK", "TL", "LAG", "SESSIONS", "NEW/s", "FAILED", "ADDRESS"];
    let widths = [16, 16, 6, 12, 4, 10, 9, 6, 7, 22].map(Constraint::Length);
    let rows = cluster.nodes.iter().map(node);
    frame.render_widget(Table::new(rows, widths).header(Row::new(header).style(HEADER)), table);
}

fn node(node: &Node) -> Row<'static> {
    let color = match node.health.as_str() {
        _ if node.state != "ready" => Color::Yellow,
        "up" if node.is_leader => Color::Green,
        "up" => Color::Reset,
        "unchecked" => Color::Yellow,
        _ => Color::Red,
    };
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let cells = [
        printable(&node.name),
        node.role.clone(),
        node.state.clone(),
        node.health.clone(),
        or_dash(node.timeline.map(|timeline| timeline.to_string())),
        or_dash(node.lag_bytes.map(size_text)),
        node.sessions.to_string(),
        node.sessions_per_second.to_string(),
        node.connect_failures.to_string(),
        node.address.clone(),
    ];
    Row::new(cells).style(Style::new().fg(color))
}

fn listeners(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let header = ["LISTENER", "ROUTES TO", "SESSIONS", "NEW/s", "WAITING", "FAILED", "TO SERVER/s", "TO CLIENT/s"];
    let widths = [16, 30, 14, 6, 8, 7, 12, 12].map(Constraint::Length);
    let rows = model.status.listeners.iter().map(|listener| {
        let rates = model
            .rates_of(&listener.name)
            .map(|rates| [rates.to_server, rates.to_client].map(|rate| size_text(rate as u64)));
        let [to_server, to_client] = rates.unwrap_or_else(|| ["-".to_owned(), "-".to_owned()]);
        let routes_to = match &listener.fallback {
            Some(leader) => format!("{leader}: no {} can serve", listener.target),
            None => listener.routes_to.clone(),
        };
        let row = Row::new([
            listener.name.clone(),
            routes_to,
            format!("{} of {}", listener.sessions, listener.sessions_max),
            listener.connects_per_second.to_string(),
            listener.held.to_string(),
            listener.failed.to_string(),
            to_server,
            to_client,
        ]);
        let is_unusual = listener.held > 0 || listener.fallback.is_some();
        if is_unusual { row.style(Style::new().fg(Color::Yellow)) } else { row }
    });
    frame.render_widget(Table::new(rows, widths).header(Row::new(header).style(HEADER)), area);
}

fn sessions(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let sessions = &model.sessions;
    if sessions.is_unknown {
        frame.render_widget(Paragraph::new("this pgvane does not list its sessions"), area);
        return;
    }
    let header =
        ["CLIENT", "USER", "DATABASE", "APPLICATION", "NODE", "LISTENER", "AGE", "STATE", "TO SERVER", "TO CLIENT"];
    let widths = [22, 14, 14, 16, 12, 12, 10, 9, 10, 10].map(Constraint::Length);
    let [table, more] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
    let rows = sessions.sessions.iter().skip(model.first).map(session);
    frame.render_widget(Table::new(rows, widths).header(Row::new(header).style(HEADER)), table);
    let count = match (sessions.total, sessions.sessions.len()) {
        (total, listed) if total > listed => format!("{total} sessions, the oldest {listed} are listed"),
        (total, _) => format!("{total} sessions"),
    };
    frame.render_widget(Paragraph::new(count), more);
}

fn session(session: &Session) -> Row<'static> {
    let or_unknown = |name: &str| if name.is_empty() { "?".to_owned() } else { printable(name) };
    Row::new([
        or_unknown(&session.client),
        or_unknown(&session.user),
        or_unknown(&session.database),
        or_unknown(&session.application_name),
        printable(&session.node),
        printable(&session.listener),
        age(session.seconds),
        session.state.clone(),
        size_text(session.bytes_to_server),
        size_text(session.bytes_to_client),
    ])
}

/// A client chooses these names: characters that control a terminal must not reach it.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// An age in its two largest units.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::model::Sessions;
    use super::*;
    use crate::admin::status::Status;

    fn drawn(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
        terminal.draw(|frame| draw(frame, model)).expect("is drawn");
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n";
        (0..height).map(line).collect()
    }

    fn model() -> Model {
        let node = |name: &str, role: &str, is_leader| Node {
            name: name.to_owned(),
            role: role.to_owned(),
            is_leader,
            health: "up".to_owned(),
            state: "ready".to_owned(),
            timeline: Some(7),
            sessions: 12,
            address: "10.0.0.1:5432".to_owned(),
            ..Node::default()
        };
        let cluster = Cluster {
            name: "main".to_owned(),
            lead: Lead::Led,
            headline: "node1 has been the leader for 2 h 3 min".to_owned(),
            nodes: vec![node("node1", "leader", true), node("node2", "replica", false)],
            ..Cluster::default()
        };
        let listener = Listener {
            name: "write".to_owned(),
            routes_to: "leader of main".to_owned(),
            sessions: 12,
            sessions_max: 100,
            held: 3,
            ..Listener::default()
        };
        let status = Status {
            version: "1.2.3".to_owned(),
            uptime_seconds: 3725,
            clusters: vec![cluster],
            listeners: vec![listener],
            ..Status::default()
        };
        let session = Session {
            client: "192.0.2.7:5000".to_owned(),
            user: "app\u{1b}[2J".to_owned(),
            node: "node2".to_owned(),
            listener: "read".to_owned(),
            seconds: 90,
            state: "open".to_owned(),
            ..Session::default()
        };
        let mut model = Model::default();
        model.take(status, Sessions { total: 200, sessions: vec![session], is_unknown: false }, Instant::now());
        model
    }

    #[test]
    fn nodes_listeners_and_sessions_are_shown_with_what_is_unusual() {
        let screen = drawn(&model(), 140, 20);
        for part in [
            "pgvane 1.2.3, up for 1 h 2 min, 12 connections, 0 new per second, 3 waiting",
            "main: node1 has been the leader for 2 h 3 min",
            "node1            leader           ready  up",
            "write            leader of main                 12 of 100",
            "192.0.2.7:5000         app?[2J        ?              ?",
            "1 min 30 s",
            "200 sessions, the oldest 1 are listed",
            "q quits",
        ] {
            assert!(screen.contains(part), "{part:?} is not in\n{screen}");
        }
        assert!(!screen.contains('\u{1b}'), "no name of a client controls the terminal");
    }

    #[test]
    fn a_failed_update_is_told_and_the_last_state_stays() {
        let mut model = model();
        model.failed("connection refused".to_owned());
        let screen = drawn(&model, 140, 20);
        assert!(screen.contains("no update: connection refused") && screen.contains("node1"), "{screen}");
    }

    #[test]
    fn a_small_terminal_is_no_failure() {
        for (width, height) in [(1, 1), (20, 5), (80, 3), (300, 100)] {
            drawn(&model(), width, height);
        }
    }
}
