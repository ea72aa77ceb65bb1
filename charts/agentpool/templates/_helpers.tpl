{{- define "agentpool.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- /* Short enough for the longest suffix, and for the lease's and Secrets' names that follow from it. */ -}}
{{- define "agentpool.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "agentpool.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "agentpool.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- /* Cluster-wide objects of releases of one name in several namespaces must not be the same. */ -}}
{{- define "agentpool.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "agentpool.fullname" .) -}}
{{- end }}

{{- define "agentpool.selector" -}}
app.kubernetes.io/name: {{ include "agentpool.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "agentpool.labels" -}}
{{ include "agentpool.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "agentpool.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "agentpool.apart" -}}
{{- if eq .Values.api.mode "Deployment" }}true{{ end -}}
{{- end }}

{{- define "agentpool.controllerAccount" -}}
{{- .Values.controller.serviceAccount.name | default (ternary (include "agentpool.fullname" .) "default" .Values.controller.serviceAccount.create) -}}
{{- end }}

{{- define "agentpool.apiAccount" -}}
{{- if include "agentpool.apart" . -}}
{{- .Values.api.serviceAccount.name | default (ternary (printf "%s-api" (include "agentpool.fullname" .)) "default" .Values.api.serviceAccount.create) -}}
{{- else -}}
{{- include "agentpool.controllerAccount" . -}}
{{- end -}}
{{- end }}

{{- define "agentpool.rootKeySecret" -}}
{{- .Values.rootKey.existingSecret | default (printf "%s-root-key" (include "agentpool.fullname" .)) -}}
{{- end }}

{{- define "agentpool.apiKeySecret" -}}
{{- .Values.api.key.existingSecret | default (printf "%s-api-key" (include "agentpool.fullname" .)) -}}
{{- end }}

{{- define "agentpool.simulator" -}}
{{- printf "%s-simulator" (include "agentpool.fullname" .) -}}
{{- end }}

{{- /* The name of the variable that the kubelet sets for a Service of the same namespace: no cluster DNS is needed. */ -}}
{{- define "agentpool.hostVariable" -}}
{{- printf "$(%s_SERVICE_HOST)" (. | upper | replace "-" "_") -}}
{{- end }}

{{- /* Without rights on the cluster the controller cannot read the id itself, so it is read at install. */ -}}
{{- define "agentpool.clusterId" -}}
{{- if .Values.clusterId -}}
{{- .Values.clusterId -}}
{{- else if .Values.watchNamespace -}}
{{- $found := lookup "v1" "Namespace" "" "kube-system" -}}
{{- if $found -}}
{{- $found.metadata.uid -}}
{{- else -}}
{{- fail "clusterId: with watchNamespace and without the cluster at hand (helm template, GitOps) set it to what this prints: kubectl get namespace kube-system -o jsonpath={.metadata.uid}" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Variables of both roles. */ -}}
{{- define "agentpool.env" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: AGENTPOOL_RELEASE, value: {{ include "agentpool.fullname" . | quote }}}
- {name: AGENTPOOL_RELEASE_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: AGENTPOOL_ROOT_KEY_SECRET, value: {{ include "agentpool.rootKeySecret" . | quote }}}
{{- with .Values.watchNamespace }}
- {name: AGENTPOOL_NAMESPACE, value: {{ . | quote }}}
{{- end }}
{{- with include "agentpool.clusterId" . }}
- {name: AGENTPOOL_CLUSTER_ID, value: {{ . | quote }}}
{{- end }}
{{- if .Values.simulator.enabled }}
{{- $host := include "agentpool.hostVariable" (include "agentpool.simulator" .) }}
- {name: AGENTPOOL_RAILWAY_URL, value: "http://{{ $host }}:9400/graphql/v2"}
- {name: AGENTPOOL_REGISTRY_URL, value: "http://{{ $host }}:9400/ghcr"}
- {name: AGENTPOOL_AGENT_CONNECT_TO, value: "{{ $host }}:9400"}
{{- else }}
{{- with .Values.railwayUrl }}
- {name: AGENTPOOL_RAILWAY_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.registryUrl }}
- {name: AGENTPOOL_REGISTRY_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.agentConnectTo }}
- {name: AGENTPOOL_AGENT_CONNECT_TO, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- with .Values.publicUrl }}
- {name: AGENTPOOL_PUBLIC_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.webhookSecret }}
- {name: AGENTPOOL_RAILWAY_WEBHOOK_SECRET, valueFrom: {secretKeyRef: {name: {{ . | quote }}, key: AGENTPOOL_RAILWAY_WEBHOOK_SECRET}}}
{{- end }}
- {name: AGENTPOOL_KEY_SECONDS, value: {{ .Values.keySeconds | int | quote }}}
- {name: LOG_LEVEL, value: {{ .Values.logLevel | quote }}}
- {name: AGENTPOOL_LOG_FORMAT, value: {{ .Values.logFormat | quote }}}
{{- end }}

{{- define "agentpool.probes" -}}
livenessProbe:
  httpGet: {path: /livez, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
{{- end }}

{{- define "agentpool.controllerContainer" -}}
name: controller
image: {{ include "agentpool.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [controller]
env:
  {{- include "agentpool.env" . | nindent 2 }}
  - {name: AGENTPOOL_LEASE_SECONDS, value: {{ .Values.controller.leaseSeconds | int | quote }}}
  - {name: AGENTPOOL_SWEEP_GRACE_SECONDS, value: {{ .Values.controller.sweepGraceSeconds | int | quote }}}
  - {name: AGENTPOOL_OPERATIONS_PORT, value: {{ .Values.controller.operationsPort | int | quote }}}
  {{- with .Values.controller.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: ops-controller, containerPort: {{ .Values.controller.operationsPort }}}
{{ include "agentpool.probes" "ops-controller" }}
resources:
  {{- toYaml .Values.controller.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- end }}

{{- define "agentpool.apiContainer" -}}
name: api
image: {{ include "agentpool.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [api]
env:
  {{- include "agentpool.env" . | nindent 2 }}
  - {name: PORT, value: {{ .Values.api.port | int | quote }}}
  - {name: AGENTPOOL_OPERATIONS_PORT, value: {{ .Values.api.operationsPort | int | quote }}}
  - {name: POOL_API_KEY_SECRET, value: {{ include "agentpool.apiKeySecret" . | quote }}}
  {{- with .Values.api.environment }}
  - {name: POOL_ENVIRONMENT, value: {{ . | quote }}}
  {{- end }}
  {{- with .Values.api.defaultPool }}
  - {name: AGENTPOOL_DEFAULT_POOL, value: {{ . | quote }}}
  {{- end }}
  - {name: AGENTPOOL_AGENTS_SHAPE, value: {{ .Values.api.agentsShape | quote }}}
  - {name: AGENTPOOL_PUBLIC_READS, value: {{ .Values.api.publicReads | quote }}}
  - {name: TEMPLATE_SITE_ORIGINS, value: {{ join "," .Values.api.corsOrigins | quote }}}
  {{- with .Values.api.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: api, containerPort: {{ .Values.api.port }}}
  - {name: ops-api, containerPort: {{ .Values.api.operationsPort }}}
{{ include "agentpool.probes" "ops-api" }}
# Requests still come for a moment after a pod is told to end: it serves them.
lifecycle: {preStop: {sleep: {seconds: 5}}}
resources:
  {{- toYaml .Values.api.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- end }}

{{- /* A Deployment: (dict "root" $ "suffix" "" "component" "" "replicas" 1 "account" "" "containers" (list …)). */ -}}
{{- define "agentpool.deployment" -}}
{{- $ := .root -}}
{{- $selector := merge (dict "app.kubernetes.io/component" .component) (include "agentpool.selector" $ | fromYaml) -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "agentpool.fullname" $ }}{{ .suffix }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "agentpool.labels" $ | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  replicas: {{ .replicas }}
  selector:
    matchLabels:
      {{- toYaml $selector | nindent 6 }}
  strategy:
    {{- toYaml $.Values.strategy | nindent 4 }}
  template:
    metadata:
      labels:
        {{- include "agentpool.labels" $ | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
        {{- with $.Values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $.Values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ .account }}
      {{- with $.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include "agentpool.priorityClass" $ }}
      priorityClassName: {{ . }}
      {{- end }}
      enableServiceLinks: {{ $.Values.simulator.enabled }}
      terminationGracePeriodSeconds: {{ $.Values.terminationGracePeriodSeconds }}
      securityContext:
        {{- toYaml $.Values.podSecurityContext | nindent 8 }}
      containers:
        {{- range .containers }}
        - {{ . | nindent 10 | trim }}
        {{- end }}
      {{- with $.Values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $.Values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $.Values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if $.Values.topologySpreadConstraints }}
      topologySpreadConstraints:
        {{- toYaml $.Values.topologySpreadConstraints | nindent 8 }}
      {{- else if gt (int .replicas) 1 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          matchLabelKeys: [pod-template-hash]
          labelSelector:
            matchLabels:
              {{- toYaml $selector | nindent 14 }}
      {{- end }}
{{- end }}

{{- define "agentpool.priorityClass" -}}
{{- .Values.priorityClass.name | default (ternary (include "agentpool.clusterName" .) "" .Values.priorityClass.create) -}}
{{- end }}

{{- /* The pools of the values, and the simulator's. */ -}}
{{- define "agentpool.pools" -}}
{{- $pools := deepCopy .Values.pools -}}
{{- if and .Values.simulator.enabled .Values.simulator.pool -}}
{{- $pools = merge $pools (dict "quickstart" (.Files.Get "files/quickstart.yaml" | fromYaml)) -}}
{{- end -}}
{{- toYaml $pools -}}
{{- end }}

{{- define "agentpool.poolNamespace" -}}
{{- .Values.watchNamespace | default .Release.Namespace -}}
{{- end }}

{{- define "agentpool.poolHook" -}}
helm.sh/hook: post-install,post-upgrade,post-rollback
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- /* What pods that run once share with the others. */ -}}
{{- define "agentpool.onePod" -}}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
