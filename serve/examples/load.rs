//! The load test of `cargo xtask serve-bench`: starts the service on loopback and measures it from the same machine.
//!
//! First a number of clients that each wait for their answer before they ask again: throughput and latencies. Then requests at three times
//! that rate, whether or not the ones before are answered: how many are, and how long it takes to be refused.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use clap::Parser;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

#[derive(Parser)]
struct Arguments {
    /// The program sliderun-serve
    serve: PathBuf,
    /// The plan of an encoder whose inputs are i64[batch, sequence]
    plan: PathBuf,
    #[arg(long, default_value_t = 32)]
    clients: usize,
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    #[arg(long, default_value_t = 16)]
    max_batch: usize,
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The service, which ends with this.
struct Service(Child, String);

impl Service {
    fn start(arguments: &Arguments) -> Result<Service, Error> {
        let rows = arguments.max_batch.to_string();
        let mut command = Command::new(&arguments.serve);
        command.arg(format!("model={}", arguments.plan.display())).args(["--http", "0", "--max-batch", &rows, "--queue", "64"]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().ok_or("no output")?).read_line(&mut line)?;
        Ok(Service(child, line.trim().to_owned()))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What every request is: token ids in binary form.
#[derive(Clone)]
struct Requests {
    client: Client<HttpConnector, Body>,
    address: String,
    head: usize,
    body: Bytes,
}

impl Requests {
    async fn new(address: &str, tokens: usize) -> Result<Requests, Error> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
        let metadata = client.get(format!("{address}/v2/models/model").parse()?).await?.into_body().collect().await?.to_bytes();
        let metadata: serde_json::Value = serde_json::from_slice(&metadata)?;
        let names = metadata["inputs"].as_array().ok_or("no inputs")?.iter().filter_map(|i| i["name"].as_str());
        let (mut inputs, mut data) = (Vec::new(), Vec::new());
        for name in names {
            let parameters = serde_json::json!({"binary_data_size": tokens * 8});
            inputs.push(serde_json::json!({"name": name, "datatype": "INT64", "shape": [1, tokens], "parameters": parameters}));
            let value = |i: usize| match name {
                _ if name.contains("mask") => 1,
                _ if name.contains("input_ids") => 100 + i as i64 % 800,
                _ => 0,
            };
            data.extend((0..tokens).flat_map(|i| value(i).to_le_bytes()));
        }
        let head = serde_json::json!({"inputs": inputs, "parameters": {"binary_data_output": true}}).to_string();
        let body = [head.as_bytes(), &data].concat().into();
        Ok(Requests { client, address: address.to_owned(), head: head.len(), body })
    }

    /// Sends one; gives its status and how long it took.
    async fn send(&self) -> Result<(StatusCode, Duration), Error> {
        let request =
            Request::post(format!("{}/v2/models/model/infer", self.address)).header("inference-header-content-length", self.head);
        let start = Instant::now();
        let response = self.client.request(request.body(Body::from(self.body.clone()))?).await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok((status, start.elapsed()))
    }
}

/// A quantile in milliseconds.
fn quantile(times: &mut [Duration], q: f64) -> f64 {
    times.sort_unstable();
    let at = ((times.len() as f64 * q) as usize).min(times.len().saturating_sub(1));
    times.get(at).map_or(f64::NAN, |t| t.as_secs_f64() * 1e3)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let service = Service::start(&arguments)?;
    let requests = Requests::new(&service.1, arguments.tokens).await?;
    let time = Duration::from_secs(arguments.seconds);

    let start = Instant::now();
    let clients: Vec<_> = (0..arguments.clients)
        .map(|_| {
            let requests = requests.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while start.elapsed() < time {
                    let (status, took) = requests.send().await?;
                    if status != StatusCode::OK {
                        return Err(format!("answered with {status}").into());
                    }
                    times.push(took);
                }
                Ok::<_, Error>(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await??);
    }
    let peak = times.len() as f64 / start.elapsed().as_secs_f64();
    let (p50, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
    println!("{} clients: {peak:.1} requests/s, p50 {p50:.1} ms, p99 {p99:.1} ms", arguments.clients);

    let pause = Duration::from_secs_f64(1.0 / (3.0 * peak));
    let (start, mut sent) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let requests = requests.clone();
        sent.push(tokio::spawn(async move { requests.send().await }));
        tokio::time::sleep_until((start + pause * sent.len() as u32).into()).await;
    }
    let offered = sent.len() as f64 / start.elapsed().as_secs_f64();
    let (mut answered, mut refused, mut failed) = (Vec::new(), Vec::new(), 0);
    for request in sent {
        match request.await? {
            Ok((StatusCode::OK, took)) => answered.push(took),
            Ok((StatusCode::TOO_MANY_REQUESTS, took)) => refused.push(took),
            Ok(_) | Err(_) => failed += 1,
        }
    }
    let good = answered.len() as f64 / start.elapsed().as_secs_f64();
    println!(
        "{offered:.1} requests/s offered: {good:.1} answered/s ({:.0} % of the above), {failed} failed",
        good / peak * 100.0
    );
    println!("answered: p50 {:.1} ms, p99 {:.1} ms", quantile(&mut answered, 0.5), quantile(&mut answered, 0.99));
    println!("refused: {}, p50 {:.2} ms, p99 {:.2} ms", refused.len(), quantile(&mut refused, 0.5), quantile(&mut refused, 0.99));
    Ok(())
}
