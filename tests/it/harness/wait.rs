//! Waiting for events with a deadline, so that a test fails instead of hanging.

use std::time::Duration;

/// The time limit of every wait, sufficient for a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for the event; panics with its name after the deadline.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Like [`within`], for operations that take minutes on a new machine.
pub async fn within_minutes<T>(what: &str, minutes: u64, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60 * minutes), event).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {minutes} minutes"),
    }
}

/// Polls ten times per second until there is an answer, for conditions that the broker does not announce.
pub async fn until<T>(what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    within(what, async {
        loop {
            tick.tick().await;
            if let Some(answer) = poll().await {
                return answer;
            }
        }
    })
    .await
}
