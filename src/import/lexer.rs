//! From the bytes of a haproxy.cfg to lines of words, as HAProxy's `parse_line` (src/tools.c) reads them: quotes,
//! escapes, comments, and environment variables inside double quotes.

use std::collections::BTreeMap;

/// HAProxy reads at most this number of words on a line (`MAX_LINE_ARGS`).
const WORDS_MAX: usize = 64;

/// One line that is not empty and not only a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub number: usize,
    /// Its words, without quotes and escapes.
    pub words: Vec<String>,
    /// The environment variables on it that are not set. HAProxy takes them for empty.
    pub unset: Vec<String>,
}

impl Line {
    /// The word at this place, or "".
    pub fn word(&self, place: usize) -> &str {
        self.words.get(place).map_or("", String::as_str)
    }

    /// The words from this place on.
    pub fn rest(&self, from: usize) -> &[String] {
        self.words.get(from..).unwrap_or_default()
    }
}

/// Why a line cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub line: usize,
    pub why: String,
}

/// The environment variables, as the file changes them while it is read.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    at_start: BTreeMap<String, String>,
    now: BTreeMap<String, String>,
}

impl Environment {
    pub fn new(variables: &BTreeMap<String, String>) -> Environment {
        Environment { at_start: variables.clone(), now: variables.clone() }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.now.get(name).map(String::as_str)
    }

    /// Follows `setenv`, `presetenv`, `unsetenv` and `resetenv`, which hold from the next line on.
    pub fn follow(&mut self, line: &Line) {
        let (name, value) = (line.word(1).to_owned(), line.word(2).to_owned());
        match line.word(0) {
            "setenv" => drop(self.now.insert(name, value)),
            "presetenv" => drop(self.now.entry(name).or_insert(value)),
            "unsetenv" => line.rest(1).iter().for_each(|name| drop(self.now.remove(name))),
            "resetenv" => {
                let kept = line.rest(1);
                self.now = self.at_start.clone();
                self.now.retain(|name, _| kept.contains(name));
            }
            _ => {}
        }
    }

    /// Replaces `$NAME` and `${NAME}` as HAProxy does in addresses, also outside of quotes (`env_expand`).
    /// Returns the variables that are not set too. Errors: `${NAME-default}`, which HAProxy does not know here.
    pub fn expand_address(&self, text: &str) -> Result<(String, Vec<String>), String> {
        let (mut out, mut unset, mut rest) = (String::new(), Vec::new(), text);
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            let (is_braced, body) = after.strip_prefix('{').map_or((false, after), |body| (true, body));
            let end = body.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(body.len());
            let (name, behind) = body.split_at(end);
            rest = if is_braced {
                let closed = behind.strip_prefix('}');
                closed.ok_or_else(|| {
                    format!(
                        "outside of double quotes HAProxy reads ${{{name}}} in an address, but nothing behind the name"
                    )
                })?
            } else {
                behind
            };
            match self.get(name) {
                Some(value) => out.push_str(value),
                None => unset.push(name.to_owned()),
            }
        }
        out.push_str(rest);
        Ok((out, unset))
    }
}

/// Reads one line. `Ok(None)` for an empty line and for a comment.
pub(super) fn line(number: usize, bytes: &[u8], environment: &Environment) -> Result<Option<Line>, Unreadable> {
    let mut reader =
        Reader { bytes, at: 0, environment, words: Vec::new(), word: Vec::new(), in_word: false, unset: Vec::new() };
    reader.read().map_err(|why| Unreadable { line: number, why })?;
    if reader.words.len() > WORDS_MAX {
        return Err(Unreadable { line: number, why: format!("more than {WORDS_MAX} words: HAProxy refuses the line") });
    }
    let words: Vec<String> = reader.words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let is_empty = words.first().is_none_or(String::is_empty);
    Ok((!is_empty).then_some(Line { number, words, unset: reader.unset }))
}

struct Reader<'l> {
    bytes: &'l [u8],
    at: usize,
    environment: &'l Environment,
    words: Vec<Vec<u8>>,
    word: Vec<u8>,
    in_word: bool,
    unset: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Quote {
    None,
    Single,
    Double,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn read(&mut self) -> Result<(), String> {
        let mut quote = Quote::None;
        loop {
            match (self.peek(0), quote) {
                // as HAProxy: the end of the line, also inside of quotes; what follows a carriage return is not read
                (0 | b'\n' | b'\r', _) => break,
                (b'#', Quote::None) => break,
                (b'"', Quote::None) => quote = self.quote(Quote::Double),
                (b'"', Quote::Double) => quote = self.quote(Quote::None),
                (b'\'', Quote::None) => quote = self.quote(Quote::Single),
                (b'\'', Quote::Single) => quote = self.quote(Quote::None),
                (b'\\', Quote::None | Quote::Double) => self.escape(quote)?,
                (byte, Quote::None) if byte.is_ascii_whitespace() || byte == 0x0b => {
                    self.at += 1;
                    self.end_word();
                }
                (b'$', Quote::Double) => self.variable()?,
                (byte, _) => self.push(byte),
            }
        }
        if quote != Quote::None {
            return Err("a quote is not closed: HAProxy refuses the line".to_owned());
        }
        self.end_word();
        Ok(())
    }

    fn push(&mut self, byte: u8) {
        self.in_word = true;
        self.word.push(byte);
        self.at += 1;
    }

    fn quote(&mut self, next: Quote) -> Quote {
        self.in_word = true;
        self.at += 1;
        next
    }

    fn end_word(&mut self) {
        if self.in_word {
            self.words.push(std::mem::take(&mut self.word));
            self.in_word = false;
        }
    }

    /// A backslash. It stays where it does not begin an escape sequence.
    fn escape(&mut self, quote: Quote) -> Result<(), String> {
        let (byte, length) = match self.peek(1) {
            byte @ (b' ' | b'\\' | b'#' | b'\'' | b'"') => (byte, 2),
            b't' => (b'\t', 2),
            b'n' => (b'\n', 2),
            b'r' => (b'\r', 2),
            b'$' if quote == Quote::Double => (b'$', 2),
            b'x' => {
                let hex = |ahead| (self.peek(ahead) as char).to_digit(16);
                let (Some(high), Some(low)) = (hex(2), hex(3)) else {
                    return Err("\\x is not followed by two hexadecimal digits: HAProxy refuses the line".to_owned());
                };
                ((high * 16 + low) as u8, 4)
            }
            _ => (b'\\', 1),
        };
        self.in_word = true;
        self.word.push(byte);
        self.at += length;
        Ok(())
    }

    /// `$NAME`, `${NAME}`, `${NAME-default}` or `${NAME[*]}`.
    fn variable(&mut self) -> Result<(), String> {
        self.at += 1;
        let is_braced = self.peek(0) == b'{';
        self.at += usize::from(is_braced);
        let start = self.at;
        if !(self.peek(0).is_ascii_alphabetic() || matches!(self.peek(0), b'_' | b'.')) {
            return Err("the name of an environment variable is not valid: HAProxy refuses the line".to_owned());
        }
        self.at += 1;
        while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == b'_' {
            self.at += 1;
        }
        let name = String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned();
        let mut value = self.environment.get(&name).map(|value| value.as_bytes().to_vec());
        let splits = is_braced && self.bytes[self.at..].starts_with(b"[*]");
        self.at += if splits { 3 } else { 0 };
        if is_braced {
            let end = self.bytes[self.at..].iter().position(|byte| *byte == b'}').map(|length| self.at + length);
            let (Some(end), true) = (end, matches!(self.peek(0), b'-' | b'}')) else {
                return Err("the brace of an environment variable is not closed: HAProxy refuses the line".to_owned());
            };
            if self.peek(0) == b'-' && value.is_none() {
                value = Some(self.bytes[self.at + 1..end].to_vec());
            }
            self.at = end + 1;
        }
        self.in_word = true;
        let Some(value) = value else {
            self.unset.push(name);
            return Ok(());
        };
        for byte in value {
            if splits && byte.is_ascii_whitespace() {
                self.end_word();
            } else {
                self.in_word = true;
                self.word.push(byte);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let line = line(1, text.as_bytes(), &Environment::new(&variables)).map_err(|unreadable| unreadable.why)?;
        Ok(line.map(|line| line.words).unwrap_or_default())
    }

    #[test]
    fn quotes_and_escapes_are_read_as_haproxy_reads_them() {
        for (text, words) in [
            (r#"server 'pg1' "10.0.0.11:5432" check"#, &["server", "pg1", "10.0.0.11:5432", "check"][..]),
            (r"realm Orders\ database\ \#1 # comment", &["realm", "Orders database #1"]),
            (r#"a "b # c" 'd # e' "#, &["a", "b # c", "d # e"]),
            (r"send GET\x20/\x20HTTP/1.0\r\n", &["send", "GET / HTTP/1.0\r\n"]),
            (r#"a 'b\ c' "d'e" 'f"g' h"i j"k"#, &["a", r"b\ c", "d'e", "f\"g", "hi jk"]),
            (r#"a "" b"#, &["a", "", "b"]),
            (r"a\1 \q", &[r"a\1", r"\q"]),
            ("a\tb\r\n", &["a", "b"]),
            ("# only a comment", &[]),
            ("   ", &[]),
            ("log-format '%ci:%cp \"%b/%s\" %B # bytes'", &["log-format", "%ci:%cp \"%b/%s\" %B # bytes"]),
        ] {
            assert_eq!(read(text, &[]).expect("is read"), words, "{text}");
        }
    }

    #[test]
    fn variables_are_expanded_in_double_quotes_only() {
        let variables = [("PORT", "5432"), ("LIST", "a b"), ("EMPTY", "")];
        for (text, words) in [
            (r#"bind ":${PORT}""#, &["bind", ":5432"][..]),
            (r#"bind ":$PORT" "${NONE-3s}" "${PORT-1}""#, &["bind", ":5432", "3s", "5432"]),
            ("bind :${PORT} ':${PORT}'", &["bind", ":${PORT}", ":${PORT}"]),
            (r#"x "${LIST[*]}" "${LIST}" "\$PORT""#, &["x", "a", "b", "a b", "$PORT"]),
            (r#"x "${EMPTY}" y"#, &["x", "", "y"]),
        ] {
            assert_eq!(read(text, &variables).expect("is read"), words, "{text}");
        }
        let unset = line(1, br#"x "${NONE}" "$OTHER""#, &Environment::new(&BTreeMap::new()))
            .expect("is read")
            .expect("is read")
            .unset;
        assert_eq!(unset, ["NONE", "OTHER"]);
    }

    #[test]
    fn what_haproxy_cannot_read_is_not_read() {
        for text in [r#"a "b"#, "a 'b", r#"a "${B""#, r#"a "${1}""#, r"a \x2", r"a \xzz", &"w ".repeat(65)] {
            assert!(read(text, &[]).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_expanded_without_quotes_but_without_defaults() {
        let mut environment = Environment::new(&BTreeMap::from([("HOST".to_owned(), "10.0.0.1".to_owned())]));
        assert_eq!(environment.expand_address("${HOST}:5432").expect("is read").0, "10.0.0.1:5432");
        assert_eq!(environment.expand_address("$HOST:5432").expect("is read").0, "10.0.0.1:5432");
        assert_eq!(
            environment.expand_address("$NONE:5432").expect("is read"),
            (":5432".to_owned(), vec!["NONE".to_owned()])
        );
        assert!(environment.expand_address("10.0.0.1:${PORT-5432}").is_err());
        for (text, host) in
            [("presetenv HOST a", Some("10.0.0.1")), ("setenv HOST b", Some("b")), ("unsetenv HOST", None)]
        {
            let line = line(1, text.as_bytes(), &environment).expect("is read").expect("is read");
            environment.follow(&line);
            assert_eq!(environment.get("HOST"), host, "{text}");
        }
    }
}
