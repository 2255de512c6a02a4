//! The time as log lines write it.

use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

const FORMAT: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Now, in UTC: `2026-11-24T08:44:00.123Z`.
pub(crate) fn now() -> String {
    OffsetDateTime::now_utc().format(&FORMAT).expect("a date of our era has this form")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_timestamp_has_the_form_that_lambda_uses() {
        let text = super::now();
        assert_eq!(text.len(), "2026-11-24T08:44:00.123Z".len());
        assert!(text.starts_with("20") && text.ends_with('Z') && text.as_bytes()[10] == b'T', "{text}");
    }
}
