//! How fast something goes and when it will be done, if it goes on like that. Pure.

/// Per second, of what took `elapsed_ms`.
pub fn per_second(count: u64, elapsed_ms: u64) -> u64 {
    let rate = u128::from(count) * 1000 / u128::from(elapsed_ms.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// For one thing of which this fraction took `elapsed_ms`; `None` before there is anything to go by.
pub fn seconds_left_of(fraction: f64, elapsed_ms: u64) -> Option<u64> {
    seconds_left(fraction, 0.0, 1.0, elapsed_ms)
}

/// From `before` to `now` of `total` took `elapsed_ms`: how long the rest will take.
pub fn seconds_left(now: f64, before: f64, total: f64, elapsed_ms: u64) -> Option<u64> {
    if now >= total {
        return Some(0);
    }
    let gained = now - before;
    (gained > 0.0 && elapsed_ms > 0).then(|| {
        let seconds = (total - now) / gained * elapsed_ms as f64 / 1000.0;
        // From a float: saturates, and a day too many is as good as any.
        seconds.ceil() as u64
    })
}

#[cfg(test)]
mod tests {
    use super::{per_second, seconds_left, seconds_left_of};

    #[test]
    fn goes_on_as_it_went() {
        assert_eq!(per_second(10, 2000), 5);
        assert_eq!(per_second(u64::MAX, 0), u64::MAX);
        assert_eq!(seconds_left_of(0.25, 10_000), Some(30));
        assert_eq!(seconds_left_of(0.0, 10_000), None);
        assert_eq!(seconds_left(100.0, 50.0, 150.0, 10_000), Some(10));
        assert_eq!(seconds_left(150.0, 150.0, 150.0, 0), Some(0));
        assert_eq!(seconds_left(50.0, 50.0, 150.0, 10_000), None);
    }
}
