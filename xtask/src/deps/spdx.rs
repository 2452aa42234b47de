//! Licence expressions: SPDX 3, annex "SPDX license expressions", without `DocumentRef`.

/// A licence expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Licence {
    /// One licence, with its exception if it has one: `Apache-2.0 WITH LLVM-exception`.
    One(String),
    /// Any of these.
    Any(Vec<Licence>),
    /// All of these at once.
    All(Vec<Licence>),
}

/// The deepest nesting of parentheses: far beyond any real expression.
const MAX_DEPTH: usize = 16;

impl Licence {
    /// Reads an expression; a slash is the old way to write `OR`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let spaced = text.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut rest = &words[..];
        let licence = any(&mut rest, 0)?;
        match rest {
            [] => Ok(licence),
            [word, ..] => Err(format!("{word:?} is not expected")),
        }
    }

    /// Whether one may use what has this licence, if one may use what has an `allowed` one.
    pub(crate) fn is_allowed(&self, allowed: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::One(id) => allowed(id),
            Self::Any(parts) => parts.iter().any(|part| part.is_allowed(allowed)),
            Self::All(parts) => parts.iter().all(|part| part.is_allowed(allowed)),
        }
    }
}

fn any(rest: &mut &[&str], depth: usize) -> Result<Licence, String> {
    let mut parts = vec![all(rest, depth)?];
    while take(rest, "OR") {
        parts.push(all(rest, depth)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Licence::Any(parts) })
}

fn all(rest: &mut &[&str], depth: usize) -> Result<Licence, String> {
    let mut parts = vec![one(rest, depth)?];
    while take(rest, "AND") {
        parts.push(one(rest, depth)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Licence::All(parts) })
}

fn one(rest: &mut &[&str], depth: usize) -> Result<Licence, String> {
    if take(rest, "(") {
        if depth == MAX_DEPTH {
            return Err("too deep".to_owned());
        }
        let inner = any(rest, depth + 1)?;
        return if take(rest, ")") { Ok(inner) } else { Err("no closing parenthesis".to_owned()) };
    }
    let id = word(rest)?;
    if take(rest, "WITH") {
        return Ok(Licence::One(format!("{id} WITH {}", word(rest)?)));
    }
    Ok(Licence::One(id.to_owned()))
}

fn word<'a>(rest: &mut &[&'a str]) -> Result<&'a str, String> {
    match *rest {
        [word, tail @ ..] if !matches!(*word, "OR" | "AND" | "WITH" | "(" | ")") => {
            *rest = tail;
            Ok(word)
        }
        _ => Err("a licence is missing".to_owned()),
    }
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    match *rest {
        [first, tail @ ..] if *first == word => {
            *rest = tail;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str) -> bool {
        let ours = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"];
        Licence::parse(text).expect(text).is_allowed(&|id| ours.contains(&id))
    }

    #[test]
    fn expressions_mean_what_they_say() {
        for good in [
            "MIT",
            "GPL-2.0-only OR MIT",
            "Apache-2.0/MIT",
            "Apache-2.0 / GPL-2.0-only",
            "Apache-2.0 WITH LLVM-exception",
            "(MIT OR GPL-2.0-only) AND Apache-2.0",
            "GPL-2.0-only AND X OR MIT",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "GPL-2.0-only",
            "MIT AND GPL-2.0-only",
            "MIT WITH Foo-exception",
            "(MIT OR Apache-2.0) AND GPL-2.0-only",
            "GPL-2.0-only OR MIT AND X",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        let deep = "(".repeat(1_000);
        for bad in ["", "MIT OR", "OR MIT", "MIT Apache-2.0", "(MIT", "MIT)", "MIT WITH", &deep] {
            assert!(Licence::parse(bad).is_err(), "{bad}");
        }
    }
}
