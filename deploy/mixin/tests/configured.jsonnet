// Values other than the defaults, for configured.yml beside it.
{
  clusterLabel: 'k8s_cluster',
  jobLabels: ['tenant', 'job'],
  selector: 'env="prod"',
  runbookURLPattern: 'https://wiki.example.org/runbooks/%s.html',
  grafanaURL: '',
  severities: { critical: 'page', warning: 'ticket' },
  alertLabels: { team: 'identity' },
  alertAnnotations: { owner: 'identity@example.org' },
  disabledAlerts: ['CognitoVolumeFilling', 'CognitoCertificateExpiring'],
  takeovers: { warning: null, critical: 1, times: 0, shareTimes: 0 },
  auditOnlyPools: 'audit-.*',
  auditOnlyTakeovers: { warning: 3, critical: null, times: 0, shareTimes: 0 },
}
