//! The outputs of HAProxy, for programs that read HAProxy: CSV, JSON and the metrics of its exporter. All are made from
//! one [`Status`], as the stats page is. docs/haproxy-outputs.md says what each field means in pgvane.
//!
//! Status → [`rows`] → `csv`, `json`, [`metrics`]; [`uri`] says which of them a request wants.

mod csv;
mod fields;
mod json;
pub(super) mod metrics;
mod process;
mod row;
mod rows;
pub(super) mod uri;

use axum::http::header;
use axum::response::{IntoResponse, Response};

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
