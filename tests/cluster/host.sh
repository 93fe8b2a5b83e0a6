#!/usr/bin/env bash
# What a host of tests/cluster/hosts.py does as its first process, in namespaces of its own (mount, network, PID, UTS, IPC).
# host.sh NAME CONFIG SHARED ROOT VENV PYTHON: the machine's disk read-only, except tmpfs on /tmp, /dev/shm, /run and the
# home directory; SHARED as /mnt/shared; the repository out of sight, except its environment VENV, read-only.
set -euo pipefail
name=$1 config=$2 shared=$3 root=$4 venv=$5 python=$6
HOME=$(getent passwd "$(id -u)" | cut -d: -f6) # where sshd looks for keys
export HOME

hostname "$name"
mount -t tmpfs -o size=16m tmpfs /mnt
mkdir /mnt/shared /mnt/config /mnt/venv /mnt/python
mount --bind "$shared" /mnt/shared
mount --bind "$config" /mnt/config
mount --bind "$venv" /mnt/venv
mount --bind "$python" /mnt/python

cd /
for folder in /tmp /dev/shm /run "$HOME" "$root"; do
  mkdir -p "$folder" # the repository may lie below one that was just covered
  mount -t tmpfs -o size=2g tmpfs "$folder"
done
chmod 1777 /tmp /dev/shm
see_again() { # PLACE SOURCE
  mkdir -p "$1"
  mount --bind "$2" "$1"
  mount -o remount,bind,ro "$1"
}
see_again "$venv" /mnt/venv
[ -e "$python/bin" ] || see_again "$python" /mnt/python
mount --bind /mnt/config/hosts /etc/hosts
mount -o remount,bind,ro /

mkdir -p /run/sshd /run/postgresql "$HOME/.ssh"
cp /mnt/config/authorized_keys "$HOME/.ssh/"
cp /mnt/config/bashrc "$HOME/.bashrc"
[ "$name" != desk ] || cp /mnt/config/key "$HOME/.ssh/id_ed25519"
mkdir "$HOME/transfergrid" "$HOME/.transfergrid"
ln -s "$venv" "$HOME/transfergrid/.venv"  # the desk's project
ln -s "$venv" "$HOME/.transfergrid/venv"  # the environment of a host, as the first `ray up` would make it
cp /mnt/config/installed "$HOME/.transfergrid/"
chmod -R go= "$HOME/.ssh"
ssh-keygen -q -t ed25519 -N '' -f /run/sshd/host_key
touch /run/ready
exec /usr/sbin/sshd -D -e -f /dev/null -o HostKey=/run/sshd/host_key -o PidFile=none -o UsePAM=no -o StrictModes=no \
  -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o MaxStartups=50:30:100
