// The dashboards that dashboards/generate.py writes, with the values of the configuration.
{
  local config = $._config,

  local adapted(dashboard, about) = {
    local other = if about == 'security' then 'health' else 'security',
    // The label of the cluster, in queries and variables; the variable keeps its name.
    local named(query) = std.foldl(
      function(text, form) std.strReplace(text, form % 'cluster', form % config.clusterLabel),
      ['%s=~', '(%s,', ', %s,', ', %s)'],
      query
    ),
    local walked(value, key='') =
      if std.isObject(value) then {
        [if name == 'cluster' then config.clusterLabel else name]: walked(value[name], name)
        for name in std.objectFields(value)
      }
      else if std.isArray(value) then [walked(one) for one in value]
      else if std.member(['expr', 'query'], key) && std.isString(value) then named(value)
      else value,
    local relabelled = if std.member(['', 'cluster'], config.clusterLabel) then dashboard else walked(dashboard),

    result: relabelled {
      uid: config.dashboardUIDs[about],
      title: config.dashboardNamePrefix + std.strReplace(dashboard.title, 'Cognito: ', ''),
      tags: config.dashboardTags,
      refresh: config.dashboardRefresh,
      timezone: config.dashboardTimezone,
      links: [
        link { url: '/d/' + config.dashboardUIDs[other], title: config.dashboardNamePrefix + std.strReplace(link.title, 'Cognito: ', '') }
        for link in super.links
      ],
      templating: {
        list: [
          if variable.name != 'service_name' then variable else variable {
            query: config.serviceName,
            current: { text: config.serviceName, value: config.serviceName },
            options: [self.current { selected: true }],
          }
          for variable in relabelled.templating.list
        ],
      },
    },
  }.result,

  grafanaDashboards+:: {
    'sign-in-security.json': adapted(import '../../../dashboards/sign-in-security.json', 'security'),
    'exporter-health.json': adapted(import '../../../dashboards/exporter-health.json', 'health'),
  },
}
