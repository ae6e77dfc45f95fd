#!/usr/bin/env bash
# An arm64 Linux board whose clock counts instructions: the same program takes the same time, whatever else runs here.
#
#   icount.sh start STATE_FOLDER NAME CPU PORT     CPU: cortex-a53, cortex-a72 or cortex-a76
#   icount.sh stop STATE_FOLDER
#
# QEMU emulates a whole machine with one core and counts 1 ns an instruction. There are no caches and no memory
# bandwidth in that clock: latencies are exact and repeatable, and those of no real board. Run build.sh icount first.
# With so fast a clock most inferences of a small network end between two ticks of the kernel's timer, and with the same
# addresses in every process (norandmaps) they take the same instructions.
# While the core idles the clock goes as on this machine (sleep=on): if it leapt to the next alarm instead, everything
# that waits there would think at once that it had waited for too long, the board's half of the transport first of all.
# Needs no root.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$(readlink -f "$0")")/common.sh"

start() { # STATE NAME CPU PORT
    local state name="$2" cpu="$3" port="$4"
    command -v qemu-system-aarch64 >/dev/null || die "there is no QEMU here. Run: sudo deploy/emulated/install.sh"
    [[ -f "$cache/root.ext4" ]] || die "there is no disk in $cache. Run: sudo deploy/emulated/build.sh icount"
    mkdir -p "$1"
    state="$(readlink -f "$1")"
    cp "$cache/icount_host_key.pub" "$state/host_key.pub"
    write_access "$state" "$name" "$port" icount
    setsid qemu-system-aarch64 -M virt -cpu "$cpu" -smp 1 -m 1536 -accel tcg,thread=single \
        -icount shift=0,sleep=on -nographic -no-reboot -snapshot \
        -kernel "$cache/vmlinuz" -initrd "$cache/initrd.cpio" \
        -append "console=ttyAMA0 quiet net.ifnames=0 panic=-1 mitigations=off norandmaps" \
        -drive "file=$cache/root.ext4,format=raw,if=none,id=disk" -device virtio-blk-pci,drive=disk \
        -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=net,romfile= \
        </dev/null >"$state/log" 2>&1 &
    echo $! >"$state/pid"
    wait_until_reached "$state" "$name" 120
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
*) die "usage: icount.sh start STATE_FOLDER NAME CPU PORT | icount.sh stop STATE_FOLDER" ;;
esac
