//! Durations and sizes in PostgreSQL's notation: a whole number and a unit.

use std::time::Duration;

/// The units of time of PostgreSQL's configuration, in microseconds.
const TIME_UNITS: [(&str, u64); 6] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("min", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];

/// The units of memory of PostgreSQL's configuration. As in PostgreSQL, the multiplier is 1024.
const SIZE_UNITS: [(&str, u64); 5] = [("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// Other ways in which people write the units of time, in small letters.
const TIME_WORDS: [(&str, &[&str]); 6] = [
    ("us", &["us", "µs", "usec", "usecs", "microsecond", "microseconds"]),
    ("ms", &["ms", "msec", "msecs", "millis", "millisecond", "milliseconds"]),
    ("s", &["s", "sec", "secs", "second", "seconds"]),
    ("min", &["m", "min", "mn", "mins", "minute", "minutes"]),
    ("h", &["h", "hr", "hrs", "hour", "hours"]),
    ("d", &["d", "day", "days"]),
];

/// Other ways in which people write the units of memory, in small letters.
const SIZE_WORDS: [(&str, &[&str]); 5] = [
    ("B", &["b", "byte", "bytes"]),
    ("kB", &["k", "kb", "kib"]),
    ("MB", &["m", "mb", "mib"]),
    ("GB", &["g", "gb", "gib"]),
    ("TB", &["t", "tb", "tib"]),
];

/// Reads `10s`, `500ms`, `2min`. The error says how to write it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = "the units are us, ms, s, min, h and d";
    quantity(text, &TIME_UNITS).map(Duration::from_micros).ok_or_else(|| match meant_duration(text) {
        Some(meant) if is_number(text) => format!("write a whole number with a unit, for example \"{meant}\": {units}"),
        Some(meant) => format!("write \"{meant}\": {units}"),
        None => format!("write a whole number with a unit, for example \"500ms\" or \"10s\": {units}"),
    })
}

/// Reads `64MB`, `8kB`; returns bytes. The error says how to write it.
pub fn size_bytes(text: &str) -> Result<u64, String> {
    let units = "the units are B, kB, MB, GB and TB, each 1024 times the one before";
    quantity(text, &SIZE_UNITS).ok_or_else(|| match meant_size(text) {
        Some(meant) if is_number(text) => format!("write a whole number with a unit, for example \"{meant}\": {units}"),
        Some(meant) => format!("write \"{meant}\": {units}"),
        None => format!("write a whole number with a unit, for example \"64MB\": {units}"),
    })
}

/// The duration that was probably meant, as it has to be written: `10min` for `10m`, `1500ms` for `1.5s`.
pub(super) fn meant_duration(text: &str) -> Option<String> {
    meant(text, &TIME_UNITS, &TIME_WORDS, "s")
}

/// The size that was probably meant, as it has to be written: `64MB` for `64MiB`.
pub(super) fn meant_size(text: &str) -> Option<String> {
    meant(text, &SIZE_UNITS, &SIZE_WORDS, "B")
}

fn is_number(text: &str) -> bool {
    text.trim().bytes().all(|byte| byte.is_ascii_digit())
}

/// What was probably meant, in the units of `units`. A number alone gets the unit `default`.
fn meant(text: &str, units: &[(&str, u64)], words: &[(&str, &[&str])], default: &str) -> Option<String> {
    let text = text.trim();
    let unit_of = |word: &str| match word {
        "" => Some(default),
        word => words.iter().find(|(_, words)| words.contains(&word)).map(|(unit, _)| *unit),
    };
    let factor = |unit: &str| units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, word) = text.split_at(end);
    let unit = unit_of(word.trim().to_lowercase().as_str())?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor(unit)?).map(|_| format!("{whole}{unit}"));
    }
    // a fraction is whole in a smaller unit, if it is not too fine
    let smallest = number.parse::<f64>().ok()? * factor(unit)? as f64;
    if !(1.0..9e15).contains(&smallest) || smallest.fract() != 0.0 {
        return None;
    }
    let whole = smallest as u64;
    let (name, factor) = units.iter().rev().find(|(_, factor)| whole % *factor == 0)?;
    Some(format!("{}{name}", whole / factor))
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

    #[test]
    fn what_was_meant_is_in_the_hint() {
        for (text, meant) in [
            ("10m", "10min"),
            ("10M", "10min"),
            ("10 minutes", "10min"),
            ("10sec", "10s"),
            ("10S", "10s"),
            ("500 msec", "500ms"),
            ("2 hours", "2h"),
            ("1.5s", "1500ms"),
            ("0.5h", "30min"),
            ("10", "10s"),
        ] {
            let hint = duration(text).expect_err(text);
            assert!(hint.contains(&format!(" \"{meant}\": ")), "{text}: {hint}");
        }
        for (text, meant) in [
            ("64MiB", "64MB"),
            ("64M", "64MB"),
            ("64mb", "64MB"),
            ("64 Mib", "64MB"),
            ("8KB", "8kB"),
            ("8k", "8kB"),
            ("1G", "1GB"),
            ("1.5GB", "1536MB"),
            ("1048576", "1048576B"),
        ] {
            let hint = size_bytes(text).expect_err(text);
            assert!(hint.contains(&format!(" \"{meant}\": ")), "{text}: {hint}");
        }
        for text in ["", "m", "ten s", "-1s", "10MB", "99999999999999999999s", "1..5s", "."] {
            assert!(duration(text).expect_err(text).starts_with("write a whole number with a unit"), "{text}");
        }
    }
}
