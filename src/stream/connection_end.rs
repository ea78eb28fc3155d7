//! Whether the gateway closed the connection of a stream. Then the client did not fail, and its deliveries return without
//! using up an attempt.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The streams of a connection end a moment before the reason is known.
const GRACE: Duration = Duration::from_millis(100);

/// The end of a connection, in the extensions of its requests. Clones share the same state.
#[derive(Debug, Clone, Default)]
pub struct ConnectionEnd(CancellationToken);

impl ConnectionEnd {
    /// Records that the gateway closed the connection because of frames that it does not accept.
    pub fn set_closed_by_gateway(&self) {
        self.0.cancel();
    }

    /// Whether the gateway closed the connection of a stream that just ended.
    pub(super) async fn is_closed_by_gateway(&self) -> bool {
        tokio::time::timeout(GRACE, self.0.cancelled()).await.is_ok()
    }
}
