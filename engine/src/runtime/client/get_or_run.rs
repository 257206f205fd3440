//! Work whose result is kept under a key: the first call runs it, the others get its result.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{ClientError, RunError};
use super::run::Run;
use super::{Client, StartBuilder};
use crate::model::failure::{Failure, ONCE};
use crate::model::request::Refusal;
use crate::workflow::Workflow;

impl Client {
    /// Runs `workflow` once for `key`, and answers with what it returned: the first call does the
    /// work, and every other one, in whatever run or process, gets the first result. Meant to be
    /// called in a step, which records the answer:
    ///
    /// ```
    /// # use stepwell::{Client, Ctx, Failure, Workflow};
    /// const FETCH_RATE: Workflow<String, u64> = Workflow::new("fetch-rate").queue("rates");
    ///
    /// async fn invoice(ctx: Ctx, client: Client, day: String) -> Result<u64, Failure> {
    ///     ctx.step("rate", |_| client.get_or_run(format!("rate of {day}"), FETCH_RATE, &day)).await
    /// }
    /// ```
    ///
    /// The work is a run, whose id is made of the workflow's name and the key. So one body at most
    /// runs for a key at a time; if its worker is lost, another goes on with it under the same step
    /// keys; nobody polls; and the result is kept as long as ended runs are (7 days unless set).
    /// After that the work is done again. The input of the first call counts.
    ///
    /// The step that waits holds its slot: give the work a queue of its own, or those that wait may
    /// hold all the slots it needs. Waiting ends with the step's timeout; the work goes on, and
    /// the next attempt waits for it again.
    ///
    /// For a closure in place of a workflow see [`Ctx::memoize`](crate::Ctx::memoize).
    ///
    /// Errors: a terminal failure if the work is a dead letter or was cancelled (all who ask get
    /// it; redriving it changes what later calls get), a retryable one if the engine gives no
    /// answer.
    pub fn get_or_run<In: Serialize, Out>(
        &self,
        key: impl AsRef<str>,
        workflow: Workflow<In, Out>,
        input: &In,
    ) -> impl Future<Output = Result<Out, Failure>> + Send + 'static
    where
        Out: DeserializeOwned + Send + 'static,
    {
        let client = self.clone();
        let name = run_name(workflow.name(), key.as_ref());
        let start: StartBuilder<Out> = self.start(workflow, input).name(name.clone());
        async move {
            let run = match start.await {
                Ok(run) => run,
                // The first call had another input; its result is the answer all the same.
                Err(ClientError::Refused(Refusal::IdTaken(taken))) => {
                    Run::new(client, taken.id, false)
                }
                Err(error) => return Err(failure(&name, RunError::Client(error))),
            };
            run.outcome().await.map_err(|error| failure(&name, error))
        }
    }
}

/// The name of the run that does the work of a key. It makes the run's id.
pub(crate) fn run_name(workflow: &str, key: &str) -> String {
    format!("once {workflow} {key}")
}

fn failure(name: &str, error: RunError) -> Failure {
    let text = |what: &dyn std::fmt::Display| format!("`{name}`: {what}");
    match error {
        RunError::Failed(failed) => Failure::terminal(text(&failed)).class(failed.class),
        RunError::Cancelled => Failure::terminal(text(&"it was cancelled")).class(ONCE),
        RunError::Client(ClientError::Refused(refusal)) => {
            Failure::terminal(text(&refusal)).class(ONCE)
        }
        RunError::Client(error) => Failure::retryable(text(&error)).class(ONCE),
        RunError::Payload(error) => Failure::terminal(text(&error)).class(ONCE),
    }
}
