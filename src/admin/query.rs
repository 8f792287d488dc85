//! Query strings and bodies of forms: names with values.

/// The pairs of a query string, or of a form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string. What is no pair is left out.
    pub(super) fn read(text: &str) -> Query {
        Query(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// These pairs; those without a value are left out.
    pub(super) fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Query {
        let given = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        Query(given.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// The last value of this name, unless it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    /// A link to this path with the pairs.
    pub(super) fn link(&self, path: &str) -> String {
        let mut link = form_urlencoded::Serializer::new(String::new());
        let encoded = link.extend_pairs(&self.0).finish();
        if encoded.is_empty() { path.to_owned() } else { format!("{path}?{encoded}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_into_a_link_is_read_from_it() {
        let odd = "a&b=c d/ü\"<";
        let link = Query::of([("user", odd), ("node", "")]).link("/stats/sessions");
        let query = Query::read(link.strip_prefix("/stats/sessions?").expect("a query"));
        assert_eq!((query.get("user"), query.get("node"), query.get("other")), (Some(odd), None, None));
        assert_eq!(Query::default().link("/stats"), "/stats");
        assert_eq!(Query::read("user=&user=+x+").get("user"), Some("x"));
    }
}
