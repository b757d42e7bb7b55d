// The exporter: whether it sees what happens in time, and whether its records arrive.
local promql = import '../lib/promql.libsonnet';

{
  local config = $._config,
  local q = promql(config),
  local s = q.series,

  local uptime = '(time() - %s)' % q.startTime,
  local objective = s('cognito_exporter_poll_objective_seconds'),
  local shortOfBudget = 'pool:cognito_exporter_round_beyond_objective:seconds',
  local seen = 'pool:cognito_auth_seen_events:rate10m',
  local late = 'pool:cognito_auth_late_events:rate10m',
  local shareOfLate(window) = 'avg_over_time(%s[%s]) / avg_over_time(%s[%s])' % [late, window, seen, window],
  local windows = config.eventDelay.windows,
  local named(values) = q { uptime: uptime, shortOfBudget: shortOfBudget } + values,
  local percent(share) = '%g %%' % (100 * share),

  local records = [
    // A round that takes longer than poll.max_interval. Beside an export only a sample is polled.
    {
      record: shortOfBudget,
      expr: |||
        max by (%(pool)s) (
          %(round)s > %(objective)s
          unless on (%(pool)s)
          max_over_time(%(exportUp)s[1h]) == 1
        )
      ||| % named({
        round: s('cognito_exporter_round_seconds_estimate'),
        objective: objective,
        exportUp: s('cognito_exporter_export_up'),
      }),
    },
    // A damaged ledger is replaced at a start, and its counter is 1 from the first scrape: the start is the time of it.
    {
      record: 'job:cognito_exporter_ledger_rebuilt:timestamp_seconds',
      expr: 'max by (%s) (%s and on (%s) %s > 0)' % [
        q.job,
        q.startTime,
        q.instance,
        s('cognito_exporter_state_rebuilds_total'),
      ],
    },
    {
      record: 'pool:cognito_unknown_words:total',
      expr: 'sum by (%s) (\n%s)\n' % [q.pool, q.byShard('\n  ' + std.join('\n  or\n  ', [
        s('cognito_auth_%s_total' % one[0], '%s="other"' % one[1])
        for one in [
          ['events', 'event_type'],
          ['events', 'event_response'],
          ['events', 'risk_decision'],
          ['risk_events', 'risk_level'],
          ['challenges', 'challenge_name'],
          ['challenges', 'challenge_response'],
          ['feedback', 'feedback_value'],
        ]
      ]) + '\n')],
    },
    // Events that are seen, and those of them that are late. What the first hour after a start works off happened while nobody
    // looked: it says nothing about the objective. Prometheus 3 writes the bound as 3600.0.
  ] + [
    {
      record: one[0],
      expr: |||
        (
          sum by (%(pool)s) (rate(%(all)s[10m]))%(inTime)s
        )
        unless on (%(pool)s)
        min by (%(pool)s) (%(info)s * on (%(instance)s) group_left () %(uptime)s) < 3600
      ||| % named({
        all: s('cognito_auth_event_delay_seconds_count'),
        inTime: one[1],
        info: s('cognito_exporter_pool_info'),
      }),
    }
    for one in [
      [seen, ''],
      [late, '\n  - sum by (%s) (rate(%s[10m]))' % [
        q.pool,
        s('cognito_auth_event_delay_seconds_bucket', 'le=~"%g(\\\\.0)?"' % config.eventDelay.within),
      ]],
    ]
  ],

  local alerts = [
    q.alert(
      'CognitoPoolDown',
      'critical',
      'min by (%s) (%s) == 0' % [q.pool, s('cognito_exporter_pool_up')],
      'User pool %s cannot be read' % q.poolName,
      'The pool or the caller is refused, or its endpoint cannot be reached. Nothing of what happens in it is seen; nothing is lost,'
      + " Cognito keeps it. The exporter's log and /status have the error.",
      wait='5m',
    ),

    // After a start the backlog gets a round and a half; a pool that was down, or polling that was paused, has an alert of its own
    // and an hour to catch up. So has polling that takes over from an export; beside an export it reads only a sample. Where the
    // budget cannot keep the objective, CognitoBudgetInsufficient says so.
    q.alert(
      'CognitoPoolStale',
      'warning',
      |||
        max by (%(pool)s) (
          (
            time() - %(oldest)s > %(times)g * %(objective)s
          )
          unless on (%(instancePool)s)
          1.5 * %(round)s > on (%(instance)s) group_left () %(uptime)s
          unless on (%(pool)s)
          min_over_time(%(up)s[1h]) == 0
          unless on (%(instance)s)
          max_over_time(%(paused)s[1h]) == 1
          unless on (%(pool)s)
          max_over_time(%(exportUp)s[1h]) == 1
          unless on (%(pool)s)
          %(shortOfBudget)s
        )
      ||| % named({
        times: config.poolStale.times,
        oldest: s('cognito_exporter_oldest_poll_timestamp_seconds'),
        objective: objective,
        round: s('cognito_exporter_round_seconds_estimate'),
        up: s('cognito_exporter_pool_up'),
        paused: s('cognito_exporter_paused'),
        exportUp: s('cognito_exporter_export_up'),
      }),
      'Some users of pool %s are not looked at in time' % q.poolName,
      'The least recently polled user was polled {{ $value | humanizeDuration }} ago, which is more than %g times poll.max_interval. What happened to such a user since then is not known yet.' % config.poolStale.times,
      wait='15m',
    ),

    q.alert(
      'CognitoBudgetInsufficient',
      'warning',
      shortOfBudget + ' > 0',
      'The budget is too small for the users of pool ' + q.poolName,
      'To poll every user once takes {{ $value | humanizeDuration }} at the present budget, which is longer than poll.max_interval. Events'
      + ' of idle users are seen that late. cognito_exporter_required_requests_per_second is the budget that the objective needs.',
      wait='1h',
    ),
  ] + [
    // How fast the share of late events uses up what the objective allows, over a long window and, so that it ends soon, a short
    // one.
    q.alert(
      'CognitoEventDelayBurn',
      window.severity,
      |||
        (
          %(long)s > %(limit)g
          and
          %(short)s > %(limit)g
          and
          sum by (%(pool)s) (increase(%(all)s[%(window)s])) >= %(atLeast)g
        )
        unless on (%(pool)s)
        %(shortOfBudget)s
        unless on (%(pool)s)
        max by (%(pool)s) (%(objective)s) > %(within)g
      ||| % named({
        long: shareOfLate(window.long),
        short: shareOfLate(window.short),
        window: window.long,
        limit: window.factor * (1 - config.eventDelay.target),
        atLeast: config.eventDelay.atLeast,
        all: s('cognito_auth_event_delay_seconds_count'),
        objective: objective,
        within: config.eventDelay.within,
      }),
      'Events of user pool %s are seen too late' % q.poolName,
      'In the last %s {{ $value | humanizePercentage }} of the events were seen later than %gs after they happened; the objective allows %s. Alerts about sign-ins are as late.' % [window.long, config.eventDelay.within, percent(1 - config.eventDelay.target)],
      wait=window['for'],
      labels={ long: window.long, short: window.short },
    )
    for window in windows
  ] + [
    q.alert(
      'CognitoDiscoveryStale',
      'warning',
      |||
        max by (%(pool)s) (
          (
            (time() - %(success)s > %(staleAfter)g)
            or
            (
              %(info)s * on (%(instance)s) group_left () %(uptime)s > %(staleAfter)g
              unless on (%(instancePool)s) %(success)s
              unless on (%(instancePool)s) (%(exportUp)s unless on (%(instancePool)s) %(objective)s)
            )
          )
          unless on (%(instancePool)s)
          (changes(%(listed)s[30m]) > 0 unless on (%(instancePool)s) time() - %(success)s > %(longest)g)
        )
        unless on (%(pool)s)
        %(up)s == 0
      ||| % named(config.discovery {
        success: s('cognito_exporter_discovery_last_success_timestamp_seconds'),
        info: s('cognito_exporter_pool_info'),
        listed: s('cognito_exporter_discovery_listed_users'),
        exportUp: s('cognito_exporter_export_up'),
        objective: objective,
        up: s('cognito_exporter_pool_up'),
      }),
      'The users of pool %s are not listed' % q.poolName,
      'The last complete listing, or the start where there never was one, is {{ $value | humanizeDuration }} ago. Users that were created'
      + ' since then are not followed: nobody sees how they sign in.',
      wait='15m',
    ),
  ] + [
    q.alert(
      'CognitoUsersFailing',
      severity,
      |||
        (
          sum by (%(pool)s) (%(failing)s) / sum by (%(pool)s) (%(users)s) > %(share)g
          and
          sum by (%(pool)s) (%(failing)s) >= %(atLeast)g
        )
        unless on (%(pool)s)
        %(up)s == 0
      ||| % named({
        failing: s('cognito_exporter_users', 'state="failing"'),
        users: s('cognito_exporter_users'),
        share: config.usersFailing[severity],
        atLeast: config.usersFailing.atLeast,
        up: s('cognito_exporter_pool_up'),
      }),
      'Users of pool %s cannot be polled' % q.poolName,
      '{{ $value | humanizePercentage }} of the followed users are failing: Cognito answers with errors when they are polled. What happens'
      + ' to them is not seen.',
      wait='30m',
    )
    for severity in ['warning', 'critical']
  ] + [
    // While live events go on, history may wait: for its budget, or for the outbox, of which it may fill one half.
    q.alert(
      'CognitoHistoryStuck',
      'warning',
      |||
        (
          max by (%(pool)s) (%(catchingUp)s) == 1
          and
          sum by (%(pool)s) (increase(%(fetched)s[30m])) == 0
        )
        unless on (%(pool)s)
        %(up)s == 0
        unless on (%(job)s)
        %(paused)s == 1
      ||| % named({
        catchingUp: s('cognito_exporter_catching_up'),
        fetched: s('cognito_exporter_fetched_events_total', 'result="history"'),
        up: s('cognito_exporter_pool_up'),
        paused: s('cognito_exporter_paused'),
      }),
      'The history of user pool %s is not read on' % q.poolName,
      'For two hours and a half there was history or a backlog to read, and no event of history was read.',
      wait='2h',
    ),

    q.alert(
      'CognitoUnknownWords',
      'warning',
      |||
        pool:cognito_unknown_words:total > 0
        unless
        pool:cognito_unknown_words:total <= last_over_time(pool:cognito_unknown_words:total[1d] offset 1d)
      |||,
      'Cognito says words about user pool %s that this version does not know' % q.poolName,
      'In the last day an event had a type, response, decision, level, challenge or feedback that this build counts as `other`. Alerts on'
      + ' outcomes may not see such events. The log record has the word.',
    ),

    q.alert(
      'CognitoThrottled',
      'warning',
      'sum by (%s, account_id, region) (increase(%s[10m])) > 0' % [
        q.job,
        s('cognito_exporter_api_requests_total', 'outcome="throttled"'),
      ],
      'Cognito keeps throttling calls in account {{ $labels.account_id }}, {{ $labels.region }}',
      'For half an hour no ten minutes went by without a throttled call, although the exporter backs off. The quota is used up by somebody,'
      + " and the application's own calls of the same category meet the same limit.",
      wait='30m',
    ),

    // Refused calls are tried again every five minutes.
    q.alert(
      'CognitoCallsDenied',
      'warning',
      'sum by (%s, account_id, region, operation) (increase(%s[15m])) > 0' % [
        q.job,
        s('cognito_exporter_api_requests_total', 'outcome="denied", operation!="GetProvisionedLimit"'),
      ],
      'Calls of {{ $labels.operation }} are denied in account {{ $labels.account_id }}, {{ $labels.region }}',
      'For half an hour AWS denied calls: a permission is missing, or a trust or a credential has changed. /status has the error, and'
      + ' `check` the remedy.',
      wait='15m',
    ),

    // A budget in per cent follows the limit, which is read every five minutes.
    q.alert(
      'CognitoAccountLimitUnread',
      'warning',
      |||
        sum by (%(job)s, account_id, region) (increase(%(all)s[30m])) > 0
        unless
        sum by (%(job)s, account_id, region) (increase(%(ok)s[30m])) > 0
      ||| % q {
        all: s('cognito_exporter_api_requests_total', 'operation="GetProvisionedLimit"'),
        ok: s('cognito_exporter_api_requests_total', 'operation="GetProvisionedLimit", outcome="ok"'),
      },
      'The request limit of account {{ $labels.account_id }} in {{ $labels.region }} cannot be read',
      'poll.requests_per_second is a share of the limit, and for an hour no call of GetProvisionedLimit succeeded. The exporter keeps the'
      + ' limit that it last read, or takes the default of 50 requests a second.',
      wait='30m',
    ),

    // A long backlog that moves is not stuck. After a start with a receiver that is down there is no progress to show yet.
    q.alert(
      'CognitoDeliveryStuck',
      'warning',
      |||
        max by (%(job)s) (
          (time() - %(oldest)s > %(waits)g)
          unless on (%(instance)s)
          time() - %(progress)s < %(nothingFor)g
        )
      ||| % named(config.delivery {
        oldest: s('cognito_exporter_outbox_oldest_timestamp_seconds'),
        progress: s('cognito_exporter_last_progress_timestamp_seconds', 'stage="deliver"'),
      }),
      'Auth events do not reach the log receiver (%s)' % q.where,
      'The oldest record has waited for {{ $value | humanizeDuration }}, and nothing was delivered for ten minutes. Counters and alerts go'
      + ' on; records wait on disk until the outbox is full.',
      wait='5m',
    ),

    q.alert(
      'CognitoQuarantineNotEmpty',
      'warning',
      'sum by (%s) (%s) > 0' % [q.job, s('cognito_exporter_quarantined_records')],
      'The log receiver refused records as invalid (%s)' % q.where,
      '{{ $value }} records are in quarantine. They are missing from the logs until somebody retries or drops them.',
    ),

    q.alert(
      'CognitoOutboxFilling',
      'warning',
      |||
        max by (%(job)s) (%(bytes)s / %(limit)s) > %(share)g
        unless on (%(job)s)
        max_over_time(%(full)s[5m]) == 1
      ||| % named({
        bytes: s('cognito_exporter_outbox_bytes'),
        limit: s('cognito_exporter_outbox_limit_bytes'),
        full: s('cognito_exporter_paused', 'reason="outbox_full"'),
        share: config.outboxFilling,
      }),
      'The outbox fills up (%s)' % q.where,
      '{{ $value | humanizePercentage }} of state.outbox_limit waits for the log receiver. When it is full polling pauses, and no security'
      + ' alert can fire.',
      wait='10m',
    ),

    q.alert(
      'CognitoOutboxFull',
      'critical',
      'max by (%s) (max_over_time(%s[5m])) == 1' % [q.job, s('cognito_exporter_paused', 'reason="outbox_full"')],
      'The outbox is full, polling pauses (%s)' % q.where,
      'As many records wait for the receiver as state.outbox_limit allows. Until it takes some, nothing new is read from Cognito: counters'
      + ' stand still, and no security alert can fire. Nothing is lost, Cognito keeps it.',
    ),

    // Polling that found no page and no end of its work for a quarter of an hour, that never began, or a state or quarantine
    // that stops everything. A full outbox and a pool that is down say so themselves. An export may be all that there is to do.
    q.alert(
      'CognitoExporterStuck',
      'critical',
      |||
        count by (%(job)s) (
          (
            time() - %(progress)s > 900
            or on (%(instance)s)
            (
              %(build)s * on (%(instance)s) group_left () %(uptime)s > 900
              unless on (%(instance)s) %(progress)s
              unless on (%(instance)s) %(up)s == 0
              unless on (%(instance)s) %(exportUp)s
            )
          )
          unless on (%(instance)s) %(full)s == 1
          or on (%(instance)s)
          %(stopped)s == 1
        )
      ||| % named({
        progress: s('cognito_exporter_last_progress_timestamp_seconds', 'stage="poll"'),
        build: s('cognito_exporter_build_info'),
        up: s('cognito_exporter_pool_up'),
        exportUp: s('cognito_exporter_export_up'),
        full: s('cognito_exporter_paused', 'reason="outbox_full"'),
        stopped: s('cognito_exporter_paused', 'reason=~"state_error|quarantine_full"'),
      }),
      'The exporter runs and does nothing (%s)' % q.where,
      '{{ $value }} instances made no progress for a quarter of an hour, or cannot write their state, or their quarantine is full. /readyz'
      + ' and /status have the reason.',
      wait='5m',
    ),

    // One of several that is gone for days is missed as long as the lookback says: then it may have been removed on purpose.
    q.alert(
      'CognitoExporterGone',
      'critical',
      |||
        group by (%(job)s) (last_over_time(%(build)s[%(lookback)s])) unless group by (%(job)s) (%(build)s)
        or
        absent(last_over_time(%(build)s[%(lookback)s]))
      ||| % named({ build: s('cognito_exporter_build_info'), lookback: config.goneLookback }),
      'No cognito-auth-exporter answers {{ with $labels.job }}(%s){{ end }}' % std.strReplace(q.where, '{{ $labels.job }}', '{{ . }}'),
      'Prometheus scraped no instance for five minutes. Nobody looks at the sign-ins, and no other alert about them can fire.',
      wait='5m',
    ),

    // PromQL cannot read a number out of a label, but it can write one into a label: `shards` is what the count is, or should be.
    q.alert(
      'CognitoShardMissing',
      'critical',
      |||
        group by (%(job)s, count) (
          label_replace(%(info)s, "shards", "$1", "count", "(.+)")
          unless on (%(job)s, count, shards)
          count_values by (%(job)s, count) (
            "shards", count by (%(job)s, count) (group by (%(job)s, count, index) (%(info)s))
          )
        )
      ||| % named({ info: s('cognito_exporter_shard_info') }),
      'Of {{ $labels.count }} shards some are missing (%s)' % q.where,
      'Each shard follows its own share of the users; those of a missing one are followed by nobody. count by (index)'
      + ' (cognito_exporter_shard_info) has those that are there.',
      wait='10m',
    ),

    q.alert(
      'CognitoConfigReloadFailed',
      'warning',
      'min by (%s) (%s) == 0' % [q.job, s('cognito_exporter_config_last_reload_successful')],
      'The exporter refuses its changed configuration (%s)' % q.where,
      'The latest reload failed, and the exporter keeps the configuration that it had. With the changed one it would not start again. The'
      + ' log has the mistake.',
      wait='5m',
    ),

    q.alert(
      'CognitoLedgerRebuilt',
      'warning',
      'time() - max by (%s) (max_over_time(job:cognito_exporter_ledger_rebuilt:timestamp_seconds[1d])) < 86400' % q.job,
      'A damaged ledger was replaced (%s)' % q.where,
      '{{ $value | humanizeDuration }} ago the exporter moved its damaged state aside and began a new one. Counters begin at 0, records'
      + ' that waited for delivery are read again, and the disk may be failing.',
    ),
  ] + [
    q.alert(
      'CognitoVolumeFilling',
      severity,
      |||
        max by (%(claim)s) (kubelet_volume_stats_available_bytes{%(selector)s})
        / max by (%(claim)s) (kubelet_volume_stats_capacity_bytes{%(selector)s})
        < %(share)g
      ||| % {
        claim: std.join(', ', std.filter(
          function(label) label != '', [config.clusterLabel, 'namespace', 'persistentvolumeclaim']
        )),
        selector: config.volumeSelector,
        share: config.volume[severity],
      },
      'The volume {{ $labels.persistentvolumeclaim }} of the exporter is nearly full',
      '{{ $value | humanizePercentage }} of it is free. When nothing is, the state cannot be written and polling stops. Nothing is lost,'
      + ' Cognito keeps it.',
      wait='15m',
    )
    for severity in ['warning', 'critical']
  ] + [
    q.alert(
      'CognitoCertificateExpiring',
      severity,
      |||
        (
          min by (%(job)s, instance) (probe_ssl_earliest_cert_expiry{%(probe)s}) - time()
          or
          min by (%(job)s, name) (certmanager_certificate_expiration_timestamp_seconds{%(certificate)s}) - time()
        ) < %(seconds)g
      ||| % q {
        probe: config.probeSelector,
        certificate: config.certificateSelector,
        seconds: 86400 * config.certificate[severity],
      },
      'The certificate of {{ with $labels.name }}{{ . }}{{ else }}{{ $labels.instance }}{{ end }} expires soon',
      'It is valid for another {{ $value | humanizeDuration }}. Then Prometheus cannot scrape the exporter, or Firehose cannot reach it.',
      wait='1h',
    )
    for severity in ['warning', 'critical']
  ],

  prometheusAlerts+:: {
    groups+: [q.group('cognito-exporter-health', records + alerts)],
  },
}
