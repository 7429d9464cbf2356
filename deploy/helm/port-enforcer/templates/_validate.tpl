{{/* Refuses values that fit the schema and contradict each other, in a sentence each. */}}
{{- define "port-enforcer.validate" -}}
{{- $values := .Values -}}
{{- if and $values.uninstall (eq $values.boot.action "install") -}}
{{- fail "uninstall removes what agents left on the nodes, and boot.action=install puts something there: set boot.action=remove" -}}
{{- end -}}
{{- if and $values.openshift $values.hostProcesses -}}
{{- fail "openshift and hostProcesses exclude each other: the security context constraints do not admit the host's process ids; set one of them to false" -}}
{{- end -}}
{{- if and (eq $values.updateStrategy.type "RollingUpdate") (dig "rollingUpdate" "maxSurge" 0 $values.updateStrategy | toString | ne "0") -}}
{{- fail "updateStrategy.rollingUpdate.maxSurge must be 0: of two agents on a node the second waits for the first, and the first waits to be replaced" -}}
{{- end -}}
{{- if and $values.nodePorts.enabled (not $values.nodePorts.ports) -}}
{{- fail "nodePorts.enabled needs ports: name them in nodePorts.ports, or set nodePorts.enabled=false" -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $values.nodePorts.ports -}}
{{- $key := printf "%d/%s" (int .port) .protocol -}}
{{- if hasKey $seen $key -}}
{{- fail (printf "nodePorts.ports names %s twice: the ports of a container are told apart by number and protocol alone" $key) -}}
{{- end -}}
{{- if and $values.nodePorts.enabled (eq $key (printf "%d/TCP" (int $values.port))) -}}
{{- fail (printf "nodePorts.ports names %s, which is the agent's own port: the agent claims it by itself" $key) -}}
{{- end -}}
{{- $_ := set $seen $key true -}}
{{- end -}}
{{- if and $values.monitoring.ipv6Only (not $values.monitoring.enabled) -}}
{{- fail "monitoring.ipv6Only has no effect without monitoring.enabled: set monitoring.enabled=true, or leave it out" -}}
{{- end -}}
{{- $own := list "NODE_IP" "ENFORCER_MODE" "ENFORCER_NODE_NAME" "ENFORCER_POD_NAME" "ENFORCER_POD_NAMESPACE" "ENFORCER_SYSTEM_NAMESPACES" "ENFORCER_LISTEN" "ENFORCER_BPFFS" "ENFORCER_PROC_SYS" "ENFORCER_BOOT_STATE" "ENFORCER_STARTUP_TAINT" "ENFORCER_NODE_RESERVED" -}}
{{- if not $values.nodePorts.enabled -}}
{{- $own = without $own "ENFORCER_NODE_RESERVED" -}}
{{- end -}}
{{- $own = concat $own (include "port-enforcer.settings" . | fromYaml | keys) -}}
{{- range $values.extraEnv -}}
{{- if has .name $own -}}
{{- fail (printf "extraEnv names %s, which a value of the chart sets: use that value" .name) -}}
{{- end -}}
{{- end -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- if and $values.policies.enabled (semverCompare "<1.30.0-0" $version) -}}
{{- fail (printf "policies.enabled needs Kubernetes 1.30, and this is %s: set policies.enabled=false" $version) -}}
{{- end -}}
{{- if and $values.startupTaint.enabled (semverCompare "<1.30.0-0" $version) -}}
{{- fail (printf "startupTaint.enabled needs Kubernetes 1.30, and this is %s: set startupTaint.enabled=false" $version) -}}
{{- end -}}
{{- if and $values.scheduling (semverCompare "<1.36.0-0" $version) -}}
{{- fail (printf "scheduling needs Kubernetes 1.36, and this is %s: set scheduling=false (or, with helm template, tell the version: --kube-version 1.36)" $version) -}}
{{- end -}}
{{- end }}
