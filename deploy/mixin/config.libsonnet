// Every value that an installation may want to change. Override it as usual for mixins:
//   (import 'mixin.libsonnet') + { _config+:: { selector: 'namespace="identity"' } }
{
  _config+:: {
    // Labels. A label that your series do not have costs nothing: PromQL takes it for empty.
    clusterLabel: 'cluster',  // '' where one Prometheus serves one cluster and no more
    jobLabels: ['namespace', 'job'],  // with the cluster, what tells one deployment of the exporter from another
    instanceLabels: ['pod', 'instance'],  // with those, what tells one process from another
    selector: '',  // matchers for every series of the exporter, such as 'namespace="identity"'
    volumeSelector: 'persistentvolumeclaim=~".*cognito-auth-exporter.*"',  // of the kubelet's series
    probeSelector: 'instance=~".*cognito-auth-exporter.*"',  // of the blackbox exporter's series
    certificateSelector: 'name=~".*cognito-auth-exporter.*"',  // of cert-manager's series

    // What each alert carries.
    runbookURLPattern: 'https://example.com/cognito-auth-exporter/docs/runbooks.md#%s',  // %s: the alert in lower case
    grafanaURL: 'https://grafana.example.com',  // '' leaves dashboard_url out
    severities: { critical: 'critical', warning: 'warning' },  // the words of your routes
    alertLabels: {},  // such as { team: 'identity' }
    alertAnnotations: {},
    disabledAlerts: [],  // names

    // Risky events: `warning` of them in ten minutes are an alert, `critical` of them a page, null is never. They have to be
    // more than `times` the mean of the last day, and `shareTimes` the usual share of the sign-ins; 0 compares with nothing.
    takeovers: { warning: 1, critical: 5, times: 3, shareTimes: 2 },
    blocks: { warning: 1, critical: 100, times: 3, shareTimes: 2 },
    compromisedCredentials: { warning: 1, critical: 50, times: 3, shareTimes: 2 },

    // Pools whose threat protection is in audit-only mode, as a regular expression. There every risky sign-in comes in,
    // because nothing answers the risk: such a pool has limits of its own for CognitoAccountTakeover.
    auditOnlyPools: '',
    auditOnlyTakeovers: { warning: 20, critical: null, times: 3, shareTimes: 2 },

    signInFailures: { atLeast: 20, times: 3, shareTimes: 2 },  // in ten minutes
    unfinishedSignIns: { atLeast: 5, times: 3, shareTimes: 2 },  // in an hour
    noAuthEvents: { usual: 20 },  // events of the same hour yesterday and a week ago

    // The objective for the delay of events: `target` of them are seen within `within` seconds. `within` is a bucket of
    // cognito_auth_event_delay_seconds; pools with a longer poll.max_interval are left out. Below `atLeast` events a window
    // proves nothing. A factor is how many times too fast the share of late events may be.
    eventDelay: {
      target: 0.95,
      within: 3600,
      atLeast: 20,
      windows: [
        { severity: 'critical', long: '1h', short: '5m', factor: 14.4, 'for': '5m' },
        { severity: 'critical', long: '6h', short: '30m', factor: 6, 'for': '15m' },
        { severity: 'warning', long: '1d', short: '2h', factor: 3, 'for': '1h' },
        { severity: 'warning', long: '3d', short: '6h', factor: 1, 'for': '3h' },
      ],
    },

    // The exporter itself.
    goneLookback: '7d',  // how long an exporter that is gone is missed
    poolStale: { times: 2 },  // the objective, poll.max_interval
    discovery: { staleAfter: 2 * 3600, longest: 24 * 3600 },  // seconds without a complete listing: where it stands still; in any case
    usersFailing: { atLeast: 10, warning: 0.01, critical: 0.5 },  // users; shares
    delivery: { waits: 900, nothingFor: 600 },  // seconds
    outboxFilling: 0.75,  // share of state.outbox_limit; history stops at half of it
    volume: { warning: 0.15, critical: 0.05 },  // share that is free
    certificate: { warning: 14, critical: 3 },  // days that are left

    // Cognito's own export.
    exportLoss: { atLeast: 100, share: 0.01 },  // events audited in a day; what the lower end of the interval has to exceed
    exportLate: 900,  // seconds that one event in twenty takes
    exportUnread: 900,  // seconds behind the present
    firehoseRefused: 3,  // requests in ten minutes

    // Dashboards.
    dashboardTags: ['cognito', 'cognito-auth-exporter'],
    dashboardNamePrefix: 'Cognito: ',
    dashboardUIDs: { security: 'cognito-sign-in-security', health: 'cognito-exporter-health' },
    dashboardRefresh: '30s',
    dashboardTimezone: 'browser',
    serviceName: 'cognito-auth-exporter',  // OTEL_SERVICE_NAME, by which Loki knows the records
  },
}
