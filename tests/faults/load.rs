//! The load: for each tenant a publisher, consumers in this process, and consumers in processes that can be killed. What they
//! do and see goes into the ledger.

pub mod consumers;
pub mod processes;
pub mod publishers;
