//! The local time of day as text, by the C library's own rules. Used by the log of every process.

use std::ffi::{CStr, CString};

/// Format a moment (seconds since 1970) with strftime(3) in the local time zone; `None` if the format gives no text.
#[expect(unsafe_code, reason = "localtime_r(3) and strftime(3)")]
pub fn format_local(seconds: i64, format: &CStr) -> Option<String> {
    let mut buffer = [0u8; 128];
    // SAFETY: tm is plain data that localtime_r fills; strftime writes at most the length it is given, and returns how
    // much it wrote.
    let length = unsafe {
        let time = seconds as libc::time_t;
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&time, &mut parts).is_null() {
            return None;
        }
        libc::strftime(
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            format.as_ptr(),
            &parts,
        )
    };
    (length > 0).then(|| String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A format of the user's, unless it holds a zero byte.
pub fn time_format(text: &str) -> Option<CString> {
    CString::new(text).ok()
}
