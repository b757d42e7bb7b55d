//! Keeps what is personal out of texts for people: what others tell us of an error may quote what we sent them.

/// Stands for what a text does not say.
const WITHHELD: &str = "(withheld)";

/// Whether a text has a word, as a whole word and in any case: a user called `user` costs a word, not half of `username`.
pub fn holds_word(text: &str, word: &str) -> bool {
    places(&text.to_lowercase(), &word.to_lowercase()).next().is_some()
}

/// A text without these words. Case is kept where it can be: a text whose lower case has other lengths is withheld whole.
pub fn without<'a>(text: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    let mut kept = text.to_owned();
    for word in words {
        let (lower, word) = (kept.to_lowercase(), word.to_lowercase());
        let found: Vec<usize> = places(&lower, &word).collect();
        if found.is_empty() {
            continue;
        }
        if lower.len() != kept.len() {
            return WITHHELD.to_owned();
        }
        for at in found.into_iter().rev() {
            if !kept.is_char_boundary(at) || !kept.is_char_boundary(at + word.len()) {
                return WITHHELD.to_owned();
            }
            kept.replace_range(at..at + word.len(), WITHHELD);
        }
    }
    kept
}

fn places<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let inside = |edge: Option<char>| edge.is_some_and(char::is_alphanumeric);
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let (before, after) = (&text[..*at], &text[*at + word.len()..]);
        !word.is_empty() && !inside(before.chars().next_back()) && !inside(after.chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_withheld_and_nothing_else() {
        for (text, words, expected) in [
            ("bad user.name \"Ann\": ann!", &["ann"][..], "bad user.name \"(withheld)\": (withheld)!"),
            ("annual planning", &["ann"], "annual planning"),
            (
                "of ann@example.com from 203.0.113.9",
                &["ann@example.com", "203.0.113.9"],
                "of (withheld) from (withheld)",
            ),
            ("nothing", &["", "ann"], "nothing"),
            ("Ünal and ÜNAL", &["ünal"], "(withheld) and (withheld)"),
            ("İ of ann", &["ann"], "(withheld)"),
        ] {
            assert_eq!(without(text, words.iter().copied()), expected, "{text}");
        }
    }
}
