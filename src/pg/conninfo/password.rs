//! A secret that cannot be printed by accident. Pure; used in every process that connects or starts a child.

use std::fmt;

/// A password or a passphrase. `Debug` and `Display` hide it; only `expose` gives the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(text: impl Into<String>) -> Password {
        Password(text.into())
    }

    /// The secret itself: for the wire, a child's environment or OpenSSL, never for a message or an argument.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl fmt::Display for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}
