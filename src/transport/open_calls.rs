//! Limits the calls of each tenant that are open on this gateway: each needs memory that depends on nothing the client sends.
//! A call is open until its client has read the response. Streams are not counted, because the plan limits them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The open calls of one tenant, about 10 KiB each, and the first 16 KiB of their requests or responses.
const MAX_CALLS: usize = 2_048;

/// The open calls, by tenant. Clones share the same counts.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenCalls(Arc<Mutex<HashMap<String, usize>>>);

/// An open call.
#[derive(Debug)]
pub(super) struct OpenCall {
    calls: OpenCalls,
    tenant: String,
}

impl OpenCalls {
    /// Counts one more call until the result is dropped, unless there are too many.
    pub(super) fn begin(&self, tenant: &str) -> Option<OpenCall> {
        let mut calls = self.lock();
        let count = calls.entry(tenant.to_owned()).or_default();
        if *count >= MAX_CALLS {
            return None;
        }
        *count += 1;
        Some(OpenCall { calls: self.clone(), tenant: tenant.to_owned() })
    }

    /// The open calls of a tenant.
    #[cfg(test)]
    pub(super) fn count(&self, tenant: &str) -> usize {
        self.lock().get(tenant).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut calls = self.calls.lock();
        match calls.get_mut(&self.tenant) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(calls.remove(&self.tenant)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_a_tenant_are_bounded_and_those_of_another_are_not_affected() {
        let calls = OpenCalls::default();
        let mut open: Vec<_> = (0..MAX_CALLS).map(|_| calls.begin("acme").expect("free")).collect();
        assert!(calls.begin("acme").is_none());
        let _other = calls.begin("globex").expect("another tenant");
        open.pop();
        open.push(calls.begin("acme").expect("free again"));
        open.clear();
        assert_eq!(calls.lock().len(), 1, "a tenant without open calls uses no memory");
    }
}
