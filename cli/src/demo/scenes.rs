//! What happens beside the ordinary orders, each scene a task of its own.

use std::future::Future;

use stepwell::model::dead::DeadLetter;
use tokio::task::JoinHandle;

use super::queue_time::Span;
use super::roles::Roles;
use super::scene_context::SceneContext;
use super::schedule::Times;
use super::{dead_letter, urgent};
use crate::failure::CommandError;

/// What the reconciliation needs to know of the scenes.
#[derive(Debug)]
pub(crate) struct Played {
    /// How many exports were started.
    pub(crate) exports: u64,
    /// What the list of dead letters had of the mistyped order.
    pub(crate) letter: Option<DeadLetter>,
    /// When no waits are measured: the queue of the orders was not as usual, or time stood.
    pub(crate) unmeasured: Vec<Span>,
    /// What came due by the schedule.
    pub(crate) times: Times,
}

/// The scenes.
#[derive(Debug)]
pub(crate) struct Scenes {
    mend: Scene<DeadLetter>,
    /// Not begun before the line is to form; none if nobody is urgent.
    overtake: Option<Scene<Span>>,
    has_urgent: bool,
}

impl Scenes {
    /// Begins with those that wait for something themselves.
    pub(crate) fn begin(context: &SceneContext, roles: &Roles) -> Self {
        Self {
            mend: Scene::begin(dead_letter::mend(context.clone(), roles.mistyped.clone())),
            overtake: None,
            has_urgent: roles.urgent.is_some(),
        }
    }

    /// Begins what is due now that so many orders have come in. An error is that of a scene.
    pub(crate) async fn look(
        &mut self,
        context: &SceneContext,
        roles: &Roles,
        orders: u64,
    ) -> Result<(), CommandError> {
        self.mend.look().await?;
        match (&mut self.overtake, &roles.urgent) {
            (Some(scene), _) => scene.look().await,
            (None, Some(order)) if orders >= roles.urgent_after => {
                let scene = urgent::overtake(context.clone(), order.clone());
                self.overtake = Some(Scene::begin(scene));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// How many orders they have started.
    pub(crate) fn started(&self) -> u64 {
        u64::from(self.overtake.as_ref().is_some_and(Scene::is_over))
    }

    /// Whether all of them are over.
    pub(crate) fn are_over(&self) -> bool {
        let overtaken = !self.has_urgent || self.started() == 1;
        self.mend.is_over() && overtaken
    }

    /// What they came to; those that are not over came to nothing.
    pub(crate) fn played(mut self, exports: u64, times: Times, standstills: &[Span]) -> Played {
        let mut unmeasured = standstills.to_vec();
        unmeasured.extend(self.overtake.and_then(|mut scene| scene.result.take()));
        Played { exports, letter: self.mend.result.take(), unmeasured, times }
    }
}

/// A task and what it came to. Dropping it ends it.
#[derive(Debug)]
struct Scene<T> {
    task: JoinHandle<Result<T, CommandError>>,
    result: Option<T>,
}

impl<T: Send + 'static> Scene<T> {
    fn begin(scene: impl Future<Output = Result<T, CommandError>> + Send + 'static) -> Self {
        Self { task: tokio::spawn(scene), result: None }
    }

    async fn look(&mut self) -> Result<(), CommandError> {
        if self.result.is_none() && self.task.is_finished() {
            let ended = (&mut self.task).await;
            let ended =
                ended.map_err(|e| CommandError::fault("a scene broke off").caused_by(&e))?;
            self.result = Some(ended?);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.result.is_some()
    }
}

impl<T> Drop for Scene<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
