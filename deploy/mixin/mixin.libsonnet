// Alerts, recording rules and dashboards for cognito-auth-exporter.
(import 'config.libsonnet')
+ (import 'alerts/security.libsonnet')
+ (import 'alerts/health.libsonnet')
+ (import 'alerts/export.libsonnet')
+ (import 'dashboards/dashboards.libsonnet')
