{{/* What everything of this release is called: the release's name, with the chart's where it does not say so. */}}
{{- define "evenkeel.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "evenkeel.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "evenkeel.labels" -}}
{{ include "evenkeel.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "evenkeel.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "evenkeel.name" .) -}}
{{- end -}}

{{- define "evenkeel.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/*
Every kind, in one place. Who writes which of them is in the three lists below; whoever may write more may also do
what those before may.
*/}}
{{- define "evenkeel.kinds" -}}
[hosts, guests, guestmigrations, hostdrains, guestplacements, rebalancepolicies, migrationprofiles, fleets]
{{- end -}}

{{- define "evenkeel.rules.viewer" -}}
- apiGroups: [evenkeel.dev]
  resources: {{ include "evenkeel.kinds" . }}
  verbs: [get, list, watch]
{{- end -}}

{{/* Orders: moves, drains, where guests belong and how evenly they lie, and whether anything moves at all. Of a guest, what the user says about it; guests themselves come from the hosts. */}}
{{- define "evenkeel.rules.operator" -}}
{{ include "evenkeel.rules.viewer" . }}
- apiGroups: [evenkeel.dev]
  resources: [guestmigrations, hostdrains, guestplacements, rebalancepolicies]
  verbs: [create, update, patch, delete, deletecollection]
- apiGroups: [evenkeel.dev]
  resources: [guests]
  verbs: [update, patch]
- apiGroups: [evenkeel.dev]
  resources: [fleets]
  verbs: [create, update, patch]
{{- end -}}

{{/* A Host is power over a hypervisor; a MigrationProfile says how everybody's moves are done. */}}
{{- define "evenkeel.rules.administrator" -}}
{{ include "evenkeel.rules.operator" . }}
- apiGroups: [evenkeel.dev]
  resources: [hosts, guests, migrationprofiles, fleets]
  verbs: [create, update, patch, delete, deletecollection]
{{- end -}}
