//! Where the examples come from: `tests/fuzz/corpus/TARGET`, which holds what was found too, and the golden files of the
//! decoders and archives, which are the server's own words.

use std::fs;
use std::path::{Path, PathBuf};

use crate::targets::Target;

pub const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// In an order that does not change from run to run.
pub fn of(target: &Target) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = files(&Path::new(CORPUS).join(target.name), "")
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    for (folder, ending, convert) in target.golden {
        let paths = files(&Path::new(GOLDEN).join(folder), ending);
        assert!(!paths.is_empty(), "no golden files {folder}/*{ending}");
        seeds.extend(paths.iter().map(|path| convert(&fs::read(path).unwrap())));
    }
    seeds
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    files
}

pub fn as_it_is(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

/// "LSN TEXT" lines with TEXT as a JSON string: the messages, one a line.
pub fn text_messages(golden: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in std::str::from_utf8(golden).unwrap().lines() {
        let (_, text) = line.split_once(' ').unwrap();
        let text: String = serde_json::from_str(text).unwrap();
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    }
    out
}

/// "LSN HEX" lines: the messages, each with its length before it.
pub fn binary_messages(golden: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in std::str::from_utf8(golden).unwrap().lines() {
        let (_, hex) = line.split_once(' ').unwrap();
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|place| u8::from_str_radix(&hex[2 * place..2 * place + 2], 16).unwrap())
            .collect();
        out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}
