//! A report as text for people, grouped, and as JSON for programs, with keys that stay. Pure.

use serde::Serialize;

use super::finding::{Finding, Group, Report, Verdict};
use crate::error::{Error, Result};
use crate::ident::shorten;

const GROUPS: [Group; 5] = [
    Group::Servers,
    Group::Rights,
    Group::Objects,
    Group::Capacity,
    Group::Following,
];

#[derive(Serialize)]
struct Written<'a> {
    verdict: Verdict,
    exit_code: u8,
    passed: usize,
    warnings: usize,
    failures: usize,
    findings: Vec<&'a Finding>,
}

pub fn json(report: &Report) -> Result<String> {
    let written = Written {
        verdict: report.worst(),
        exit_code: report.refusal().map_or(0, |error| error.exit_code()),
        passed: report.count(Verdict::Pass),
        warnings: report.count(Verdict::Warn),
        failures: report.count(Verdict::Fail),
        findings: GROUPS.iter().flat_map(|group| of(report, *group)).collect(),
    };
    serde_json::to_string_pretty(&written)
        .map_err(|error| Error::internal(format!("could not write the report as JSON: {error}")))
}

fn of(report: &Report, group: Group) -> impl Iterator<Item = &Finding> {
    let findings = report.findings().iter();
    findings.filter(move |finding| finding.group == group)
}

pub fn text(report: &Report) -> String {
    let mut text = String::new();
    for group in GROUPS {
        let mut findings = of(report, group).peekable();
        if findings.peek().is_none() {
            continue;
        }
        text.push_str(group.title());
        text.push('\n');
        for finding in findings {
            push_finding(&mut text, finding);
        }
        text.push('\n');
    }
    text.push_str(&format!(
        "{} passed, {} warnings, {} failures\n",
        report.count(Verdict::Pass),
        report.count(Verdict::Warn),
        report.count(Verdict::Fail),
    ));
    text
}

fn push_finding(text: &mut String, finding: &Finding) {
    let verdict = match finding.verdict {
        Verdict::Pass => "PASS",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
    };
    let reason = &finding.reason;
    text.push_str(&format!("  {verdict}  {:<22}{reason}\n", finding.id));
    const INDENT: &str = "        ";
    if !finding.objects.is_empty() {
        text.push_str(&format!("{INDENT}which: {}\n", shorten(&finding.objects)));
    }
    let mut label = "fix:   ";
    for line in finding.fix.iter().flat_map(|fix| fix.lines()) {
        text.push_str(&format!("{INDENT}{label}{line}\n"));
        label = "       ";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Side;

    fn report() -> Report {
        let mut report = Report::default();
        report.add([
            Finding::fail(Group::Objects, "roles", Side::Target, "roles are missing")
                .with_objects(vec!["a".to_owned(), "b".to_owned()])
                .with_fix("CREATE ROLE a;\nCREATE ROLE b;"),
            Finding::pass(Group::Servers, "versions", Side::Source, "they fit"),
        ]);
        report
    }

    #[test]
    fn text_is_grouped() {
        assert_eq!(
            text(&report()),
            "Servers and programs\n  \
               PASS  versions              they fit\n\n\
             Objects\n  \
               FAIL  roles                 roles are missing\n        \
                 which: a, b\n        \
                 fix:   CREATE ROLE a;\n               \
                        CREATE ROLE b;\n\n\
             1 passed, 0 warnings, 1 failures\n"
        );
    }

    #[test]
    fn the_keys_of_json_stay() {
        let value: serde_json::Value = serde_json::from_str(&json(&report()).unwrap()).unwrap();
        let expected = serde_json::json!({
            "verdict": "fail", "exit_code": 7, "passed": 1, "warnings": 0, "failures": 1,
            "findings": [
                {"id": "versions", "group": "servers", "verdict": "pass", "side": "source", "objects": [],
                 "reason": "they fit", "fix": null},
                {"id": "roles", "group": "objects", "verdict": "fail", "side": "target", "objects": ["a", "b"],
                 "reason": "roles are missing", "fix": "CREATE ROLE a;\nCREATE ROLE b;"},
            ],
        });
        assert_eq!(value, expected);
    }
}
