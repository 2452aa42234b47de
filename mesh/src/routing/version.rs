//! The version of a function by weight.

/// Picks a version: each gets its share of the weights. `random` is a uniformly drawn number;
/// the same number gives the same version as long as the weights stay. `None` if all weights are
/// zero.
pub fn pick_version(weights: &[(u32, u32)], random: u64) -> Option<u32> {
    let total: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if total == 0 {
        return None;
    }
    // The high half of the product is uniform in 0..total, without a division.
    let mut point = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    for (version, weight) in weights {
        match point.checked_sub(u64::from(*weight)) {
            Some(rest) => point = rest,
            None => return Some(*version),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_version_without_weight_is_never_picked() {
        assert_eq!(pick_version(&[], 7), None);
        assert_eq!(pick_version(&[(1, 0)], 7), None);
        for random in [0, 1, u64::MAX / 2, u64::MAX] {
            assert_eq!(pick_version(&[(1, 0), (2, 100), (3, 0)], random), Some(2));
        }
    }

    proptest! {
        #[test]
        fn each_version_gets_exactly_its_share(weights in prop::collection::vec(0u32..50, 1..6)) {
            let weights: Vec<(u32, u32)> = (1..).zip(weights).collect();
            let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
            prop_assume!(total > 0);
            let mut counts = vec![0u32; weights.len()];
            for slot in 0..total {
                // The middle of each of `total` equal parts of the range.
                let random = ((u128::from(slot) * 2 + 1) << 63) / u128::from(total);
                let version = pick_version(&weights, random as u64).unwrap();
                counts[version as usize - 1] += 1;
            }
            let expected: Vec<u32> = weights.iter().map(|(_, weight)| *weight).collect();
            prop_assert_eq!(counts, expected);
        }
    }
}
