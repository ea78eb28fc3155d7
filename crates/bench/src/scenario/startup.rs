//! The time from a gateway's start until `/readyz` succeeds, with broker and store available.

use super::{ScenarioReport, named};
use crate::{
    Error,
    figures::Figure,
    plan::{Plan, Scenario},
    rig::Rig,
};

pub(super) async fn run(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let mut millis = Vec::with_capacity(plan.rounds);
    for _ in 0..plan.rounds {
        let gateway = rig.another_gateway("startup", &[]).await?;
        millis.push(gateway.ready_after().as_secs_f64() * 1000.0);
        gateway.end().await?;
    }
    let figures = named([("start to ready", "ms", Figure::of(millis), "≤ 300")]);
    let description = "a gateway started in addition to the first one, on the same broker and store".to_owned();
    Ok(ScenarioReport { scenario: Scenario::Startup, description, figures })
}
