//! The outside world of the demo: a shop's payment and mail provider on loopback HTTP.
//!
//! It does what good providers do: it remembers the idempotency key of every call that took effect,
//! and answers a repeated one with the first answer, without another effect. It also does what all
//! providers do: some calls are answered with 503 before anything happened, and some take effect
//! and their answer is lost.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hyper::body::Frame;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::orders::is_address;
use crate::failure::CommandError;

/// The header that makes a repeated call harmless.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Of a hundred calls, this many are answered with 503.
const UNAVAILABLE_PERCENT: u32 = 5;
/// Of a hundred calls, this many take effect and are never answered.
const LOST_PERCENT: u32 = 1;
/// How long a call takes, in milliseconds.
const LATENCY_MS: std::ops::Range<u64> = 5..25;

/// What a worker asks of `POST /charges`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Charge {
    /// For which order.
    pub(crate) order_id: String,
    /// From which card.
    pub(crate) card: String,
    /// How much.
    pub(crate) cents: u64,
}

/// What a worker asks of `POST /mails`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mail {
    /// About which order.
    pub(crate) order_id: String,
    /// To whom.
    pub(crate) to: String,
    /// What it says.
    pub(crate) subject: String,
}

/// What a worker asks of `POST /reports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StockReport {
    /// The run that counted.
    pub(crate) run: String,
    /// What was counted.
    pub(crate) shelf: String,
}

/// The answer to all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confirmation {
    /// `charge-17`, `mail-23`: counts effects, so a second effect would have another one.
    pub(crate) confirmation: String,
}

/// What the provider saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    /// The charges of each order that took effect.
    pub(crate) charges: BTreeMap<String, Vec<Charge>>,
    /// The mails of each order that went out.
    pub(crate) mails: BTreeMap<String, Vec<Mail>>,
    /// How many stock reports of each run arrived.
    pub(crate) reports: BTreeMap<String, u64>,
    /// Calls of any kind.
    pub(crate) calls: u64,
    /// Calls whose key had taken effect before: answered again, without another effect.
    pub(crate) duplicates: u64,
    /// Calls answered with 503.
    pub(crate) unavailable: u64,
    /// Calls that took effect and were never answered.
    pub(crate) lost: u64,
    /// Calls that were refused for good: no key, the key of another call, a mail to no address.
    pub(crate) refused: u64,
    keys: BTreeMap<String, (Vec<u8>, Confirmation)>,
}

/// A running provider.
#[derive(Debug)]
pub(crate) struct Provider {
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
    ledger: Arc<Mutex<Ledger>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Provider {
    /// Starts one on a free port of this machine.
    pub(crate) async fn start(seed: u64) -> Result<Self, CommandError> {
        let fault = |e: std::io::Error| {
            CommandError::fault("the demo's provider cannot listen on 127.0.0.1").caused_by(&e)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?.to_string();
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let shop = ProviderState {
            ledger: ledger.clone(),
            moods: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
        };
        let router = Router::new()
            .route("/charges", post(charges))
            .route("/mails", post(mails))
            .route("/reports", post(reports))
            .with_state(shop);
        let serving = tokio::spawn(async move {
            // Serving ends with the task only.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, ledger, serving })
    }

    /// What it saw so far.
    pub(crate) fn ledger(&self) -> Ledger {
        held(&self.ledger).clone()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(Clone)]
struct ProviderState {
    ledger: Arc<Mutex<Ledger>>,
    moods: Arc<Mutex<StdRng>>,
}

/// How one call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answers,
    Unavailable,
    LosesItsAnswer,
}

async fn charges(State(shop): State<ProviderState>, headers: HeaderMap, body: Bytes) -> Response {
    let sound = |_: &Charge| Ok(());
    shop.serve("charge", &headers, &body, sound, |ledger, charge| {
        ledger.charges.entry(charge.order_id.clone()).or_default().push(charge);
    })
    .await
}

async fn mails(State(shop): State<ProviderState>, headers: HeaderMap, body: Bytes) -> Response {
    let sound = |mail: &Mail| match is_address(&mail.to) {
        true => Ok(()),
        false => Err(format!("`{}` is no address", mail.to)),
    };
    shop.serve("mail", &headers, &body, sound, |ledger, mail| {
        ledger.mails.entry(mail.order_id.clone()).or_default().push(mail);
    })
    .await
}

async fn reports(State(shop): State<ProviderState>, headers: HeaderMap, body: Bytes) -> Response {
    let sound = |_: &StockReport| Ok(());
    shop.serve("report", &headers, &body, sound, |ledger, report| {
        *ledger.reports.entry(report.run).or_default() += 1;
    })
    .await
}

impl ProviderState {
    /// Answers a call. What is not `sound` is refused for good and leaves no key.
    async fn serve<T: for<'a> Deserialize<'a>>(
        &self,
        kind: &str,
        headers: &HeaderMap,
        body: &[u8],
        sound: impl FnOnce(&T) -> Result<(), String>,
        effect: impl FnOnce(&mut Ledger, T),
    ) -> Response {
        let (mood, latency) = self.mood();
        tokio::time::sleep(latency).await;
        let mut ledger = held(&self.ledger);
        ledger.calls += 1;
        let key = headers.get(IDEMPOTENCY_KEY).and_then(|k| k.to_str().ok());
        let (Some(key), Ok(asked)) = (key, serde_json::from_slice::<T>(body)) else {
            ledger.refused += 1;
            return StatusCode::BAD_REQUEST.into_response();
        };
        if mood == Mood::Unavailable {
            ledger.unavailable += 1;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        if let Err(why) = sound(&asked) {
            ledger.refused += 1;
            return (StatusCode::UNPROCESSABLE_ENTITY, why).into_response();
        }
        let confirmation = match ledger.keys.get(key).cloned() {
            Some((first, _)) if first != body => {
                ledger.refused += 1;
                return StatusCode::CONFLICT.into_response();
            }
            Some((_, confirmation)) => {
                ledger.duplicates += 1;
                confirmation
            }
            None => {
                let confirmation =
                    Confirmation { confirmation: format!("{kind}-{}", ledger.keys.len() + 1) };
                ledger.keys.insert(key.to_owned(), (body.to_vec(), confirmation.clone()));
                effect(&mut ledger, asked);
                confirmation
            }
        };
        if mood == Mood::LosesItsAnswer {
            ledger.lost += 1;
            return Body::new(CutOff).into_response();
        }
        Json(confirmation).into_response()
    }

    fn mood(&self) -> (Mood, Duration) {
        let mut random = held(&self.moods);
        let mood = match random.random_range(0..100) {
            n if n < UNAVAILABLE_PERCENT => Mood::Unavailable,
            n if n < UNAVAILABLE_PERCENT + LOST_PERCENT => Mood::LosesItsAnswer,
            _ => Mood::Answers,
        };
        (mood, Duration::from_millis(random.random_range(LATENCY_MS)))
    }
}

/// A body that breaks: the connection is closed in the middle of the answer.
struct CutOff;

impl HttpBody for CutOff {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())))
    }
}

/// A provider's books survive a handler that panicked.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
