//! The way to the receiver: certificates, proxies, variables meant for other programs, and texts that quote records.
