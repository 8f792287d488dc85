//! The statistics as HAProxy's JSON: for each line an array of its fields, each with its place, tags and type.

use serde_json::{Value as Json, json};

use super::fields::{Field, Tags};
use super::row::{Row, Value};

/// All lines.
pub(super) fn render(rows: &[Row]) -> String {
    let rows: Vec<Json> =
        rows.iter().map(|row| row.values().map(|(field, value)| object(row, field, value)).collect()).collect();
    Json::from(rows).to_string() + "\n"
}

fn object(row: &Row, field: Field, value: &Value) -> Json {
    let Tags { origin, nature, scope, kind } = field.tags();
    let value = match value {
        Value::Text(text) => json!(text),
        Value::Number(number) if kind == "u64" => json!(number),
        Value::Number(number) => json!(u32::try_from(*number).unwrap_or(u32::MAX)),
        Value::Never => json!(-1),
    };
    json!({
        "objType": row.kind.label(),
        "proxyId": row.proxy,
        "id": row.id,
        "field": {"pos": field as usize, "name": field.name()},
        "processNum": 1,
        "tags": {"origin": origin, "nature": nature, "scope": scope},
        "value": {"type": kind, "value": value},
    })
}
