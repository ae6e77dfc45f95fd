# shellcheck shell=bash
# What the provisioning scripts of this folder share. They change: a virtual environment in the user's home, a group,
# three files below /etc and one program in /usr/local/sbin; `--undo` removes all of it again.

set -euo pipefail

readonly group=edgeprune
readonly tmpfiles=/etc/tmpfiles.d/edgeprune.conf
readonly sudoers=/etc/sudoers.d/edgeprune
readonly unit=/etc/systemd/system/edgeprune-quiet.service
readonly quiet=/usr/local/sbin/edgeprune-quiet
here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

die() {
    echo "$0: $*" >&2
    exit 1
}

say() {
    echo "== $*"
}

# board_model: what the board calls itself, or nothing.
board_model() {
    tr -d '\0' </sys/firmware/devicetree/base/model 2>/dev/null || true
}

# check_board: the system that every step below needs.
check_board() {
    [[ "$(id -u)" == 0 ]] || die "needs root, for packages and permissions. Run it with sudo."
    [[ "$(uname -m)" == aarch64 ]] || die "this is a $(uname -m) system; the engines are published for 64-bit Arm."
    [[ "$(getconf LONG_BIT)" == 64 ]] || die "this is a 32-bit system, for which the engines are not published. Install the 64-bit one."
    command -v python3 >/dev/null || die "there is no python3. Run: apt-get install python3"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' ||
        die "$(python3 --version) is too old: Python 3.8 or newer is needed."
}

# user_home USER
user_home() {
    local home
    home="$(getent passwd "$1" | cut -d: -f6)"
    [[ -n "$home" && -d "$home" ]] || die "there is no user $1 with a home folder here. Name the one that benchmarks log in as."
    echo "$home"
}

# as_user USER COMMAND...
as_user() {
    local user="$1"
    shift
    setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups env HOME="$(user_home "$user")" "$@"
}

# make_venv USER OPTION PACKAGES...: the interpreter that edgeprune looks for first. OPTION is one of venv's, or "".
make_venv() {
    local user="$1" option="$2" venv
    shift 2
    venv="$(user_home "$user")/.local/share/edgeprune/venv"
    python3 -c 'import ensurepip, venv' 2>/dev/null || apt-get install --yes --no-install-recommends python3-venv
    if ! as_user "$user" test -x "$venv/bin/python3"; then
        say "making $venv"
        # shellcheck disable=SC2086  # no option at all where it is empty
        as_user "$user" python3 -m venv $option "$venv"
    fi
    (($#)) || return 0
    say "installing $*"
    as_user "$user" "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check "$@"
}

# allow_files PATTERN...: the group may write these files of the kernel, now and after every start.
allow_files() {
    local pattern
    mkdir -p "$(dirname "$tmpfiles")" "$(dirname "$sudoers")"
    {
        echo "# Benchmarks hold clocks steady without being root; see deploy/README.md of edgeprune."
        for pattern in "$@"; do echo "z $pattern 0664 root $group - -"; done
    } >"$tmpfiles"
    systemd-tmpfiles --create "$tmpfiles" || true # a pattern that matches nothing on this board
}

# allow_commands COMMAND...: the group may run exactly these as root, without a password.
allow_commands() {
    local command
    for command in "$@"; do echo "%$group ALL=(root) NOPASSWD: $command"; done >"$sudoers.new"
    chmod 0440 "$sudoers.new"
    visudo --check --quiet --file="$sudoers.new" || die "sudo does not accept $sudoers.new"
    mv "$sudoers.new" "$sudoers"
}

# add_to_group USER GROUP...
add_to_group() {
    local user="$1" name
    shift
    getent group "$group" >/dev/null || groupadd --system "$group"
    for name in "$group" "$@"; do
        if getent group "$name" >/dev/null; then usermod --append --groups "$name" "$user"; fi
    done
}

install_quiet() {
    install -D -m 0755 "$here/quiet.sh" "$quiet"
    install -D -m 0644 "$here/edgeprune-quiet.service" "$unit"
    if [[ -d /run/systemd/system ]]; then systemctl daemon-reload; fi
}

undo() { # USER
    say "removing what was installed for $1"
    if [[ -d /run/systemd/system ]]; then systemctl stop edgeprune-quiet.service 2>/dev/null || true; fi
    rm -f "$tmpfiles" "$sudoers" "$unit" "$quiet"
    rm -rf "$(user_home "$1")/.local/share/edgeprune/venv"
    if [[ -d /run/systemd/system ]]; then systemctl daemon-reload; fi
    if getent group "$group" >/dev/null; then groupdel "$group"; fi
}

# begin [--undo] [USER]: checks the board and says in `user` who logs in for benchmarks; with --undo it ends the script.
begin() {
    local is_undone=false
    if [[ "${1:-}" == --undo ]]; then
        is_undone=true
        shift
    fi
    check_board
    user="${1:-${SUDO_USER:-root}}"
    if $is_undone; then
        undo "$user"
        exit
    fi
}

# finish USER FAMILY
finish() {
    say "ready. Log out and in again on this board, then on your workstation:"
    echo "edgeprune targets add $(hostname) --like $2 --address ssh://$1@$(hostname)"
    echo "edgeprune doctor $(hostname)"
}
