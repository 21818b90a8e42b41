{{/*
A CronJob for one verb. It takes the arguments of dolibarr-backup.job, and also schedule.
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

{{/* The spec of a Job: its deadline, its retries and its pod. It takes the arguments of dolibarr-backup.pod, and also deadline. */}}
{{- define "dolibarr-backup.job" -}}
{{- $v := .it.v -}}
activeDeadlineSeconds: {{ int64 .deadline }}
backoffLimit: {{ int64 $v.backup.retries }}
podFailurePolicy:
  rules:
    # A pod that is evicted because its node is drained does not count as a failure.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    # Exit code 75 means that a service was unavailable. No other exit code is worth a retry.
    - action: FailJob
      onExitCodes:
        containerName: {{ .component }}
        operator: NotIn
        values: [75]
      # The published schema of Kubernetes 1.27 requires this field in every rule.
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
