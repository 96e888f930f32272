//! A run in which little succeeded proves nothing.
//!
//! Deliberately absent: a judgement of how much is enough. The test says.

use crate::history::{Op, What};
use crate::report::{Expectations, Report, Rule};

pub(crate) fn check(ops: &[&Op], expected: &Expectations, report: &mut Report) {
    let done = || ops.iter().filter(|op| op.is_ok());
    let sends = done().filter(|op| matches!(op.what, What::Send { .. })).count();
    let records: usize = done()
        .map(|op| match &op.what {
            What::Poll { records, .. } => records.len(),
            _ => 0,
        })
        .sum();
    if sends < expected.sends_min {
        report.add(Rule::TooFew, format!("acknowledged sends: {sends} of {}", expected.sends_min));
    }
    if records < expected.records_min {
        report.add(Rule::TooFew, format!("records read: {records} of {}", expected.records_min));
    }
}
