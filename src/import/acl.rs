//! Conditions behind `if` and `unless`: names of `acl` lines, anonymous ones in braces, `!` and `or`.

use super::lexer::Line;

/// `criterion value …`, as an `acl` line or braces say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    /// Without a table in parentheses: `src`, `dst_port`, `nbsrv`.
    pub criterion: String,
    /// What stands in parentheses.
    pub argument: String,
    pub flags: Vec<String>,
    pub values: Vec<String>,
    /// The line of the `acl`; 0 in braces.
    pub line: usize,
}

/// One part of a condition. It holds if one of the tests does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Literal {
    pub is_negated: bool,
    pub tests: Vec<Test>,
}

/// A condition: one of the lists must hold, of each list all parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition(pub Vec<Vec<Literal>>);

impl Condition {
    /// Always.
    pub fn always() -> Condition {
        Condition(vec![Vec::new()])
    }

    /// The condition as one part; `None` if it has several.
    pub fn single(&self) -> Option<&Literal> {
        match &self.0[..] {
            [parts] => match &parts[..] {
                [literal] => Some(literal),
                _ => None,
            },
            _ => None,
        }
    }

    /// All tests in it.
    pub fn tests(&self) -> impl Iterator<Item = &Test> {
        self.0.iter().flatten().flat_map(|literal| &literal.tests)
    }

    fn negated(self) -> Condition {
        // not (a and b or c) = (not a or not b) and not c
        let mut result = Condition::always();
        for parts in self.0 {
            let choices: Vec<Literal> =
                parts.into_iter().map(|part| Literal { is_negated: !part.is_negated, ..part }).collect();
            let combined = result.0.iter().flat_map(|before| {
                choices
                    .iter()
                    .map(|choice| before.iter().cloned().chain(std::iter::once(choice.clone())).collect::<Vec<_>>())
            });
            result = Condition(combined.collect());
        }
        result
    }
}

/// The most lists that a condition may have.
const LISTS_MAX: usize = 64;

/// Splits the words of a rule into those before `if` or `unless`, and the condition. Errors: why it is not understood.
pub(super) fn split<'w>(words: &'w [String], acls: &[Line]) -> Result<(&'w [String], Condition), String> {
    let Some(place) = words.iter().position(|word| word == "if" || word == "unless") else {
        return Ok((words, Condition::always()));
    };
    let condition = condition(&words[place + 1..], acls)?;
    let condition = if words[place] == "unless" { condition.negated() } else { condition };
    if condition.0.len() > LISTS_MAX {
        Err("the condition is too long".to_owned())
    } else {
        Ok((&words[..place], condition))
    }
}

fn condition(words: &[String], acls: &[Line]) -> Result<Condition, String> {
    let mut lists = vec![Vec::new()];
    let mut place = 0;
    let mut is_negated = false;
    while place < words.len() {
        let word = words[place].as_str();
        let bare = word.trim_start_matches('!');
        is_negated ^= (word.len() - bare.len()) % 2 == 1;
        place += 1;
        match bare {
            "" => continue,
            "or" | "||" | "OR" => lists.push(Vec::new()),
            "{" => {
                let end = words[place..].iter().position(|word| word == "}").ok_or("a brace is not closed")? + place;
                let test = test(&words[place..end], 0).ok_or("the braces are empty")?;
                push(&mut lists, Literal { is_negated, tests: vec![test] });
                place = end + 1;
            }
            name => push(&mut lists, Literal { is_negated, tests: named(name, acls)? }),
        }
        is_negated = false;
    }
    Ok(Condition(lists))
}

fn push(lists: &mut [Vec<Literal>], literal: Literal) {
    if let Some(list) = lists.last_mut() {
        list.push(literal);
    }
}

fn named(name: &str, acls: &[Line]) -> Result<Vec<Test>, String> {
    let tests: Vec<Test> =
        acls.iter().filter(|line| line.word(1) == name).filter_map(|line| test(line.rest(2), line.number)).collect();
    if !tests.is_empty() {
        return Ok(tests);
    }
    let predefined = |criterion: &str, values: &[&str]| Test {
        criterion: criterion.to_owned(),
        argument: String::new(),
        flags: Vec::new(),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
        line: 0,
    };
    match name {
        "TRUE" => Ok(vec![predefined("always_true", &[])]),
        "FALSE" => Ok(vec![predefined("always_false", &[])]),
        "LOCALHOST" => Ok(vec![predefined("src", &["127.0.0.1/8", "::1"])]),
        _ => Err(format!("there is no acl \"{name}\"")),
    }
}

fn test(words: &[String], line: usize) -> Option<Test> {
    let (first, mut rest) = words.split_first()?;
    let (criterion, argument) = match first.split_once('(') {
        Some((criterion, argument)) => (criterion, argument.trim_end_matches(')')),
        None => (first.as_str(), ""),
    };
    let mut flags = Vec::new();
    while let Some((flag, behind)) = rest.split_first().filter(|(flag, _)| flag.starts_with('-')) {
        rest = behind;
        if flag == "--" {
            break;
        }
        flags.push(flag.clone());
        if matches!(flag.as_str(), "-f" | "-m" | "-M" | "-u") {
            if let Some((value, behind)) = rest.split_first() {
                flags.push(value.clone());
                rest = behind;
            }
        }
    }
    Some(Test { criterion: criterion.to_owned(), argument: argument.to_owned(), flags, values: rest.to_vec(), line })
}

impl Test {
    /// A number that is compared: `gt 50`, `ge 1`, `5432`. Returns the smallest number for which it holds, and whether
    /// it is a comparison upwards.
    pub fn at_least(&self) -> Option<u64> {
        match &self.values[..] {
            [operator, number] => {
                let number: u64 = number.parse().ok()?;
                match operator.as_str() {
                    "gt" => number.checked_add(1),
                    "ge" => Some(number),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The files that hold its values.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.flags.windows(2).filter(|pair| pair[0] == "-f").map(|pair| pair[1].as_str())
    }
}
