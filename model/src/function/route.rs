//! Where requests come in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::validation::Violations;

/// The most routes of one function.
const MAX_ROUTES: usize = 16;
/// The most host names of one route.
const MAX_HOSTS: usize = 16;
/// The longest path prefix.
const MAX_PATH_BYTES: usize = 256;

/// Where requests come in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A path prefix, matched on whole segments and kept, not stripped.
    pub path: String,
    /// Host names; every host if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

/// Checks all routes of a function.
pub(super) fn check(routes: &[Route], violations: &mut Violations) {
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
