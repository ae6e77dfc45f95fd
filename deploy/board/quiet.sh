#!/usr/bin/env bash
# Keeps what else runs on a board away from a benchmark, and lets it back.
#
#   edgeprune-quiet            says whether it does: active or inactive
#   edgeprune-quiet active     begins; edgeprune-quiet inactive ends it (both as root)
#
# While it is active, the system's services share the first core at the lowest weight, and no timer starts a new one.
# Logins, and with them the benchmark, keep every core. Everything is back after a restart of the board, too.
set -euo pipefail

readonly stopped=/run/edgeprune-quiet.timers

begin() {
    systemctl list-units --type=timer --state=active --plain --no-legend | awk '{print $1}' >"$stopped"
    xargs --no-run-if-empty systemctl stop <"$stopped"
    systemctl set-property --runtime system.slice AllowedCPUs=0 CPUWeight=1
}

end() {
    systemctl set-property --runtime system.slice AllowedCPUs= CPUWeight=
    if [[ -f "$stopped" ]]; then xargs --no-run-if-empty systemctl start <"$stopped"; fi
    rm -f "$stopped"
}

case "${1:-state}" in
state) systemctl is-active edgeprune-quiet.service || true ;;
active) systemctl start edgeprune-quiet.service ;;
inactive) systemctl stop edgeprune-quiet.service ;;
begin) begin ;;
end) end ;;
*)
    echo "$0: say active or inactive, or nothing" >&2
    exit 2
    ;;
esac
