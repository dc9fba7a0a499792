//! The password file: reading it, and finding the password of a server in it. It refuses a file that others can read.
//! Source: "The Password File" in the libpq documentation, `passwordFromFile` in `fe-connect.c`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::password::Password;

/// Bits that give a file to the group or to the world.
const SHARED_BITS: u32 = 0o077;

/// What a line of the file is matched against.
pub(super) struct Wanted<'a> {
    pub host: &'a str,
    pub port: u16,
    pub dbname: &'a str,
    pub user: &'a str,
}

/// The lines of a password file, kept because another database of the same server may match another line. No `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct PasswordFile {
    lines: Vec<String>,
}

impl PasswordFile {
    /// Read it. A missing file is empty; one that cannot be used is empty with a warning, as for libpq: the server may
    /// not ask for a password.
    pub fn read(path: &Path) -> PasswordFile {
        let shown = path.display();
        let Ok(metadata) = std::fs::metadata(path) else {
            return PasswordFile::default();
        };
        if !metadata.is_file() {
            log::warn!("password file \"{shown}\" is ignored: it is not a plain file");
            return PasswordFile::default();
        }
        if metadata.mode() & SHARED_BITS != 0 {
            log::warn!(
                "password file \"{shown}\" is ignored: it has group or world access; \
                 permissions should be u=rw (0600) or less"
            );
            return PasswordFile::default();
        }
        match std::fs::read(path) {
            Ok(content) => PasswordFile::parse(&content),
            Err(error) => {
                log::warn!("password file \"{shown}\" is ignored: {error}");
                PasswordFile::default()
            }
        }
    }

    fn parse(content: &[u8]) -> PasswordFile {
        let lines = content
            .split(|&byte| byte == b'\n')
            // A line in another encoding cannot match, the others still can.
            .filter_map(|line| std::str::from_utf8(line).ok())
            .map(|line| line.trim_end_matches('\r'))
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_string)
            .collect();
        PasswordFile { lines }
    }

    /// The password of the first line that matches.
    pub fn find(&self, wanted: &Wanted<'_>) -> Option<Password> {
        let port = wanted.port.to_string();
        self.lines.iter().find_map(|line| {
            let rest = match_field(line, wanted.host)?;
            let rest = match_field(rest, &port)?;
            let rest = match_field(rest, wanted.dbname)?;
            let rest = match_field(rest, wanted.user)?;
            Some(Password::new(unescape(rest)))
        })
    }
}

/// Whether the next field of the line stands for `wanted`: `*`, or the same text with `\` before any character. Gives
/// what follows the ":".
fn match_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut field = line.chars();
    let mut wanted = wanted.chars();
    loop {
        let c = match field.next()? {
            ':' => return wanted.next().is_none().then_some(field.as_str()),
            '\\' => field.next()?,
            c => c,
        };
        if wanted.next() != Some(c) {
            return None;
        }
    }
}

fn unescape(text: &str) -> String {
    let mut chars = text.chars();
    let mut plain = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        match c {
            // A lone backslash at the end stands for itself.
            '\\' => plain.push(chars.next().unwrap_or('\\')),
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::{PasswordFile, Wanted};

    const LINES: &str = "# comment\r\n\
        \n\
        db\\:1:5432:film:ann:co\\:lo\\\\n:end\n\
        db2:*:film:*:port\\\n\
        localhost:5432:*:ann:local\r\n\
        *:*:*:bob\\\\x:any\n\
        broken\n\
        db3:5432:film:ann:\n\
        db3:5432:film:ann:second\n\
        été:5432:f:u:sommer\n";

    fn find(host: &str, port: u16, dbname: &str, user: &str) -> Option<String> {
        let wanted = Wanted {
            host,
            port,
            dbname,
            user,
        };
        PasswordFile::parse(LINES.as_bytes())
            .find(&wanted)
            .map(|password| password.expose().to_string())
    }

    #[test]
    fn finds_the_first_match() {
        for (host, port, dbname, user, password) in [
            ("db:1", 5432, "film", "ann", Some("co:lo\\n:end")),
            ("db:1", 5433, "film", "ann", None),
            ("db:1", 5432, "film", "an", None),
            ("db:1", 5432, "films", "ann", None),
            ("db2", 1, "film", "zed", Some("port\\")),
            ("localhost", 5432, "x", "ann", Some("local")),
            ("h", 9, "x", "bob\\x", Some("any")),
            ("broken", 5432, "x", "y", None),
            ("db3", 5432, "film", "ann", Some("")),
            ("été", 5432, "f", "u", Some("sommer")),
            ("# comment", 5432, "f", "u", None),
        ] {
            assert_eq!(
                find(host, port, dbname, user).as_deref(),
                password,
                "{host}"
            );
        }
    }

    #[test]
    fn ignores_a_file_that_others_can_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"*:*:*:*:secret\n").unwrap();
        for (mode, is_used) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(file.path(), permissions).unwrap();
            let read = PasswordFile::read(file.path());
            assert_eq!(read != PasswordFile::default(), is_used, "{mode:o}");
        }
    }

    #[test]
    fn ignores_what_is_not_a_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(PasswordFile::read(dir.path()) == PasswordFile::default());
        assert!(PasswordFile::read(&dir.path().join("none")) == PasswordFile::default());
    }
}
