#!/usr/bin/env bash
# All checks, in an environment of its own; arguments go to pytest: launch/test.sh -k lenet
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install dev,parity
cd "$ROOT"
"$VENV/bin/ruff" check --quiet .
"$VENV/bin/ruff" format --quiet --check .
exec "$VENV/bin/python" -m pytest --numprocesses=2 --dist=worksteal --quiet --durations=25 --durations-min=5 "$@"
