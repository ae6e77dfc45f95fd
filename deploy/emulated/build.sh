#!/usr/bin/env bash
# Makes the file system of an arm64 board from Debian packages and PyPI wheels, and for the icount board a kernel too.
#
#   build.sh userland|icount
#
# Nothing is emulated on the way: packages are only unpacked. Made once and kept in the cache; about 400 MB.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$(readlink -f "$0")")/common.sh"

suite=bookworm # its Python is 3.11: the wheels below must fit
packages=python3,openssh-server,openssh-sftp-server,bash,dash,coreutils,util-linux,mount,procps,sed,grep,findutils
packages+=,hostname,iproute2,base-files,base-passwd,passwd,login,libstdc++6,libgcc-s1,busybox-static
packages+=,python3-venv,sudo,systemd,libc-bin # what the provisioning of a real board finds there
wheels=(numpy==2.4.6 onnxruntime==1.31.1 ai-edge-litert==2.3.0)
kernel_packages=linux-image-cloud-arm64,busybox-static,kmod
modules=(virtio_pci virtio_blk virtio_net virtio_mmio)
python="${PYTHON:-python3}"

unpack() { # FOLDER PACKAGES
    rm -rf "$1"
    mmdebstrap --quiet --mode=root --arch=arm64 --variant=extract --include="$2" "$suite" "$1"
}

make_wheels() {
    local platforms=() name
    for name in manylinux_2_27 manylinux_2_28 manylinux2014 manylinux_2_17; do
        platforms+=(--platform "${name}_aarch64")
    done
    rm -rf "$cache/wheels" "$cache/wheelhouse"
    "$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: "${platforms[@]}" \
        --python-version 3.11 --implementation cp --dest "$cache/wheelhouse" "${wheels[@]}"
    "$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-compile --no-deps \
        --only-binary=:all: "${platforms[@]}" --python-version 3.11 --implementation cp --target "$cache/wheels" \
        "$cache"/wheelhouse/*.whl
}

make_rootfs() {
    local root="$cache/rootfs"
    unpack "$root" "$packages"
    sed 's#^root:\*:#root::#' "$root/usr/share/base-passwd/passwd.master" >"$root/etc/passwd"
    cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
    printf '%s\n' 'sshd:x:101:65534::/run/sshd:/usr/sbin/nologin' 'pi:x:1000:1000::/srv/pi:/bin/bash' >>"$root/etc/passwd"
    echo 'pi:x:1000:' >>"$root/etc/group"
    printf '%s:*:19000:0:99999:7:::\n' root sshd pi >"$root/etc/shadow"
    mkdir -p "$root"/{proc,sys,dev,run/sshd,run/lock,srv/pi/.ssh,opt/edgeprune,usr/local/bin}
    chmod 1777 "$root/tmp" "$root/run/lock"
    cp -r "$cache/wheels/." "$root/opt/edgeprune"
    echo /opt/edgeprune >"$root/usr/lib/python3/dist-packages/edgeprune.pth"
    # Byte code halves the time that an emulated Python takes to start; any Python of its version can write it.
    if [[ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" == 3.11 ]]; then
        "$python" -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$root" -p / \
            "$root/opt/edgeprune" "$root/usr/lib/python3.11" >/dev/null || true
    fi
    ldconfig -r "$root"
    cat >"$root/etc/ssh/sshd_config" <<EOF
HostKey /etc/ssh/host_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UsePAM no
AllowUsers pi
UseDNS no
Subsystem sftp internal-sftp
EOF
    cp "$cache/key.pub" "$root/srv/pi/.ssh/authorized_keys"
    chmod 700 "$root/srv/pi" "$root/srv/pi/.ssh"
    chmod 600 "$root/srv/pi/.ssh/authorized_keys"
    chown -R 1000:1000 "$root/srv/pi"
}

make_kernel() {
    local tree="$cache/kernel" version number=10 module
    unpack "$tree" "$kernel_packages"
    version="$(ls "$tree/lib/modules")"
    depmod -b "$tree" "$version"
    mkdir -p "$tree/initrd"/{bin,modules,proc,sys,dev,mnt}
    cp "$tree/bin/busybox" "$tree/initrd/bin/busybox"
    for module in $(modprobe -S "$version" -d "$tree" -a --show-depends "${modules[@]}" | awk '!seen[$2]++ {print $2}'); do
        cp "$module" "$tree/initrd/modules/$((number++))_$(basename "$module")"
    done
    cat >"$tree/initrd/init" <<'EOF'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do /bin/busybox insmod "$module"; done
/bin/busybox mount -t ext4 /dev/vda /mnt && /bin/busybox mount --move /dev /mnt/dev &&
    exec /bin/busybox switch_root /mnt /sbin/edgeprune-init
exec /bin/busybox sh
EOF
    chmod +x "$tree/initrd/init"
    (cd "$tree/initrd" && find . | cpio --quiet -o -H newc) >"$cache/initrd.cpio"
    cp "$tree"/boot/vmlinuz-* "$cache/vmlinuz"
    rm -rf "$tree"
}

make_disk() {
    local tree="$cache/disk"
    rm -rf "$tree"
    cp -a "$cache/rootfs" "$tree"
    rm -f "$cache/icount_host_key" "$cache/icount_host_key.pub"
    ssh-keygen -q -t ed25519 -N '' -C icount -f "$cache/icount_host_key"
    cp "$cache/icount_host_key" "$tree/etc/ssh/host_key"
    echo icount >"$tree/etc/edgeprune-kind"
    echo icount >"$tree/etc/hostname"
    cat >"$tree/sbin/edgeprune-init" <<'EOF'
#!/bin/sh
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for folder in dev/shm run tmp; do mount -t tmpfs tmpfs "/$folder"; chmod 1777 "/$folder"; done
mkdir -p /run/sshd /run/lock
chmod 755 /run /run/sshd
chmod 1777 /run/lock
hostname icount
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
/usr/sbin/sshd
echo "ready after $(cut -d' ' -f1 /proc/uptime) s"
while :; do sleep 3600; done
EOF
    chmod +x "$tree/sbin/edgeprune-init"
    mke2fs -q -F -t ext4 -d "$tree" "$cache/root.ext4" 1000M
    rm -rf "$tree"
}

kind="${1:-}"
[[ "$kind" == userland || "$kind" == icount ]] || die "say what to build: build.sh userland|icount"
need mmdebstrap "$python" ssh-keygen
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
client_key
recipe="$(sha256sum "$0" | cut -c1-16) $suite"
once wheels "${wheels[*]}" make_wheels
once rootfs "$recipe ${wheels[*]} $(cut -c1-80 "$cache/key.pub")" make_rootfs
if [[ "$kind" == icount ]]; then
    need mke2fs depmod modprobe cpio
    once kernel "$recipe" make_kernel
    once disk "$recipe $(cat "$cache/rootfs.stamp")" make_disk
fi
