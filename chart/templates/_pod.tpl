{{/*
The pod that runs one verb. Its argument is a dict with root, it (the instance), component (also the container's name),
arguments, and what the verb needs: store, sources (database and documents), scratch (a place to restore into), token (for
the API server), account (its ServiceAccount, if it is not the instance's).
*/}}

{{/* A command that runs a verb once in the cluster: the backup's Job with other arguments. Arguments: it (the instance), verb. */}}
{{- define "dolibarr-backup.byHand" -}}
{{- $it := .it -}}
{{- $arguments := list "--config" "/etc/dolibarr-backup/dolibarr-backup.toml" .verb "--env" $it.environment -}}
kubectl --namespace {{ $it.namespace }} create job {{ $it.fullname }}-by-hand --from=cronjob/{{ $it.fullname }} --dry-run=client --output=json |
  kubectl patch --local --filename=- --type=json --output=json \
    --patch='[{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": {{ toJson $arguments }}}]' |
  kubectl --namespace {{ $it.namespace }} create --filename=-
{{- end -}}

{{- define "dolibarr-backup.image" -}}
{{- $image := .it.v.image -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end -}}

{{- define "dolibarr-backup.pod" -}}
{{- $v := .it.v -}}
restartPolicy: Never
serviceAccountName: {{ .account | default .it.serviceAccount }}
automountServiceAccountToken: {{ default false .token }}
enableServiceLinks: false
# A run ends cleanly within seconds of SIGTERM: it aborts its uploads and releases its lease.
terminationGracePeriodSeconds: 60
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int64 $v.pod.runAsUser }}
  runAsGroup: {{ int64 $v.pod.runAsGroup }}
  {{- if .scratch }}
  # Only if no volume of the instance is mounted: Kubernetes would change the group of all its files.
  fsGroup: {{ int64 $v.pod.runAsGroup }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with $v.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $v.pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- include "dolibarr-backup.affinity" . }}
containers:
  - name: {{ .component }}
    image: {{ include "dolibarr-backup.image" . | quote }}
    imagePullPolicy: {{ $v.image.pullPolicy }}
    args: {{ concat (list "--config" "/etc/dolibarr-backup/dolibarr-backup.toml") .arguments | toJson }}
    env:
      - name: HOME
        value: /tmp
      {{- if $v.plugins.registrySecretName }}
      - name: DOCKER_CONFIG
        value: /run/secrets/registry
      {{- end }}
      {{- if .scratch }}
      - name: TMPDIR
        value: /scratch
      {{- end }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
    resources:
      {{- toYaml $v.resources | nindent 6 }}
    volumeMounts:
      {{- include "dolibarr-backup.mounts" . | nindent 6 }}
volumes:
  {{- include "dolibarr-backup.volumes" . | nindent 2 }}
{{- end -}}

{{/* If only one node at a time can use the documents' volume, the pod must run on the node that uses it. */}}
{{- define "dolibarr-backup.affinity" -}}
{{- $beside := and .sources .it.v.documents.besidePod -}}
{{- $affinity := mustDeepCopy .it.v.pod.affinity -}}
{{- if $beside -}}
{{- $term := dict "labelSelector" (dict "matchLabels" .it.v.documents.besidePod) "topologyKey" "kubernetes.io/hostname" -}}
{{- $pods := get $affinity "podAffinity" | default dict -}}
{{- $key := "requiredDuringSchedulingIgnoredDuringExecution" -}}
{{- $_ := set $pods $key (append (get $pods $key | default list) $term) -}}
{{- $_ := set $affinity "podAffinity" $pods -}}
{{- end -}}
{{- with $affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "dolibarr-backup.mounts" -}}
{{- $v := .it.v -}}
- name: config
  mountPath: /etc/dolibarr-backup
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if .scratch }}
- name: scratch
  mountPath: /scratch
{{- end }}
{{- if not .store }}
{{- else if .it.bucket }}
- name: store
  mountPath: /run/secrets/s3
  readOnly: true
{{- if or $v.store.ca.secretName $v.store.ca.configMapName }}
- name: store-ca
  mountPath: /run/secrets/s3-ca
  readOnly: true
{{- end }}
{{- else }}
- name: store
  mountPath: {{ $v.store.volume.mountPath }}
{{- end }}
{{- if .sources }}
- name: database
  mountPath: /run/secrets/db
  readOnly: true
{{- if or $v.database.ca.secretName $v.database.ca.configMapName }}
- name: database-ca
  mountPath: /run/secrets/db-ca
  readOnly: true
{{- end }}
- name: documents
  mountPath: /var/www/documents
  {{- with $v.documents.subPath }}
  subPath: {{ . }}
  {{- end }}
  readOnly: true
{{- range $v.extraFolders }}
- name: extra-{{ .name }}
  mountPath: /var/www/extra/{{ .name }}
  {{- with .subPath }}
  subPath: {{ . }}
  {{- end }}
  readOnly: true
{{- end }}
{{- end }}
{{- if $v.plugins.registrySecretName }}
- name: registry
  mountPath: /run/secrets/registry
  readOnly: true
{{- end }}
{{- if $v.plugins.configMapName }}
- name: plugins-config-map
  mountPath: /plugins/config-map
  readOnly: true
{{- end }}
{{- if $v.plugins.image.reference }}
- name: plugins-image
  mountPath: /plugins/image
  readOnly: true
{{- end }}
{{- end -}}

{{/* The pod's user does not own these files. Without fsGroup it can read them only if everybody can. */}}
{{- define "dolibarr-backup.ca" -}}
{{- if .ca.secretName -}}
secret:
  secretName: {{ .ca.secretName }}
  defaultMode: 0444
{{- else -}}
configMap:
  name: {{ .ca.configMapName }}
{{- end }}
  items:
    - key: {{ .ca.key }}
      path: ca.crt
{{- end -}}

{{- define "dolibarr-backup.volumes" -}}
{{- $v := .it.v -}}
- name: config
  configMap:
    name: {{ .it.fullname }}
- name: tmp
  emptyDir:
    sizeLimit: {{ $v.pod.temporarySize }}
{{- if .scratch }}
- name: scratch
  {{- if $v.drill.scratch.storageClassName }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        storageClassName: {{ $v.drill.scratch.storageClassName }}
        resources:
          requests:
            storage: {{ $v.drill.scratch.size }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ $v.drill.scratch.size }}
  {{- end }}
{{- end }}
{{- if not .store }}
{{- else if .it.bucket }}
- name: store
  secret:
    secretName: {{ .it.storeSecret }}
    defaultMode: 0444
{{- if or $v.store.ca.secretName $v.store.ca.configMapName }}
- name: store-ca
  {{- include "dolibarr-backup.ca" (dict "ca" $v.store.ca) | nindent 2 }}
{{- end }}
{{- else }}
- name: store
  persistentVolumeClaim:
    claimName: {{ $v.store.volume.claimName }}
{{- end }}
{{- if .sources }}
- name: database
  secret:
    secretName: {{ $v.database.secretName }}
    defaultMode: 0444
    items:
      - key: username
        path: username
      - key: password
        path: password
{{- if or $v.database.ca.secretName $v.database.ca.configMapName }}
- name: database-ca
  {{- include "dolibarr-backup.ca" (dict "ca" $v.database.ca) | nindent 2 }}
{{- end }}
- name: documents
  persistentVolumeClaim:
    claimName: {{ $v.documents.claimName }}
    readOnly: true
{{- range $v.extraFolders }}
- name: extra-{{ .name }}
  persistentVolumeClaim:
    claimName: {{ .claimName }}
    readOnly: true
{{- end }}
{{- end }}
{{- with $v.plugins.registrySecretName }}
- name: registry
  secret:
    secretName: {{ . }}
    defaultMode: 0444
    items:
      - key: .dockerconfigjson
        path: config.json
{{- end }}
{{- with $v.plugins.configMapName }}
- name: plugins-config-map
  configMap:
    name: {{ . }}
{{- end }}
{{- with $v.plugins.image }}
{{- if .reference }}
{{- if not (semverCompare ">=1.31.0-0" $.root.Capabilities.KubeVersion.Version) }}
{{- fail (printf "plugins.image needs Kubernetes 1.31 or newer, but this cluster has %s: use plugins.configMapName or an oci:// component" $.root.Capabilities.KubeVersion.Version) }}
{{- end }}
- name: plugins-image
  image:
    reference: {{ .reference }}
    pullPolicy: {{ .pullPolicy }}
{{- end }}
{{- end }}
{{- end -}}
