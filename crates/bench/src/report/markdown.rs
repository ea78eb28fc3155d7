//! A report as Markdown tables, for docs/performance.md.

use std::fmt::Write as _;

use super::{CellReport, Report, Summary};
use crate::{figures::Figure, job::Path, scenario::Named};

pub(super) fn page(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut page, report);
    page
}

fn write(page: &mut String, report: &Report) -> std::fmt::Result {
    let machine = &report.machine;
    let gib = report.machine.memory as f64 / f64::from(1 << 30);
    writeln!(page, "`{}`\n", report.command)?;
    writeln!(
        page,
        "{} × {}, {gib:.0} GiB, {}, kernel {}, {}; warrengate {} ({} build); {} rounds of {} s.\n",
        machine.processors,
        machine.processor,
        machine.system,
        machine.kernel,
        machine.broker,
        machine.warrengate,
        machine.build,
        report.rounds,
        report.seconds
    )?;
    for warning in &report.warnings {
        writeln!(page, "**These figures are unreliable: {warning}.**\n")?;
    }
    if !report.throughput.is_empty() {
        throughput(page, report)?;
    }
    for cell in &report.latency {
        latency(page, cell)?;
    }
    for scenario in &report.scenarios {
        writeln!(page, "### {}\n\n{}.\n", scenario.scenario.name(), capital(&scenario.description))?;
        writeln!(page, "| figure | median | range | target |\n| --- | ---: | ---: | --- |")?;
        for Named { name, unit, figure, target } in &scenario.figures {
            let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
            writeln!(page, "| {name}{unit} | {} | {} | {target} |", short(figure.median), spread(Some(*figure)))?;
        }
        writeln!(page)?;
    }
    Ok(())
}

fn throughput(page: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(page, "### Throughput\n\nMessages per second; medians, with the range.\n")?;
    writeln!(
        page,
        "| combination | (a) ordinary | (b) direct | (c) gateway | c ÷ b | c ÷ a |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )?;
    for cell in &report.throughput {
        let rate = |path| {
            let rate = cell.path(path).and_then(|path| path.messages_per_second);
            format!("{} ({})", median(rate), spread(rate))
        };
        let [a, b, c] = Path::ALL.map(rate);
        let (direct, ordinary) =
            cell.ratios.map(|ratios| (ratios.throughput_vs_direct, ratios.throughput_vs_ordinary)).unzip();
        writeln!(page, "| {} | {a} | {b} | {c} | {} | {} |", cell.cell.title(), median(direct), median(ordinary))?;
    }
    writeln!(page, "\nProcessor time in µs for each message, and resident memory in MiB at the end of a run.\n")?;
    writeln!(
        page,
        "| combination | path | application | gateway | broker | memory: application | gateway | broker |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )?;
    for cell in &report.throughput {
        for Summary { path, cpu_us_per_message: cpu, memory_mib: memory, .. } in &cell.paths {
            writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                cell.cell.title(),
                path.name(),
                median(cpu.application),
                median(cpu.gateway),
                median(cpu.broker),
                median(memory.application),
                median(memory.gateway),
                median(memory.broker)
            )?;
        }
    }
    writeln!(page)
}

fn latency(page: &mut String, cell: &CellReport) -> std::fmt::Result {
    let rate = cell.rate.unwrap_or_default();
    writeln!(page, "### Latency at {rate} messages per second\n")?;
    writeln!(page, "From when a message was due until its arrival, in ms; {}.\n", cell.cell.title())?;
    writeln!(page, "| path | p50 | p99 |\n| --- | ---: | ---: |")?;
    for path in &cell.paths {
        let (p50, p99) = (path.p50_ms, path.p99_ms);
        let name = path.path.name();
        writeln!(page, "| {name} | {} ({}) | {} ({}) |", median(p50), spread(p50), median(p99), spread(p99))?;
    }
    if let Some(added) = cell.latency_added_ms {
        let (p50, p99) = (Some(added.p50), Some(added.p99));
        writeln!(page, "| added, c − b | {} ({}) | {} ({}) |", median(p50), spread(p50), median(p99), spread(p99))?;
    }
    writeln!(page)
}

fn median(figure: Option<Figure>) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| short(figure.median))
}

fn spread(figure: Option<Figure>) -> String {
    figure.map_or_else(String::new, |figure| format!("{} to {}", short(figure.min), short(figure.max)))
}

/// Three significant digits, or more for large numbers.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => thousands(value),
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            CellReport,
            tests::{cell, runs},
        },
        *,
    };

    #[test]
    fn numbers_have_three_significant_digits() {
        assert_eq!(
            ["0.75", "12.3", "123", "12,346", "1,234,568", "-1,000"],
            [short(0.75), short(12.34), short(123.4), short(12_345.6), short(1_234_567.8), short(-1000.0)]
                .each_ref()
                .map(String::as_str)
        );
    }

    #[test]
    fn a_throughput_cell_is_a_row_with_its_ratios() {
        let report = CellReport::of(cell(), Some(1000.0), runs());
        let mut page = String::new();
        latency(&mut page, &report).expect("written");
        assert!(page.contains("| added, c − b | 0.50 (0.50 to 0.50) | 1.00 (1.00 to 1.00) |"), "{page}");
    }
}
