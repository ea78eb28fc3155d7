//! Checks of the broker that an administrator runs: isolation between tenants, and reachability of each node.

pub mod isolation;
pub mod reachability;
