//! The campaign: every scenario, as often as its tier says.

use crate::cli::{Common, all_passed, skipped};
use crate::report::Report;
use crate::scenario::{Fault, Scenario};

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tier {
    /// What every landing has time for.
    Ci,
    /// What is shown before a release.
    Full,
}

/// All results.
#[derive(Debug, serde::Serialize)]
struct Campaign {
    tier: Tier,
    seed: u64,
    passed: bool,
    skipped: Vec<String>,
    scenarios: Vec<Report>,
}

impl Tier {
    /// Fault, cycles, records that must be acknowledged and messages that must be confirmed.
    fn scenarios(self) -> [(Fault, u64, u64, u64); 5] {
        match self {
            Tier::Ci => [
                (Fault::Kill, 25, 200_000, 20_000),
                (Fault::Power, 20, 20_000, 5_000),
                (Fault::Eio, 10, 5_000, 1_000),
                (Fault::Full, 1, 1_000, 500),
                (Fault::Postgres, 16, 40_000, 1_000),
            ],
            Tier::Full => [
                (Fault::Kill, 200, 2_000_000, 200_000),
                (Fault::Power, 200, 200_000, 50_000),
                (Fault::Eio, 200, 100_000, 20_000),
                (Fault::Full, 10, 10_000, 5_000),
                (Fault::Postgres, 200, 500_000, 12_500),
            ],
        }
    }
}

/// Runs a tier; whether all passed.
pub(crate) fn run(tier: Tier, common: &Common) -> anyhow::Result<bool> {
    let mut campaign =
        Campaign { tier, seed: common.seed, passed: false, skipped: Vec::new(), scenarios: Vec::new() };
    let mut may_pass = true;
    for (index, (fault, cycles, acked_min, confirmed_min)) in (0..).zip(tier.scenarios()) {
        let scenario = Scenario {
            fault,
            cycles,
            acked_min,
            confirmed_min,
            seed: common.seed.wrapping_add(index),
            size: common.size(),
            until: &[],
        };
        match scenario.run(&common.spec(), common.work()?)? {
            Some(report) => campaign.scenarios.push(report),
            None => {
                campaign.skipped.push(format!("{fault:?}").to_lowercase());
                may_pass &= skipped()?;
            }
        }
        campaign.passed = may_pass && all_passed(&campaign.scenarios);
        // After each, so that a campaign that is cut short still says what it found.
        common.write(&campaign)?;
    }
    Ok(campaign.passed)
}
