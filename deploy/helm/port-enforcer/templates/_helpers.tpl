{{/*
A manifest of files/, which has the same bytes as in deploy/: for the release's namespace, and with the labels of the chart.
Takes root, path and, if they are to have more, labels.
*/}}
{{- define "port-enforcer.manifest" -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $partOf := "    app.kubernetes.io/part-of: port-enforcer\n" -}}
{{- $labels := include "port-enforcer.chartLabels" .root -}}
{{- if .labels }}{{ $labels = printf "%s\n%s" $labels (toYaml .labels) }}{{ end -}}
{{- .root.Files.Get .path | required (printf "the package of the chart lacks %s: fetch it again" .path)
  | replace "namespace: port-enforcer\n" (printf "namespace: %s\n" (quote $namespace))
  | replace "system:serviceaccount:port-enforcer:port-enforcer" (printf "system:serviceaccount:%s:port-enforcer" $namespace)
  | replace "values: [kube-system, port-enforcer]" (printf "values: [kube-system, %s]" (quote $namespace))
  | replace "job=\"port-enforcer/port-enforcer\"" (printf "job=\"%s/port-enforcer\"" $namespace)
  | replace $partOf (printf "%s%s\n" $partOf (indent 4 $labels))
-}}
{{- end }}

{{/* Labels that the objects of a chart have, and those of the values. */}}
{{- define "port-enforcer.chartLabels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of an object. */}}
{{- define "port-enforcer.labels" -}}
app.kubernetes.io/name: port-enforcer
app.kubernetes.io/part-of: port-enforcer
{{ include "port-enforcer.chartLabels" . }}
{{- end }}

{{/* Name of an image. Takes root, and its values as image. */}}
{{- define "port-enforcer.image" -}}
{{- $image := .image -}}
{{- if or $image.tag (not $image.digest) -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- else -}}
{{ $image.repository }}
{{- end }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* Environment variables of the flags in settings, as NAME: value. */}}
{{- define "port-enforcer.settings" -}}
{{- $names := dict
  "namespaceMode" "NAMESPACE_MODE"
  "undeclared" "UNDECLARED"
  "handoverGrace" "HANDOVER_GRACE"
  "lease" "LEASE"
  "persist" "PERSIST"
  "scope" "SCOPE"
  "sharedPorts" "SHARED_PORTS"
  "maxPortsPerPod" "MAX_PORTS_PER_POD"
  "namespaceMaxPorts" "NAMESPACE_MAX_PORTS"
  "denyErrno" "DENY_ERRNO"
  "onError" "ON_ERROR"
  "manageReservedPorts" "MANAGE_RESERVED_PORTS"
  "ledger" "LEDGER"
  "servicePorts" "SERVICE_PORTS"
  "logFormat" "LOG_FORMAT"
  "logLevel" "LOG_LEVEL"
-}}
{{- $variables := dict -}}
{{- range $key, $name := $names -}}
{{- $value := index $.Values.settings $key -}}
{{- if kindIs "slice" $value -}}
{{- $value = join "," $value -}}
{{- end -}}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "")) -}}
{{- if kindIs "float64" $value -}}
{{- $value = int64 $value -}}
{{- end -}}
{{- $_ := set $variables (printf "ENFORCER_%s" $name) (toString $value) -}}
{{- end -}}
{{- end -}}
{{- toYaml $variables -}}
{{- end }}

{{/* The list of ports of the node, in the words of --node-reserved. */}}
{{- define "port-enforcer.nodeReserved" -}}
{{- $ports := list -}}
{{- range .Values.nodePorts.ports -}}
{{- $address := .address | default "" -}}
{{- if contains ":" $address -}}
{{- $address = printf "[%s]" $address -}}
{{- end -}}
{{- if $address -}}
{{- $address = printf "%s:" $address -}}
{{- end -}}
{{- $ports = append $ports (printf "%s%d/%s" $address (int .port) (lower .protocol)) -}}
{{- end -}}
{{- join "," $ports -}}
{{- end }}

{{/* Annotations of what runs after the release is deleted. Takes the weight. */}}
{{- define "port-enforcer.hook" -}}
helm.sh/hook: post-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
