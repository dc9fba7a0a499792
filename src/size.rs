//! Sizes as users write them: `10737418240`, `10 GB`, `512MB`, `1.5 TB`. Pure. Units count in powers of 1024 and are
//! read in any case, as the server's `pg_size_bytes()` does.

/// The number of bytes, or a reason that names no option (the caller knows which one it was).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = unit_shift(unit.trim())
        .ok_or_else(|| format!("unknown size unit in \"{text}\": use B, kB, MB, GB, TB or PB"))?;
    let malformed =
        || format!("\"{text}\" is not a size: use bytes or a number with a unit, as in \"10 GB\"");
    let too_large = || format!("size \"{text}\" is too large");

    let Some((whole, fraction)) = number.split_once('.') else {
        let count: u64 = if number.is_empty() {
            return Err(malformed());
        } else {
            number.parse().map_err(|_| too_large())?
        };
        return count.checked_mul(1 << shift).ok_or_else(too_large);
    };
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(malformed());
    }
    let count: f64 = number.parse().map_err(|_| malformed())?;
    let bytes = count * (1u64 << shift) as f64;
    // Beyond 2^63 a server's bigint could not hold it either.
    if bytes >= i64::MAX as f64 {
        return Err(too_large());
    }
    Ok(bytes.round() as u64)
}

fn unit_shift(unit: &str) -> Option<u32> {
    match unit.to_ascii_lowercase().as_str() {
        "" | "b" | "byte" | "bytes" => Some(0),
        "kb" | "k" => Some(10),
        "mb" | "m" => Some(20),
        "gb" | "g" => Some(30),
        "tb" | "t" => Some(40),
        "pb" | "p" => Some(50),
        _ => None,
    }
}

/// A size for `maintenance_work_mem`, in the unit the server counts in.
pub fn parse_memory_setting(text: &str) -> Result<String, String> {
    // The server's own limits (guc_tables.c): 1 MB before version 17, and a positive int of kilobytes.
    const LEAST_KB: u64 = 1024;
    const MOST_KB: u64 = i32::MAX as u64;
    let kilobytes = parse_size(text)? / 1024;
    if !(LEAST_KB..=MOST_KB).contains(&kilobytes) {
        return Err(format!(
            "\"{text}\" is out of range: use 1 MB to 2047 GB, with its unit"
        ));
    }
    Ok(format!("{kilobytes}kB"))
}

/// A number of bytes as `pg_size_pretty()` writes it.
pub fn pretty_size(bytes: u64) -> String {
    // Below ten of a unit the smaller one says more.
    const ENOUGH: u64 = 10 * 1024;
    if bytes < ENOUGH {
        return format!("{bytes} bytes");
    }
    let mut scaled = u128::from(bytes);
    let mut name = "";
    for unit in ["kB", "MB", "GB", "TB", "PB"] {
        scaled = u128::from(bytes) >> unit_shift(unit).unwrap_or(0);
        name = unit;
        if scaled < u128::from(ENOUGH) {
            break;
        }
    }
    let shift = unit_shift(name).unwrap_or(0);
    let half = u128::from(bytes) & ((1 << shift) >> 1) > 0;
    format!("{} {name}", scaled + u128::from(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_the_server_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("10737418240", 10 << 30),
            ("10 GB", 10 << 30),
            ("10GB", 10 << 30),
            ("10 gb", 10 << 30),
            ("512MB", 512 << 20),
            (" 200 kB ", 200 << 10),
            ("1.5 TB", 3 << 39),
            ("8 B", 8),
            ("7 bytes", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "GB",
            "-1",
            "10 XB",
            "1..5 GB",
            ".5 GB",
            "5. GB",
            "10 GB 2",
            "99999999999999999999",
            "99999999 PB",
            "99999999999.5 TB",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_as_the_server_writes_them() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (10239, "10239 bytes"),
            (10240, "10 kB"),
            (557056, "544 kB"),
            (10485247, "10239 kB"),
            (1253376, "1224 kB"),
            (1 << 40, "1024 GB"),
            (1536 << 30, "1536 GB"),
        ] {
            assert_eq!(pretty_size(bytes), text);
        }
    }

    #[test]
    fn memory_is_given_in_kilobytes_and_within_limits() {
        assert_eq!(parse_memory_setting("512 MB").as_deref(), Ok("524288kB"));
        assert_eq!(parse_memory_setting("2GB").as_deref(), Ok("2097152kB"));
        assert!(parse_memory_setting("512").is_err());
        assert!(parse_memory_setting("3 TB").is_err());
    }
}
