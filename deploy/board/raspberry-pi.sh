#!/usr/bin/env bash
# Makes a Raspberry Pi with Raspberry Pi OS (64 bit, bookworm or newer) ready for benchmarks; runs on the board itself.
#
#   sudo ./raspberry-pi.sh [USER]          USER: who logs in for benchmarks; whoever calls sudo, if not given
#   sudo ./raspberry-pi.sh --undo [USER]   removes everything again
#
# Installs LiteRT and ONNX Runtime into a virtual environment of USER, lets USER set the governor and read the
# temperature without being root, and adds a service that keeps other programs away during a benchmark.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$(readlink -f "$0")")/common.sh"

model="$(board_model)"
case "$model" in
"Raspberry Pi 5"* | "Raspberry Pi Compute Module 5"*) family=raspberry-pi-5 ;;
"Raspberry Pi 4"* | "Raspberry Pi Compute Module 4"*) family=raspberry-pi-4 ;;
"Raspberry Pi Zero 2"* | "Raspberry Pi 3"*) family=raspberry-pi-zero-2w ;;
*) die "this board calls itself '$model', which is no Raspberry Pi with 64-bit cores." ;;
esac

begin "$@"
make_venv "$user" "" 'ai-edge-litert>=2.0' 'onnxruntime>=1.14' numpy
say "permissions"
add_to_group "$user" video # video may ask the firmware (vcgencmd) about throttling
allow_files '/sys/devices/system/cpu/cpufreq/policy*/scaling_governor'
install_quiet
allow_commands "$quiet active" "$quiet inactive"
finish "$user" "$family"
