//! A worker with the shipped workloads.

use std::sync::Arc;
use std::time::Duration;

use stepwell::Worker;
use stepwell::runtime::link::NetDial;

use super::SERVER;
use crate::event::What;
use crate::outside::Outside;
use crate::world::{Host, World};

/// How often a worker looks whether it should leave.
const LOOK: Duration = Duration::from_millis(20);

/// One life of a worker. It ends by itself if it is asked to drain.
pub(crate) async fn work(world: Arc<World>, name: String) -> turmoil::Result {
    let host = Host::begin(&world, &name);
    let env = host.env();
    let worker = Worker::new(Arc::new(NetDial::new(env.clone(), SERVER)), env)
        .principal(name.clone())
        .build("sim");
    let slots = world.plan.settings.slots;
    let version = world.deployed(&name);
    let worker = world.program.worker(worker, Outside::live(host.clone()), version, slots);
    let tags = world.plan.settings.tags_of(&name);
    let worker = tags.into_iter().fold(worker, |worker, tag| worker.tag(tag));
    let handle = worker.grace(Duration::from_millis(500)).start()?;
    while !world.takes_drain(&name) {
        host.rest(LOOK).await;
    }
    handle.drain().await;
    host.tell(format_args!("has drained"), || What::LifeEnded { how: "it has drained".to_owned() });
    let stats = handle.stats();
    world.saw_many("outcomes replayed", stats.replayed);
    Ok(())
}
