#!/usr/bin/env bash
# Installs what the emulated boards need on Debian or Ubuntu, and lets the kernel run arm64 programs through QEMU.
#
#   install.sh             everything
#   install.sh userland    what arm64.sh needs; leaves out the emulator of whole machines
set -euo pipefail

packages=(qemu-user-static binfmt-support mmdebstrap arch-test openssh-server openssh-client)
[[ "${1:-}" == userland ]] || packages+=(qemu-system-arm e2fsprogs cpio kmod)
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends "${packages[@]}"

mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
update-binfmts --enable qemu-aarch64
grep -q '^enabled' /proc/sys/fs/binfmt_misc/qemu-aarch64
