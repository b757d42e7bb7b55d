// Cognito's own export of user activity. Silent where no pool has one.
local promql = import '../lib/promql.libsonnet';

{
  local config = $._config,
  local q = promql(config),
  local s = q.series,

  local missed = 'pool:cognito_export_missed_events:increase1d',
  local audited = 'pool:cognito_export_audited_events:increase1d',

  prometheusAlerts+:: {
    groups+: [q.group('cognito-export', [
      // What polls of the last day found and looked up in the export, and what it missed. The 95 % interval of a share m of n
      // (Wilson) is (m + z²/2 ± z·sqrt(m(n-m)/n + z²/4)) / (n + z²) with z = 1.96, so z²/2 = 1.92 and z²/4 = 0.96. The alert asks
      // for a lower end above 1 %: few events prove nothing, and a loss of a little over 1 % needs many.
      {
        record: audited,
        expr: 'sum by (%s) (increase(%s[1d]))' % [q.pool, s('cognito_exporter_export_audited_events_total')],
      },
      {
        record: missed,
        expr: 'sum by (%s) (increase(%s[1d]))' % [q.pool, s('cognito_exporter_export_missed_events_total')],
      },

      q.alert(
        'CognitoExportDown',
        'critical',
        'min by (%s) (%s) == 0' % [q.pool, s('cognito_exporter_export_up')],
        "Cognito's export of user pool %s is down" % q.poolName,
        'The export cannot be read, or polls find events that do not arrive. Polling runs in full, unless export.audit is "off": events are'
        + ' seen as late as without an export, or not at all.',
        wait='15m',
      ),

      q.alert(
        'CognitoExportLoss',
        'warning',
        |||
          100 * %(missed)s / %(audited)s
          and
          %(audited)s >= %(atLeast)g
          and
          (
            %(missed)s + 1.92
            - 1.96 * sqrt(%(missed)s * (%(audited)s - %(missed)s) / %(audited)s + 0.96)
          )
          / (%(audited)s + 3.84)
          > %(share)g
        ||| % config.exportLoss { missed: missed, audited: audited },
        "Cognito's export of user pool %s loses events" % q.poolName,
        'Of the events that polls found in a day, {{ $value | printf "%%.1f" }} %% had not arrived through the export within export.grace, and more than %g %% is certain. What no poll reads of these is not seen.' % (100 * config.exportLoss.share),
        wait='15m',
      ),

      // Half an hour of ten minutes each: a backlog that is read at once after an outage is over before.
      q.alert(
        'CognitoExportLate',
        'warning',
        'histogram_quantile(0.95, sum by (%s, le) (rate(%s[10m]))) > %g' % [
          q.pool,
          s('cognito_exporter_export_delay_seconds_bucket'),
          config.exportLate,
        ],
        "Cognito's export of user pool %s is late" % q.poolName,
        'One event in twenty arrives {{ $value | humanizeDuration }} or more after it happened. Alerts about sign-ins are as late.',
        wait='30m',
      ),

      // Work that was paused has an alert of its own, and an hour to catch up.
      q.alert(
        'CognitoExportUnread',
        'warning',
        |||
          max by (%(pool)s) (
            (time() - %(readUntil)s > %(behind)g)
            unless on (%(instance)s)
            max_over_time(%(paused)s[1h]) == 1
          )
        ||| % q {
          readUntil: s('cognito_exporter_export_read_until_timestamp_seconds'),
          behind: config.exportUnread,
          paused: s('cognito_exporter_paused'),
        },
        'The log group of user pool %s is not read' % q.poolName,
        'The log group of the export was last read up to {{ $value | humanizeDuration }} ago. What Cognito has written since then waits in the'
        + ' log group, for as long as its retention says.',
        wait='10m',
      ),

      // A request without a key may come from anybody. Firehose tries again at least every two minutes, for up to two hours.
      q.alert(
        'CognitoFirehoseRefused',
        'warning',
        'sum by (%s, outcome) (increase(%s[10m])) >= %g' % [
          q.job,
          s('cognito_exporter_firehose_requests_total', 'outcome=~"unauthorized|busy"'),
          config.firehoseRefused,
        ],
        'Requests of Data Firehose are refused as {{ $labels.outcome }} (%s)' % q.where,
        '{{ $value | printf "%.0f" }} requests in ten minutes were refused. Firehose tries again for as long as the stream says, two hours at'
        + ' most; then the records go to its backup bucket.',
        wait='15m',
      ),
    ])],
  },
}
