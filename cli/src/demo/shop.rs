//! The workers' side of the provider: a call that may be made again.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use stepwell::{Failure, Retry};

use super::provider::{Confirmation, IDEMPOTENCY_KEY};

/// How long the provider may take for a call.
pub(crate) const CALL_SOFT: Duration = Duration::from_secs(3);
/// A call is dropped after this long.
pub(crate) const CALL_HARD: Duration = Duration::from_secs(5);
/// The class of what the provider refuses for good.
pub(crate) const REFUSED: &str = "refused";

/// Short waits, so that the demo is over in a minute.
pub(crate) fn retry_policy() -> Retry {
    Retry::exponential(Duration::from_millis(200)).cap(Duration::from_secs(2)).retries(40)
}

/// A client of the provider, shared by all runs of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Shop {
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
    #[error("the provider answers {0}: {1}")]
    Refused(StatusCode, String),
    #[error("the provider's answer is not understood")]
    Json(#[from] serde_json::Error),
}

/// A client's mistake stays one; all else is worth another attempt.
fn failure_of(error: CallError) -> Failure {
    match error {
        CallError::Status(status) | CallError::Refused(status, _) if status.is_client_error() => {
            Failure::terminal(&error).class(REFUSED)
        }
        other => Failure::from(other),
    }
}

impl Shop {
    /// One of the provider at this address.
    pub(crate) fn new(provider: String) -> Self {
        Self { http: Http::builder(TokioExecutor::new()).build_http(), provider }
    }

    /// One call. Made again with the same key, it takes effect once.
    pub(crate) async fn call<T: Serialize>(
        &self,
        path: &str,
        ask: &T,
        key: String,
    ) -> Result<Confirmation, Failure> {
        self.try_call(path, ask, key).await.map_err(failure_of)
    }

    async fn try_call<T: Serialize>(
        &self,
        path: &str,
        ask: &T,
        key: String,
    ) -> Result<Confirmation, CallError> {
        let request = Request::post(format!("http://{}{path}", self.provider))
            .header("content-type", "application/json")
            .header(IDEMPOTENCY_KEY, key)
            .body(Full::new(Bytes::from(serde_json::to_vec(ask)?)))?;
        let (head, body) = self.http.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        if !head.status.is_success() {
            let why = String::from_utf8_lossy(&body).into_owned();
            return Err(match why.is_empty() {
                true => CallError::Status(head.status),
                false => CallError::Refused(head.status, why),
            });
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::provider::{Charge, Mail, Provider};

    /// The demo stands on this: however often a call is made, whatever becomes of its answer, it
    /// takes effect once.
    #[tokio::test]
    async fn a_repeated_call_takes_effect_once() {
        let provider = Provider::start(7).await.unwrap();
        let shop = Shop::new(provider.address.clone());
        let ask = Charge { order_id: "order-1".into(), card: "visa-1".into(), cents: 500 };
        let calls = (0..400).map(|_| shop.call("/charges", &ask, "run_1-1".into()));
        let answers = futures_util::future::join_all(calls).await;
        let confirmations: std::collections::BTreeSet<String> =
            answers.into_iter().filter_map(Result::ok).map(|answer| answer.confirmation).collect();
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
        let charge = |cents| Charge { order_id: "order-1".into(), card: "visa-1".into(), cents };
        while shop.call("/charges", &charge(500), "k".into()).await.is_err() {}
        let failure = loop {
            match shop.call("/charges", &charge(501), "k".into()).await {
                Err(failure) if !failure.is_retryable() => break failure,
                Err(_) => {}
                Ok(answer) => panic!("a second charge went through: {answer:?}"),
            }
        };
        assert_eq!(failure.message, "the provider answers 409 Conflict");
    }

    // A refusal leaves no key behind: the same call, mended, goes through under the key it had.
    #[tokio::test]
    async fn a_refused_mail_may_be_mended() {
        let provider = Provider::start(3).await.unwrap();
        let shop = Shop::new(provider.address.clone());
        let mail = |to: &str| Mail {
            order_id: "order-1".into(),
            to: to.into(),
            subject: "parcel-1 is on its way".into(),
        };
        let (broken, sound) = (mail("ada at b.cd"), mail("ada@b.cd"));
        let failure = loop {
            match shop.call("/mails", &broken, "k".into()).await {
                Err(failure) if !failure.is_retryable() => break failure,
                Err(_) => {}
                Ok(answer) => panic!("a mail went nowhere: {answer:?}"),
            }
        };
        assert_eq!(failure.class, REFUSED);
        assert_eq!(
            failure.message,
            "the provider answers 422 Unprocessable Entity: `ada at b.cd` is no address"
        );
        while shop.call("/mails", &sound, "k".into()).await.is_err() {}
        assert_eq!(provider.ledger().mails["order-1"], [sound]);
    }
}
