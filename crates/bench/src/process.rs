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

/// The argument with which this program is a client process: see [`super::serve_worker`].
pub const WORKER_COMMAND: &str = "worker";
const READY_WITHIN: Duration = Duration::from_secs(600);
const OUTCOME_WITHIN: Duration = Duration::from_secs(1_800);

/// A client process.
pub(super) struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts one, and waits until it is ready for the word "go".
    pub(super) async fn start(job: &Job) -> Result<Self, Error> {
        let mut command = child(&std::env::current_exe().map_err(Error::Pipe)?, &[WORKER_COMMAND]);
        // As many as there are processors is what tokio gives a program that says nothing.
        let threads =
            job.tuning.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get));
        command.env("TOKIO_WORKER_THREADS", threads.to_string());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(Error::Pipe)?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Worker("no pipes".to_owned()));
        };
        let mut worker = Self { child, orders, answers: BufReader::new(answers).lines() };
        worker.say(&serde_json::to_string(job).map_err(Error::Job)?).await?;
        let answer = tokio::time::timeout(READY_WITHIN, worker.answers.next_line()).await;
        match answer.map_err(|_| Error::TooSlow("waiting for a client process"))?.map_err(Error::Pipe)? {
            Some(line) if line == READY => Ok(worker),
            Some(line) => {
                let outcome: Outcome = serde_json::from_str(&line).map_err(Error::Job)?;
                Err(Error::Worker(outcome.error.unwrap_or(line)))
            }
            None => Err(Error::Worker("it ended while connecting".to_owned())),
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Starts its clock.
    pub(super) async fn go(&mut self) -> Result<(), Error> {
        self.say(GO).await
    }

    /// What it did. It lives on until it is dropped, so that its processor time can be read.
    pub(super) async fn outcome(&mut self) -> Result<Outcome, Error> {
        let line = tokio::time::timeout(OUTCOME_WITHIN, self.answers.next_line()).await;
        let line = line.map_err(|_| Error::TooSlow("waiting for an outcome"))?.map_err(Error::Pipe)?;
        let line = line.ok_or_else(|| Error::Worker("it ended without an outcome".to_owned()))?;
        let outcome: Outcome = serde_json::from_str(&line).map_err(Error::Job)?;
        match outcome.error {
            Some(error) => Err(Error::Worker(error)),
            None => Ok(outcome),
        }
    }

    /// Ends it and waits for that.
    pub(super) async fn end(mut self) -> Result<(), Error> {
        drop(self.orders);
        if tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await.is_err() {
            self.child.kill().await.map_err(Error::Pipe)?;
        }
        Ok(())
    }

    async fn say(&mut self, line: &str) -> Result<(), Error> {
        self.orders.write_all(format!("{line}\n").as_bytes()).await.map_err(Error::Pipe)?;
        self.orders.flush().await.map_err(Error::Pipe)
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
    /// Starts `warrengate serve` with these settings as its environment, and waits until it says that it is ready.
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
        // What it prints, it prints before it serves; none means that the store knew its administrator.
        if let Some(lines) = &mut lines {
            let line = tokio::time::timeout(Duration::from_millis(200), lines.next_line()).await;
            first_administrator = line.ok().and_then(Result::ok).flatten().as_deref().and_then(administrator);
        }
        Ok(Self { child, _guard: guard, grpc, first_administrator, ready_after })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) fn endpoint(&self) -> String {
        format!("https://{}", self.grpc)
    }

    pub(super) fn take_first_administrator(&mut self) -> Option<(String, SecretString)> {
        self.first_administrator.take()
    }

    /// From its start until `/readyz` said yes.
    pub(super) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Kills it: nothing is measured of how it ends.
    pub(super) async fn end(mut self) -> Result<(), Error> {
        self.child.kill().await.map_err(Error::Pipe)
    }
}

/// A child process in a process group of its own, which Ctrl-C in the terminal does not reach.
fn child(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let known = name.to_string_lossy();
        // Settings of the person who measures are not those of what is measured.
        if ["WARRENGATE_", "OTEL_", "TOKIO_"].iter().any(|prefix| known.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.args(arguments).process_group(0).kill_on_drop(true);
    command
}

/// `administrator ID, secret SECRET: keep it ...`
fn administrator(line: &str) -> Option<(String, SecretString)> {
    let (id, rest) = line.strip_prefix("administrator ")?.split_once(", secret ")?;
    let (secret, _) = rest.split_once(": ")?;
    Some((id.to_owned(), secret.to_owned().into()))
}

/// Whether `/readyz` says yes.
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

/// A port that was free a moment ago.
pub(super) fn free_address() -> Result<SocketAddr, Error> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(Error::Pipe)?;
    listener.local_addr().map_err(Error::Pipe)
}

/// A folder that goes with its owner, and the one around it when that was made for it and is empty.
pub(super) struct Folder {
    path: PathBuf,
    around: Option<PathBuf>,
}

impl Folder {
    /// Makes it.
    pub(super) fn make(path: PathBuf) -> Result<Self, Error> {
        let around = path.parent().filter(|around| !around.exists()).map(Path::to_owned);
        std::fs::create_dir_all(&path).map_err(|error| Error::File(path.display().to_string(), error))?;
        Ok(Self { path, around })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be deleted is data of a measurement, and lies where the settings say.
        let _ = std::fs::remove_dir_all(&self.path);
        let _ = self.around.as_ref().map(std::fs::remove_dir);
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn the_first_administrator_is_read_from_what_serve_prints() {
        let line = "administrator admin, secret abc_DEF-1: keep it, it is not shown again";
        let (id, secret) = administrator(line).expect("there");
        assert_eq!((id.as_str(), secret.expose_secret()), ("admin", "abc_DEF-1"));
        assert!(administrator("listening").is_none());
    }
}
