//! The thread that serves the API: one small runtime, apart from the plane's cores.

use super::{NodeInfo, metrics_router, router};
use crate::plane::Node;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, oneshot};

/// Most connections at once of each listener.
const CONNECTIONS_MAX: usize = 32;
/// How long a client may take to send its request line and headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most calls into the node at once.
const BLOCKING_THREADS_MAX: usize = 4;
/// Pause after a failed accept, which is mostly a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The metrics address could not be bound.
    #[error("cannot listen for metrics on {address}: {source}")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// No thread, runtime, or socket for it.
    #[error("cannot serve the management API: {0}")]
    Io(#[from] io::Error),
}

/// The running API of one node.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    metrics: Option<SocketAddr>,
}

impl Server {
    /// Serves `node` on `socket`, and its metrics on an address if one is given.
    ///
    /// # Errors
    /// As [`ServerError`] says.
    pub fn start(
        node: Arc<dyn Node>,
        info: NodeInfo,
        socket: StdUnixListener,
        metrics: Option<SocketAddr>,
    ) -> Result<Self, ServerError> {
        let tcp = metrics.map(listen).transpose()?;
        let metrics = tcp.as_ref().map(StdTcpListener::local_addr).transpose()?;
        socket.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let work = async move {
            let unix = UnixListener::from_std(socket)?;
            let api = router(Arc::clone(&node), info);
            tokio::spawn(serve(api, move |cx| unix.poll_accept(cx).map_ok(|(stream, _)| stream)));
            if let Some(tcp) = tcp {
                let tcp = TcpListener::from_std(tcp)?;
                let metrics = metrics_router(node);
                tokio::spawn(serve(metrics, move |cx| {
                    tcp.poll_accept(cx).map_ok(|(stream, _)| stream)
                }));
            }
            // Either way the server ends: its owner asked, or is gone.
            let _ = stopped.await;
            Ok::<(), io::Error>(())
        };
        let thread =
            std::thread::Builder::new().name("basalt-api".to_owned()).spawn(move || {
                if let Err(error) = runtime.block_on(work) {
                    crate::output::note(&format!("basalt: the management API ended: {error}"));
                }
                // Requests that wait on the node are not waited for.
                runtime.shutdown_background();
            })?;
        Ok(Self { stop: Some(stop), thread: Some(thread), metrics })
    }

    /// Where metrics are served.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed and changes nothing here.
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> Result<StdTcpListener, ServerError> {
    let bind = || {
        let listener = StdTcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| ServerError::Metrics { address, source })
}

/// Serves what `accept` gives, a bounded number of connections at once.
async fn serve<S>(router: Router, accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await;
        match poll_fn(&accept).await {
            Ok(stream) => {
                let router = router.clone();
                tokio::spawn(async move {
                    converse(stream, router).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves one connection to its end. A client's errors are its own affair.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
}
