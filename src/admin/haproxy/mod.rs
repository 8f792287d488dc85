//! The outputs of HAProxy, for programs that read HAProxy: CSV, JSON and the metrics of its exporter. All are made from
//! one [`Status`], as the stats page is. docs/haproxy-outputs.md says what each field means in pgvane.
//!
//! Status → [`rows`] → `csv`, `json`, `typed`, [`metrics`]; [`uri`] says which of them a request wants.

mod csv;
mod fields;
mod json;
pub(super) mod metrics;
mod process;
mod row;
mod rows;
mod typed;
pub(super) mod uri;

use axum::http::header;
use axum::response::{IntoResponse, Response};

use self::row::Row;
pub(super) use self::rows::{FIRST_PROXY, Filter};
use self::uri::Wanted;
use super::status::Status;

/// The answer to a request for CSV or JSON; `None` if it is for the page.
pub(super) fn answer(wanted: Wanted, status: &Status) -> Option<Response> {
    let (kind, text) = match wanted {
        Wanted::Page => return None,
        Wanted::Csv(filter) => ("text/plain; charset=utf-8", csv::render(&rows::of(status, filter))),
        Wanted::Json(filter) => ("application/json", json::render(&rows::of(status, filter))),
    };
    Some(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response())
}

/// The form of the statistics on the runtime socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Csv,
    Json,
    /// A value with its place and its type in each line.
    Typed,
}

/// Which lines are wanted; -1 for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selection {
    /// The number of the listener.
    pub(super) proxy: i64,
    /// The sum of 1 for frontends, 2 for backends, 4 for servers.
    pub(super) kinds: i64,
    /// The number of the server.
    pub(super) server: i64,
}

impl Selection {
    /// All lines.
    pub(super) const ALL: Selection = Selection { proxy: -1, kinds: -1, server: -1 };

    fn has(self, row: &Row) -> bool {
        let is = |wanted: i64, number: u32| wanted == -1 || wanted == i64::from(number);
        // as in HAProxy, the number of a server selects no frontends and backends
        is(self.proxy, row.proxy) && self.kinds & 1 << row.kind.number() != 0 && is(self.server, row.id)
    }
}

/// The statistics.
pub(super) fn statistics(status: &Status, filter: Filter, selection: Selection, form: Form) -> String {
    let rows: Vec<Row> = rows::of(status, filter).into_iter().filter(|row| selection.has(row)).collect();
    match form {
        Form::Csv => csv::render(&rows),
        Form::Json => json::render(&rows),
        Form::Typed => typed::render(&rows),
    }
}
