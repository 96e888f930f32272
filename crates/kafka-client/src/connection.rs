//! One connection to one broker: requests are pipelined, answers come in the order of the requests.
//!
//! ```text
//!   call --> queue (bounded) --> write --> socket --> broker
//!                                  |                    |
//!                             in flight <-- read <-- socket
//! ```
//! One task both writes and reads. Whatever ends it fails every call in flight.
//!
//! **Invariants.** An answer belongs to the oldest request in flight, or the connection is given up. A call that
//! times out gives the connection up too, because its answer would still come. An answer larger than
//! [`FRAME_BYTES_MAX`] is refused before memory is taken for it.
//!
//! Deliberately absent: TLS, SASL, reconnecting (the cluster's job).

mod frames;
mod io;

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ferrymq_kafka_codec::messages::{ApiVersionsRequest, ApiVersionsResponse};
use ferrymq_kafka_codec::{ApiKey, Decoder, ErrorCode, Frame, Message, Request, ResponseHeader, StrBytes};
use ferrymq_runtime::{TaskKind, Tasks};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::ClientError;
use crate::versions::Versions;

pub use frames::{FRAME_BYTES_MAX, FrameReader};

/// Requests queued behind the one being written.
const QUEUE_REQUESTS: usize = 64;

/// A request on its way to the socket; without `reply`, no answer is expected.
struct Outgoing {
    frame: Frame,
    reply: Option<Pending>,
}

/// A request that waits for its answer.
struct Pending {
    correlation_id: i32,
    reply: oneshot::Sender<Bytes>,
}

/// A handle to a connection; cheap to clone. The socket closes when the last handle is gone.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    address: String,
    client_id: StrBytes,
    patience: Duration,
    versions: Versions,
    next_id: AtomicI32,
    queue: mpsc::Sender<Outgoing>,
    /// Why the task ended, once it has.
    ended: Arc<Mutex<Option<String>>>,
    tasks: Tasks,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// An answer that is awaited.
pub struct Answer<R: Request> {
    connection: Connection,
    version: i16,
    reply: oneshot::Receiver<Bytes>,
    request: std::marker::PhantomData<fn() -> R>,
}

impl Connection {
    /// Connects to `address` (`host:port`) and learns what the broker speaks.
    ///
    /// # Errors
    /// If there is no connection, or no Kafka broker at its other end, within `patience`.
    pub async fn open(
        address: &str,
        client_id: &str,
        patience: Duration,
        tasks: &Tasks,
    ) -> Result<Connection, ClientError> {
        let failed = |source: std::io::Error| ClientError::Connect {
            address: address.to_owned(),
            source: Arc::new(source),
        };
        let stream = match timeout(patience, TcpStream::connect(address)).await {
            Ok(stream) => stream.map_err(failed)?,
            Err(_) => return Err(failed(std::io::ErrorKind::TimedOut.into())),
        };
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, queue) = mpsc::channel(QUEUE_REQUESTS);
        let tasks = tasks.child();
        let ended = Arc::new(Mutex::new(None));
        let (stopping, end) = (tasks.stopping(), ended.clone());
        tasks.spawn(TaskKind::Connection, "kafka-client-connection", async move {
            let reason = io::run(stream, queue, stopping).await;
            *end.lock() = Some(reason);
        });
        let inner = Inner {
            address: address.to_owned(),
            client_id: StrBytes::from(client_id.to_owned()),
            patience,
            versions: Versions::default(),
            next_id: AtomicI32::new(0),
            queue: sender,
            ended,
            tasks,
        };
        Connection { inner: Arc::new(inner) }.negotiated().await
    }

    /// Asks what the broker speaks; a broker that does not know our version of the question says so in
    /// version 0 (KIP-511).
    async fn negotiated(self) -> Result<Connection, ClientError> {
        let request = ApiVersionsRequest {
            client_software_name: StrBytes::from_static("ferrymq"),
            client_software_version: StrBytes::from_static(env!("CARGO_PKG_VERSION")),
        };
        let answer = self.start_as(&request, 3).await?;
        let bytes = answer.bytes().await?;
        let unsupported = bytes.get(4..6) == Some(&ErrorCode::UnsupportedVersion.code().to_be_bytes());
        let response = if unsupported {
            self.start_as(&ApiVersionsRequest::default(), 0).await?.wait().await?
        } else {
            decode::<ApiVersionsResponse>(&bytes, 3)?
        };
        ClientError::check(|| format!("ask {} for its versions", self.address()), response.error_code, None)?;
        let mut inner = Arc::into_inner(self.inner).ok_or_else(|| {
            ClientError::Invalid("a connection was shared before it was negotiated".to_owned())
        })?;
        inner.versions = Versions::new(&response);
        Ok(Connection { inner: Arc::new(inner) })
    }

    /// Where to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.queue.is_closed()
    }

    /// Gives the connection up; every call in flight fails.
    pub fn close(&self) {
        self.inner.tasks.stop();
    }

    /// The version of an API spoken here.
    ///
    /// # Errors
    /// [`ClientError::Unsupported`].
    pub fn version(&self, api: ApiKey) -> Result<i16, ClientError> {
        let unsupported = || ClientError::Unsupported { address: self.address().to_owned(), api };
        self.inner.versions.of(api).ok_or_else(unsupported)
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// Anything but the broker's own error codes, which are in the answer.
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        self.start(request).await?.wait().await
    }

    /// Sends a request; the answer is awaited separately, so that more can be sent meanwhile.
    ///
    /// # Errors
    /// If the connection has ended or no version is common.
    pub async fn start<R: Request>(&self, request: &R) -> Result<Answer<R>, ClientError> {
        self.start_as(request, self.version(R::API)?).await
    }

    async fn start_as<R: Request>(&self, request: &R, version: i16) -> Result<Answer<R>, ClientError> {
        let (reply, receiver) = oneshot::channel();
        self.enqueue(request, version, Some(reply)).await?;
        let request = std::marker::PhantomData;
        Ok(Answer { connection: self.clone(), version, reply: receiver, request })
    }

    /// Sends a request that no answer will come to: Produce with acks=0.
    ///
    /// # Errors
    /// If the connection has ended or no version is common.
    pub async fn tell<R: Request>(&self, request: &R) -> Result<(), ClientError> {
        self.enqueue(request, self.version(R::API)?, None).await
    }

    async fn enqueue<R: Request>(
        &self,
        request: &R,
        version: i16,
        reply: Option<oneshot::Sender<Bytes>>,
    ) -> Result<(), ClientError> {
        let correlation_id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::request(correlation_id, Some(&self.inner.client_id), version, request)?;
        let reply = reply.map(|reply| Pending { correlation_id, reply });
        self.inner.queue.send(Outgoing { frame, reply }).await.map_err(|_| self.closed())
    }

    fn closed(&self) -> ClientError {
        let reason = self.inner.ended.lock().clone().unwrap_or_else(|| "given up".to_owned());
        ClientError::Closed { address: self.address().to_owned(), reason }
    }
}

impl<R: Request> Answer<R> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// If the connection ends, nothing comes in time, or what comes is no answer.
    pub async fn wait(self) -> Result<R::Response, ClientError> {
        let patience = self.connection.inner.patience;
        self.wait_for(patience).await
    }

    /// As [`wait`](Self::wait), with a patience of its own.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub async fn wait_for(self, patience: Duration) -> Result<R::Response, ClientError> {
        let version = self.version;
        let bytes = self.bytes_for(patience).await?;
        decode::<R::Response>(&bytes, version)
    }

    async fn bytes(self) -> Result<Bytes, ClientError> {
        let patience = self.connection.inner.patience;
        self.bytes_for(patience).await
    }

    async fn bytes_for(self, patience: Duration) -> Result<Bytes, ClientError> {
        match timeout(patience, self.reply).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(_)) => Err(self.connection.closed()),
            Err(_) => {
                self.connection.close();
                let address = self.connection.address().to_owned();
                Err(ClientError::TimedOut { address, api: R::API, after: patience })
            }
        }
    }
}

/// Reads an answer. Bytes behind the last field are forgiven, as every client does.
fn decode<M: Message>(frame: &Bytes, version: i16) -> Result<M, ClientError> {
    let failed = |source| ClientError::Decode { api: M::API, source };
    let mut decoder = Decoder::new(frame);
    ResponseHeader::decode(&mut decoder, M::API, version).map_err(failed)?;
    M::decode(&mut decoder, version).map_err(failed)
}
