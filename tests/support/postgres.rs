//! A private PostgreSQL for tests: the programs that are installed enter; a server on a free port of loopback leaves, in a
//! folder that goes with it. A guard at the other end of a pipe ends the server when this process ends in whatever way.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::{
    io::Write as _,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

const USER: &str = "warrengate";
/// Ends the server, and removes its folder, unless it is told that the server is gone.
const GUARD: &str = r#"
trap '' HUP INT TERM
read -r word && exit
kill -s QUIT "$1"
for i in 1 2 3 4 5; do kill -s 0 "$1" 2>/dev/null || break; sleep 1; done
rm -rf "$2"
"#;

/// A running server, ended when dropped.
pub struct Postgres {
    running: Option<Running>,
    port: u16,
    password: String,
    programs: PathBuf,
    owner: Option<(u32, u32)>,
    folder: TempDir,
}

struct Running {
    server: Child,
    guard: Child,
    pipe: Option<ChildStdin>,
}

impl Postgres {
    /// Makes a cluster and starts it; takes some seconds.
    pub fn start() -> Self {
        let programs = programs().expect("PostgreSQL is installed (./scripts/test installs it)");
        // Not below target/: the server runs as another user, who may not be able to get there.
        let folder = tempfile::Builder::new().prefix("warrengate-pg-").tempdir().expect("a folder");
        let owner = unprivileged();
        let password: String = uuid::Uuid::new_v4().simple().to_string();
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, &password).expect("written");
        if let Some((uid, gid)) = owner {
            chown(folder.path(), Some(uid), Some(gid)).expect("a folder of its own");
            chown(&password_file, Some(uid), Some(gid)).expect("a file of its own");
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).expect("rights");
        let mut initdb = command(&programs.join("initdb"), owner);
        initdb.arg("--pgdata").arg(folder.path().join("data")).args(["--username", USER, "--auth", "password"]);
        initdb.args(["--encoding", "UTF8", "--locale", "C", "--no-sync", "--pwfile"]).arg(&password_file);
        let made = initdb.output().expect("initdb runs");
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let mut postgres = Self { running: None, port, password, programs, owner, folder };
        postgres.resume();
        postgres
    }

    /// Starts the server again after [`Self::stop`], on the same port with the same data.
    pub fn resume(&mut self) {
        let mut server = command(&self.programs.join("postgres"), self.owner);
        server.arg("-D").arg(self.folder.path().join("data"));
        server.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-k", "", "-c", "max_connections=300"]);
        // What is stored need not outlive the run.
        server.args(["-c", "fsync=off"]).stderr(Stdio::null());
        let server = server.spawn().expect("postgres starts");
        let mut guard = Command::new("/bin/sh");
        guard.args(["-c", GUARD, "guard", &server.id().to_string()]).arg(self.folder.path());
        guard.process_group(0).current_dir("/");
        let mut guard =
            guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a guard");
        let pipe = guard.stdin.take();
        self.running = Some(Running { server, guard, pipe });
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.answers() {
            assert!(Instant::now() < deadline, "PostgreSQL does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the server at once, as if its machine had gone.
    pub fn stop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        // QUIT, so that it frees its shared memory; it takes no time.
        let pid = running.server.id().to_string();
        let _ = Command::new("kill").args(["-s", "QUIT", &pid]).status();
        let _ = running.server.wait();
        if let Some(mut pipe) = running.pipe.take() {
            let _ = writeln!(pipe, "gone");
        }
        let _ = running.guard.wait();
    }

    /// The url of the database that every cluster has.
    pub fn url(&self) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/postgres", self.password, self.port)
    }

    fn answers(&self) -> bool {
        let asked = Command::new(self.programs.join("psql")).args([&self.url(), "-c", "SELECT 1"]).output();
        asked.is_ok_and(|asked| asked.status.success())
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

/// PostgreSQL refuses to run as root: then as its own user, or as nobody.
fn unprivileged() -> Option<(u32, u32)> {
    let me = Command::new("id").arg("-u").output().expect("id runs");
    if String::from_utf8_lossy(&me.stdout).trim() != "0" {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("users");
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [user, _, uid, gid, ..] = fields[..] else { return None };
            (user == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?))).flatten()
        })
    };
    find("postgres").or_else(|| find("nobody"))
}

/// Where the programs are: Debian has them outside PATH, a folder a version.
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
