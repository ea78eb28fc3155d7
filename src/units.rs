//! Durations and sizes as text: one grammar for the configuration file, the environment and the command line.

use std::time::Duration;

/// How to write a duration, for error messages.
pub const DURATION_FORM: &str = "a duration like 500ms, 30s, 5m, \"1h 30m\" or 90d";
/// How to write a size, for error messages.
pub const SIZE_FORM: &str = "a number of bytes like 4096, 64KiB, 10MB or 1GiB";

/// A duration: one or more numbers with a unit each, such as `500ms`, `30s`, `5m`, `1h 30m`, `90d` or `2days`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    // Without this check, humantime accepts a zero without a unit.
    text.ends_with(|c: char| c.is_ascii_alphabetic()).then(|| humantime::parse_duration(text).ok()).flatten()
}

/// A size in bytes, with a decimal (`kB`, `MB`, `GB`) or binary (`KiB`, `MiB`, `GiB`) unit in any case, or without one;
/// `K`, `M` and `G` alone are binary.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A duration in one unit, as [`parse_duration`] reads it: `90d`, `1h`, `1500ms`.
pub fn format_duration(duration: Duration) -> String {
    const DAY: u128 = 86_400_000;
    match duration.as_millis() {
        0 => "0s".to_owned(),
        // One day is shown as 24h.
        millis if millis > DAY && millis.is_multiple_of(DAY) => format!("{}d", millis / DAY),
        millis if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        millis if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        millis if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}

/// A size in the largest binary unit that it is a multiple of, as [`parse_size`] reads it.
pub fn format_size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(factor, _)| bytes > 0 && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| bytes.to_string(), |(factor, unit)| format!("{}{unit}", bytes / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_may_be_sums() {
        for (text, millis) in
            [("500ms", 500), ("30s", 30_000), ("1h 30m", 5_400_000), ("1h30m", 5_400_000), ("2days", 172_800_000)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "0", "s", "soon", "-1s", "10 parsec", "99999999999999999999s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("64KiB", 65_536), ("64k", 65_536), ("10MB", 10_000_000), ("10 mb", 10_000_000)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "KiB", "-1", "1.5GiB", "99999999999GiB", "1 parsec"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn formatted_values_can_be_parsed_again() {
        for seconds in [0, 1, 90, 3_600, 86_400, 90 * 86_400, 5_400] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
        assert_eq!(format_duration(Duration::from_millis(1_500)), "1500ms");
        for (bytes, text) in [(0, "0"), (1_000, "1000"), (4 << 20, "4MiB"), (1 << 30, "1GiB"), (1_536, "1536")] {
            assert_eq!((format_size(bytes).as_str(), parse_size(text)), (text, Some(bytes)));
        }
    }
}
