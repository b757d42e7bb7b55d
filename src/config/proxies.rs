//! The proxies of the environment: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in upper or lower case, as curl and
//! the AWS client read them. They apply to the OTLP receiver as they do to AWS.
//!
//! A loopback address is also reached through the proxy, unless NO_PROXY excludes it.

use std::ffi::{OsStr, OsString};

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use super::Secret;
use super::mistakes::{Mistake, SettingOrigin};

/// Names of the variables. The first that is set counts, even if it is empty.
const ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
const HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const NO: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// A variable that a web server sets for a CGI program. A client of such a program can set HTTP_PROXY by a header, so
/// all proxies are ignored.
const CGI: &str = "REQUEST_METHOD";

/// The proxies as they are written. Debug shows none of the URLs, which may contain passwords.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Proxies {
    all: ProxyVariable,
    http: ProxyVariable,
    https: ProxyVariable,
    no: ProxyVariable,
}

/// The name and the value of the variable that is set.
type ProxyVariable = Option<(&'static str, Secret)>;

impl Proxies {
    /// Reads the proxies from the environment.
    pub fn of_environment(environment: &[(OsString, OsString)]) -> Self {
        let value =
            |name: &str| environment.iter().find(|(known, _)| known == OsStr::new(name)).map(|(_, value)| value);
        if value(CGI).is_some() {
            return Self::default();
        }
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| Some((name, Secret::new(value(name)?.to_str()?))))
        };
        Self { all: first(ALL), http: first(HTTP), https: first(HTTPS), no: first(NO) }
    }

    /// Returns the proxy through which a URL is reached, if there is one.
    pub fn for_url(&self, url: &Uri) -> Option<Intercept> {
        let text = |written: &ProxyVariable| written.as_ref().map_or("", |(_, text)| text.reveal()).to_owned();
        let matcher = Matcher::builder().all(text(&self.all)).http(text(&self.http)).https(text(&self.https));
        matcher.no(text(&self.no)).build().intercept(url)
    }

    /// Returns a mistake for each value that is not the URL of a proxy. Such a value is ignored.
    pub(super) fn unusable(&self) -> impl Iterator<Item = Mistake> {
        let somewhere = Uri::from_static("http://logs.invalid");
        [&self.all, &self.http, &self.https].into_iter().flatten().filter_map(move |(name, url)| {
            let is_read = Matcher::builder().all(url.reveal()).build().intercept(&somewhere).is_some();
            (!is_read && !url.reveal().is_empty()).then(|| Mistake {
                origin: SettingOrigin::Variable((*name).to_owned()),
                key: String::new(),
                text: "not the URL of a proxy; accepted: such as \"http://proxy.example:3128\"".to_owned(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let owned = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        Proxies::of_environment(&variables.iter().map(owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_proxy_is_chosen_as_curl_chooses_it() {
        for (variables, url, expected) in [
            (&[][..], "https://logs.example", None),
            (&[("HTTPS_PROXY", "http://p:1")][..], "https://logs.example", Some("http://p:1/")),
            (&[("https_proxy", "p:1")], "https://logs.example", Some("http://p:1/")),
            (&[("HTTPS_PROXY", ""), ("https_proxy", "http://p:1")], "https://logs.example", None),
            (&[("HTTPS_PROXY", "http://p:1")], "http://logs.example", None),
            (&[("HTTP_PROXY", "http://p:1")], "http://logs.example", Some("http://p:1/")),
            (&[("ALL_PROXY", "http://a:1"), ("HTTP_PROXY", "http://p:1")], "https://l.example", Some("http://a:1/")),
            (&[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", ".example, 10.0.0.0/8")], "https://logs.example", None),
            (&[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "10.0.0.0/8")], "https://10.1.2.3:4318", None),
            (&[("HTTPS_PROXY", "http://p:1"), ("no_proxy", "*")], "https://logs.example", None),
            (&[("HTTP_PROXY", "http://p:1")], "http://127.0.0.1:4318", Some("http://p:1/")),
            (&[("HTTP_PROXY", "http://p:1"), ("REQUEST_METHOD", "GET")], "http://logs.example", None),
        ] {
            let chosen = proxies(variables).for_url(&url.parse().unwrap());
            let chosen = chosen.map(|intercept| intercept.uri().to_string());
            assert_eq!(chosen.as_deref(), expected, "{variables:?} {url}");
        }
    }

    #[test]
    fn a_password_is_sent_and_never_shown() {
        let proxies = proxies(&[("HTTPS_PROXY", "http://user:hunter2@p:1"), ("HTTP_PROXY", "not a url")]);
        let intercept = proxies.for_url(&Uri::from_static("https://logs.example")).unwrap();
        assert_eq!(intercept.basic_auth().unwrap(), "Basic dXNlcjpodW50ZXIy");
        let unusable: Vec<String> = proxies.unusable().map(|mistake| mistake.to_string()).collect();
        let [mistake] = &unusable[..] else { panic!("{unusable:?}") };
        assert!(mistake.starts_with("HTTP_PROXY: "), "{mistake}");
        assert!(!format!("{proxies:?}{intercept:?}{mistake}").contains("hunter2"));
    }
}
