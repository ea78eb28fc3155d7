//! Waiting for events with a deadline, so that a test fails instead of hanging.

use std::time::Duration;

/// The longest that anything here may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The event, or a failure that names it.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// As [`within`], for what takes minutes on a machine that has nothing yet.
pub async fn within_minutes<T>(what: &str, minutes: u64, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60 * minutes), event).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {minutes} minutes"),
    }
}

/// Asks again and again, ten times a second, until the answer is there: for what the broker only tells when asked.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    within(what, async {
        loop {
            tick.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    })
    .await
}
