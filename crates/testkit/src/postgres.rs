//! A private PostgreSQL server.
//!
//! It listens on a free port of the loopback address and keeps its data in a temporary folder. A guard process at the
//! other end of a pipe ends the server and deletes the folder when this process ends, even by `kill -9`.

use std::{
    io::Write as _,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

const USER: &str = "warrengate";
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Ends the server and deletes its folder when the pipe closes, unless a line reports that the server has ended.
const GUARD: &str = r#"
trap '' HUP INT TERM
read -r word && exit
kill -s QUIT "$1"
for i in 1 2 3 4 5; do kill -s 0 "$1" 2>/dev/null || break; sleep 1; done
rm -rf "$2"
"#;

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The programs were not found.
    #[error("PostgreSQL is not installed: initdb, postgres and psql were not found (./scripts/test installs them)")]
    NotInstalled,
    /// A file or process of the server.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {output}")]
    Failed {
        /// The program's name.
        program: &'static str,
        /// Its error output.
        output: String,
    },
    /// The server did not answer in time.
    #[error("PostgreSQL did not answer within {} s", .0.as_secs())]
    TooSlow(Duration),
}

fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { action, source }
}

/// A running server; dropping it ends it.
#[derive(Debug)]
pub struct Postgres {
    running: Option<Running>,
    port: u16,
    password: String,
    programs: PathBuf,
    owner: Option<(u32, u32)>,
    folder: TempDir,
}

#[derive(Debug)]
struct Running {
    server: Child,
    guard: Child,
    pipe: Option<ChildStdin>,
}

impl Postgres {
    /// Creates a database cluster and starts its server, which takes some seconds.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub fn start() -> Result<Self, Error> {
        let programs = programs().ok_or(Error::NotInstalled)?;
        // Not below target/: the server runs as another user, who may not have access to it.
        let folder = tempfile::Builder::new().prefix("warrengate-pg-").tempdir().map_err(io("create a folder"))?;
        let owner = unprivileged_user()?;
        let password: String = uuid::Uuid::new_v4().simple().to_string();
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, &password).map_err(io("write the password file"))?;
        if let Some((uid, gid)) = owner {
            chown(folder.path(), Some(uid), Some(gid)).map_err(io("change the folder's owner"))?;
            chown(&password_file, Some(uid), Some(gid)).map_err(io("change the password file's owner"))?;
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700))
            .map_err(io("restrict the folder's permissions"))?;
        let mut initdb = command(&programs.join("initdb"), owner);
        initdb.arg("--pgdata").arg(folder.path().join("data")).args(["--username", USER, "--auth", "password"]);
        initdb.args(["--encoding", "UTF8", "--locale", "C", "--no-sync", "--pwfile"]).arg(&password_file);
        succeeded("initdb", &initdb.output().map_err(io("run initdb"))?)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = port.map_err(io("find a free port"))?.port();
        let mut postgres = Self { running: None, port, password, programs, owner, folder };
        postgres.resume()?;
        Ok(postgres)
    }

    /// Starts the server again after [`Self::stop`], on the same port with the same data.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume(&mut self) -> Result<(), Error> {
        let mut server = command(&self.programs.join("postgres"), self.owner);
        server.arg("-D").arg(self.folder.path().join("data"));
        server.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-k", "", "-c", "max_connections=300"]);
        // The data need not survive a crash of the machine.
        server.args(["-c", "fsync=off"]).stderr(Stdio::null());
        let server = server.spawn().map_err(io("start postgres"))?;
        let mut guard = Command::new("/bin/sh");
        guard.args(["-c", GUARD, "guard", &server.id().to_string()]).arg(self.folder.path());
        guard.process_group(0).current_dir("/");
        guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut guard = guard.spawn().map_err(io("start the guard process"))?;
        let pipe = guard.stdin.take();
        self.running = Some(Running { server, guard, pipe });
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.answers() {
            if Instant::now() >= deadline {
                return Err(Error::TooSlow(START_TIMEOUT));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends the server at once, as if its machine had failed.
    pub fn stop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        // QUIT ends the server immediately but lets it release its shared memory.
        let pid = running.server.id().to_string();
        let _ = Command::new("kill").args(["-s", "QUIT", &pid]).status();
        let _ = running.server.wait();
        if let Some(mut pipe) = running.pipe.take() {
            let _ = writeln!(pipe, "ended");
        }
        let _ = running.guard.wait();
    }

    /// Creates a database; one that exists already is kept.
    ///
    /// # Errors
    /// When the server refuses it.
    pub fn create_database(&self, name: &str) -> Result<(), Error> {
        let statement = format!("CREATE DATABASE \"{name}\"");
        let created = self.psql(&statement).map_err(io("run psql"))?;
        if String::from_utf8_lossy(&created.stderr).contains("already exists") {
            return Ok(());
        }
        succeeded("psql", &created)
    }

    /// The URL of the default database.
    pub fn url(&self) -> String {
        self.database_url("postgres")
    }

    /// The URL of a database.
    pub fn database_url(&self, name: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{name}", self.password, self.port)
    }

    fn answers(&self) -> bool {
        self.psql("SELECT 1").is_ok_and(|answer| answer.status.success())
    }

    fn psql(&self, statement: &str) -> std::io::Result<Output> {
        Command::new(self.programs.join("psql")).args([&self.url(), "-c", statement]).output()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

fn command(program: &Path, owner: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command.process_group(0).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn succeeded(program: &'static str, output: &Output) -> Result<(), Error> {
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Failed { program, output: String::from_utf8_lossy(&output.stderr).into_owned() }),
    }
}

/// PostgreSQL refuses to run as root. For root, the ids of the user `postgres`, or of `nobody`.
fn unprivileged_user() -> Result<Option<(u32, u32)>, Error> {
    let id = Command::new("id").arg("-u").output().map_err(io("run id"))?;
    if String::from_utf8_lossy(&id.stdout).trim() != "0" {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").map_err(io("read /etc/passwd"))?;
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [user, _, uid, gid, ..] = fields[..] else { return None };
            (user == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?))).flatten()
        })
    };
    Ok(find("postgres").or_else(|| find("nobody")))
}

/// The folder with PostgreSQL's programs. Debian installs them outside PATH, in a folder for each version.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = Vec::new();
    for (parent, prefix) in
        [("/usr/lib/postgresql", ""), ("/opt/homebrew/opt", "postgresql"), ("/usr/local/opt", "postgresql")]
    {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        let fits = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        let mut versions: Vec<PathBuf> = fits.map(|entry| entry.path().join("bin")).collect();
        versions.sort();
        folders.extend(versions.into_iter().rev());
    }
    folders.extend(std::env::split_paths(&path));
    let complete = |folder: &PathBuf| ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).exists());
    folders.into_iter().find(complete)
}
