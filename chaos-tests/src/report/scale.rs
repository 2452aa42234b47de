//! From times and values to places on a drawing.

use std::fmt::Write as _;

use super::seconds;
use crate::run::Run;

/// The width of every drawing; all share the axis of time.
pub(super) const WIDTH: f64 = 1000.0;
/// Left of it stand names and numbers.
pub(super) const LEFT: f64 = 64.0;
const RIGHT: f64 = 8.0;

/// The axis of time.
pub(super) struct Time {
    end_s: f64,
}

impl Time {
    pub(super) fn of(run: &Run) -> Self {
        let last = run.history.iter().map(|operation| operation.completed_ns).max();
        let faults = run.faults.iter().map(|fault| fault.to_ns).max();
        let end = last.max(faults).unwrap_or_default();
        Self { end_s: seconds(end).max(1.0) }
    }

    /// Where a time stands.
    pub(super) fn x(&self, ns: u64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds(ns) / self.end_s).min(1.0)
    }

    /// How wide a span is; at least so wide that it is seen.
    pub(super) fn span(&self, from_ns: u64, to_ns: u64) -> f64 {
        (self.x(to_ns) - self.x(from_ns)).max(1.5)
    }

    pub(super) fn end_s(&self) -> f64 {
        self.end_s
    }

    /// Numbers below, a line for each.
    pub(super) fn axis(&self, height: f64) -> String {
        let steps = [1_u64, 2, 5, 10, 20, 30, 60, 120, 300, 600];
        let step = steps.into_iter().find(|s| self.end_s / (*s as f64) <= 14.0).unwrap_or(1_800);
        let mut svg = String::new();
        let mut at = 0;
        while at as f64 <= self.end_s {
            let x = self.x(at * 1_000_000_000);
            let _ = write!(
                svg,
                "<line class=axis x1={x:.1} x2={x:.1} y1=0 y2={height} />\
                 <text x={x:.1} y={:.0} text-anchor=middle>{at} s</text>",
                height + 14.0
            );
            at += step;
        }
        svg
    }

    /// Faults as bands behind a plot.
    pub(super) fn bands(&self, run: &Run, height: f64) -> String {
        let band = |fault: &crate::nemesis::Done| {
            let (x, width) = (self.x(fault.from_ns), self.span(fault.from_ns, fault.to_ns));
            format!("<rect class=band x={x:.1} width={width:.1} y=0 height={height} />")
        };
        run.faults.iter().map(band).collect()
    }
}

/// A drawing of this height, with room for the numbers of the axis.
pub(super) fn drawing(height: f64, label: &str, inside: &str) -> String {
    format!(
        "<svg viewBox=\"0 -6 {WIDTH} {}\" role=img aria-label=\"{label}\">{inside}</svg>",
        height + 26.0
    )
}
