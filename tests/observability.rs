//! Dashboards, alerts and runbooks are consistent with the code: they name existing metrics and sections, and promtool
//! accepts the rules.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use warrengate::telemetry::METRICS;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

/// The metric names in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("warrengate_") || word.starts_with("process_")).collect()
}

fn unknown(text: &str) -> Vec<&str> {
    let samples: BTreeSet<String> = METRICS.iter().flat_map(|metric| metric.samples()).collect();
    named(text).into_iter().filter(|name| !samples.contains(*name)).collect()
}

#[test]
fn dashboards_name_only_metrics_that_exist() {
    let mut seen = 0;
    for entry in fs::read_dir(file("docs/observability/dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let board: serde_json::Value = serde_json::from_str(&text).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let expression = target["expr"].as_str().unwrap();
                assert!(unknown(expression).is_empty(), "{}: {expression}", path.display());
                assert!(!named(expression).is_empty(), "{}: {expression}", path.display());
                seen += 1;
            }
        }
        let variables = board["templating"].to_string();
        assert!(unknown(&variables).is_empty(), "{variables}");
    }
    assert!(seen > 40, "only {seen} queries");
}

#[test]
fn alerts_name_only_metrics_that_exist_and_each_has_a_runbook() {
    let (rules, operations) = (text("docs/observability/alerts.yml"), text("docs/operations.md"));
    assert!(unknown(&rules).is_empty(), "{:?}", unknown(&rules));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 6, "{alerts:?}");
    for alert in alerts {
        assert!(operations.contains(&format!("\n### {alert}\n")), "docs/operations.md has no section {alert}");
        let link = format!("runbook: docs/operations.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&link), "{alert} does not link to its section");
    }
}

#[test]
fn the_documentation_names_only_metrics_that_exist() {
    let operations = text("docs/operations.md");
    // Histograms are listed by family name, and a prefix may denote all metrics that begin with it.
    let is_family = |name: &str| METRICS.iter().any(|metric| metric.name == name);
    let is_prefix = |name: &str| matches!(name, "warrengate_" | "process_");
    let wrong: Vec<_> = unknown(&operations).into_iter().filter(|name| !is_family(name) && !is_prefix(name)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    for metric in METRICS.iter().filter(|metric| metric.name.starts_with("warrengate_")) {
        assert!(operations.contains(&format!("`{}`", metric.name)), "docs/operations.md does not list {}", metric.name);
    }
}

#[test]
fn promtool_accepts_the_rules() {
    let Some(promtool) = promtool() else {
        assert!(std::env::var_os("CI").is_none(), "promtool is missing, and CI must run every check");
        return;
    };
    let checked = Command::new(promtool).args(["check", "rules"]).arg(file("docs/observability/alerts.yml")).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// promtool in `PATH`, or where `./scripts/test` installs it.
#[allow(clippy::print_stderr, reason = "a skipped check is reported")]
fn promtool() -> Option<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let own = file("target/tools/promtool");
    let found = std::env::split_paths(&places).map(|dir| dir.join("promtool")).chain([own]).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: promtool is not installed (./scripts/test installs it with apt-get or brew)");
    }
    found
}
