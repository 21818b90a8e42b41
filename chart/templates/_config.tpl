{{/*
The configuration file. JSON strings and numbers are valid in TOML too, so toJson writes both.
*/}}

{{/* Writes one value as TOML, on one line. */}}
{{- define "dolibarr-backup.toml" -}}
{{- if kindIs "map" . -}}
{ {{ $separator := "" }}{{ range $key, $value := . }}{{ $separator }}{{ toJson $key }} = {{ include "dolibarr-backup.toml" $value }}{{ $separator = ", " }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $value := . }}{{ if $index }}, {{ end }}{{ include "dolibarr-backup.toml" $value }}{{ end }}]
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ int64 . }}
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{- define "dolibarr-backup.config" -}}
{{- $v := .v -}}
time_zone = {{ toJson $v.timeZone }}

[store]
url = {{ toJson $v.store.url }}
{{- if .bucket }}
{{- with $v.store.endpoint }}
endpoint = {{ toJson . }}
{{- end }}
{{- with $v.store.region }}
region = {{ toJson . }}
{{- end }}
profile = {{ toJson $v.store.profile }}
credentials = { files = "/run/secrets/s3" }
{{- if or $v.store.ca.secretName $v.store.ca.configMapName }}
ca_file = "/run/secrets/s3-ca/ca.crt"
{{- end }}
{{- end }}
{{- with $v.pinned }}

[env.{{ toJson $.environment }}]
pinned = {{ include "dolibarr-backup.toml" . }}
{{- end }}

[env.{{ toJson .environment }}.sources.db]
kind = "postgres"
host = {{ toJson $v.database.host }}
port = {{ int64 $v.database.port }}
database = {{ toJson $v.database.name }}
{{- if ne $v.database.targetSessionAttrs "any" }}
target_session_attrs = {{ toJson $v.database.targetSessionAttrs }}
{{- end }}
ssl_mode = {{ toJson $v.database.sslMode }}
{{- if or $v.database.ca.secretName $v.database.ca.configMapName }}
ssl_root_cert = "/run/secrets/db-ca/ca.crt"
{{- end }}
credentials = { files = "/run/secrets/db" }

[env.{{ toJson .environment }}.sources.docs]
kind = "directory"
path = "/var/www/documents"
{{- range $v.extraFolders }}

[env.{{ toJson $.environment }}.sources.{{ toJson .name }}]
kind = "directory"
path = {{ toJson (printf "/var/www/extra/%s" .name) }}
{{- end }}

[plugins]
require_digest = {{ $v.plugins.requireDigest }}
{{- if $v.plugins.requireLock }}
require_lock = true
{{- end }}
{{- with $v.plugins.signedBy }}
signed_by = {{ toJson . }}
{{- end }}
cache = "/tmp/components"
{{- range $role := list "fingerprint" "dump" "retention" "crosscheck" }}
{{- $plugin := get $v.plugins $role }}

[plugins.{{ $role }}]
component = {{ toJson $plugin.component }}
{{- with $plugin.sha256 }}
sha256 = {{ toJson . }}
{{- end }}
{{- with $plugin.signedBy }}
signed_by = {{ toJson . }}
{{- end }}
grants = {{ include "dolibarr-backup.toml" $plugin.grants }}
{{- with $plugin.settings }}
settings = {{ include "dolibarr-backup.toml" . }}
{{- end }}
{{- with $plugin.limits }}
limits = {{ include "dolibarr-backup.toml" . }}
{{- end }}
{{- if hasKey $plugin "filters" }}
filters = {{ include "dolibarr-backup.toml" $plugin.filters }}
{{- end }}
{{- with $plugin.tables }}
tables = {{ include "dolibarr-backup.toml" . }}
{{- end }}
{{- with $plugin.shown }}
shown = {{ include "dolibarr-backup.toml" . }}
{{- end }}
{{- end }}

{{- if $v.kubernetesApi.enabled }}

[kubernetes]
lease_namespace = {{ toJson .namespace }}
{{- end }}
{{- if $v.coverage.enabled }}

[coverage]
namespaces = {{ $v.coverage.namespaces | default (list .namespace) | toJson }}
longhorn_namespace = {{ toJson $v.coverage.longhornNamespace }}
{{- with $v.coverage.settings }}

[plugins.coverage]
component = "coverage.wasm"
grants = ["kube-volumes"]
settings = {{ include "dolibarr-backup.toml" . }}
{{- end }}
{{- end }}

[guard]
legal_years = {{ int64 $v.guard.legalYears }}
fiscal_year_end = {{ toJson $v.guard.fiscalYearEnd }}
min_age = {{ toJson $v.guard.minAge }}
max_forget = {{ int64 $v.guard.maxForget }}
bin_days = {{ int64 $v.guard.binDays }}

[deadlines]
run = {{ include "dolibarr-backup.runDeadline" $v.backup.activeDeadlineSeconds | toJson }}
{{- end -}}

{{/*
How long a run may take: five minutes less than its Job, or half of the Job's time if that is ten minutes or less. A run
that reaches its own limit records what it has; one that reaches the Job's limit is killed.
*/}}
{{- define "dolibarr-backup.runDeadline" -}}
{{- $job := int64 . -}}
{{- $run := ternary (sub $job 300) (div $job 2) (gt $job 600) -}}
{{- if mod $run 60 }}{{ $run }}s{{ else }}{{ div $run 60 }}m{{ end -}}
{{- end -}}
