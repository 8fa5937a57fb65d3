"""multinode.slurm as a job on a cluster of fake commands: ranks, requeueing, and what its log ends with.
`make test-cluster` runs it on a real Slurm."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "accelerate_configs/multinode.slurm"
JOB = ("accelerate_configs/zero3_160gpu.yaml", "recipes/pretrain.py", "--config", "my run.yaml")
FAKES = {
    # one bash per node, each with its own SLURM_NODEID, as srun --ntasks-per-node=1 starts them
    "srun": """
printf '%s\\n' "$@" > "$LOG/srun"
while [[ $1 == --* ]]; do shift; done
for node in $(seq 0 $((SLURM_NNODES - 1))); do SLURM_NODEID=$node "$@" & pids+=" $!"; done
echo "$pids" > "$LOG/node_pids"
for pid in $pids; do wait "$pid" || code=$?; done
exit "${code:-0}" """,
    "accelerate": """
printf '%s\\n' "$@" > "$LOG/node$SLURM_NODEID"
echo "${@:15}" >> "$LOG/calls$SLURM_NODEID"
[[ $MODE == fail ]] && printf 'error: precision failed. Next: change dtype\\nTraceback of the launcher\\n'
[[ $MODE == fail ]] && exit 7
[[ $MODE == killed ]] && { echo "exitcode -9"; exit 1; }
[[ $MODE == train ]] && exit 0
trap 'sleep 0.2; echo saved > "$LOG/saved$SLURM_NODEID"; exit 1' TERM
echo $$ > "$LOG/pid$SLURM_NODEID"
for _ in $(seq 600); do sleep 0.05; done""",
    "scontrol": """
[[ $2 == hostnames ]] && { for node in $(seq 0 $((SLURM_NNODES - 1))); do echo "gpu$node"; done; exit; }
[[ $2 == job ]] && { echo "   StdOut=$LOG/job.log"; exit; }
cd "$LOG"; echo "$@" $(ls saved*) >> scontrol""",
    "scancel": """
echo "$@" >> "$LOG/scancel"
kill -TERM $(cat "$LOG/node_pids" "$LOG"/pid*)""",
}


class Cluster:
    """A folder with the two files that a job names, fake commands and no .venv."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("bin", "accelerate_configs", "recipes"):
            (folder / name).mkdir()
        for name in JOB[:2]:
            (folder / name).touch()
        for name, body in FAKES.items():
            (folder / "bin" / name).write_text(f"#!/bin/bash\n{body.strip()}\n")
            (folder / "bin" / name).chmod(0o755)

    def start(self, mode, nodes, *arguments, **changes):
        environment = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "LOG": str(self.folder),
            "MODE": mode,
            "SLURM_NNODES": str(nodes),
            "SLURM_NODEID": "0",
            "SLURM_JOB_ID": "20007",
            "SLURM_JOB_NODELIST": f"gpu[0-{nodes - 1}]",
            "SLURM_CPUS_PER_TASK": "64",
            "SLURM_GPUS_ON_NODE": "8",
        } | changes
        environment = {key: value for key, value in environment.items() if value is not None}
        with (self.folder / "job.log").open("a") as log:
            return subprocess.Popen(
                ["bash", str(SLURM), *arguments], cwd=self.folder, env=environment, stdout=log, stderr=log
            )

    def run(self, *arguments, **changes):
        """(exit status, lines of the log, those of earlier jobs included)"""
        status = self.start(*arguments, **changes).wait(60)
        return status, self.lines("job.log")

    def wait_for(self, *names):
        until = time.monotonic() + 30
        files = [self.folder / name for name in names]
        while not all(file.is_file() and file.stat().st_size for file in files) and time.monotonic() < until:
            time.sleep(0.02)

    def lines(self, name):
        return (self.folder / name).read_text().splitlines()


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def test_each_node_gets_its_own_rank(cluster):
    status, log = cluster.run("train", 20, *JOB)
    assert status == 0, log
    for node in range(20):
        assert cluster.lines(f"node{node}") == [
            *("launch", "-q", "--config_file", "accelerate_configs/zero3_160gpu.yaml"),
            *("--num_machines", "20", "--num_processes", "160", "--machine_rank", str(node)),
            *("--main_process_ip", "gpu0", "--main_process_port", "20007"),
            *("recipes/pretrain.py", "--config", "my run.yaml", "--world_size", "160"),
        ]
    # srun does not inherit it: eight ranks would share one core
    assert "--cpus-per-task=64" in cluster.lines("srun")
    assert not (cluster.folder / "scontrol").exists() and not (cluster.folder / "scancel").exists()
    assert not list(cluster.folder.glob(".multinode-*"))


def test_gpus_that_are_no_gres_have_to_be_named(cluster):
    status, [said] = cluster.run("train", 2, *JOB, SLURM_GPUS_ON_NODE=None)
    assert status == 2 and said.startswith("error: ") and "Next: GPUS_PER_NODE=8 sbatch" in said
    assert not (cluster.folder / "srun").exists()
    status, _ = cluster.run("train", 2, *JOB, SLURM_GPUS_ON_NODE=None, GPUS_PER_NODE="4")
    assert status == 0 and cluster.lines("node1")[-1] == "8"


@pytest.mark.parametrize("folder", ["recipes", "recipes/tools"])
def test_every_rank_runs_preflight_before_the_first_start(cluster, folder):
    (cluster.folder / folder).mkdir(exist_ok=True)
    (cluster.folder / folder / "preflight.py").touch()
    status, log = cluster.run("train", 2, *JOB)
    assert status == 0, log
    arguments = "--config my run.yaml --world_size 16"
    checked = f"{folder}/preflight.py --recipe recipes/pretrain.py {arguments}"
    assert cluster.lines("calls0") == [checked, f"recipes/pretrain.py {arguments}"]
    # a real preflight waits for all ranks; this one may be over before node 1 has begun
    assert cluster.lines("calls1")[-1] == f"recipes/pretrain.py {arguments}"


def test_a_failed_preflight_ends_the_job_and_is_the_last_line_of_its_log(cluster):
    (cluster.folder / "recipes" / "preflight.py").touch()
    status, log = cluster.run("fail", 2, *JOB)
    assert status == 7 and log[-2:] == [
        "Traceback of the launcher",
        "error: precision failed. Next: change dtype",
    ]
    assert len(cluster.lines("calls0")) == 1 and not (cluster.folder / "scontrol").exists()


def test_a_job_that_was_requeued_before_preflight_had_passed_does_it_again(cluster):
    (cluster.folder / "recipes" / "preflight.py").touch()
    process = cluster.start("wait", 2, *JOB)
    cluster.wait_for("pid0", "pid1")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75 and len(cluster.lines("calls0")) == 1
    status, log = cluster.run("train", 2, *JOB, SLURM_RESTART_COUNT="1")
    assert status == 0, log
    calls = [line.split()[0] for line in cluster.lines("calls0")]
    assert calls == ["recipes/preflight.py", "recipes/preflight.py", "recipes/pretrain.py"]


def test_a_job_that_was_requeued_after_preflight_does_not_repeat_it(cluster):
    (cluster.folder / ".multinode-20007").mkdir()
    (cluster.folder / ".multinode-20007" / "looked").touch()
    (cluster.folder / "recipes" / "preflight.py").touch()
    assert cluster.run("train", 2, *JOB)[0] == 0
    assert [line.split()[0] for line in cluster.lines("calls1")] == ["recipes/pretrain.py"]


@pytest.mark.parametrize(
    "sent", [["USR1"], ["TERM"], ["USR1", "TERM"]], ids=["time limit", "requeued", "both"]
)
@pytest.mark.guarantee(
    "Resume", "A job that is stopped by Slurm saves, requeues itself and never ends as a success."
)
def test_a_stopped_job_saves_and_requeues_itself(cluster, sent):
    process = cluster.start("wait", 2, *JOB)
    cluster.wait_for("pid0", "pid1")
    for name in sent:
        process.send_signal(signal.Signals[f"SIG{name}"])
    assert process.wait(60) == 75 and "returns to the queue" in cluster.lines("job.log")[-1]
    # once, and not before every node has saved
    assert cluster.lines("scontrol") == ["requeue 20007 saved0 saved1"]
    assert set(cluster.lines("scancel")) == {"--signal=TERM 20007"}


@pytest.mark.parametrize("nodes", [(0, 1), (1,)], ids=["all nodes", "one node"])
def test_a_preemption_that_reaches_the_nodes_alone_requeues_the_job(cluster, nodes):
    """In the grace time Slurm signals the steps and not the batch script; a node may be signalled alone."""
    process = cluster.start("wait", 2, *JOB)
    cluster.wait_for("pid0", "pid1")
    shells = cluster.lines("node_pids")[0].split()
    for node in nodes:
        for pid in (shells[node], *cluster.lines(f"pid{node}")):
            os.kill(int(pid), signal.SIGTERM)
    assert process.wait(60) == 75, cluster.lines("job.log")
    assert cluster.lines("scontrol") == ["requeue 20007 saved0 saved1"]


def test_a_failed_job_does_not_requeue_itself(cluster):
    status, log = cluster.run("killed", 2, *JOB)
    assert status == 1 and not (cluster.folder / "scontrol").exists()
    assert log[-1].startswith("error: a rank was killed or failed (status 1)") and "Next: " in log[-1]


def test_a_wrong_path_is_one_sentence(cluster):
    status, [said] = cluster.run("train", 2, "nowhere.yaml", "recipes/pretrain.py")
    assert status == 2 and said.startswith("error: 'nowhere.yaml'") and "Next" in said


def test_deprecations_that_fill_the_log_are_filtered_by_message():
    text = SLURM.read_text()
    [start] = re.findall(r"^for name in reduce_scatter_tensor.*?^export PYTHONWARNINGS$", text, re.M | re.S)
    program = "import warnings\nfor name in ('reduce_scatter_tensor', 'other'):\n"
    program += "    warnings.warn(f'`torch.distributed.{name}` is deprecated.', FutureWarning)"
    done = subprocess.run(
        ["bash", "-euc", f'{start}\npython3 -c "$0"', program], capture_output=True, text=True, check=True
    )
    assert "other" in done.stderr and "reduce_scatter" not in done.stderr, done.stderr


def test_the_script_names_no_site():
    text = SLURM.read_text()
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    options = {re.match(r"#SBATCH --([a-z-]+)", line)[1] for line in lines}
    sites = {"partition", "account", "qos", "constraint", "reservation", "mail-user", "chdir", "nodelist"}
    assert not options & sites
    assert {"requeue", "signal", "open-mode", "ntasks-per-node"} <= options
    assert not re.search(r"module load|conda|/home|/scratch|/blue", text)
    assert "#SBATCH --nodes=20" in lines and "#SBATCH --gpus-per-node=8" in lines
