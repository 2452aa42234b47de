//! Where a function declares that it sends requests to.

use std::fmt;

/// Names in the mesh end so; whether the call is allowed there is the mesh's policy.
const INTERNAL: &str = ".internal";

/// A declared destination is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no destination: write `host`, `host:port`, `*.suffix` or `*`")]
pub struct InvalidDestination(pub String);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Any,
    Suffix { suffix: String, port: Option<u16> },
    Host { host: String, port: Option<u16> },
}

/// The destinations that a function may call; `*.internal` needs no declaration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outgoing(Vec<Rule>);

impl Outgoing {
    /// Nothing outside the mesh.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads a list of `host`, `host:port`, `*.suffix`, `*.suffix:port` or `*`.
    pub fn parse<S: AsRef<str>>(list: &[S]) -> Result<Self, InvalidDestination> {
        list.iter().map(|text| Rule::parse(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a request to this authority may leave the function.
    pub fn allows(&self, host: &str, port: u16) -> bool {
        let host = normal(host);
        is_internal(&host) || self.0.iter().any(|rule| rule.allows(&host, port))
    }
}

/// Whether the name is one of the mesh.
pub fn is_internal(host: &str) -> bool {
    host.len() > INTERNAL.len() && host.ends_with(INTERNAL)
}

/// Host names compare without case and without the root's dot.
fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

impl Rule {
    fn parse(text: &str) -> Result<Self, InvalidDestination> {
        let fail = || InvalidDestination(text.chars().take(255).collect());
        if text == "*" {
            return Ok(Self::Any);
        }
        let (host, port) = split_port(text).ok_or_else(fail)?;
        let (suffix, rest) = match host.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, host),
        };
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let name = !rest.is_empty()
            && !rest.starts_with('.')
            && !rest.contains("..")
            && rest.bytes().all(valid);
        let address = rest.starts_with('[')
            && rest.ends_with(']')
            && rest[1..rest.len() - 1].parse::<std::net::Ipv6Addr>().is_ok();
        match (name || (address && !suffix), suffix) {
            (false, _) => Err(fail()),
            (true, true) => Ok(Self::Suffix { suffix: format!(".{}", normal(rest)), port }),
            (true, false) => Ok(Self::Host { host: normal(rest), port }),
        }
    }

    fn allows(&self, host: &str, port: u16) -> bool {
        let same = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        match self {
            Self::Any => true,
            Self::Suffix { suffix, port } => host.ends_with(suffix.as_str()) && same(port),
            Self::Host { host: wanted, port } => host == wanted && same(port),
        }
    }
}

fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let bracket = text.rfind(']');
    match text.rfind(':') {
        Some(colon) if bracket.is_none_or(|bracket| bracket < colon) => {
            let port = text[colon + 1..].parse().ok().filter(|port| *port != 0)?;
            Some((&text[..colon], Some(port)))
        }
        _ => Some((text, None)),
    }
}

impl fmt::Display for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (at, rule) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let (name, port) = match rule {
                Rule::Any => ("*".to_owned(), &None),
                Rule::Suffix { suffix, port } => (format!("*{suffix}"), port),
                Rule::Host { host, port } => (host.clone(), port),
            };
            match port {
                Some(port) => write!(f, "{comma}{name}:{port}")?,
                None => write!(f, "{comma}{name}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_declared_is_allowed() {
        let none = Outgoing::none();
        assert!(!none.allows("example.com", 443));
        assert!(none.allows("other.internal", 80), "the mesh's own policy decides there");
        assert!(none.allows("Other.Default.INTERNAL.", 80));
        assert!(!none.allows(".internal", 80));
        assert!(!none.allows("evilinternal", 80));

        let some =
            Outgoing::parse(&["example.com", "*.svc.test", "[::1]:9000", "only:81"]).unwrap();
        for (host, port) in [
            ("example.com", 1),
            ("EXAMPLE.com.", 443),
            ("a.svc.test", 80),
            ("a.b.svc.test", 80),
            ("[::1]", 9000),
            ("only", 81),
        ] {
            assert!(some.allows(host, port), "{host}:{port}");
        }
        for (host, port) in [
            ("svc.test", 80),
            ("evilsvc.test", 80),
            ("sub.example.com", 443),
            ("example.com.evil", 443),
            ("[::1]", 9001),
            ("only", 80),
        ] {
            assert!(!some.allows(host, port), "{host}:{port}");
        }
        assert!(Outgoing::parse(&["*"]).unwrap().allows("anything", 1));
    }

    #[test]
    fn what_is_no_destination_is_refused() {
        for bad in
            ["", "*.", "http://a", "a:0", "a:99999", "a b", "a..b", ".a", "*.*.a", "a/b", "[::g]"]
        {
            assert!(Outgoing::parse(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn it_reads_as_it_was_written() {
        let text = ["example.com", "*.svc.test:8080", "*"];
        assert_eq!(Outgoing::parse(&text).unwrap().to_string(), text.join(", "));
        assert_eq!(Outgoing::none().to_string(), "nothing");
    }
}
