//! HTTP and gRPC as clients speak them: metadata, health, every form of tensors, deadlines, tokens, sizes.

use std::time::Duration;

use axum::http::Request;
use axum::http::uri::PathAndQuery;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use serde_json::json;
use sliderun_serve::protocol::proto::{
    Empty, Flag, InferParameter, InferRequestedOutput, InferTensor, InferTensorContents, ModelInferRequest, ModelInferResponse,
    ModelMetadataResponse, ModelRequest, ParameterChoice, RepositoryIndexRequest, RepositoryIndexResponse,
    RepositoryModelRequest, ServerMetadataResponse,
};
use sliderun_serve::server::Server;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::common::{Http, masked, masked_request, serve, turned, turned_request};

/// Calls a method.
async fn call<Q, A>(server: &Server, method: &str, request: tonic::Request<Q>) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<tonic::body::Body>();
    let origin = format!("http://{}", server.grpc.unwrap()).parse().unwrap();
    let mut grpc = tonic::client::Grpc::with_origin(client, origin);
    grpc.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
    let path = PathAndQuery::from_maybe_shared(format!("/inference.GRPCInferenceService/{method}")).unwrap();
    grpc.unary(request, path, ProstCodec::<Q, A>::default()).await.map(tonic::Response::into_inner)
}

fn grpc_request(x: &[f32], mask: &[f32], rows: usize, raw: bool) -> ModelInferRequest {
    let tensor = |name: &str, data: &[f32]| InferTensor {
        name: name.into(),
        datatype: "FP32".into(),
        shape: vec![rows as i64, (data.len() / rows) as i64],
        contents: (!raw).then(|| InferTensorContents { fp32_contents: data.to_vec(), ..Default::default() }),
        ..Default::default()
    };
    let bytes = |data: &[f32]| data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>().into();
    ModelInferRequest {
        model_name: "m".into(),
        id: "seven".into(),
        inputs: vec![tensor("mask", mask), tensor("x", x)],
        raw_input_contents: if raw { vec![bytes(mask), bytes(x)] } else { Vec::new() },
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_has_metadata_health_and_all_forms_of_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 2.0);
    let server = serve(&plan, "").await;
    let client = Http::new(&server);
    for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m/versions/1/ready"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    assert_eq!(client.get("/v2").await.json()["extensions"], json!(["binary_tensor_data", "model_repository"]));
    let tensor = |name: &str, shape: &[i64]| json!({"name": name, "datatype": "FP32", "shape": shape});
    let metadata = json!({"name": "m", "versions": ["1"], "platform": "slidec_plan",
        "inputs": [tensor("x", &[-1, -1]), tensor("mask", &[-1, -1])], "outputs": [tensor("total", &[-1]), tensor("kept", &[-1, -1])]});
    assert_eq!(client.get("/v2/models/m").await.json(), metadata);

    let mut request = masked_request(&[1.0, 2.0, 3.0, 4.0], &[1.0, 1.0, 0.0, 1.0], 2);
    request["id"] = json!("seven");
    let answer = client.infer("m", request.clone()).await.json();
    let expected = json!({"model_name": "m", "model_version": "1", "id": "seven", "outputs": [
        {"name": "total", "datatype": "FP32", "shape": [2], "data": [6.0, 8.0]},
        {"name": "kept", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, 0.0, 4.0]}]});
    assert_eq!(answer, expected);

    // Binary both ways, one output.
    let bytes = |v: [f32; 2]| v.map(f32::to_le_bytes).concat();
    let input = |name: &str| json!({"name": name, "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}});
    let head = json!({"inputs": [input("x"), input("mask")], "outputs": [{"name": "kept", "parameters": {"binary_data": true}}]});
    let head = head.to_string();
    let body = [head.as_bytes(), &bytes([5.0, 6.0]), &bytes([1.0, 0.0])].concat();
    let request = Request::post("/").header("Inference-Header-Content-Length", head.len());
    let answer = client.send(request, "/v2/models/m/infer", body).await.unwrap();
    let length: usize = answer.headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let (json, binary) = answer.body.split_at(length);
    let json: serde_json::Value = serde_json::from_slice(json).unwrap();
    assert_eq!(json["outputs"].as_array().unwrap().len(), 1);
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 8);
    assert_eq!(binary, bytes([5.0, 0.0]));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_has_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 2.0);
    let server = serve(&plan, "").await;
    for method in ["ServerLive", "ServerReady"] {
        assert!(call::<_, Flag>(&server, method, tonic::Request::new(Empty {})).await.unwrap().value, "{method}");
    }
    let model = |name: &str| tonic::Request::new(ModelRequest { name: name.into(), version: String::new() });
    assert!(call::<_, Flag>(&server, "ModelReady", model("m")).await.unwrap().value);
    assert!(!call::<_, Flag>(&server, "ModelReady", model("n")).await.unwrap().value);
    let metadata: ServerMetadataResponse = call(&server, "ServerMetadata", tonic::Request::new(Empty {})).await.unwrap();
    assert_eq!(metadata.name, "sliderun");
    let metadata: ModelMetadataResponse = call(&server, "ModelMetadata", model("m")).await.unwrap();
    let inputs: Vec<_> = metadata.inputs.iter().map(|t| (t.name.as_str(), t.datatype.as_str(), t.shape.as_slice())).collect();
    assert_eq!(inputs, [("x", "FP32", &[-1, -1][..]), ("mask", "FP32", &[-1, -1])]);

    for raw in [false, true] {
        let mut request = grpc_request(&[1.0, 2.0, 3.0], &[1.0, 0.0, 1.0], 1, raw);
        let answer: ModelInferResponse = call(&server, "ModelInfer", tonic::Request::new(request.clone())).await.unwrap();
        let found: Vec<_> = answer.outputs.iter().map(|o| (o.name.as_str(), o.shape.as_slice())).collect();
        assert_eq!((answer.id.as_str(), found), ("seven", vec![("total", &[1][..]), ("kept", &[1, 3])]));
        assert_eq!(answer.raw_output_contents[0].as_ref(), 8f32.to_le_bytes());
        request.outputs = vec![InferRequestedOutput { name: "kept".into(), ..Default::default() }];
        let answer: ModelInferResponse = call(&server, "ModelInfer", tonic::Request::new(request)).await.unwrap();
        assert_eq!((answer.outputs.len(), answer.raw_output_contents[0].len()), (1, 12));
    }
    for (request, code, reason) in [
        (ModelInferRequest { model_name: "n".into(), ..Default::default() }, Code::NotFound, "no model 'n'"),
        (ModelInferRequest { model_name: "m".into(), ..Default::default() }, Code::InvalidArgument, "input 'x' is missing"),
    ] {
        let status = call::<_, ModelInferResponse>(&server, "ModelInfer", tonic::Request::new(request)).await.unwrap_err();
        assert!(status.code() == code && status.message().contains(reason), "{status}");
    }
    let status = call::<_, Empty>(&server, "ModelStreamInfer", tonic::Request::new(Empty {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_loaded_and_unloaded_by_both() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 2.0);
    let server = serve(&plan, "").await;
    let client = Http::new(&server);
    let ready = json!([{"name": "m", "version": "1", "state": "READY", "reason": ""}]);
    let gone = json!([{"name": "m", "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}]);
    let model = || tonic::Request::new(RepositoryModelRequest { model_name: "m".into(), ..Default::default() });
    assert_eq!(client.post("/v2/repository/index", "").await.json(), ready);
    assert_eq!(client.post("/v2/repository/models/m/unload", "{}").await.status, 200);
    assert_eq!(client.post("/v2/repository/index", "{}").await.json(), gone);
    assert_eq!(client.post("/v2/repository/index", "{\"ready\": true}").await.json(), json!([]));
    assert_eq!(client.infer("m", masked_request(&[1.0], &[1.0], 1)).await.status, 503);
    call::<_, Empty>(&server, "RepositoryModelLoad", model()).await.unwrap();
    let index: RepositoryIndexResponse =
        call(&server, "RepositoryIndex", tonic::Request::new(RepositoryIndexRequest::default())).await.unwrap();
    assert_eq!((index.models[0].name.as_str(), index.models[0].state.as_str()), ("m", "READY"));
    call::<_, Empty>(&server, "RepositoryModelUnload", model()).await.unwrap();
    assert_eq!(client.post("/v2/repository/models/m/load", "{}").await.status, 200);
    assert_eq!(client.infer("m", masked_request(&[1.0], &[1.0], 1)).await.output("total"), [2.0]);
    for (path, status) in [("/v2/repository/models/n/load", 404), ("/v2/repository/models/..%2Fm/load", 404)] {
        assert_eq!(client.post(path, "{}").await.status, status, "{path}");
    }
    server.stop().await.unwrap();

    let server = serve(&plan, "--no-control").await;
    assert_eq!(Http::new(&server).post("/v2/repository/models/m/unload", "{}").await.status, 501);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_are_kept_by_both() {
    const LAYERS: usize = 10;
    let folder = tempfile::tempdir().unwrap();
    let plan = turned(&folder.path().join("m.slide"), LAYERS);
    let server = serve(&plan, "--max-batch 1 --threads 1").await;
    let client = Http::new(&server);
    let busy: Vec<_> = (0..8)
        .map(|seed| {
            let client = client.clone();
            tokio::spawn(async move { client.infer("m", turned_request(seed, 32, LAYERS).0).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (mut request, _) = turned_request(9, 1, LAYERS);
    request["parameters"] = json!({"timeout": 1000});
    let answer = client.infer("m", request).await;
    assert_eq!(answer.status, 504, "{}", answer.error());

    let timeout = InferParameter { parameter_choice: Some(ParameterChoice::Int64(1000)) };
    let input = InferTensor { name: "x".into(), datatype: "FP32".into(), shape: vec![1, 512], ..Default::default() };
    let request = ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![input],
        raw_input_contents: vec![vec![0; 2048].into()],
        ..Default::default()
    };
    let by_parameter = ModelInferRequest { parameters: [("timeout".to_owned(), timeout)].into(), ..request.clone() };
    let mut by_header = tonic::Request::new(request);
    by_header.metadata_mut().insert("grpc-timeout", "1m".parse().unwrap());
    for request in [tonic::Request::new(by_parameter), by_header] {
        let status = call::<_, ModelInferResponse>(&server, "ModelInfer", request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    }
    for answer in busy {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_by_both() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 1.0);
    let server = serve(&plan, "--token s3cret").await;
    let client = Http::new(&server);
    for path in ["/v2/health/live", "/v2/health/ready"] {
        assert_eq!(client.get(path).await.status, 200);
    }
    let with = |header: &'static str| Request::get("/").header("authorization", header);
    for (request, status) in [
        (Request::get("/"), 401),
        (with("Bearer s3cre"), 401),
        (with("Bearer s3cret2"), 401),
        (with("Basic s3cret"), 401),
        (with("Bearer s3cret"), 200),
    ] {
        assert_eq!(client.send(request, "/v2/models/m", "").await.unwrap().status, status);
    }
    assert_eq!(client.get("/metrics").await.status, 401);
    let mut request = tonic::Request::new(Empty {});
    let status = call::<_, ServerMetadataResponse>(&server, "ServerMetadata", tonic::Request::new(Empty {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    request.metadata_mut().insert("authorization", "Bearer s3cret".parse().unwrap());
    call::<_, ServerMetadataResponse>(&server, "ServerMetadata", request).await.unwrap();
    assert!(call::<_, Flag>(&server, "ServerLive", tonic::Request::new(Empty {})).await.unwrap().value);
    server.stop().await.unwrap();
}

/// A certificate for localhost that it signs itself, and its key, made by openssl.
fn certificate(folder: &std::path::Path) -> Option<(std::path::PathBuf, std::path::PathBuf)> {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"]);
    let made = openssl.arg("-out").arg(&cert).arg("-keyout").arg(&key).output();
    made.is_ok_and(|output| output.status.success()).then_some((cert, key))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_served() {
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    let folder = tempfile::tempdir().unwrap();
    let Some((cert, key)) = certificate(folder.path()) else {
        println!("skipped: openssl, which makes the certificate, is not installed");
        return;
    };
    let plan = masked(&folder.path().join("m.slide"), 1.0);
    let server = serve(&plan, &format!("--tls-cert {} --tls-key {}", cert.display(), key.display())).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&cert).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(server.http).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("sliderun"), "{answer}");
    // Who speaks plainly is not answered.
    let mut plain = tokio::net::TcpStream::connect(server.http).await.unwrap();
    plain.write_all(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    server.stop().await.unwrap();
}
