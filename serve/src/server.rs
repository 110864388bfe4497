//! Sockets: listening, TLS, connections, and the end of all of them.
//!
//! Must not know: what requests are about.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::service::Service;
use crate::{grpc, http};

/// How often a silent HTTP/2 connection is asked whether its client is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long accepting pauses after an error of the system, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);

/// A server that runs.
pub struct Server {
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where gRPC is served.
    pub grpc: Option<SocketAddr>,
    /// The models.
    pub registry: Arc<Registry>,
    drain_timeout: Duration,
    stop: watch::Sender<bool>,
    accepting: Vec<JoinHandle<GracefulShutdown>>,
    watching: JoinHandle<()>,
}

impl Server {
    /// Loads the plans and begins to listen.
    ///
    /// # Errors
    /// What is wrong with the plans, the address, the certificates or the token.
    pub async fn start(config: Config) -> Result<Server, String> {
        let token = config.token()?;
        let tls = match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => Some(tls(cert, key)?),
            _ => None,
        };
        let bound = |port: u16| listen(config.address, port);
        let http_listener = bound(config.http).await?;
        let grpc_listener = match config.grpc {
            Some(port) => Some(bound(port).await?),
            None => None,
        };
        let address = |listener: &TcpListener| listener.local_addr().map_err(|e| e.to_string());
        let (http_address, grpc_address) = (address(&http_listener)?, grpc_listener.as_ref().map(address).transpose()?);

        let metrics = Arc::new(Metrics::default());
        let (opened, shared) = (config.clone(), metrics.clone());
        let opening = tokio::task::spawn_blocking(move || Registry::open(opened, shared));
        let registry = Arc::new(opening.await.map_err(|e| format!("loading has ended early: {e}"))??);
        let service = Arc::new(Service {
            registry: registry.clone(),
            token,
            max_request_bytes: config.max_request_bytes,
            read_timeout: config.read_timeout,
        });
        let (stop, stopped) = watch::channel(false);
        let front = |router: Router| {
            let places = Arc::new(Semaphore::new(config.max_connections));
            Arc::new(Front { router, tls: tls.clone(), metrics: metrics.clone(), read_timeout: config.read_timeout, places })
        };
        let mut accepting = vec![tokio::spawn(accept(front(http::router(service.clone())), http_listener, stopped.clone()))];
        if let Some(listener) = grpc_listener {
            accepting.push(tokio::spawn(accept(front(grpc::router(service)), listener, stopped)));
        }
        let watching = tokio::spawn(registry.clone().watch());
        tracing::info!(http = %http_address, grpc = ?grpc_address, tls = tls.is_some(), "listening");
        Ok(Server {
            http: http_address,
            grpc: grpc_address,
            registry,
            drain_timeout: config.drain_timeout,
            stop,
            accepting,
            watching,
        })
    }

    /// Takes no more connections, answers the requests that it has, and ends.
    ///
    /// # Errors
    /// Requests that are not answered within the drain timeout.
    pub async fn stop(self) -> Result<(), String> {
        self.registry.drain();
        self.watching.abort();
        // Nobody listens when all fronts have ended already.
        let _ = self.stop.send(true);
        let registry = self.registry;
        let close = |front: JoinHandle<GracefulShutdown>| {
            tokio::spawn(async move {
                front.await?.shutdown().await;
                Ok::<(), JoinError>(())
            })
        };
        // All ports at once.
        let closing: Vec<_> = self.accepting.into_iter().map(close).collect();
        let drain = async move {
            for front in closing {
                front.await.and_then(|closed| closed).map_err(|e| format!("accepting has ended early: {e}"))?;
            }
            let end = move || {
                registry.models().iter().for_each(|m| m.close());
                registry.models().iter().for_each(|m| m.join());
            };
            tokio::task::spawn_blocking(end).await.map_err(|e| e.to_string())
        };
        match tokio::time::timeout(self.drain_timeout, drain).await {
            Ok(ended) => ended,
            Err(_) => Err(format!("requests were not answered within {:?} (--drain-timeout)", self.drain_timeout)),
        }
    }
}

async fn listen(address: IpAddr, port: u16) -> Result<TcpListener, String> {
    let address = SocketAddr::new(address, port);
    TcpListener::bind(address).await.map_err(|e| format!("cannot listen on {address}: {e}"))
}

fn tls(cert: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let certificates = CertificateDer::pem_file_iter(cert)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|e| format!("{}: {e}", cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("{}: {e}", key.display()))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|e| format!("{}: {e}", cert.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What serves the connections of one port.
struct Front {
    router: Router,
    tls: Option<TlsAcceptor>,
    metrics: Arc<Metrics>,
    read_timeout: Duration,
    places: Arc<Semaphore>,
}

/// Accepts connections until told to stop; gives those that are open.
async fn accept(front: Arc<Front>, listener: TcpListener, mut stopped: watch::Receiver<bool>) -> GracefulShutdown {
    let open = GracefulShutdown::new();
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = front.places.clone().acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((place, listener.accept().await?.0))
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return open,
        };
        match accepted {
            Ok((place, stream)) => {
                let (front, watcher) = (front.clone(), open.watcher());
                tokio::spawn(async move {
                    let _counted = front.metrics.connection();
                    front.serve(stream, watcher).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Front {
    async fn serve(&self, stream: TcpStream, watcher: Watcher) {
        // Answers are written whole: waiting for more to send gains nothing.
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => self.converse(stream, watcher).await,
            Some(tls) => match tokio::time::timeout(self.read_timeout, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.converse(stream, watcher).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake has failed"),
                Err(_) => tracing::debug!("a TLS handshake has taken too long"),
            },
        }
    }

    async fn converse(
        &self,
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        watcher: Watcher,
    ) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.read_timeout);
        builder.http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE);
        let service = TowerToHyperService::new(self.router.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(error, "a connection has ended early");
        }
    }
}
