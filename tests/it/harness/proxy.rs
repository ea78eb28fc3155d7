//! A network that fails when a test wants it to: a TCP proxy between a gateway and its broker, or a client and its gateway.
//! Bytes go through it untouched; connections are reset, refused, or kept open and silent on command. Its address is
//! known before its target's, so that it can stand in a gateway's settings before the broker has a port.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
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

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Forwards, each piece this much later.
    Forward(Duration),
    /// Takes connections and bytes and forwards nothing: half-open TCP, with every socket still there.
    Hold,
    /// Refuses new connections.
    Cut,
}

/// A proxy; dropping it ends every connection through it.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    target: watch::Sender<Option<SocketAddr>>,
    mode: watch::Sender<Mode>,
    /// Cancelled to reset the connections that there are; then another.
    reset: Mutex<CancellationToken>,
    open: AtomicUsize,
    refused: AtomicUsize,
}

impl Proxy {
    /// Listens on a free port of the loopback address. Connections wait until there is a target.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: watch::Sender::new(None),
            mode: watch::Sender::new(Mode::Forward(Duration::ZERO)),
            reset: Mutex::default(),
            open: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, Arc::clone(&shared), stop.clone()));
        Self { address, shared, _stop: stop.drop_guard() }
    }

    /// As [`Self::start`], with a target on the loopback address.
    pub async fn to(port: u16) -> Self {
        let proxy = Self::start().await;
        proxy.forward_to(port);
        proxy
    }

    /// Where new connections go from now on: a port of the loopback address.
    pub fn forward_to(&self, port: u16) {
        self.shared.target.send_replace(Some((Ipv4Addr::LOCALHOST, port).into()));
    }

    /// Where it listens, as `host:port`.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Resets every connection (RST), and every new one until [`Self::resume`].
    pub fn cut(&self) {
        self.shared.mode.send_replace(Mode::Cut);
        self.reset();
    }

    /// Resets every connection (RST); new ones are served.
    pub fn reset(&self) {
        std::mem::take(&mut *self.shared.reset.lock().unwrap()).cancel();
    }

    /// Forwards nothing any more, both ways; sockets stay open, and new connections are taken and stay silent.
    pub fn hold(&self) {
        self.shared.mode.send_replace(Mode::Hold);
    }

    /// Forwards each piece (64 KiB at most) this much later.
    pub fn delay(&self, by: Duration) {
        self.shared.mode.send_replace(Mode::Forward(by));
    }

    /// Forwards at once again, what was held too.
    pub fn resume(&self) {
        self.delay(Duration::ZERO);
    }

    /// How many connections were refused after [`Self::cut`].
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Connections through it that neither side has closed.
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let near = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            () = stop.cancelled() => return,
        };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            shared.open.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                () = serve(near, &shared) => {}
                () = stop.cancelled() => {}
            }
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn serve(mut near: TcpStream, shared: &Shared) {
    let reset = shared.reset.lock().unwrap().clone();
    let mut mode = shared.mode.subscribe();
    if *mode.borrow() == Mode::Cut {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        return near.set_zero_linger().unwrap();
    }
    let mut far = None;
    let forward = async {
        forwarding(&mut mode).await;
        let target = shared.target.subscribe().wait_for(Option::is_some).await.unwrap().unwrap();
        let far = match TcpStream::connect(target).await {
            Ok(stream) => far.insert(stream),
            // As the target itself would answer.
            Err(_) => return near.set_zero_linger().unwrap(),
        };
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let ((from_near, to_near), (from_far, to_far)) = (near.split(), far.split());
        tokio::join!(pump(from_near, to_far, mode.clone()), pump(from_far, to_near, mode));
    };
    tokio::select! {
        () = forward => {}
        () = reset.cancelled() => {
            for side in [Some(&near), far.as_ref()].into_iter().flatten() {
                side.set_zero_linger().unwrap();
            }
        }
    }
}

/// One direction, until its end; an error is passed on as an end.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut mode: watch::Receiver<Mode>) {
    let mut piece = vec![0; 64 * 1024];
    loop {
        // Nothing is read while held, so that the sender's window fills as it would.
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

/// Waits until bytes are forwarded; how much later.
async fn forwarding(mode: &mut watch::Receiver<Mode>) -> Duration {
    let mode = mode.wait_for(|mode| matches!(mode, Mode::Forward(_))).await.map(|mode| *mode);
    match mode {
        Ok(Mode::Forward(by)) => by,
        // The proxy is gone, and this with it.
        _ => std::future::pending().await,
    }
}
