//! What a server counts, and the Prometheus text format (version 0.0.4) of it.
//!
//! Must not know what is counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the latency histogram's buckets, in seconds.
const SECS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Upper bounds of the batch size histogram's buckets.
const IMAGES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// How often values of some size were seen.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    buckets: Vec<AtomicU64>, // one more than bounds
    sum_millionths: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_millionths: AtomicU64::new(0),
        }
    }

    /// Counts a value of no more than six decimals.
    pub fn see(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let millionths = (value * 1e6).round() as u64;
        self.sum_millionths.fetch_add(millionths, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, help, "histogram");
        let mut count = 0;
        let bounds = self.bounds.iter().map(f64::to_string);
        for (bound, bucket) in bounds.chain(["+Inf".to_owned()]).zip(&self.buckets) {
            count += bucket.load(Ordering::Relaxed);
            line(out, &format!("{name}_bucket{{le=\"{bound}\"}}"), count);
        }
        let sum = self.sum_millionths.load(Ordering::Relaxed) as f64 / 1e6;
        line(out, &format!("{name}_sum"), sum);
        line(out, &format!("{name}_count"), count);
    }
}

/// A number that goes up and down, or up only.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One more until what is returned is dropped.
    pub fn during(&self) -> impl Drop + use<'_> {
        struct End<'a>(&'a AtomicU64);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.add();
        End(&self.0)
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Seconds from a predict request's header to its answer.
    pub request_secs: Histogram,
    /// Images of the batches that ran.
    pub batch_images: Histogram,
    /// Images with a prediction.
    pub predicted: Count,
    /// Images that were refused: broken, too large, none.
    pub rejected: Count,
    /// Images on which the model failed.
    pub failed: Count,
    /// Requests that are being answered.
    pub in_flight: Count,
    /// Open connections.
    pub connections: Count,
    /// Connections that ended in an error: no HTTP, too slow, broken off.
    pub connection_errors: Count,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            requests: Mutex::default(),
            request_secs: Histogram::new(&SECS),
            batch_images: Histogram::new(&IMAGES),
            predicted: Count::default(),
            rejected: Count::default(),
            failed: Count::default(),
            in_flight: Count::default(),
            connections: Count::default(),
            connection_errors: Count::default(),
        }
    }
}

impl Metrics {
    /// Counts a request to `route` that was answered with `status` after `time`.
    pub fn answered(&self, route: &'static str, status: u16, time: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, status)).or_default() += 1;
        drop(requests);
        if route == "/predict" {
            self.request_secs.see(time.as_secs_f64());
        }
    }

    /// All of it as text; `queue` images wait, and `info` are labels of the server itself.
    pub fn text(&self, queue: usize, info: &[(&str, &str)]) -> String {
        let mut out = String::new();
        let text = &mut out;
        head(text, "headstart_info", "The server.", "gauge");
        let labels: Vec<String> = info
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        line(text, &format!("headstart_info{{{}}}", labels.join(",")), 1);
        let name = "headstart_requests_total";
        head(text, name, "Requests by route and HTTP status.", "counter");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((route, code), count) in requests.iter() {
            line(
                text,
                &format!("{name}{{route=\"{route}\",code=\"{code}\"}}"),
                count,
            );
        }
        drop(requests);
        let name = "headstart_images_total";
        head(text, name, "Images by what came of them.", "counter");
        for (outcome, count) in [
            ("predicted", &self.predicted),
            ("rejected", &self.rejected),
            ("failed", &self.failed),
        ] {
            line(
                text,
                &format!("{name}{{outcome=\"{outcome}\"}}"),
                count.get(),
            );
        }
        let name = "headstart_connection_errors_total";
        head(text, name, "Connections that ended in an error.", "counter");
        line(text, name, self.connection_errors.get());
        for (name, help, value) in [
            (
                "headstart_queue_images",
                "Images that wait for the model.",
                queue as u64,
            ),
            (
                "headstart_requests_in_flight",
                "Requests that are being answered.",
                self.in_flight.get(),
            ),
            (
                "headstart_connections",
                "Open connections.",
                self.connections.get(),
            ),
        ] {
            head(text, name, help, "gauge");
            line(text, name, value);
        }
        self.request_secs.write(
            text,
            "headstart_request_duration_seconds",
            "From a predict request's header to its answer.",
        );
        self.batch_images.write(
            text,
            "headstart_batch_images",
            "Images of the batches that ran.",
        );
        out
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{name} {value}");
}

/// A label's value as the format quotes it.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_include_their_bound() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [1.0, 1.5, 2.0, 7.25] {
            histogram.see(value);
        }
        let mut out = String::new();
        histogram.write(&mut out, "x", "An x.");
        assert_eq!(
            out,
            "# HELP x An x.\n# TYPE x histogram\nx_bucket{le=\"1\"} 1\nx_bucket{le=\"2\"} 3\n\
             x_bucket{le=\"+Inf\"} 4\nx_sum 11.75\nx_count 4\n"
        );
    }

    #[test]
    fn requests_are_counted_by_route_and_status() {
        let metrics = Metrics::default();
        for status in [200, 200, 429] {
            metrics.answered("/predict", status, Duration::from_millis(3));
        }
        metrics.answered("/healthz", 200, Duration::from_secs(9));
        let open = metrics.connections.during();
        let text = metrics.text(5, &[("run", "a\"b\\c\nd")]);
        for expected in [
            "headstart_info{run=\"a\\\"b\\\\c\\nd\"} 1\n",
            "headstart_requests_total{route=\"/predict\",code=\"200\"} 2\n",
            "headstart_requests_total{route=\"/predict\",code=\"429\"} 1\n",
            "headstart_queue_images 5\n",
            "headstart_connections 1\n",
            "headstart_request_duration_seconds_sum 0.009\n",
            "headstart_request_duration_seconds_count 3\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        drop(open);
        assert!(metrics.text(0, &[]).contains("headstart_connections 0\n"));
    }
}
