{{- define "exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end }}

{{/* The release's name, and the chart's where the release's does not say it. */}}
{{- define "exporter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "exporter.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "exporter.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Two releases in one namespace are two sets of pods. */}}
{{- define "exporter.selector" -}}
app.kubernetes.io/name: {{ include "exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "exporter.labels" -}}
{{ include "exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "exporter.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "exporter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "exporter.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "exporter.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "exporter.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end }}

{{- define "exporter.claim" -}}
accessModes: ["ReadWriteOncePod"]
{{- with .Values.persistence.storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .Values.persistence.size }}
{{- end }}

{{- define "exporter.firehoseName" -}}
{{ include "exporter.fullname" . }}-firehose
{{- end }}

{{- define "exporter.firehoseEnv" -}}
- name: COGNITO_EXPORTER_FIREHOSE__LISTEN
  value: "[::]:10589"
- name: COGNITO_EXPORTER_FIREHOSE__ACCESS_KEYS_FILE
  value: /run/secrets/firehose/access-keys
{{- end }}

{{- define "exporter.firehoseMount" -}}
- name: firehose-access-keys
  mountPath: /run/secrets/firehose
  readOnly: true
{{- end }}

{{/* A whole directory, not one file by subPath: a key that changes reaches the pod without a restart. */}}
{{- define "exporter.firehoseVolume" -}}
- name: firehose-access-keys
  secret:
    secretName: {{ default (include "exporter.firehoseName" .) .Values.firehose.existingSecret }}
    defaultMode: 0440
{{- end }}
