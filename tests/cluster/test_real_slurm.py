"""multinode.slurm on a real Slurm: a controller and two nodes on one machine, each with a network of its own.

    make test-cluster       as root, ten minutes; installs Debian's slurm-wlm and munge where they are missing

The run is a stand-in of forty lines under `accelerate launch` on gloo: it counts steps on both nodes, saves
its count when it is told to stop, and resumes. The daemons and networks end with the tests."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "accelerate_configs/multinode.slurm"
pytestmark = pytest.mark.skipif(not os.environ.get("CLUSTER"), reason="needs a real Slurm: make test-cluster")

CONFIGURATION = """
ClusterName=two
SlurmctldHost=ctl(10.77.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=node1 NodeAddr=10.77.0.1 CPUs=64 Gres=gpu:h100:1 State=UNKNOWN
NodeName=node2 NodeAddr=10.77.0.2 CPUs=64 Gres=gpu:h100:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""
MACHINE = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_machines: 2
num_processes: 2
machine_rank: 0
main_process_ip: localhost
main_process_port: 29500
rdzv_backend: static
same_network: true
main_training_function: main
mixed_precision: 'no'
use_cpu: true
"""
RUN = """
import argparse, json, os, signal, sys, time
import torch
import torch.distributed as dist

parser = argparse.ArgumentParser()
for name in ("--config", "--world_size", "--out"): parser.add_argument(name)
parser.add_argument("--steps", type=int, default=30)
args = parser.parse_args()
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
dist.init_process_group("gloo")
rank, state = dist.get_rank(), os.path.join(args.out, "state.json")
done = json.load(open(state)) if os.path.exists(state) else []
dist.barrier()
began = len(done)
while len(done) < args.steps:
    time.sleep(0.5)
    told = torch.tensor([len(asked), rank + 1])
    dist.all_reduce(told)
    assert told[1] == 3
    done.append(int(os.environ.get("SLURM_RESTART_COUNT", 0)))
    if rank == 0:
        open(os.path.join(args.out, "step"), "w").write(str(len(done)))
    if told[0]:
        time.sleep(2)  # a checkpoint takes its time
        if rank == 0:
            json.dump(done, open(state + ".new", "w")); os.rename(state + ".new", state)
        dist.barrier()
        sys.exit("error: stopped by SIGTERM. Next: the same command resumes" if rank == 0 else 1)
if rank == 0:
    json.dump(done, open(state, "w"))
    open(os.path.join(args.out, "complete"), "w").close()
dist.barrier()
"""


def command(*argv, **options):
    return subprocess.run(argv, capture_output=True, text=True, **options)


class Cluster:
    def __init__(self, folder):
        self.folder, self.daemons, self.jobs = folder, [], []
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self):
        for name in ("state", "spool-node1", "spool-node2"):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(folder=self.folder))
        gpus = "".join(f"NodeName=node{n} Name=gpu Type=h100 File=/dev/tty{n}\n" for n in (1, 2))
        (self.folder / "gres.conf").write_text(gpus)
        hosts = "127.0.0.1 localhost\n10.77.0.254 ctl\n10.77.0.1 node1\n10.77.0.2 node2\n"
        (self.folder / "hosts").write_text(hosts)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        for path in (key, self.folder):
            shutil.chown(path, "root", "root")
        key.chmod(0o400)
        munged = [
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={self.folder}/munge.socket",
        ]
        files = [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("pid", "log", "seed")]
        self.daemon(*munged, *files)

        for argv in (
            "link add br77 type bridge",
            "addr add 10.77.0.254/24 dev br77",
            "link set br77 up",
            *(
                line
                for node in (1, 2)
                for line in (
                    f"netns add node{node}",
                    f"link add veth{node} type veth peer name eth0 netns node{node}",
                    f"link set veth{node} master br77 up",
                    f"-n node{node} addr add 10.77.0.{node}/24 dev eth0",
                    f"-n node{node} link set eth0 up",
                    f"-n node{node} link set lo up",
                )
            ),
        ):
            command("ip", *argv.split(), check=True)
        as_host = 'hostname "$1"; mount --bind "$2" /etc/hosts; shift 2; exec "$@"'
        inside = ["unshare", "--uts", "--mount", "bash", "-c", as_host, "-"]
        self.daemon(*inside, "ctl", str(self.folder / "hosts"), "slurmctld", "-D")
        for node in ("node1", "node2"):
            start = ["nsenter", f"--net=/run/netns/{node}", *inside, node, str(self.folder / "hosts")]
            self.daemon(*start, "slurmd", "-D", "-N", node)
        self.until(
            lambda: self.slurm("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D").strip() == "2", 60
        )

    def daemon(self, *argv):
        log = (self.folder / f"daemon-{len(self.daemons)}.log").open("w")
        self.daemons.append(subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log))
        time.sleep(1)

    def stop(self):
        for job in self.jobs:
            self.slurm("scancel", "--signal=KILL", "--full", job)
            self.slurm("scancel", job)
        time.sleep(2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for argv in ("netns del node1", "netns del node2", "link del br77"):
            command("ip", *argv.split())

    def slurm(self, *argv, **more):
        return command(*argv, env=self.environment | more).stdout

    def submit(self, *options, name="run", steps=30, preflight=None, **environment):
        """Submit a run of 2 nodes x 1 rank; returns a Job."""
        out = self.folder / name
        (out / "recipes").mkdir(parents=True, exist_ok=True)
        (out / "recipes" / "train.py").write_text(RUN)
        (out / "machine.yaml").write_text(MACHINE)
        (out / ".venv").mkdir(exist_ok=True)
        if not (out / ".venv" / "bin").exists():
            (out / ".venv" / "bin").symlink_to(ROOT / ".venv" / "bin")
        if preflight:
            (out / "recipes" / "preflight.py").write_text(preflight)
        argv = ["sbatch", "--parsable", f"--output={out}/job.log", "--cpus-per-task=1", "--nodes=2", *options]
        argv += [str(SLURM), "machine.yaml", "recipes/train.py", "--out", str(out), "--steps", str(steps)]
        done = command(*argv, cwd=out, env=self.environment | environment, check=True)
        self.jobs.append(done.stdout.strip())
        return Job(self, done.stdout.strip(), out)

    @staticmethod
    def until(reached, seconds):
        end = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < end, "not reached"
            time.sleep(0.5)


class Job:
    def __init__(self, cluster, number, out):
        self.cluster, self.number, self.out = cluster, number, out

    def facts(self):
        said = self.cluster.slurm("scontrol", "show", "job", "-o", self.number).split()
        return dict(part.partition("=")[::2] for part in said)

    def log(self):
        return (self.out / "job.log").read_text() if (self.out / "job.log").exists() else ""

    def reach(self, step, seconds=90):
        file = self.out / "step"
        Cluster.until(lambda: file.is_file() and int(file.read_text() or 0) >= step, seconds)

    def end(self, state, seconds=180):
        """Wait until the job has the state, which it must not miss."""
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        Cluster.until(lambda: self.facts()["JobState"] in {state} | ends, seconds)
        assert self.facts()["JobState"] == state, self.log()

    def resume(self):
        """Slurm holds a requeued job back for two minutes."""
        Cluster.until(lambda: self.facts()["JobState"] == "PENDING", 120)
        assert not (self.out / "complete").exists()
        self.cluster.slurm("scontrol", "update", f"JobId={self.number}", "StartTime=now")
        self.cluster.slurm("scontrol", "release", self.number)

    def counted(self):
        return json.loads((self.out / "state.json").read_text())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if os.geteuid():
        pytest.skip("needs root, for network namespaces")
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))):
        install = ["apt-get", "install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        if not shutil.which("apt-get") or command(*install, env=quiet).returncode:
            pytest.skip("slurm-wlm and munge cannot be installed here")
    started = Cluster(Path(tmp_path_factory.mktemp("slurm")))
    try:
        started.start()
        yield started
    finally:
        started.stop()


def test_a_run_of_two_nodes_with_typed_gpus_completes(cluster):
    job = cluster.submit("--gpus-per-node=h100:1", name="plain", steps=4)
    job.end("COMPLETED")
    assert job.counted() == [0] * 4 and not list(job.out.glob(".multinode-*"))


def test_a_preempted_job_with_grace_time_requeues_itself_and_resumes(cluster):
    job = cluster.submit("--gpus-per-node=1", name="preempted")
    job.reach(4)
    urgent = (
        "sbatch",
        "--parsable",
        "-p",
        "urgent",
        "-N2",
        "--exclusive",
        "-o",
        "/dev/null",
        "--wrap",
        "sleep 5",
    )
    cluster.jobs.append(cluster.slurm(*urgent).strip())
    job.resume()
    assert "returns to the queue" in job.log() and job.facts()["Restarts"] == "1"
    job.end("COMPLETED", 240)
    counted = job.counted()
    assert len(counted) == 30 and set(counted) == {0, 1} and counted == sorted(counted)


def test_a_job_at_its_time_limit_requeues_itself_and_resumes(cluster):
    job = cluster.submit("--gpus-per-node=1", "--time=3", "--signal=B:USR1@80", name="limit", steps=400)
    job.reach(2)
    job.resume()
    assert job.facts()["Restarts"] == "1" and 2 <= len(job.counted()) < 400
    cluster.slurm("scancel", "--signal=KILL", "--full", job.number)  # or the next job waits for its nodes
    cluster.slurm("scancel", job.number)


def test_a_requeued_job_resumes(cluster):
    job = cluster.submit("--gpus-per-node=1", name="requeued", steps=20)
    job.reach(4)
    cluster.slurm("scontrol", "requeue", job.number)
    job.resume()
    job.end("COMPLETED", 240)
    assert len(job.counted()) == 20 and set(job.counted()) == {0, 1}


def test_a_cancelled_job_saves_and_does_not_come_back(cluster):
    job = cluster.submit("--gpus-per-node=1", name="cancelled")
    job.reach(4)
    cluster.slurm("scancel", job.number)
    job.end("CANCELLED")
    time.sleep(5)
    assert job.facts()["JobState"] == "CANCELLED" and 4 <= len(job.counted()) < 30


def test_a_killed_rank_fails_the_job_and_a_sentence_ends_the_log(cluster):
    job = cluster.submit("--gpus-per-node=1", name="killed")
    job.reach(4)
    ranks = command("pgrep", "-f", f"^[^ ]*python[^ ]* -u recipes/train.py --out {job.out}").stdout.split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    job.end("FAILED")
    assert job.log().splitlines()[-1].startswith("error: a rank was killed or failed")


def test_gpus_that_are_no_gres_are_asked_for_in_one_sentence(cluster):
    no_gres = ("--gpus-per-node=0", "--exclusive=user")  # --exclusive alone gives all that a node has
    job = cluster.submit(*no_gres, name="unset", steps=3)
    job.end("FAILED")
    assert "GPUS_PER_NODE=8 sbatch" in job.log() and not (job.out / "step").exists()
    named = cluster.submit(*no_gres, name="named", steps=3, GPUS_PER_NODE="1")
    named.end("COMPLETED")


def test_a_failed_preflight_is_the_last_line(cluster):
    refuse = "import sys; sys.exit('error: precision failed. Next: dtype float32')"
    job = cluster.submit("--gpus-per-node=1", name="refused", preflight=refuse)
    job.end("FAILED")
    assert job.log().splitlines()[-1] == "error: precision failed. Next: dtype float32"
    assert not (job.out / "step").exists()


def test_a_node_stopped_while_it_starts_stops_the_other(cluster):
    job = cluster.submit("--gpus-per-node=1", name="early", preflight="import time; time.sleep(40)")
    launchers = f"pgrep -f 'accelerate launch .*--machine_rank 1 .*{job.out}'"
    cluster.until(lambda: subprocess.run(launchers, shell=True, capture_output=True).stdout, 60)
    time.sleep(3)
    shell = command("pgrep", "-f", f"^/?.*bash -c .*node recipes/train.py --out {job.out}").stdout.split()
    assert len(shell) >= 2
    os.kill(int(shell[-1]), signal.SIGTERM)
    for pid in subprocess.run(launchers, shell=True, capture_output=True, text=True).stdout.split():
        if Path(f"/proc/{pid}").exists():
            os.kill(int(pid), signal.SIGTERM)
    job.resume()
    assert "returns to the queue" in job.log()
