//! Patroni's hook `postgresql.before_stop` on every node of a running cluster.

use std::fs;
use std::time::Duration;

use crate::error::Doing;
use crate::lab::{Lab, Node};
use crate::{Error, Result, http, wait};

/// Patroni reads its configuration again within this time.
const RELOADED_WITHIN: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The hook of every node. It stays until it is removed.
#[derive(Debug)]
pub struct BeforeStop {
    /// The nodes' files as they were.
    files_before: Vec<String>,
}

impl BeforeStop {
    /// Has every node run the command that `command` makes for it before its PostgreSQL is stopped.
    pub async fn set(lab: &Lab, command: impl Fn(&Node) -> String) -> Result<BeforeStop> {
        let mut files_before = Vec::new();
        for node in lab.nodes() {
            let file = node.patroni_config();
            let text = without_hook(&fs::read_to_string(&file).doing(|| format!("reading {}", file.display()))?);
            let line = format!("\npostgresql:\n  before_stop: {}\n", command(node));
            write(node, &text.replacen("\npostgresql:\n", &line, 1))?;
            files_before.push(text);
        }
        reload(lab).await?;
        Ok(BeforeStop { files_before })
    }

    /// Removes it.
    pub async fn remove(self, lab: &Lab) -> Result<()> {
        for (node, text) in lab.nodes().iter().zip(&self.files_before) {
            write(node, text)?;
        }
        reload(lab).await
    }
}

/// Without the hook of somebody who failed before removing it: of two, Patroni would take the older one.
fn without_hook(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with("  before_stop:")).collect()
}

fn write(node: &Node, text: &str) -> Result<()> {
    let file = node.patroni_config();
    fs::write(&file, text).doing(|| format!("writing {}", file.display()))
}

async fn reload(lab: &Lab) -> Result<()> {
    for (number, node) in lab.nodes().iter().enumerate() {
        let before = lab.log_text(number).len();
        let answer = http::post(node.rest, "/reload", &serde_json::json!({}), ANSWER_WITHIN).await;
        let answer = answer.doing(|| format!("asking {} to reload", node.name))?;
        if answer.status != 202 {
            return Err(Error::Command { command: format!("POST /reload of {}", node.name), output: answer.body });
        }
        wait::until("a reload of Patroni", RELOADED_WITHIN, || async {
            let log = lab.log_text(number).split_off(before);
            // only Patroni's own lines: PostgreSQL's "reloading configuration files" may be of the reload before
            let is_done =
                ["Reloading PostgreSQL configuration.", "nothing to reload."].iter().any(|end| log.contains(end));
            if is_done { Ok(()) } else { Err(log) }
        })
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_that_was_left_behind_is_removed() {
        let text = "scope: a\npostgresql:\n  before_stop: old\n  listen: b\n";
        assert_eq!(without_hook(text), "scope: a\npostgresql:\n  listen: b\n");
    }
}
