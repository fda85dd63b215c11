#!/usr/bin/env bash
# The command line in an environment of its own: launch/run.sh train --experiment=cnn.lenet5
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install ""
exec "$VENV/bin/python" -m dlcourse "$@"
