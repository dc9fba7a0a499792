//! Who wants in, and what may be asked of them. Plain data for startup and authentication.

use crate::pg::conninfo::{ChannelBinding, RequireAuth};

/// Who connects to what, and how it may prove that.
pub struct Login<'a> {
    pub user: &'a str,
    pub dbname: &'a str,
    pub password: Option<&'a str>,
    /// Further startup parameters: application_name, options, replication, ...
    pub parameters: Vec<(String, String)>,
    pub channel_binding: ChannelBinding,
    /// The server certificate's hash for SCRAM channel binding, when TLS is on and the hash is known.
    pub server_end_point: Option<Vec<u8>>,
    pub require_auth: &'a RequireAuth,
}
