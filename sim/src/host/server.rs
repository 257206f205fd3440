//! The server: an engine on the simulated disk, behind a listener.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepwell::EngineOptions;
use stepwell::core::OpenRefused;
use stepwell::core::clock::MARK_AHEAD_MAX;
use stepwell::model::time::Time;
use stepwell::runtime::engine::OpenError;
use stepwell_storage::OpenRefusal;

use crate::event::What;
use crate::world::{Host, InAir, WatchedStore, World};

/// What the disk says when a read is planned to fail.
pub(crate) const READ_FAULT: &str = "the plan says that this read fails";

/// One life of the server. It ends by itself if the engine does.
pub(crate) async fn serve(world: Arc<World>, air: Arc<Mutex<InAir>>) -> turmoil::Result {
    let host = Host::begin(&world, "server");
    let store = match WatchedStore::acquire(host.clone(), air) {
        Ok(store) => store,
        Err(OpenRefusal::Full { .. }) => {
            host.tell(format_args!("finds no room to open its store"), || What::LifeEnded {
                how: "it finds no room to open its store".to_owned(),
            });
            return Ok(());
        }
        Err(refusal) => {
            world.checkers().report("the store opens", host.now_ms(), format!("{refusal}"));
            return Ok(());
        }
    };
    let settings = &world.plan.settings;
    let options = EngineOptions::default()
        .heartbeat(Duration::from_millis(settings.heartbeat_ms))
        .session_timeout(Duration::from_millis(settings.session_timeout_ms))
        .disconnect_grace(Duration::from_millis(settings.disconnect_grace_ms))
        .embedded(false)
        .socket(false)
        .accept_clock(world.clocks().consents());
    let options = match settings.unregistered_after_ms {
        0 => options,
        ms => options.unregistered_workflow_after(Duration::from_millis(ms)),
    };
    let engine = match options.open_on(host.env(), Arc::new(store)).await {
        Ok(engine) => engine,
        Err(OpenError::Core(OpenRefused::ClockBehind { wall, mark })) => {
            clock_is_behind(&host, wall, mark);
            return Ok(());
        }
        Err(OpenError::Records(error)) if error.chain().contains(READ_FAULT) => {
            host.note(format_args!("cannot read its store: {}", error.chain()));
            world.saw("opens that met an unreadable disk");
            return Ok(());
        }
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            world.checkers().report("the engine opens", host.now_ms(), format!("{error}: {cause}"));
            return Ok(());
        }
    };
    world.clocks().withdraw_consent();
    if let Err(error) = engine.listen("0.0.0.0:7400").await {
        // It met a fault of the disk in its first moments.
        host.note(format_args!("does not listen: {error}"));
    }
    let reason = engine.stopped().await;
    host.tell(format_args!("stops by itself: {reason}"), || What::LifeEnded {
        how: format!("it stops by itself: {reason}"),
    });
    world.saw("engines that stopped after a failed sync");
    Ok(())
}

/// The operator sets the clock right, or says that it is right now.
fn clock_is_behind(host: &Host, wall: Time, mark: Time) {
    let world = &host.world;
    host.note(format_args!("does not open at {wall}, its mark is {mark}"));
    world.saw("opens refused because the clock was behind");
    if mark <= wall.after(MARK_AHEAD_MAX) {
        world.checkers().report(
            "the engine opens",
            host.now_ms(),
            format!("it was refused at {wall}, and its mark is {mark}"),
        );
    }
    if crate::draw::hash(world.plan.seed, format_args!("consent {mark}")).is_multiple_of(2) {
        world.clocks().consent();
    } else {
        let behind_ms = i64::try_from(mark.since(wall).as_millis()).unwrap_or(i64::MAX);
        world.clocks().jump("server", behind_ms);
    }
}
