//! `pgvane top`: nodes, listeners and sessions of a running pgvane, live on the terminal.
//!
//! [`model`] is what is known, [`screen`] draws it, and this file asks, waits for keys, and restores the terminal.

mod model;
mod screen;

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use reqwest::StatusCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::model::{Model, Sessions};
use super::admin_api::{AdminApi, CliError};
use super::running::Running;
use crate::config::duration;

/// The shortest time between two questions: more would cost the proxy more than a person can read.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

/// How long the thread that reads keys waits before it looks whether it is still wanted.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// The arguments of `pgvane top`.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Time between two updates
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    interval: Duration,
    #[command(flatten)]
    running: Running,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Quit,
    /// Move the list of sessions by so many lines.
    Scroll(i32),
    /// Order the sessions by the next field.
    Sort,
    /// Draw again: the size of the terminal has changed.
    Redraw,
}

/// Shows the state until a key ends it.
///
/// Errors: standard output or input is no terminal; pgvane does not answer at the beginning. Later failures are shown on
/// the screen, and the next update is tried.
pub(super) async fn run(args: &TopArgs) -> Result<(), CliError> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(CliError::NoTerminal);
    }
    let api = args.running.api()?;
    let mut model = Model::default();
    update(&api, &mut model).await?;
    let mut terminal = ratatui::try_init().map_err(CliError::Terminal)?;
    let outcome = show(&mut terminal, &api, &mut model, args.interval.max(INTERVAL_MIN)).await;
    ratatui::restore();
    outcome.map_err(CliError::Terminal)
}

async fn show(terminal: &mut DefaultTerminal, api: &AdminApi, model: &mut Model, every: Duration) -> io::Result<()> {
    let mut wishes = read_keys();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await; // the first one comes at once, and the model is fresh
    loop {
        terminal.draw(|frame| screen::draw(frame, model))?;
        tokio::select! {
            wish = wishes.recv() => match wish {
                None | Some(Wish::Quit) => return Ok(()),
                Some(Wish::Scroll(lines)) => model.scroll(lines),
                Some(Wish::Sort) => model.sort_by_next(),
                Some(Wish::Redraw) => {}
            },
            _ = terminate.recv() => return Ok(()),
            _ = ticks.tick() => {
                if let Err(error) = update(api, model).await {
                    model.failed(error.to_string());
                }
            }
        }
    }
}

/// Asks for the state and the sessions.
async fn update(api: &AdminApi, model: &mut Model) -> Result<(), CliError> {
    let status = api.status().await?;
    let sessions = match api.get(&["api", "sessions"]).await {
        Ok(text) => Some(serde_json::from_str(&text).map_err(|error| CliError::Unreadable(error.to_string()))?),
        Err(CliError::Refused(StatusCode::NOT_FOUND, _)) => None, // an older pgvane
        Err(error) => return Err(error),
    };
    model.take(status, sessions.unwrap_or_else(Sessions::unknown), Instant::now().into_std());
    Ok(())
}

/// Reads keys on a thread of its own, because reading them blocks. The thread ends with the receiver.
fn read_keys() -> mpsc::Receiver<Wish> {
    let (sender, wishes) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let wish = match event::poll(KEY_WAIT)
                .and_then(|is_there| if is_there { event::read().map(Some) } else { Ok(None) })
            {
                Ok(Some(Event::Key(key))) => wish(key),
                Ok(Some(Event::Resize(..))) => Some(Wish::Redraw),
                Ok(_) => None,
                Err(_) => Some(Wish::Quit), // the terminal has gone
            };
            if wish.is_some_and(|wish| sender.blocking_send(wish).is_err()) {
                return;
            }
        }
    });
    wishes
}

fn wish(key: KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if is_control => Some(Wish::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char('s') => Some(Wish::Sort),
        KeyCode::Up | KeyCode::Char('k') => Some(Wish::Scroll(-1)),
        KeyCode::Down | KeyCode::Char('j') => Some(Wish::Scroll(1)),
        KeyCode::PageUp => Some(Wish::Scroll(-10)),
        KeyCode::PageDown => Some(Wish::Scroll(10)),
        KeyCode::Home => Some(Wish::Scroll(i32::MIN)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_quit() {
        let of = |code, modifiers| wish(KeyEvent::new(code, modifiers));
        for (code, modifiers) in [
            (KeyCode::Char('q'), KeyModifiers::NONE),
            (KeyCode::Esc, KeyModifiers::NONE),
            (KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert_eq!(of(code, modifiers), Some(Wish::Quit), "{code:?}");
        }
        assert_eq!(of(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(of(KeyCode::Char('s'), KeyModifiers::NONE), Some(Wish::Sort));
    }
}
