//! `warrengate bench` works and counts right. Nothing is said about its figures here: a test machine is no place for them.

use std::{collections::BTreeMap, path::Path, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::harness::{
    installation,
    wait::{until, within_minutes},
};

fn bench(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warrengate"));
    command.current_dir(folder).arg("bench").args(args).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(broker) = installation() {
        command.arg("--broker").arg(broker);
    }
    command
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bench").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

async fn measured(folder: &Path, args: &[&str]) -> Value {
    let output = within_minutes("bench", 5, bench(folder, args).output()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Processes that work in this folder.
fn left(folder: &Path) -> usize {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let works_here = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path().join("cwd")).is_ok_and(|place| place.starts_with(folder))
    };
    processes.filter(works_here).count()
}

fn count(run: &Value, name: &str) -> u64 {
    run[name].as_u64().unwrap_or_else(|| panic!("{name} in {run}"))
}

#[tokio::test]
async fn bench_measures_each_way_and_counts_every_message() {
    let folder = folder();
    let report = measured(
        folder.path(),
        &[
            "--json",
            "--rounds=1",
            "--seconds=0.5",
            "--size=64",
            "--rate=100",
            "--scenario=throughput,latency,verify,startup",
            "--markdown=page.md",
            "--plot=plot.svg",
        ],
    )
    .await;
    for ratio in ["throughput_vs_direct", "throughput_vs_ordinary", "cpu_vs_direct", "application_cpu_vs_direct"] {
        assert!(report["ratios"][ratio].as_f64().is_some_and(|ratio| ratio > 0.0), "{ratio}: {}", report["ratios"]);
    }
    assert!(report["latency_added_ms"]["p50"].is_f64() && report["latency_added_ms"]["p99"].is_f64());
    assert!(report["machine"]["broker"].as_str().unwrap().starts_with("RabbitMQ "));
    assert!(report["doubts"].as_array().unwrap().iter().any(|doubt| doubt == "1 round(s) only"), "it doubts itself");
    for part in ["throughput", "latency"] {
        let runs = report[part][0]["runs"].as_array().unwrap();
        let ways: Vec<_> = runs.iter().map(|run| run["path"].as_str().unwrap()).collect();
        assert_eq!(ways, ["ordinary", "direct", "gateway"]);
        for run in runs {
            let published = count(run, "published");
            assert!(published > 0, "{run}");
            assert_eq!((count(run, "confirmed"), count(run, "consumed")), (published, published), "{run}");
            let gateway_works = run["cpu_us_per_message"]["gateway"].is_f64();
            assert_eq!(gateway_works, run["path"] == "gateway", "only what takes part is measured: {run}");
        }
    }
    for run in report["latency"][0]["runs"].as_array().unwrap() {
        assert_eq!(count(run, "published"), 50, "the rate is kept: {run}");
        assert_eq!(count(&run["end_to_end_ms"], "count"), 45, "all but the first tenth is measured: {run}");
    }
    assert_eq!(report["scenarios"].as_array().unwrap().len(), 2);
    let page = std::fs::read_to_string(folder.path().join("page.md")).unwrap();
    assert!(page.contains("No claim is made from these figures") && page.contains("### Throughput"), "{page}");
    assert!(std::fs::read_to_string(folder.path().join("plot.svg")).unwrap().starts_with("<svg"));
    assert!(!folder.path().join(".warrengate").exists(), "it cleans up");
    assert_eq!(left(folder.path()), 0);
}

#[tokio::test]
async fn bench_measures_one_half_at_a_time_on_every_kind_of_queue() {
    let folder = folder();
    let args = ["--json", "--rounds=1", "--seconds=0.3", "--scenario=throughput", "--frame=1", "--streams=2"];
    let axes = ["--mode=publish,consume", "--queue=classic,stream"];
    let report = measured(folder.path(), &[&args[..], &axes].concat()).await;
    let cells = report["throughput"].as_array().unwrap();
    assert_eq!(cells.len(), 4);
    for run in cells.iter().flat_map(|cell| cell["runs"].as_array().unwrap()) {
        let (confirmed, consumed) = (count(run, "confirmed"), count(run, "consumed"));
        assert!((confirmed > 0) != (consumed > 0), "one half only: {run}");
    }
}

#[tokio::test]
async fn bench_reaches_each_limit_of_a_plan_beside_a_tenant_within_its_own() {
    let folder = folder();
    // A limit that is not reached fails it.
    let args = ["--json", "--rounds=1", "--seconds=0.5", "--size=64", "--rate=100", "--scenario=limits"];
    let report = measured(folder.path(), &args).await;
    let mut limits = BTreeMap::<_, Vec<_>>::new();
    for figure in report["scenarios"][0]["figures"].as_array().unwrap() {
        assert!(figure["figure"]["median"].as_f64().is_some_and(|median| median > 0.0), "{figure}");
        if let Some((limit, what)) = figure["name"].as_str().unwrap().split_once(": ") {
            limits.entry(limit).or_default().push(what);
        }
    }
    assert_eq!(limits.len(), 13, "{limits:?}");
    for (limit, figures) in limits {
        let wanted = ["throughput beside ÷ alone", "p99 beside ÷ alone", "refused or held back"];
        assert_eq!(figures, wanted, "{limit}");
    }
}

#[tokio::test]
async fn an_interrupted_bench_leaves_nothing_behind() {
    let folder = folder();
    let mut bench = bench(folder.path(), &["--scenario=throughput", "--seconds=60"]).spawn().unwrap();
    let mut lines = BufReader::new(bench.stderr.take().unwrap()).lines();
    within_minutes("bench to measure", 3, async {
        while !lines.next_line().await.unwrap().expect("it goes on").contains("frames of") {}
    })
    .await;
    assert!(left(folder.path()) > 2, "this test must see what runs");
    let id = bench.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
    assert_eq!(within_minutes("bench to end", 1, bench.wait()).await.unwrap().code(), Some(1));
    until("nothing to be left", async || (left(folder.path()) == 0).then_some(())).await;
    assert!(!folder.path().join(".warrengate").exists());
}
