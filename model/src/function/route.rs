//! Where requests come in.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{names::check_name, validation::Violations};

/// The most routes of one function.
const MAX_ROUTES: usize = 16;
/// The most host names of one route.
const MAX_HOSTS: usize = 16;
/// The longest path prefix.
const MAX_PATH_BYTES: usize = 256;
/// The most regions that a list of a route has, be it by where requests enter or by where they go.
const MAX_REGIONS: usize = 16;

/// Where requests come in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A path prefix, matched on whole segments and kept, not stripped.
    pub path: String,
    /// Host names; every host if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Which regions take over where the own one has nobody; the nearest ones if none are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Failover>,
    /// How requests are spread over regions; what enters in a region that is not here goes the usual
    /// way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distribute: Vec<Distribute>,
}

impl Route {
    /// Every region that it names, some of them more than once.
    pub(super) fn regions(&self) -> impl Iterator<Item = &String> {
        let failover = self.failover.iter();
        let failover = failover.flat_map(|entry| std::iter::once(&entry.from).chain(&entry.to));
        let shares = self.distribute.iter();
        failover.chain(shares.flat_map(|entry| std::iter::once(&entry.from).chain(entry.to.keys())))
    }
}

/// Which regions take requests over that enter in one which has nobody for them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    /// The region that they enter in.
    pub from: String,
    /// The regions that take over, in this order; behind them the nearest of the others.
    pub to: Vec<String>,
}

/// How the requests that enter in one region are spread over regions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distribute {
    /// The region that they enter in.
    pub from: String,
    /// The percents of each region, 100 together. The share of one that has nobody for them goes to
    /// the others here; other regions come in once none of these has anybody.
    pub to: BTreeMap<String, u32>,
}

/// Checks all routes of a function whose copies are in these regions; in any if there are none.
pub(super) fn check(routes: &[Route], placed: &[String], violations: &mut Violations) {
    if routes.len() > MAX_ROUTES {
        let rule = format!("at most {MAX_ROUTES} entries");
        violations.add("spec.routes", routes.len(), rule);
    }
    for (i, route) in routes.iter().enumerate() {
        let path = &route.path;
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%' | b'\\');
        let segments = path.split('/').skip(1);
        let dots = segments.clone().any(|s| s == "." || s == "..");
        let empty = path != "/" && segments.clone().any(str::is_empty);
        if !path.starts_with('/')
            || path.len() > MAX_PATH_BYTES
            || !path.bytes().all(plain)
            || dots
            || empty
        {
            violations.add(
                &format!("spec.routes[{i}].path"),
                path,
                format!(
                    "a path prefix such as /shop: starting with '/', not ending with it, \
                     at most {MAX_PATH_BYTES} plain characters, without empty, '.' or '..' segments"
                ),
            );
        }
        if route.hosts.len() > MAX_HOSTS {
            let rule = format!("at most {MAX_HOSTS} entries");
            violations.add(&format!("spec.routes[{i}].hosts"), route.hosts.len(), rule);
        }
        for host in &route.hosts {
            if host.starts_with('*') || host.contains(':') || !host_pattern(host) {
                violations.add(
                    &format!("spec.routes[{i}].hosts"),
                    host,
                    "a host name in lower case, without a port",
                );
            }
        }
        let field = format!("spec.routes[{i}].failover");
        let entries = route.failover.iter().map(|entry| (entry.from.as_str(), entry.to.iter()));
        check_regions(&field, entries, placed, violations);
        for (j, Failover { from, to }) in route.failover.iter().enumerate().take(MAX_REGIONS) {
            let field = format!("{field}[{j}].to");
            for (k, region) in to.iter().enumerate().take(MAX_REGIONS) {
                if region == from {
                    violations.add(&field, region, "another region than that of `from`");
                }
                if to[..k].contains(region) {
                    violations.add(&field, region, "named once");
                }
            }
        }
        let field = format!("spec.routes[{i}].distribute");
        let entries = route.distribute.iter().map(|entry| (entry.from.as_str(), entry.to.keys()));
        check_regions(&field, entries, placed, violations);
        for (j, Distribute { to, .. }) in route.distribute.iter().enumerate().take(MAX_REGIONS) {
            let field = format!("{field}[{j}].to");
            for (region, percent) in to.iter().filter(|(_, percent)| !(1..=100).contains(*percent))
            {
                let field = format!("{field}.{region}");
                violations.add(&field, percent, "from 1 to 100 percent");
            }
            let sum: u64 = to.values().copied().map(u64::from).sum();
            if !to.is_empty() && sum != 100 {
                violations.add(&field, sum, "100 percent together");
            }
        }
    }
}

/// What holds for `failover` and `distribute` alike: the entries by the regions that requests enter
/// in, and those that each names.
fn check_regions<'a, T: ExactSizeIterator<Item = &'a String>>(
    field: &str,
    entries: impl ExactSizeIterator<Item = (&'a str, T)>,
    placed: &[String],
    violations: &mut Violations,
) {
    if entries.len() > MAX_REGIONS {
        violations.add(field, entries.len(), format!("at most {MAX_REGIONS} entries"));
    }
    let mut seen = Vec::new();
    for (i, (from, to)) in entries.enumerate().take(MAX_REGIONS) {
        let field = format!("{field}[{i}]");
        let of_from = format!("{field}.from");
        check_name(&of_from, from, violations);
        if seen.contains(&from) {
            violations.add(&of_from, from, "named once");
        }
        seen.push(from);
        let field = format!("{field}.to");
        if to.len() == 0 || to.len() > MAX_REGIONS {
            violations.add(&field, to.len(), format!("1 to {MAX_REGIONS} regions"));
        }
        for region in to.take(MAX_REGIONS) {
            check_name(&field, region, violations);
            // No copy may ever be there, so nothing could ever go there.
            if !placed.is_empty() && !placed.contains(region) {
                violations.add(&field, region, "one of spec.placement.regions");
            }
        }
    }
}

/// Whether it is a host name, with or without `*.` before it and a port behind it.
pub(super) fn host_pattern(text: &str) -> bool {
    let text = text.strip_prefix("*.").unwrap_or(text);
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    host.len() <= 253
        && host.split('.').all(label)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failover(entries: &[(&str, &[&str])]) -> Vec<Failover> {
        let entry = |(from, to): &(&str, &[&str])| Failover {
            from: (*from).to_owned(),
            to: to.iter().map(|region| (*region).to_owned()).collect(),
        };
        entries.iter().map(entry).collect()
    }

    fn distribute(entries: &[(&str, &[(&str, u32)])]) -> Vec<Distribute> {
        let entry = |(from, to): &(&str, &[(&str, u32)])| Distribute {
            from: (*from).to_owned(),
            to: to.iter().map(|(region, percent)| ((*region).to_owned(), *percent)).collect(),
        };
        entries.iter().map(entry).collect()
    }

    /// What is wrong with a route behind a good one, without the way to it.
    fn faults(
        failover: Vec<Failover>,
        distribute: Vec<Distribute>,
        placed: &[&str],
    ) -> Vec<String> {
        let good = Route { path: "/good".into(), ..Route::default() };
        let route = Route { path: "/x".into(), failover, distribute, ..Route::default() };
        let placed: Vec<String> = placed.iter().map(|region| (*region).to_owned()).collect();
        let mut violations = Violations::default();
        check(&[good, route], &placed, &mut violations);
        let faults = violations.finish().err().map(|invalid| invalid.violations);
        let told = faults.unwrap_or_default().into_iter().map(|fault| {
            let field = fault.field.strip_prefix("spec.routes[1].").unwrap();
            format!("{field} {}: {}", fault.value, fault.rule)
        });
        told.collect()
    }

    #[test]
    fn failover_goes_to_other_regions_each_once() {
        let faults = |entries: &[(&str, &[&str])]| faults(failover(entries), Vec::new(), &[]);
        assert_eq!(faults(&[("eu", &["us", "ap"]), ("us", &["eu"])]), [""; 0]);
        let own = ["failover[0].to eu: another region than that of `from`"];
        assert_eq!(faults(&[("eu", &["us", "eu"])]), own);
        assert_eq!(faults(&[("eu", &["us", "us"])]), ["failover[0].to us: named once"]);
        let twice = ["failover[1].from eu: named once"];
        assert_eq!(faults(&[("eu", &["us"]), ("eu", &["ap"])]), twice);
        assert_eq!(faults(&[("eu", &[])]), ["failover[0].to 0: 1 to 16 regions"]);
        let names = faults(&[("EU", &["u s"])]);
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[0].starts_with("failover[0].from EU: ") && names[1].contains("to u s: "));
        let all: Vec<String> = (0..=MAX_REGIONS).map(|i| format!("r{i}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(faults(&[("eu", &all[1..])]), [""; 0]);
        assert_eq!(faults(&[("eu", &all)]), ["failover[0].to 17: 1 to 16 regions"]);
        let many: Vec<(&str, &[&str])> = all.iter().map(|from| (*from, &["eu"][..])).collect();
        assert_eq!(faults(&many[1..]), [""; 0]);
        assert_eq!(faults(&many), ["failover 17: at most 16 entries"]);
    }

    #[test]
    fn what_is_distributed_is_all_of_it() {
        let faults =
            |entries: &[(&str, &[(&str, u32)])]| faults(Vec::new(), distribute(entries), &[]);
        assert_eq!(faults(&[("eu", &[("eu", 70), ("us", 30)]), ("us", &[("eu", 100)])]), [""; 0]);
        let sum = |sum: u32| [format!("distribute[0].to {sum}: 100 percent together")];
        assert_eq!(faults(&[("eu", &[("eu", 70), ("us", 20)])]), sum(90));
        assert_eq!(faults(&[("eu", &[("eu", 70), ("us", 40)])]), sum(110));
        let zero = ["distribute[0].to.us 0: from 1 to 100 percent"];
        assert_eq!(faults(&[("eu", &[("eu", 100), ("us", 0)])]), zero);
        let large = faults(&[("eu", &[("eu", u32::MAX), ("us", u32::MAX)])]);
        assert_eq!(large.len(), 3, "no sum overflows: {large:?}");
        assert_eq!(faults(&[("eu", &[])]), ["distribute[0].to 0: 1 to 16 regions"]);
        let twice = ["distribute[1].from eu: named once"];
        assert_eq!(faults(&[("eu", &[("us", 100)]), ("eu", &[("ap", 100)])]), twice);
        let names = faults(&[("EU", &[("u s", 100)])]);
        assert_eq!(names.len(), 2, "{names:?}");
        let all: Vec<String> = (0..=MAX_REGIONS).map(|i| format!("r{i}")).collect();
        let many: Vec<(&str, &[(&str, u32)])> =
            all.iter().map(|from| (from.as_str(), &[("eu", 100)][..])).collect();
        assert_eq!(faults(&many), ["distribute 17: at most 16 entries"]);
    }

    #[test]
    fn a_function_names_the_regions_of_its_placement_and_routes() {
        let mut function =
            crate::Function::new(crate::Metadata::named("f"), crate::Digest([0; 32]));
        function.spec.placement.regions = vec!["us".into()];
        function.spec.routes = vec![
            Route {
                path: "/a".into(),
                failover: failover(&[("eu", &["us", "ap"])]),
                ..Route::default()
            },
            Route {
                path: "/b".into(),
                distribute: distribute(&[("sa", &[("af", 100)])]),
                ..Route::default()
            },
        ];
        assert_eq!(function.spec.regions(), ["us", "eu", "ap", "sa", "af"]);
    }

    #[test]
    fn nothing_goes_where_no_copy_may_be() {
        let entries =
            || (failover(&[("us", &["eu", "ap"])]), distribute(&[("us", &[("ap", 100)])]));
        let told = |placed: &[&str]| faults(entries().0, entries().1, placed);
        assert_eq!(told(&[]), [""; 0], "everywhere");
        assert_eq!(told(&["eu", "ap"]), [""; 0], "requests may enter anywhere");
        assert_eq!(
            told(&["eu"]),
            [
                "failover[0].to ap: one of spec.placement.regions",
                "distribute[0].to ap: one of spec.placement.regions",
            ]
        );
    }

    #[test]
    fn a_route_without_them_is_the_document_that_it_was() {
        let text = r#"{"path":"/a","hosts":["a.example"]}"#;
        let old: Route = serde_json::from_str(text).unwrap();
        assert!(old.failover.is_empty() && old.distribute.is_empty());
        assert_eq!(serde_json::to_string(&old).unwrap(), text);
        let text = r#"{"path":"/a","failover":[{"from":"eu","to":["us","ap"]}],"distribute":[{"from":"us","to":{"eu":30,"us":70}}]}"#;
        let new: Route = serde_json::from_str(text).unwrap();
        assert_eq!(new.failover, failover(&[("eu", &["us", "ap"])]));
        assert_eq!(new.distribute, distribute(&[("us", &[("us", 70), ("eu", 30)])]));
        assert_eq!(serde_json::to_string(&new).unwrap(), text);
    }
}
