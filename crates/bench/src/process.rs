//! The measured processes: client processes and gateways.
//!
//! None of them outlives this process: a client process ends with its standard input, and a guard kills a gateway.

use std::{
    fs::File,
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use secrecy::SecretString;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{
    Error,
    job::{Job, Outcome},
    worker::{GO, READY},
};
use warrengate_testkit::node::Guard;

/// The argument that makes this program a client process: see [`super::serve_worker`].
pub const WORKER_COMMAND: &str = "worker";
const READY_WITHIN: Duration = Duration::from_secs(600);
const OUTCOME_WITHIN: Duration = Duration::from_secs(1_800);

/// A client process.
pub(super) struct Worker {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts a client process and waits until it is ready.
    pub(super) async fn start(job: &Job) -> Result<Self, Error> {
        let mut command = child(&std::env::current_exe().map_err(Error::Pipe)?, &[WORKER_COMMAND]);
        // Unless set otherwise, tokio starts as many threads as there are processors.
        let threads =
            job.tuning.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get));
        command.env("TOKIO_WORKER_THREADS", threads.to_string());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(Error::Pipe)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Worker("no pipes".to_owned()));
        };
        let mut worker = Self { child, input, output: BufReader::new(output).lines() };
        worker.say(&serde_json::to_string(job).map_err(Error::Job)?).await?;
        let answer = tokio::time::timeout(READY_WITHIN, worker.output.next_line()).await;
        match answer.map_err(|_| Error::TooSlow("a client process did not become ready"))?.map_err(Error::Pipe)? {
            Some(line) if line == READY => Ok(worker),
            Some(line) => {
                let outcome: Outcome = serde_json::from_str(&line).map_err(Error::Job)?;
                Err(Error::Worker(outcome.error.unwrap_or(line)))
            }
            None => Err(Error::Worker("it exited while connecting".to_owned())),
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Starts the measured time.
    pub(super) async fn go(&mut self) -> Result<(), Error> {
        self.say(GO).await
    }

    /// Waits for the result. The process runs until it is dropped, so that its processor time can be read.
    pub(super) async fn outcome(&mut self) -> Result<Outcome, Error> {
        let line = tokio::time::timeout(OUTCOME_WITHIN, self.output.next_line()).await;
        let line = line.map_err(|_| Error::TooSlow("a client process reported no outcome"))?.map_err(Error::Pipe)?;
        let line = line.ok_or_else(|| Error::Worker("it exited without an outcome".to_owned()))?;
        let outcome: Outcome = serde_json::from_str(&line).map_err(Error::Job)?;
        match outcome.error {
            Some(error) => Err(Error::Worker(error)),
            None => Ok(outcome),
        }
    }

    /// Ends the process and waits for it.
    pub(super) async fn end(mut self) -> Result<(), Error> {
        drop(self.input);
        if tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await.is_err() {
            self.child.kill().await.map_err(Error::Pipe)?;
        }
        Ok(())
    }

    async fn say(&mut self, line: &str) -> Result<(), Error> {
        self.input.write_all(format!("{line}\n").as_bytes()).await.map_err(Error::Pipe)?;
        self.input.flush().await.map_err(Error::Pipe)
    }
}

/// A gateway.
pub(super) struct GatewayProcess {
    child: Child,
    _guard: Guard,
    grpc: SocketAddr,
    first_administrator: Option<(String, SecretString)>,
    ready_after: Duration,
}

impl GatewayProcess {
    /// Starts `warrengate serve` with these settings as its environment, and waits until it is ready.
    pub(super) async fn start(
        program: &Path,
        settings: &[(String, String)],
        grpc: SocketAddr,
        ops: SocketAddr,
        log: &Path,
    ) -> Result<Self, Error> {
        let file = File::create(log).map_err(|error| Error::File(log.display().to_string(), error))?;
        let mut guard = Guard::start()?;
        let began = Instant::now();
        let mut command = child(program, &["serve"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().map_err(Error::Pipe)?;
        guard.watch(&child.id().into_iter().collect::<Vec<_>>())?;
        let mut lines = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        while !is_ready(ops).await {
            if child.try_wait().map_err(Error::Pipe)?.is_some() || began.elapsed() > Duration::from_secs(60) {
                return Err(Error::Gateway(tail(log)));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ready_after = began.elapsed();
        let mut first_administrator = None;
        // The line is printed before the gateway serves; it is missing when the store already has an administrator.
        if let Some(lines) = &mut lines {
            let line = tokio::time::timeout(Duration::from_millis(200), lines.next_line()).await;
            first_administrator = line.ok().and_then(Result::ok).flatten().as_deref().and_then(administrator);
        }
        Ok(Self { child, _guard: guard, grpc, first_administrator, ready_after })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The number of its threads; Linux only.
    pub(super) fn threads(&self) -> Option<u64> {
        Some(std::fs::read_dir(format!("/proc/{}/task", self.pid()?)).ok()?.count() as u64)
    }

    pub(super) fn endpoint(&self) -> String {
        format!("https://{}", self.grpc)
    }

    pub(super) fn take_first_administrator(&mut self) -> Option<(String, SecretString)> {
        self.first_administrator.take()
    }

    /// The time from its start until `/readyz` succeeded.
    pub(super) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Kills it, because its shutdown is not measured.
    pub(super) async fn end(mut self) -> Result<(), Error> {
        self.child.kill().await.map_err(Error::Pipe)
    }
}

/// A child process in a separate process group, which Ctrl-C in the terminal does not reach.
fn child(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let known = name.to_string_lossy();
        // Settings from the caller's environment must not affect the measured process.
        if ["WARRENGATE_", "OTEL_", "TOKIO_"].iter().any(|prefix| known.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.args(arguments).process_group(0).kill_on_drop(true);
    command
}

/// `administrator ID, secret SECRET: save it ...`
fn administrator(line: &str) -> Option<(String, SecretString)> {
    let (id, rest) = line.strip_prefix("administrator ")?.split_once(", secret ")?;
    let (secret, _) = rest.split_once(": ")?;
    Some((id.to_owned(), secret.to_owned().into()))
}

/// Whether `/readyz` succeeds.
async fn is_ready(ops: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(ops).await?;
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {ops}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with(b"HTTP/1.1 200"))
    };
    tokio::time::timeout(Duration::from_secs(2), ask).await.is_ok_and(|answer| answer.unwrap_or(false))
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A port that was free when it was checked.
pub(super) fn free_address() -> Result<SocketAddr, Error> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(Error::Pipe)?;
    listener.local_addr().map_err(Error::Pipe)
}

/// A folder that is deleted on drop, together with its parent if that was created for it and is empty.
pub(super) struct Folder {
    path: PathBuf,
    parent: Option<PathBuf>,
}

impl Folder {
    /// Creates the folder.
    pub(super) fn create(path: PathBuf) -> Result<Self, Error> {
        let parent = path.parent().filter(|parent| !parent.exists()).map(Path::to_owned);
        std::fs::create_dir_all(&path).map_err(|error| Error::File(path.display().to_string(), error))?;
        Ok(Self { path, parent })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Deletion is best effort: the folder contains only data of the measurement.
        let _ = std::fs::remove_dir_all(&self.path);
        let _ = self.parent.as_ref().map(std::fs::remove_dir);
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn the_first_administrator_is_read_from_the_output_of_serve() {
        let line = "administrator admin, secret abc_DEF-1: save it now, it cannot be shown again";
        let (id, secret) = administrator(line).expect("parsed");
        assert_eq!((id.as_str(), secret.expose_secret()), ("admin", "abc_DEF-1"));
        assert!(administrator("listening").is_none());
    }
}
