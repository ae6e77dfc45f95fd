#!/usr/bin/env bash
# An arm64 Linux board on this machine: real arm64 programs and a real sshd, run by QEMU's user emulation.
#
#   arm64.sh start STATE_FOLDER NAME CPU PORT     CPU: cortex-a53, cortex-a72 (Raspberry Pi 4) or cortex-a76 (Pi 5)
#   arm64.sh stop STATE_FOLDER
#
# It proves connections, wheels, the agent and outputs. Its times mean nothing: only the instructions are those of
# the board, and they are translated. Run build.sh userland first.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$(readlink -f "$0")")/common.sh"

declare -A models=(
    [cortex-a53]="Raspberry Pi Zero 2 W Rev 1.0" [cortex-a72]="Raspberry Pi 4 Model B Rev 1.4"
    [cortex-a76]="Raspberry Pi 5 Model B Rev 1.0"
)
declare -A parts=([cortex-a53]=0xd03 [cortex-a72]=0xd08 [cortex-a76]=0xd0b)
declare -A features=(
    [cortex-a53]="fp asimd evtstrm crc32 cpuid" [cortex-a72]="fp asimd evtstrm crc32 cpuid"
    [cortex-a76]="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)

# Engines read the processor's name here, and crash on that of this machine.
write_cpuinfo() { # CPU FILE
    local core
    for core in 0 1 2 3; do
        printf 'processor\t: %s\nBogoMIPS\t: 108.00\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\n' \
            "$core" "${features[$1]}"
        printf 'CPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 3\n\n' "${parts[$1]}"
    done >"$2"
    printf 'Model\t\t: %s\n' "${models[$1]}" >>"$2"
}

# The files of the kernel that a Raspberry Pi would have; plain files, so that a test can change them.
write_sys() { # CPU FOLDER
    local sys="$2/sys" core name
    mkdir -p "$sys/firmware/devicetree/base" "$sys/class/thermal/thermal_zone0" "$sys/devices/system/cpu/cpufreq/policy0" \
        "$sys/devices/platform/soc/soc:firmware"
    printf '%s\0' "${models[$1]}" >"$sys/firmware/devicetree/base/model"
    echo cpu-thermal >"$sys/class/thermal/thermal_zone0/type"
    echo 48312 >"$sys/class/thermal/thermal_zone0/temp"
    echo 0 >"$sys/devices/platform/soc/soc:firmware/get_throttled"
    for name in possible present online; do echo "0-$(($(nproc) - 1))" >"$sys/devices/system/cpu/$name"; done
    for ((core = 0; core < $(nproc); core++)); do mkdir -p "$sys/devices/system/cpu/cpu$core"; done
    name="$sys/devices/system/cpu/cpufreq/policy0"
    echo ondemand >"$name/scaling_governor"
    echo 'conservative ondemand userspace powersave performance' >"$name/scaling_available_governors"
    for core in scaling_cur_freq scaling_max_freq cpuinfo_max_freq; do echo 1800000 >"$name/$core"; done
    chown -R 1000:1000 "$sys"
    cat >"$2/usr/local/bin/vcgencmd" <<'EOF'
#!/bin/sh
case "$1" in
get_throttled) echo "throttled=0x$(cat /sys/devices/platform/soc/soc:firmware/get_throttled)" ;;
measure_temp) echo "temp=48.3'C" ;;
measure_clock) echo "frequency(0)=1800457088" ;;
esac
EOF
    chmod +x "$2/usr/local/bin/vcgencmd"
}

# Runs inside new mount, process and host name spaces, as their first process.
inside() { # STATE NAME CPU PORT
    local state="$1" name="$2" cpu="$3" port="$4" device
    mount -t overlay overlay -o "lowerdir=$cache/rootfs,upperdir=$state/upper,workdir=$state/work" "$state/board"
    cd "$state/board"
    hostname "$name"
    echo "$name" >etc/hostname
    echo emulated >etc/edgeprune-kind
    [[ -d sys/class ]] || write_sys "$cpu" "$PWD"
    cp "$state/host_key" etc/ssh/host_key
    write_cpuinfo "$cpu" "$state/cpuinfo"
    mount -t proc proc proc
    mount --bind "$state/cpuinfo" proc/cpuinfo
    mount -t tmpfs tmpfs dev
    for device in null zero full random urandom; do
        touch "dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    mkdir dev/shm dev/pts
    mount -t tmpfs tmpfs dev/shm
    mount -t devpts devpts dev/pts
    ln -s /proc/self/fd dev/fd
    ln -s pts/ptmx dev/ptmx
    export QEMU_CPU="$cpu"
    # Not exec: the first process of the space has to collect orphans, which sshd does not.
    chroot . /usr/sbin/sshd -D -e -o "Port=$port" -o ListenAddress=127.0.0.1 -o PidFile=none -o "SetEnv=QEMU_CPU=$cpu" &
    wait
}

start() { # STATE NAME CPU PORT
    local state name="$2" cpu="$3" port="$4"
    [[ -n "${models[$cpu]:-}" ]] || die "there is no processor $cpu here. Known: ${!models[*]}"
    need unshare chroot ssh-keygen
    [[ -d "$cache/rootfs" ]] || die "there is no file system in $cache. Run: sudo deploy/emulated/build.sh userland"
    grep -qs '^enabled' /proc/sys/fs/binfmt_misc/qemu-aarch64 ||
        die "the kernel does not run arm64 programs yet. Run: sudo deploy/emulated/install.sh"
    mkdir -p "$1"/{upper,work,board}
    state="$(readlink -f "$1")"
    [[ -f "$state/host_key" ]] || ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$state/host_key"
    write_access "$state" "$name" "$port" emulated
    setsid unshare --mount --pid --fork --kill-child --uts "$0" inside "$state" "$name" "$cpu" "$port" \
        </dev/null >"$state/log" 2>&1 &
    echo $! >"$state/pid"
    wait_until_reached "$state" "$name" 60
}

stop() { # STATE
    local pid
    pid="$(cat "$1/pid" 2>/dev/null)" || return 0
    kill -KILL "$pid" 2>/dev/null || true
    rm -f "$1/pid"
}

case "${1:-}:$#" in
start:5) start "${@:2}" ;;
stop:2) stop "$2" ;;
inside:5) inside "${@:2}" ;;
*) die "usage: arm64.sh start STATE_FOLDER NAME CPU PORT | arm64.sh stop STATE_FOLDER" ;;
esac
