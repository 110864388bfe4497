//! Devices that fail, clients that leave, are slow or talk nonsense.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use axum::http::Request;
use serde_json::json;
use sliderun::session::{Device, Session};
use sliderun::tensor::{Tensor, TensorView};
use sliderun_serve::batcher::queue::Limits;
use sliderun_serve::error::InferError;
use sliderun_serve::metrics::Metrics;
use sliderun_serve::model::axes::Padding;
use sliderun_serve::model::execute::{Execute, Fault};
use sliderun_serve::model::{Declined, Instance, Model, Policy};
use sliderun_serve::protocol::InferRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Http, masked, masked_request, serve, session, turned, turned_request};

/// A session that does something else first.
struct Before<F>(Session, F);

impl<F: FnMut(&Tensor) -> Result<(), Fault> + Send> Execute for Before<F> {
    fn run(&mut self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Tensor>, Fault> {
        let x = inputs.iter().find(|(name, _)| *name == "x").unwrap().1.to_tensor();
        (self.1)(&x)?;
        Execute::run(&mut self.0, inputs)
    }
}

fn before(session: &Session, f: impl FnMut(&Tensor) -> Result<(), Fault> + Send + 'static) -> Option<Box<dyn Execute>> {
    Some(Box::new(Before(session.clone(), f)))
}

fn start(plan: &Path, instances: impl FnOnce(&Session) -> Vec<Instance>, max_rows: usize, metrics: &Arc<Metrics>) -> Arc<Model> {
    let session = session(plan);
    let instances = instances(&session);
    let limits = Limits { max_rows, max_delay: Duration::ZERO, capacity: 100 };
    let policy = Policy { limits, padding: Padding::default() };
    Arc::new(Model::start("m", "1", session, instances, &policy, metrics.clone()).unwrap())
}

fn request(value: f32) -> InferRequest {
    let tensor = |v: f32| Tensor::from_slice(&[1, 2], &[v, 1.0]).unwrap();
    let inputs = vec![("mask".to_owned(), tensor(1.0)), ("x".to_owned(), tensor(value))];
    InferRequest { id: String::new(), inputs, outputs: Vec::new(), binary: true, timeout: None }
}

async fn infer(model: &Model, value: f32, timeout: Option<Duration>) -> Result<f32, InferError> {
    let start = Instant::now();
    match model.infer(request(value), start, timeout.map(|t| start + t)).await {
        Ok(response) => Ok(response.outputs[0].1.as_slice::<f32>().unwrap()[0]),
        Err(Declined::Failed(error)) => Err(error),
        Err(Declined::Closed(_)) => panic!("the model is closed"),
    }
}

fn broken() -> Fault {
    Fault::Device("an illegal memory access was encountered".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_takes_down_its_own_instances_alone() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 1.0);
    let metrics = Arc::new(Metrics::default());
    let runs = Arc::new(AtomicUsize::new(0));
    let instances = |session: &Session| {
        let counted = runs.clone();
        let failing = move |_: &Tensor| if counted.fetch_add(1, Ordering::SeqCst) < 3 { Ok(()) } else { Err(broken()) };
        let slow = |_: &Tensor| {
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        };
        vec![(Device::Cuda(0), before(session, failing)), (Device::Cuda(1), before(session, slow)), (Device::Cuda(2), None)]
    };
    let model = start(&plan, instances, 4, &metrics);
    let answers = (0..100).map(|i| {
        let model = model.clone();
        tokio::spawn(async move { (i, infer(&model, i as f32, None).await) })
    });
    for answer in answers.collect::<Vec<_>>() {
        let (i, answer) = answer.await.unwrap();
        assert_eq!(answer.unwrap(), i as f32 + 1.0);
    }
    assert_eq!(model.instances(), [(Device::Cuda(0), 0), (Device::Cuda(1), 1), (Device::Cuda(2), 0)]);
    assert!(model.is_ready());
    assert!(metrics.encode().contains("sliderun_device_failures_total{model=\"m\",device=\"cuda:0\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_devices_the_model_says_so_and_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 1.0);
    let instances = |session: &Session| vec![(Device::Cuda(0), before(session, |_| Err(broken())))];
    let model = start(&plan, instances, 4, &Arc::default());
    for _ in 0..2 {
        let error = infer(&model, 0.0, None).await.unwrap_err();
        assert!(matches!(&error, InferError::Unavailable(reason) if reason.contains("no instance left")), "{error}");
        assert!(!model.is_ready());
    }
}

/// A request that breaks every device that it meets gets two of them.
#[tokio::test(flavor = "multi_thread")]
async fn one_request_does_not_take_down_all_devices() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 1.0);
    let breaks = |x: &Tensor| if x.as_slice::<f32>().unwrap().contains(&13.0) { Err(broken()) } else { Ok(()) };
    let instances = |session: &Session| (0..3).map(|i| (Device::Cuda(i), before(session, breaks))).collect();
    let model = start(&plan, instances, 1, &Arc::default());
    assert!(matches!(infer(&model, 13.0, None).await, Err(InferError::Internal(_))));
    assert_eq!(model.instances().iter().map(|(_, n)| n).sum::<usize>(), 1);
    assert_eq!(infer(&model, 1.0, None).await.unwrap(), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_one_request_s_and_the_instance_lives() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 1.0);
    let panics = |x: &Tensor| if x.as_slice::<f32>().unwrap()[0] == 13.0 { panic!("a bug") } else { Ok(()) };
    let model = start(&plan, |session| vec![(Device::Cpu, before(session, panics))], 1, &Arc::default());
    assert!(matches!(infer(&model, 13.0, None).await, Err(InferError::Internal(reason)) if reason.contains("a bug")));
    assert_eq!(infer(&model, 1.0, None).await.unwrap(), 2.0);
}

/// What nobody waits for any more is not run: the client has gone, or the deadline has passed.
#[tokio::test(flavor = "multi_thread")]
async fn the_cancelled_and_the_late_are_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 1.0);
    let metrics = Arc::new(Metrics::default());
    let (gate, runs) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
    let instances = |session: &Session| {
        let (gate, runs) = (gate.clone(), runs.clone());
        let waits = move |x: &Tensor| {
            runs.fetch_add(1, Ordering::SeqCst);
            if x.as_slice::<f32>().unwrap()[0] == 1.0 {
                gate.wait();
                gate.wait();
            }
            Ok(())
        };
        vec![(Device::Cpu, before(session, waits))]
    };
    let model = start(&plan, instances, 1, &metrics);
    let first = tokio::spawn({
        let model = model.clone();
        async move { infer(&model, 1.0, None).await }
    });
    let meet = |gate: &Arc<Barrier>| {
        let gate = gate.clone();
        tokio::task::spawn_blocking(move || gate.wait())
    };
    meet(&gate).await.unwrap();
    // The first one runs. One client waits too short, one goes.
    let late = infer(&model, 2.0, Some(Duration::from_millis(20))).await;
    assert!(matches!(late, Err(InferError::Deadline)));
    let gone = tokio::time::timeout(Duration::from_millis(20), infer(&model, 3.0, None)).await;
    assert!(gone.is_err());
    assert_eq!(model.queued(), 2);
    meet(&gate).await.unwrap();
    assert_eq!(first.await.unwrap().unwrap(), 2.0);
    assert_eq!(infer(&model, 4.0, None).await.unwrap(), 5.0);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    let text = metrics.encode();
    // Both clients have gone by the time the instance looks.
    assert!(text.contains("sliderun_discarded_total{model=\"m\",reason=\"cancelled\"} 2"), "{text}");
}

/// Malformed requests: status and a reason, and the connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 1.0);
    let server = serve(&plan, "--max-request-bytes 20000 --max-run-bytes 1024").await;
    let client = Http::new(&server);
    let good = masked_request(&[1.0], &[1.0], 1);
    let with = |at: &str, value: serde_json::Value| {
        let mut body = good.clone();
        *body.pointer_mut(at).unwrap() = value;
        body.to_string()
    };
    let mut twice = good.clone();
    let input = twice["inputs"][0].clone();
    twice["inputs"].as_array_mut().unwrap().push(input);
    let unknown_output = json!({"inputs": good["inputs"], "outputs": [{"name": "z"}]}).to_string();
    let too_long = "x".repeat(20001);
    for (path, body, status, reason) in [
        ("/v2/models/m/infer", String::new(), 400, "EOF"),
        ("/v2/models/m/infer", "{\"inputs\":[]}".to_owned(), 400, "input 'x' is missing"),
        ("/v2/models/m/infer", "\u{0}\u{1}".to_owned(), 400, "expected value"),
        ("/v2/models/m/infer", with("/inputs/0/name", json!("y")), 400, "no input 'y'"),
        ("/v2/models/m/infer", with("/inputs/0/datatype", json!("FP64")), 400, "FP32 expected, FP64 given"),
        ("/v2/models/m/infer", with("/inputs/0/shape", json!([1])), 400, "expected, f32[1] given"),
        ("/v2/models/m/infer", with("/inputs/0/shape", json!([1, 2])), 400, "1 elements were given"),
        ("/v2/models/m/infer", with("/inputs/0/shape", json!([9223372036854775807u64, 9])), 400, "does not fit in memory"),
        ("/v2/models/m/infer", twice.to_string(), 400, "given twice"),
        ("/v2/models/m/infer", masked_request(&[0.0; 65], &[0.0; 65], 65).to_string(), 400, "outside 1..64"),
        ("/v2/models/m/infer", masked_request(&[0.0; 600], &[0.0; 600], 10).to_string(), 503, "over the limit of this session"),
        ("/v2/models/m/infer", unknown_output, 400, "no output 'z'"),
        ("/v2/models/m/infer", too_long, 413, "larger than 20000 bytes"),
        ("/v2/models/n/infer", good.to_string(), 404, "there is no model 'n'"),
        ("/v2/models/m/versions/2/infer", good.to_string(), 404, "no version '2'"),
        ("/v3", String::new(), 404, "begin with /v2"),
    ] {
        let answer = client.post(path, body.clone()).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.error());
        assert!(answer.error().contains(reason), "{body}: {}", answer.error());
    }
    let compressed = client.send(Request::post("/").header("content-encoding", "gzip"), "/v2/models/m/infer", "x").await.unwrap();
    assert_eq!(compressed.status, 501);
    assert_eq!(client.get("/v2/models/m/infer").await.status, 405);
    assert_eq!(client.infer("m", good).await.output("total"), [1.0]);
    server.stop().await.unwrap();
}

/// Who sends slowly or stops sending is cut off, and keeps nobody from being served.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 1.0);
    let server = serve(&plan, "--read-timeout 200ms").await;
    let mut slow = Vec::new();
    for begin in ["POST /v2/models/m/infer HTT", "POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"] {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let answer = Http::new(&server).infer("m", masked_request(&[2.0], &[1.0], 1)).await;
    assert_eq!(answer.output("total"), [2.0]);
    for mut stream in slow {
        let mut rest = String::new();
        // Ends: with 408 where a request could be recognised.
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
    }
    server.stop().await.unwrap();
}

/// Clients that hang up while others' requests run: their own are dropped, the others' are answered rightly.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hang_up_are_forgotten() {
    const LAYERS: usize = 10;
    let folder = tempfile::tempdir().unwrap();
    let plan = turned(&folder.path().join("m.slide"), LAYERS);
    let server = serve(&plan, "--max-batch 1 --max-delay 0ms --threads 1").await;
    let client = Http::new(&server);
    let keeps = |seed: usize| {
        let client = client.clone();
        let (request, expected) = turned_request(seed, 16, LAYERS);
        tokio::spawn(async move { (client.infer("m", request).await, expected) })
    };
    let mut kept: Vec<_> = (0..4).map(keeps).collect();
    for seed in 0..8 {
        let body = turned_request(seed, 16, LAYERS).0.to_string();
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        let head = format!("POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    kept.extend((10..14).map(keeps));
    for answer in kept {
        let (answer, expected) = answer.await.unwrap();
        assert_eq!(answer.output("y"), expected);
    }
    let text = String::from_utf8_lossy(&client.get("/metrics").await.body).into_owned();
    let cancelled = text.lines().find_map(|l| l.strip_prefix("sliderun_discarded_total{model=\"m\",reason=\"cancelled\"} "));
    assert!(cancelled.is_some_and(|n| n.parse::<usize>().unwrap() > 0), "{text}");
    server.stop().await.unwrap();
}
