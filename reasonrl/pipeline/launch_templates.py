"""The scripts of `reasonrl launch`, as templates: `@NAME@` is filled in by `launch_scripts`."""

#: Starts @ENGINES@ servers on this machine; docs/servers.md says what the options are for.
SERVERS = """\
export VLLM_API_KEY="$REASONRL_KEY" VLLM_SERVER_DEV_MODE=1
    pids=()
    for ((i = 0; i < @ENGINES@; i++)); do
      seen=$(seq -s, $((i * @TENSOR@)) $((i * @TENSOR@ + @TENSOR@ - 1)))
      CUDA_VISIBLE_DEVICES=$seen vllm serve @MODEL@ --port $((@FIRST_PORT@ + i)) --tensor-parallel-size @TENSOR@ \\
        @FLAGS@ --skip-tokenizer-init --logprobs-mode processed_logprobs --generation-config vllm \\
        --middleware reasonrl.rollout.servers_worker.RequireKey \\
        --worker-extension-cls reasonrl.rollout.servers_worker.LoadFromFiles &
      pids+=("$!")
    done
    reasonrl node "@ADDRESS@" --rank @RANK@ || true # until the run has ended
    kill "${pids[@]}" || true"""

SLURM = """\
#!/usr/bin/env bash
@OPTIONS@
# Recipe @NAME@ on @MACHINES@ machines that train and @SERVERS@ that draw; written by `reasonrl launch --slurm`.
# The working directory, the run directory and the environment are the same on all machines (a shared file system).
set -euo pipefail
cd @FOLDER@
if [ -z "${REASONRL_KEY:-}" ]; then REASONRL_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n'); fi
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export REASONRL_KEY REASONRL_ADDRESS="${hosts[0]}:$((20000 + SLURM_JOB_ID % 20000))"
servers=()
for host in "${hosts[@]:@MACHINES@}"; do
  for ((i = 0; i < @ENGINES@; i++)); do servers+=("http://$host:$((@FIRST_PORT@ + i))"); done
done
REASONRL_URLS=$(IFS=,; echo "${servers[*]}")
export REASONRL_URLS

# shellcheck disable=SC2317
work() {
  if ((SLURM_PROCID >= @MACHINES@)); then
    @START_SERVERS@
  elif ((SLURM_PROCID > 0)); then
    exec reasonrl node "$REASONRL_ADDRESS" --rank "$SLURM_PROCID"
  elif [ -n "$REASONRL_URLS" ]; then
    export VLLM_API_KEY="$REASONRL_KEY"
    exec @COMMAND@ rollout.engine=servers "rollout.urls=[$REASONRL_URLS]" rollout.api_key_env=VLLM_API_KEY \\
      rollout.weights_dir=@WEIGHTS@ @NULLS@
  else
    exec @COMMAND@
  fi
}
export -f work

# Slurm says TERM to this script some minutes before the end (--signal); the run saves, and is put back into the queue.
stopping=0
srun --kill-on-bad-exit=1 bash -c work &
step=$!
trap 'stopping=1; scancel --signal=TERM "$SLURM_JOB_ID.0" || true' TERM
status=0
while true; do
  wait "$step" && status=0 || status=$?
  kill -0 "$step" 2>/dev/null || break
done
if ((stopping)); then
  echo "stopped before its end: put back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
elif ((status != 0 && status != 2 && ${SLURM_RESTART_COUNT:-0} < @RESTARTS@)); then
  echo "failed with status $status: put back into the queue ($((${SLURM_RESTART_COUNT:-0} + 1)) of @RESTARTS@)"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""

SHELL_HEAD = """\
#!/usr/bin/env bash
# Machine 0 of @MACHINES@: walks recipe @NAME@; written by `reasonrl launch --torchrun`. Started again, it resumes.
set -euo pipefail
cd @FOLDER@
export REASONRL_ADDRESS="@ADDRESS@" REASONRL_KEY="@KEY@"
urls=()
if ((@SERVER_URLS@)); then
  export VLLM_API_KEY="$REASONRL_KEY"
  list="" # SERVERS: the addresses of the machines that run server.sh, with blanks between
  for host in ${SERVERS:?set SERVERS to the addresses of the machines that draw}; do
    for ((i = 0; i < @ENGINES@; i++)); do list="$list,http://$host:$((@FIRST_PORT@ + i))"; done
  done
  urls=(rollout.engine=servers "rollout.urls=[${list#,}]" rollout.api_key_env=VLLM_API_KEY)
  urls+=(rollout.weights_dir=@WEIGHTS@ @NULLS@)
fi
exec @COMMAND@ "${urls[@]}"
"""

SHELL_NODE = """\
#!/usr/bin/env bash
# Machine @RANK@ of @MACHINES@: works for recipe @NAME@; written by `reasonrl launch --torchrun`.
set -euo pipefail
cd @FOLDER@
export REASONRL_KEY="@KEY@"
exec reasonrl node "@ADDRESS@" --rank @RANK@
"""

SHELL_SERVER = """\
#!/usr/bin/env bash
# A machine that draws for recipe @NAME@: vLLM servers; written by `reasonrl launch --torchrun`.
# Usage: server.sh [0, 1, … for the first, second, … such machine]
set -euo pipefail
cd @FOLDER@
export REASONRL_KEY="@KEY@"
@START_SERVERS@
"""

RAY = '''\
"""Recipe @NAME@ on @MACHINES@ machines of a Ray cluster: ray job submit --working-dir . -- python THIS_FILE"""

import os
import secrets
import socket
import subprocess
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

MACHINES, DEVICES, FOLDER, TRAIN = @MACHINES@, @DEVICES@, @FOLDER_TEXT@, @WORDS@
RESTARTS = @RESTARTS@


@ray.remote(max_retries=0)
def address():
    with socket.create_server(("", 0)) as server:
        return f"{ray.util.get_node_ip_address()}:{server.getsockname()[1]}"


@ray.remote(max_retries=0)
def machine(rank, head, key):
    """One machine's part; its exit status."""
    command = TRAIN if rank == 0 else ["reasonrl", "node", head, "--rank", str(rank)]
    environment = {**os.environ, "REASONRL_ADDRESS": head, "REASONRL_KEY": key}
    return subprocess.run(command, cwd=FOLDER, env=environment, check=False).returncode


def main():
    ray.init()
    group = placement_group([{"CPU": 1, "GPU": DEVICES}] * MACHINES, strategy="STRICT_SPREAD")
    ray.get(group.ready())

    def place(rank):
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
        return {"scheduling_strategy": strategy, "num_cpus": 1, "num_gpus": DEVICES}

    for attempt in range(RESTARTS + 1):
        head = ray.get(address.options(scheduling_strategy=place(0)["scheduling_strategy"], num_cpus=0).remote())
        key = secrets.token_hex(16)
        parts = [machine.options(**place(rank)).remote(rank, head, key) for rank in range(MACHINES)]
        status = max(ray.get(parts))
        if status in (0, 2):  # done, or a recipe that no further attempt would mend
            break
        print(f"failed with status {status}; attempt {attempt + 1} of {RESTARTS + 1}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
'''
