// The rendered files, by their path from here: `jsonnet -S -m . files.jsonnet`, or render.py beside it.
function(config={})
  local mixin = (import 'mixin.libsonnet') + { _config+:: config };
  local rendered = '# Rendered from deploy/mixin, which has the reasons for each rule. Change it there.\n';
  local yaml(value) = rendered + std.manifestYamlDoc(value, indent_array_in_object=true, quote_keys=false) + '\n';
  {
    '../prometheus/rules.yml': yaml(mixin.prometheusAlerts),
    '../prometheus/prometheusrule.yaml': yaml({
      apiVersion: 'monitoring.coreos.com/v1',
      kind: 'PrometheusRule',
      metadata: { name: 'cognito-auth-exporter', labels: { 'app.kubernetes.io/name': 'cognito-auth-exporter' } },
      spec: mixin.prometheusAlerts,
    }),
  } + {
    ['../../dashboards/' + name]: std.manifestJsonEx(mixin.grafanaDashboards[name], '  ') + '\n'
    for name in std.objectFields(std.get(mixin, 'grafanaDashboards', {}, true))
  }
