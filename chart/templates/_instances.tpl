{{/*
The instances of a release: one instance from the values themselves, or one for each entry of the fleet. This file computes
what all other templates use, and refuses incomplete values and instances that share something.
*/}}

{{/* Copies everything from `from` into `into`, including false and empty values, which mergeOverwrite would skip. */}}
{{- define "dolibarr-backup.put" -}}
{{- $into := .into -}}
{{- range $key, $value := .from -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $into $key)) -}}
{{- include "dolibarr-backup.put" (dict "into" (get $into $key) "from" $value) -}}
{{- else -}}
{{- $_ := set $into $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The name of the release's objects. */}}
{{- define "dolibarr-backup.release" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $both -}}
{{- end -}}

{{/* Shortens a long name, because Kubernetes appends to the name of a CronJob. A shortened name ends with part of its digest. */}}
{{- define "dolibarr-backup.bounded" -}}
{{- if le (len .) 42 }}{{ . }}{{ else }}{{ . | trunc 33 | trimSuffix "-" }}-{{ sha256sum . | trunc 8 }}{{ end -}}
{{- end -}}

{{/* Returns a number less than `below`. The same text always gives the same number. */}}
{{- define "dolibarr-backup.pick" -}}
{{- mod (int64 (printf "0x%s" (sha256sum .text | trunc 7))) (int64 .below) -}}
{{- end -}}

{{/* Sets the schedules that an entry of the fleet does not set itself. Spreads them over the night, the week and the month. */}}
{{- define "dolibarr-backup.spread" -}}
{{- $at := splitList ":" .values.spread.from -}}
{{- $from := add (mul 60 (int64 (first $at | trimPrefix "0" | default "0"))) (int64 (last $at | trimPrefix "0" | default "0")) -}}
{{- $pick := include "dolibarr-backup.pick" (dict "text" .id "below" .values.spread.minutes) -}}
{{- $time := mod (add $from (int64 $pick)) 1440 -}}
{{- $minute := mod $time 60 -}}
{{- $hour := div $time 60 -}}
{{- $weekday := include "dolibarr-backup.pick" (dict "text" (printf "%s verify" .id) "below" 7) -}}
{{- $day := include "dolibarr-backup.pick" (dict "text" (printf "%s drill" .id) "below" 28) | int64 | add 1 -}}
{{- $schedules := dict
    "backup" (printf "%d %d * * *" $minute $hour)
    "verify" (printf "%d %d * * %s" $minute (mod (add $hour 6) 24) $weekday)
    "drill" (printf "%d %d %d * *" $minute (mod (add $hour 8) 24) $day)
    "status" (printf "%d */6 * * *" (mod (add $minute 30) 60))
    "coverage" (printf "%d %d * * *" $minute (mod (add $hour 7) 24)) -}}
{{- range $kind, $schedule := $schedules -}}
{{- if not (dig $kind "schedule" "" $.given) -}}
{{- $_ := set (get $.values $kind) "schedule" $schedule -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Fails with one sentence if required values are missing. */}}
{{- define "dolibarr-backup.complete" -}}
{{- $v := .values -}}
{{- $missing := list -}}
{{- if not $v.environment }}{{ $missing = append $missing "environment" }}{{ end -}}
{{- if not $v.image.repository }}{{ $missing = append $missing "image.repository" }}{{ end -}}
{{- if not $v.store.url }}{{ $missing = append $missing "store.url" }}{{ end -}}
{{- if and (hasPrefix "file:" $v.store.url) (not $v.store.volume.claimName) }}{{ $missing = append $missing "store.volume.claimName" }}{{ end -}}
{{- if and (hasPrefix "s3:" $v.store.url) (not $v.store.vault.enabled) (not $v.store.secretName) }}{{ $missing = append $missing "store.secretName" }}{{ end -}}
{{- if not $v.database.host }}{{ $missing = append $missing "database.host" }}{{ end -}}
{{- if not $v.database.name }}{{ $missing = append $missing "database.name" }}{{ end -}}
{{- if not $v.documents.claimName }}{{ $missing = append $missing "documents.claimName" }}{{ end -}}
{{- with $missing -}}
{{- fail (printf "backup.enabled is true%s, and these values are missing: %s" $.where (join ", " .)) -}}
{{- end -}}
{{- if and $v.plugins.requireLock (not $v.plugins.lock) -}}
{{- fail (printf "plugins.requireLock is true%s, and plugins.lock is empty: every run would fail" .where) -}}
{{- end -}}
{{- if and (hasPrefix "file:" $v.store.url) (not (hasPrefix (printf "file://%s/" $v.store.volume.mountPath) $v.store.url)) -}}
{{- fail (printf "store.url%s is not below store.volume.mountPath, file://%s" .where $v.store.volume.mountPath) -}}
{{- end -}}
{{- end -}}

{{/* Everything that this instance may not share with another one, with its description as the key. */}}
{{- define "dolibarr-backup.own" -}}
{{- $v := .v -}}
{{- $own := dict
    "the name" (printf "%s/%s" .namespace .fullname)
    "the prefix in the store" (printf "%s/%s/" (trimSuffix "/" $v.store.url) .environment)
    "the database" (printf "%s:%d/%s" $v.database.host (int64 $v.database.port) $v.database.name)
    "the database's Secret" (printf "%s/%s" .namespace $v.database.secretName)
    "the documents" (printf "%s/%s/%s" .namespace $v.documents.claimName $v.documents.subPath) -}}
{{- if .bucket -}}
{{- $_ := set $own "the store's Secret" (printf "%s/%s" .namespace .storeSecret) -}}
{{- if $v.store.vault.enabled -}}
{{- $_ := set $own "the Vault path" (printf "%s %s/%s" $v.store.vault.vaultNamespace $v.store.vault.mount .vaultPath | trim) -}}
{{- end -}}
{{- end -}}
{{- toJson $own -}}
{{- end -}}

{{/* The instances as JSON; an empty list if the backup is not enabled. */}}
{{- define "dolibarr-backup.instances" -}}
{{- $instances := list -}}
{{- $owners := dict -}}
{{- $single := not .Values.fleet -}}
{{- range $given := ternary (list dict) .Values.fleet $single -}}
{{- $values := omit $.Values "fleet" "global" | mustDeepCopy -}}
{{- $name := $given.name | default "" -}}
{{- $where := ternary "" (printf " for %s" $name) $single -}}
{{- if not $single -}}
{{- $_ := set $values "environment" $name -}}
{{- end -}}
{{- include "dolibarr-backup.put" (dict "into" $values "from" (omit $given "name" "namespace")) -}}
{{- if $values.backup.enabled -}}
{{- include "dolibarr-backup.complete" (dict "values" $values "where" $where) -}}
{{- $release := include "dolibarr-backup.release" $ -}}
{{- $fullname := include "dolibarr-backup.bounded" (ternary $release (printf "%s-%s" $release $name) $single) -}}
{{- if not $single -}}
{{- include "dolibarr-backup.spread" (dict "values" $values "given" $given "id" (printf "%s/%s" $.Release.Name $name)) -}}
{{- end -}}
{{- $path := ternary "erp/backup" (printf "erp/%s/backup" $values.environment) (eq $values.environment "prod") -}}
{{- $instance := dict
    "v" $values
    "fullname" $fullname
    "namespace" ($given.namespace | default $.Release.Namespace)
    "environment" $values.environment
    "bucket" (hasPrefix "s3:" $values.store.url)
    "storeSecret" ($values.store.secretName | default (printf "%s-store" $fullname))
    "vaultPath" ($values.store.vault.path | default $path)
    "serviceAccount" ($values.serviceAccount.name | default $fullname) -}}
{{- range $what, $owned := include "dolibarr-backup.own" $instance | fromJson -}}
{{- $key := printf "%s %s" $what $owned -}}
{{- if hasKey $owners $key -}}
{{- fail (printf "%s and %s share %s %s; instances must not share anything" (get $owners $key) $name $what $owned) -}}
{{- end -}}
{{- $_ := set $owners $key $name -}}
{{- end -}}
{{- $instances = append $instances $instance -}}
{{- end -}}
{{- end -}}
{{- toJson $instances -}}
{{- end -}}

{{/* Labels of all objects of an instance. `component` is the purpose of the object. */}}
{{- define "dolibarr-backup.labels" -}}
{{ include "dolibarr-backup.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
dolibarr-backup/environment: {{ .it.environment | quote }}
{{- with .it.v.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels that select the pods of one instance. */}}
{{- define "dolibarr-backup.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
dolibarr-backup/instance: {{ .it.fullname }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}
