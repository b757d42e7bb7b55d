// What happens in the pools.
//
// Three things decide how these rules are written.
//
// The very first event of its kind. The exporter shows every series at 0 and waits to be scraped before it polls, so
// increase() sees it go from 0 to 1. It has to be asked of the exporter's own series: a recorded one may begin after the event.
//
// A new instance label. The totals are durable: a pod that was killed at 42, having counted one event that nobody scraped, comes
// back at 43 under another name, and no increase() over one series sees that step. So a total is also recorded by pool and
// shard, whoever shows it, and compared with what it was ten minutes ago or, after an outage, when it was last seen.
//
// Alerts carry the labels of what they are about (a deployment, a pool), not those of the instance that told it: `for` goes on
// counting when a pod is replaced, and one incident stays one notification.
//
// Recording rules stand before the alerts that read them, in one group: then no alert reads a value of the evaluation before.
local promql = import '../lib/promql.libsonnet';

{
  local config = $._config,
  local q = promql(config),

  local signIns = 'event_type="SignIn"',
  local failed = signIns + ', event_response="Fail"',
  local isAuditOnly = 'user_pool_id=~"%s"' % config.auditOnlyPools,
  local hasAuditOnly = config.auditOnlyPools != '',

  // Outcomes less those that were left again.
  local final(matchers, window) = |||
    sum by (%(pool)s) (increase(%(events)s[%(window)s]))
    - sum by (%(pool)s) (increase(%(left)s[%(window)s]))
  ||| % q {
    events: q.series('cognito_auth_events_total', matchers),
    left: q.series('cognito_auth_superseded_outcomes_total', matchers),
    window: window,
  },

  local record(name, expr) = { record: name, expr: expr },

  // Events of a kind that are an alert each: their total by shard, what it went up by, and what is usual.
  local risky(name, series) = [
    record('pool_index:%s:total' % name, q.byShard(series)),
    record('pool:%s:increase10m' % name, |||
      sum by (%(pool)s) (
        pool_index:%(name)s:total - last_over_time(pool_index:%(name)s:total[1d] offset 10m)
      ) > 0
      or
      sum by (%(pool)s) (increase(%(series)s[10m]))
    ||| % q { name: name, series: series }),
    usual('pool:%s:increase10m' % name, '20m'),
  ],

  // The mean of the last day. The offset leaves out what is judged, and as much before.
  local usual(name, offset) = record(name + '_avg1d', 'avg_over_time(%s[1d] offset %s)' % [name, offset]),

  // More than a busy hour: many, several times the usual number, and several times the usual share of `all`. The last is what
  // a rush, or hours of backlog that arrive in minutes, does not change. It is an `unless` with a product, because a pool that
  // had no sign-in for a day can be attacked, too.
  local unusual(count, all, atLeast, limits, matchers='', firstCounts=true) = |||
    (
      %(count)s%(matchers)s >= %(atLeast)g
      %(comparison)s %(times)g * %(count)s_avg1d
    )
    unless
    (
      %(count)s * %(all)s_avg1d <= %(shareTimes)g * %(count)s_avg1d * %(all)s
      and
      %(all)s_avg1d > 0
    )
  ||| % limits {
    count: count,
    all: all,
    atLeast: atLeast,
    matchers: matchers,
    // Without a day before there is nothing usual. A takeover is an alert even so; twenty failed sign-ins are not.
    comparison: if firstCounts then 'unless %s <=' % count else 'and %s >' % count,
  },

  // The alerts of a kind: a warning for one, a page for many.
  local alerts(name, count, limits, matchers, summary, description, labels={}) = [
    q.alert(
      name,
      severity,
      unusual(count, 'pool:cognito_sign_ins:increase10m', limits[severity], limits, matchers),
      summary[severity],
      description[severity],
      about='security',
      labels=labels,
    )
    for severity in ['warning', 'critical']
    if limits[severity] != null
  ],

  local both(text) = { warning: text, critical: text },
  local enforced = if hasAuditOnly then '{user_pool_id!~"%s"}' % config.auditOnlyPools else '',

  prometheusAlerts+:: {
    groups+: [q.group('cognito-sign-in-security', 
      risky('cognito_high_risk_takeovers', q.series(
        'cognito_auth_risk_events_total', 'risk_decision="AccountTakeover", risk_level="High", event_response!="Fail"'
      ))
      + risky('cognito_blocks', q.series('cognito_auth_risk_events_total', 'risk_decision="Block"'))
      + risky('cognito_compromised_credentials', q.series('cognito_auth_compromised_credentials_events_total'))
      + [
        record('pool:cognito_sign_ins:increase10m', final(signIns, '10m')),
        record('pool:cognito_failed_sign_ins:increase10m', final(failed, '10m')),
        record(
          'pool:cognito_unfailed_sign_ins:increase10m',
          'pool:cognito_sign_ins:increase10m - pool:cognito_failed_sign_ins:increase10m'
        ),
        record('pool:cognito_sign_ins:increase1h', final(signIns, '1h')),
        record('pool:cognito_unfinished_sign_ins:increase1h', 'sum by (%s) (increase(%s[1h]))' % [
          q.pool,
          q.series('cognito_auth_unfinished_events_total', signIns),
        ]),
        record('pool:cognito_auth_events:increase1h', final('', '1h')),
        usual('pool:cognito_sign_ins:increase10m', '20m'),
        usual('pool:cognito_failed_sign_ins:increase10m', '20m'),
        usual('pool:cognito_unfailed_sign_ins:increase10m', '20m'),
        usual('pool:cognito_sign_ins:increase1h', '2h'),
        usual('pool:cognito_unfinished_sign_ins:increase1h', '2h'),
      ]
      + alerts(
        'CognitoAccountTakeover',
        'pool:cognito_high_risk_takeovers:increase10m',
        config.takeovers,
        enforced,
        {
          warning: 'Somebody may have taken over an account of user pool ' + q.poolName,
          critical: 'Many accounts of user pool %s may have been taken over' % q.poolName,
        },
        both(
          'Threat protection saw about {{ $value | printf "%.0f" }} sign-ins or other events at high risk of account takeover that'
          + ' did not fail, in the last ten minutes or since the exporter was last seen. The log has who, from where and with what.'
        ),
      )
      + (if !hasAuditOnly then [] else alerts(
           'CognitoAccountTakeover',
           'pool:cognito_high_risk_takeovers:increase10m',
           config.auditOnlyTakeovers,
           '{%s}' % isAuditOnly,
           both('Unusually many events of user pool %s, which only audits, are at high risk' % q.poolName),
           both(
             'Threat protection rated about {{ $value | printf "%.0f" }} events of the last ten minutes as a takeover at high risk. The'
             + ' pool is in audit-only mode: nothing was blocked, and no second factor was asked for.'
           ),
           { threat_protection: 'audit-only' },
         ))
      + alerts(
        'CognitoBlockedByThreatProtection',
        'pool:cognito_blocks:increase10m',
        config.blocks,
        '',
        {
          warning: 'Threat protection blocks events in user pool ' + q.poolName,
          critical: 'Threat protection blocks very many events in user pool ' + q.poolName,
        },
        both(
          'About {{ $value | printf "%.0f" }} events were decided with Block in the last ten minutes or since the exporter was last seen.'
          + ' Either an attack is being held off, or people who should come in cannot.'
        ),
      )
      + alerts(
        'CognitoCompromisedCredentials',
        'pool:cognito_compromised_credentials:increase10m',
        config.compromisedCredentials,
        '',
        {
          warning: 'Credentials known from leaks are in use in user pool ' + q.poolName,
          critical: 'Many credentials known from leaks are in use in user pool ' + q.poolName,
        },
        both(
          'About {{ $value | printf "%.0f" }} events of the last ten minutes, or since the exporter was last seen, used a password that'
          + ' is known to be compromised. Also where the sign-in failed, the password has to change.'
        ),
      )
      + [
        q.alert(
          'CognitoSignInFailureBurst',
          'warning',
          unusual(
            'pool:cognito_failed_sign_ins:increase10m',
            'pool:cognito_unfailed_sign_ins:increase10m',
            config.signInFailures.atLeast,
            config.signInFailures,
            firstCounts=false,
          ),
          'Sign-ins to user pool %s fail far more than usual' % q.poolName,
          '{{ $value | printf "%%.0f" }} sign-ins failed in ten minutes: more than %(times)g times the mean of the last day, and more than %(shareTimes)g times as many for each success. Guessed passwords, leaked lists, or an application that was released with a fault.' % config.signInFailures,
          about='security',
        ),
        // Still in progress when its watch ended: the password was right, and the second factor never came. It is counted half an
        // hour after the sign-in; what is usual leaves out the hour that is judged and the one before.
        q.alert(
          'CognitoSecondFactorsUnfinished',
          'warning',
          unusual(
            'pool:cognito_unfinished_sign_ins:increase1h',
            'pool:cognito_sign_ins:increase1h',
            config.unfinishedSignIns.atLeast,
            config.unfinishedSignIns,
            firstCounts=false,
          ),
          'In user pool %s many know the password and do not have the second factor' % q.poolName,
          '{{ $value | printf "%%.0f" }} sign-ins of the last hour were left after a right password: more than %(times)g times the mean of the last day, and more than %(shareTimes)g times the usual share. A list of stolen passwords that work, or second factors that do not arrive.' % config.unfinishedSignIns,
          about='security',
        ),
        // At this hour there were some yesterday, and a week ago too where that is known: a quiet Sunday is not an incident. A
        // pool that is down says so itself.
        q.alert(
          'CognitoNoAuthEvents',
          'warning',
          |||
            (
              pool:cognito_auth_events:increase1h == 0
              and
              pool:cognito_auth_events:increase1h offset 1d >= %(usual)s
            )
            unless
            pool:cognito_auth_events:increase1h offset 1w < %(usual)s
            unless on (%(pool)s)
            %(up)s == 0
          ||| % q { usual: config.noAuthEvents.usual, up: q.series('cognito_exporter_pool_up') },
          'User pool %s has no auth events, where there always were some' % q.poolName,
          'Not one event in an hour and a half; at this hour yesterday there were %d or more. Nobody can sign in, threat protection was switched off, or the exporter does not see what happens.' % config.noAuthEvents.usual,
          about='security',
          wait='30m',
        ),
      ]
    )],
  },
}
