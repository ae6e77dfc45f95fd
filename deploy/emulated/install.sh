#!/usr/bin/env bash
# Installs what the emulated boards need on Debian or Ubuntu, and lets the kernel run arm64 programs through QEMU.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends \
    qemu-user-static qemu-system-arm binfmt-support mmdebstrap arch-test e2fsprogs cpio kmod \
    openssh-server openssh-client

mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
update-binfmts --enable qemu-aarch64
grep -q '^enabled' /proc/sys/fs/binfmt_misc/qemu-aarch64
