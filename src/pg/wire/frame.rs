//! Framing: one growing buffer of bytes from the server, messages as slices of it. Knows message lengths, not their
//! meaning. Nothing is allocated on the word of a length field: the buffer grows as bytes arrive.

use crate::error::{Error, ErrorKind, Result, ServerError};

/// Ordinary room; a longer message makes it grow, which is given back afterwards.
const ROOM_BYTES: usize = 64 * 1024;

/// The server itself cannot make a message of more than a gigabyte and a header.
const MAX_FRAME_BYTES: usize = (1 << 30) + 1024;

/// Bytes received and not consumed yet.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// A complete message: its type byte and where its body stands in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    start: usize,
    end: usize,
}

impl FrameBuffer {
    pub fn new() -> FrameBuffer {
        FrameBuffer::default()
    }

    /// The bytes that are there.
    pub fn available(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Room to read into, of at least `wanted` bytes where that is cheap.
    pub fn room(&mut self, wanted: usize) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.bytes.len() > 16 * ROOM_BYTES.max(wanted) {
                self.bytes = Vec::new();
            }
        }
        let wanted = wanted.max(ROOM_BYTES);
        if self.bytes.len() - self.end < wanted / 2 {
            if self.start > 0 {
                // Moving pays only because what is left is a part of one message.
                self.bytes.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            if self.bytes.len() - self.end < wanted / 2 {
                // Doubling keeps a message of a gigabyte linear; where it ends is known, and more would be memory for nothing.
                let doubled = self.bytes.len() * 2;
                let enough = match frame_length(self.available()) {
                    Ok(Some(length)) => doubled.min(length + wanted),
                    _ => doubled,
                };
                self.bytes.resize(enough.max(self.end + wanted), 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// `count` bytes were read into the room.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// The next complete message, consumed, or `None` when bytes are missing.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        let Some(length) = frame_length(self.available())? else {
            return Ok(None);
        };
        if self.available().len() < length {
            return Ok(None);
        }
        let frame = Frame {
            tag: self.bytes[self.start],
            start: self.start + 5,
            end: self.start + length,
        };
        self.start += length;
        Ok(Some(frame))
    }

    /// The body of the frame that `next_frame` returned last; valid until the next call of `room`.
    pub fn body(&self, frame: Frame) -> &[u8] {
        &self.bytes[frame.start..frame.end]
    }
}

/// Length of the first message with its type byte, when its header is complete.
pub fn frame_length(bytes: &[u8]) -> Result<Option<usize>> {
    let [_, a, b, c, d, ..] = *bytes else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(4..=MAX_FRAME_BYTES).contains(&length) {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("server sent a message of impossible length {length}"),
        ));
    }
    Ok(Some(length + 1))
}

/// Reads the pieces of a message body; every step may say "too short".
pub struct Body<'a> {
    bytes: &'a [u8],
}

impl<'a> Body<'a> {
    pub fn new(bytes: &'a [u8]) -> Body<'a> {
        Body { bytes }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        if self.bytes.len() < count {
            return Err(short());
        }
        let (head, tail) = self.bytes.split_at(count);
        self.bytes = tail;
        Ok(head)
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub fn i16(&mut self) -> Result<i16> {
        let bytes = self.take(2)?;
        Ok(i16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub fn i32(&mut self) -> Result<i32> {
        let bytes = self.take(4)?;
        Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A string that ends with a zero byte.
    pub fn string(&mut self) -> Result<String> {
        let end = self
            .bytes
            .iter()
            .position(|byte| *byte == 0)
            .ok_or_else(short)?;
        let text = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        self.bytes = &self.bytes[end + 1..];
        Ok(text)
    }
}

fn short() -> Error {
    Error::new(
        ErrorKind::Protocol,
        "server sent a message that is too short",
    )
}

/// The fields of an ErrorResponse or NoticeResponse.
pub fn parse_server_error(body: &[u8]) -> Result<ServerError> {
    let mut body = Body::new(body);
    let mut error = ServerError::default();
    let mut localised = String::new();
    loop {
        let field = body.u8()?;
        if field == 0 {
            break;
        }
        let text = body.string()?;
        match field {
            b'S' => localised = text,
            b'V' => error.severity = text,
            b'C' => error.sqlstate = text,
            b'M' => error.message = text,
            b'D' => error.detail = Some(text),
            b'H' => error.hint = Some(text),
            b'W' => error.context = Some(text),
            b's' => error.schema = Some(text),
            b't' => error.table = Some(text),
            b'c' => error.column = Some(text),
            b'n' => error.constraint = Some(text),
            _ => {}
        }
    }
    if error.severity.is_empty() {
        error.severity = localised;
    }
    Ok(error)
}

#[cfg(test)]
mod tests {
    use super::{FrameBuffer, frame_length, parse_server_error};
    use proptest::prelude::*;

    fn feed(buffer: &mut FrameBuffer, bytes: &[u8]) {
        let room = buffer.room(bytes.len());
        room[..bytes.len()].copy_from_slice(bytes);
        buffer.filled(bytes.len());
    }

    #[test]
    fn hands_out_whole_messages_only() {
        let mut buffer = FrameBuffer::new();
        feed(&mut buffer, b"Z\0\0\0\x05");
        assert_eq!(buffer.next_frame().unwrap(), None);
        feed(&mut buffer, b"IC\0\0\0\x04");
        let frame = buffer.next_frame().unwrap().unwrap();
        assert_eq!((frame.tag, buffer.body(frame)), (b'Z', &b"I"[..]));
        let frame = buffer.next_frame().unwrap().unwrap();
        assert_eq!((frame.tag, buffer.body(frame).len()), (b'C', 0));
        assert_eq!(buffer.next_frame().unwrap(), None);
    }

    /// Trap 13: a long message takes its own length, and leaves nothing behind.
    #[test]
    fn a_long_message_takes_no_more_than_it_needs() {
        const WANTED: usize = 256 << 10;
        const BODY: usize = 9 << 20;
        let mut buffer = FrameBuffer::new();
        let mut message = vec![b'd'];
        message.extend_from_slice(&(BODY as u32 + 4).to_be_bytes());
        message.resize(5 + BODY, b'x');
        let mut rest = &message[..];
        while !rest.is_empty() {
            let room = buffer.room(WANTED);
            let count = rest.len().min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            buffer.filled(count);
            rest = &rest[count..];
        }
        let frame = buffer.next_frame().unwrap().unwrap();
        assert_eq!(buffer.body(frame).len(), BODY);
        assert!(buffer.bytes.len() <= BODY + 2 * WANTED);
        buffer.room(WANTED);
        assert!(buffer.bytes.len() <= WANTED);
    }

    #[test]
    fn refuses_impossible_lengths() {
        assert!(frame_length(b"Z\0\0\0\x03").is_err());
        assert!(frame_length(b"Z\xff\xff\xff\xff").is_err());
        assert_eq!(frame_length(b"Z\0\0").unwrap(), None);
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_server_error(&bytes);
            let mut buffer = FrameBuffer::new();
            feed(&mut buffer, &bytes);
            while let Ok(Some(frame)) = buffer.next_frame() {
                let _ = parse_server_error(buffer.body(frame));
            }
        }

        #[test]
        fn splitting_the_input_changes_nothing(bodies in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..300), 1..20), cut in 1usize..64)
        {
            let mut stream = Vec::new();
            for body in &bodies {
                stream.push(b'd');
                stream.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
                stream.extend_from_slice(body);
            }
            let mut buffer = FrameBuffer::new();
            let mut seen = Vec::new();
            for part in stream.chunks(cut) {
                feed(&mut buffer, part);
                while let Some(frame) = buffer.next_frame().unwrap() {
                    seen.push(buffer.body(frame).to_vec());
                }
            }
            prop_assert_eq!(seen, bodies);
        }
    }
}
