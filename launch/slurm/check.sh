#!/usr/bin/env bash
# Where single_node.sh has started Slurm: is a training that is preempted and queued again the one left alone?
#   launch/slurm/check.sh FOLDER
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export PYTHON="${PYTHON:-$ROOT/.venv/bin/python}" JAX_PLATFORMS=cpu
mkdir -p "${1:?which folder?}" && cd "$1"

submit() { # WORKDIR [OPTION…]: two processes of the template; prints the job's number
  sbatch --parsable --ntasks-per-node=2 --gpus-per-node=0 "${@:2}" "$ROOT/launch/slurm/train.sbatch" \
    --experiment=cnn.mlp --data.source=digits --data.size=8 --data.batch_size=32 \
    --task.model.hidden_dims 8 --steps=1500 --eval_every=100 --workdir="$1"
}

field() { scontrol --oneliner show job "$job" | grep -o "$1=[^ ]*" | cut -d= -f2; }

going() { [[ "$(field JobState)" =~ ^(PENDING|CONFIGURING|RUNNING|COMPLETING|REQUEUED)$ ]]; }

digest() {
  PYTHONPATH="$ROOT/launch" "$PYTHON" -c \
    'import pathlib, sys; from kills import digest; print(digest(pathlib.Path(sys.argv[1])))' "$1"
}

verdict() {
  echo "check: $*"
  [ "$*" = "preempted, queued again, and bit-identical" ]
}

submit alone --wait >/dev/null
job="$(submit preempted)"
while going && [ ! -e preempted/checkpoints/100 ]; do sleep 0.2; done
srun --partition=urgent --exclusive true # which needs the whole machine
while going && [ "$(field Restarts)" != 1 ]; do sleep 0.2; done
scontrol update JobId="$job" StartTime=now || true # Slurm would let it wait for two minutes
while going; do sleep 1; done

grep -h "started by\|asked to end" ./*.log
if [ "$(field JobState)" != COMPLETED ] || [ "$(field Restarts)" != 1 ]; then
  verdict "the job was not queued again: $(field JobState), exit code $(field ExitCode)"
elif grep -L '"processes": 2' ./*/experiment.json | grep -q .; then
  verdict "the two processes of srun did not find each other"
elif [ "$(digest alone)" != "$(digest preempted)" ]; then
  verdict "preempted, queued again, and DIFFERENT"
else
  verdict "preempted, queued again, and bit-identical"
fi
