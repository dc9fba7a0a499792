//! Commit times as text. pgoutput alone sends a number; the other plugins let the server print it. Pure.

use std::fmt::Write;

const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;

/// Days from 0000-03-01 of the proleptic Gregorian calendar, where the arithmetic below starts, to 2000-01-01.
const DAYS_BEFORE_2000: i64 = 730_425;

/// 400 years, after which the calendar repeats.
const DAYS_PER_ERA: i64 = 146_097;

/// Microseconds since 2000-01-01 00:00:00 UTC, as timestamptz prints them in UTC with DateStyle ISO. Every number has a
/// text, so that no message can make us fail here.
pub(super) fn timestamptz_text(microseconds: i64) -> String {
    let days = microseconds.div_euclid(MICROSECONDS_PER_DAY);
    let time = microseconds.rem_euclid(MICROSECONDS_PER_DAY);
    let (year, month, day) = date_of(days);
    // There is no year 0: 1 BC comes before AD 1.
    let (shown, era) = if year > 0 {
        (year, "")
    } else {
        (1 - year, " BC")
    };
    let seconds = time / 1_000_000;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::with_capacity(32);
    let _ = write!(
        text,
        "{shown:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
    );
    let fraction = time % 1_000_000;
    if fraction != 0 {
        let digits = format!("{fraction:06}");
        let _ = write!(text, ".{}", digits.trim_end_matches('0'));
    }
    text.push_str("+00");
    text.push_str(era);
    text
}

/// The date so many days after 2000-01-01. Years begin in March here, so that the leap day is the last of its year.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_BEFORE_2000;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / (DAYS_PER_ERA - 1);
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months, from March or August on, have 153 days.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::timestamptz_text;

    /// Expected texts are the server's own (SELECT '2000-01-01Z'::timestamptz + ...).
    #[test]
    fn prints_as_the_server_does() {
        for (microseconds, text) in [
            (0, "2000-01-01 00:00:00+00"),
            (-1, "1999-12-31 23:59:59.999999+00"),
            (848_561_778_123_400, "2026-11-21 07:36:18.1234+00"),
            (5_097_600_000_000, "2000-02-29 00:00:00+00"),
            (5_184_000_000_000, "2000-03-01 00:00:00+00"),
            (-63_113_904_000_000_000, "0001-01-01 00:00:00+00 BC"),
            (-63_082_281_600_000_001, "0001-12-31 23:59:59.999999+00 BC"),
            (-63_082_281_600_000_000, "0001-01-01 00:00:00+00"),
            (253_370_851_200_000_000, "10029-01-01 00:00:00+00"),
        ] {
            assert_eq!(timestamptz_text(microseconds), text, "{microseconds}");
        }
    }

    #[test]
    fn every_number_has_a_text() {
        for microseconds in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
            assert!(timestamptz_text(microseconds).contains("-"));
        }
    }
}
