//! Talks to a running node over its management socket.

use crate::api::ErrorBody;
use crate::failure::{Exit, Failure};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// How long a node may take to answer: longer than the node itself waits for its cores.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(150);
/// Largest answer that is taken, in bytes.
const ANSWER_MAX: usize = 64 << 20;

/// A client of one node.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// For the node at this socket. Does not connect yet.
    ///
    /// # Errors
    /// If the operating system has no room for a client.
    pub fn new(socket: &Path) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::io("cannot start a client", &e))?;
        Ok(Self { socket: socket.to_owned(), runtime })
    }

    /// `GET path`.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.request(Method::GET, path, None::<&()>)
    }

    /// One request with a JSON body, and its answer.
    ///
    /// # Errors
    /// [`Exit::NoNode`] if nobody answers, [`Exit::Failed`] with the node's words if it refuses.
    pub fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).expect("plain data serialises"),
            None => Vec::new(),
        };
        let exchange = self.exchange(method, path, body);
        let bounded = async { tokio::time::timeout(ANSWER_TIMEOUT, exchange).await };
        let answer = self.runtime.block_on(bounded);
        let (good, bytes) = answer.unwrap_or_else(|_| {
            let text = format!("the node at {} does not answer", self.socket.display());
            Err(Failure::new(Exit::NoNode, text).hint("see its log; it may be overloaded or stuck"))
        })?;
        if good {
            return serde_json::from_slice(&bytes).map_err(|error| self.not_ours(&error));
        }
        let refused: ErrorBody =
            serde_json::from_slice(&bytes).map_err(|error| self.not_ours(&error))?;
        Err(Failure::new(Exit::Failed, refused.error.message))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(bool, Bytes), Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let lost = |error: hyper::Error| {
            let text = format!("the node at {} hung up: {error}", self.socket.display());
            Failure::new(Exit::NoNode, text)
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // Its errors come back from the request, too.
        let driver = tokio::spawn(async { drop(connection.await) });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "basalt")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("paths are percent-encoded by the callers");
        let response = sender.send_request(request).await.map_err(lost)?;
        let good = response.status().is_success();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| {
            Failure::new(Exit::NoNode, format!("the node's answer broke off: {error}"))
        })?;
        driver.abort();
        Ok((good, body.to_bytes()))
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let text = format!("no node is running at {socket}");
                let hint = "start one with `basalt demo` or `basalt serve --config FILE`, or name \
                            its socket with --socket";
                Failure::new(Exit::NoNode, text).hint(hint)
            }
            io::ErrorKind::PermissionDenied => {
                let text = format!("no permission for the socket {socket}");
                let hint = "run as the node's user (root), or as a member of the socket's group";
                Failure::new(Exit::NoNode, text).hint(hint)
            }
            _ => Failure::new(Exit::NoNode, format!("cannot connect to {socket}: {error}")),
        }
    }

    fn not_ours(&self, error: &serde_json::Error) -> Failure {
        let text = format!("{} does not speak as a Basalt node: {error}", self.socket.display());
        Failure::new(Exit::NoNode, text)
            .hint("it may be of another version: use the program that runs the node")
    }
}

/// Percent-encodes a value for a query or path.
#[must_use]
pub fn encode(value: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes everything");
        }
    }
    encoded
}
