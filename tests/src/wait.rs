//! Waiting for a state, with a name and a deadline.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// How long a test waits for what should happen in a moment; generous, as many clusters share two cores.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Polls `check` until it answers `Ok`, for at most [`DEADLINE`].
///
/// # Panics
/// With `what` and the last refusal when the deadline passes.
pub async fn eventually<T, E: Display>(what: &str, check: impl AsyncFnMut() -> Result<T, E>) -> T {
    eventually_within(DEADLINE, what, check).await
}

/// The same with a deadline of the caller's.
pub async fn eventually_within<T, E: Display>(
    deadline: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    loop {
        let refusal = match check().await {
            Ok(value) => return value,
            Err(refusal) => refusal,
        };
        assert!(started.elapsed() < deadline, "{what}: not within {deadline:?}; last seen: {refusal}");
        // The pause between two looks at an outside process; nothing relies on its length.
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
