//! One line of a script: what it adds to what is gathered, or what it calls for. Runs in the apply process; it decides what
//! is skipped, and leaves to its parent module what is sent and committed.

use super::chunk::Place;
use super::in_copy::InCopy;
use super::kept::{self, Kept};
use super::state::Action;
use super::{Applier, CHUNK_BYTES, CHUNK_CHANGES};
use crate::error::{Context, Error, Result};
use crate::ident::QualifiedName;
use crate::lsn::Lsn;
use crate::stream::script::{CommitIs, ScriptLine, statement_of};
use crate::stream::segment;
use crate::sys::pipe::{LineReader, Next};

impl Applier {
    /// Take one line; the end position, if it is reached.
    pub(super) fn take(&mut self, line: &[u8]) -> Result<Option<Lsn>> {
        self.line += 1;
        if line.starts_with(b"EXECUTE ") {
            return self.take_change(line).map(|()| None);
        }
        let number = self.line;
        let parsed = ScriptLine::parse(line).with_context(|| format!("line {number}"))?;
        if let Some(kept) = &mut self.kept {
            if let ScriptLine::Truncate { .. } = parsed {
                return kept.add(line).map(|()| None);
            }
            match kept.next(&parsed)? {
                kept::Next::Beside => {}
                kept::Next::Complete(commit) => return self.take_kept(commit),
                kept::Next::Aborted => {
                    self.kept = None;
                    return Ok(None);
                }
            }
        }
        self.take_line(&parsed)
    }

    fn take_change(&mut self, line: &[u8]) -> Result<()> {
        if let Some(kept) = &mut self.kept {
            return kept.add(line);
        }
        let Some(xid) = self.state.takes_changes() else {
            return Ok(());
        };
        if self.passes_over(line) {
            return Ok(());
        }
        let commit_lsn = self.commit_lsn;
        if let Some(in_copy) = &mut self.in_copy
            && in_copy.has_change(line, commit_lsn)
        {
            return Ok(());
        }
        let place = self.place(xid);
        self.chunk.add_execute(line, place);
        self.send_if_large()
    }

    fn take_truncate(&mut self, tables: &[(String, String)], restart_identity: bool) {
        let Some(xid) = self.state.takes_changes() else {
            return;
        };
        let mut tables = match &mut self.in_copy {
            Some(in_copy) => in_copy.left_to_truncate(tables, self.commit_lsn),
            None => tables.to_vec(),
        };
        tables.retain(|(schema, table)| !self.is_left_out(schema, table));
        if !tables.is_empty() {
            let place = self.place(xid);
            self.chunk.add_truncate(tables, restart_identity, place);
        }
    }

    /// Whether only the end of a transaction can tell if it is to be applied, and to which tables.
    fn must_keep(&self) -> bool {
        let in_copy = self.in_copy.as_ref().map_or(Lsn::INVALID, InCopy::latest);
        !self.state.is_inside() && self.state.may_end_before(in_copy)
    }

    /// Take a whole transaction, now that its end is known.
    fn take_kept(&mut self, commit: CommitIs<'static>) -> Result<Option<Lsn>> {
        let Some(kept) = self.kept.take() else {
            return Ok(None);
        };
        let end = self.line;
        self.line = kept.line;
        let begin = ScriptLine::Begin {
            xid: kept.xid,
            commit: Some(commit.clone()),
        };
        if let Some(endpos) = self.take_line(&begin)? {
            return Ok(Some(endpos));
        }
        // One that is on the target already is not read again.
        if self.state.takes_changes().is_some() {
            let mut lines = LineReader::new(kept.rewind()?);
            let shutdown = self.shutdown;
            while let Next::Line(line) = lines.next(None, &shutdown)? {
                self.take(line)?;
                shutdown.check()?;
            }
        }
        self.line = end;
        self.take_line(&ScriptLine::Commit(commit))
    }

    /// Take a line that is no change.
    fn take_line(&mut self, line: &ScriptLine<'_>) -> Result<Option<Lsn>> {
        match line {
            ScriptLine::Prepare { statement, sql, is } => {
                match self.is_left_out(&is.schema, &is.table) {
                    true => self.passed_over.insert(*statement),
                    false => self.passed_over.remove(statement),
                };
                self.executor.prepare(*statement, sql, is);
                if let Some(in_copy) = &mut self.in_copy {
                    in_copy.prepare(*statement, is);
                }
                return Ok(None);
            }
            ScriptLine::Truncate {
                tables,
                restart_identity,
            } => {
                self.take_truncate(tables, *restart_identity);
                return Ok(None);
            }
            ScriptLine::Begin { xid, commit: None } if self.must_keep() => {
                self.kept = Some(Kept::begin(&self.dir, *xid, self.line)?);
                return Ok(None);
            }
            ScriptLine::Begin { commit, .. } => {
                self.commit_lsn = commit.as_ref().map(|commit| commit.commit_lsn);
            }
            _ => {}
        }
        if let Some((from, to)) = self.state.begins_later(line) {
            self.check_nothing_between(from, to)?;
        }
        if let Some(end) = self.state.adds(line) {
            self.pause_before(end)?;
        }
        // Read once: what is said to be reached has to be what the line was compared with.
        let endpos = self.positions.endpos();
        let action = self.state.step(line, endpos)?;
        let is_end = self.act(action)?;
        Ok(endpos.filter(|_| is_end))
    }

    /// Between the two nothing was committed, or the files that had it were removed, as the target has it. What is still
    /// there was not applied: files that were given in another order, or a pipe that begins behind them.
    fn check_nothing_between(&self, from: Lsn, to: Lsn) -> Result<()> {
        match segment::commit_between(&self.dir, from, to)? {
            None => Ok(()),
            Some(lsn) => Err(Error::state(format!(
                "cannot apply changes after {to}: those between {from} and {to} are in files and are not applied yet, \
                 the first up to {lsn}"
            ))
            .with_hint("Apply them first, such as with \"pgcopydb stream catchup\".")),
        }
    }

    /// What a line calls for; whether the end position is reached.
    fn act(&mut self, action: Action) -> Result<bool> {
        match action {
            Action::None => {}
            Action::BeginScript => {
                self.send_complete()?;
                self.executor.forget_statements();
                if let Some(in_copy) = &mut self.in_copy {
                    in_copy.begin_script();
                }
                self.passed_over.clear();
            }
            // Nobody knows yet whether it will stay: what is complete must not share its fate. Nor must its flush: apply may
            // be told to stand still before the end of this one, until somebody who waits for that flush lets it go on.
            Action::BeginAlone => {
                self.send_complete()?;
                self.flush()?;
            }
            Action::Complete(commit) => {
                self.last = Some(commit);
                self.transactions += 1;
                if self.chunk.bytes() >= CHUNK_BYTES / 2 || self.chunk.len() >= CHUNK_CHANGES / 2 {
                    self.send_complete()?;
                }
            }
            Action::CommitAlone(commit) => {
                self.last = Some(commit);
                self.transactions += 1;
                self.send_complete()?;
            }
            Action::Discard => self.discard()?,
            Action::PassedPosition(lsn) => {
                self.send_complete()?;
                self.positions.advance_replayed(lsn);
                self.is_flushed = false;
                self.forget_copy_if_passed();
            }
            Action::End => return Ok(true),
            Action::CompleteAndEnd(commit) => {
                self.last = Some(commit);
                self.transactions += 1;
                return Ok(true);
            }
            Action::PassedPositionAndEnd(lsn) => {
                self.send_complete()?;
                self.positions.advance_replayed(lsn);
                return Ok(true);
            }
            Action::DiscardAndEnd => {
                self.discard()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// From the last position of the copy on nothing more is asked of any change.
    pub(super) fn forget_copy_if_passed(&mut self) {
        let replayed = self.positions.replayed();
        let passed = self.in_copy.take_if(|in_copy| replayed >= in_copy.latest());
        if let Some(in_copy) = passed {
            in_copy.tell();
        }
    }

    fn is_left_out(&self, schema: &str, table: &str) -> bool {
        !self.left_out.is_empty() && self.left_out.contains(&QualifiedName::new(schema, table))
    }

    /// Whether this EXECUTE line is a change of a table that was not copied.
    fn passes_over(&self, line: &[u8]) -> bool {
        !self.passed_over.is_empty()
            && statement_of(line).is_some_and(|statement| self.passed_over.contains(&statement))
    }

    fn place(&self, xid: u32) -> Place {
        Place {
            xid,
            commit_lsn: self.commit_lsn,
            line: self.line,
        }
    }
}
