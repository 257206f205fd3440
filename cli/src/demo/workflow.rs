//! What the demo's workers run: one order from the shelf to the mail, and the worker process around it.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stepwell::{Ctx, Failure, Retry, Worker, Workflow};

use super::orders::Order;
use super::provider::{Charge, Confirmation, IDEMPOTENCY_KEY, Mail};
use crate::failure::{Answer, CommandError};
use crate::process;

/// An order, from the shelf to the mail.
pub(crate) const CHECKOUT: Workflow<Order, Receipt> = Workflow::new("checkout");

/// How many runs a demo worker runs at a time.
const SLOTS: u32 = 16;
/// Between the charge and the parcel.
const PACKING: Duration = Duration::from_secs(2);
/// How long the provider may take for a call.
const CALL_SOFT: Duration = Duration::from_secs(3);
/// A call is dropped after this long.
const CALL_HARD: Duration = Duration::from_secs(5);

/// What a finished order has to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// Which order.
    pub(crate) order_id: String,
    /// What was charged.
    pub(crate) cents: u64,
    /// The provider's confirmation of the charge.
    pub(crate) charge: String,
    /// The parcel.
    pub(crate) parcel: String,
    /// The provider's confirmation of the mail.
    pub(crate) mail: String,
}

/// The parcel's number, made of the order's.
pub(crate) fn parcel_of(order_id: &str) -> String {
    format!("parcel-{order_id}")
}

async fn checkout(shop: Shop, ctx: Ctx, order: Order) -> Result<Receipt, Failure> {
    let Order {
        order_id,
        email,
        sku,
        quantity,
        cents,
        card,
        ..
    } = order;
    ctx.step("reserve", |_| async {
        Ok::<_, Failure>(format!("{quantity} x {sku}"))
    })
    .await?;

    let ask = Charge {
        order_id: order_id.clone(),
        card,
        cents,
    };
    let charge = ctx
        .step("charge", |s| shop.call("/charges", &ask, s.key()))
        .retry(patience())
        .limits(CALL_SOFT, CALL_HARD)
        .await?;

    ctx.sleep(PACKING).await?;

    let parcel = ctx
        .step("ship", |_| async { Ok::<_, Failure>(parcel_of(&order_id)) })
        .await?;

    let ask = Mail {
        order_id: order_id.clone(),
        to: email,
        subject: format!("{parcel} is on its way"),
    };
    let mail = ctx
        .step("mail", |s| shop.call("/mails", &ask, s.key()))
        .retry(patience())
        .limits(CALL_SOFT, CALL_HARD)
        .await?;

    Ok(Receipt {
        order_id,
        cents,
        charge: charge.confirmation,
        parcel,
        mail: mail.confirmation,
    })
}

/// Short waits, so that the demo is over in a minute.
fn patience() -> Retry {
    Retry::exponential(Duration::from_millis(200))
        .cap(Duration::from_secs(2))
        .retries(40)
}

/// A client of the provider, shared by all runs of a worker.
#[derive(Debug, Clone)]
struct Shop {
    http: Http<HttpConnector, Full<Bytes>>,
    provider: String,
}

/// Why a call to the provider failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("the request cannot be made")]
    Request(#[from] axum::http::Error),
    #[error("the provider does not answer")]
    NoAnswer(#[from] hyper_util::client::legacy::Error),
    #[error("the provider's answer breaks off")]
    BrokenOff(#[from] hyper::Error),
    #[error("the provider answers {0}")]
    Status(StatusCode),
    #[error("the provider's answer is not understood")]
    Json(#[from] serde_json::Error),
}

/// A client's mistake stays one; all else is worth another attempt.
fn failure_of(error: CallError) -> Failure {
    match error {
        CallError::Status(status) if status.is_client_error() => Failure::terminal(&error),
        other => Failure::from(other),
    }
}

impl Shop {
    fn new(provider: String) -> Self {
        Self {
            http: Http::builder(TokioExecutor::new()).build_http(),
            provider,
        }
    }

    /// One call. Made again with the same key, it takes effect once.
    async fn call<T: Serialize>(
        &self,
        path: &str,
        ask: &T,
        key: String,
    ) -> Result<Confirmation, Failure> {
        self.try_call(path, ask, key).await.map_err(failure_of)
    }

    async fn try_call<T: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        ask: &T,
        key: String,
    ) -> Result<A, CallError> {
        let request = Request::post(format!("http://{}{path}", self.provider))
            .header("content-type", "application/json")
            .header(IDEMPOTENCY_KEY, key)
            .body(Full::new(Bytes::from(serde_json::to_vec(ask)?)))?;
        let (head, body) = self.http.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        if !head.status.is_success() {
            return Err(CallError::Status(head.status));
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

/// `stepwell demo-worker`: a worker process of the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoWorker {
    /// The server's address
    #[arg(long, value_name = "ADDR")]
    server: String,
    /// The provider's address
    #[arg(long, value_name = "ADDR")]
    provider: String,
}

impl DemoWorker {
    /// Works until the parent is gone.
    pub(crate) async fn execute(self) -> Result<Answer, CommandError> {
        let shop = Shop::new(self.provider);
        let worker = Worker::connect(&self.server)
            .build("demo")
            .register(CHECKOUT, move |ctx, order| {
                checkout(shop.clone(), ctx, order)
            })
            .queue("default", SLOTS)
            .start()
            .map_err(|e| CommandError::fault("the worker does not start").caused_by(&e))?;
        process::lifeline_cut().await;
        worker.drain().await;
        Ok(Answer::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::provider::Provider;

    /// The demo stands on this: however often a call is made, whatever becomes of its answer, it takes effect once.
    #[tokio::test]
    async fn a_repeated_call_takes_effect_once() {
        let provider = Provider::start(7).await.unwrap();
        let shop = Shop::new(provider.address.clone());
        let ask = Charge {
            order_id: "order-1".into(),
            card: "visa-1".into(),
            cents: 500,
        };
        let calls = (0..400).map(|_| shop.call("/charges", &ask, "run_1-1".into()));
        let answers = futures_util::future::join_all(calls).await;
        let confirmations: std::collections::BTreeSet<String> = answers
            .into_iter()
            .filter_map(Result::ok)
            .map(|answer| answer.confirmation)
            .collect();
        let ledger = provider.ledger();
        assert_eq!(ledger.charges["order-1"].len(), 1);
        assert_eq!(confirmations.len(), 1);
        assert_eq!(ledger.calls, 400);
        assert!(
            ledger.unavailable > 0 && ledger.lost > 0,
            "{} {}",
            ledger.unavailable,
            ledger.lost
        );
    }

    #[tokio::test]
    async fn a_key_is_for_one_call() {
        let provider = Provider::start(1).await.unwrap();
        let shop = Shop::new(provider.address.clone());
        let charge = |cents| Charge {
            order_id: "order-1".into(),
            card: "visa-1".into(),
            cents,
        };
        while shop
            .call("/charges", &charge(500), "k".into())
            .await
            .is_err()
        {}
        let failure = loop {
            match shop.call("/charges", &charge(501), "k".into()).await {
                Err(failure) if !failure.is_retryable() => break failure,
                Err(_) => {}
                Ok(answer) => panic!("a second charge went through: {answer:?}"),
            }
        };
        assert_eq!(failure.message, "the provider answers 409 Conflict");
    }
}
