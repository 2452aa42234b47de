//! The documents say what is so: error codes, commands, paths.
//!
//! `SWARMER_REWRITE_GOLDEN=1 cargo test -p swarmer --test e2e docs` writes `docs/errors.md` anew; the
//! diff is the review.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

const DOCUMENTS: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/errors.md",
    "docs/chaos.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap()
}

fn swarmer(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_swarmer")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn errors_page() -> String {
    let list: Value = serde_json::from_str(&swarmer(&["explain", "-o", "json"])).unwrap();
    let mut codes: Vec<&Value> = list["items"].as_array().unwrap().iter().collect();
    codes.sort_by_key(|code| code["code"].as_str().unwrap());
    let mut page = String::from(
        "# Error codes\n\n\
         Every error of Swarmer has one of these codes, the same in the API (`code` of the problem\n\
         document and the header `x-swarmer-error`), in the command line, in logs and here.\n\
         `swarmer explain CODE` prints one of them.\n\n\
         HTTP is the status of an answer with the code, exit the exit code of a command that ends\n\
         with it. This page is made from the binary:\n\
         `SWARMER_REWRITE_GOLDEN=1 cargo test -p swarmer --test e2e docs` writes it anew.\n\n\
         | code | HTTP | exit | what it means | what to do |\n|---|---|---|---|---|\n",
    );
    for code in codes {
        let text = |key: &str| code[key].as_str().unwrap().replace('|', "\\|");
        let (name, meaning, remedy) = (text("code"), text("meaning"), text("remedy"));
        let (status, exit) = (&code["status"], &code["exitCode"]);
        writeln!(page, "| `{name}` | {status} | {exit} | {meaning} | {remedy} |").unwrap();
    }
    page
}

#[test]
fn the_page_of_errors_is_that_of_the_binary() {
    let page = errors_page();
    if std::env::var_os("SWARMER_REWRITE_GOLDEN").is_some() {
        fs::write(root().join("docs/errors.md"), page).unwrap();
        return;
    }
    assert!(
        page == read("docs/errors.md"),
        "docs/errors.md is old: SWARMER_REWRITE_GOLDEN=1 cargo test -p swarmer --test e2e docs"
    );
}

/// The texts between backticks that look like a path in this tree.
fn paths(text: &str) -> BTreeSet<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let known = |text: &&str| {
        let folders = ["bench/", "docs/", "examples/", "gossip/", "mesh/", "model/", "node/"];
        let more = ["raft/", "runtime/", "scheduler/", "testkit/", "xtask/", ".ci/"];
        folders.iter().chain(&more).any(|folder| text.starts_with(folder))
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
    };
    quoted.filter(known).collect()
}

/// The targets of links in this tree.
fn links(text: &str) -> BTreeSet<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with('#')).collect()
}

#[test]
fn what_the_documents_point_at_is_there() {
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        let folder = root().join(document).parent().unwrap().to_owned();
        for link in links(&text) {
            if !folder.join(link.split('#').next().unwrap()).exists() {
                missing.push(format!("{document} links to {link}"));
            }
        }
        for path in paths(&text) {
            // The code map names files below the room that it is about.
            if !root().join(path).exists() && !below_a_room(path) {
                missing.push(format!("{document} names {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// `raft/wal` stands for `raft/src/wal` where the owner of a file on disk is named.
fn below_a_room(path: &str) -> bool {
    path.split_once('/').is_some_and(|(room, rest)| {
        let source = root().join(room).join("src").join(rest);
        // The data directory has a folder `raft`, too.
        source.exists() || matches!(path, "raft/applied/")
    })
}

#[test]
fn the_code_map_names_files_that_are_there() {
    let text = read("ARCHITECTURE.md");
    let mut room = root();
    let (mut seen, mut missing) = (0, Vec::new());
    for line in text.lines() {
        if line.starts_with('#') {
            room = root().join(line.split('`').nth(1).unwrap_or_default());
        }
        for name in line.split('`').skip(1).step_by(2) {
            if ["src/", "tests/", "fixtures/"].iter().any(|folder| name.starts_with(folder)) {
                seen += 1;
                if !room.join(name).exists() {
                    missing.push(room.join(name));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(seen > 40, "only {seen} names were found");
}

/// The flags of `swarmer node`, each with its help in one line.
fn flags_of_node() -> BTreeMap<String, String> {
    let mut flags: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    let help = swarmer(&["node", "--help"]);
    for line in help.lines().take_while(|line| !line.contains("-h, --help")).map(str::trim) {
        // `--flag <VALUE>`, or `--flag[=<VALUE>]` where it may stand alone.
        let named = line.split_once("[=<").or_else(|| line.split_once(" <"));
        if let Some((flag, _)) = named.filter(|_| line.starts_with("--")) {
            last = Some(flag.to_owned());
        } else if let Some(flag) = &last {
            let text = flags.entry(flag.clone()).or_default();
            text.push_str(line);
            text.push(' ');
        }
    }
    flags
}

#[test]
fn the_readme_and_the_help_of_a_node_agree() {
    let mut flags = flags_of_node();
    let readme = read("README.md");
    let rows = readme.lines().skip_while(|line| *line != "## Configuration of a node");
    for row in rows.take_while(|line| !line.starts_with("As a file")) {
        let cells: Vec<String> =
            row.split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect();
        let [_, flag, variable, default, ..] = cells.as_slice() else { continue };
        if !flag.starts_with("--") || flag.starts_with("---") {
            continue;
        }
        let help = flags.remove(flag).unwrap_or_else(|| panic!("a node has no {flag}"));
        assert!(
            help.contains(&format!("[env: {variable}=")),
            "{flag}: {variable} is not in {help}"
        );
        let told = default == "none" || help.contains(&format!("[default: {default}]"));
        assert!(told, "{flag}: {default:?} is not in {help}");
    }
    assert!(flags.is_empty(), "not in the README: {flags:?}");
}

/// Lines of shell blocks, continued lines joined.
fn shell_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    let mut open = String::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("```") {
            inside = line == "```sh";
            continue;
        }
        if !inside {
            continue;
        }
        open.push_str(line.trim_end_matches('\\'));
        if !line.ends_with('\\') {
            lines.push(std::mem::take(&mut open));
        }
    }
    lines
}

#[test]
fn commands_of_the_documents_have_the_flags_that_they_are_shown_with() {
    let mut help: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut seen = 0;
    for document in ["README.md", "CONTRIBUTING.md"] {
        for line in shell_lines(&read(document)) {
            let command = line.split(" #").next().unwrap();
            let Some(rest) = command.strip_prefix("swarmer ") else { continue };
            let words: Vec<&str> =
                rest.split_whitespace().take_while(|word| *word != ">").collect();
            let nested = matches!(words[0], "token" | "rollout" | "region");
            let path: Vec<String> =
                words.iter().take(1 + usize::from(nested)).map(|word| (*word).to_owned()).collect();
            let text = help.entry(path.clone()).or_insert_with(|| {
                let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
                arguments.push("--help");
                swarmer(&arguments)
            });
            for flag in words.iter().filter(|word| word.starts_with('-')) {
                let flag = flag.split('=').next().unwrap();
                assert!(text.contains(flag), "{document}: `{line}`: no {flag} in:\n{text}");
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} commands were found");
}
