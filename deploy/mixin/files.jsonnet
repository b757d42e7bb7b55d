// The text of every rendered file, by its path in the repository: `jsonnet -S -m DIRECTORY -c files.jsonnet`, or render.py.
function(config={}, dashboards=true)
  local mixin = (import 'mixin.libsonnet') + { _config+:: config };
  local rendered = '# Rendered from deploy/mixin, which has the reasons for each rule. Change it there.\n';
  local yaml(value) = rendered + std.manifestYamlDoc(value, indent_array_in_object=true, quote_keys=false) + '\n';
  {
    'deploy/prometheus/rules.yml': yaml(mixin.prometheusAlerts),
    'deploy/prometheus/prometheusrule.yaml': yaml({
      apiVersion: 'monitoring.coreos.com/v1',
      kind: 'PrometheusRule',
      metadata: { name: 'cognito-auth-exporter', labels: { 'app.kubernetes.io/name': 'cognito-auth-exporter' } },
      spec: mixin.prometheusAlerts,
    }),
  } + if !dashboards then {} else {
    ['dashboards/' + name]: std.manifestJsonEx(mixin.grafanaDashboards[name], '  ') + '\n'
    for name in std.objectFieldsAll(mixin.grafanaDashboards)
  }
