//! The server: `POST /charges` takes payments, `GET /figures` says how it went.

mod headers;
mod once;
mod problem;
mod processor;
mod reply;
mod stopwatch;

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, Method, Uri};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::once::Once;
use self::problem::Problem;
use self::processor::Processor;
use self::reply::Reply;
use crate::files::Files;
use crate::ledger::Ledger;
use crate::wire::{ChargeRequest, Figures, Recovered};

/// How long a stopping server waits for requests, and then for work nobody listens to any more.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a port that is taken is asked for again. A killed server may leave its own in use for
/// a moment.
const PORT_PATIENCE: Duration = Duration::from_secs(10);
const PORT_PAUSE: Duration = Duration::from_millis(20);

/// What a server is started with.
pub(crate) struct Setup {
    pub(crate) files: Files,
    /// Whether keys are kept in a log, where they outlive this process.
    pub(crate) log: bool,
    /// Zero: any that is free.
    pub(crate) port: u16,
    /// Whether anything stands between a repeated request and a second charge.
    pub(crate) protected: bool,
}

/// A running server.
pub(crate) struct Server {
    address: SocketAddr,
    shop: Arc<Shop>,
    stop: CancellationToken,
    listening: JoinHandle<io::Result<()>>,
}

/// What the handlers share.
struct Shop {
    processor: Arc<Processor>,
    /// None: unprotected.
    once: Option<Arc<Once>>,
    /// Work that goes on when its client hangs up.
    tasks: TaskTracker,
}

impl Server {
    /// Takes up the ledger and the log where they are, and listens on a port of this machine.
    pub(crate) async fn start(setup: &Setup) -> Result<Server, Box<dyn Error>> {
        let processor = Arc::new(Processor::new(Ledger::open(&setup.files.ledger())?));
        let tasks = TaskTracker::new();
        let once = match setup.protected {
            true => Some(Arc::new(Once::new(setup, processor.clone(), tasks.clone())?)),
            false => None,
        };
        let shop = Arc::new(Shop {
            processor,
            once,
            tasks,
        });

        let routes = Router::new()
            .route("/charges", post(charge))
            .route("/figures", get(figures))
            .with_state(shop.clone());
        let listener = listen(setup.port).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let serving = axum::serve(listener, routes)
            .with_graceful_shutdown(stop.clone().cancelled_owned())
            .into_future();
        Ok(Server {
            address,
            shop,
            stop,
            listening: tokio::spawn(serving),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the store found in its log, if it keeps one.
    pub(crate) fn recovered(&self) -> Option<Recovered> {
        self.shop.once.as_ref()?.recovered()
    }

    /// Takes no more requests, finishes the work at hand and stops.
    pub(crate) async fn stop(self) -> Result<(), Box<dyn Error>> {
        self.stop.cancel();
        match timeout(DRAIN, self.listening).await {
            Ok(ended) => ended??,
            Err(_) => return Err("connections are still open after the server was stopped".into()),
        }
        self.shop.tasks.close();
        match timeout(DRAIN, self.shop.tasks.wait()).await {
            Ok(()) => Ok(()),
            Err(_) => Err("charges are still running after the server was stopped".into()),
        }
    }
}

async fn listen(port: u16) -> io::Result<TcpListener> {
    let give_up = Instant::now() + PORT_PATIENCE;
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                sleep(PORT_PAUSE).await;
            }
            bound => return bound,
        }
    }
}

/// `POST /charges`. Everything that can be refused is refused before a key is claimed.
async fn charge(
    State(shop): State<Arc<Shop>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Reply, Problem> {
    let customer = headers::customer(&headers)?;
    let key = headers::idempotency_key(&headers)?;
    let body = body.map_err(|refused| Problem::unreadable(refused.status()))?;
    let request: ChargeRequest = serde_json::from_slice(&body).map_err(|_| Problem::not_a_charge())?;

    match &shop.once {
        Some(once) => {
            // The scope keeps one customer's keys from meeting another's.
            let key = onceonly::Key::new(customer, &key);
            let fingerprint = once::fingerprint(&method, &uri, &headers, &body);
            once.charge(key, fingerprint, request).await
        }
        None => shop.charge_unprotected(request).await,
    }
}

/// `GET /figures`.
async fn figures(State(shop): State<Arc<Shop>>) -> Result<Json<Figures>, Problem> {
    shop.once
        .as_ref()
        .map(|once| Json(once.figures()))
        .ok_or(Problem::no_figures())
}

impl Shop {
    /// What `Once::charge` does, without the once.
    async fn charge_unprotected(&self, request: ChargeRequest) -> Result<Reply, Problem> {
        let processor = self.processor.clone();
        let work = self.tasks.spawn(async move { processor.charge(&request).await });
        let receipt = work.await.map_err(|_| Problem::broken())??;
        Reply::created(&receipt)
    }
}
