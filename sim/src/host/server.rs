//! The server: an engine on the simulated disk, behind a listener.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepwell::EngineOptions;
use stepwell_storage::OpenRefusal;

use crate::event::What;
use crate::world::{Host, InAir, WatchedStore, World};

/// One life of the server. It ends by itself if the engine does.
pub(crate) async fn serve(world: Arc<World>, air: Arc<Mutex<InAir>>) -> turmoil::Result {
    let host = Host::begin(&world, "server");
    let store = match WatchedStore::acquire(host.clone(), air) {
        Ok(store) => store,
        Err(OpenRefusal::Full { .. }) => {
            host.tell(format_args!("finds no room to open its store"), || {
                What::LifeEnded {
                    how: "it finds no room to open its store".to_owned(),
                }
            });
            return Ok(());
        }
        Err(refusal) => {
            world
                .court()
                .charge("the store opens", host.now_ms(), format!("{refusal}"));
            return Ok(());
        }
    };
    let settings = &world.plan.settings;
    let options = EngineOptions {
        heartbeat: Duration::from_millis(settings.heartbeat_ms),
        session_timeout: Duration::from_millis(settings.session_timeout_ms),
        disconnect_grace: Duration::from_millis(settings.disconnect_grace_ms),
        embedded: false,
        socket: false,
        ..EngineOptions::default()
    };
    let engine = match options.open_on(host.env(), Arc::new(store)).await {
        Ok(engine) => engine,
        Err(error) => {
            let cause = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            world.court().charge(
                "the engine opens",
                host.now_ms(),
                format!("{error}: {cause}"),
            );
            return Ok(());
        }
    };
    engine.listen("0.0.0.0:7400").await?;
    let reason = engine.stopped().await;
    host.tell(format_args!("stops by itself: {reason}"), || {
        What::LifeEnded {
            how: format!("it stops by itself: {reason}"),
        }
    });
    world.saw("engines that poisoned themselves");
    Ok(())
}
