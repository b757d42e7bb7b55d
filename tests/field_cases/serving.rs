//! The exporter's own HTTP server under strange clients and broken configuration files.
