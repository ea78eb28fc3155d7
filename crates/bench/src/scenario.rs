//! Scenarios other than throughput and latency, each a file with one function.
//!
//! To add one: a variant of [`Scenario`], a file, and a line in [`run`].

mod beside;
mod idle_streams;
mod limits;
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

/// What a scenario brought.
#[derive(Debug, Clone, Serialize)]
pub struct ScenarioReport {
    /// Its name.
    pub scenario: Scenario,
    /// What was done, in a sentence.
    pub what: String,
    /// What came of it.
    pub figures: Vec<Named>,
}

/// A figure with its name and unit.
#[derive(Debug, Clone, Serialize)]
pub struct Named {
    /// What it says.
    pub name: Cow<'static, str>,
    /// Its unit; empty for a ratio.
    pub unit: &'static str,
    /// The number.
    pub figure: Figure,
    /// What the project promises, for people; empty when it promises nothing.
    pub bar: &'static str,
}

/// Figures that could be made; a name whose figure could not is left out.
pub(super) fn named<N: Into<Cow<'static, str>>>(
    figures: impl IntoIterator<Item = (N, &'static str, Option<Figure>, &'static str)>,
) -> Vec<Named> {
    let figures = figures.into_iter();
    figures
        .filter_map(|(name, unit, figure, bar)| Some(Named { name: name.into(), unit, figure: figure?, bar }))
        .collect()
}

/// Does one of those that are no throughput and no latency.
pub(super) async fn run(rig: &mut Rig, plan: &Plan, scenario: Scenario) -> Result<Option<ScenarioReport>, Error> {
    let report = match scenario {
        Scenario::Throughput | Scenario::Latency => return Ok(None),
        Scenario::Neighbour => Box::pin(beside::neighbour(rig, plan)).await?,
        Scenario::Limits => Box::pin(limits::measure(rig, plan)).await?,
        Scenario::SlowConsumer => Box::pin(beside::slow_consumer(rig, plan)).await?,
        Scenario::Sampling => Box::pin(tracing::sampling(rig, plan)).await?,
        Scenario::Collector => Box::pin(tracing::collector(rig, plan)).await?,
        Scenario::Tenants => Box::pin(tenants::run(rig, plan)).await?,
        Scenario::IdleStreams => Box::pin(idle_streams::run(rig, plan)).await?,
        Scenario::Verify => Box::pin(verify::run(rig, plan)).await?,
        Scenario::WrongSecrets => Box::pin(wrong_secrets::measure(rig, plan)).await?,
        Scenario::Startup => Box::pin(startup::run(rig, plan)).await?,
    };
    Ok(Some(report))
}
