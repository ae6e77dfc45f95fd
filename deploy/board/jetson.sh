#!/usr/bin/env bash
# Makes an NVIDIA Jetson with JetPack 5, 6 or 7 ready for benchmarks; runs on the board itself.
#
#   sudo ./jetson.sh [USER]          USER: who logs in for benchmarks; whoever calls sudo, if not given
#   sudo ./jetson.sh --undo [USER]   removes everything again, but not JetPack's own packages
#
# Installs TensorRT from JetPack where it is missing, makes a virtual environment of USER that sees it, lets USER set
# clocks and the power mode without being root, and adds a service that keeps other programs away during a benchmark.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$(readlink -f "$0")")/common.sh"

# The release of the drivers says which JetPack it is.
release="$(sed -n 's/^# R\([0-9]*\) (release).*/\1/p' /etc/nv_tegra_release 2>/dev/null || true)"
case "$release" in
35) jetpack=5 ;;
36) jetpack=6 ;;
38 | 39) jetpack=7 ;;
32) die "JetPack 4 brings Python 3.6 only, and its TensorRT has no bindings for another one. Install Python 3.8 (apt-get install python3.8 python3.8-venv); engines are then built and run with trtexec." ;;
"") die "there is no /etc/nv_tegra_release: this is no Jetson, or not NVIDIA's system." ;;
*) die "release R$release of the drivers is not known here. Known: R35 (JetPack 5), R36 (6), R38 and R39 (7)." ;;
esac
model="$(board_model)"
case "$model" in
*"AGX Orin"*) family=jetson-agx-orin ;;
*Xavier*) family=jetson-xavier-nx ;;
*) family=jetson-orin-nano ;;
esac

begin "$@"
say "$model, JetPack $jetpack"
if ! python3 -c 'import tensorrt' 2>/dev/null; then
    say "installing TensorRT"
    apt-get update
    apt-get install --yes tensorrt python3-libnvinfer
fi
# TensorRT's bindings belong to the system's Python, and were built against its NumPy.
apt-get install --yes --no-install-recommends python3-numpy
make_venv "$user" --system-site-packages
say "permissions"
add_to_group "$user" video render # the GPU's device files
allow_files '/sys/devices/system/cpu/cpufreq/policy*/scaling_governor' '/sys/class/devfreq/*.gpu/min_freq' \
    '/sys/class/devfreq/*.ga10b/min_freq' '/sys/class/devfreq/*.gv11b/min_freq' '/sys/class/devfreq/gpu-gpc-0/min_freq'
install_quiet
nvpmodel="$(command -v nvpmodel || echo /usr/sbin/nvpmodel)"
allow_commands "$quiet active" "$quiet inactive" "$nvpmodel -m [0-9]"
finish "$user" "$family"
