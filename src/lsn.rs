//! Positions in the write-ahead log. Pure; nothing else in the crate prints or parses an LSN.

use std::fmt;
use std::str::FromStr;

/// A write-ahead log position, in bytes since the beginning of the log. Zero is "invalid", as on the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    pub const INVALID: Lsn = Lsn(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

/// How the log is cut into files on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WalSegments {
    pub timeline: u32,
    /// Bytes of one segment: a power of two from 1 MB to 1 GB.
    pub size: u64,
}

impl WalSegments {
    /// The name of the file that holds a position: timeline, then the segment's number in two parts.
    pub fn name(&self, lsn: Lsn) -> String {
        let size = self.size.max(1);
        let number = lsn.0 / size;
        let each = (1u64 << 32) / size.min(1 << 32);
        format!(
            "{:08X}{:08X}{:08X}",
            self.timeline,
            number / each,
            number % each
        )
    }
}

/// The text was not of the form `XXXXXXXX/XXXXXXXX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseLsnError(String);

impl fmt::Display for ParseLsnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid LSN \"{}\": expected two hexadecimal numbers like 0/1A2B3C8",
            self.0
        )
    }
}

impl std::error::Error for ParseLsnError {}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let invalid = || ParseLsnError(text.to_string());
        let (high, low) = text.split_once('/').ok_or_else(invalid)?;
        let part = |digits: &str| {
            // from_str_radix would accept a leading sign, the server does not.
            if digits.is_empty()
                || digits.len() > 8
                || !digits.bytes().all(|b| b.is_ascii_hexdigit())
            {
                return Err(invalid());
            }
            u64::from_str_radix(digits, 16).map_err(|_| invalid())
        };
        Ok(Lsn(part(high)? << 32 | part(low)?))
    }
}

impl serde::Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Lsn, WalSegments};

    #[test]
    fn segments_are_named_as_on_the_server() {
        let name = |size: u64, lsn: u64| WalSegments { timeline: 1, size }.name(Lsn(lsn));
        assert_eq!(name(16 << 20, 0x1_8D17_3AF8), "00000001000000010000008D");
        assert_eq!(name(16 << 20, 0x100_0000), "000000010000000000000001");
        assert_eq!(name(1 << 30, 0x1_8D17_3AF8), "000000010000000100000002");
    }

    #[test]
    fn prints_as_the_server_does() {
        assert_eq!(Lsn(0x1_8D17_3AF8).to_string(), "1/8D173AF8");
        assert_eq!(Lsn::INVALID.to_string(), "0/0");
    }

    #[test]
    fn parses_what_it_prints_and_refuses_the_rest() {
        assert_eq!("1/8D173AF8".parse(), Ok(Lsn(0x1_8D17_3AF8)));
        assert_eq!("FFFFFFFF/FFFFFFFF".parse(), Ok(Lsn(u64::MAX)));
        for bad in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "+1/0",
            "0/123456789",
            "0/0/0",
            "x/0",
            "0/ 0",
        ] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
