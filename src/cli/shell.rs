//! `pgvane completions` and `pgvane man`: what shells and `man` need, made from the command line's own definition.

use std::io::{self, Write};

use clap::{Command, ValueEnum};
use clap_complete::Generator;
use clap_complete::aot::{Bash, Fish, Zsh, generate};
use clap_mangen::Man;

/// A shell.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Prints what makes this shell complete pgvane's commands, options and their values.
pub(super) fn completions(shell: Shell, mut command: Command) -> io::Result<()> {
    let script = match shell {
        Shell::Bash => script(Bash, &mut command),
        Shell::Zsh => script(Zsh, &mut command),
        Shell::Fish => script(Fish, &mut command),
    };
    print(&script)
}

fn script(shell: impl Generator, command: &mut Command) -> Vec<u8> {
    let mut script = Vec::new();
    generate(shell, command, "pgvane", &mut script);
    script
}

/// Prints the manual page, with a section for each command.
pub(super) fn man(mut command: Command) -> io::Result<()> {
    command.build();
    let man = Man::new(command.clone()).manual("pgvane").section("1");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        render_command(&mut page, subcommand)?;
    }
    page.extend_from_slice(MORE.as_bytes());
    man.render_version_section(&mut page)?;
    print(&page)
}

/// A command: its usage, what it does, and its options.
fn render_command(page: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    writeln!(page, ".SS \"{}\"", escaped(usage))?;
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        writeln!(page, "{}", escaped(&about.to_string()))?;
    }
    for argument in
        command.get_arguments().filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
    {
        let help =
            argument.get_long_help().or_else(|| argument.get_help()).map(ToString::to_string).unwrap_or_default();
        writeln!(page, ".TP\n\\fB{}\\fR\n{}", escaped(&argument.to_string()), escaped(&help))?;
    }
    Ok(())
}

/// A text for roff: a hyphen stays one, and no line begins with a control character.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('-', "\\-");
    let lines =
        text.lines().map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
}

/// What the definition of the command line does not say.
const MORE: &str = r#".SH EXIT STATUS
.TP
\fB0\fR
success
.TP
\fB1\fR
failure
.TP
\fB64\fR
wrong command line
.TP
\fB66\fR
a file cannot be read
.TP
\fB70\fR
a defect of pgvane
.TP
\fB77\fR
permission denied
.TP
\fB78\fR
faulty configuration, or a haproxy.cfg that cannot be imported
.SH ENVIRONMENT
.TP
\fBPGVANE_LOG\fR
the level of the log; overrides the configuration file
.TP
\fBPGVANE_ADMIN_USER\fR, \fBPGVANE_ADMIN_PASSWORD\fR
the user and the password for commands that ask a running pgvane
.SH SIGNALS
.TP
\fBSIGTERM\fR, \fBSIGINT\fR
stop: running sessions have drain_timeout to end; a second signal ends them without waiting
.SH FILES
.TP
\fI/etc/pgvane/pgvane.toml\fR
the usual place of the configuration file
"#;

/// The reader may close the pipe early, as `head` does: that is no failure.
fn print(text: &[u8]) -> io::Result<()> {
    match io::stdout().write_all(text).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}
