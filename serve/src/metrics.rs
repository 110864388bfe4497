//! What is counted and measured, in the text form that Prometheus reads.
//!
//! Must not know: where the numbers come from.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the classes of times, in seconds: each twice the one before, from 0.25 ms to 16 s.
const SECONDS: [f64; 17] =
    [0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0, 8.0, 16.0];

/// Upper bounds of the classes of batch sizes, in rows.
const ROWS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfModel {
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    model: String,
    protocol: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Dropped {
    model: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfDevice {
    model: String,
    device: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Gpu {
    device: String,
}

#[derive(Clone)]
struct Classes(&'static [f64]);

impl MetricConstructor<Histogram> for Classes {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

type Histograms = Family<OfModel, Histogram, Classes>;

/// See the module documentation.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    latency: Histograms,
    queued: Histograms,
    ran: Histograms,
    rows: Histograms,
    discarded: Family<Dropped, Counter>,
    depth: Family<OfModel, Gauge>,
    instances: Family<OfDevice, Gauge>,
    failures: Family<OfDevice, Counter>,
    loads: Family<Dropped, Counter>,
    gpu_used: Family<Gpu, Gauge>,
    gpu_total: Family<Gpu, Gauge>,
    connections: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let histograms = |classes: &'static [f64]| Histograms::new_with_constructor(Classes(classes));
        let mut metrics = Metrics {
            registry: Registry::with_prefix("sliderun"),
            requests: Family::default(),
            latency: histograms(&SECONDS),
            queued: histograms(&SECONDS),
            ran: histograms(&SECONDS),
            rows: histograms(&ROWS),
            discarded: Family::default(),
            depth: Family::default(),
            instances: Family::default(),
            failures: Family::default(),
            loads: Family::default(),
            gpu_used: Family::default(),
            gpu_total: Family::default(),
            connections: Gauge::default(),
        };
        let m = &mut metrics;
        let r = &mut m.registry;
        r.register("requests", "Requests for inference that were answered", m.requests.clone());
        let seconds = [
            (
                "request_duration",
                "From the request's last byte to the answer, of requests that were answered with tensors",
                &m.latency,
            ),
            ("queue_duration", "From the request's last byte to the start of its batch", &m.queued),
            ("run_duration", "Time of a batch on the device", &m.ran),
        ];
        for (name, help, family) in seconds {
            r.register_with_unit(name, help, Unit::Seconds, family.clone());
        }
        r.register("batch_rows", "Rows of the batches that ran, without those that fill up a bucket", m.rows.clone());
        r.register("discarded", "Requests that were accepted and not run, by reason", m.discarded.clone());
        r.register("queue_depth", "Requests that wait", m.depth.clone());
        r.register("instances", "Instances that run batches", m.instances.clone());
        r.register("device_failures", "Instances taken down because their device failed", m.failures.clone());
        r.register("model_loads", "Plans loaded or not, by result", m.loads.clone());
        r.register_with_unit("gpu_memory_used", "Device memory in use, by all processes", Unit::Bytes, m.gpu_used.clone());
        r.register_with_unit("gpu_memory_total", "Device memory", Unit::Bytes, m.gpu_total.clone());
        r.register("connections", "Open connections", m.connections.clone());
        metrics
    }
}

fn of(model: &str) -> OfModel {
    OfModel { model: model.to_owned() }
}

impl Metrics {
    /// A request was answered: `ok`, or an error's kind.
    pub fn answered(&self, model: &str, protocol: &'static str, result: &'static str) {
        self.requests.get_or_create(&Answered { model: model.to_owned(), protocol, result }).inc();
    }

    /// A request was answered with tensors so long after it came.
    pub fn latency(&self, model: &str, time: Duration) {
        self.latency.get_or_create(&of(model)).observe(time.as_secs_f64());
    }

    /// A batch of so many rows ran for so long.
    pub fn batch(&self, model: &str, rows: usize, ran: Duration) {
        self.rows.get_or_create(&of(model)).observe(rows as f64);
        self.ran.get_or_create(&of(model)).observe(ran.as_secs_f64());
    }

    /// A request waited so long for its batch.
    pub fn queued(&self, model: &str, time: Duration) {
        self.queued.get_or_create(&of(model)).observe(time.as_secs_f64());
    }

    /// An accepted request was not run.
    pub fn discarded(&self, model: &str, reason: &'static str) {
        self.discarded.get_or_create(&Dropped { model: model.to_owned(), reason }).inc();
    }

    /// An instance was taken down.
    pub fn failed(&self, model: &str, device: &str) {
        self.failures.get_or_create(&OfDevice { model: model.to_owned(), device: device.to_owned() }).inc();
    }

    /// A plan was loaded, or could not be.
    pub fn loaded(&self, model: &str, ok: bool) {
        self.loads.get_or_create(&Dropped { model: model.to_owned(), reason: if ok { "ok" } else { "error" } }).inc();
    }

    /// How many requests wait.
    pub fn set_depth(&self, model: &str, depth: usize) {
        self.depth.get_or_create(&of(model)).set(depth as i64);
    }

    /// How many instances run on a device.
    pub fn set_instances(&self, model: &str, device: &str, count: usize) {
        let labels = OfDevice { model: model.to_owned(), device: device.to_owned() };
        self.instances.get_or_create(&labels).set(count as i64);
    }

    /// Memory of a GPU in bytes.
    pub fn set_gpu_memory(&self, device: &str, used: u64, total: u64) {
        let gpu = Gpu { device: device.to_owned() };
        self.gpu_used.get_or_create(&gpu).set(used.min(i64::MAX as u64) as i64);
        self.gpu_total.get_or_create(&gpu).set(total.min(i64::MAX as u64) as i64);
    }

    /// One more connection, until what it gives is dropped.
    pub fn connection(&self) -> Connection {
        self.connections.inc();
        Connection(self.connections.clone())
    }

    /// Everything as text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// An open connection.
pub struct Connection(Gauge);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_observed_is_in_the_text() {
        let metrics = Metrics::default();
        metrics.answered("m", "http", "ok");
        metrics.batch("m", 3, Duration::from_millis(5));
        metrics.set_depth("m", 7);
        let open = metrics.connection();
        let text = metrics.encode();
        for line in [
            "sliderun_requests_total{model=\"m\",protocol=\"http\",result=\"ok\"} 1",
            "sliderun_batch_rows_bucket{le=\"2.0\",model=\"m\"} 0",
            "sliderun_batch_rows_bucket{le=\"4.0\",model=\"m\"} 1",
            "sliderun_run_duration_seconds_sum{model=\"m\"} 0.005",
            "sliderun_queue_depth{model=\"m\"} 7",
            "sliderun_connections 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        drop(open);
        assert!(metrics.encode().contains("sliderun_connections 0"));
    }
}
