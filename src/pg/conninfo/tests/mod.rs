//! Whole connection strings through `ConnInfo::parse_with`, in an environment of the test's own.

mod children;
mod files;
mod forms;
mod refusals;
mod values;

use std::path::PathBuf;

use super::{ConnInfo, Environment};
use crate::error::Side;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment {
        vars: variables
            .iter()
            .map(|(name, value)| (name.to_string(), value.into()))
            .collect(),
        home: None,
        os_user: Some("me".to_string()),
        socket_dir: PathBuf::from("/run/pg"),
        sysconf_dir: PathBuf::from("/nonexistent"),
    }
}

fn parse(text: &str) -> Result<ConnInfo, String> {
    parse_in(text, &environment(&[]))
}

fn parse_in(text: &str, environment: &Environment) -> Result<ConnInfo, String> {
    ConnInfo::parse_with(Side::Source, text, environment).map_err(|error| {
        assert_eq!(error.side(), Some(Side::Source));
        let prefix = "cannot use the source connection string: ";
        error.to_string().replacen(prefix, "", 1)
    })
}

fn identity(text: &str) -> String {
    match parse(text) {
        Ok(info) => info.identity(),
        Err(error) => format!("error: {error}"),
    }
}

fn password(info: &ConnInfo) -> Option<String> {
    let password = info.password_for(&info.hosts()[0]);
    password.map(|password| password.expose().to_string())
}
