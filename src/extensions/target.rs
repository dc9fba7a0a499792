//! What the target offers and has of extensions, and their creation there. Runs in the parent; decides nothing.

use postgres::error::SqlState;

use super::plan::{Creation, Offers, Plan};
use crate::error::{Context, Error, Result};
use crate::ident::{quote_ident, shorten};
use crate::pg::wire::Connection;

pub fn fetch_offers(target: &mut Connection) -> Result<Offers> {
    let mut offers = Offers::new();
    // What is installed may have lost its files.
    target
        .query_each(
            "SELECT coalesce(a.name, x.extname), a.default_version, x.extversion, n.nspname \
             FROM pg_catalog.pg_available_extensions a \
             FULL JOIN pg_catalog.pg_extension x ON x.extname = a.name \
             LEFT JOIN pg_catalog.pg_namespace n ON n.oid = x.extnamespace",
            &mut |row| {
                let offer = offers.entry(row.text(0)?.to_string()).or_default();
                offer.default_version = row.opt_text(1)?.map(str::to_string);
                offer.installed = match (row.opt_text(2)?, row.opt_text(3)?) {
                    (Some(version), Some(schema)) => {
                        Some((version.to_string(), schema.to_string()))
                    }
                    _ => None,
                };
                Ok(())
            },
        )
        .context("could not list the extensions of the target")?;
    target
        .query_each(
            "SELECT name, version FROM pg_catalog.pg_available_extension_versions",
            &mut |row| {
                let offer = offers.entry(row.text(0)?.to_string()).or_default();
                offer.versions.insert(row.text(1)?.to_string());
                Ok(())
            },
        )
        .context("could not list the versions of extensions that the target offers")?;
    Ok(offers)
}

/// What becomes of those that are there already.
pub fn tell(plan: &Plan<'_>) {
    if !plan.kept.is_empty() {
        log::info!(
            "extensions that exist on the target are kept as they are: {}",
            shorten(&plan.kept)
        );
    }
    for warning in &plan.warnings {
        log::warn!("{warning}");
    }
}

/// Create one. Its scripts may rely on triggers, so this session must not be a replica's.
pub fn create(creation: &Creation<'_>, target: &mut Connection) -> Result<()> {
    let extension = creation.extension;
    let name = quote_ident(&extension.name);
    target.execute(&creation.sql()).map_err(|error| {
        with_way_out(error.context(format!("could not create extension {name}")))
    })?;
    let version = creation.version.unwrap_or("the target's default version");
    log::info!(
        "created extension {name} in schema \"{}\", {version}",
        extension.schema
    );
    Ok(())
}

fn with_way_out(error: Error) -> Error {
    if !error.is_any_of(&[SqlState::INSUFFICIENT_PRIVILEGE]) {
        return error;
    }
    error.with_hint(
        "Run \"pgcopydb copy extensions\" as a superuser of the target, then \"pgcopydb clone --skip-extensions\".",
    )
}
