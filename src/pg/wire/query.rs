//! The simple query protocol: text in, text rows out. Runs in the process that owns the connection. Every result of
//! every statement is read to the end before anything is reported.

use std::time::Instant;

use postgres_protocol::message::frontend;

use super::frame::{Body, Frame, parse_server_error};
use super::{Connection, Row, TransactionStatus};
use crate::error::{Error, Result};
use crate::logging;

impl Connection {
    /// Run statements and return the rows of the last one that returned any.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        self.run(sql, &mut |event| {
            match event {
                Event::NewResult => rows.clear(),
                Event::Row(row) => rows.push(row.clone()),
                Event::Complete(_) => {}
            }
            Ok(())
        })?;
        Ok(rows)
    }

    /// The one row of a query that must return exactly one.
    pub fn query_one(&mut self, sql: &str) -> Result<Row> {
        let mut rows = self.query(sql)?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(self.protocol_error(format!("expected exactly one row from: {sql}"))),
        }
    }

    /// Send statements and return at once, so that two servers work at the same time. `finish_query` or `abandon_query` has
    /// to follow.
    pub fn start_query(&mut self, sql: &str) -> Result<()> {
        let sent = self.send_query(sql);
        if let Err(error) = &sent {
            self.after_error(error);
        }
        sent
    }

    /// Hand each row of what `start_query` has begun to `on_row`, as `query_each` does.
    pub fn finish_query(&mut self, on_row: &mut dyn FnMut(&Row) -> Result<()>) -> Result<()> {
        let mut failure = None;
        let read = self.read_results(&mut |event| {
            if let (Event::Row(row), None) = (event, &failure) {
                failure = on_row(row).err();
            }
            Ok(())
        });
        if let Err(error) = &read {
            self.after_error(error);
        }
        read?;
        failure.map_or(Ok(()), Err)
    }

    /// Give up what `start_query` has begun, and the connection with it.
    pub fn abandon_query(&mut self) {
        if !self.is_broken {
            self.cancel_and_break();
        }
    }

    /// Hand each row to `on_row` as it arrives, in bounded memory. An error of `on_row` is returned once the
    /// server's answer has been read to its end.
    pub fn query_each(
        &mut self,
        sql: &str,
        on_row: &mut dyn FnMut(&Row) -> Result<()>,
    ) -> Result<()> {
        let mut failure = None;
        self.run(sql, &mut |event| {
            if let (Event::Row(row), None) = (event, &failure) {
                failure = on_row(row).err();
            }
            Ok(())
        })?;
        failure.map_or(Ok(()), Err)
    }

    /// Run statements; returns the number of rows of the last one (0 for those that count none).
    pub fn execute(&mut self, sql: &str) -> Result<u64> {
        let mut count = 0;
        self.run(sql, &mut |event| {
            if let Event::Complete(rows) = event {
                count = rows;
            }
            Ok(())
        })?;
        Ok(count)
    }

    /// Commit, and believe it only if the server says COMMIT: a failed transaction answers ROLLBACK without an error.
    pub fn commit(&mut self) -> Result<()> {
        if self.status == TransactionStatus::Failed {
            let _ = self.execute("ROLLBACK");
            return Err(Error::on(
                self.side,
                "could not commit: the transaction had failed before",
            ));
        }
        self.execute("COMMIT").map(|_| ())
    }

    /// After an error: whether the connection can go on, with no transaction open.
    pub fn recover(&mut self) -> bool {
        !self.is_broken
            && (self.status == TransactionStatus::Idle || self.execute("ROLLBACK").is_ok())
    }

    fn run(&mut self, sql: &str, on_event: &mut dyn FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        let result = self
            .send_query(sql)
            .and_then(|()| self.read_results(on_event));
        if let Err(error) = &result {
            self.after_error(error);
        }
        result
    }

    /// After an interruption the statement still runs on the server: cancel it before anybody leaves.
    pub(super) fn after_error(&mut self, error: &Error) {
        if error.is_interrupted() && !self.is_broken {
            self.cancel_and_break();
        }
    }

    pub(super) fn send_query(&mut self, sql: &str) -> Result<()> {
        if self.is_broken {
            return Err(self.lost("connection is closed"));
        }
        log::trace!("{}: {}", self.side, loggable(sql));
        if frontend::query(sql, &mut self.output).is_err() {
            return Err(Error::internal("a statement holds a zero byte"));
        }
        self.flush_output()
    }

    fn read_results(&mut self, on_event: &mut dyn FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        let mut failure: Option<Error> = None;
        let mut row = Row::default();
        loop {
            let frame = match self.read_frame() {
                Ok(frame) => frame,
                // A FATAL that came before the close says why; "connection closed" would not.
                Err(error) => return Err(failure.unwrap_or(error)),
            };
            let step = match frame.tag {
                b'T' => on_event(Event::NewResult),
                b'D' => row
                    .load(self.input.body(frame))
                    .and_then(|()| on_event(Event::Row(&row))),
                b'C' => on_event(Event::Complete(command_rows(self.input.body(frame)))),
                b'I' => Ok(()),
                b'E' => Err(self.frame_error(frame)),
                b'Z' => {
                    self.note_ready(frame);
                    return failure.map_or(Ok(()), Err);
                }
                // Only copy_in and copy_out may start a COPY: end it, the server then says why it failed.
                b'G' => self.refuse_copy(),
                b'H' | b'd' | b'c' => Ok(()),
                tag => return Err(self.unexpected(tag, "the result of a statement")),
            };
            if let Err(error) = step {
                failure.get_or_insert(error);
            }
        }
    }

    fn refuse_copy(&mut self) -> Result<()> {
        let _ = frontend::copy_fail("no data was meant for this statement", &mut self.output);
        self.flush_output()
    }

    pub(super) fn note_ready(&mut self, frame: Frame) {
        self.status = match self.input.body(frame).first() {
            Some(b'T') => TransactionStatus::InTransaction,
            Some(b'E') => TransactionStatus::Failed,
            _ => TransactionStatus::Idle,
        };
    }

    pub(super) fn frame_error(&mut self, frame: Frame) -> Error {
        match parse_server_error(self.input.body(frame)) {
            Ok(error) => {
                if error.severity == "FATAL" || error.severity == "PANIC" {
                    self.is_broken = true;
                }
                self.server_error(error)
            }
            Err(error) => error,
        }
    }

    pub(super) fn unexpected(&mut self, tag: u8, what: &str) -> Error {
        self.protocol_error(format!(
            "unexpected message '{}' while waiting for {what}",
            char::from(tag)
        ))
    }

    /// The next message that is not asynchronous chatter.
    pub(super) fn read_frame(&mut self) -> Result<Frame> {
        loop {
            match self.input.next_frame() {
                Ok(Some(frame)) => {
                    match frame.tag {
                        b'N' => self.log_notice(frame),
                        b'S' => self.note_parameter(frame)?,
                        b'A' => {}
                        _ => return Ok(frame),
                    }
                    // A server that chats for ever must not keep us from ending.
                    self.check_patience()?;
                }
                Ok(None) => {
                    self.fill(0)?;
                }
                Err(error) => {
                    self.is_broken = true;
                    return Err(error.with_side(self.side));
                }
            }
        }
    }

    fn check_patience(&mut self) -> Result<()> {
        self.shutdown.check()?;
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => {
                Err(self.lost("server did not answer in time"))
            }
            _ => Ok(()),
        }
    }

    /// Read more bytes, at least one, waiting for them.
    pub(super) fn fill(&mut self, room: usize) -> Result<usize> {
        loop {
            let space = self.input.room(room);
            match self.transport.read_once(space) {
                Ok(Ok(0)) => return Err(self.lost("server closed the connection unexpectedly")),
                Ok(Ok(count)) => {
                    self.input.filled(count);
                    return Ok(count);
                }
                Ok(Err(blocked)) => self.wait(blocked)?,
                Err(error) => {
                    return Err(self.lost(format!("could not receive from server: {error}")));
                }
            }
        }
    }

    /// Hand everything to the kernel.
    pub(super) fn flush_output(&mut self) -> Result<()> {
        let output = std::mem::take(&mut self.output);
        let result = self.write_all(&output);
        self.output = output;
        self.output.clear();
        result
    }

    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.transport.write_once(bytes) {
                Ok(Ok(count)) => bytes = &bytes[count..],
                Ok(Err(blocked)) => self.wait(blocked)?,
                Err(error) => return Err(self.write_error(error)),
            }
        }
        Ok(())
    }

    /// A broken pipe hides the server's last words, which say why it hung up.
    pub(super) fn write_error(&mut self, mut error: std::io::Error) -> Error {
        loop {
            let space = self.input.room(0);
            match self.transport.read_once(space) {
                Ok(Ok(count)) if count > 0 => self.input.filled(count),
                Ok(_) => break,
                // A TLS alert says more than the reset that followed it.
                Err(alert) => {
                    error = alert;
                    break;
                }
            }
        }
        while let Ok(Some(frame)) = self.input.next_frame() {
            if frame.tag == b'E' {
                let error = self.frame_error(frame);
                self.is_broken = true;
                return error;
            }
        }
        self.lost(format!("could not send to server: {error}"))
    }

    fn wait(&mut self, blocked: super::socket::Blocked) -> Result<()> {
        if self
            .transport
            .wait(blocked, &self.shutdown, self.deadline)?
        {
            return Ok(());
        }
        self.check_patience()
    }

    pub(super) fn log_notice(&mut self, frame: Frame) {
        if let Ok(notice) = parse_server_error(self.input.body(frame)) {
            match notice.severity.as_str() {
                "WARNING" => log::warn!("{} server: {}", self.side, notice.message),
                "NOTICE" => {
                    log::info!(target: logging::NOTICE, "{} server: {}", self.side, notice.message);
                }
                _ => log::debug!(
                    "{} server: {}: {}",
                    self.side,
                    notice.severity,
                    notice.message
                ),
            }
        }
    }

    pub(super) fn note_parameter(&mut self, frame: Frame) -> Result<()> {
        let mut body = Body::new(self.input.body(frame));
        let (name, value) = (body.string()?, body.string()?);
        self.parameters.insert(name, value);
        match self.parameters.len() <= MOST_PARAMETERS {
            true => Ok(()),
            false => Err(self.protocol_error("more parameters than any server has")),
        }
    }
}

/// A server reports about 15; extensions add a few.
const MOST_PARAMETERS: usize = 1_000;

/// What happens while results are read.
pub(super) enum Event<'a> {
    NewResult,
    Row(&'a Row),
    /// A statement ended, with its row count.
    Complete(u64),
}

/// The count at the end of a command tag: "COPY 12", "INSERT 0 12"; 0 where there is none.
pub(super) fn command_rows(body: &[u8]) -> u64 {
    let tag = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body)).into_owned();
    tag.rsplit(' ')
        .next()
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

/// A role's or a user mapping's password does not belong into any log.
fn loggable(sql: &str) -> &str {
    match sql.to_ascii_lowercase().contains("password") {
        true => "(a statement with a password)",
        false => sql,
    }
}

#[cfg(test)]
mod tests {
    use super::command_rows;

    #[test]
    fn reads_counts_from_command_tags() {
        assert_eq!(command_rows(b"COPY 12\0"), 12);
        assert_eq!(command_rows(b"INSERT 0 7\0"), 7);
        assert_eq!(command_rows(b"CREATE INDEX\0"), 0);
        assert_eq!(command_rows(b""), 0);
    }
}
