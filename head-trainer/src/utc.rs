//! Times of day for people and for names of folders, in UTC and without a calendar library.

use std::time::{SystemTime, UNIX_EPOCH};

/// How a time is written.
#[derive(Clone, Copy)]
pub enum TimeForm {
    /// `20260131T235959Z`
    Name,
    /// `2026-01-31T23:59:59Z`
    Record,
}

/// `time` in UTC. Times before 1970 are taken as 1970.
pub fn utc(time: SystemTime, form: TimeForm) -> String {
    let secs = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = date(secs / 86_400);
    let (hour, minute, second) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    match form {
        TimeForm::Name => format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z"),
        TimeForm::Record => {
            format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
        }
    }
}

/// Gregorian year, month and day, `days` after 1 January 1970.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_by_hand() {
        // `date -u -d @N` for each.
        for (secs, name) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(secs);
            assert_eq!(utc(time, TimeForm::Record), name);
        }
        let time = UNIX_EPOCH + Duration::from_secs(1_767_225_599);
        assert_eq!(utc(time, TimeForm::Name), "20251231T235959Z");
    }
}
