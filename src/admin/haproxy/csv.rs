//! The statistics as HAProxy's CSV.

use std::fmt::Write;

use strum::VariantArray;

use super::fields::Field;
use super::row::{Row, Value};

/// Writes the lines. Like HAProxy's, every line ends with a comma, and a column `-` follows the documented fields.
pub(super) fn render(rows: &[Row]) -> String {
    let mut text = String::from("# ");
    for field in Field::VARIANTS {
        text.push_str(field.name());
        text.push(',');
    }
    text.push_str("-,\n");
    for row in rows {
        for field in Field::VARIANTS {
            match row.get(*field) {
                Some(Value::Text(value)) => text.push_str(&quoted(value)),
                Some(Value::Number(number)) => _ = write!(text, "{number}"),
                Some(Value::Never) => text.push_str("-1"),
                None => {}
            }
            text.push(',');
        }
        text.push_str("-,\n");
    }
    text
}

/// Quotes a text that contains a comma or a quotation mark. A line break becomes a space, so that each line stays one.
fn quoted(text: &str) -> String {
    let text = text.replace(['\r', '\n'], " ");
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::row::Kind;
    use super::*;

    #[test]
    fn every_line_has_as_many_fields_as_the_first_and_ends_with_a_comma() {
        let mut row = Row::new(Kind::Server, 2, 1, "read", "node1");
        row.age(Field::Lastsess, None);
        let text = render(&[row]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("# pxname,svname,qcur,qmax,scur,") && lines[0].ends_with(",agg_check_status,-,"));
        assert!(lines[1].starts_with("read,node1,,,"), "{}", lines[1]);
        assert_eq!(lines[0].matches(',').count(), lines[1].matches(',').count());
        assert_eq!(lines[1].split(',').nth(Field::Lastsess as usize), Some("-1"));
        assert_eq!(lines[1].split(',').nth(Field::AggCheckStatus as usize + 1), Some("-"));
    }

    #[test]
    fn only_texts_that_would_be_ambiguous_are_quoted() {
        assert_eq!(quoted("connection refused"), "connection refused");
        assert_eq!(quoted("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(quoted("a\nb"), "a b");
    }
}
