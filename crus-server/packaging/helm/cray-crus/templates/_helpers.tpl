{{- define "crus.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "crus.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "crus.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "crus.selector" -}}
app.kubernetes.io/name: {{ include "crus.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "crus.labels" -}}
{{ include "crus.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "crus.scheme" -}}
{{- if .Values.tls.secret }}https{{ else }}http{{ end -}}
{{- end -}}

{{/* A value as TOML, in one line. Helm makes floats of whole numbers: these are made whole again. */}}
{{- define "crus.toml.value" -}}
{{- $value := . -}}
{{- if kindIs "map" $value -}}
{ {{- range $i, $key := keys $value | sortAlpha }}{{ if $i }},{{ end }} {{ $key | toJson }} = {{ include "crus.toml.value" (index $value $key) }}{{ end }} }
{{- else if kindIs "slice" $value -}}
[{{ range $i, $item := $value }}{{ if $i }}, {{ end }}{{ include "crus.toml.value" $item }}{{ end }}]
{{- else if and (kindIs "float64" $value) (eq $value (floor $value)) -}}
{{ int64 $value }}
{{- else -}}
{{ toJson $value }}
{{- end -}}
{{- end -}}

{{/* The options that follow from the values. What `config` says wins. */}}
{{- define "crus.config" -}}
{{- $config := dict "listen" "0.0.0.0:8080" -}}
{{- /* In a mesh every client, the prober included, comes from one address: that of the sidecar. */ -}}
{{- $_ := set $config "requests_per_second_per_client" "none" -}}
{{- $_ := set $config "max_connections_per_client" "none" -}}
{{- /* The gateway keeps connections for an hour, and must be the one that closes them. */ -}}
{{- $_ := set $config "idle_timeout_s" 3600 -}}
{{- $peers := index .Values.peers .Values.peers.via -}}
{{- $_ := set $config "hsm_url" $peers.hsmUrl -}}
{{- $_ := set $config "bos_url" $peers.bosUrl -}}
{{- if and (eq .Values.peers.via "gateway") .Values.peers.ca.configMap -}}
{{- $_ := set $config "ca_file" "/etc/crus/ca/ca.pem" -}}
{{- end -}}
{{- if include "crus.oauth" . -}}
{{- $_ := set $config "oauth_client_secret_file" "/etc/crus/oauth/client-secret" -}}
{{- end -}}
{{- if .Values.auth.enabled -}}
{{- if .Values.auth.jwks -}}
{{- $_ := set $config "auth_jwks" .Values.auth.jwks -}}
{{- $_ := set $config "auth_issuer" .Values.auth.issuer -}}
{{- $_ := set $config "auth_audience" .Values.auth.audience -}}
{{- $_ := set $config "auth_role_claim" .Values.auth.roleClaim -}}
{{- with .Values.auth.operateRoles }}{{ $_ := set $config "auth_operate_roles" . }}{{ end -}}
{{- with .Values.auth.readRoles }}{{ $_ := set $config "auth_read_roles" . }}{{ end -}}
{{- if .Values.peers.ca.configMap -}}
{{- $_ := set $config "auth_jwks_ca_file" "/etc/crus/ca/ca.pem" -}}
{{- end -}}
{{- end -}}
{{- if .Values.auth.tokenSecret }}{{ $_ := set $config "auth_token_file" "/etc/crus/tokens/tokens" }}{{ end -}}
{{- else -}}
{{- $_ := set $config "auth" "off" -}}
{{- end -}}
{{- if .Values.etcd.endpoints -}}
{{- $_ := set $config "etcd_endpoints" .Values.etcd.endpoints -}}
{{- $_ := set $config "etcd_prefix" .Values.etcd.prefix -}}
{{- if .Values.etcd.tlsSecret -}}
{{- $_ := set $config "etcd_ca_file" "/etc/crus/etcd/ca.crt" -}}
{{- $_ := set $config "etcd_cert_file" "/etc/crus/etcd/tls.crt" -}}
{{- $_ := set $config "etcd_key_file" "/etc/crus/etcd/tls.key" -}}
{{- end -}}
{{- if .Values.etcd.userSecret -}}
{{- $_ := set $config "etcd_password_file" "/etc/crus/etcd-user/password" -}}
{{- end -}}
{{- else -}}
{{- $_ := set $config "store" "/var/lib/crus/crus.redb" -}}
{{- end -}}
{{- if .Values.tls.secret -}}
{{- $_ := set $config "tls_cert_file" "/etc/crus/tls/tls.crt" -}}
{{- $_ := set $config "tls_key_file" "/etc/crus/tls/tls.key" -}}
{{- end -}}
{{- if .Values.slurm.programs.hostPath -}}
{{- range $program := list "scontrol" "squeue" "scancel" -}}
{{- $_ := set $config $program (list (printf "%s/%s" $.Values.slurm.programs.binPath $program)) -}}
{{- end -}}
{{- end -}}
{{- if .Values.webhook.secret -}}
{{- $_ := set $config "webhook_secret_file" "/etc/crus/webhook/secret" -}}
{{- end -}}
{{- with .Values.traces.endpoint }}{{ $_ := set $config "otlp_endpoint" . }}{{ end -}}
{{- if .Values.traces.headersSecret -}}
{{- $_ := set $config "otlp_headers_file" "/etc/crus/traces/headers" -}}
{{- end -}}
{{- $config = mergeOverwrite $config (deepCopy .Values.config) -}}
{{- range $key := keys $config | sortAlpha }}
{{ $key }} = {{ include "crus.toml.value" (index $config $key) }}
{{- end -}}
{{- end -}}

{{/* Not empty when tokens are fetched. */}}
{{- define "crus.oauth" -}}
{{- if and (eq .Values.peers.via "gateway") .Values.peers.oauth.enabled }}yes{{ end -}}
{{- end -}}

{{/* Not empty when the platform's authority is mounted. */}}
{{- define "crus.ca" -}}
{{- $for := or (eq .Values.peers.via "gateway") (and .Values.auth.enabled .Values.auth.jwks) -}}
{{- if and $for .Values.peers.ca.configMap }}yes{{ end -}}
{{- end -}}

{{/* What no schema can say. */}}
{{- define "crus.check" -}}
{{- if and (not .Values.etcd.endpoints) (gt (int .Values.replicaCount) 1) -}}
{{- fail "replicaCount must be 1 where the sessions are in a file: set etcd.endpoints for more" -}}
{{- end -}}
{{- if and .Values.auth.enabled .Values.auth.jwks (not (and .Values.auth.issuer .Values.auth.audience)) -}}
{{- fail "auth.jwks needs auth.issuer and auth.audience" -}}
{{- end -}}
{{- if and .Values.traces.headersSecret (not .Values.traces.endpoint) -}}
{{- fail "traces.headersSecret needs traces.endpoint" -}}
{{- end -}}
{{- if and .Values.tls.secret .Values.ingress.enabled -}}
{{- fail "tls.secret and ingress.enabled exclude each other: the gateway speaks plain HTTP within the mesh, which encrypts it. Set ingress.enabled: false to serve TLS to others" -}}
{{- end -}}
{{- if and .Values.auth.enabled (not .Values.auth.jwks) (not .Values.auth.tokenSecret) -}}
{{- fail "auth needs auth.jwks or auth.tokenSecret; auth.enabled: false lets everybody who reaches the service reboot nodes" -}}
{{- end -}}
{{- end -}}
