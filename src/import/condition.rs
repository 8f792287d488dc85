//! `.if`, `.elif`, `.else` and `.endif`: which lines of the file hold.

use super::lexer::{Environment, Line};

/// Whether the lines of the open blocks hold.
#[derive(Debug, Default)]
pub(super) struct Blocks(Vec<Block>);

#[derive(Debug)]
struct Block {
    line: usize,
    /// Whether the block around it holds.
    outer: bool,
    holds: bool,
    /// One of its branches held already.
    is_decided: bool,
    is_else: bool,
}

impl Blocks {
    /// Whether a line here holds.
    pub fn hold(&self) -> bool {
        self.0.last().is_none_or(|block| block.holds)
    }

    /// Follows a line that begins with a dot. Errors: why it cannot be followed.
    pub fn follow(&mut self, line: &Line, environment: &Environment) -> Result<(), String> {
        let outer = self.hold();
        match (line.word(0), self.0.last_mut()) {
            (".if", _) => {
                let holds = outer && evaluate(line, environment)?;
                self.0.push(Block { line: line.number, outer, holds, is_decided: holds || !outer, is_else: false });
            }
            (".elif", Some(block)) if !block.is_else => {
                block.holds = block.outer && !block.is_decided && evaluate(line, environment)?;
                block.is_decided |= block.holds;
            }
            (".else", Some(block)) if !block.is_else => {
                block.holds = block.outer && !block.is_decided;
                (block.is_decided, block.is_else) = (true, true);
            }
            (".endif", Some(_)) => drop(self.0.pop()),
            (".elif" | ".else" | ".endif", _) => return Err(format!("{} without .if", line.word(0))),
            (".alert", _) if outer => return Err("HAProxy stops here: .alert".to_owned()),
            (".alert" | ".warning" | ".notice" | ".diag", _) => {}
            (other, _) => return Err(format!("unknown directive \"{other}\": HAProxy refuses it too")),
        }
        Ok(())
    }

    /// The line of a block that is never closed.
    pub fn unclosed(&self) -> Option<usize> {
        self.0.last().map(|block| block.line)
    }
}

/// `defined(NAME)`, `streq(a,b)`, `strneq(a,b)`, numbers, `!`, `&&`, `||` and parentheses.
fn evaluate(line: &Line, environment: &Environment) -> Result<bool, String> {
    let text = line.rest(1).join(" ");
    let mut parser = Parser { rest: text.trim(), environment };
    let value = parser.any()?;
    if parser.rest.trim().is_empty() { Ok(value) } else { Err(unknown(parser.rest)) }
}

fn unknown(text: &str) -> String {
    format!("the condition \"{}\" depends on HAProxy itself, or is not known to pgvane", text.trim())
}

struct Parser<'t> {
    rest: &'t str,
    environment: &'t Environment,
}

impl Parser<'_> {
    fn takes(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start();
        match rest.strip_prefix(token) {
            Some(behind) => {
                self.rest = behind;
                true
            }
            None => false,
        }
    }

    fn any(&mut self) -> Result<bool, String> {
        let mut value = self.all()?;
        while self.takes("||") {
            value |= self.all()?;
        }
        Ok(value)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut value = self.term()?;
        while self.takes("&&") {
            value &= self.term()?;
        }
        Ok(value)
    }

    fn term(&mut self) -> Result<bool, String> {
        let mut is_negated = false;
        while self.takes("!") {
            is_negated = !is_negated;
        }
        let value = if self.takes("(") {
            let value = self.any()?;
            if !self.takes(")") {
                return Err(unknown(self.rest));
            }
            value
        } else {
            self.predicate()?
        };
        Ok(value != is_negated)
    }

    fn predicate(&mut self) -> Result<bool, String> {
        let rest = self.rest.trim_start();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits > 0 {
            self.rest = &rest[digits..];
            return Ok(rest[..digits].bytes().any(|digit| digit != b'0'));
        }
        if rest.is_empty() {
            return Ok(false); // HAProxy: "An empty expression returns false"
        }
        let (name, behind) = rest.split_once('(').ok_or_else(|| unknown(rest))?;
        let (arguments, behind) = behind.split_once(')').ok_or_else(|| unknown(rest))?;
        let mut arguments = arguments.split(',').map(|argument| argument.trim().trim_matches(['"', '\'']));
        let (first, second) = (arguments.next().unwrap_or(""), arguments.next());
        let value = match (name, second) {
            ("defined", None) => self.environment.get(first).is_some(),
            ("streq", Some(second)) => first == second,
            ("strneq", Some(second)) => first != second,
            _ => return Err(unknown(rest)),
        };
        self.rest = behind;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::lexer;
    use super::*;

    #[test]
    fn blocks_hold_where_their_conditions_do() {
        let environment = Environment::new(&BTreeMap::from([("SITE".to_owned(), "east".to_owned())]));
        let held = |text: &str| {
            let mut blocks = Blocks::default();
            let mut held = Vec::new();
            for (number, line) in text.lines().enumerate() {
                let line = lexer::line(number, line.as_bytes(), &environment).expect("is read").expect("is read");
                if line.word(0).starts_with('.') {
                    blocks.follow(&line, &environment)?;
                } else if blocks.hold() {
                    held.push(line.words.join(" "));
                }
            }
            Ok::<_, String>(held)
        };
        assert_eq!(held(".if defined(SITE)\na\n.else\nb\n.endif\nc").expect("is read"), ["a", "c"]);
        assert_eq!(
            held(".if streq(\"$SITE\",west)\na\n.elif 1\nb\n.elif 1\nc\n.else\nd\n.endif").expect("is read"),
            ["b"]
        );
        assert_eq!(held(".if 0\n.if 1\na\n.else\nb\n.endif\n.endif\nc").expect("is read"), ["c"]);
        assert_eq!(held(".if !defined(NONE) && ( 0 || 1 )\na\n.endif").expect("is read"), ["a"]);
        for text in [".if version_atleast(2.4)\na\n.endif", ".else", ".endif", ".if feature(LUA)", ".alert x", ".fi"] {
            assert!(held(text).is_err(), "{text}");
        }
    }
}
