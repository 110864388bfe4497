//! Plans that are replaced under load, and how the program ends.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::common::{Http, masked, masked_request, serve, turned, turned_request};

/// A plan that is replaced while requests run: each is answered by the old or the new one, none is lost, and in the end all by the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_replaced_without_dropping_a_request() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 1.0);
    let server = serve(&plan, "--max-batch 4 --watch 20ms").await;
    let client = Http::new(&server);
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (client, done) = (client.clone(), done.clone());
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while !done.load(Ordering::SeqCst) {
                    let answer = client.infer("m", masked_request(&[1.0, 2.0], &[1.0, 1.0], 1)).await;
                    assert_eq!(answer.status, 200, "{}", answer.error());
                    answers.push(answer.output("total")[0]);
                }
                answers
            })
        })
        .collect();
    for factor in [2.0, 3.0, 4.0] {
        masked(&plan, factor);
        // By the watch, or because a client says so.
        if factor == 3.0 {
            assert_eq!(client.post("/v2/repository/models/m/load", "").await.status, 200);
        }
        let mut tries = 0;
        while client.infer("m", masked_request(&[1.0], &[1.0], 1)).await.output("total") != [factor] {
            tries += 1;
            assert!(tries < 1000, "the plan was not replaced");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    done.store(true, Ordering::SeqCst);
    let mut count = 0;
    for client in clients {
        let answers = client.await.unwrap();
        assert!(answers.iter().all(|a| [3.0, 6.0, 9.0, 12.0].contains(a)));
        // Each client sees the plans in order.
        assert!(answers.is_sorted());
        count += answers.len();
    }
    assert!(count > 50, "{count} requests");
    server.stop().await.unwrap();
}

/// A plan that cannot be loaded does not take the old one's place.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_plan_is_refused_and_the_old_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 1.0);
    let server = serve(&plan, "").await;
    let client = Http::new(&server);
    let broken = folder.path().join("broken");
    std::fs::write(&broken, b"SLIDEPLN and nothing more").unwrap();
    std::fs::rename(&broken, &plan).unwrap();
    let answer = client.post("/v2/repository/models/m/load", "").await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("truncated or damaged"), "{}", answer.error());
    assert_eq!(client.infer("m", masked_request(&[1.0], &[1.0], 1)).await.output("total"), [1.0]);
    let index = client.post("/v2/repository/index", "").await.json();
    assert_eq!(index[0]["state"], "READY");
    assert!(index[0]["reason"].as_str().unwrap().contains("truncated or damaged"));
    server.stop().await.unwrap();
}

/// The program, on any free port.
struct Program {
    child: Child,
    address: std::net::SocketAddr,
}

impl Program {
    fn start(plan: &Path, options: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sliderun-serve"));
        command.arg(plan).args(["--http", "0", "--log", "json"]).args(options);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap().parse().unwrap();
        Program { child, address }
    }

    fn terminate(&self) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
    }

    /// The exit code, and the log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended where the test went well.
        let _ = self.child.kill();
    }
}

fn post(address: std::net::SocketAddr, body: &str) -> Result<(u16, serde_json::Value), std::io::Error> {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address)?;
    let length = body.len();
    write!(stream, "POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((status, serde_json::from_str(body).unwrap_or_default()))
}

/// SIGTERM under load: what was accepted is answered rightly, the exit code is 0, and every line of the log is JSON.
#[test]
fn sigterm_ends_with_accepted_requests_answered() {
    const LAYERS: usize = 10;
    let folder = tempfile::tempdir().unwrap();
    let plan = turned(&folder.path().join("m.slide"), LAYERS);
    let program = Program::start(&plan, &["--max-batch", "2", "--threads", "1"]);
    let address = program.address;
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..12)
        .map(|seed| {
            let answered = answered.clone();
            std::thread::spawn(move || {
                let (mut right, mut refused) = (0, 0);
                for i in 0..1000 {
                    let (request, expected) = turned_request(seed * 1000 + i, 1, LAYERS);
                    match post(address, &request.to_string()) {
                        Ok((200, answer)) => {
                            assert_eq!(answer["outputs"][0]["data"], json!(expected));
                            right += 1;
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok((status, answer)) => panic!("{status}: {answer}"),
                        // No connection any more, or one that was made but never read from.
                        Err(_) => {
                            refused += 1;
                            break;
                        }
                    }
                }
                (right, refused)
            })
        })
        .collect();
    while answered.load(Ordering::SeqCst) < 20 {
        assert!(!clients.iter().any(|c| c.is_finished()), "a client has ended early");
        std::thread::sleep(Duration::from_millis(5));
    }
    program.terminate();
    let (code, log) = program.end();
    let answers: Vec<(usize, usize)> = clients.into_iter().map(|c| c.join().unwrap()).collect();
    let (right, refused) = answers.iter().fold((0, 0), |(r, f), (a, b)| (r + a, f + b));
    assert!(right > 0 && refused == 12, "{right} right, {refused} refused");
    assert_eq!(code, Some(0), "{log}");
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|e| e["message"] == "all accepted requests are answered"), "{log}");
}

/// Requests that take longer than the drain timeout do not keep the program, and the exit code tells.
#[test]
fn the_drain_timeout_is_kept() {
    const LAYERS: usize = 10;
    let folder = tempfile::tempdir().unwrap();
    let plan = turned(&folder.path().join("m.slide"), LAYERS);
    let program = Program::start(&plan, &["--threads", "1", "--max-batch", "1", "--drain-timeout", "20ms"]);
    let address = program.address;
    let body = turned_request(1, 64, LAYERS).0.to_string();
    let clients: Vec<_> = (0..24)
        .map(|_| {
            let body = body.clone();
            std::thread::spawn(move || post(address, &body).is_ok())
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    program.terminate();
    let (code, log) = program.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("--drain-timeout"), "{log}");
    assert!(clients.into_iter().any(|c| !c.join().unwrap()));
}
