//! `stepwell dead …`: runs that failed for good.

use clap::{Args, Subcommand};

use crate::failure::{Answer, CommandError};
use crate::reach::Reach;
use crate::run::{self, One, Page};
use crate::terminal::Terminal;

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// List dead letters, newest first
    List(List),
    /// Print a dead letter: its input, every attempt, why
    Show(One),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    reach: Reach,
}

impl DeadCommand {
    pub(crate) async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        match self {
            Self::List(list) => list.execute(terminal).await,
            Self::Show(one) => run::show_dead(&one, terminal).await,
        }
    }
}

impl List {
    async fn execute(self, terminal: Terminal) -> Result<Answer, CommandError> {
        let door = self.reach.open().await?;
        let ask = async |list| door.client.dead_list(list).await;
        let (runs, more) = run::pages(self.page.list(), self.page.limit(), ask).await?;
        run::print_list(&runs, more, terminal)?;
        door.close().await;
        Ok(Answer::Yes)
    }
}
