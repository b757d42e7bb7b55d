//! The environment variables that Kubernetes makes for a Service.
//!
//! A pod gets them for every Service of its namespace unless its `enableServiceLinks` is false. For a Service named
//! `cognito-exporter`, or whose name begins with `cognito-exporter-`, they have the prefix of the exporter's own
//! variables. `pkg/kubelet/envvars` in Kubernetes makes them, those of Docker's former links included
//! (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>).
//!
//! | variable of the Service `S` | value |
//! |---|---|
//! | `S_SERVICE_HOST` | an IP address |
//! | `S_SERVICE_PORT`, `S_SERVICE_PORT_<NAME>` | a port |
//! | `S_PORT`, `S_PORT_<port>_<PROTOCOL>` | `<protocol>://<address>:<port>` |
//! | `S_PORT_<port>_<PROTOCOL>_PROTO`, `..._PORT`, `..._ADDR` | the protocol, the port, the address |
//!
//! Name and value must both have the shape. So a typing error in one of the exporter's own variables is not taken for a
//! Service's.

use std::net::{IpAddr, SocketAddr};

use super::environment::ENVIRONMENT_PREFIX;

/// The protocols of a Service's port.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Returns whether Kubernetes makes this variable for a Service whose variables have the exporter's prefix.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let is_of_service = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX.trim_end_matches('_')) else { return false };
    if !name.chars().all(is_of_service) {
        return false;
    }
    // The Service's name and a port's name may contain any of the words that are looked for.
    let after = |word: &'static str| (0..rest.len()).filter_map(move |at| rest.get(at..)?.strip_prefix(word));
    rest.ends_with("_SERVICE_HOST") && is_address(value)
        || after("_SERVICE_PORT").any(is_end_or_port_name) && port(value).is_some()
        || rest.ends_with("_PORT") && link(value).is_some()
        || after("_PORT_").any(|tail| is_of_port(tail, value))
}

/// Returns whether this may follow `_SERVICE_PORT`: nothing, or a port's name.
fn is_end_or_port_name(tail: &str) -> bool {
    tail.is_empty() || tail.len() > 1 && tail.starts_with('_')
}

/// Returns whether `<port>_<PROTOCOL>` and what may follow it go with a value.
fn is_of_port(tail: &str, value: &str) -> bool {
    let mut parts = tail.splitn(3, '_');
    let (Some(number), Some(protocol)) = (parts.next().and_then(port), parts.next()) else { return false };
    let protocol = protocol.to_ascii_lowercase();
    PROTOCOLS.contains(&protocol.as_str())
        && match parts.next() {
            None => link(value) == Some((protocol.as_str(), number)),
            Some("PROTO") => value == protocol,
            Some("PORT") => port(value) == Some(number),
            Some("ADDR") => is_address(value),
            Some(_) => false,
        }
}

/// Returns the protocol and port of `tcp://10.0.0.1:80`.
fn link(value: &str) -> Option<(&str, u16)> {
    let (protocol, address) = value.split_once("://")?;
    let address: SocketAddr = address.parse().ok()?;
    PROTOCOLS.contains(&protocol).then_some((protocol, address.port()))
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

fn is_address(value: &str) -> bool {
    value.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_makes_for_a_service_of_our_name_is_known() {
        for service in [
            "COGNITO_EXPORTER",
            "COGNITO_EXPORTER_METRICS",
            "COGNITO_EXPORTER_POLL__X",
            "COGNITO_EXPORTER_PORT",
            "COGNITO_EXPORTER_SERVICE_PORT",
            "COGNITO_EXPORTER_SERVICE_PORTS",
            "COGNITO_EXPORTER_SERVICE_HOST",
        ] {
            for (suffix, value) in [
                ("SERVICE_HOST", "10.0.0.1"),
                ("SERVICE_HOST", "fd00::1"),
                ("SERVICE_PORT", "10588"),
                ("SERVICE_PORT_METRICS", "10588"),
                ("SERVICE_PORT_HTTP_2", "1"),
                ("SERVICE_PORT_SERVICE_HOST", "1"),
                ("PORT", "tcp://10.0.0.1:10588"),
                ("PORT", "udp://[fd00::1]:53"),
                ("PORT_10588_TCP", "tcp://10.0.0.1:10588"),
                ("PORT_10588_TCP_PROTO", "tcp"),
                ("PORT_10588_TCP_PORT", "10588"),
                ("PORT_10588_TCP_ADDR", "10.0.0.1"),
                ("PORT_9_SCTP_ADDR", "fd00::1"),
            ] {
                let name = format!("{service}_{suffix}");
                assert!(is_service_link(&name, value), "{name}={value}");
            }
        }
    }

    #[test]
    fn nothing_else_is_taken_for_a_services_variable() {
        for (name, value) in [
            ("COGNITO_EXPORTER_POLL_PAGE_SIZE", "30"),
            ("COGNITO_EXPORTER_HTTP_PORT", "10588"),
            ("COGNITO_EXPORTER_PORT", "10588"),
            ("COGNITO_EXPORTER_PORT", "http://10.0.0.1:10588"),
            ("COGNITO_EXPORTER_PORT", "tcp://exporter:10588"),
            ("COGNITO_EXPORTER_PORT", ""),
            ("COGNITO_EXPORTER_SERVICE", "10.0.0.1"),
            ("COGNITO_EXPORTER_SERVICE_HOST", "exporter"),
            ("COGNITO_EXPORTER_SERVICE_HOSTS", "10.0.0.1"),
            ("COGNITO_EXPORTER_SERVICE_PORTS", "1"),
            ("COGNITO_EXPORTER_SERVICE_PORT_", "1"),
            ("COGNITO_EXPORTER_SERVICE_PORT", "0"),
            ("COGNITO_EXPORTER_SERVICE_PORT", "70000"),
            ("COGNITO_EXPORTER_service_port", "1"),
            ("COGNITO_EXPORTER_PORT_10588_TCP", "tcp://10.0.0.1:10589"),
            ("COGNITO_EXPORTER_PORT_10588_TCP", "udp://10.0.0.1:10588"),
            ("COGNITO_EXPORTER_PORT_10588_TCP_PROTO", "udp"),
            ("COGNITO_EXPORTER_PORT_10588_TCP_PORT", "10589"),
            ("COGNITO_EXPORTER_PORT_10588_TCP_NAME", "10.0.0.1"),
            ("COGNITO_EXPORTER_PORT_10588_ICMP", "icmp://10.0.0.1:10588"),
            ("COGNITO_EXPORTER_PORT_X_TCP", "tcp://10.0.0.1:1"),
            ("COGNITO_SERVICE_HOST", "10.0.0.1"),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }
}
