//! Names, cities, devices and addresses of simulated users. Addresses are from the ranges that are reserved for
//! documentation (RFC 5737, RFC 3849), and e-mail domains are example.com (RFC 2606).

use fastrand::Rng;

const COLOURS: [&str; 12] =
    ["amber", "azure", "coral", "crimson", "emerald", "hazel", "indigo", "ivory", "lilac", "olive", "russet", "teal"];
const ANIMALS: [&str; 16] = [
    "badger", "crane", "dormouse", "falcon", "gecko", "heron", "ibex", "kestrel", "lynx", "marten", "newt", "otter",
    "puffin", "quail", "stoat", "wren",
];

/// A city with its country and its time zone, both as Cognito writes them.
pub(super) struct City {
    pub(super) name: &'static str,
    pub(super) country: &'static str,
    pub(super) timezone: &'static str,
}

const fn city(name: &'static str, country: &'static str, timezone: &'static str) -> City {
    City { name, country, timezone }
}

pub(super) const CITIES: [City; 14] = [
    city("Seattle", "United States", "-07:00"),
    city("Chicago", "United States", "-05:00"),
    city("New York", "United States", "-04:00"),
    city("Toronto", "Canada", "-04:00"),
    city("São Paulo", "Brazil", "-03:00"),
    city("Loughborough", "United Kingdom", "+01:00"),
    city("Dublin", "Ireland", "+01:00"),
    city("Berlin", "Germany", "+02:00"),
    city("Madrid", "Spain", "+02:00"),
    city("Warsaw", "Poland", "+02:00"),
    city("Nairobi", "Kenya", "+03:00"),
    city("Pune", "India", "+05:30"),
    city("Osaka", "Japan", "+09:00"),
    city("Sydney", "Australia", "+10:00"),
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

/// A username that is unique because it contains `number`.
pub(super) fn username(random: &mut Rng, number: u64) -> String {
    let (colour, animal) = (pick(random, &COLOURS), pick(random, &ANIMALS));
    format!("{colour}-{animal}-{number:03}")
}

/// A random address of a user.
pub(super) fn address(random: &mut Rng) -> String {
    match random.u8(..10) {
        0..5 => format!("192.0.2.{}", random.u8(1..255)),
        5..9 => format!("198.51.100.{}", random.u8(1..255)),
        _ => format!("2001:db8::{:x}:{:x}", random.u16(1..), random.u16(1..)),
    }
}

/// A random address of an attacker.
pub(super) fn attacker_address(random: &mut Rng) -> String {
    format!("203.0.113.{}", random.u8(1..255))
}

/// Picks one of the choices at random.
pub(super) fn pick<'a, T>(random: &mut Rng, choices: &'a [T]) -> &'a T {
    &choices[random.usize(..choices.len())]
}
