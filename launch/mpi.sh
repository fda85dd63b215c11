#!/usr/bin/env bash
# A training under any MPI, through mpi4py (pip install mpi4py); no process is tied to a core:
#   launch/mpi.sh 2 --experiment=cnn.lenet5
# On other hosts: MPIRUN="mpirun --hostfile=hosts". What process N says is kept in logs/process-N.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "${LOGS:=logs}"
export LOGS
# shellcheck disable=SC2016,SC2086 - the rank is known inside; MPIRUN may hold several words
exec ${MPIRUN:-mpirun} -n "${1:?how many processes?}" --bind-to none bash -c '
  exec "$@" >>"$LOGS/process-${OMPI_COMM_WORLD_RANK:-$PMI_RANK}.log" 2>&1
' train "${PYTHON:-.venv/bin/python}" -u -m dlcourse train "${@:2}"
