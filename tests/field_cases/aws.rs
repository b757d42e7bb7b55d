//! Calling AWS: credentials, proxies, certificates, and answers of absurd size.
