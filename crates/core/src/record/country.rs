//! The ISO 3166-1 alpha-2 code of a country that Cognito names in English.
//!
//! Cognito sends the display names of a geolocation database ("South Korea", "DR Congo"). ISO 3166 has other names
//! ("Korea, Republic of"), and crates of the standard know only those. So this module has its own table: the display
//! names of Unicode CLDR, the forms that geolocation databases use, and the names of ISO. A name that is not in it has
//! no code.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A line for each country: its code, a space, its names between ` | `.
const TABLE: &str = include_str!("countries.txt");

static CODE_BY_NAME: LazyLock<HashMap<String, &'static str>> =
    LazyLock::new(|| lines().flat_map(|(code, names)| names.map(move |name| (name.to_lowercase(), code))).collect());

/// The country's code; None for a name that is not known. Case does not matter.
pub(crate) fn iso_code(english_name: &str) -> Option<&'static str> {
    CODE_BY_NAME.get(&english_name.to_lowercase()).copied()
}

fn lines() -> impl Iterator<Item = (&'static str, impl Iterator<Item = &'static str>)> {
    TABLE.lines().filter_map(|line| line.split_once(' ')).map(|(code, names)| (code, names.split(" | ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countries_have_the_codes_of_their_usual_names() {
        for (name, code) in [
            ("United States", Some("US")),
            ("united kingdom", Some("GB")),
            ("South Korea", Some("KR")),
            ("DR Congo", Some("CD")),
            ("Congo Republic", Some("CG")),
            ("Ivory Coast", Some("CI")),
            ("Türkiye", Some("TR")),
            ("Turkey", Some("TR")),
            ("Czechia", Some("CZ")),
            ("The Netherlands", Some("NL")),
            ("Hong Kong", Some("HK")),
            ("Réunion", Some("RE")),
            ("Kosovo", None),
            ("Atlantis", None),
            ("", None),
        ] {
            assert_eq!(iso_code(name), code, "{name}");
        }
    }

    #[test]
    fn the_table_is_complete_and_says_nothing_twice() {
        assert_eq!(lines().count(), 249, "countries of ISO 3166-1");
        assert_eq!(TABLE.lines().count(), 249, "each line is a country");
        assert!(lines().all(|(code, _)| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())));
        let names = lines().flat_map(|(_, names)| names).count();
        assert_eq!(CODE_BY_NAME.len(), names, "a name belongs to one country");
    }
}
