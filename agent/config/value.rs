//! Values with units, and the names that a file, a flag or a URL may carry: text in, value or reason out.
//!
//! Pure. A reason is lowercase, names the value and says how to write it; whoever calls adds the key.

use std::time::Duration;

use crate::kafka::source::Start;

/// What is shown instead of a secret.
pub const MASK: &str = "********";

/// Units of time, in milliseconds.
const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Units of size, in bytes: the binary ones and, as on a disk's box, the decimal ones.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads where a partition begins that the archive holds nothing of: `earliest`, `latest` or a time.
pub fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        time => time
            .parse()
            .map(Start::Time)
            .map_err(|_| format!("`{text}` is neither earliest, latest nor a time like 2026-11-22T10:00:00Z")),
    }
}

/// Reads a duration: a whole number and `ms`, `s`, `m`, `h` or `d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    with_unit(text, &TIME_UNITS, "60s").map(Duration::from_millis)
}

/// Reads a size in bytes: a whole number and `B`, `KiB`, `MiB`, `GiB`, `TiB`, `KB`, `MB`, `GB` or `TB`.
pub fn size(text: &str) -> Result<u64, String> {
    with_unit(text, &SIZE_UNITS, "64MiB")
}

/// Checks that a backup's name is one safe path component in every store: it cannot leave its folder, hide in it or
/// collide with another one where case or encoding is folded.
pub fn check_backup_id(text: &str) -> Result<(), String> {
    // Object keys may have 1024 bytes, and the longest that we put below a backup id needs about half of them.
    match is_plain_name(text, 200) {
        true => Ok(()),
        false => Err(format!(
            "`{text}` is no backup id: up to 200 letters, digits, `.`, `_`, `-`, beginning with a letter or digit"
        )),
    }
}

/// Checks a restore's id: as a backup's, and room behind that for a digest.
pub fn check_restore_id(text: &str) -> Result<(), String> {
    match is_plain_name(text, 220) {
        true => Ok(()),
        false => Err(format!(
            "`{text}` is no restore id: up to 220 letters, digits, `.`, `_`, `-`, beginning with a letter or digit"
        )),
    }
}

/// Returns whether a text can be a part of a key, and a file's name, as it is.
fn is_plain_name(text: &str, most_bytes: usize) -> bool {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    plain && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.len() <= most_bytes
}

/// Checks a topic's name by Kafka's own rule.
pub fn check_topic(text: &str) -> Result<(), String> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if plain && !matches!(text, "" | "." | "..") && text.len() <= 249 {
        return Ok(());
    }
    Err(format!("`{text}` is no topic name: Kafka's are up to 249 letters, digits, `.`, `_`, `-`"))
}

/// Checks `host:port`.
pub fn check_address(text: &str) -> Result<(), String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err(format!("`{text}` is no address: write it as 127.0.0.1:8083, with port 0 for any free one")),
    }
}

/// Returns whether the value of a Kafka property, or of a URL's parameter, must not be shown.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // A `.location` is where a key lies, which is what one wants to see when it cannot be read.
    let words = ["password", "passphrase", "secret", "key", "token", "credential", "jaas", "oauthbearer.config"];
    !name.ends_with(".location") && words.iter().any(|word| name.contains(word))
}

/// Returns a path as it may be shown: a URL's user and the values of its secret parameters are masked.
pub fn shown_path(path: &str) -> String {
    let Some((scheme, rest)) = path.split_once("://") else { return path.to_owned() };
    let (place, parameters) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let (host, folder) = place.split_at(place.find('/').unwrap_or(place.len()));
    let host = host.rsplit_once('@').map_or(host.to_owned(), |(_, host)| format!("{MASK}@{host}"));
    let mut shown = format!("{scheme}://{host}{folder}");
    for (i, parameter) in parameters.into_iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if i == 0 { '?' } else { '&' });
        match parameter.split_once('=') {
            // An endpoint with a user and a password is refused, but may be shown before.
            Some((name, value)) if is_secret(name) || value.contains('@') || value.contains("%40") => {
                shown.push_str(&format!("{name}={MASK}"))
            }
            _ => shown.push_str(parameter),
        }
    }
    shown
}

fn with_unit(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = (&text[..digits], text[digits..].trim_start());
    let names = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if number.is_empty() {
        return Err(format!("`{text}` is no whole number with a unit: write it as \"{example}\""));
    }
    if unit.is_empty() {
        return Err(format!("`{text}` has no unit: write it as \"{example}\" (units: {})", names()));
    }
    let (_, factor) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| format!("`{unit}` in `{text}` is no unit: one of {}", names()))?;
    let value = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor));
    value.ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_carry_their_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1GB"), Ok(1_000_000_000));
    }

    #[test]
    fn a_bare_number_is_an_error_that_says_so() {
        let reason = size("64").expect_err("no unit");
        assert!(reason.starts_with("`64` has no unit: write it as \"64MiB\""), "{reason}");
        assert!(duration("60x").expect_err("no such unit").contains("one of ms, s, m, h, d"));
        assert!(duration("-1s").is_err());
        assert!(duration("1.5s").is_err());
        assert!(size("99999999999999TiB").expect_err("overflow").contains("too large"));
    }

    #[test]
    fn a_backup_id_cannot_leave_its_folder() {
        for good in ["production-backup-001", "a", "2026.11"] {
            assert_eq!(check_backup_id(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../a", ".hidden", "-x", "a b", "ä", "a\\b", &"x".repeat(201)] {
            assert!(check_backup_id(bad).is_err(), "{bad}");
            assert!(bad.len() > 200 || check_restore_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_longest_backup_id_leaves_a_restore_of_it_room_for_a_digest() {
        let name = "x".repeat(200);
        assert_eq!((check_backup_id(&name), check_restore_id(&format!("{name}-0123abcd"))), (Ok(()), Ok(())));
        assert!(check_restore_id(&"x".repeat(221)).is_err());
    }

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        assert_eq!(shown_path("/data/backups"), "/data/backups");
        assert_eq!(
            shown_path("s3://b/p?region=eu&secret_access_key=x"),
            "s3://b/p?region=eu&secret_access_key=********"
        );
        assert_eq!(shown_path("s3://b?endpoint=http://me:pw@h"), "s3://b?endpoint=********");
        assert_eq!(shown_path("https://me:pw@host/p@q"), "https://********@host/p@q");
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in ["sasl.password", "ssl.key.pem", "sasl.oauthbearer.client.secret", "Secret_Access_Key"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["bootstrap.servers", "sasl.username", "ssl.key.location"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
