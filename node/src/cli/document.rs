//! Resources read from a file, with the place of every field in it.

use std::{collections::BTreeMap, fmt, io::Read as _};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::{Location, Spanned};
use swarmer_model::{Step, field_faults};

use crate::{
    codes,
    manifest::with_nearest,
    problem::{Outcome, Problem},
};

/// The largest file of resources.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// One resource of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// The file's name.
    file: String,
    tree: Located,
    pub(super) value: Value,
}

/// The resources of a YAML or JSON file, or of standard input if the name is `-`. A list of them
/// (`items`) counts as its resources.
pub(super) fn read(file: &str) -> Outcome<Vec<Document>> {
    let fail =
        |error: std::io::Error| Problem::new(codes::FILE, format!("cannot read {file}: {error}"));
    let mut bytes = Vec::new();
    let input: &mut dyn std::io::Read = if file == "-" {
        &mut std::io::stdin()
    } else {
        &mut std::fs::File::open(file).map_err(fail)?
    };
    input.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    let refuse = |why: String| Problem::new(codes::MANIFEST, format!("{file}: {why}"));
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(refuse(format!("has more than {MAX_FILE_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|error| refuse(error.to_string()))?;
    parse(file, &text)
}

fn parse(file: &str, text: &str) -> Outcome<Vec<Document>> {
    let refuse = |why: String| Problem::new(codes::MANIFEST, format!("{file}: {why}"));
    // As YAML 1.2 has it: a name such as `y` or `no` is a name.
    let options = serde_saphyr::options! { strict_booleans: true };
    let trees: Vec<Located> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| refuse(with_nearest(&without_advice(&error.to_string()))))?;
    let mut documents = Vec::new();
    for tree in trees {
        match tree.tree {
            Tree::Scalar(Value::Null) => {}
            Tree::Object(mut fields)
                if fields.contains_key("items") && !fields.contains_key("kind") =>
            {
                if let Some((_, Located { tree: Tree::List(items), .. })) = fields.remove("items") {
                    documents.extend(items);
                }
            }
            other => documents.push(Located { tree: other, place: tree.place }),
        }
    }
    if documents.is_empty() {
        return Err(refuse("there is no resource in it".to_owned()));
    }
    Ok(documents.into_iter().map(|tree| Document::new(file, tree)).collect())
}

/// What the library says of a fault, without its advice to whoever programs with it.
fn without_advice(text: &str) -> String {
    const FROM: &str = ", set ";
    const TO: &str = " in Options if acceptable";
    let mut text = text.strip_prefix("error: ").unwrap_or(text).to_owned();
    while let Some(from) = text.find(FROM)
        && let Some(length) = text[from..].find(TO)
    {
        text.replace_range(from..from + length + TO.len(), "");
    }
    text
}

impl Document {
    fn new(file: &str, mut tree: Located) -> Self {
        // What the API adds to its answers: one may be edited and sent back.
        if let Tree::Object(fields) = &mut tree.tree {
            fields.remove("live");
        }
        Self { file: file.to_owned(), value: tree.value(), tree }
    }

    /// Refuses a document that has not the fields of its kind, all faults with their places.
    pub(super) fn check(&self, kind: &str) -> Outcome<()> {
        let faults = field_faults(kind, &self.value);
        if faults.is_empty() {
            return Ok(());
        }
        let told: Vec<String> =
            faults.iter().map(|fault| format!("{}: {fault}", self.place(&fault.path))).collect();
        Err(Problem::new(codes::MANIFEST, told.join("; ")))
    }

    /// The same problem, with the place of each field that it names.
    pub(super) fn placed(&self, mut problem: Problem) -> Problem {
        let fields = problem.violations.iter().filter_map(|violation| violation["field"].as_str());
        let places: Vec<String> =
            fields.map(|field| format!("{field} is at {}", self.place(&steps(field)))).collect();
        if !places.is_empty() {
            problem.detail = format!("{} ({})", problem.detail, places.join(", "));
        }
        problem
    }

    /// File, line and column, as editors take them, of the field at the end of `path`, or of what
    /// there is of the way to it.
    pub(super) fn place(&self, path: &[Step]) -> String {
        let (mut here, mut place) = (&self.tree, self.tree.place);
        for step in path {
            let next = match (&here.tree, step) {
                (Tree::Object(fields), Step::Field(name)) => {
                    fields.get(name).map(|(key, value)| (*key, value))
                }
                (Tree::List(items), Step::Item(i)) => items.get(*i).map(|item| (item.place, item)),
                _ => None,
            };
            let Some((at, value)) = next else { break };
            (here, place) = (value, at);
        }
        if place == Location::UNKNOWN {
            return self.file.clone();
        }
        format!("{}:{}:{}", self.file, place.line(), place.column())
    }
}

/// The steps of a path such as `spec.routes[0].path`.
fn steps(field: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in field.split('.') {
        let mut pieces = part.split('[');
        steps.extend(pieces.next().map(|name| Step::Field(name.to_owned())));
        let items = pieces.filter_map(|piece| piece.trim_end_matches(']').parse().ok());
        steps.extend(items.map(Step::Item));
    }
    steps
}

/// A value and where it stands.
#[derive(Debug)]
struct Located {
    place: Location,
    tree: Tree,
}

#[derive(Debug)]
enum Tree {
    Scalar(Value),
    List(Vec<Located>),
    /// Each value with the place of its name.
    Object(BTreeMap<String, (Location, Located)>),
}

impl Located {
    fn value(&self) -> Value {
        match &self.tree {
            Tree::Scalar(value) => value.clone(),
            Tree::List(items) => items.iter().map(Self::value).collect(),
            Tree::Object(fields) => {
                fields.iter().map(|(name, (_, value))| (name.clone(), value.value())).collect()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Tree>::deserialize(deserializer)?;
        Ok(Self { place: spanned.referenced, tree: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a resource")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Tree, A::Error> {
        let mut object = BTreeMap::new();
        while let Some(name) = fields.next_key::<Spanned<String>>()? {
            object.insert(name.value, (name.referenced, fields.next_value()?));
        }
        Ok(Tree::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

    fn faults(text: &str) -> String {
        let documents = parse("f.yaml", text).unwrap();
        let check = |document: &Document| document.check("Function").err();
        documents.iter().find_map(check).map(|problem| problem.detail).unwrap_or_default()
    }

    #[test]
    fn a_fault_is_told_with_its_line_and_column_in_yaml_and_json() {
        let yaml = format!(
            "# two of them\napiVersion: swarmer/v1\nkind: Function\nmetadata:\n  name: a\nspec:\n  \
             component: {DIGEST}\n---\napiVersion: swarmer/v1\nkind: Function\nmetadata:\n  \
             name: b\nspec:\n  componnt: {DIGEST}\n  routes:\n  - path: /a\n  - {{path: /b, hsts: []}}\n"
        );
        let told = faults(&yaml);
        for words in [
            "f.yaml:14:3: spec.componnt: unknown field; did you mean `component`?",
            "f.yaml:17:16: spec.routes[1].hsts: unknown field; did you mean `hosts`?",
            "f.yaml:13:1: spec: `component` is missing",
        ] {
            assert!(told.contains(words), "{words}: {told}");
        }
        let json = format!(
            "{{\"apiVersion\": \"swarmer/v1\", \"kind\": \"Function\",\n \"metadata\": {{\"name\": \"a\"}},\n \
             \"spec\": {{\"component\": \"{DIGEST}\",\n  \"limits\": {{\"memory\": 3}}}}}}"
        );
        let told = faults(&json);
        assert_eq!(told, "f.yaml:4:14: spec.limits.memory: is 3, must be a string");
    }

    #[test]
    fn a_text_that_is_no_yaml_is_refused_in_words_for_whoever_wrote_it() {
        let refused = parse("f.yaml", "kind: Function\nkind: Function\n").unwrap_err();
        assert_eq!(refused.code, codes::MANIFEST);
        assert!(refused.detail.starts_with("f.yaml: line 2 column 1: dupl"), "{}", refused.detail);
        assert!(!refused.detail.contains("Options"), "{}", refused.detail);
    }

    #[test]
    fn the_place_of_what_is_not_there_is_that_of_what_is_around_it() {
        let document = &parse("f", "spec:\n  limits:\n    memory: 1MiB\n").unwrap()[0];
        assert_eq!(document.place(&steps("spec.limits.memory")), "f:3:5");
        assert_eq!(document.place(&steps("spec.limits.cpu")), "f:2:3");
        assert_eq!(document.place(&steps("spec.routes[0].path")), "f:1:1");
    }

    #[test]
    fn answers_of_the_api_can_be_read_again() {
        let text = format!(
            "items:\n- apiVersion: swarmer/v1\n  kind: Function\n  metadata: {{name: y}}\n  \
             spec: {{component: \"{DIGEST}\", env: {{A: \"1\", B: no}}}}\n  live: {{ready: 1}}\n"
        );
        let documents = parse("f", &text).unwrap();
        assert_eq!(documents.len(), 1);
        assert_eq!(documents[0].value["spec"]["env"]["B"], "no");
        assert!(documents[0].value.get("live").is_none());
        documents[0].check("Function").unwrap();
        assert!(parse("f", "# nothing\n").unwrap_err().detail.contains("no resource"));
    }
}
