{{- define "cognito-auth-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end }}

{{/* The release's name, and the chart's where the release's does not say it. */}}
{{- define "cognito-auth-exporter.fullname" -}}
{{- $name := include "cognito-auth-exporter.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Two releases in one namespace are two sets of pods. */}}
{{- define "cognito-auth-exporter.selector" -}}
app.kubernetes.io/name: {{ include "cognito-auth-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* A map whose values are texts, as Kubernetes demands of labels, annotations and node selectors. */}}
{{- define "cognito-auth-exporter.texts" -}}
{{- $texts := dict -}}
{{- range $key, $value := . -}}
{{- if and (kindIs "float64" $value) (eq (floor $value) $value) -}}
{{- $value = printf "%.0f" $value -}}
{{- end -}}
{{- $_ := set $texts $key (toString $value) -}}
{{- end -}}
{{- toYaml $texts -}}
{{- end }}

{{/* The labels of an object: (dict "root" $ "with" further labels). */}}
{{- define "cognito-auth-exporter.labelsWith" -}}
{{- $root := .root -}}
{{- $own := include "cognito-auth-exporter.selector" $root | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" ($root.Chart.AppVersion | replace "+" "_" | trunc 63) -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $chart := printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 -}}
{{- $_ := set $own "helm.sh/chart" ($chart | trimSuffix "-" | trimSuffix "_" | trimSuffix ".") -}}
{{- include "cognito-auth-exporter.texts" (merge $own (deepCopy .with) (deepCopy $root.Values.commonLabels)) -}}
{{- end }}

{{- define "cognito-auth-exporter.labels" -}}
{{- include "cognito-auth-exporter.labelsWith" (dict "root" . "with" dict) -}}
{{- end }}

{{/* The labels of the daemon's pods. */}}
{{- define "cognito-auth-exporter.podLabels" -}}
{{- $own := include "cognito-auth-exporter.selector" . | fromYaml -}}
{{- include "cognito-auth-exporter.texts" (merge $own (deepCopy .Values.podLabels) (deepCopy .Values.commonLabels)) -}}
{{- end }}

{{- define "cognito-auth-exporter.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "cognito-auth-exporter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "cognito-auth-exporter.image" -}}
{{- with default .Values.image.registry .Values.global.imageRegistry }}{{ . }}/{{ end -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{/* What the daemon's pods and the pod of `helm test` have in common: who they are and where they run. */}}
{{- define "cognito-auth-exporter.podSpec" -}}
serviceAccountName: {{ include "cognito-auth-exporter.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with concat .Values.imagePullSecrets .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - {{ kindIs "string" . | ternary (dict "name" .) . | toYaml }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- include "cognito-auth-exporter.texts" . | nindent 2 }}
{{- end }}
{{- range $key := list "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "runtimeClassName" "dnsPolicy" "dnsConfig" "hostAliases" }}
{{- with get $.Values $key }}
{{ dict $key . | toYaml }}
{{- end }}
{{- end }}
{{- with .Values.initContainers }}
initContainers: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "cognito-auth-exporter.env" -}}
- name: COGNITO_EXPORTER_STATE__PATH
  value: /var/lib/cognito-auth-exporter
{{- if .Values.web.existingSecret }}
- name: COGNITO_EXPORTER_HTTP__WEB_CONFIG_FILE
  value: /run/secrets/web/web.yml
{{- end }}
{{- if .Values.firehose.enabled }}
- name: COGNITO_EXPORTER_FIREHOSE__LISTEN
  value: "[::]:10589"
- name: COGNITO_EXPORTER_FIREHOSE__ACCESS_KEYS_FILE
  value: /run/secrets/firehose/access-keys
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Whole directories, no subPath: what changes in a ConfigMap or Secret reaches the exporter without a restart. */}}
{{- define "cognito-auth-exporter.mounts" -}}
- name: config
  mountPath: /etc/cognito-auth-exporter
  readOnly: true
- name: state
  mountPath: /var/lib/cognito-auth-exporter
{{- if .Values.web.existingSecret }}
- name: web
  mountPath: /run/secrets/web
  readOnly: true
{{- end }}
{{- if .Values.firehose.enabled }}
- name: firehose-access-keys
  mountPath: /run/secrets/firehose
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* All volumes but the state. */}}
{{- define "cognito-auth-exporter.volumes" -}}
- name: config
{{- if .Values.existingConfigSecret }}
  secret:
    secretName: {{ .Values.existingConfigSecret }}
    defaultMode: 0440
{{- else }}
  configMap:
    name: {{ default (include "cognito-auth-exporter.fullname" .) .Values.existingConfigMap }}
{{- end }}
{{- if .Values.web.existingSecret }}
- name: web
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ .Values.web.existingSecret }}
      {{- with .Values.web.certificateSecret }}
      - secret:
          name: {{ . }}
      {{- end }}
{{- end }}
{{- if .Values.firehose.enabled }}
- name: firehose-access-keys
  secret:
    secretName: {{ default (include "cognito-auth-exporter.firehoseName" .) .Values.firehose.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A probe, (dict "root" $ "probe" its values "path" what it asks). One with a handler of its own stays as it is. */}}
{{- define "cognito-auth-exporter.probe" -}}
{{- $web := .root.Values.web -}}
{{- $handler := dict -}}
{{- if pick .probe "httpGet" "tcpSocket" "exec" "grpc" -}}
{{- else if and $web.existingSecret (or $web.basicAuth.enabled $web.clientCertificates) -}}
{{- $handler = dict "tcpSocket" (dict "port" "metrics") -}}
{{- else if and $web.existingSecret $web.tls -}}
{{- $handler = dict "httpGet" (dict "path" .path "port" "metrics" "scheme" "HTTPS") -}}
{{- else -}}
{{- $handler = dict "httpGet" (dict "path" .path "port" "metrics") -}}
{{- end -}}
{{- toYaml (merge $handler (deepCopy .probe)) -}}
{{- end }}

{{- define "cognito-auth-exporter.claim" -}}
accessModes: {{- toYaml .Values.persistence.accessModes | nindent 2 }}
{{- with .Values.persistence.storageClassName }}
storageClassName: {{ eq . "-" | ternary "" . | quote }}
{{- end }}
{{- with .Values.persistence.selector }}
selector: {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  requests:
    storage: {{ .Values.persistence.size | quote }}
{{- end }}

{{- define "cognito-auth-exporter.firehoseName" -}}
{{ include "cognito-auth-exporter.fullname" . }}-firehose
{{- end }}

{{/* What is the same in the endpoint of a ServiceMonitor and of a PodMonitor, of (dict "root" $ "monitor" its values). */}}
{{- define "cognito-auth-exporter.endpoint" -}}
{{- $web := .root.Values.web -}}
{{- $name := include "cognito-auth-exporter.fullname" .root -}}
port: metrics
# Totals wait up to 90 s for their first scrape (http.first_scrape_wait): stay below.
interval: {{ .monitor.interval }}
{{- with .monitor.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- if and $web.existingSecret $web.tls }}
scheme: https
{{- $ca := dict "secret" (dict "name" (default $web.existingSecret $web.certificateSecret) "key" "ca.crt") }}
{{- $tls := dict "ca" $ca "serverName" (printf "%s.%s.svc" $name .root.Release.Namespace) }}
tlsConfig: {{- default $tls .monitor.tlsConfig | toYaml | nindent 2 }}
{{- end }}
{{- if or .monitor.basicAuth (and $web.existingSecret $web.basicAuth.enabled) }}
{{- $secret := $web.basicAuth.existingSecret }}
{{- $auth := dict "username" (dict "name" $secret "key" "username") "password" (dict "name" $secret "key" "password") }}
basicAuth: {{- default $auth .monitor.basicAuth | toYaml | nindent 2 }}
{{- end }}
relabelings:
  # An address changes at every restart. So counters stay one series.
  {{- if eq .root.Values.kind "Deployment" }}
  - targetLabel: instance
    replacement: {{ $name }}
  {{- else }}
  - sourceLabels: [__meta_kubernetes_pod_name]
    targetLabel: instance
  {{- end }}
  {{- with .monitor.relabelings }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with .monitor.metricRelabelings }}
metricRelabelings: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Refuses values that would not give what they say. */}}
{{- define "cognito-auth-exporter.refuseWrong" -}}
{{- $configs := compact (list .Values.config .Values.existingConfigMap .Values.existingConfigSecret) -}}
{{- if not $configs -}}
{{- fail "\n\nThere is no configuration, and so no pool to follow. Give the file with --set-file config=config.toml, or name one in existingConfigMap or existingConfigSecret. deploy/kubernetes/base/config.toml is one to begin with; config.example.toml has every key.\n" -}}
{{- else if gt (len $configs) 1 -}}
{{- fail "\n\nOne of config, existingConfigMap and existingConfigSecret, not several.\n" -}}
{{- end -}}
{{- end }}

{{/*
Refuses a change under pods that run: old and new pods would follow the same users and count everything twice. The cluster says
what runs; `helm template`, and what uses it (Argo CD), asks no cluster.
*/}}
{{- define "cognito-auth-exporter.refuseChange" -}}
{{- $name := include "cognito-auth-exporter.fullname" . -}}
{{- $other := eq .Values.kind "StatefulSet" | ternary "Deployment" "StatefulSet" -}}
{{- range $kind := list .Values.kind $other -}}
{{- $live := lookup "apps/v1" $kind $.Release.Namespace $name -}}
{{- $pods := max (dig "spec" "replicas" 0 $live | int) (dig "status" "replicas" 0 $live | int) -}}
{{- if gt $pods 0 -}}
{{- $stop := printf "Stop them first, with the values as they were and stopped=true; then wait:\n\n  kubectl -n %s wait --for=delete pod -l app.kubernetes.io/instance=%s,app.kubernetes.io/name=%s\n\ndocs/kubernetes.md has the steps." $.Release.Namespace $.Release.Name (include "cognito-auth-exporter.name" $) -}}
{{- if eq $kind $other -}}
{{- fail (printf "\n\nThe %s %s still has pods (%d), and kind is %s now. Both would follow the same users. %s\n" $kind $name $pods $.Values.kind $stop) -}}
{{- end -}}
{{- $count := 1 -}}
{{- range $container := dig "spec" "template" "spec" "containers" list $live -}}
{{- range $variable := $container.env -}}
{{- if eq $variable.name "COGNITO_EXPORTER_SHARD__COUNT" -}}
{{- $count = int $variable.value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if ne $count (int $.Values.shards) -}}
{{- fail (printf "\n\nshards is %d now, and pods run (%d) that share the users among %d. Old and new pods would follow the same users. %s\n" (int $.Values.shards) $pods $count $stop) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
