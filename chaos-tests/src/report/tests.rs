use std::time::Duration;

use super::{Ran, Row, Sums, markdown, page, table};
use crate::{
    check::Verdict,
    history::{Action, Answer, Operation, Outcome},
    nemesis::{Done, Mark},
    run::{Coverage, Leader, Plan, Run},
};

fn run(outcome: Outcome, violations: Vec<String>) -> Run {
    let history = vec![Operation {
        id: 1,
        client: 1,
        node: "n1".into(),
        invoked_ns: 1_000_000_000,
        completed_ns: 1_004_000_000,
        action: Action::Read { key: "a".into() },
        outcome,
    }];
    let fault = |kind: Mark, nodes: &[usize]| Done {
        from_ns: 500_000_000,
        to_ns: 2_000_000_000,
        what: format!("{kind} <n1>"),
        nodes: nodes.to_vec(),
        kind,
    };
    Run {
        plan: Plan::of("register", 7, Duration::from_secs(40)).unwrap(),
        faults: vec![fault(Mark::Kill, &[0]), fault(Mark::Cut, &[])],
        leaders: vec![Leader { from_ns: 0, term: 3, node: 2 }],
        coverage: Coverage { ok: 1, ..Coverage::default() },
        verdicts: vec![Verdict::of("registers are linearizable", 1, violations)],
        void: vec!["0 kills, 2 are needed".into()],
        notes: vec!["a note".into()],
        history,
    }
}

#[test]
fn the_page_tells_all_of_a_run_and_loads_nothing() {
    let value = Answer::Value { value: Some(1), revision: Some(2) };
    let page = page(&run(Outcome::Ok { answer: value }, vec!["lost <b>1</b>".into()]));
    for told in [
        "register · seed 7",
        "<b class=bad>invalid</b>",
        "lost &lt;b&gt;1&lt;/b&gt;",
        "replay 7 --scenario register",
        "kill &lt;n1&gt;",
        "n3 leads in term 3",
        "class=ok",
        "2 are needed",
        "a note",
        "leader changes",
    ] {
        assert!(page.contains(told), "{told} is missing in\n{page}");
    }
    for foreign in ["http://", "https://", "<script", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn a_run_is_read_back_from_its_file() {
    let run = run(Outcome::Failed { why: "reset".into() }, Vec::new());
    let text = serde_json::to_string(&run).unwrap();
    let again: Run = serde_json::from_str(&text).unwrap();
    assert_eq!((again.plan, again.verdicts), (run.plan, run.verdicts));
}

#[test]
fn the_table_tells_every_run_and_counts_only_cuts_that_prove_something() {
    let value = Answer::Value { value: Some(1), revision: Some(2) };
    let mut invalid = run(Outcome::Ok { answer: value }, vec!["lost <b>1</b>".into()]);
    invalid.faults[0].kind = Mark::Power;
    invalid.coverage.struck = [(Mark::Power, 3)].into();
    let mut void = invalid.clone();
    void.verdicts.clear();
    let row = |run: &Run| Row {
        scenario: run.plan.scenario.clone(),
        seed: Some(run.plan.seed),
        result: Ok(Ran::of(run, "register-7".into())),
    };
    let skipped =
        Row { scenario: "other".into(), seed: None, result: Err("this machine lacks a|b".into()) };
    let rows = [row(&invalid), row(&void), skipped];
    let sums = Sums::of(&rows);
    assert_eq!((sums.power_cuts, sums.struck[&Mark::Power]), (1, 6));
    assert_eq!(sums.endings, [("INVALID", 1), ("void", 1), ("skipped", 1)].into());
    let text = markdown("soak", &rows);
    assert!(text.contains("| skipped: this machine lacks a\\|b |"), "{text}");
    assert!(text.contains("INVALID; registers are linearizable; 0 kills, 2 are needed"), "{text}");
    let page = table("soak", &rows);
    assert!(page.contains("href=\"register-7/report.html\"") && !page.contains("<script"));
    assert_eq!(page.matches("<tr>").count(), 4);
}

#[test]
fn where_nodes_stand_apart_each_region_has_a_latency_of_its_own() {
    let value = Answer::Value { value: Some(1), revision: Some(2) };
    let mut run = run(Outcome::Ok { answer: value }, Vec::new());
    assert!(!page(&run).contains("Latency in each region"));
    run.plan.scenario = "regions".to_owned();
    let page = page(&run);
    assert!(page.contains("eu: n1 n2") && page.contains("ap: n5"), "{page}");
    assert_eq!(page.matches("API: 1 ok, half within 4 ms").count(), 1, "the one in eu");
    assert_eq!(page.matches("API: none ok").count(), 2);
}
