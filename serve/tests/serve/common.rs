//! Small plans whose results are known, servers on loopback, and clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use clap::Parser;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value as Json, json};
use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::elementwise::Binary;
use sliderun::op::gemm::MatMul;
use sliderun::op::index::Gather;
use sliderun::op::reduce::{Reduce, ReduceKind};
use sliderun::op::{Op, TensorType};
use sliderun::plan::manifest::{Manifest, Output, Program, Provenance, Step, Storage, SymbolRange, Value, ValueId};
use sliderun::plan::{Plan, PlanWriter};
use sliderun::session::{Device, Session, SessionOptions};
use sliderun_serve::config::Config;
use sliderun_serve::server::Server;

/// A plan in the making.
struct Builder {
    writer: PlanWriter<'static>,
    program: Program,
}

impl Builder {
    fn new() -> Builder {
        Builder { writer: PlanWriter::new(), program: Program::default() }
    }

    fn value(&mut self, name: &str, dtype: DType, shape: &str, storage: Storage) -> ValueId {
        let dims: Vec<Dim> = shape.split_whitespace().map(|d| d.parse().unwrap()).collect();
        self.program.values.push(Value { name: name.into(), ty: TensorType::new(dtype, dims), storage, from_model: true });
        ValueId(self.program.values.len() as u32 - 1)
    }

    fn input(&mut self, name: &str, dtype: DType, shape: &str) -> ValueId {
        let id = self.value(name, dtype, shape, Storage::Input);
        self.program.inputs.push(id);
        id
    }

    fn constant(&mut self, name: &str, shape: &str, values: &[f32]) -> ValueId {
        let bytes: Vec<u8> = bytemuck::cast_slice(values).to_vec();
        let blob = self.writer.add_blob(bytes);
        self.value(name, DType::F32, shape, Storage::Constant(blob))
    }

    fn step(&mut self, name: &str, op: impl Into<Op>, inputs: &[ValueId], shape: &str) -> ValueId {
        let output = self.value(name, DType::F32, shape, Storage::Computed);
        let inputs = inputs.iter().copied().map(Some).collect();
        self.program.steps.push(Step {
            name: name.into(),
            op: op.into(),
            inputs,
            outputs: vec![output],
            origin: vec![name.into()],
        });
        output
    }

    fn output(&mut self, value: ValueId) {
        let name = self.program.values[value.0 as usize].name.clone();
        self.program.outputs.push(Output { name, value });
    }

    fn write(self, path: &Path) {
        let range = |name: &str, max| SymbolRange { name: name.into(), min: 1, max };
        let manifest = Manifest {
            provenance: Provenance { producer: "test".into(), ..Provenance::default() },
            symbols: vec![range("batch", 64), range("seq", 64)],
            program: self.program,
            blobs: Vec::new(),
            verdicts: Vec::new(),
            cuda: None,
        };
        // By rename, as the compiler does.
        self.writer.finish(manifest, path).unwrap();
    }
}

/// kept = x·mask and total = its sums over seq, times `factor`, for x and mask: f32[batch, seq].
pub fn masked(path: &Path, factor: f32) -> PathBuf {
    let mut b = Builder::new();
    let x = b.input("x", DType::F32, "batch seq");
    let mask = b.input("mask", DType::F32, "batch seq");
    let f = b.constant("factor", "1", &[factor]);
    let kept = b.step("kept", Binary::Mul, &[x, mask], "batch seq");
    let sum = b.step("sum", Reduce { kind: ReduceKind::Sum, axes: vec![1], keep_dims: false }, &[kept], "batch");
    let total = b.step("total", Binary::Mul, &[sum, f], "batch");
    b.output(total);
    b.output(kept);
    b.write(path);
    path.to_owned()
}

/// How wide [`turned`]'s rows are.
pub const WIDTH: usize = 512;

/// y = x with its elements moved along by as many places as there are `layers`: products with permutations, which are exact and take time.
pub fn turned(path: &Path, layers: usize) -> PathBuf {
    let mut b = Builder::new();
    let mut permutation = vec![0f32; WIDTH * WIDTH];
    (0..WIDTH).for_each(|i| permutation[i * WIDTH + (i + 1) % WIDTH] = 1.0);
    let w = b.constant("w", "512 512", &permutation);
    let mut y = b.input("x", DType::F32, "batch 512");
    for layer in 0..layers {
        let name = if layer + 1 == layers { "y".to_owned() } else { format!("y{layer}") };
        y = b.step(&name, MatMul::default(), &[y, w], "batch 512");
    }
    b.output(y);
    b.write(path);
    path.to_owned()
}

/// y = rows 0 to 3 of a table, by ids: i64[batch]. Other ids are refused while it runs.
pub fn looked_up(path: &Path) -> PathBuf {
    let mut b = Builder::new();
    let table = b.constant("table", "4 2", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let ids = b.input("ids", DType::I64, "batch");
    let y = b.step("y", Gather { axis: 0 }, &[table, ids], "batch 2");
    b.output(y);
    b.write(path);
    path.to_owned()
}

/// A session on a plan, to compare with.
pub fn session(path: &Path) -> Session {
    let options = SessionOptions::default().with_threads(1);
    Session::new(Arc::new(Plan::open(path).unwrap()), Device::Cpu, options).unwrap()
}

/// A server on any free ports of loopback.
pub async fn serve(plan: &Path, options: &str) -> Server {
    Server::start(config(plan, options)).await.unwrap()
}

/// A command line for such a server.
pub fn config(plan: &Path, options: &str) -> Config {
    let fixed = ["sliderun-serve", plan.to_str().unwrap(), "--http", "0", "--grpc", "0"];
    let unwatched = if options.contains("--watch") { &[][..] } else { &["--watch", "0s"] };
    Config::parse_from(fixed.into_iter().chain(unwatched.iter().copied()).chain(options.split_whitespace()))
}

/// A client that speaks HTTP/1.1 and keeps its connections.
#[derive(Clone)]
pub struct Http {
    client: Client<HttpConnector, Body>,
    base: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or(Json::Null)
    }

    /// The elements of an output that came as JSON.
    pub fn output(&self, name: &str) -> Vec<f32> {
        let json = self.json();
        let outputs = json["outputs"].as_array().unwrap_or_else(|| panic!("{} {json}", self.status));
        let output = outputs.iter().find(|o| o["name"] == name).unwrap();
        serde_json::from_value(output["data"].clone()).unwrap()
    }

    /// Why a request was refused.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

impl Http {
    pub fn new(server: &Server) -> Http {
        Http { client: Client::builder(TokioExecutor::new()).build_http(), base: format!("http://{}", server.http) }
    }

    pub async fn send(&self, request: axum::http::request::Builder, path: &str, body: impl Into<Body>) -> Result<Answer, String> {
        let request = request.uri(format!("{}{path}", self.base)).body(body.into()).unwrap();
        let response = self.client.request(request).await.map_err(|e| format!("{e:?}"))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok(Answer { status, headers, body })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get("/"), path, Body::empty()).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::post("/"), path, body).await.unwrap()
    }

    pub async fn infer(&self, model: &str, body: Json) -> Answer {
        self.post(&format!("/v2/models/{model}/infer"), body.to_string()).await
    }
}

/// A request for [`masked`].
pub fn masked_request(x: &[f32], mask: &[f32], rows: usize) -> Json {
    let input =
        |name: &str, data: &[f32]| json!({"name": name, "datatype": "FP32", "shape": [rows, data.len() / rows], "data": data});
    json!({"inputs": [input("x", x), input("mask", mask)]})
}

/// A request for [`turned`] of rows that are told apart by `seed`, and its answer.
pub fn turned_request(seed: usize, rows: usize, layers: usize) -> (Json, Vec<f32>) {
    let x: Vec<f32> = (0..rows * WIDTH).map(|i| ((i * 31 + seed * 17) % 251) as f32).collect();
    let turn = |row: &[f32]| (0..WIDTH).map(|i| row[(i + WIDTH * layers - layers) % WIDTH]).collect::<Vec<_>>();
    let y = x.chunks(WIDTH).flat_map(turn).collect();
    (json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, WIDTH], "data": x}]}), y)
}
