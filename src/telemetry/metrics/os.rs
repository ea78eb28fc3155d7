//! The operating system's figures for this process, under the names that all Prometheus clients use. They are read at
//! each scrape; without `/proc`, there are no samples.

use std::fmt;

use super::encode::Encoder;

#[cfg(not(target_os = "linux"))]
pub(super) fn encode(_: &mut Encoder<'_>) -> fmt::Result {
    Ok(())
}

#[cfg(target_os = "linux")]
pub(super) fn encode(encoder: &mut Encoder<'_>) -> fmt::Result {
    use procfs::process::{LimitValue, Process};

    use super::{encode::metric, names};

    // A value that cannot be read now may be readable at the next scrape.
    let Ok(process) = Process::myself() else { return Ok(()) };
    let Ok(stat) = process.stat() else { return Ok(()) };
    let ticks = procfs::ticks_per_second() as f64;
    let mut gauge = |which, value: f64| metric(encoder, which, |samples| samples.gauge(value));
    gauge(&names::PROCESS_VIRTUAL, stat.vsize as f64)?;
    gauge(&names::PROCESS_RESIDENT, (stat.rss * procfs::page_size()) as f64)?;
    gauge(&names::PROCESS_THREADS, stat.num_threads as f64)?;
    if let Ok(boot) = procfs::boot_time_secs() {
        gauge(&names::PROCESS_START, boot as f64 + stat.starttime as f64 / ticks)?;
    }
    if let Ok(open) = process.fd_count() {
        gauge(&names::PROCESS_OPEN_FDS, open as f64)?;
    }
    if let Ok(LimitValue::Value(most)) = process.limits().map(|limits| limits.max_open_files.soft_limit) {
        gauge(&names::PROCESS_MAX_FDS, most as f64)?;
    }
    let seconds = (stat.utime + stat.stime) as f64 / ticks;
    metric(encoder, &names::PROCESS_CPU, |samples| samples.counter(seconds))
}
