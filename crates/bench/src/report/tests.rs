//! Reports of rounds with known figures.

use super::*;
use crate::{job::Mode, plan::QueueKind};

fn run(round: usize, path: Path, rate: f64, cpu: f64, p50: f64) -> Run {
    let percentiles = Percentiles { count: 1, p50, p90: p50, p99: 2.0 * p50, p999: p50, max: p50 };
    let is_gateway = path == Path::Gateway;
    Run {
        round,
        path,
        seconds: 1.0,
        published: 1,
        confirmed: 1,
        consumed: 1,
        messages_per_second: rate,
        mib_per_second: rate,
        cpu_us_per_message: PerProcess {
            application: Some(cpu),
            gateway: is_gateway.then_some(20.0),
            broker: Some(40.0),
        },
        memory_mib: PerProcess { application: Some(20.0), gateway: is_gateway.then_some(50.0), broker: Some(100.0) },
        others_share: 0.5,
        end_to_end_ms: Some(percentiles),
        confirm_ms: None,
    }
}

pub(super) fn cell() -> Cell {
    Cell { size: 256, queue: QueueKind::Quorum, mode: Mode::Both, tenants: 1, streams: 1, frame: 64 }
}

/// Two rounds; in the second the machine was half as fast.
pub(super) fn runs() -> Vec<Run> {
    [1.0, 0.5]
        .iter()
        .zip(0..)
        .flat_map(|(speed, round)| {
            vec![
                run(round, Path::Ordinary, 10_000.0 * speed, 30.0, 1.0),
                run(round, Path::Direct, 20_000.0 * speed, 16.0, 1.0),
                run(round, Path::Gateway, 15_000.0 * speed, 8.0, 1.5),
            ]
        })
        .collect()
}

#[test]
fn ratios_are_computed_within_a_round() {
    let ratios = ratios(&runs()).expect("every path has a run");
    assert_eq!((ratios.throughput_vs_direct.min, ratios.throughput_vs_direct.max), (0.75, 0.75));
    assert_eq!(ratios.throughput_vs_ordinary.median, 1.5);
    assert_eq!(ratios.cpu_vs_direct.expect("a ratio").median, 1.25);
    assert_eq!(ratios.application_cpu_vs_direct.expect("a ratio").median, 0.5);
    let added = added(&runs()).expect("every path has a run");
    assert_eq!((added.p50.median, added.p99.median), (0.5, 1.0));
}

#[test]
fn a_missing_path_gives_no_ratio() {
    let mut runs = runs();
    runs.retain(|run| run.path != Path::Direct);
    assert!(ratios(&runs).is_none());
}
