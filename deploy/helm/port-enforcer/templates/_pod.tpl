{{/*
Spec of the pods: agents, or the cleanup that stands in for them. Takes root, cleanup (a boolean), boot (what happens to the
boot unit) and serviceAccountName.
*/}}
{{- define "port-enforcer.podSpec" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
serviceAccountName: {{ .serviceAccountName }}
automountServiceAccountToken: {{ not .cleanup }}
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
# The agent takes the network namespace it is in for the node's.
hostNetwork: true
hostPID: {{ and $values.hostProcesses (not .cleanup) }}
hostIPC: false
# The node's own resolver: the agent must not need the cluster's DNS.
dnsPolicy: Default
enableServiceLinks: false
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
terminationGracePeriodSeconds: 5
{{- if ne .boot "none" }}
initContainers:
  - name: boot
    image: {{ include "port-enforcer.image" (dict "root" $root "image" $values.image) | quote }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args: [boot, {{ .boot }}, --root, /host]
    resources:
      requests:
        cpu: 10m
        memory: 32Mi
      limits:
        memory: 64Mi
    securityContext:
      privileged: false
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      # The two folders are root's.
      runAsNonRoot: false
      runAsUser: 0
      runAsGroup: 0
      seccompProfile:
        type: RuntimeDefault
      capabilities:
        drop: [ALL]
    volumeMounts:
      - name: boot-program
        mountPath: /host/usr/local/libexec/port-enforcer
      # Whoever may write here is root on the node at the next boot. Only this container may, and it ends at once.
      - name: systemd-units
        mountPath: /host/etc/systemd/system
{{- end }}
containers:
  - name: enforcer
    image: {{ include "port-enforcer.image" (dict "root" $root "image" $values.image) | quote }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    {{- if .cleanup }}
    args: [cleanup, --wait, --bpffs, /host/sys/fs/bpf/port-enforcer, --proc-sys, /host/proc/sys]
    {{- else }}
    args: [run]
    env:
      {{- include "port-enforcer.env" (dict "root" $root "boot" .boot) | nindent 6 }}
    ports:
      # Claimed like any other port, and what ENFORCER_LISTEN says.
      - name: metrics
        containerPort: {{ $values.port }}
        hostPort: {{ $values.port }}
        {{- if not $values.monitoring.enabled }}
        hostIP: 127.0.0.1
        {{- end }}
        protocol: TCP
      {{- if $values.nodePorts.enabled }}
      # What ENFORCER_NODE_RESERVED says. Nothing binds them; the scheduler counts them.
      {{- range $values.nodePorts.ports }}
      - containerPort: {{ .port }}
        hostPort: {{ .port }}
        {{- with .address }}
        hostIP: {{ . | quote }}
        {{- end }}
        protocol: {{ .protocol }}
      {{- end }}
      {{- end }}
    {{- $host := ternary "" "host: 127.0.0.1, " $values.monitoring.enabled }}
    startupProbe:
      httpGet: { {{ $host }}port: metrics, path: /livez }
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: 30
    livenessProbe:
      httpGet: { {{ $host }}port: metrics, path: /livez }
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe:
      httpGet: { {{ $host }}port: metrics, path: /readyz }
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: 3
    {{- end }}
    {{- with $values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      privileged: false
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      # The capabilities are root's; a file of the cgroup tree or of bpffs is too.
      runAsNonRoot: false
      runAsUser: 0
      runAsGroup: 0
      seccompProfile:
        type: RuntimeDefault
      {{- if $values.openshift }}
      seLinuxOptions:
        type: spc_t
      {{- end }}
      capabilities:
        drop: [ALL]
        {{- if .cleanup }}
        # The kernel lists its BPF programs to nobody else.
        add: [SYS_ADMIN]
        {{- else }}
        add:
          # Load programs and make maps.
          - BPF
          # Raw tracepoints, and reading kernel memory.
          - PERFMON
          # Load and attach programs that judge sockets.
          - NET_ADMIN
          {{- if $values.linux510 }}
          # Raise RLIMIT_MEMLOCK, against which kernels before 5.11 count maps.
          - SYS_RESOURCE
          {{- end }}
          {{- if $values.hostProcesses }}
          # Read which files a process of another one's has open.
          - SYS_PTRACE
          # The same of processes that are not root's.
          - DAC_READ_SEARCH
          {{- end }}
        {{- end }}
    volumeMounts:
      # In place of the runtime's mount, which shows this container's own cgroup and nothing else.
      - name: cgroup
        mountPath: /sys/fs/cgroup
        readOnly: true
      # Not at /sys/fs/bpf, where AppArmor's profile for containers denies writes.
      - name: bpffs
        mountPath: /host/sys/fs/bpf
        mountPropagation: HostToContainer
      # The one sysctl that is written, in enforce mode.
      - name: reserved-ports
        mountPath: /host/proc/sys/net/ipv4/ip_local_reserved_ports
      # Which of the reserved ports are the agent's, for the next one and for the cleanup.
      - name: run
        mountPath: /run/port-enforcer
      {{- if or .cleanup (eq .boot "install") }}
      - name: boot-state
        mountPath: /var/lib/port-enforcer
      {{- end }}
      {{- if and (not .cleanup) (eq .boot "install") }}
      # So that a copied disk does not bring the claims of another node.
      - name: machine-id
        mountPath: /etc/machine-id
        readOnly: true
      {{- end }}
volumes:
  - name: cgroup
    hostPath: { path: /sys/fs/cgroup, type: Directory }
  - name: bpffs
    hostPath: { path: /sys/fs/bpf, type: Directory }
  - name: reserved-ports
    hostPath: { path: /proc/sys/net/ipv4/ip_local_reserved_ports, type: File }
  - name: run
    hostPath: { path: /run/port-enforcer, type: DirectoryOrCreate }
  {{- if or .cleanup (eq .boot "install") }}
  - name: boot-state
    hostPath: { path: /var/lib/port-enforcer, type: DirectoryOrCreate }
  {{- end }}
  {{- if and (not .cleanup) (eq .boot "install") }}
  - name: machine-id
    hostPath: { path: /etc/machine-id, type: File }
  {{- end }}
  {{- if ne .boot "none" }}
  - name: boot-program
    hostPath: { path: /usr/local/libexec/port-enforcer, type: DirectoryOrCreate }
  # A node without systemd has no such folder: the pod does not start there, and says so.
  - name: systemd-units
    hostPath: { path: /etc/systemd/system, type: Directory }
  {{- end }}
{{- end }}

{{/* Environment of the agent. A variable sees only those above it. Takes root and boot. */}}
{{- define "port-enforcer.env" -}}
{{- $values := .root.Values -}}
- name: ENFORCER_MODE
  value: {{ $values.mode }}
- name: ENFORCER_NODE_NAME
  valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
- name: ENFORCER_POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- name: ENFORCER_POD_NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
# Pods of these are audited, never denied. The agent must be among them, wherever it is installed.
- name: ENFORCER_SYSTEM_NAMESPACES
  value: {{ append $values.settings.systemNamespaces "$(ENFORCER_POD_NAMESPACE)" | join "," | quote }}
{{- if $values.monitoring.enabled }}
- name: NODE_IP
  valueFrom: { fieldRef: { fieldPath: status.hostIP } }
{{- $address := ternary "[$(NODE_IP)]" "$(NODE_IP)" $values.monitoring.ipv6Only }}
- name: ENFORCER_LISTEN
  value: {{ printf "%s:%d" $address (int $values.port) | quote }}
{{- else }}
- name: ENFORCER_LISTEN
  value: {{ printf "127.0.0.1:%d" (int $values.port) | quote }}
{{- end }}
- name: ENFORCER_BPFFS
  value: /host/sys/fs/bpf/port-enforcer
- name: ENFORCER_PROC_SYS
  value: /host/proc/sys
{{- if eq .boot "install" }}
- name: ENFORCER_BOOT_STATE
  value: /var/lib/port-enforcer
{{- end }}
{{- if $values.nodePorts.enabled }}
- name: ENFORCER_NODE_RESERVED
  value: {{ include "port-enforcer.nodeReserved" .root | quote }}
{{- end }}
{{- if $values.startupTaint.enabled }}
- name: ENFORCER_STARTUP_TAINT
  value: {{ $values.startupTaint.key }}
{{- end }}
{{- range $name, $value := include "port-enforcer.settings" .root | fromYaml }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
