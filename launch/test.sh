#!/usr/bin/env bash
# All checks, in an environment of its own; arguments go to pytest: launch/test.sh -k lenet
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install dev,parity,app
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  say "installing chromium, for the tests of the app"
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium; } \
    >/dev/null 2>&1 || say "chromium could not be installed: the tests marked browser are skipped"
fi
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1  # the tests fill the cores, where threads would wait in turns
cd "$ROOT"
"$VENV/bin/ruff" check --quiet .
"$VENV/bin/ruff" format --quiet --check .
exec "$VENV/bin/python" -m pytest --numprocesses=2 --dist=worksteal --quiet --durations=25 --durations-min=5 "$@"
