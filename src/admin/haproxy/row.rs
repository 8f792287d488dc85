//! A line of HAProxy's statistics: a frontend, a backend, or a server of a backend.

use std::collections::BTreeMap;

use super::fields::Field;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A listener, towards its clients.
    Frontend,
    /// A listener, towards the nodes.
    Backend,
    /// A node, as one listener uses it.
    Server,
}

impl Kind {
    /// HAProxy's number, in the field `type`.
    pub(super) fn number(self) -> u64 {
        match self {
            Kind::Frontend => 0,
            Kind::Backend => 1,
            Kind::Server => 2,
        }
    }

    /// HAProxy's name in JSON.
    pub(super) fn label(self) -> &'static str {
        match self {
            Kind::Frontend => "Frontend",
            Kind::Backend => "Backend",
            Kind::Server => "Server",
        }
    }
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// The number -1, for "never".
    Never,
}

/// A line. Fields that it does not have are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    /// The number of the listener.
    pub(super) proxy: u32,
    /// The number of the node in its listener; zero for frontends and backends.
    pub(super) id: u32,
    values: BTreeMap<Field, Value>,
}

impl Row {
    pub(super) fn new(kind: Kind, proxy: u32, id: u32, listener: &str, server: &str) -> Row {
        let mut row = Row { kind, proxy, id, values: BTreeMap::new() };
        row.text(Field::Pxname, listener);
        row.text(Field::Svname, server);
        row.text(Field::Mode, "tcp");
        let numbers =
            [(Field::Pid, 1), (Field::Iid, proxy.into()), (Field::Sid, id.into()), (Field::Type, kind.number())];
        row.numbers(numbers);
        row
    }

    pub(super) fn text(&mut self, field: Field, text: &str) {
        self.values.insert(field, Value::Text(text.to_owned()));
    }

    pub(super) fn number(&mut self, field: Field, number: u64) {
        self.values.insert(field, Value::Number(number));
    }

    pub(super) fn numbers(&mut self, numbers: impl IntoIterator<Item = (Field, u64)>) {
        numbers.into_iter().for_each(|(field, number)| self.number(field, number));
    }

    /// Sets fields that are always zero in pgvane.
    pub(super) fn zeros(&mut self, fields: &[Field]) {
        self.numbers(fields.iter().map(|field| (*field, 0)));
    }

    /// Sets an age in seconds; -1 if there is none.
    pub(super) fn age(&mut self, field: Field, seconds: Option<u64>) {
        self.values.insert(field, seconds.map_or(Value::Never, Value::Number));
    }

    pub(super) fn get(&self, field: Field) -> Option<&Value> {
        self.values.get(&field)
    }

    /// The text of a field; empty if it has none.
    pub(super) fn text_of(&self, field: Field) -> &str {
        match self.get(field) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// The fields that are not empty, in HAProxy's order.
    pub(super) fn values(&self) -> impl Iterator<Item = (Field, &Value)> {
        self.values.iter().map(|(field, value)| (*field, value))
    }
}
