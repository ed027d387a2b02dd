//! Axes: from values to a range of round numbers, its ticks and their labels.

/// What the numbers of an axis are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// As they are.
    Number,
    /// Whole numbers.
    Count,
    /// Shares, shown times 100.
    Percent,
    /// Seconds, shown in the unit that suits them.
    Seconds,
}

/// A place on an axis and what is written there.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// The value.
    pub at: f64,
    /// Its label.
    pub label: String,
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it shows, with the unit.
    pub title: String,
    /// Value at its beginning.
    pub low: f64,
    /// Value at its end, above `low`.
    pub high: f64,
    /// Whether it is logarithmic.
    pub is_log: bool,
    /// Ticks, ascending.
    pub ticks: Vec<Tick>,
}

/// A range this many times as wide as its smallest value is shown on a logarithmic axis.
const WIDE: f64 = 20.0;

/// Times that people know, in seconds, what they call them, and how soon they can be done without:
/// those of 2 first.
const TIMES: [(f64, &str, u8); 27] = [
    (1e-4, "0.1 ms", 0),
    (2e-4, "0.2 ms", 2),
    (5e-4, "0.5 ms", 1),
    (0.001, "1 ms", 0),
    (0.002, "2 ms", 2),
    (0.005, "5 ms", 1),
    (0.01, "10 ms", 0),
    (0.02, "20 ms", 2),
    (0.05, "50 ms", 1),
    (0.1, "100 ms", 0),
    (0.2, "200 ms", 2),
    (0.5, "500 ms", 1),
    (1.0, "1 s", 0),
    (2.0, "2 s", 2),
    (5.0, "5 s", 1),
    (10.0, "10 s", 0),
    (30.0, "30 s", 1),
    (60.0, "1 min", 0),
    (120.0, "2 min", 2),
    (300.0, "5 min", 1),
    (600.0, "10 min", 0),
    (1800.0, "30 min", 1),
    (3600.0, "1 h", 0),
    (7200.0, "2 h", 2),
    (18_000.0, "5 h", 1),
    (36_000.0, "10 h", 0),
    (360_000.0, "100 h", 0),
];

/// Ticks that a logarithmic axis of times has room for.
const MOST_TIMES: usize = 6;

impl Axis {
    /// From a round number below all values to one above, with about `ticks` ticks.
    pub fn linear(title: &str, unit: Unit, values: &[f64], ticks: usize) -> Axis {
        let (low, high) = range(values);
        Axis::spanning(title, unit, low, high, ticks, true)
    }

    /// From `low` to `high` exactly, with about `ticks` ticks.
    pub fn fixed(title: &str, unit: Unit, low: f64, high: f64, ticks: usize) -> Axis {
        Axis::spanning(title, unit, low, high, ticks, false)
    }

    /// Linear from zero, or logarithmic if the values ask for it.
    pub fn positive(title: &str, unit: Unit, values: &[f64], ticks: usize) -> Axis {
        let positive: Vec<f64> = values.iter().copied().filter(|v| *v > 0.0).collect();
        let (low, high) = range(&positive);
        if positive.is_empty() || high < WIDE * low {
            return Axis::spanning(title, unit, 0.0, high, ticks, true);
        }
        let (low, high) = (low / 1.25, high * 1.25);
        let mut axis = Axis {
            title: title.to_owned(),
            low,
            high,
            is_log: true,
            ticks: Vec::new(),
        };
        let inside = |at: f64| (low..=high).contains(&at);
        if unit == Unit::Seconds {
            let known = |rank: u8| {
                let known = TIMES
                    .iter()
                    .filter(move |(at, _, of)| inside(*at) && *of <= rank);
                known.map(|&(at, label, _)| tick(at, label))
            };
            let fitting = [2, 1]
                .into_iter()
                .find(|&rank| known(rank).count() <= MOST_TIMES);
            axis.ticks = known(fitting.unwrap_or(0)).collect();
        } else {
            let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
            let is_short = high < 300.0 * low;
            let steps: &[f64] = if is_short { &[1.0, 2.0, 5.0] } else { &[1.0] };
            for decade in decades {
                let power = 10_f64.powi(decade);
                let decimals = usize::try_from(-decade).unwrap_or(0);
                for at in steps
                    .iter()
                    .map(|step| step * power)
                    .filter(|at| inside(*at))
                {
                    axis.ticks.push(tick(at, &format!("{at:.decimals$}")));
                }
            }
        }
        axis
    }

    fn spanning(title: &str, unit: Unit, low: f64, high: f64, ticks: usize, round: bool) -> Axis {
        // In what the labels count: hundredths, milliseconds, ...
        let (factor, suffix) = match unit {
            Unit::Number | Unit::Count => (1.0, ""),
            Unit::Percent => (100.0, ", %"),
            Unit::Seconds if high <= 0.5 => (1000.0, ", ms"),
            Unit::Seconds if high <= 600.0 => (1.0, ", s"),
            Unit::Seconds if high <= 36_000.0 => (1.0 / 60.0, ", min"),
            Unit::Seconds => (1.0 / 3600.0, ", h"),
        };
        let mut span = (high - low) * factor;
        if span <= 0.0 {
            span = (low * factor).abs().max(1.0) / 10.0;
        }
        let mut step = round_step(span / ticks as f64);
        if unit == Unit::Count {
            step = step.max(1.0);
        }
        // A hair beyond a tick is that tick: sums of decimals are not exact.
        let slack = 1e-9;
        let (first, last) = match round {
            true => (
                (low * factor / step + slack).floor(),
                (high * factor / step - slack).ceil(),
            ),
            false => (
                (low * factor / step - slack).ceil(),
                (high * factor / step + slack).floor(),
            ),
        };
        let last = if round { last.max(first + 1.0) } else { last };
        let decimals = (-step.log10()).ceil().max(0.0) as usize;
        let ticks = (0..=(last - first) as usize).map(|i| {
            let at = (first + i as f64) * step;
            let label = format!("{at:.decimals$}");
            tick(at / factor, if label == "-0" { "0" } else { &label })
        });
        Axis {
            title: format!("{title}{suffix}"),
            low: if round { first * step / factor } else { low },
            high: if round { last * step / factor } else { high },
            is_log: false,
            ticks: ticks.collect(),
        }
    }

    /// Where `value` lies: 0 at the beginning, 1 at the end. What lies beyond is put there.
    pub fn position(&self, value: f64) -> f64 {
        let position = match self.is_log {
            false => (value - self.low) / (self.high - self.low),
            true => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        position.clamp(0.0, 1.0)
    }
}

fn tick(at: f64, label: &str) -> Tick {
    Tick {
        at,
        label: label.to_owned(),
    }
}

/// The smallest and the largest of the finite values; [0, 1] if there are none.
fn range(values: &[f64]) -> (f64, f64) {
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let (low, high) = (
        finite().fold(f64::INFINITY, f64::min),
        finite().fold(f64::NEG_INFINITY, f64::max),
    );
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let digits = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|d| d * power >= step * (1.0 - 1e-9));
    digits.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| &tick.label[..]).collect()
    }

    #[test]
    fn ticks_are_round() {
        let axis = Axis::linear("accuracy", Unit::Percent, &[0.703, 0.891], 5);
        assert_eq!(axis.title, "accuracy, %");
        assert_eq!(labels(&axis), ["70", "75", "80", "85", "90"]);
        assert!((axis.low - 0.7).abs() < 1e-12 && (axis.high - 0.9).abs() < 1e-12);
        let axis = Axis::linear("loss", Unit::Number, &[0.3, 0.1, f64::NAN], 4);
        assert_eq!(labels(&axis), ["0.10", "0.15", "0.20", "0.25", "0.30"]);
        let axis = Axis::fixed("epoch", Unit::Count, 1.0, 3.0, 6);
        assert_eq!(labels(&axis), ["1", "2", "3"]);
    }

    #[test]
    fn one_value_has_an_axis() {
        for value in [0.0, 0.5, -3.0, 1e9] {
            let axis = Axis::linear("loss", Unit::Number, &[value; 3], 4);
            assert!(axis.low <= value && value <= axis.high && axis.low < axis.high);
            assert!(axis.ticks.len() >= 2, "{axis:?}");
        }
        let none = Axis::linear("loss", Unit::Number, &[], 4);
        assert_eq!((none.low, none.high), (0.0, 1.0));
    }

    #[test]
    fn times_are_in_units_of_people() {
        let axis = Axis::positive("time", Unit::Seconds, &[0.02, 0.3], 4);
        assert_eq!((&axis.title[..], axis.is_log), ("time, ms", false));
        assert_eq!(labels(&axis), ["0", "100", "200", "300"]);
        let axis = Axis::positive("time", Unit::Seconds, &[0.02, 75.0], 4);
        assert!(axis.is_log);
        assert_eq!(labels(&axis), ["100 ms", "1 s", "10 s", "1 min"]);
        let narrower = Axis::positive("time", Unit::Seconds, &[0.02, 0.45], 4);
        let expected = ["20 ms", "50 ms", "100 ms", "200 ms", "500 ms"];
        assert_eq!(labels(&narrower), expected);
        let wider = Axis::positive("time", Unit::Seconds, &[0.002, 0.35], 4);
        assert_eq!(labels(&wider), ["5 ms", "10 ms", "50 ms", "100 ms"]);
        assert_eq!(axis.position(0.0), 0.0);
        assert_eq!(axis.position(f64::INFINITY), 1.0);
    }

    #[test]
    fn a_wide_range_is_logarithmic() {
        let axis = Axis::positive("loss", Unit::Number, &[0.05, 4.0], 4);
        assert_eq!(labels(&axis), ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"]);
        let middle = (axis.low * axis.high).sqrt();
        assert!((axis.position(middle) - 0.5).abs() < 1e-12);
    }
}
