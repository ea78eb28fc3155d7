//! Scenarios other than throughput and latency, each a file with one function.
//!
//! To add one: a variant of [`Scenario`], a file, and a line in [`run`].

mod active_tenants;
mod console_sessions;
mod fleet;
mod idle_streams;
mod isolation;
mod limits;
mod mixed_sizes;
mod startup;
mod tenants;
mod tracing;
mod verify;
mod wrong_secrets;

use std::borrow::Cow;

use serde::Serialize;

use super::{
    Error,
    figures::Figure,
    plan::{Plan, Scenario},
    rig::Rig,
};

/// The report of a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct ScenarioReport {
    /// The scenario.
    pub scenario: Scenario,
    /// What was done, in a sentence.
    pub description: String,
    /// Its figures.
    pub figures: Vec<Named>,
}

/// A figure with its name and unit.
#[derive(Debug, Clone, Serialize)]
pub struct Named {
    /// The name.
    pub name: Cow<'static, str>,
    /// The unit; empty for a ratio.
    pub unit: &'static str,
    /// The value.
    pub figure: Figure,
    /// The project's target; empty if the project has none.
    pub target: &'static str,
}

/// Names the figures that could be computed; the others are left out.
pub(super) fn named<N: Into<Cow<'static, str>>>(
    figures: impl IntoIterator<Item = (N, &'static str, Option<Figure>, &'static str)>,
) -> Vec<Named> {
    let figures = figures.into_iter();
    figures
        .filter_map(|(name, unit, figure, target)| Some(Named { name: name.into(), unit, figure: figure?, target }))
        .collect()
}

/// Runs a scenario other than throughput and latency.
pub(super) async fn run(rig: &mut Rig, plan: &Plan, scenario: Scenario) -> Result<Option<ScenarioReport>, Error> {
    let report = match scenario {
        Scenario::Throughput | Scenario::Latency => return Ok(None),
        Scenario::BusyTenant => Box::pin(isolation::busy_tenant(rig, plan)).await?,
        Scenario::Limits => Box::pin(limits::measure(rig, plan)).await?,
        Scenario::SlowConsumer => Box::pin(isolation::slow_consumer(rig, plan)).await?,
        Scenario::Sampling => Box::pin(tracing::sampling(rig, plan)).await?,
        Scenario::Collector => Box::pin(tracing::collector(rig, plan)).await?,
        Scenario::Tenants => Box::pin(tenants::run(rig, plan)).await?,
        Scenario::IdleStreams => Box::pin(idle_streams::run(rig, plan)).await?,
        Scenario::Fleet => Box::pin(fleet::measure(rig, plan)).await?,
        Scenario::MixedSizes => Box::pin(mixed_sizes::measure(rig, plan)).await?,
        Scenario::ActiveTenants => Box::pin(active_tenants::measure(rig, plan)).await?,
        Scenario::Verify => Box::pin(verify::run(rig, plan)).await?,
        Scenario::WrongSecrets => Box::pin(wrong_secrets::measure(rig, plan)).await?,
        Scenario::ConsoleSessions => Box::pin(console_sessions::measure(rig, plan)).await?,
        Scenario::Startup => Box::pin(startup::run(rig, plan)).await?,
    };
    Ok(Some(report))
}
