//! Times in UTC, as the log and HTTP write them.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::default();
}

/// Appends the current time in the format of RFC 3339, with milliseconds.
pub fn stamp(out: &mut String) {
    CLOCK.with_borrow_mut(|clock| clock.stamp(SystemTime::now(), out));
}

/// Caches the text of the time, without the milliseconds, from one line to the next.
#[derive(Default)]
struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    fn stamp(&mut self, now: SystemTime, out: &mut String) {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since_epoch.as_secs();
        if self.text.is_empty() || second != self.second {
            self.second = second;
            let date = Date::of(second);
            self.text = format!(
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
                date.year, date.month, date.day, date.hour, date.minute, date.second
            );
        }
        out.push_str(&self.text);
        out.push('.');
        let millis = since_epoch.subsec_millis();
        // Faster than the formatter, because each line of the log has one.
        for digit in [millis / 100, millis / 10 % 10, millis % 10] {
            out.push(char::from(b'0' + digit as u8));
        }
        out.push('Z');
    }
}

/// A moment in UTC.
struct Date {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    /// 0 is Sunday.
    weekday: u64,
}

impl Date {
    /// Converts seconds since the epoch, in the proleptic Gregorian calendar with years that
    /// begin in March.
    fn of(since_epoch: u64) -> Date {
        let days = since_epoch / 86_400 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Date {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: since_epoch / 3600 % 24,
            minute: since_epoch / 60 % 60,
            second: since_epoch % 60,
            weekday: (since_epoch / 86_400 + 4) % 7,
        }
    }
}

/// Appends the current time as an HTTP date (RFC 9110 §5.6.7).
pub fn push_http_date(out: &mut Vec<u8>) {
    thread_local! {
        /// The second of the last date written, and its text.
        static LAST: RefCell<(u64, String)> = RefCell::default();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let second = now.unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|(of, text)| {
        if text.is_empty() || *of != second {
            *of = second;
            *text = http_date_of(second);
        }
        out.extend_from_slice(text.as_bytes());
    });
}

/// Appends a time in the format of access logs: `22/Nov/2026:16:59:59 +0000`.
pub fn push_access_time(time: SystemTime, out: &mut String) {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let date = Date::of(since_epoch.as_secs());
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "{:02}/{}/{:04}:{:02}:{:02}:{:02} +0000",
        date.day,
        MONTHS[date.month as usize - 1],
        date.year,
        date.hour,
        date.minute,
        date.second
    );
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

fn http_date_of(since_epoch: u64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    let date = Date::of(since_epoch);
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        DAYS[date.weekday as usize],
        date.day,
        MONTHS[date.month as usize - 1],
        date.year,
        date.hour,
        date.minute,
        date.second
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_rfc_3339() {
        let mut clock = Clock::default();
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_795_366_799_999, "2026-11-22T16:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let at = UNIX_EPOCH + Duration::from_millis(millis);
            let mut line = String::new();
            clock.stamp(at, &mut line);
            assert_eq!(line, expected);
        }
        let mut text = String::new();
        let at = UNIX_EPOCH + Duration::from_secs(1_795_366_799);
        push_access_time(at, &mut text);
        assert_eq!(text, "22/Nov/2026:16:59:59 +0000");
        assert_eq!(http_date_of(1_795_366_799), "Sun, 22 Nov 2026 16:59:59 GMT");
    }
}
