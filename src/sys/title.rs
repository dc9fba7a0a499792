//! The process title that `ps` shows. Runs first in the parent, when a password was given on the command line, then in
//! each child.

use std::ffi::CString;

/// Overwrite this process's arguments with `title` (cut to the room they took) and set its short name.
pub fn set(title: &str) {
    if let Ok(name) = CString::new(title.replace("pgcopydb: ", "")) {
        let _ = nix::sys::prctl::set_name(&name);
    }
    if let Some((start, end)) = argument_area() {
        overwrite(start, end, title.as_bytes());
    }
}

/// Overwrite this process's arguments with these, which must not be longer.
pub fn replace_arguments(words: &[String]) {
    if let Some((start, end)) = argument_area() {
        overwrite(start, end, words.join("\0").as_bytes());
    }
}

/// The addresses of the argument strings: fields 48 and 49 of proc(5) stat.
fn argument_area() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the command in parentheses, may itself hold spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let start = fields.get(45)?.parse().ok()?;
    let end = fields.get(46)?.parse().ok()?;
    (start != 0 && end > start).then_some((start, end))
}

#[expect(
    unsafe_code,
    reason = "the kernel shows what stands at these addresses"
)]
fn overwrite(start: usize, end: usize, title: &[u8]) {
    // std copies the arguments when they are read, and this crate reads them once, before the first call: nobody
    // holds a reference into this area.
    let room = end - start;
    let length = title.len().min(room - 1);
    // SAFETY: the kernel names [start, end) as this process's argument strings, which live on the initial stack,
    // writable, for the life of the process.
    unsafe {
        let area = start as *mut u8;
        std::ptr::copy_nonoverlapping(title.as_ptr(), area, length);
        std::ptr::write_bytes(area.add(length), 0, room - length);
    }
}
