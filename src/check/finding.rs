//! What a check found out: one finding for each thing that was looked at, and a report of all of them. Pure; who prints,
//! logs or refuses because of them is elsewhere.

use serde::Serialize;

use crate::error::{Error, ErrorKind, Side};
use crate::ident::shorten;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    /// It will work, and not as well as it might, or not for each object.
    Warn,
    /// It will not work.
    Fail,
}

/// What a finding is about; the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    Servers,
    Rights,
    Objects,
    Capacity,
    Following,
}

impl Group {
    pub fn title(self) -> &'static str {
        match self {
            Group::Servers => "Servers and programs",
            Group::Rights => "Rights",
            Group::Objects => "Objects",
            Group::Capacity => "Capacity",
            Group::Following => "Following changes",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable: scripts look for it.
    pub id: &'static str,
    pub group: Group,
    pub verdict: Verdict,
    pub side: Option<Side>,
    /// The names that it is about, all of them.
    pub objects: Vec<String>,
    pub reason: String,
    /// The statement, command or option that mends it.
    pub fix: Option<String>,
    /// Of the error that a failure becomes, which decides the exit code.
    #[serde(skip)]
    kind: ErrorKind,
}

impl Finding {
    fn new(
        verdict: Verdict,
        group: Group,
        id: &'static str,
        side: Side,
        reason: impl Into<String>,
    ) -> Finding {
        Finding {
            id,
            group,
            verdict,
            side: Some(side),
            objects: Vec::new(),
            reason: reason.into(),
            fix: None,
            kind: match side {
                Side::Source => ErrorKind::Source,
                Side::Target => ErrorKind::Target,
            },
        }
    }

    pub fn pass(group: Group, id: &'static str, side: Side, reason: impl Into<String>) -> Finding {
        Finding::new(Verdict::Pass, group, id, side, reason)
    }

    pub fn warn(group: Group, id: &'static str, side: Side, reason: impl Into<String>) -> Finding {
        Finding::new(Verdict::Warn, group, id, side, reason)
    }

    pub fn fail(group: Group, id: &'static str, side: Side, reason: impl Into<String>) -> Finding {
        Finding::new(Verdict::Fail, group, id, side, reason)
    }

    /// A refusal that another part of the program words.
    pub fn of_error(group: Group, id: &'static str, error: &Error) -> Finding {
        Finding {
            id,
            group,
            verdict: Verdict::Fail,
            side: error.side(),
            objects: Vec::new(),
            reason: error.to_string(),
            fix: error.hint().map(str::to_owned),
            kind: error.kind(),
        }
    }

    pub fn with_fix(mut self, fix: impl Into<String>) -> Finding {
        self.fix = Some(fix.into());
        self
    }

    pub fn with_objects(mut self, objects: Vec<String>) -> Finding {
        self.objects = objects;
        self
    }

    pub fn with_kind(mut self, kind: ErrorKind) -> Finding {
        self.kind = kind;
        self
    }

    /// About this machine or both servers.
    pub fn of_no_side(mut self) -> Finding {
        self.side = None;
        self
    }

    /// Put what it is about in front of the reason.
    pub fn context(mut self, what: &str) -> Finding {
        self.reason = format!("{what}: {}", self.reason);
        self
    }

    /// The reason with the names.
    pub fn line(&self) -> String {
        match self.objects.is_empty() {
            true => self.reason.clone(),
            false => format!("{}: {}", self.reason, shorten(&self.objects)),
        }
    }

    fn error(&self) -> Error {
        let mut error = Error::new(self.kind, self.line());
        if let Some(side) = self.side {
            error = error.with_side(side);
        }
        match &self.fix {
            Some(fix) => error.with_hint(fix),
            None => error,
        }
    }
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    pub fn count(&self, verdict: Verdict) -> usize {
        let has = |finding: &&Finding| finding.verdict == verdict;
        self.findings.iter().filter(has).count()
    }

    /// PASS when nothing was found.
    pub fn worst(&self) -> Verdict {
        let verdicts = self.findings.iter().map(|finding| finding.verdict);
        verdicts.max().unwrap_or(Verdict::Pass)
    }

    pub fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
    }

    /// The error of the first failure; the others are its detail, so that all is told at once.
    pub fn refusal(&self) -> Option<Error> {
        let fails = |finding: &&Finding| finding.verdict == Verdict::Fail;
        let failures: Vec<&Finding> = self.findings.iter().filter(fails).collect();
        let (first, others) = failures.split_first()?;
        if others.is_empty() {
            return Some(first.error());
        }
        let mut lines = Vec::new();
        for other in others {
            lines.push(match &other.fix {
                Some(fix) => format!("also: {}; {fix}", other.line()),
                None => format!("also: {}", other.line()),
            });
        }
        Some(first.error().with_detail(lines.join("\n")))
    }

    /// What a run tells before it goes on.
    pub fn log_warnings(&self) {
        for finding in &self.findings {
            if finding.verdict != Verdict::Warn {
                continue;
            }
            match &finding.fix {
                Some(fix) => log::warn!("{}; {}", finding.line(), fix.replace('\n', " ")),
                None => log::warn!("{}", finding.line()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_the_error_and_tells_of_the_others() {
        let mut report = Report::default();
        assert!(report.refusal().is_none() && report.worst() == Verdict::Pass);
        report.add([
            Finding::pass(Group::Servers, "a", Side::Source, "fine"),
            Finding::warn(Group::Servers, "b", Side::Source, "slow"),
        ]);
        assert!(report.refusal().is_none() && report.worst() == Verdict::Warn);
        report.add([
            Finding::fail(Group::Rights, "c", Side::Target, "tables are closed")
                .with_objects(vec!["t".to_owned()])
                .with_fix("GRANT it"),
            Finding::fail(Group::Rights, "d", Side::Source, "no way"),
        ]);
        let error = report.refusal().unwrap();
        assert_eq!(error.message(), "tables are closed: t");
        assert_eq!(error.hint(), Some("GRANT it"));
        assert_eq!(error.detail(), Some("also: no way"));
        assert_eq!(error.exit_code(), 7);
        assert_eq!(
            (report.worst(), report.count(Verdict::Fail)),
            (Verdict::Fail, 2)
        );
    }
}
