//! Authentication as a state machine over the server's requests; no I/O. SCRAM, md5 and password come from
//! postgres-protocol. The password leaves this file only as the protocol wants it.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as SaslBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

use super::frame::Body;
use super::login::Login;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::pg::conninfo::{AuthMethod, ChannelBinding};

enum State {
    Start,
    /// With whether it binds the channel: that counts once the server has proved itself.
    Sasl(Box<ScramSha256>, bool),
    SaslFinished,
    Finished,
}

/// Answers the server's authentication requests.
pub struct Authentication<'a> {
    login: &'a Login<'a>,
    side: Side,
    state: State,
    is_channel_bound: bool,
    was_asked: bool,
}

impl<'a> Authentication<'a> {
    pub fn new(login: &'a Login<'a>, side: Side) -> Authentication<'a> {
        Authentication {
            login,
            side,
            state: State::Start,
            is_channel_bound: false,
            was_asked: false,
        }
    }

    /// Whether the server has sent any request.
    pub fn was_asked(&self) -> bool {
        self.was_asked
    }

    /// One AuthenticationXxx message in, the message to send back out, if any.
    pub fn step(&mut self, body: &[u8]) -> Result<Option<BytesMut>> {
        self.was_asked = true;
        let mut body = Body::new(body);
        match body.i32()? {
            0 => self.ok().map(|()| None),
            3 => self.password("password", AuthMethod::Password, |login, out| {
                frontend::password_message(login.password.unwrap_or_default().as_bytes(), out)
            }),
            5 => {
                let salt = body.take(4)?;
                let salt = [salt[0], salt[1], salt[2], salt[3]];
                self.password("md5", AuthMethod::Md5, move |login, out| {
                    let password = login.password.unwrap_or_default();
                    let hash = md5_hash(login.user.as_bytes(), password.as_bytes(), salt);
                    frontend::password_message(hash.as_bytes(), out)
                })
            }
            10 => self.begin_sasl(&mut body).map(Some),
            11 => self.continue_sasl(body.rest()).map(Some),
            12 => self.finish_sasl(body.rest()).map(|()| None),
            2 | 7 | 8 => {
                Err(self.refuse("the server asks for GSS authentication, which is not supported"))
            }
            9 => {
                Err(self.refuse("the server asks for SSPI authentication, which is not supported"))
            }
            method => Err(self.refuse(format!(
                "the server asks for unknown authentication method {method}"
            ))),
        }
    }

    /// At ReadyForQuery: nothing may have been left out.
    pub fn check_finished(&self) -> Result<()> {
        match self.state {
            State::Finished => Ok(()),
            _ => Err(self.refuse("the server skipped authentication")),
        }
    }

    fn ok(&mut self) -> Result<()> {
        match self.state {
            State::Start => {
                if !self.login.require_auth.allows(AuthMethod::Trust) {
                    return Err(self.refuse(
                        "the server asked for no authentication, which \"require_auth\" does not allow",
                    ));
                }
                self.check_channel_binding()?;
            }
            // A server that never proved that it knows the password is not the one we want.
            State::Sasl(..) => {
                return Err(self.refuse("the server ended SCRAM authentication early"));
            }
            State::SaslFinished | State::Finished => {}
        }
        self.state = State::Finished;
        Ok(())
    }

    fn check_channel_binding(&self) -> Result<()> {
        if self.login.channel_binding == ChannelBinding::Require && !self.is_channel_bound {
            return Err(
                self.refuse("channel binding is required, but the server authenticated without it")
            );
        }
        Ok(())
    }

    fn need_password(&self) -> Result<&'a str> {
        self.login.password.ok_or_else(|| {
            self.refuse(format!(
                "a password is needed for user \"{}\" and none was given",
                self.login.user
            ))
            .with_hint("Put it into the password file, PGPASSWORD, or the connection string.")
        })
    }

    fn password(
        &mut self,
        method: &str,
        allowed_as: AuthMethod,
        write: impl FnOnce(&Login<'_>, &mut BytesMut) -> std::io::Result<()>,
    ) -> Result<Option<BytesMut>> {
        if !self.login.require_auth.allows(allowed_as) {
            return Err(
                self.refuse(format!("the server asked for {method} authentication, which \"require_auth\" does not allow"))
            );
        }
        self.expect_start()?;
        self.check_channel_binding()?;
        self.need_password()?;
        let mut out = BytesMut::new();
        write(self.login, &mut out).map_err(|_| self.refuse("the password holds a zero byte"))?;
        // The server confirms with AuthenticationOk, which must not count as "no authentication".
        self.state = State::SaslFinished;
        Ok(Some(out))
    }

    /// One method a login: a server that asks for another one in the middle wants the password out of us.
    fn expect_start(&self) -> Result<()> {
        match self.state {
            State::Start => Ok(()),
            _ => Err(self.refuse("the server asks for a second method of authentication")),
        }
    }

    fn begin_sasl(&mut self, body: &mut Body<'_>) -> Result<BytesMut> {
        self.expect_start()?;
        let mut offered = Vec::new();
        loop {
            let mechanism = body.string()?;
            if mechanism.is_empty() {
                break;
            }
            offered.push(mechanism);
        }
        if !self.login.require_auth.allows(AuthMethod::ScramSha256) {
            return Err(self.refuse(
                "the server asked for SCRAM authentication, which \"require_auth\" does not allow",
            ));
        }
        let has = |name: &str| offered.iter().any(|mechanism| mechanism == name);
        let binding = match self.login.channel_binding {
            ChannelBinding::Disable => None,
            ChannelBinding::Prefer | ChannelBinding::Require => self.login.server_end_point.clone(),
        };
        let (mechanism, sasl_binding) = match binding {
            Some(hash) if has(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, SaslBinding::tls_server_end_point(hash))
            }
            // "We could have, but you did not offer": the server can then detect a downgrade.
            Some(_) if has(SCRAM_SHA_256) => (SCRAM_SHA_256, SaslBinding::unrequested()),
            None if has(SCRAM_SHA_256) => (SCRAM_SHA_256, SaslBinding::unsupported()),
            _ => {
                return Err(self.refuse(format!(
                    "the server offers no SASL mechanism that is supported (it offers {})",
                    offered.join(", ")
                )));
            }
        };
        let binds = mechanism == SCRAM_SHA_256_PLUS;
        if !binds {
            self.check_channel_binding()?;
        }
        let scram = ScramSha256::new(self.need_password()?.as_bytes(), sasl_binding);
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut out).map_err(|error| {
            self.refuse(format!("could not start SCRAM authentication: {error}"))
        })?;
        self.state = State::Sasl(Box::new(scram), binds);
        Ok(out)
    }

    fn continue_sasl(&mut self, data: &[u8]) -> Result<BytesMut> {
        let iterations = scram_iterations(data);
        if iterations.is_some_and(|iterations| iterations > MOST_ITERATIONS) {
            return Err(self.refuse(format!(
                "the server asks for {} iterations of SCRAM, more than {MOST_ITERATIONS}: they would take too long",
                iterations.unwrap_or_default()
            )));
        }
        let State::Sasl(scram, _) = &mut self.state else {
            return Err(self.refuse("the server continued a SCRAM exchange that never began"));
        };
        let mut out = BytesMut::new();
        scram
            .update(data)
            .and_then(|()| frontend::sasl_response(scram.message(), &mut out))
            .map_err(|error| scram_error(self.side, &error))?;
        Ok(out)
    }

    fn finish_sasl(&mut self, data: &[u8]) -> Result<()> {
        let State::Sasl(scram, binds) = &mut self.state else {
            return Err(self.refuse("the server finished a SCRAM exchange that never began"));
        };
        scram
            .finish(data)
            .map_err(|error| scram_error(self.side, &error))?;
        self.is_channel_bound = *binds;
        self.state = State::SaslFinished;
        Ok(())
    }

    fn refuse(&self, message: impl Into<String>) -> Error {
        Error::on(self.side, message)
    }
}

/// Some seconds of hashing. PostgreSQL's own default is 4096; a server that asks for billions (it may be anybody, as it has
/// proved nothing yet) would keep us busy for an hour, deaf to signals.
const MOST_ITERATIONS: u64 = 10_000_000;

/// Of a server's first message, "r=NONCE,s=SALT,i=COUNT".
fn scram_iterations(data: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(data).ok()?;
    text.split(',')
        .find_map(|field| field.strip_prefix("i="))?
        .parse()
        .ok()
}

fn scram_error(side: Side, error: &std::io::Error) -> Error {
    let kind = match side {
        Side::Source => ErrorKind::Source,
        Side::Target => ErrorKind::Target,
    };
    Error::new(kind, format!("SCRAM authentication failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::Authentication;
    use crate::error::Side;
    use crate::pg::conninfo::{ChannelBinding, RequireAuth};
    use crate::pg::wire::login::Login;

    /// A man in the middle who offers channel binding and then asks for the password does not get it.
    #[test]
    fn a_second_method_is_refused() {
        let require_auth = RequireAuth::Any;
        for channel_binding in [ChannelBinding::Prefer, ChannelBinding::Require] {
            for second in [&[0, 0, 0, 3][..], &[0, 0, 0, 5, 1, 2, 3, 4]] {
                let login = Login {
                    user: "u",
                    dbname: "d",
                    password: Some("secret"),
                    parameters: Vec::new(),
                    channel_binding,
                    server_end_point: Some(vec![7; 32]),
                    require_auth: &require_auth,
                };
                let mut authentication = Authentication::new(&login, Side::Source);
                let offer = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
                assert!(authentication.step(offer).unwrap().is_some());
                let error = authentication.step(second).unwrap_err().to_string();
                assert!(error.contains("a second method"), "{error}");
                // Nor at once, where it is required.
                let mut authentication = Authentication::new(&login, Side::Source);
                let is_refused = authentication.step(second).is_err();
                assert_eq!(is_refused, channel_binding == ChannelBinding::Require);
            }
        }
    }
}
