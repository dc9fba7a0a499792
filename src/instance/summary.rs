//! What was done to all databases, in which time: told and written by the instance's parent when nothing is left to copy.
//! Each database has a summary of its own in its folder.

use std::time::Duration;

use super::site::Site;
use crate::error::Result;
use crate::report::instance::InstanceSummary;
use crate::workdir::WorkDir;
use crate::workdir::paths::Paths;

pub fn write(top: &WorkDir, sites: &[Site], elapsed: Duration) -> Result<()> {
    let folders: Vec<(String, Paths)> = sites
        .iter()
        .map(|site| (site.database.name.clone(), Paths::new(&site.dir)))
        .collect();
    let summary = InstanceSummary::read(&folders, Some(elapsed.as_millis() as u64))?;
    top.write_json(&top.paths.summary_json(), &summary)?;
    log::info!(
        "{:>10} {:>12} {:>14} {:>10} {:>10}  database",
        "tables",
        "rows",
        "bytes",
        "copy ms",
        "index ms"
    );
    let mut all = [0u64; 5];
    for database in &summary.databases {
        let tables = database.summary.iter().flat_map(|it| &it.tables);
        let mut of_it = [0u64; 5];
        for table in tables {
            let numbers = [1, table.rows, table.bytes, table.copy_ms, table.index_ms];
            of_it
                .iter_mut()
                .zip(numbers)
                .for_each(|(sum, it)| *sum += it);
        }
        all.iter_mut().zip(of_it).for_each(|(sum, it)| *sum += it);
        tell(of_it, &database.database);
    }
    tell(all, "all together");
    Ok(())
}

fn tell([tables, rows, bytes, copy_ms, index_ms]: [u64; 5], name: &str) {
    log::info!("{tables:>10} {rows:>12} {bytes:>14} {copy_ms:>10} {index_ms:>10}  {name}");
}
