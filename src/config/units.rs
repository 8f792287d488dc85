//! Durations and sizes in PostgreSQL's notation: a whole number and a unit.

use std::time::Duration;

/// The units of time of PostgreSQL's configuration, in microseconds.
const TIME_UNITS: [(&str, u64); 6] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("min", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];

/// The units of memory of PostgreSQL's configuration. As in PostgreSQL, the multiplier is 1024.
const SIZE_UNITS: [(&str, u64); 5] = [("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// Reads `10s`, `500ms`, `2min`. The error says how to write it.
pub fn duration(text: &str) -> Result<Duration, String> {
    quantity(text, &TIME_UNITS).map(Duration::from_micros).ok_or_else(|| {
        "write a whole number with a unit: us, ms, s, min, h or d, for example \"500ms\" or \"10s\"".to_owned()
    })
}

/// Reads `64MB`, `8kB`; returns bytes. The error says how to write it.
pub fn size_bytes(text: &str) -> Result<u64, String> {
    quantity(text, &SIZE_UNITS)
        .ok_or_else(|| "write a whole number with a unit: B, kB, MB, GB or TB, for example \"64MB\"".to_owned())
}

/// A number of bytes for people to read, in PostgreSQL's units.
pub fn size_text(bytes: u64) -> String {
    let unit = SIZE_UNITS.iter().rev().find(|(_, factor)| *factor > 1 && bytes >= *factor);
    match unit {
        Some((name, factor)) => format!("{:.1} {name}", bytes as f64 / *factor as f64),
        None => format!("{bytes} B"),
    }
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_read() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2 min"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        assert_eq!(size_bytes("64MB"), Ok(64 << 20));
        assert_eq!(size_bytes("0B"), Ok(0));
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(size_text(1023), "1023 B");
        assert_eq!(size_text(64 << 20), "64.0 MB");
        assert_eq!(size_text(3 << 39), "1.5 TB");
    }

    #[test]
    fn a_missing_or_unknown_unit_is_refused() {
        for text in ["10", "s", "1.5s", "10S", "-1s", "10 sec", "99999999999999999999s", ""] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["64", "64mb", "64KB", "18446744073709551615TB"] {
            assert!(size_bytes(text).is_err(), "{text}");
        }
    }
}
