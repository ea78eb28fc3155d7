//! Revoked signing keys whose tokens may still be in use. The verifier refuses such tokens once it has read the keys
//! again; this list also ends the streams that were opened with them.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;

use super::Error;
use crate::auth::Caller;

/// The current list of revoked key ids. Cloning is cheap.
#[derive(Debug, Clone)]
pub(super) struct RevokedKeys(watch::Receiver<Arc<BTreeSet<String>>>);

/// Replaces the list.
#[derive(Debug)]
pub(super) struct RevokedKeysWriter(watch::Sender<Arc<BTreeSet<String>>>);

impl Default for RevokedKeysWriter {
    fn default() -> Self {
        Self(watch::Sender::new(Arc::default()))
    }
}

impl RevokedKeysWriter {
    pub(super) fn set(&self, keys: Vec<String>) {
        let keys = BTreeSet::from_iter(keys);
        self.0.send_if_modified(|now| {
            let is_new = **now != keys;
            if is_new {
                *now = Arc::new(keys);
            }
            is_new
        });
    }

    pub(super) fn subscribe(&self) -> RevokedKeys {
        RevokedKeys(self.0.subscribe())
    }
}

impl RevokedKeys {
    pub(super) fn check(&self, caller: &Caller) -> Result<(), Error> {
        let is_revoked = caller.key_id().is_some_and(|kid| self.0.borrow().contains(kid));
        if is_revoked { Err(Error::TokenRevoked) } else { Ok(()) }
    }

    /// Waits until the key that signed this caller's token is revoked.
    pub(super) async fn ended(&self, caller: &Caller) -> Error {
        let Some(kid) = caller.key_id() else { return std::future::pending().await };
        if self.0.clone().wait_for(|keys| keys.contains(kid)).await.is_err() {
            // The registry was dropped, and with it the gateway.
            std::future::pending::<()>().await;
        }
        Error::TokenRevoked
    }
}
