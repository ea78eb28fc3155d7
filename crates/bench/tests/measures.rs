//! The benchmark runs, and its counts are right. Its figures are not checked: a test machine is shared.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Once,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

const DEADLINE: Duration = Duration::from_secs(300);

/// The `warrengate` program of the same profile, built if it is not there.
fn gateway() -> PathBuf {
    static BUILD: Once = Once::new();
    let bench = Path::new(env!("CARGO_BIN_EXE_warrengate-bench"));
    let gateway = bench.with_file_name("warrengate");
    BUILD.call_once(|| {
        let profile = match bench.parent().and_then(Path::file_name).and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let mut build = std::process::Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "warrengate", "--bin", "warrengate", "--profile", profile]);
        assert!(build.status().unwrap().success(), "the gateway is built");
    });
    gateway
}

fn bench(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warrengate-bench"));
    command.current_dir(folder).args(args).arg("--gateway").arg(gateway()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // `./scripts/test --broker PATH`
    if let Some(broker) = std::env::var_os("WARRENGATE_TEST_BROKER") {
        command.arg("--broker").arg(broker);
    }
    command
}

async fn within<T>(description: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(value) => value,
        Err(_) => panic!("{description}: not within {DEADLINE:?}"),
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bench").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

async fn measured(folder: &Path, args: &[&str]) -> Value {
    let output = within("bench", bench(folder, args).output()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The number of processes whose working directory is in this folder; Linux only.
fn running(folder: &Path) -> usize {
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
async fn every_path_is_measured_and_every_message_counted() {
    let folder = folder();
    let report = measured(
        folder.path(),
        &[
            "--json",
            "--rounds=1",
            "--seconds=0.5",
            "--size=64",
            "--streams=1",
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
    assert!(
        report["warnings"].as_array().unwrap().iter().any(|warning| warning == "1 round(s) only"),
        "a short run has a warning"
    );
    for part in ["throughput", "latency"] {
        let runs = report[part][0]["runs"].as_array().unwrap();
        let ways: Vec<_> = runs.iter().map(|run| run["path"].as_str().unwrap()).collect();
        assert_eq!(ways, ["ordinary", "direct", "gateway"]);
        for run in runs {
            let published = count(run, "published");
            assert!(published > 0, "{run}");
            assert_eq!((count(run, "confirmed"), count(run, "consumed")), (published, published), "{run}");
            let gateway_works = run["cpu_us_per_message"]["gateway"].is_f64();
            assert_eq!(gateway_works, run["path"] == "gateway", "only the processes of the path are measured: {run}");
        }
    }
    for run in report["latency"][0]["runs"].as_array().unwrap() {
        assert_eq!(count(run, "published"), 50, "the rate is kept: {run}");
        assert_eq!(count(&run["end_to_end_ms"], "count"), 45, "all but the first tenth is measured: {run}");
    }
    assert_eq!(report["scenarios"].as_array().unwrap().len(), 2);
    let page = std::fs::read_to_string(folder.path().join("page.md")).unwrap();
    assert!(page.contains("These figures are unreliable") && page.contains("### Throughput"), "{page}");
    assert!(std::fs::read_to_string(folder.path().join("plot.svg")).unwrap().starts_with("<svg"));
    assert!(!folder.path().join(".warrengate").exists(), "its folder is deleted");
    assert_eq!(running(folder.path()), 0);
}

#[tokio::test]
async fn publishing_and_consuming_are_measured_separately_on_every_queue_type() {
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
async fn a_run_whose_warm_up_is_not_confirmed_is_an_error_with_the_reason() {
    let folder = folder();
    let args = ["--rounds=1", "--seconds=0.3", "--scenario=throughput", "--streams=1", "--size=70000"];
    let limit = ["--set=WARRENGATE_LIMITS__MAX_MESSAGE_BYTES=65536"];
    let output = within("bench", bench(folder.path(), &[&args[..], &limit].concat()).output()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("50 of 50 warm-up messages were not confirmed: "), "{errors}");
}

#[tokio::test]
async fn each_limit_of_a_plan_is_reached_while_another_tenant_stays_within_its_limits() {
    let folder = folder();
    // A limit that is not reached fails the run.
    let args = ["--json", "--rounds=1", "--seconds=0.5", "--size=64", "--rate=100", "--scenario=limits"];
    let report = measured(folder.path(), &args).await;
    let mut limits = BTreeMap::<_, Vec<_>>::new();
    for figure in report["scenarios"][0]["figures"].as_array().unwrap() {
        assert!(figure["figure"]["median"].as_f64().is_some_and(|median| median > 0.0), "{figure}");
        if let Some((limit, description)) = figure["name"].as_str().unwrap().split_once(": ") {
            limits.entry(limit).or_default().push(description);
        }
    }
    assert_eq!(limits.len(), 13, "{limits:?}");
    for (limit, figures) in limits {
        let wanted = ["throughput with misuse ÷ alone", "p99 with misuse ÷ alone", "refused or delayed"];
        assert_eq!(figures, wanted, "{limit}");
    }
}

#[tokio::test]
async fn an_interrupted_run_leaves_no_process_and_no_folder_behind() {
    let folder = folder();
    let mut bench = bench(folder.path(), &["--scenario=throughput", "--seconds=60"]).spawn().unwrap();
    let mut lines = BufReader::new(bench.stderr.take().unwrap()).lines();
    within("bench to measure", async {
        while !lines.next_line().await.unwrap().expect("the run continues").contains("frames of") {}
    })
    .await;
    assert!(running(folder.path()) > 2 || !cfg!(target_os = "linux"), "this test must see the processes");
    let id = bench.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
    assert_eq!(within("bench to end", bench.wait()).await.unwrap().code(), Some(1));
    within("all processes to end", async {
        while running(folder.path()) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(!folder.path().join(".warrengate").exists());
}
