#!/usr/bin/env bash
# Installs Debian 13 with its rabbitmq-server (4.x) into a directory, for ROUTER_TEST_RABBITMQ_ROOT; nothing is started.
# It appears there only when complete: what is half-made is in DIRECTORY.part, and is thrown away.
set -euo pipefail

directory=${1:?"usage: $0 DIRECTORY"}
[ ! -x "$directory/usr/lib/rabbitmq/bin/rabbitmq-server" ] || exit 0
if [ -e "$directory" ] && ! rmdir "$directory" 2>/dev/null; then
  echo "$directory is there, but isn't a Debian with rabbitmq-server. Name another one, or remove it." >&2
  exit 1
fi

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
export DEBIAN_FRONTEND=noninteractive PATH="$PATH:/usr/sbin:/sbin"
if ! command -v debootstrap >/dev/null; then
  if ! command -v apt-get >/dev/null; then
    echo "debootstrap is needed to install Debian 13 into a directory, and there is no apt-get here." >&2
    echo "Install debootstrap and Debian's archive keyring by hand, and try again." >&2
    exit 1
  fi
  echo "Installing debootstrap by apt ..."
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" apt-get install -y -qq --no-install-recommends debootstrap debian-archive-keyring >/dev/null
fi

echo "Installing Debian 13 with rabbitmq-server into $directory (a few minutes, 240 MB) ..."
part=$directory.part
log=$(mktemp)
trap '"${sudo[@]}" rm -rf --one-file-system "$part"; rm -f "$log"' EXIT
"${sudo[@]}" rm -rf --one-file-system "$part"
mkdir -p "$(dirname "$directory")"
# debootstrap has a policy-rc.d in the tree meanwhile, so that no service starts. The mount namespace is for the /proc
# that it mounts there: however it ends, nothing stays mounted.
if ! "${sudo[@]}" unshare --mount debootstrap --variant=minbase --include=rabbitmq-server --force-check-gpg \
  trixie "$part" http://deb.debian.org/debian >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  exit 1
fi
"${sudo[@]}" rm -rf "$part"/var/cache/apt/archives/*.deb "$part"/var/lib/apt/lists/*
"${sudo[@]}" mv -T "$part" "$directory"
