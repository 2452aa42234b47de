//! Whether the cluster survives the loss of any one region, and which of them are drained.

use std::collections::BTreeMap;

use super::{Check, Verdict};

/// What there is of one region.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Region {
    /// Those that may vote.
    pub(super) nodes: usize,
    pub(super) voters: usize,
    pub(super) drained: bool,
}

/// Looks at the regions by name; nothing is said of a cluster in one region.
pub(super) fn check_regions(regions: &BTreeMap<String, Region>) -> Vec<Check> {
    let mut checks = Vec::new();
    let voters: usize = regions.values().map(|region| region.voters).sum();
    let places = regions.values().filter(|region| region.nodes > 0).count();
    // More than half must be left.
    let vital = regions.iter().find(|(_, region)| (voters - region.voters) * 2 <= voters);
    if regions.len() > 1 {
        let (state, detail, remedy) = match vital {
            None => (
                Verdict::Ok,
                "the loss of any one region leaves a quorum".to_owned(),
                String::new(),
            ),
            Some((name, region)) => {
                let detail = format!(
                    "{} of {voters} voters are in region {name:?}: without it there is no quorum",
                    region.voters
                );
                let remedy = if places <= 2 {
                    "With nodes that may vote in fewer than three regions one always has the \
                     majority: add such a node in another region, a small one is enough; the votes \
                     spread by themselves."
                } else {
                    "Votes spread over the regions by themselves, to nodes that have lived for a \
                     minute and are not drained, while all voters live: see that so many are in \
                     at least three regions."
                };
                (Verdict::Warn, detail, remedy.to_owned())
            }
        };
        checks.push(Check { check: "regions", node: None, state, detail, remedy });
    }
    for (name, _) in regions.iter().filter(|(_, region)| region.drained) {
        let detail = format!("region {name:?} is drained: its nodes get no work");
        let remedy = format!("If that is over: swarmer region resume {name}.");
        checks.push(Check { check: "drained", node: None, state: Verdict::Warn, detail, remedy });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(regions: &[(&str, usize, usize)]) -> Vec<(Verdict, String)> {
        let region = |(name, nodes, voters): &(&str, usize, usize)| {
            ((*name).to_owned(), Region { nodes: *nodes, voters: *voters, drained: false })
        };
        let checks = check_regions(&regions.iter().map(region).collect());
        checks.into_iter().map(|check| (check.state, check.detail + " " + &check.remedy)).collect()
    }

    #[test]
    fn a_region_without_which_there_is_no_quorum_is_told() {
        assert_eq!(told(&[("", 5, 3)]), []);
        let (state, text) = told(&[("eu", 2, 2), ("us", 2, 1)]).remove(0);
        assert_eq!(state, Verdict::Warn);
        assert!(text.contains("2 of 3 voters are in region \"eu\""), "{text}");
        assert!(text.contains("in another region"), "{text}");
        let (state, text) = told(&[("ap", 1, 0), ("eu", 3, 3), ("us", 2, 0)]).remove(0);
        assert_eq!(state, Verdict::Warn);
        assert!(text.contains("by themselves, to nodes that have lived"), "{text}");
        for good in
            [[("ap", 1, 1), ("eu", 1, 1), ("us", 1, 1)], [("ap", 2, 1), ("eu", 2, 2), ("us", 2, 2)]]
        {
            assert_eq!(told(&good)[0].0, Verdict::Ok);
        }
        // All nodes of the other one are labelled not to vote.
        assert!(told(&[("eu", 3, 3), ("us", 0, 0)])[0].1.contains("in another region"));
        // Half of them are no quorum.
        assert_eq!(told(&[("eu", 2, 2), ("us", 2, 2)])[0].0, Verdict::Warn);
    }

    #[test]
    fn a_drain_that_may_be_forgotten_is_told() {
        let region = Region { nodes: 1, voters: 1, drained: true };
        let checks = check_regions(&BTreeMap::from([("eu".to_owned(), region)]));
        assert_eq!((checks.len(), checks[0].state), (1, Verdict::Warn));
        assert!(checks[0].remedy.contains("swarmer region resume eu"));
    }
}
