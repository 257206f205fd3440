//! Quantities as people type and read them: `10s`, `7d`, `64KiB`, `1,204`.

use std::time::Duration;

/// Reads a span: a whole number and `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) =
        split(text).ok_or("expected a whole number and a unit, like 500ms, 10s, 5m, 2h, 7d")?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => {
            return Err(format!(
                "a unit is missing: {number}ms, {number}s, {number}m, {number}h or {number}d"
            ));
        }
        _ => {
            return Err(format!("`{unit}` is not a unit of time: ms, s, m, h and d are"));
        }
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(|| "it is too long".to_owned())
}

/// Reads a number of bytes: a whole number and nothing, `B`, `KiB` or `MiB`.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) =
        split(text).ok_or("expected a whole number and a unit, like 500B, 64KiB, 2MiB")?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        _ => {
            return Err(format!("`{unit}` is not a unit of bytes: B, KiB and MiB are"));
        }
    };
    number
        .checked_mul(factor)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| "it is too large".to_owned())
}

/// Reads a number a second: `50/s`, or `50`.
pub(crate) fn per_second(text: &str) -> Result<u32, String> {
    match text.strip_suffix("/s").unwrap_or(text).trim().parse() {
        Ok(rate) if rate > 0 => Ok(rate),
        _ => Err("expected a whole number a second, like 50/s".to_owned()),
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

/// `1204` as `1,204`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes for people.
pub(crate) fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{} B", grouped(bytes)),
        10_240..10_485_760 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// `1 run`, `2 runs`.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_bytes_are_read_with_their_units() {
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("100"), Ok(100));
        assert!(span("10").is_err());
        assert!(span("ten").is_err());
        assert!(bytes("3 stones").is_err());
        assert!(span("99999999999999999d").is_err());
    }

    #[test]
    fn a_rate_is_a_number_a_second() {
        assert_eq!(per_second("50/s"), Ok(50));
        assert_eq!(per_second("7"), Ok(7));
        assert!(per_second("0/s").is_err() && per_second("fast").is_err());
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_204), "1,204");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
