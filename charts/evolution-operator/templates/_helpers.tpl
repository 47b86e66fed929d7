{{- define "evolution.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters, because names of other objects add to it. */}}
{{- define "evolution.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "evolution.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: {{ include "evolution.name" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that select the operator's Pods. */}}
{{- define "evolution.selector" -}}
app.kubernetes.io/name: {{ include "evolution.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "evolution.minioSelector" -}}
app.kubernetes.io/name: {{ include "evolution.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: minio
{{- end }}

{{/* Labels that select the Pod that creates MinIO's bucket. */}}
{{- define "evolution.bucketSelector" -}}
app.kubernetes.io/name: {{ include "evolution.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: bucket
{{- end }}

{{- define "evolution.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "evolution.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name the account to use, or set serviceAccount.create" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* An image reference. Takes `image` (an image's values) and `version` (the tag if the values set none). */}}
{{- define "evolution.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .version .image.tag) }}
{{- end }}
{{- end }}

{{- define "evolution.operatorImage" -}}
{{- include "evolution.image" (dict "image" .Values.image "version" .Chart.AppVersion) }}
{{- end }}

{{/* The namespaces that the operator serves, as a JSON list; an empty list means all. */}}
{{- define "evolution.namespaces" -}}
{{- if eq .Values.rbac.scope "cluster" }}
{{- if .Values.watchNamespaces }}
{{- fail "watchNamespaces: applies to rbac.scope=namespace only; set that, or leave watchNamespaces empty" }}
{{- end }}
{{- list | toJson }}
{{- else }}
{{- default (list .Release.Namespace) .Values.watchNamespaces | uniq | toJson }}
{{- end }}
{{- end }}

{{- define "evolution.storageSecret" -}}
{{- default .Values.minio.secretName .Values.minio.existingSecret }}
{{- end }}

{{- define "evolution.evaluationPriorityClass" -}}
{{- if .Values.evaluationPriorityClassName }}
{{- .Values.evaluationPriorityClassName }}
{{- else if .Values.priorityClasses.create }}
{{- printf "%s-evaluation" (include "evolution.fullname" .) }}
{{- end }}
{{- end }}

{{/* Stricter than Pod Security's level "restricted". OpenShift chooses user and groups from the namespace's range. */}}
{{- define "evolution.podSecurity" -}}
runAsNonRoot: true
{{- if not .Values.openshift }}
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Pull Secrets, each given by its name or as {name: NAME}. */}}
{{- define "evolution.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ kindIs "string" . | ternary . (get (kindIs "string" . | ternary dict .) "name") }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "evolution.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Egress rule that allows DNS. */}}
{{- define "evolution.dns" -}}
{{- with .Values.networkPolicies.dns }}
- to:
    {{- toYaml .to | nindent 4 }}
  ports:
    {{- range .ports }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}
{{- end }}

{{- define "evolution.criticalPriorityClass" -}}
{{- if .Values.priorityClasses.create }}
{{- printf "%s-critical" (include "evolution.fullname" .) }}
{{- end }}
{{- end }}

{{- define "evolution.minioClaim" -}}
{{- printf "data-%s-minio-0" (include "evolution.fullname" .) }}
{{- end }}

{{/*
Fails if no volume can fit MinIO's claim. Otherwise MinIO's Pod, and Helm, would wait until the bucket's Job gives up.
Checks only with rbac.scope=cluster, because a user with fewer rights may not list StorageClasses, and only if `lookup`
reaches a cluster (helm template does not).
*/}}
{{- define "evolution.checkMinioClaim" -}}
{{- $wanted := .Values.minio.persistence.storageClassName }}
{{- $claim := include "evolution.minioClaim" . }}
{{- $connected := and (eq .Values.rbac.scope "cluster") (lookup "v1" "Namespace" "" "default") }}
{{- if and $connected .Values.minio.persistence.enabled (not (lookup "v1" "PersistentVolumeClaim" .Release.Namespace $claim)) }}
{{- $classes := list }}
{{- $found := false }}
{{- range (lookup "storage.k8s.io/v1" "StorageClass" "" "").items }}
  {{- $classes = append $classes .metadata.name }}
  {{- $default := eq "true" (get (.metadata.annotations | default dict) "storageclass.kubernetes.io/is-default-class") }}
  {{- $found = or $found (eq .metadata.name $wanted) (and (not $wanted) $default) }}
{{- end }}
{{- range (lookup "v1" "PersistentVolume" "" "").items }}
  {{- $found = or $found (eq (.spec.storageClassName | default "") $wanted) }}
{{- end }}
{{- if not $found }}
  {{- $lacks := not (empty $wanted) | ternary (printf "no StorageClass %q" $wanted) "no default StorageClass" }}
  {{- $has := empty $classes | ternary "it has none" (printf "it has %s" (join ", " $classes)) }}
  {{- fail (printf "minio.persistence: PersistentVolumeClaim %s/%s would wait forever, because the cluster has %s: set minio.persistence.storageClassName to a class of this cluster (%s), or minio.persistence.enabled=false to keep MinIO's data in its Pod and lose it with the Pod" .Release.Namespace $claim $lacks $has) }}
{{- end }}
{{- end }}
{{- end }}
