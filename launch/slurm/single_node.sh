#!/usr/bin/env bash
# A Slurm cluster of this one machine (Debian or Ubuntu, as root), to try what a real one will do:
#   launch/slurm/single_node.sh start
#   srun --ntasks=2 .venv/bin/python -m dlcourse train --experiment=cnn.lenet5
#   launch/slurm/single_node.sh stop
# Two partitions: a job in `urgent` takes the machine from one in `normal`, which is requeued.
set -euo pipefail

CONF=/etc/slurm/slurm.conf STATE=/var/spool/dlcourse-slurm MARK="# written by launch/slurm/single_node.sh"
CPUS="${CPUS:-4}"  # that Slurm gives away, whatever there are

say() { echo "single_node: $*" >&2; }

install() {
  command -v slurmctld slurmd munged >/dev/null && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
}

configure() {
  if [ -e "$CONF" ] && ! grep -qxF "$MARK" "$CONF"; then
    say "$CONF belongs to another Slurm; this is for machines that have none"
    exit 2
  fi
  mkdir -p "$STATE/state" "$STATE/node"
  case "$(slurmd -V)" in  # containers have no cgroups to manage; older versions cannot do without a plugin
    *" 2"[0-3].*) echo "CgroupPlugin=cgroup/v1" ;;
    *) echo "CgroupPlugin=disabled" ;;
  esac >/etc/slurm/cgroup.conf
  cat >"$CONF" <<END
$MARK
ClusterName=single
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation=$STATE/state
SlurmdSpoolDir=$STATE/node
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
NodeName=localhost NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$CPUS
PartitionName=normal Nodes=localhost Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=localhost PriorityTier=2 PreemptMode=off
END
}

start() {
  ! kill -0 "$(cat "$STATE/slurmctld.pid" 2>/dev/null)" 2>/dev/null || return 0 # it runs
  install
  configure
  service munge start >/dev/null
  slurmctld
  slurmd -N localhost
  for _ in $(seq 30); do
    sinfo --noheader --format=%t 2>/dev/null | grep -qx idle && return
    sleep 1
  done
  say "the node does not become idle; see $STATE/slurmctld.log and $STATE/slurmd.log"
  exit 1
}

stop() {
  for name in slurmd slurmctld; do
    [ ! -e "$STATE/$name.pid" ] || kill "$(cat "$STATE/$name.pid")" || true
  done
}

case "${1:-}" in
  start | stop) "$1" ;;
  *) say "start or stop?"; exit 2 ;;
esac
