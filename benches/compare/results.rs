//! What was measured so far, and comparisons of it.

use crate::contenders::Contender;
use crate::stats::{median, Metric, Sample};

/// All samples, by workload and contender.
#[derive(Debug, Default)]
pub struct Results {
    rows: Vec<Row>,
}

/// The samples of one contender in one workload, one per repetition.
#[derive(Debug)]
pub struct Row {
    /// The workload's name.
    pub workload: String,
    /// The contender.
    pub contender: Contender,
    /// The samples; none for a repetition that failed.
    pub samples: Vec<Option<Sample>>,
}

impl Metric {
    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        matches!(self, Metric::Rate | Metric::Delivered)
    }

    /// The same as an arrow for the tables.
    pub fn arrow(self) -> &'static str {
        match self.more_is_better() {
            true => "↑",
            false => "↓",
        }
    }
}

impl Row {
    /// The median of a metric.
    pub fn median(&self, metric: Metric) -> Option<f64> {
        median(self.values(metric))
    }

    fn values(&self, metric: Metric) -> impl Iterator<Item = f64> + '_ {
        let samples = self.samples.iter().flatten();
        samples.filter_map(move |sample| sample.get(metric))
    }
}

impl Results {
    /// Adds the result of one repetition.
    pub fn add(&mut self, workload: &str, contender: Contender, sample: Option<Sample>) {
        let same = |row: &&mut Row| row.workload == workload && row.contender == contender;
        match self.rows.iter_mut().find(same) {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row {
                workload: workload.to_owned(),
                contender,
                samples: vec![sample],
            }),
        }
    }

    /// All contenders' samples of a workload.
    pub fn of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.workload == workload)
    }

    /// The median of a contender's metric.
    pub fn median(&self, workload: &str, contender: Contender, metric: Metric) -> Option<f64> {
        self.row(workload, contender)?.median(metric)
    }

    /// The worst value of a contender's metric.
    pub fn worst(&self, workload: &str, contender: Contender, metric: Metric) -> Option<f64> {
        let values = self.row(workload, contender)?.values(metric);
        match metric.more_is_better() {
            true => values.reduce(f64::min),
            false => values.reduce(f64::max),
        }
    }

    /// The peer with the best median, of those that took part.
    pub fn best(
        &self,
        workload: &str,
        metric: Metric,
        among: &[Contender],
    ) -> Option<(Contender, f64)> {
        let medians = among
            .iter()
            .filter_map(|peer| Some((*peer, self.median(workload, *peer, metric)?)));
        medians.reduce(
            |best, next| match (next.1 > best.1) == metric.more_is_better() {
                true => next,
                false => best,
            },
        )
    }

    /// The program's value divided by a peer's: the median over the repetitions in which both
    /// were measured.
    pub fn ratio(&self, workload: &str, metric: Metric, peer: Contender) -> Option<f64> {
        let ours = &self.row(workload, Contender::Ours)?.samples;
        let theirs = &self.row(workload, peer)?.samples;
        let ratios = ours.iter().zip(theirs).filter_map(|(ours, theirs)| {
            let (ours, theirs) = (ours.as_ref()?.get(metric)?, theirs.as_ref()?.get(metric)?);
            (theirs > 0.0).then_some(ours / theirs)
        });
        median(ratios)
    }

    fn row(&self, workload: &str, contender: Contender) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.workload == workload && row.contender == contender)
    }
}
