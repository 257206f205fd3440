//! Waiting for several things: `join!`, `try_join!`, `select!`, `join_all`.
//!
//! All of them poll in the order in which they are written, every time. That, and the rule that one
//! outcome is resolved between two polls, makes them give the same answer in each replay. The
//! general-purpose ones do not: tokio's `select!` starts at a random branch, and may skip a poll
//! when a task has used up its budget.

use std::pin::Pin;
use std::task::{Context, Poll};

/// Waits for all of several futures and answers with a tuple of what they return.
///
/// ```
/// # use stepwell::{Ctx, Failure};
/// # async fn reserve() -> Result<u32, std::io::Error> { Ok(1) }
/// # async fn fetch() -> Result<String, std::io::Error> { Ok(String::new()) }
/// async fn both(ctx: Ctx, _: ()) -> Result<(), Failure> {
///     let (reserved, fetched) = stepwell::join!(ctx.step("reserve", |_| reserve()), ctx.step("fetch", |_| fetch()));
///     let (_reserved, _fetched): (u32, String) = (reserved?, fetched?);
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! join {
    ($($future:expr),+ $(,)?) => {
        $crate::workflow::join::Join::join(($($future,)+)).await
    };
}

/// Waits for all of several futures of `Result`s; answers `Ok` with a tuple, or the first error
/// that turns up, and then drops the others.
///
/// ```
/// # use stepwell::{Ctx, Failure};
/// # async fn reserve() -> Result<u32, std::io::Error> { Ok(1) }
/// # async fn fetch() -> Result<String, std::io::Error> { Ok(String::new()) }
/// async fn both(ctx: Ctx, _: ()) -> Result<u32, Failure> {
///     let (reserved, _fetched) = stepwell::try_join!(ctx.step("reserve", |_| reserve()), ctx.step("fetch", |_| fetch()))?;
///     Ok(reserved)
/// }
/// ```
#[macro_export]
macro_rules! try_join {
    ($($future:expr),+ $(,)?) => {
        $crate::workflow::join::TryJoin::try_join(($($future,)+)).await
    };
}

/// Waits for the first of up to eight futures, drops the others, and goes on in the arm of the one
/// that was ready.
///
/// If several are ready at once, the one written first wins. The futures of the other arms are
/// dropped before the arm runs: a step's body stops there; a timer is forgotten.
///
/// ```
/// # use stepwell::{Ctx, Failure, mins};
/// # async fn ask() -> Result<String, std::io::Error> { Ok(String::new()) }
/// async fn ask_for_a_while(ctx: Ctx, _: ()) -> Result<Option<String>, Failure> {
///     stepwell::select! {
///         answer = ctx.step("ask", |_| ask()) => Ok(Some(answer?)),
///         slept = ctx.sleep(mins(10)) => {
///             slept?;
///             Ok(None)
///         }
///     }
/// }
/// ```
#[macro_export]
macro_rules! select {
    (@arms [$(($variant:ident, $pattern:pat, $future:expr, $arm:expr))+] $variants:tt) => {
        match $crate::workflow::join::Join::select(($($future,)+)).await {
            $($crate::workflow::join::Branch::$variant($pattern) => $arm,)+
        }
    };
    (@arms [$($done:tt)*] [$variant:ident $($variants:ident)*] $pattern:pat = $future:expr => $arm:block, $($rest:tt)*) => {
        $crate::select!(@arms [$($done)* ($variant, $pattern, $future, $arm)] [$($variants)*] $($rest)*)
    };
    (@arms [$($done:tt)*] [$variant:ident $($variants:ident)*] $pattern:pat = $future:expr => $arm:block $($rest:tt)*) => {
        $crate::select!(@arms [$($done)* ($variant, $pattern, $future, $arm)] [$($variants)*] $($rest)*)
    };
    (@arms [$($done:tt)*] [$variant:ident $($variants:ident)*] $pattern:pat = $future:expr => $arm:expr, $($rest:tt)*) => {
        $crate::select!(@arms [$($done)* ($variant, $pattern, $future, $arm)] [$($variants)*] $($rest)*)
    };
    (@arms [$($done:tt)*] [$variant:ident $($variants:ident)*] $pattern:pat = $future:expr => $arm:expr) => {
        $crate::select!(@arms [$($done)* ($variant, $pattern, $future, $arm)] [$($variants)*])
    };
    ($pattern:pat = $($rest:tt)+) => {
        $crate::select!(@arms [] [A B C D E F G H] $pattern = $($rest)+)
    };
}

/// Waits for all of `futures`, which may be of any number but of one type, and answers with what
/// they return, in order.
///
/// ```
/// # use stepwell::{Ctx, Failure};
/// # async fn send(_: &str) -> Result<(), std::io::Error> { Ok(()) }
/// async fn send_all(ctx: Ctx, to: Vec<String>) -> Result<(), Failure> {
///     let sends = to.iter().map(|to| ctx.step("send", move |_| send(to))).collect();
///     for sent in stepwell::join_all(sends).await {
///         sent?;
///     }
///     Ok(())
/// }
/// ```
pub fn join_all<F: Future>(futures: Vec<F>) -> JoinAll<F> {
    JoinAll(futures.into_iter().map(Slot::new).collect())
}

/// See [`join_all`].
#[must_use = "futures do nothing unless awaited"]
pub struct JoinAll<F: Future>(Vec<Slot<F>>);

impl<F: Future> Future for JoinAll<F> {
    type Output = Vec<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut pending = false;
        for slot in &mut self.0 {
            pending |= !slot.poll(cx);
        }
        if pending {
            return Poll::Pending;
        }
        Poll::Ready(self.0.iter_mut().filter_map(Slot::take).collect())
    }
}

impl<F: Future> std::fmt::Debug for JoinAll<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "join of {}", self.0.len())
    }
}

/// A future or what it returned.
#[doc(hidden)]
pub enum Slot<F: Future> {
    Pending(Pin<Box<F>>),
    Ready(F::Output),
    Taken,
}

// The future is boxed and what it returned is never pinned.
impl<F: Future> Unpin for Slot<F> {}

impl<F: Future> Slot<F> {
    fn new(future: F) -> Self {
        Self::Pending(Box::pin(future))
    }

    /// Whether it is ready.
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        if let Self::Pending(future) = self {
            let Poll::Ready(output) = future.as_mut().poll(cx) else {
                return false;
            };
            *self = Self::Ready(output);
        }
        true
    }

    fn take(&mut self) -> Option<F::Output> {
        match std::mem::replace(self, Self::Taken) {
            Self::Ready(output) => Some(output),
            _ => None,
        }
    }
}

impl<F: Future<Output = Result<T, E>>, T, E> Slot<F> {
    /// The error it returned, if it did.
    fn take_error(&mut self) -> Option<E> {
        if !matches!(self, Self::Ready(Err(_))) {
            return None;
        }
        self.take().and_then(Result::err)
    }
}

/// Which arm of a `select!` was ready first.
#[doc(hidden)]
pub enum Branch<A, B = Never, C = Never, D = Never, E = Never, F = Never, G = Never, H = Never> {
    A(A),
    B(B),
    C(C),
    D(D),
    E(E),
    F(F),
    G(G),
    H(H),
}

#[doc(hidden)]
pub type Never = std::convert::Infallible;

/// A tuple of futures, as `join!` and `select!` take it.
#[doc(hidden)]
pub trait Join {
    type Joined: Future;
    type Selected: Future;
    fn join(self) -> Self::Joined;
    fn select(self) -> Self::Selected;
}

/// A tuple of futures of `Result`s with one error type, as `try_join!` takes it.
#[doc(hidden)]
pub trait TryJoin {
    type TryJoined: Future;
    fn try_join(self) -> Self::TryJoined;
}

/// The future of `join!`.
#[doc(hidden)]
pub struct Joined<Slots>(Slots);

/// The future of `try_join!`.
#[doc(hidden)]
pub struct TryJoined<Slots>(Slots);

/// The future of `select!`.
#[doc(hidden)]
pub struct Selected<Slots>(Slots);

macro_rules! tuple {
    ($($future:ident $value:ident $name:ident $field:tt),+) => {
        impl<$($future: Future),+> Join for ($($future,)+) {
            type Joined = Joined<($(Slot<$future>,)+)>;
            type Selected = Selected<($(Slot<$future>,)+)>;

            fn join(self) -> Self::Joined {
                Joined(($(Slot::new(self.$field),)+))
            }

            fn select(self) -> Self::Selected {
                Selected(($(Slot::new(self.$field),)+))
            }
        }

        impl<$($future: Future),+> Future for Joined<($(Slot<$future>,)+)> {
            type Output = ($($future::Output,)+);

            fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                let slots = &mut self.0;
                if [$(slots.$field.poll(cx)),+].contains(&false) {
                    return Poll::Pending;
                }
                match ($(slots.$field.take(),)+) {
                    ($(Some($name),)+) => Poll::Ready(($($name,)+)),
                    _ => Poll::Pending,
                }
            }
        }

        impl<$($future: Future),+> Future for Selected<($(Slot<$future>,)+)> {
            type Output = Branch<$($future::Output),+>;

            fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                $(if self.0.$field.poll(cx) {
                    if let Some(output) = self.0.$field.take() {
                        return Poll::Ready(Branch::$future(output));
                    }
                })+
                Poll::Pending
            }
        }
    };
}

macro_rules! try_tuple {
    ($($future:ident $value:ident $name:ident $field:tt),+) => {
        impl<Error, $($value, $future: Future<Output = Result<$value, Error>>),+> TryJoin for ($($future,)+) {
            type TryJoined = TryJoined<($(Slot<$future>,)+)>;

            fn try_join(self) -> Self::TryJoined {
                TryJoined(($(Slot::new(self.$field),)+))
            }
        }

        impl<Error, $($value, $future: Future<Output = Result<$value, Error>>),+> Future
            for TryJoined<($(Slot<$future>,)+)>
        {
            type Output = Result<($($value,)+), Error>;

            fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                let slots = &mut self.0;
                let mut pending = false;
                $(
                    pending |= !slots.$field.poll(cx);
                    if let Some(error) = slots.$field.take_error() {
                        return Poll::Ready(Err(error));
                    }
                )+
                if pending {
                    return Poll::Pending;
                }
                match ($(slots.$field.take(),)+) {
                    ($(Some(Ok($name)),)+) => Poll::Ready(Ok(($($name,)+))),
                    _ => Poll::Pending,
                }
            }
        }
    };
}

macro_rules! tuples {
    ($($tuple:tt)+) => {
        $(tuple! $tuple;)+
        $(try_tuple! $tuple;)+
    };
}

tuples! {
    (A TA a 0)
    (A TA a 0, B TB b 1)
    (A TA a 0, B TB b 1, C TC c 2)
    (A TA a 0, B TB b 1, C TC c 2, D TD d 3)
    (A TA a 0, B TB b 1, C TC c 2, D TD d 3, E TE e 4)
    (A TA a 0, B TB b 1, C TC c 2, D TD d 3, E TE e 4, F TF f 5)
    (A TA a 0, B TB b 1, C TC c 2, D TD d 3, E TE e 4, F TF f 5, G TG g 6)
    (A TA a 0, B TB b 1, C TC c 2, D TD d 3, E TE e 4, F TF f 5, G TG g 6, H TH h 7)
}
