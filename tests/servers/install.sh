#!/usr/bin/env bash
# Installs the servers that the tests start for themselves: Debian's rabbitmq-server and redis-server, where missing.
set -euo pipefail

missing=()
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || [ -n "${ROUTER_TEST_AMQP_URL:-}${ROUTER_TEST_RABBITMQ_ROOT:-}" ] ||
  missing+=(rabbitmq-server)
command -v redis-server >/dev/null || [ -n "${ROUTER_TEST_REDIS_URL:-}" ] || missing+=(redis-server)
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "The tests need ${missing[*]}, and there is no apt-get here. Install them by hand, or name running ones:" >&2
  echo "  ROUTER_TEST_AMQP_URL=amqp://user:password@host/vhost ROUTER_TEST_REDIS_URL=redis://host make test" >&2
  exit 1
fi
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
echo "Installing ${missing[*]} by apt, for the tests; they start private ones of their own on 127.0.0.1 ..."
# The packages would start system services: 101 forbids that while they are installed.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
  "${sudo[@]}" chmod +x "$policy"
  trap '"${sudo[@]}" rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
