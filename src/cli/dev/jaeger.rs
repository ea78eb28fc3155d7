//! Where the development gateway's traces go. The environment and the PATH enter; settings for the gateway leave, a sentence
//! for people, and perhaps a running Jaeger, which ends with this value or with this process, however that ends.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// OTLP over gRPC, and Jaeger's pages and query API.
const OTLP: u16 = 4317;
const QUERY: u16 = 16686;

/// Runs a program until standard input is closed: the kernel closes it with us.
const UNTIL_WE_END: &str = r#""$@" & program=$!; read -r _; kill "$program"; wait "$program""#;

/// What was found.
pub(super) struct Tracing {
    /// For the gateway, by their environment names.
    pub(super) settings: Vec<(String, String)>,
    /// For people.
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
    /// An endpoint that the environment gives; a collector on this machine; a Jaeger on the PATH, which is started; or
    /// nowhere, and what to do about it.
    pub(super) fn find() -> Self {
        let mut settings: Vec<_> = std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")).collect();
        let given = settings.iter().find(|(name, _)| {
            ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].contains(&name.as_str())
        });
        let given = given.map(|(_, endpoint)| endpoint.clone());
        // Everything is kept here, unless somebody says otherwise.
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
            found.note =
                format!("traces go to {endpoint}; see them at http://127.0.0.1:{QUERY}, or with `warrengate trace`");
            found.settings.push(("WARRENGATE_TELEMETRY__OTLP_ENDPOINT".to_owned(), endpoint));
        } else {
            found.note =
                "traces go nowhere: there is no Jaeger. Run ./scripts/jaeger in another terminal (or put jaeger on \
                          the PATH, or set OTEL_EXPORTER_OTLP_ENDPOINT), and start dev again"
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
    // Its pages' port is somebody else's: then it would not start.
    TcpListener::bind(here(QUERY)).ok()?;
    let all_in_one = on_path("jaeger-all-in-one");
    let program = all_in_one.clone().or_else(|| on_path("jaeger"))?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", UNTIL_WE_END, "warrengate-jaeger"]).arg(program);
    if all_in_one.is_some() {
        // The second version listens on the loopback address by itself; the first does when told.
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
