//! The page and what it asks for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::Error;
use crate::embedder::Embedder;
use crate::passages::Passages;

const PAGE: &str = include_str!("page.html");

/// Passages that an answer has, and the most that can be asked for.
const COUNT: usize = 5;
const MOST: usize = 50;

/// Longest query in bytes.
const LONGEST: usize = 4096;

struct Service {
    /// One run at a time uses all its threads; more at once would only share them.
    embedder: Mutex<Embedder>,
    passages: Passages,
}

/// Serves until it is interrupted. Says on standard output where.
///
/// # Errors
/// An address that cannot be listened at.
pub async fn serve(address: SocketAddr, embedder: Embedder, passages: Passages) -> Result<(), Error> {
    let service = Arc::new(Service { embedder: Mutex::new(embedder), passages });
    let router = Router::new().route("/", get(page)).route("/search", get(search)).with_state(service);
    let listener = TcpListener::bind(address).await.map_err(|e| format!("cannot listen on {address}: {e}"))?;
    println!("http://{}", listener.local_addr()?);
    let interrupted = async {
        // Without signals there is nothing to wait for: the service ends with its process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    Ok(axum::serve(listener, router).with_graceful_shutdown(interrupted).await?)
}

async fn page() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, policy)], PAGE).into_response()
}

#[derive(Deserialize)]
struct Asked {
    q: String,
    count: Option<usize>,
}

#[derive(Serialize)]
struct Answer {
    neighbours: Vec<Neighbour>,
    /// Passages that were compared.
    passages: usize,
    microseconds: Microseconds,
}

#[derive(Serialize)]
struct Neighbour {
    cosine: f32,
    file: String,
    text: String,
}

#[derive(Serialize)]
struct Microseconds {
    tokens: u64,
    plan: u64,
    search: u64,
}

async fn search(State(service): State<Arc<Service>>, Query(asked): Query<Asked>) -> Response {
    let text = asked.q.trim().to_owned();
    if text.is_empty() || text.len() > LONGEST {
        let message = format!("q must be a text of 1 to {LONGEST} bytes");
        return (StatusCode::BAD_REQUEST, Json(serde_json::json!({ "error": message }))).into_response();
    }
    let count = asked.count.unwrap_or(COUNT).min(MOST);
    let answer = tokio::task::spawn_blocking(move || service.answer(&text, count)).await;
    match answer.map_err(Error::from).and_then(|answer| answer) {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            let body = Json(serde_json::json!({ "error": error.to_string() }));
            (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
        }
    }
}

impl Service {
    fn answer(&self, text: &str, count: usize) -> Result<Answer, Error> {
        let (vectors, times) = self.embedder.blocking_lock().embed(&[text])?;
        let start = Instant::now();
        let found = self.passages.nearest(&vectors[0], count);
        let search = start.elapsed();
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let neighbour =
            |(p, cosine): (&crate::passages::Passage, f32)| Neighbour { cosine, file: p.file.clone(), text: p.text.clone() };
        Ok(Answer {
            neighbours: found.into_iter().map(neighbour).collect(),
            passages: self.passages.len(),
            microseconds: Microseconds { tokens: micros(times.tokens), plan: micros(times.plan), search: micros(search) },
        })
    }
}
