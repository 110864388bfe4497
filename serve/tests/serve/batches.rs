//! What runs together, and that nobody notices.

use serde_json::json;
use sliderun::tensor::Tensor;

use crate::common::{Http, masked, masked_request, serve, session, turned, turned_request};

/// Requests of different lengths share batches and are answered as when each is alone, bit by bit.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_unaffected_by_their_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let plan = masked(&folder.path().join("m.slide"), 0.5);
    let server = serve(&plan, "--max-batch 8 --max-delay 300ms --pad x=7.5 --pad mask=0 --bucket seq=4,16").await;
    let (client, alone) = (Http::new(&server), session(&plan));
    let request = |i: usize| {
        let (rows, seq) = (1 + i % 2, 1 + (i * 3) % 16);
        let x: Vec<f32> = (0..rows * seq).map(|j| (j * 7 + i) as f32 * 0.37 - 3.0).collect();
        let mask: Vec<f32> = (0..rows * seq).map(|j| f32::from(u8::from(!(j + i).is_multiple_of(3)))).collect();
        (rows, x, mask)
    };
    let answers = (0..24).map(|i| {
        let client = client.clone();
        tokio::spawn(async move {
            let (rows, x, mask) = request(i);
            client.infer("m", masked_request(&x, &mask, rows)).await
        })
    });
    for (i, answer) in answers.collect::<Vec<_>>().into_iter().enumerate() {
        let answer = answer.await.unwrap();
        let (rows, x, mask) = request(i);
        let tensor = |v: &[f32]| Tensor::from_slice(&[rows, v.len() / rows], v).unwrap();
        let (x, mask) = (tensor(&x), tensor(&mask));
        for (name, expected) in alone.run(&[("x", x.view()), ("mask", mask.view())]).unwrap() {
            assert_eq!(answer.output(&name), expected.as_slice::<f32>().unwrap(), "{i} {name}");
        }
    }
    let metrics = client.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let number = |line: &str| -> f64 {
        let found = text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("{line} in {text}"));
        found.trim().parse().unwrap()
    };
    assert_eq!(number("sliderun_batch_rows_sum{model=\"m\"}"), 36.0);
    // Two sizes of up to 8 rows: full batches, not one for each request.
    assert!(number("sliderun_batch_rows_count{model=\"m\"}") <= 8.0, "{text}");
    assert_eq!(number("sliderun_requests_total{model=\"m\",protocol=\"http\",result=\"ok\"}"), 24.0);
    server.stop().await.unwrap();
}

/// At three times what the server takes, each request is answered, rightly or with 429, and refusals come fast.
#[tokio::test(flavor = "multi_thread")]
async fn overload_is_refused_and_nothing_is_lost() {
    const LAYERS: usize = 6;
    let folder = tempfile::tempdir().unwrap();
    let plan = turned(&folder.path().join("m.slide"), LAYERS);
    let server = serve(&plan, "--max-batch 4 --queue 8 --max-delay 1ms --threads 1").await;
    let client = Http::new(&server);
    let clients = (0..36).map(|c| {
        let client = client.clone();
        tokio::spawn(async move {
            let (mut right, mut refused) = (0, 0);
            for i in 0..6 {
                let (request, expected) = turned_request(c * 100 + i, 1, LAYERS);
                let answer = client.infer("m", request).await;
                match answer.status.as_u16() {
                    200 => {
                        assert_eq!(answer.output("y"), expected);
                        right += 1;
                    }
                    429 => {
                        assert_eq!(answer.headers["retry-after"], "1");
                        assert!(answer.error().contains("8 requests waiting"), "{}", answer.error());
                        refused += 1;
                    }
                    other => panic!("{other}: {}", answer.error()),
                }
            }
            (right, refused)
        })
    });
    let (mut right, mut refused) = (0, 0);
    for client in clients.collect::<Vec<_>>() {
        let (r, f) = client.await.unwrap();
        (right, refused) = (right + r, refused + f);
    }
    assert_eq!(right + refused, 36 * 6);
    assert!(right >= 12 && refused > 0, "{right} right, {refused} refused");
    server.stop().await.unwrap();
}

/// A wrong row fails alone, though it ran with others.
#[tokio::test(flavor = "multi_thread")]
async fn one_request_s_bad_data_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let plan = crate::common::looked_up(&folder.path().join("m.slide"));
    let server = serve(&plan, "--max-batch 4 --max-delay 300ms").await;
    let client = Http::new(&server);
    let answers = [3, 99, 0, -1].map(|id: i64| {
        let client = client.clone();
        let body = json!({"inputs": [{"name": "ids", "datatype": "INT64", "shape": [1], "data": [id]}]});
        tokio::spawn(async move { client.infer("m", body).await })
    });
    let mut found = Vec::new();
    for answer in answers {
        let answer = answer.await.unwrap();
        found.push(if answer.status == 200 { format!("{:?}", answer.output("y")) } else { answer.status.to_string() });
    }
    // ONNX counts -1 from the end.
    assert_eq!(found, ["[6.0, 7.0]", "400 Bad Request", "[0.0, 1.0]", "[6.0, 7.0]"]);
    server.stop().await.unwrap();
}
