//! Token verifications per second and core: the gateway's verifier on one thread, with a token of its own issuer.

use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;

use super::{ScenarioReport, named};
use warrengate::{
    auth::Issuer,
    config::Config,
    store::{EncryptionKey, Store},
};

use crate::{
    Error,
    figures::{Figure, number},
    plan::{Plan, Scenario},
    rig::Rig,
};

/// Verifications between two readings of the clock.
const BATCH: u64 = 200;

pub(super) async fn run(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let failed = |error: &dyn std::error::Error| Error::Scenario(error.to_string());
    let config = Config::load(None, rig.settings()?).map_err(|error| failed(&error))?;
    let key = EncryptionKey::parse(&config.store.encryption_key).map_err(|error| failed(&error))?;
    let store = Store::open(&config.store.url, key).await.map_err(|error| failed(&error))?;
    let issuer = Issuer::start(store, &config.auth).await.map_err(|error| failed(&error))?;
    let (id, secret) = rig.administrator();
    let token = issuer.issue(id, secret, None, None).await.map_err(|error| failed(&error))?;
    let token = token.token.expose_secret().to_owned();
    let verifier = issuer.verifier();
    let (rounds, duration) = (plan.rounds, plan.duration.min(Duration::from_secs(2)));
    let work = move || {
        let mut rates = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let (began, mut checked) = (Instant::now(), 0);
            while began.elapsed() < duration {
                for _ in 0..BATCH {
                    std::hint::black_box(verifier.verify(std::hint::black_box(&token)))?;
                }
                checked += BATCH;
            }
            rates.push(number(checked) / began.elapsed().as_secs_f64());
        }
        Ok::<_, warrengate::auth::Error>(rates)
    };
    let rates = tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))?;
    let rates = rates.map_err(|error| failed(&error))?;
    let figures = named([("verifications each second and core", "", Figure::of(rates), "≥ 50,000")]);
    let description = "tokens of the gateway's own issuer checked on one thread".to_owned();
    Ok(ScenarioReport { scenario: Scenario::Verify, description, figures })
}
