//! Another input for a dead letter.

use std::io::IsTerminal;

use clap::Args;
use serde_json::{Value, json};
use stepwell::model::payload::Payload;

use super::show;
use crate::connection::{Connection, asked};
use crate::failure::{Answer, CommandError};
use crate::run::{self, One, journal};
use crate::terminal::Terminal;

/// What edits where nothing is said.
const EDITOR: &str = "vi";

#[derive(Debug, Args)]
pub(crate) struct Edit {
    #[command(flatten)]
    one: One,
    /// The input: JSON, @FILE, or - for stdin [default: edit the present input in $EDITOR]
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
}

impl Edit {
    pub(super) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let connection = self.one.connect.open().await?;
        let id = connection.run(&self.one.run);
        let input = match &self.input {
            Some(text) => run::input(text)?,
            None => match self.edited(&connection).await? {
                Some(input) => input,
                None => {
                    terminal.note("the input is as it was: nothing is changed");
                    connection.close().await;
                    return Ok(Answer::No);
                }
            },
        };
        let payload = Payload::from_json(&input).map_err(|e| {
            CommandError::bad_input("the input does not become a payload").caused_by(&e)
        })?;
        let done = connection.client.edit_input(id, payload).await;
        done.map_err(|e| asked(&e).calling(id, &self.one.run))?;
        let document = json!({ "id": id.to_string(), "edited": true, "input": input });
        terminal.data(&document, || {
            format!("{}: input replaced; takes effect at the next redrive", self.one.run)
        })?;
        if !terminal.json {
            terminal.note(format!("hint: `stepwell dead redrive {}`", self.one.run));
        }
        connection.close().await;
        Ok(Answer::Yes)
    }

    /// The present input after an editor had it, if it is another one then.
    async fn edited(&self, connection: &Connection) -> Result<Option<Value>, CommandError> {
        let id = connection.run(&self.one.run);
        let entries = connection.client.journal(id).await;
        let entries = entries.map_err(|e| asked(&e).calling(id, &self.one.run))?;
        let (input, _) = show::input(&entries);
        let before = input.map_or(Value::Null, journal::payload_json);
        let path = std::env::temp_dir().join(format!("stepwell-{}-{id}.json", std::process::id()));
        let text = serde_json::to_string_pretty(&before).unwrap_or_default();
        let edited = in_editor(&path, &text);
        let _ = std::fs::remove_file(&path);
        let after: Value = serde_json::from_str(&edited?).map_err(|e| {
            CommandError::bad_input("what was edited is not JSON: nothing is changed").caused_by(&e)
        })?;
        Ok((after != before).then_some(after))
    }
}

fn in_editor(path: &std::path::Path, text: &str) -> Result<String, CommandError> {
    let fault = |what: &str, e: &std::io::Error| {
        CommandError::bad_input(format!("{what} {}", path.display())).caused_by(e)
    };
    std::fs::write(path, text).map_err(|e| fault("the input cannot be written to", &e))?;
    let named = ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok());
    let named = named.filter(|name| !name.is_empty());
    if named.is_none() && !std::io::stdin().is_terminal() {
        let message =
            "no input is given, and stdin is not a terminal in which to edit the present one";
        return Err(CommandError::bad_input(message)
            .hint("--input takes JSON, @FILE, or - for stdin; $EDITOR may name a program"));
    }
    let editor = named.unwrap_or_else(|| EDITOR.to_owned());
    // An editor may be a command with arguments.
    let status = std::process::Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(path)
        .status()
        .map_err(|e| fault("no editor can be started for", &e))?;
    if !status.success() {
        return Err(CommandError::bad_input(format!(
            "`{editor}` ended with {status}: nothing is changed"
        ))
        .hint("--input takes JSON without an editor; $EDITOR names another one"));
    }
    std::fs::read_to_string(path).map_err(|e| fault("the input cannot be read from", &e))
}
