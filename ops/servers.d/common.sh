# What the servers' scripts share. Sourced, never run.
set -euo pipefail

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

# One line of `status`: name, state, details.
line() { printf '%-8s %-13s %s\n' "$@"; }

# Install the Debian packages $@ where this may be done; elsewhere say what to type.
install_packages() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $*"
    { [ -n "$(find /var/lib/apt/lists -name '*_Packages*' -mtime -7 2>/dev/null | head -n 1)" ] || apt-get update -qq; } >&2
    DEBIAN_FRONTEND=noninteractive without_services apt-get install -y -qq --no-install-recommends "$@" >&2
  else
    echo "This machine lacks $*. Type: sudo apt-get install --no-install-recommends $*" >&2
    return 1
  fi
}

# Run $@ while no package may start its service: it would listen on every address.
without_services() {
  local policy=/usr/sbin/policy-rc.d status=0
  if [ -e "$policy" ]; then
    "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  "$@" || status=$?
  rm -f "$policy"
  return $status
}

# A port of 127.0.0.1 to listen on: $1 when it is free, else any free one.
free_port() {
  python3 - "$1" <<'END'
import socket, sys
for port in (int(sys.argv[1]), 0):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        print(probe.getsockname()[1])
        break
END
}

# The value of file $1 in the server's folder; on first use what the command $2… prints is kept there, readable by its owner.
kept() {
  local file=$SERVER_FOLDER/$1
  shift
  if [ ! -s "$file" ]; then
    mkdir -p "$SERVER_FOLDER"
    (umask 077 && "$@" >"$file.new" && mv "$file.new" "$file")
  fi
  cat "$file"
}

# 48 hex digits nobody can guess.
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# When process $1 started, in ticks since boot: with the pid, who it is.
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }

# Remember process $1 as the one to stop, in the file $2 (default: pid).
remember() { echo "$1 $(started "$1")" >"$SERVER_FOLDER/${2:-pid}"; }

# Print the pid that `remember` noted, if that very process still runs.
running() {
  local pid ticks
  [ -s "$SERVER_FOLDER/${1:-pid}" ] || return 1
  read -r pid ticks <"$SERVER_FOLDER/${1:-pid}"
  [ -n "$ticks" ] && [ "$(started "$pid")" = "$ticks" ] || return 1
  echo "$pid"
}

# Stop the remembered process: politely, after $2 (default 15) seconds for good.
stop_remembered() {
  local file=${1:-pid} pid i
  if pid=$(running "$file"); then
    kill "$pid" 2>/dev/null || true
    for ((i = 0; i < ${2:-15} * 10; i++)); do
      running "$file" >/dev/null || break
      sleep 0.1
    done
    running "$file" >/dev/null && kill -9 "$pid" 2>/dev/null
  fi
  rm -f "$SERVER_FOLDER/$file"
}

# Wait until the command $3… succeeds, at most $1 seconds, saying what is waited for ($2); the process must live.
wait_until() {
  local seconds=$1 what=$2 i
  shift 2
  printf '%s ' "$what" >&2
  for ((i = 0; i < seconds * 5; i++)); do
    if "$@" >/dev/null 2>&1; then
      echo " ready" >&2
      return 0
    fi
    running >/dev/null || break
    ((i % 5)) || printf '.' >&2
    sleep 0.2
  done
  echo " no answer; the log is in $SERVER_FOLDER/log" >&2
  return 1
}
