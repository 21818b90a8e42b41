{{/*
A CronJob for one verb. Its arguments are those of dolibarr-backup.job, and schedule.
*/}}
{{- define "dolibarr-backup.cronjob" -}}
{{- $v := .it.v -}}
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ .it.fullname }}{{ if ne .component "backup" }}-{{ .component }}{{ end }}
  namespace: {{ .it.namespace }}
  labels:
    {{- include "dolibarr-backup.labels" . | nindent 4 }}
spec:
  schedule: {{ .schedule | quote }}
  timeZone: {{ $v.timeZone | quote }}
  concurrencyPolicy: Forbid
  suspend: {{ $v.backup.suspend }}
  startingDeadlineSeconds: {{ int64 $v.backup.startingDeadlineSeconds }}
  successfulJobsHistoryLimit: {{ int64 $v.backup.successfulJobsHistoryLimit }}
  failedJobsHistoryLimit: {{ int64 $v.backup.failedJobsHistoryLimit }}
  jobTemplate:
    metadata:
      labels:
        {{- include "dolibarr-backup.labels" . | nindent 8 }}
    spec:
      {{- include "dolibarr-backup.job" . | nindent 6 }}
{{- end -}}

{{/* The spec of a Job: its deadline, its retries, and its pod. Its arguments are those of dolibarr-backup.pod, and deadline. */}}
{{- define "dolibarr-backup.job" -}}
{{- $v := .it.v -}}
activeDeadlineSeconds: {{ int64 .deadline }}
backoffLimit: {{ int64 $v.backup.retries }}
podFailurePolicy:
  rules:
    # A drained node is nobody's failure.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    # 75 says that a service was unavailable, which alone is worth a retry.
    - action: FailJob
      onExitCodes:
        containerName: {{ .component }}
        operator: NotIn
        values: [75]
      # The schema that Kubernetes 1.27 publishes asks for it in every rule.
      onPodConditions: []
template:
  metadata:
    labels:
      {{- include "dolibarr-backup.labels" . | nindent 6 }}
      {{- with $v.pod.labels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with $v.pod.annotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    {{- include "dolibarr-backup.pod" . | nindent 4 }}
{{- end -}}
