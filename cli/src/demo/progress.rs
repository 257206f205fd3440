//! The demo while it runs: a bar on a terminal, a line every few seconds elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exports::EXPORTS;
use super::processes::Kills;
use super::tally::Tally;
use super::workflow::ORDERS;
use crate::clock;
use crate::quantity::{counted, grouped};
use crate::terminal::Terminal;

/// Where there is no terminal, a line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What is shown while orders are worked on.
pub(crate) struct Progress {
    terminal: Terminal,
    bar: Option<ProgressBar>,
    begin: Instant,
    line_at: Duration,
    orders: u64,
    last: String,
}

impl Progress {
    /// Begins to show how `orders` orders come along.
    pub(crate) fn begin(terminal: Terminal, orders: u64) -> Self {
        let bar = terminal.draws().then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(orders), ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template(
                "\n  [{bar:50}] {human_pos} of {human_len} orders, {elapsed}\n  {msg}",
            );
            bar.set_style(
                style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "),
            );
            bar
        });
        Self {
            terminal,
            bar,
            begin: clock::now(),
            line_at: LINE_EVERY,
            orders,
            last: String::new(),
        }
    }

    /// Shows where things are.
    pub(crate) fn show(&mut self, tally: &Tally, kills: Kills) {
        let state = format!(
            "{} outcomes replayed, {} and {} killed",
            grouped(tally.counts().replayed),
            counted(kills.workers, "worker", "workers"),
            counted(kills.servers, "server", "servers"),
        );
        let (orders, exports) = (tally.queue(ORDERS), tally.queue(EXPORTS));
        match &self.bar {
            Some(bar) => {
                bar.set_position(tally.orders_ended());
                bar.set_message(format!(
                    "orders   {:>4} queued, {:>3} running, {:>3} suspended\n  exports  {:>4} queued, {:>3} running\n  {state}\n  {}",
                    orders.queued,
                    orders.running,
                    orders.suspended,
                    exports.queued,
                    exports.running,
                    self.last
                ));
            }
            None => {
                let elapsed = self.elapsed();
                if elapsed >= self.line_at {
                    self.line_at = elapsed + LINE_EVERY;
                    let ended = grouped(tally.orders_ended());
                    self.terminal.note(format!(
                        "{:>5.1} s  {ended} of {} orders, {} exports queued, {state}",
                        elapsed.as_secs_f64(),
                        grouped(self.orders),
                        grouped(exports.queued),
                    ));
                }
            }
        }
    }

    /// Something happened that is over in a moment.
    pub(crate) fn happened(&mut self, what: String) {
        self.last = what;
    }

    /// Something happened that is to stay on the screen.
    pub(crate) fn tell(&self, what: &str) {
        let line = format!("{:>5.1} s  {what}", self.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => self.terminal.note(line),
        }
    }

    /// How long it has been going on.
    pub(crate) fn elapsed(&self) -> Duration {
        clock::now().duration_since(self.begin)
    }

    /// Takes the bar off the screen.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
