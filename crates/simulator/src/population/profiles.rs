//! Who lives in a demo, where, and with what: material without behaviour. Addresses are from the ranges that are reserved
//! for documentation (RFC 5737, RFC 3849), mail from example.com (RFC 2606).

use fastrand::Rng;

const COLOURS: [&str; 12] =
    ["amber", "azure", "coral", "crimson", "emerald", "hazel", "indigo", "ivory", "lilac", "olive", "russet", "teal"];
const ANIMALS: [&str; 16] = [
    "badger", "crane", "dormouse", "falcon", "gecko", "heron", "ibex", "kestrel", "lynx", "marten", "newt", "otter",
    "puffin", "quail", "stoat", "wren",
];

/// A city, its country as Cognito names it, and its time zone as Cognito writes it.
pub(super) struct Place {
    pub(super) city: &'static str,
    pub(super) country: &'static str,
    pub(super) timezone: &'static str,
}

const fn place(city: &'static str, country: &'static str, timezone: &'static str) -> Place {
    Place { city, country, timezone }
}

pub(super) const PLACES: [Place; 14] = [
    place("Seattle", "United States", "-07:00"),
    place("Chicago", "United States", "-05:00"),
    place("New York", "United States", "-04:00"),
    place("Toronto", "Canada", "-04:00"),
    place("São Paulo", "Brazil", "-03:00"),
    place("Loughborough", "United Kingdom", "+01:00"),
    place("Dublin", "Ireland", "+01:00"),
    place("Berlin", "Germany", "+02:00"),
    place("Madrid", "Spain", "+02:00"),
    place("Warsaw", "Poland", "+02:00"),
    place("Nairobi", "Kenya", "+03:00"),
    place("Pune", "India", "+05:30"),
    place("Osaka", "Japan", "+09:00"),
    place("Sydney", "Australia", "+10:00"),
];

pub(super) const DEVICES: [&str; 8] = [
    "Chrome 126, Windows 10",
    "Chrome 126, Mac OS X 10.15.7",
    "Firefox 128, Linux",
    "Firefox 128, Windows 10",
    "Mobile Safari 17, iOS 17.5",
    "Chrome Mobile 126, Android 14",
    "Edge 126, Windows 11",
    "Other, Other",
];

/// A name that nobody has had in this demo, because of its number.
pub(super) fn username(random: &mut Rng, number: u64) -> String {
    let (colour, animal) = (pick(random, &COLOURS), pick(random, &ANIMALS));
    format!("{colour}-{animal}-{number:03}")
}

/// An address that an honest user may have.
pub(super) fn address(random: &mut Rng) -> String {
    match random.u8(..10) {
        0..5 => format!("192.0.2.{}", random.u8(1..255)),
        5..9 => format!("198.51.100.{}", random.u8(1..255)),
        _ => format!("2001:db8::{:x}:{:x}", random.u16(1..), random.u16(1..)),
    }
}

/// An address that an attacker has.
pub(super) fn attacker_address(random: &mut Rng) -> String {
    format!("203.0.113.{}", random.u8(1..255))
}

/// One of several, by chance.
pub(super) fn pick<'a, T>(random: &mut Rng, choices: &'a [T]) -> &'a T {
    &choices[random.usize(..choices.len())]
}
