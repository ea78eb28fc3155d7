//! A private PostgreSQL for the gateways' store. A program that is installed enters; a server on a free port of loopback
//! leaves, with a database for each name, in a folder that goes with it.

use std::{
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::{
    reaper::{Reaper, signal},
    wait,
};

const USER: &str = "warrengate";

pub struct Postgres {
    server: Child,
    port: u16,
    password: String,
    programs: PathBuf,
    reaper: Arc<Reaper>,
    /// Last, so that it goes after the server.
    folder: TempDir,
}

impl Postgres {
    pub async fn start(reaper: &Arc<Reaper>, log: &Path) -> anyhow::Result<Self> {
        let programs = programs()?;
        // Not below target/: the server runs as another user, who may not be able to get there.
        let folder = tempfile::Builder::new().prefix("warrengate-faults-").tempdir()?;
        let user = unprivileged()?;
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700))?;
        let password = uuid::Uuid::new_v4().simple().to_string();
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, &password)?;
        std::fs::set_permissions(&password_file, std::fs::Permissions::from_mode(0o644))?;
        let data = folder.path().join("data");
        let mut initdb = command(&programs.join("initdb"), user);
        initdb.arg("--pgdata").arg(&data).args(["--username", USER, "--auth", "password"]);
        initdb.args(["--encoding", "UTF8", "--locale", "C", "--no-sync", "--pwfile"]).arg(&password_file);
        let made = initdb.output().context("cannot run initdb")?;
        ensure!(made.status.success(), "initdb failed:\n{}", String::from_utf8_lossy(&made.stderr));
        let port = wait::free_port()?;
        let log = std::fs::File::create(log)?;
        let mut server = command(&programs.join("postgres"), user);
        server.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k", ""]);
        // What is stored need not outlive the run.
        server.args(["-c", "fsync=off"]).stdout(log.try_clone()?).stderr(log);
        let server = server.spawn().context("cannot start postgres")?;
        reaper.watch(server.id());
        let postgres = Self { server, port, password, programs, reaper: Arc::clone(reaper), folder };
        wait::until("PostgreSQL to answer", Duration::from_secs(60), async || postgres.database("first").is_ok())
            .await?;
        Ok(postgres)
    }

    /// Makes a database.
    pub fn database(&self, name: &str) -> anyhow::Result<()> {
        let made = Command::new(self.programs.join("createdb"))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER, "--no-password", name])
            .env("PGPASSWORD", &self.password)
            .output()?;
        let said = String::from_utf8_lossy(&made.stderr);
        ensure!(made.status.success() || said.contains("already exists"), "createdb {name}: {said}");
        Ok(())
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // QUIT, so that it frees its shared memory; it takes no time.
        signal(self.server.id(), "QUIT");
        let _ = self.server.wait();
        self.reaper.forget(self.server.id());
        let _ = &self.folder;
    }
}

fn command(program: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command.process_group(0).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// PostgreSQL refuses to run as root: then as its own user, or as nobody.
fn unprivileged() -> anyhow::Result<Option<(u32, u32)>> {
    let me = Command::new("id").arg("-u").output().context("cannot run id")?;
    if String::from_utf8_lossy(&me.stdout).trim() != "0" {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [user, _, uid, gid, ..] = fields[..] else { return None };
            (user == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?))).flatten()
        })
    };
    match find("postgres").or_else(|| find("nobody")) {
        Some(user) => Ok(Some(user)),
        None => bail!("PostgreSQL does not run as root, and there is no user postgres or nobody"),
    }
}

/// Where `initdb` and `postgres` are: Debian has them outside PATH, a folder a version.
fn programs() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for (parent, prefix) in
        [("/usr/lib/postgresql", ""), ("/opt/homebrew/opt", "postgresql"), ("/usr/local/opt", "postgresql")]
    {
        let mut versions: Vec<PathBuf> = std::fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path().join("bin"))
            .collect();
        versions.sort();
        folders.extend(versions.into_iter().rev());
    }
    folders
        .into_iter()
        .find(|folder| ["initdb", "postgres", "createdb"].iter().all(|program| folder.join(program).exists()))
        .context("PostgreSQL is not installed (initdb was not found): ./scripts/test and ./scripts/faults install it")
}
