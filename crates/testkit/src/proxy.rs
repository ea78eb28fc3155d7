//! A TCP proxy that fails on command, between a gateway and its broker or a client and its gateway.
//!
//! It forwards bytes unchanged. On command it resets or refuses connections, or keeps them open without forwarding. Its
//! address is fixed before its target's, so that it can be in a gateway's settings before the broker has a port.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What the proxy does with bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Forwards each piece after this delay.
    Forward(Duration),
    /// Accepts connections and forwards nothing, as with half-open TCP connections.
    Hold,
    /// Resets new connections.
    Cut,
}

/// A running proxy; dropping it closes every connection through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<State>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct State {
    target: watch::Sender<Option<SocketAddr>>,
    mode: watch::Sender<Mode>,
    /// Cancelled, and replaced, to reset the existing connections.
    reset: Mutex<CancellationToken>,
    open: AtomicUsize,
    accepted: AtomicUsize,
    refused: AtomicUsize,
}

impl Proxy {
    /// Listens on a free port of the loopback address. Connections wait until there is a target.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(State {
            target: watch::Sender::new(None),
            mode: watch::Sender::new(Mode::Forward(Duration::ZERO)),
            reset: Mutex::default(),
            open: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, Arc::clone(&shared), stop.clone()));
        Self { address, shared, _stop: stop.drop_guard() }
    }

    /// As [`Self::start`], with a port of the loopback address as the target.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn to(port: u16) -> Self {
        let proxy = Self::start().await;
        proxy.forward_to(port);
        proxy
    }

    /// Forwards new connections to this port of the loopback address from now on.
    pub fn forward_to(&self, port: u16) {
        self.shared.target.send_replace(Some((Ipv4Addr::LOCALHOST, port).into()));
    }

    /// Its address as `host:port`.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Resets every connection (RST), and every new one until [`Self::resume`].
    pub fn cut(&self) {
        self.shared.mode.send_replace(Mode::Cut);
        self.reset();
    }

    /// Resets every existing connection (RST); new ones are served.
    pub fn reset(&self) {
        std::mem::take(&mut *self.shared.reset.lock().unwrap_or_else(PoisonError::into_inner)).cancel();
    }

    /// Stops forwarding in both directions; connections stay open, and new ones are accepted but not forwarded.
    pub fn hold(&self) {
        self.shared.mode.send_replace(Mode::Hold);
    }

    /// Forwards each piece (64 KiB at most) after this delay.
    pub fn delay(&self, by: Duration) {
        self.shared.mode.send_replace(Mode::Forward(by));
    }

    /// Forwards without delay again, including the bytes that were delayed.
    pub fn resume(&self) {
        self.delay(Duration::ZERO);
    }

    /// How many connections were reset because of [`Self::cut`].
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// How many connections were accepted in all.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// The number of open connections through it.
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<State>, stop: CancellationToken) {
    loop {
        let near = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => near,
                // The peer may have closed it already.
                Err(_) => continue,
            },
            () = stop.cancelled() => return,
        };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            shared.accepted.fetch_add(1, Ordering::Relaxed);
            shared.open.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                () = serve(near, &shared) => {}
                () = stop.cancelled() => {}
            }
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn serve(mut near: TcpStream, shared: &State) {
    let reset = shared.reset.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut mode = shared.mode.subscribe();
    if *mode.borrow() == Mode::Cut {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        let _ = near.set_zero_linger();
        return;
    }
    let mut far = None;
    let forward = async {
        forwarding(&mut mode).await;
        let target = shared.target.subscribe().wait_for(Option::is_some).await.ok().and_then(|target| *target);
        let Some(target) = target else { return };
        let far = match TcpStream::connect(target).await {
            Ok(stream) => far.insert(stream),
            // Reset, as the target itself would.
            Err(_) => {
                let _ = near.set_zero_linger();
                return;
            }
        };
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        let ((from_near, to_near), (from_far, to_far)) = (near.split(), far.split());
        tokio::join!(pump(from_near, to_far, mode.clone()), pump(from_far, to_near, mode));
    };
    tokio::select! {
        () = forward => {}
        () = reset.cancelled() => {
            for side in [Some(&near), far.as_ref()].into_iter().flatten() {
                let _ = side.set_zero_linger();
            }
        }
    }
}

/// Forwards one direction until it ends; an error ends it, too.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut mode: watch::Receiver<Mode>) {
    let mut piece = vec![0; 64 * 1024];
    loop {
        // Nothing is read while nothing is forwarded, so that the sender's TCP window fills up.
        forwarding(&mut mode).await;
        let read = tokio::select! {
            read = from.read(&mut piece) => read.unwrap_or(0),
            _ = mode.changed() => continue,
        };
        tokio::time::sleep(forwarding(&mut mode).await).await;
        if read == 0 || to.write_all(&piece[..read]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

/// Waits until bytes are forwarded, and returns the delay.
async fn forwarding(mode: &mut watch::Receiver<Mode>) -> Duration {
    let mode = mode.wait_for(|mode| matches!(mode, Mode::Forward(_))).await.map(|mode| *mode);
    match mode {
        Ok(Mode::Forward(by)) => by,
        // The proxy was dropped, which ends this task.
        _ => std::future::pending().await,
    }
}
