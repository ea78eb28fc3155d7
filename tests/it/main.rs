//! Integration tests with a private RabbitMQ node, the real composition root, and the public client.
//!
//! Each test creates its own tenant, so tests do not see each other's messages, and waits for events with a deadline
//! instead of sleeping.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test that cannot continue has failed")]
#![allow(clippy::print_stderr, reason = "some tests print measurements")]
#![allow(clippy::large_futures, reason = "each test runs on its own stack")]

mod harness;

mod abuse;
mod administration;
mod attacks;
mod audit;
mod bad_input;
mod blocked;
mod broker_isolation;
mod broker_side;
mod budgets;
mod chat;
mod command_line;
mod console;
mod dead_clients;
mod dead_letters;
mod delays;
mod demos;
mod direct_messages;
mod drain;
mod early_deletions;
mod external_issuers;
mod gateway_isolation;
mod health_and_web;
mod hostile_connections;
mod hostile_requests;
mod jaeger;
mod lanes;
mod limits;
mod log_levels;
mod memory_budget;
mod metrics;
mod metrics_export;
mod observing;
mod overflow;
mod peeking;
mod priorities;
mod properties;
mod receive;
mod reconcile;
mod recovery;
mod redrive_edits;
mod replay;
mod restart;
mod retries;
mod revocation;
mod round_trip;
mod routing;
mod settling;
mod slow;
mod stream_endings;
mod supervision;
mod tokens;
mod traces;
mod traces_export;
mod unroutable;
mod watching;
mod windows;
