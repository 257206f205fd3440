//! The smallest whole program: an engine, a worker and a client in one process.

use serde::{Deserialize, Serialize};
use stepwell::{Ctx, Engine, Failure, Workflow, millis};

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    cents: u64,
}

const CHECKOUT: Workflow<Order, String> = Workflow::new("checkout");

async fn checkout(ctx: Ctx, order: Order) -> Result<String, Failure> {
    let charge = ctx
        .step("charge", |s| {
            let key = s.key().to_string();
            async move { Ok::<_, Failure>(format!("charged {} cents under {key}", order.cents)) }
        })
        .await?;
    ctx.sleep(millis(300)).await?;
    ctx.step("mail", |_| async { Ok::<_, Failure>(()) }).await?;
    Ok(charge)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let engine = Engine::open(directory.path()).await?;
    let worker = engine.worker().register(CHECKOUT, checkout).start()?;
    let run = engine.client().start(CHECKOUT, &Order { cents: 1_999 }).name("order-17").await?;
    println!("{}: {}", run.id(), run.outcome().await?);
    worker.drain().await;
    engine.close().await;
    Ok(())
}
