# Sourced by run.sh and test.sh: makes .venv and installs the package with its pinned versions.
#   PYTHON       interpreter that makes .venv (default: python3)
#   ACCELERATOR  cpu, cuda or tpu (default: what the machine has)
# install EXTRAS: does nothing where the same was installed before.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

say() { echo "launch: $*" >&2; }

accelerator() {
  if [ -n "${ACCELERATOR:-}" ]; then
    echo "$ACCELERATOR"
  elif command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -q GPU; then
    echo cuda
  elif [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ]; then
    echo tpu
  else
    echo cpu
  fi
}

make_venv() {
  local python="${PYTHON:-python3}"
  command -v "$python" >/dev/null || { say "no $python here; install Python 3.11 or newer, or set PYTHON="; exit 2; }
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { say "$("$python" --version) is too old; set PYTHON= to 3.11 or newer"; exit 2; }
  say "creating .venv"
  "$python" -m venv "$VENV" ||
    { rm -rf "$VENV"; say "$python cannot make a virtual environment; on Debian: apt install python3-venv"; exit 2; }
}

install() {
  local kind extras="$1" target="$ROOT" stamp
  kind="$(accelerator)"
  case "$kind" in
    cpu) ;;
    cuda | tpu) extras="${extras:+$extras,}$kind" ;;
    *) say "ACCELERATOR=$kind is none of cpu, cuda, tpu"; exit 2 ;;
  esac
  [ -x "$VENV/bin/python" ] || make_venv
  stamp="$extras $(cat "$ROOT/pyproject.toml" "$ROOT/launch/lock.txt" | cksum)"
  grep -qsxF "$stamp" "$VENV/installed" && return
  say "installing for $kind${extras:+ (extras: $extras)}"
  [ -z "$extras" ] || target="$ROOT[$extras]"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$ROOT/launch/lock.txt" --editable "$target" ||
    { say "the packages could not be installed; is there a network that reaches PyPI?"; exit 1; }
  echo "$stamp" >>"$VENV/installed"
}
