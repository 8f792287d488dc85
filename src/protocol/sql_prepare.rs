//! Whether a text of SQL is one `PREPARE` and nothing else.
//!
//! PostgreSQL keeps, with a statement that `PREPARE` has made, the whole text that the client has sent: `insert …; prepare
//! …` would insert a second time if it were sent again. The server decides in the end, because it refuses to parse more
//! than one statement; here it is known before.

/// Whether the text begins with the word `PREPARE`, after blanks and comments, and has one statement. In doubt: no.
pub(super) fn is_one_prepare(text: &[u8]) -> bool {
    const WORD: &[u8] = b"prepare";
    let text = without_blanks(text);
    let begins = text.get(..WORD.len()).is_some_and(|word| word.eq_ignore_ascii_case(WORD));
    begins && !text.get(WORD.len()).copied().is_some_and(is_of_word) && is_one_statement(&text[WORD.len()..])
}

/// What follows the blanks and comments at the beginning of a text.
fn without_blanks(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        text = match text {
            [b'-', b'-', rest @ ..] => after(rest, b"\n").unwrap_or_default(),
            [b'/', b'*', rest @ ..] => after_comment(rest),
            [0x0b, rest @ ..] => rest, // not one of Rust's blanks, but one of PostgreSQL's
            _ => return text,
        }
    }
}

/// Whether nothing but blanks, comments and semicolons follows the first semicolon outside of quotes.
fn is_one_statement(mut text: &[u8]) -> bool {
    loop {
        text = match text {
            [] => return true,
            [b';', rest @ ..] => {
                let rest = without_blanks(rest);
                if !matches!(rest, [] | [b';', ..]) {
                    return false;
                }
                rest
            }
            [b'-', b'-', ..] | [b'/', b'*', ..] => without_blanks(text),
            [quote @ (b'\'' | b'"'), rest @ ..] => after(rest, &[*quote]).unwrap_or_default(),
            [byte, rest @ ..] if is_of_word(*byte) => after_word(rest), // a dollar in a word quotes nothing
            [b'$', rest @ ..] => after_dollar(rest),
            [_, rest @ ..] => rest,
        }
    }
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn after_word(text: &[u8]) -> &[u8] {
    let length = text.iter().take_while(|byte| is_of_word(**byte) || **byte == b'$').count();
    &text[length..]
}

/// What follows a dollar: a quoted text with its end, or nothing but the dollar.
fn after_dollar(text: &[u8]) -> &[u8] {
    let length = text.iter().take_while(|byte| is_of_word(**byte)).count();
    match text.get(length) {
        Some(b'$') if !text[0].is_ascii_digit() => {
            let mark = [b"$", &text[..=length]].concat();
            after(&text[length + 1..], &mark).unwrap_or_default()
        }
        _ => &text[length..],
    }
}

/// What follows the first `mark`.
fn after<'t>(text: &'t [u8], mark: &[u8]) -> Option<&'t [u8]> {
    let at = text.windows(mark.len()).position(|window| window == mark)?;
    Some(&text[at + mark.len()..])
}

/// What follows a comment of which the beginning has been read. Comments may contain others.
fn after_comment(mut text: &[u8]) -> &[u8] {
    let mut depth = 1;
    while depth > 0 {
        text = match text {
            [] => return text,
            [b'/', b'*', rest @ ..] => {
                depth += 1;
                rest
            }
            [b'*', b'/', rest @ ..] => {
                depth -= 1;
                rest
            }
            [_, rest @ ..] => rest,
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_prepare_is_told_from_several_statements_and_from_others() {
        for text in [
            "prepare a as select 1",
            "PREPARE a (int) AS select $1;",
            " \n-- a comment; with a semicolon\n/* and /* another; */ one */ Prepare\ta as select ';' ; ; -- end;",
            "prepare a as select $$;$$, $x$ $$; $x$, \";\", a$b$c from t",
            "prepare\"a\" as select 1",
            "prepare a as select 1 /* ; */",
        ] {
            assert!(is_one_prepare(text.as_bytes()), "{text}");
        }
        for text in [
            "insert into t values (1); prepare a as select 1",
            "prepare a as select 1; insert into t values (1)",
            "prepare a as select ';'; insert into t values (1)",
            "prepare a as select $1; prepare b as select $1;",
            "prepared a as select 1",
            "prepare1",
            "do $$ begin execute 'prepare a as select 1'; end $$",
            "-- prepare a as select 1",
            "",
        ] {
            assert!(!is_one_prepare(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-/*;'\"$ a1\n\\x0b]{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = is_one_prepare(text.as_bytes());
            let _ = is_one_prepare(format!("prepare {text}").as_bytes());
            let _ = is_one_prepare(&bytes);
        }
    }
}
