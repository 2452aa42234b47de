//! Names and labels, with the rules that Kubernetes and DNS made familiar.

use std::collections::BTreeMap;

use crate::validation::Violations;

/// Labels of a resource or a node.
pub type Labels = BTreeMap<String, String>;

/// The longest name: a DNS label (RFC 1035).
pub(crate) const MAX_NAME_BYTES: usize = 63;

/// Checks a name: a DNS label, 1 to 63 of `a-z 0-9 -`, starting with a letter or a digit and not
/// ending with a hyphen.
pub fn check_name(field: &str, value: &str, violations: &mut Violations) {
    let bytes = value.as_bytes();
    let inside = bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let edges = bytes.first() != Some(&b'-') && bytes.last() != Some(&b'-');
    if bytes.is_empty() || bytes.len() > MAX_NAME_BYTES || !inside || !edges {
        violations.add(
            field,
            value,
            "1 to 63 of a-z, 0-9 and '-', not starting or ending with '-'",
        );
    }
}

/// Checks a label's key: 1 to 63 of letters, digits and `-_./`, starting and ending with a letter
/// or a digit.
pub fn check_label_key(field: &str, key: &str, violations: &mut Violations) {
    if key.is_empty() || !label_text(key) {
        violations.add(
            field,
            key,
            "a label key is 1 to 63 of letters, digits and '-_./', with a letter or digit at both ends",
        );
    }
}

/// Checks a label's value: empty, or like a key.
pub fn check_label_value(field: &str, value: &str, violations: &mut Violations) {
    if !value.is_empty() && !label_text(value) {
        violations.add(
            field,
            value,
            "a label value is at most 63 of letters, digits and '-_./', with a letter or digit at both ends",
        );
    }
}

fn label_text(text: &str) -> bool {
    let inside = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME_BYTES
        && bytes.iter().all(inside)
        && edge(bytes.first())
        && edge(bytes.last())
}

/// The known word nearest to a mistyped one, if one is near enough to be meant: at most a third of
/// its letters differ (Levenshtein distance, with swapped neighbours as one difference).
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters that were added, left out or replaced, and neighbours that were swapped, each counted
/// once.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Row `i` has the distances of the first `i` letters of `a` to the beginnings of `b`.
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i];
        for j in 1..=b.len() {
            let replaced = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_is_good(name: &str) -> bool {
        let mut violations = Violations::default();
        check_name("metadata.name", name, &mut violations);
        violations.is_empty()
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "hello", "a-1", "0a", &"a".repeat(63)] {
            assert!(name_is_good(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"a".repeat(64)] {
            assert!(!name_is_good(bad), "{bad}");
        }
    }

    #[test]
    fn nearest_finds_the_typo_and_nothing_far_off() {
        let known = ["timeout", "memory", "concurrency"];
        assert_eq!(nearest("timout", known), Some("timeout"));
        assert_eq!(nearest("concurency", known), Some("concurrency"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(nearest("nmae", ["name", "namespace"]), Some("name"), "swapped letters");
        assert_eq!(nearest("", known), None);
    }
}
