//! Splits a line into commands, and a command into words, as HAProxy does: commands are separated by semicolons, words by
//! spaces, and a backslash takes the meaning from the next character.

/// A command: its words.
pub(super) type Words = Vec<String>;

/// The commands of a line. A command without words is left out; so the line may have none.
pub(super) fn commands(line: &str) -> Vec<Words> {
    let mut commands = vec![Words::new()];
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let is_end = character == ';';
        if is_end || character.is_ascii_whitespace() {
            if let (Some(word), Some(words)) = (word.take(), commands.last_mut()) {
                words.push(word);
            }
            if is_end {
                commands.push(Words::new());
            }
            continue;
        }
        let character = if character == '\\' { characters.next().unwrap_or('\\') } else { character };
        word.get_or_insert_default().push(character);
    }
    if let (Some(word), Some(words)) = (word, commands.last_mut()) {
        words.push(word);
    }
    commands.retain(|words| !words.is_empty());
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_separate_commands_and_a_backslash_keeps_a_character() {
        for (line, expected) in [
            ("show info", &[&["show", "info"][..]][..]),
            ("  show \t info ;show stat;;", &[&["show", "info"], &["show", "stat"]]),
            ("get weight a\\ b/c\\;d", &[&["get", "weight", "a b/c;d"]]),
            ("get weight a\\", &[&["get", "weight", "a\\"]]),
            ("", &[]),
            (" ; ", &[]),
        ] {
            assert_eq!(commands(line), expected, "{line:?}");
        }
    }
}
