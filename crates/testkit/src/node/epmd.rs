//! A private epmd, Erlang's port mapper, for one node or for all nodes of a cluster. It listens on the loopback address
//! only.

use std::{fs::File, path::Path, process::Child, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{
    Error, Installation,
    guard::Guard,
    ports::{self, Reservation},
    private::{POLL_INTERVAL, command},
    process,
};

pub(super) fn spawn(installation: &Installation, port: u16, output: &File) -> Result<Child, Error> {
    let mut command = command(installation.epmd(), output)?;
    command.args(["-port", &port.to_string(), "-address", "127.0.0.1"]);
    command.spawn().map_err(Error::process("start epmd"))
}

/// Waits until it listens.
pub(super) async fn listens(port: u16) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(ports::loopback(port)).await.is_err() {
        if Instant::now() >= deadline {
            return Err(Error::PortTaken { port, purpose: "epmd" });
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// An epmd that several nodes share. It ends when it is dropped or this process ends.
#[derive(Debug)]
pub(super) struct SharedEpmd {
    port: u16,
    _reservation: Reservation,
    child: Child,
    guard: Guard,
}

impl SharedEpmd {
    pub(super) async fn start(installation: &Installation, dir: &Path) -> Result<Self, Error> {
        let log = dir.join("epmd.log");
        let output = File::create(&log).map_err(Error::file("create", &log))?;
        let mut guard = Guard::start()?;
        let reservation = Reservation::new()?;
        let port = reservation.port(0);
        let child = spawn(installation, port, &output)?;
        guard.watch(&[child.id()])?;
        let shared = Self { port, _reservation: reservation, child, guard };
        listens(port).await?;
        Ok(shared)
    }

    /// Its port, and its process group.
    pub(super) fn address(&self) -> (u16, u32) {
        (self.port, self.child.id())
    }
}

impl Drop for SharedEpmd {
    fn drop(&mut self) {
        let _ = process::signal(self.child.id(), "KILL");
        let _ = self.child.wait();
        // The process id may be reused from now on.
        let _ = self.guard.watch(&[]);
    }
}
