//! Environment variables in the configuration: `${NAME}` and `${NAME:-default}` in any string.

/// A string in which a variable cannot be replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreplaced {
    /// What is wrong.
    pub message: String,
    /// What the operator can do.
    pub hint: String,
}

/// Replaces `${NAME}` by the variable's value, and `${NAME:-default}` by the default if the variable is not set or is
/// empty, as in a shell. `$${` stands for `${` itself; any other `$` stays. `None`: there is nothing to replace.
///
/// The values are not read again: a value that contains `${` stays as it is. Errors: a variable that is not set and has
/// no default, or text after `${` that is no variable.
pub(super) fn replace(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Option<String>, Unreplaced> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, found) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            replaced.push_str(before);
            replaced.push_str("${");
            rest = &found[2..];
            continue;
        }
        replaced.push_str(before);
        let end = found.find('}').ok_or_else(|| not_a_variable(found))?;
        replaced.push_str(&value(&found[2..end], &variable)?);
        rest = &found[end + 1..];
    }
    replaced.push_str(rest);
    Ok(Some(replaced))
}

/// The value of what stands between `${` and `}`.
fn value(inside: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, Unreplaced> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = name
        .bytes()
        .enumerate()
        .all(|(at, byte)| byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()));
    if name.is_empty() || !is_name {
        return Err(not_a_variable(&format!("${{{inside}}}")));
    }
    match (variable(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Unreplaced {
            message: format!("the environment variable {name} is not set"),
            hint: format!("set {name} for the pgvane process, or write a default: ${{{name}:-default}}"),
        }),
    }
}

fn not_a_variable(found: &str) -> Unreplaced {
    Unreplaced {
        message: format!("{found} is not an environment variable"),
        hint: "write ${NAME} or ${NAME:-default}; for the two characters ${ themselves, write $${".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replaced(text: &str) -> Result<Option<String>, Unreplaced> {
        replace(text, |name| match name {
            "HOST" => Some("db1".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${HOST}".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn variables_are_replaced_and_defaults_serve_as_in_a_shell() {
        for (text, wanted) in [
            ("${HOST}", "db1"),
            ("${HOST}:5432", "db1:5432"),
            ("a ${HOST} b ${HOST}", "a db1 b db1"),
            ("${NOT_SET:-pg1}:5432", "pg1:5432"),
            ("${HOST:-pg1}", "db1"),
            ("${EMPTY:-pg1}", "pg1"),
            ("${EMPTY}", ""),
            ("${NOT_SET:-}", ""),
            ("${NOT_SET:-a:-b}", "a:-b"),
            ("${TRICKY}", "${HOST}"),
            ("$${HOST}", "${HOST}"),
            ("$${HOST} ${HOST}", "${HOST} db1"),
        ] {
            assert_eq!(replaced(text), Ok(Some(wanted.to_owned())), "{text}");
        }
    }

    #[test]
    fn other_dollar_signs_stay() {
        for text in ["", "pa$$word", "$HOST", "cost: 5$", "{HOST}", "$ {HOST}"] {
            assert_eq!(replaced(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_is_a_fault_that_names_it() {
        let fault = replaced("postgres://${PG_HOST}").expect_err("it is not set");
        assert_eq!(fault.message, "the environment variable PG_HOST is not set");
        assert!(fault.hint.contains("${PG_HOST:-default}"), "{}", fault.hint);
    }

    #[test]
    fn what_is_not_a_variable_is_a_fault() {
        for text in ["${", "${}", "${HOST", "${1ST}", "${A-B}", "${A B}", "${:-x}"] {
            let fault = replaced(text).expect_err(text);
            assert!(fault.message.ends_with("is not an environment variable"), "{text}: {}", fault.message);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~${}:é]{0,40}") {
            let _ = replaced(&text);
        }
    }
}
