//! The commands that there are: their words, their help, and the level that they need.

use crate::config::SocketLevel;

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    DisableServer,
    EnableServer,
    GetWeight,
    LowerTo(SocketLevel),
    SetServer,
    SetTimeout,
    SetWeight,
    ShowBackend,
    ShowLevel,
    ShowSockets,
    ShowInfo,
    ShowServersConn,
    ShowServersState,
    ShowSessions,
    ShowStat,
    ShowVersion,
    ShutdownSession,
    ShutdownSessions,
    Help,
    Prompt,
    Quit,
}

/// A command.
pub(super) struct Command {
    /// The words with which it begins.
    words: &'static [&'static str],
    /// The words that follow, for the help.
    rest: &'static str,
    help: &'static str,
    /// The level that it needs.
    pub(super) level: SocketLevel,
    pub(super) verb: Verb,
}

const fn command(
    words: &'static [&'static str],
    rest: &'static str,
    help: &'static str,
    level: SocketLevel,
    verb: Verb,
) -> Command {
    Command { words, rest, help, level, verb }
}

use SocketLevel::{Admin, Operator, User};

/// In the order of the help. The last three are named in every answer that lists commands.
#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    command(&["disable", "server"], "<bk>/<srv>", "take a server out of service (as 'set server <bk>/<srv> state maint')", Admin, Verb::DisableServer),
    command(&["enable", "server"], "<bk>/<srv>", "give a server sessions again (as 'set server <bk>/<srv> state ready')", Admin, Verb::EnableServer),
    command(&["get", "weight"], "<bk>/<srv>", "report a server's current weight", User, Verb::GetWeight),
    command(&["operator"], "", "lower the level of the current CLI session to operator", Operator, Verb::LowerTo(Operator)),
    command(&["set", "server"], "<bk>/<srv> [opts]", "change a server's state or weight", Admin, Verb::SetServer),
    command(&["set", "timeout", "cli"], "<delay>", "change the timeout of the current CLI session", User, Verb::SetTimeout),
    command(&["set", "weight"], "<bk>/<srv>", "change a server's weight (as 'set server <bk>/<srv> weight')", Admin, Verb::SetWeight),
    command(&["show", "backend"], "", "list backends in the current running config", User, Verb::ShowBackend),
    command(&["show", "cli", "level"], "", "display the level of the current CLI session", User, Verb::ShowLevel),
    command(&["show", "cli", "sockets"], "", "dump list of cli sockets", User, Verb::ShowSockets),
    command(&["show", "info"], "[json|typed]*", "report information about the running process", User, Verb::ShowInfo),
    command(&["show", "servers", "conn"], "[<backend>]", "dump server connections status (all or for a single backend)", User, Verb::ShowServersConn),
    command(&["show", "servers", "state"], "[<backend>]", "dump volatile server information (all or for a single backend)", User, Verb::ShowServersState),
    command(&["show", "sess"], "[id]", "report the list of current sessions or dump this exact session", Operator, Verb::ShowSessions),
    command(&["show", "stat"], "[json|no-maint|typed|up]*", "report counters for each proxy and server", User, Verb::ShowStat),
    command(&["show", "version"], "", "show version of the current process", User, Verb::ShowVersion),
    command(&["shutdown", "session"], "[id]", "kill a specific session", Admin, Verb::ShutdownSession),
    command(&["shutdown", "sessions", "server"], "<bk>/<srv>", "kill sessions on a server", Admin, Verb::ShutdownSessions),
    command(&["user"], "", "lower the level of the current CLI session to user", User, Verb::LowerTo(User)),
    command(&["help"], "[<command>]", "list matching or all commands", User, Verb::Help),
    command(&["prompt"], "", "toggle interactive mode with prompt", User, Verb::Prompt),
    command(&["quit"], "", "disconnect", User, Verb::Quit),
];

/// How many commands at the end of the list are always named.
const ALWAYS_NAMED: usize = 3;

/// The command that these words name, and the words that follow it; `None` if there is none.
pub(super) fn find(words: &[String]) -> Option<(&'static Command, &[String])> {
    let is_it = |command: &&Command| {
        words.len() >= command.words.len() && command.words.iter().eq(words.iter().take(command.words.len()))
    };
    let found = COMMANDS.iter().find(is_it)?;
    Some((found, &words[found.words.len()..]))
}

/// The answer to words that are no command.
pub(super) fn unknown(words: &[String]) -> String {
    let similar = similar(words);
    match similar.is_empty() {
        true => format!("Unknown command. Please enter one of the following commands only:\n{}", list(COMMANDS.iter())),
        false => {
            let always = &COMMANDS[COMMANDS.len() - ALWAYS_NAMED..];
            let all = list(similar.into_iter().chain(always));
            format!("Unknown command, but maybe one of the following ones is a better match:\n{all}")
        }
    }
}

/// The answer to `help`, with the words that follow it.
pub(super) fn help(words: &[String]) -> String {
    let (all, similar) = (COMMANDS.len() - ALWAYS_NAMED, similar(words));
    let listed =
        if similar.is_empty() { list(COMMANDS.iter()) } else { list(similar.into_iter().chain(&COMMANDS[all..])) };
    format!("The following commands are valid at this level:\n{listed}")
}

/// The commands that begin as these words do, for as many words as possible.
fn similar(words: &[String]) -> Vec<&'static Command> {
    let in_common =
        |command: &Command| command.words.iter().zip(words).take_while(|(known, given)| given == known).count();
    let candidates = &COMMANDS[..COMMANDS.len() - ALWAYS_NAMED];
    let most = candidates.iter().map(in_common).max().unwrap_or(0);
    if most > 0 {
        return candidates.iter().filter(|command| in_common(command) == most).collect();
    }
    let Some(first) = words.first() else { return Vec::new() };
    let is_close = |command: &&Command| {
        command.words.iter().any(|word| strsim::jaro_winkler(word, &first.to_ascii_lowercase()) > 0.85)
    };
    candidates.iter().filter(is_close).collect()
}

fn list(commands: impl Iterator<Item = &'static Command>) -> String {
    let line = |command: &Command| {
        let usage = [command.words, &[command.rest]].concat().join(" ");
        format!("  {:<40}: {}\n", usage.trim_end(), command.help)
    };
    commands.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_command_is_found_by_all_its_words() {
        let found = |text: &str| find(&words(text)).map(|(command, rest)| (command.verb, rest.join(" ")));
        assert_eq!(found("show servers state read x"), Some((Verb::ShowServersState, "read x".to_owned())));
        assert_eq!(found("shutdown session 0x1"), Some((Verb::ShutdownSession, "0x1".to_owned())));
        assert_eq!(found("shutdown sessions server a/b"), Some((Verb::ShutdownSessions, "a/b".to_owned())));
        for none in ["show", "show servers", "Show info", "show infos", "nonsense"] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn words_that_are_no_command_are_answered_with_those_that_may_be_meant() {
        let answer = unknown(&words("show servers foo"));
        assert!(answer.starts_with("Unknown command, but maybe one of"), "{answer}");
        assert_eq!(answer.lines().count(), 1 + 2 + ALWAYS_NAMED, "{answer}");
        assert!(answer.contains("  show servers conn [<backend>]           : dump server connections"), "{answer}");
        let all = unknown(&words("xyzzy"));
        assert!(all.starts_with("Unknown command. Please enter") && all.lines().count() == COMMANDS.len() + 1, "{all}");
        assert!(help(&words("get")).contains("get weight") && !help(&words("get")).contains("show stat"));
    }
}
