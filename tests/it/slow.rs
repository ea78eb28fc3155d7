//! Tests that take longer than some seconds: clusters, long runs, and toolchains of other languages. `./scripts/test
//! --fast` skips them.

mod cluster;
mod commands;
mod development;
mod python;
mod rotations;
mod tenant_isolation;
mod traces_python;
mod two_gateways;
mod volume;
