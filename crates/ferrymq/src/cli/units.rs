//! Durations, sizes, points in time and escaped text, as people type them.

use std::time::Duration;

/// `500ms`, `5s`, `2m`, `1h`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a time such as 500ms, 5s or 2m".to_owned())?;
    let millis = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("unknown unit `{unit}`: ms, s, m or h")),
    };
    millis.map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

/// `16384`, `64k`, `1m`, `2g`: powers of 1024.
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches(['k', 'm', 'g', 'i', 'b']);
    let shift = match lower[number.len()..].chars().next() {
        None | Some('b') => 0,
        Some('k') => 10,
        Some('m') => 20,
        _ => 30,
    };
    let number: usize = number.parse().map_err(|_| "expected a size such as 16384, 64k or 1m".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

/// `key=value`.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Milliseconds since 1970, from such milliseconds or a date in UTC: `2026-01-31`, `2026-01-31T12:00:00.5Z`.
pub(crate) fn parse_instant(text: &str) -> Result<i64, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| "too late".to_owned());
    }
    read_date(text)
        .ok_or_else(|| "expected milliseconds since 1970 or a UTC date like 2026-01-31T12:00:00Z".to_owned())
}

fn read_date(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "0:0:0"));
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let mut parts = time.splitn(3, ':');
    let hour: i64 = parts.next()?.parse().ok()?;
    let minute: i64 = parts.next()?.parse().ok()?;
    let seconds = parts.next().unwrap_or("0");
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let second: i64 = seconds.parse().ok()?;
    let millis: i64 =
        if fraction.is_empty() { 0 } else { format!("{fraction:0<3}").get(..3)?.parse().ok()? };
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    valid.then(|| ((days(year, month, day) * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + millis)
}

/// Days since 1970 of a Gregorian date: years are counted from March, so that the leap day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

/// Bytes that were typed with escapes. (A `Vec` by name would be taken for a repeated option.)
pub(crate) type Escaped = Vec<u8>;

/// Text with `\n`, `\t`, `\r`, `\0`, `\\` and `\xNN` as bytes.
pub(crate) fn parse_escaped(text: &str) -> Result<Escaped, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = rest[at + 1..].chars().next().ok_or("a lone \\ at the end")?;
        rest = &rest[at + 1 + escape.len_utf8()..];
        out.push(match escape {
            'n' => b'\n',
            't' => b'\t',
            'r' => b'\r',
            '0' => 0,
            '\\' => b'\\',
            'x' => {
                let digits = rest.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                rest = rest.get(2..).unwrap_or_default();
                digits.ok_or("\\x needs two hexadecimal digits")?
            }
            other => return Err(format!("unknown escape \\{other}")),
        });
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert!(parse_duration("").is_err() && parse_duration("5 d").is_err());
        assert_eq!(parse_bytes("16384"), Ok(16384));
        assert_eq!(parse_bytes("64k"), Ok(65536));
        assert_eq!(parse_bytes("1MiB"), Ok(1 << 20));
        assert!(parse_bytes("many").is_err() && parse_bytes("99999999999999g").is_err());
        assert!(parse_pair("a=b=c") == Ok(("a".into(), "b=c".into())) && parse_pair("=b").is_err());
    }

    #[test]
    fn instants() {
        assert_eq!(parse_instant("1234"), Ok(1234));
        assert_eq!(parse_instant("1970-01-01"), Ok(0));
        assert_eq!(parse_instant("2000-03-01"), Ok(951_868_800_000));
        assert_eq!(parse_instant("2026-11-22T11:10:36.25Z"), Ok(1_795_345_836_250));
        for bad in ["", "yesterday", "2026-13-01", "2026-01-01T25:00:00", "2026-01", "-5"] {
            assert!(parse_instant(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn escapes() {
        assert_eq!(parse_escaped("a\\tb\\n\\x00\\\\é").as_deref(), Ok("a\tb\n\0\\é".as_bytes()));
        for bad in ["\\", "\\q", "\\x1", "\\xé"] {
            assert!(parse_escaped(bad).is_err(), "{bad}");
        }
    }
}
