# shellcheck shell=bash
# What the scripts of this folder share. Everything they make lies under one cache folder.

set -euo pipefail

# A user's own path may lack the folders of chroot and sshd.
PATH="$PATH:/usr/sbin:/sbin"

cache="${EDGEPRUNE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/edgeprune}/boards"

die() {
    echo "$0: $*" >&2
    exit 1
}

need() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null ||
            die "there is no $program here. Run: sudo deploy/emulated/install.sh"
    done
    [[ "$(id -u)" == 0 ]] || die "needs root, for chroots and device files. Run it with sudo."
}

# Runs a step once; the stamp holds what the step was made from, so that a change makes it anew.
once() {
    local stamp="$cache/$1.stamp" wanted="$2"
    shift 2
    if [[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]]; then
        "$@"
        echo "$wanted" >"$stamp"
    fi
}

# The key that opens every board of this folder, and nothing else.
client_key() {
    [[ -f "$cache/key" ]] || ssh-keygen -q -t ed25519 -N '' -C edgeprune -f "$cache/key"
}

# write_access STATE NAME PORT KIND: how ssh and edgeprune reach a board, with ONNX Runtime as `target.toml` and with
# LiteRT as `litert.toml`. `bin/ssh` knows the board's keys, so that nothing of the user's own configuration is needed
# or changed.
write_access() {
    local state="$1" name="$2" port="$3" kind="$4"
    echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$state/host_key.pub")" >"$state/known_hosts"
    cat >"$state/ssh_config" <<EOF
Host $name
    HostName 127.0.0.1
    Port $port
    User pi
    IdentityFile $cache/key
    IdentitiesOnly yes
    UserKnownHostsFile $state/known_hosts
    StrictHostKeyChecking yes
    BatchMode yes
Host 127.0.0.1
    User pi
    IdentityFile $cache/key
    IdentitiesOnly yes
    UserKnownHostsFile $state/known_hosts
EOF
    mkdir -p "$state/bin"
    printf '#!/bin/sh\nexec %q -F %q "$@"\n' "$(command -v ssh)" "$state/ssh_config" >"$state/bin/ssh"
    chmod +x "$state/bin/ssh"
    write_target "$state/target.toml" "$name" "$port" "$kind" onnxruntime 4
    write_target "$state/litert.toml" "$name-litert" "$port" "$kind" litert 8
    echo "$name: PATH=$state/bin:\$PATH edgeprune doctor $state/target.toml"
}

# write_target FILE NAME PORT KIND RUNTIME CHANNELS: CHANNELS are what the engine computes at a time.
write_target() {
    cat >"$1" <<EOF
name = "$2"
description = "Emulated 64-bit Arm board on this machine: $5, one thread"
runtime = "$5"
transport = "ssh"
kind = "$4"
threads = 1
channel_multiple = $6
address = "ssh://pi@127.0.0.1:$3"
EOF
}

# wait_until_reached STATE NAME LIMIT_S: waits for a login, or says what the board's log ends with.
wait_until_reached() {
    local state="$1" name="$2" deadline=$((SECONDS + $3))
    until ssh -F "$state/ssh_config" -o ConnectTimeout=20 "$name" true 2>"$state/ssh.log"; do
        kill -0 "$(cat "$state/pid")" 2>/dev/null || die "$name ended: $(tail -n 3 "$state/log")"
        ((SECONDS < deadline)) || die "$name did not answer in $3 s: $(tail -n 1 "$state/ssh.log")"
        sleep 0.2
    done
}
