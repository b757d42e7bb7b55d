// Selectors, groups of labels and the form of an alert, for one configuration.
function(config) {
  local this = self,
  local list(labels) = std.join(', ', std.filter(function(label) label != '', labels)),
  local ofJob = [config.clusterLabel] + config.jobLabels,

  // What alerts are grouped by and joined on: a deployment, a pool of it, a process of it, a pool of a process.
  job: list(ofJob),
  pool: list(ofJob + ['user_pool_id']),
  instance: list(ofJob + config.instanceLabels),
  instancePool: list(ofJob + config.instanceLabels + ['user_pool_id']),

  // A metric of the exporter with matchers.
  series(metric, matchers=''):: metric + (
    local all = list([matchers, config.selector]);
    if all == '' then '' else '{%s}' % all
  ),

  // When each process started. Other programs have this metric, too: one series for each instance keeps joins sound.
  startTime: 'max by (%s) (%s)' % [this.instance, this.series('process_start_time_seconds')],

  // A total by pool and shard, whoever shows it. Old and new instance are the same counter, shown twice until the old one is
  // stale: so `max`, and not `sum`.
  byShard(total):: |||
    max by (%(pool)s, index) (
      sum by (%(instancePool)s) (%(total)s)
      * on (%(instance)s) group_left (index) max by (%(instance)s, index) (%(info)s)
    )
  ||| % this { total: total, info: this.series('cognito_exporter_shard_info') },

  // Names of a deployment and of a pool in annotations.
  local path = [
    '{{ with $labels.%s }}{{ . }}/{{ end }}' % label
    for label in ofJob[:std.length(ofJob) - 1]
    if label != ''
  ],
  where: std.join('', path) + '{{ $labels.%s }}' % ofJob[std.length(ofJob) - 1],
  poolName:
    '{{ $labels.user_pool_id }}{{ with printf "topk(1, last_over_time(cognito_exporter_pool_info{user_pool_id=%q}[1d]))"'
    + ' $labels.user_pool_id | query }}{{ with . | first | label "user_pool_name" }}{{ if ne . $labels.user_pool_id }}'
    + ' ({{ . }}){{ end }}{{ end }}{{ end }}',

  // An alerting rule. `about` is the dashboard that shows more.
  alert(name, severity, expr, summary, description, about='health', wait=null, labels={}):: {
    alert: name,
    expr: expr,
    [if wait != null then 'for']: wait,
    labels: { severity: config.severities[severity] } + labels + config.alertLabels,
    annotations: {
      summary: summary,
      description: description,
      runbook_url: config.runbookURLPattern % std.asciiLower(name),
      [if config.grafanaURL != '' then 'dashboard_url']: this.dashboardURL(about),
    } + config.alertAnnotations,
  },

  dashboardURL(about):: config.grafanaURL + '/d/' + config.dashboardUIDs[about] + '?from=now-3h' + std.join('', [
    '{{ with $labels.%s }}&var-%s={{ . }}{{ end }}' % variable
    for variable in [[config.clusterLabel, 'cluster'], ['namespace', 'namespace'], ['job', 'job'], ['user_pool_id', 'pool']]
    if variable[0] != ''
  ]),

  // Rules of a group, without the alerts that are switched off. A rule may be null.
  group(name, rules):: {
    name: name,
    rules: [
      rule
      for rule in rules
      if rule != null && !std.member(config.disabledAlerts, std.get(rule, 'alert', ''))
    ],
  },
}
