//! The statistics with one value in each line, with its place, its tags and its type, as HAProxy's `show stat typed`.

use std::fmt::Write;

use super::fields::Tags;
use super::row::{Row, Value};

/// All lines: `F.2.0.4.scur.1:MGP:u32:7`.
pub(super) fn render(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let (kind, proxy, id) = (&row.kind.label()[..1], row.proxy, row.id);
        for (field, value) in row.values() {
            let tags = field.tags();
            let place =
                format!("{kind}.{proxy}.{id}.{}.{}.1:{}:{}", field as usize, field.name(), tags.letters(), tags.kind);
            let _ = match value {
                Value::Text(value) => writeln!(text, "{place}:{}", value.replace(['\r', '\n'], " ")),
                Value::Number(number) => writeln!(text, "{place}:{number}"),
                Value::Never => writeln!(text, "{place}:-1"),
            };
        }
    }
    text
}

impl Tags {
    /// A letter for each of the three tags.
    pub(in crate::admin) fn letters(self) -> String {
        let nature = if self.nature == "Avg" { "a" } else { &self.nature[..1] };
        [&self.origin[..1], nature, &self.scope[..1]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::Field;
    use super::super::row::Kind;
    use super::*;

    #[test]
    fn each_value_is_a_line_with_its_place_its_tags_and_its_type() {
        let mut row = Row::new(Kind::Frontend, 2, 0, "write", "FRONTEND");
        row.numbers([(Field::Scur, 7), (Field::Weight, 3)]);
        let text = render(&[row]);
        for line in ["F.2.0.0.pxname.1:KNS:str:write", "F.2.0.4.scur.1:MGP:u32:7", "F.2.0.18.weight.1:MaP:u32:3"] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }
}
