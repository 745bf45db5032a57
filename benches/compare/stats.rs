//! Medians, percentiles and the results of one run.

/// What is measured of one contender in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// CPU time per unit, in seconds.
    Cpu,
    /// Units per second.
    Rate,
    /// Median latency, in seconds.
    P50,
    /// The latency that one in a hundred exceeds, in seconds.
    P99,
    /// KiB for each WebSocket that was opened.
    Opened,
    /// KiB for each WebSocket that is idle after one message.
    Memory,
    /// The part of the bytes that arrived.
    Delivered,
    /// The largest cost divided by the smallest.
    Spread,
    /// The time from the start to listening, in seconds.
    Started,
    /// Resident memory before the first request, in KiB.
    Resident,
}

/// The results of one run, with the metrics that apply.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    values: Vec<(Metric, f64)>,
    /// The number of errors.
    pub errors: u64,
    /// The text of the first error.
    pub error: Option<String>,
}

impl Sample {
    /// A sample without values.
    pub fn with_errors(errors: u64, error: Option<String>) -> Sample {
        Sample {
            values: Vec::new(),
            errors,
            error,
        }
    }

    /// Adds a value.
    pub fn set(&mut self, metric: Metric, value: f64) {
        if value.is_finite() {
            self.values.push((metric, value));
        }
    }

    /// The value of a metric.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        let found = self.values.iter().find(|(name, _)| *name == metric);
        found.map(|(_, value)| *value)
    }
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// A percentile of sorted nanoseconds, in seconds.
pub fn percentile(sorted: &[u32], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted
        .get(at)
        .map_or(f64::NAN, |value| f64::from(*value) / 1e9)
}
