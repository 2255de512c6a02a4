//! Which known name somebody meant who typed an unknown one.

/// How alike two names must be, from 0 to 1.
const SIMILARITY_MIN: f64 = 0.6;

/// The known name that is most like `name`, if any is alike.
pub(crate) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

/// `"; did you mean NAME?"`, or what else to do.
pub(crate) fn hint<'k>(name: &str, known: impl IntoIterator<Item = &'k str>, otherwise: &str) -> String {
    match nearest(name, known) {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => format!("; {otherwise}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let known = ["hello", "word-count", "thumbnail"];
        for (typed, meant) in [("helo", Some("hello")), ("wordcount", Some("word-count")), ("x", None), ("", None)] {
            assert_eq!(nearest(typed, known), meant, "{typed:?}");
        }
        assert_eq!(hint("helo", known, "see `calypte ls`"), "; did you mean `hello`?");
        assert_eq!(hint("x", known, "see `calypte ls`"), "; see `calypte ls`");
    }
}
