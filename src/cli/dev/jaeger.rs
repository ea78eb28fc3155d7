//! The trace collector of the development gateway: one that is configured or running, or a Jaeger from the PATH, which
//! is started and always ends with this process.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// OTLP over gRPC, and Jaeger's pages and query API.
const OTLP: u16 = 4317;
const QUERY: u16 = 16686;

/// Runs a program until standard input is closed, which the kernel does when this process ends.
const UNTIL_PARENT_ENDS: &str = r#""$@" & program=$!; read -r _; kill "$program"; wait "$program""#;

/// The collector.
pub(super) struct Tracing {
    /// Settings of the gateway, by their environment names.
    pub(super) settings: Vec<(String, String)>,
    /// A note for the user.
    pub(super) note: String,
    jaeger: Option<Running>,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Tracing {
    /// The endpoint in the environment; a collector on this machine; a Jaeger on the PATH, which is started; or none.
    pub(super) fn find() -> Self {
        let mut settings: Vec<_> = std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")).collect();
        let given = settings.iter().find(|(name, _)| {
            ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].contains(&name.as_str())
        });
        let given = given.map(|(_, endpoint)| endpoint.clone());
        // Every trace is sampled, unless a sampler is configured.
        if !settings.iter().any(|(name, _)| name.starts_with("OTEL_TRACES_SAMPLER")) {
            settings.push(("WARRENGATE_TELEMETRY__SAMPLE_RATIO".to_owned(), "1".to_owned()));
        }
        let mut found = Self { settings, note: String::new(), jaeger: None };
        if let Some(endpoint) = given {
            found.note = format!("traces go to {endpoint}");
            return found;
        }
        found.jaeger = if listens(OTLP) { None } else { start() };
        if found.jaeger.is_some() || listens(OTLP) {
            let endpoint = format!("http://127.0.0.1:{OTLP}");
            found.note = format!(
                "traces go to {endpoint}; see them with `warrengate trace ID`, or at http://127.0.0.1:{QUERY} if it has pages"
            );
            found.settings.push(("WARRENGATE_TELEMETRY__OTLP_ENDPOINT".to_owned(), endpoint));
            let pages = format!("http://127.0.0.1:{QUERY}/trace/{{trace_id}}");
            found.settings.push(("WARRENGATE_CONSOLE__TRACE_URL".to_owned(), pages));
        } else {
            found.note =
                "no traces, because no Jaeger was found. Run ./scripts/jaeger in another terminal (or put jaeger on the PATH, or set \
                 OTEL_EXPORTER_OTLP_ENDPOINT), and start dev again"
                    .to_owned();
        }
        found
    }
}

fn here(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&here(port), Duration::from_millis(200)).is_ok()
}

fn start() -> Option<Running> {
    // It would not start if the port of its pages were taken.
    TcpListener::bind(here(QUERY)).ok()?;
    let all_in_one = on_path("jaeger-all-in-one");
    let program = all_in_one.clone().or_else(|| on_path("jaeger"))?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", UNTIL_PARENT_ENDS, "warrengate-jaeger"]).arg(program);
    if all_in_one.is_some() {
        // Version 2 listens on the loopback address by default; version 1 needs flags.
        command.args([
            "--log-level=error".to_owned(),
            "--collector.otlp.enabled=true".to_owned(),
            format!("--collector.otlp.grpc.host-port={}", here(OTLP)),
            format!("--collector.otlp.http.host-port={}", here(OTLP + 1)),
            format!("--query.http-server.host-port={}", here(QUERY)),
            format!("--query.grpc-server.host-port={}", here(0)),
            format!("--collector.grpc-server.host-port={}", here(0)),
            format!("--collector.http-server.host-port={}", here(0)),
            format!("--admin.http.host-port={}", here(0)),
        ]);
    }
    let command = command.env("OTEL_TRACES_SAMPLER", "always_off").stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok().map(Running)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}
