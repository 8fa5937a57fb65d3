"""Units run on every executor, a killed worker or build is survived, and stale output is never taken for
done."""

import gzip
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep import build_blocks, build_documents, clean_documents, files
from data_prep.corpus import executors
from data_prep.files import sha256
from data_prep.schema import BadInput

ROOT = Path(__file__).resolve().parents[2]
RUN = "tests.data_prep.test_executors:write_number"


def write_number(folder, number, die_once=False, bad=False):
    """A unit: writes NUMBER.txt, and says which process did it."""
    folder = Path(folder)
    if die_once and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if bad:
        raise BadInput(f"{folder}/raw_{number}: cannot be read")
    (folder / f"{number}.txt").write_text(str(number))
    return {"number": number, "process": os.getpid()}


def units(folder, count=5, **changes):
    return [
        {"name": f"part/{i}", "folder": str(folder), "number": i, **changes.get(str(i), {})}
        for i in range(count)
    ]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_done_units_are_not_done_again_and_changed_ones_are(tmp_path):
    first = executors.run(RUN, units(tmp_path, 3), tmp_path / "w")
    assert [fact["number"] for fact in first] == [0, 1, 2]
    (tmp_path / "1.txt").unlink()
    assert (
        executors.run(RUN, units(tmp_path, 4), tmp_path / "w")[:3] == first
        and not (tmp_path / "1.txt").exists()
    ), "results are kept"
    changed = [{**unit, "number": unit["number"] + 10} for unit in units(tmp_path, 3)]
    assert [fact["number"] for fact in executors.run(RUN, changed, tmp_path / "w")] == [10, 11, 12], (
        "and never for another setting"
    )


def test_a_killed_worker_is_noticed_and_its_share_done_again(tmp_path, capfd):
    facts = executors.run(RUN, units(tmp_path, 4, **{"2": {"die_once": True}}), tmp_path / "w", "local:2")
    assert [fact["number"] for fact in facts] == [0, 1, 2, 3] and os.getpid() not in {
        fact["process"] for fact in facts
    }
    assert "a worker was killed" in capfd.readouterr().err


def test_every_bad_unit_is_reported_and_the_good_ones_are_kept(tmp_path):
    bad = units(tmp_path, 4, **{"1": {"bad": True}, "3": {"bad": True}})
    with pytest.raises(BadInput, match="raw_1: cannot be read .and 1 more like it"):
        executors.run(RUN, bad, tmp_path / "w")
    assert (tmp_path / "2.txt").exists()


@pytest.mark.parametrize("given", ["local:0", "local:many", "ray:", "cluster:3", "slurm:gone.yaml"])
def test_a_wrong_executor_is_named(tmp_path, given):
    with pytest.raises(BadInput, match=f"--executor {given}|not installed"):
        executors.run(RUN, units(tmp_path, 1), tmp_path / "w", given)


def test_slurm_settings_are_checked(tmp_path):
    (tmp_path / "c.yaml").write_text("partition: cpu\ntime: '1:00:00'\nmemory: 3\n")
    with pytest.raises(BadInput, match="unknown key 'memory'"):
        executors.read_cluster(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_text("partition: cpu\n")
    with pytest.raises(BadInput, match="time: missing, must be text in quotes"):
        executors.read_cluster(str(tmp_path / "c.yaml"))
    assert executors.read_cluster(str(ROOT / "data_prep" / "slurm_example.yaml"))["mem_per_cpu_gb"] == 4


def fake_slurm(folder: Path, monkeypatch, tasks_per_job=4):
    """sbatch, srun, scontrol, squeue and scancel that run the tasks of an array one after the other."""
    queued, log = folder / "queued", folder / "slurm.log"
    programs = {
        "sbatch": f"""
for last; do :; done
env > {folder}/submitted_with
cp $last {folder}/script
touch {queued}
n=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' $last)
(for i in $(seq 0 $n); do
   env -u PYTHONPATH SLURM_ARRAY_TASK_ID=$i SLURM_NODELIST=n1 bash {folder}/script
   sleep 0.3
 done; rm -f {queued}) >> {log} 2>&1 < /dev/null &
echo "Submitted batch job 7"
""",
        "srun": 'while [ $# -gt 0 ] && [ "$1" != launch_pickled_pipeline ]; do shift; done\nexec "$@"',
        "scontrol": "echo n1",
        "squeue": (
            f"[ -e {queued} ] && echo 7_0 R && exit\necho 'error: Invalid job id specified' >&2\nexit 1"
        ),
        "scancel": f"rm -f {queued}; echo cancelled $1 >> {log}",
    }
    (folder / "bin").mkdir(exist_ok=True)
    for name, script in programs.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(executors, "POLL_SECONDS", 0.2)
    (folder / "c.yaml").write_text(f"partition: cpu\ntime: '1:00:00'\ntasks_per_job: {tasks_per_job}\n")
    return f"slurm:{folder / 'c.yaml'}"


def test_slurm_runs_the_same_units_on_nodes_that_know_nothing(tmp_path, monkeypatch, capsys):
    slurm = fake_slurm(tmp_path, monkeypatch, tasks_per_job=2)
    monkeypatch.setenv("PYTHONPATH", "/a/module")
    job = {"MEM_PER_NODE": "4096", "MEM_PER_CPU": "1", "NTASKS_PER_NODE": "8", "CPU_BIND": "x", "JOB_ID": "5"}
    for name, value in (job | {"CONF": "/etc/slurm.conf"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    facts = executors.run(RUN, units(tmp_path, 3), tmp_path / "w", slurm)
    assert [fact["number"] for fact in facts] == [0, 1, 2], (tmp_path / "slurm.log").read_text()[-2000:]
    passed = re.findall("^SLURM_.*", (tmp_path / "submitted_with").read_text(), re.MULTILINE)
    assert passed == ["SLURM_CONF=/etc/slurm.conf"], "and nothing of the job around this one"
    assert f"export PYTHONPATH={ROOT}:/a/module" in (tmp_path / "script").read_text()
    assert "Slurm job 7: 3 of 3 units done, 0 failed" in capsys.readouterr().out
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    with pytest.raises(BadInput, match="cannot run inside one"):
        executors.run(RUN, units(tmp_path, 4), tmp_path / "w", slurm)


def test_failures_on_slurm_are_shown_as_they_come(tmp_path, monkeypatch, capsys):
    slurm = fake_slurm(tmp_path, monkeypatch)
    with pytest.raises(BadInput, match="raw_1: cannot be read"):
        executors.run(RUN, units(tmp_path, 4, **{"1": {"bad": True}}), tmp_path / "w", slurm)
    printed = capsys.readouterr()
    assert "Slurm job 7: " in printed.err and "raw_1: cannot be read" in printed.err
    assert "3 of 4 units done, 1 failed" in printed.out


@pytest.mark.guarantee(
    "Corpus", "An array that an interrupted build left in the queue is waited for, not run twice."
)
def test_an_array_that_was_left_in_the_queue_is_waited_for(tmp_path, monkeypatch, capsys):
    slurm = fake_slurm(tmp_path, monkeypatch)

    def killed(*given):
        raise SystemExit("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(executors, "_wait", killed)
        executors.run(RUN, units(tmp_path, 3), tmp_path / "w", slurm)
    facts = executors.run(RUN, units(tmp_path, 3), tmp_path / "w", slurm)
    assert "Slurm job 7 of an earlier run is still in the queue" in capsys.readouterr().out
    assert [fact["number"] for fact in facts] == [0, 1, 2] and not (
        tmp_path / "w/write_number/array"
    ).exists()
    assert len(list((tmp_path / "w/write_number/logs").iterdir())) == 1, "one array did all"


def test_ctrl_c_cancels_the_array(tmp_path, monkeypatch):
    slurm = fake_slurm(tmp_path, monkeypatch)

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(executors.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        executors.run(RUN, units(tmp_path, 3), tmp_path / "w", slurm)
    assert "cancelled 7" in (tmp_path / "slurm.log").read_text()


def test_ray_runs_the_same_units(tmp_path):
    pytest.importorskip("ray", reason="ray is not installed; it is no part of requirements.txt")
    facts = executors.run(RUN, units(tmp_path, 3), tmp_path / "w", "ray:2")
    assert [fact["number"] for fact in facts] == [0, 1, 2]


# ---------------------------------------------------------------- what makes a unit stale
@pytest.fixture
def house(tmp_path, monkeypatch):
    """A copy of data_prep whose files can be edited."""
    shutil.copytree(
        ROOT / "data_prep", tmp_path / "house" / "data_prep", ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(executors, "ROOT", tmp_path / "house")
    return tmp_path / "house" / "data_prep"


def code(module: str) -> str:
    executors.code.cache_clear()
    return executors.code(f"data_prep.{module}")


STAGES = ("build_documents", "clean_documents", "build_blocks", "sources.pubmed", "sources.pmc")


@pytest.mark.guarantee("Corpus", "A stage is stale when the code that it reads changes, and only then.")
@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("benchmarks/medqa.py", "", "# a comment\n", ()),
        ("benchmarks/medqa.py", "", "NEW = 1\n", ()),
        ("corpus/cleaning.py", '"""Cleaning', '"""The cleaning', ()),
        ("corpus/cleaning.py", "words: int = 15", "words: int = 16", ("clean_documents",)),
        ("corpus/tokenize.py", "LONG = 1", "LONG = 2", ("build_blocks",)),
        ("sources/pubmed.py", "", "NEW = 1\n", ("sources.pubmed",)),
        ("sources/xml_text.py", "", "NEW = 1\n", ("sources.pubmed", "sources.pmc")),
        ("files.py", "LEVEL = 3", "LEVEL = 4", STAGES),
    ],
)
def test_a_stage_is_stale_when_the_code_that_it_reads_changes(house, file, old, new, stale):
    before = {stage: code(stage) for stage in STAGES}
    content = (house / file).read_text()
    assert old in content
    (house / file).write_text(content.replace(old, new, 1) if old else content + new)
    assert tuple(stage for stage in STAGES if code(stage) != before[stage]) == stale


def test_a_unit_is_done_again_when_its_own_code_changes(tmp_path):
    facts = [
        executors.run(RUN, [unit | {"code": code} for unit in units(tmp_path, 1)], tmp_path / "w")
        for code in ("one", "one", "two")
    ]
    assert facts[0] == facts[1] == facts[2]
    result = json.loads((tmp_path / "w/write_number/part%2F0.json").read_text())
    marks = {
        executors.fingerprint(["tests.data_prep.test_executors"], RUN, units(tmp_path, 1)[0] | {"code": c})
        for c in ("one", "two")
    }
    assert len(marks) == 2 and result["fingerprint"] in marks


# ---------------------------------------------------------------- a whole build
def raw_files(folder, lines=400):
    """Six RedPajama files, one of which is slow to read."""
    for number in range(6):
        path = folder / f"part{number}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "".join(
                json.dumps({"text": f"line {i} of file {number} " + "some words " * (i % 40)}) + "\n"
                for i in range(lines * (1 + 20 * (number == 3)))
            )
        )
    return folder


def hashes(folder):
    return {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".identity"
    }


@pytest.mark.guarantee("Corpus", "A build killed at any moment resumes and ends in the same bytes.")
def test_a_build_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path):
    raw, code = (
        raw_files(tmp_path / "raw"),
        "import sys; from data_prep.build_documents import main; main(sys.argv[1:])",
    )
    command = [sys.executable, "-c", code, "--source", f"redpajama={raw}", "--executor", "local:2", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    for number, wait in enumerate((1.5, 3.0, 4.0)):
        running = subprocess.Popen(
            [*command, str(tmp_path / "out")], env=environment, stderr=subprocess.PIPE, start_new_session=True
        )
        time.sleep(wait)
        if running.poll() is None:
            os.killpg(
                running.pid, signal.SIGKILL
            ) if number else running.kill()  # the whole group, and the parent alone
        running.wait()
    subprocess.run([*command, str(tmp_path / "out")], check=True, env=environment, capture_output=True)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    assert not list(tmp_path.glob(".out*")), "nothing is left beside it"


def test_a_finished_build_is_not_made_again_and_a_changed_one_is(tmp_path, capsys):
    raw = raw_files(tmp_path / "raw", lines=3)
    build_documents.build([("redpajama", raw)], tmp_path / "out")
    before = (tmp_path / "out" / "redpajama").stat().st_mtime_ns
    build_documents.build([("redpajama", raw)], tmp_path / "out")
    assert (
        "already complete" in capsys.readouterr().out
        and (tmp_path / "out" / "redpajama").stat().st_mtime_ns == before
    )
    (raw / "part6.jsonl").write_text('{"text": "one more"}\n')
    (raw / "part0.jsonl").unlink()
    manifest = build_documents.build([("redpajama", raw)], tmp_path / "out")
    assert len(manifest["outputs"]) == 6 and len(list((tmp_path / "out" / "redpajama").iterdir())) == 6, (
        "and nothing of the older one stays"
    )


def test_an_unfinished_build_with_other_inputs_keeps_what_is_still_true(tmp_path):
    raw = raw_files(tmp_path / "raw", lines=3)
    (raw / "part9.jsonl.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(BadInput, match="part9.jsonl.gz"):
        build_documents.build([("redpajama", raw)], tmp_path / "out")
    work = tmp_path / ".out.partial" / ".work" / "documents" / "redpajama"
    done = {name: (work / name).stat().st_mtime_ns for name in ("part0.jsonl.gz", "part1.jsonl.gz")}
    (raw / "part9.jsonl.gz").unlink()
    (raw / "part0.jsonl").write_text('{"text": "changed"}\n')
    manifest = build_documents.build([("redpajama", raw)], tmp_path / "out")
    assert [entry["records"] for entry in manifest["outputs"]][0] == 1 and len(manifest["outputs"]) == 6
    changed = [
        name for name in done if (tmp_path / "out" / "redpajama" / name).stat().st_mtime_ns != done[name]
    ]
    assert changed == ["part0.jsonl.gz"], "the other was taken over as it was"


def test_a_file_from_which_repeated_ids_went_is_made_anew_when_it_changes_and_when_it_changes_back(
    tmp_path, monkeypatch
):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.jsonl").write_text('{"text": "one"}\n')
    contents = [
        '{"text": "one"}\n{"text": "two"}\n',
        '{"text": "one"}\n{"text": "three"}\n',
        '{"text": "four"}\n',
        '{"text": "one"}\n{"text": "two"}\n',
    ]

    def stopped(*given, **more):
        raise BadInput("stopped before the end")

    for content in contents:
        (raw / "b.jsonl").write_text(content)
        os.utime(raw / "b.jsonl", (1, 1))  # the last is the first again, byte for byte
        with monkeypatch.context() as patch, pytest.raises(BadInput, match="stopped before"):
            patch.setattr(build_documents, "write_manifest", stopped)
            build_documents.build([("redpajama", raw)], tmp_path / "out")
        written = gzip.decompress(
            (tmp_path / ".out.partial" / "redpajama" / "b.jsonl.gz").read_bytes()
        ).decode()
        assert [json.loads(line)["text"] for line in written.splitlines()] == [
            t for t in re.findall('": "([a-z]+)', content) if t != "one"
        ]


@pytest.mark.guarantee("Files", "A full disk is one sentence and loses nothing.")
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    raw = raw_files(tmp_path / "raw", lines=3)

    def full(path, records):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(build_documents, "write_jsonl", full)
        with pytest.raises(SystemExit, match="error: .*No space left on device.*kept for the next run"):
            build_documents.main(["--source", f"redpajama={raw}", "--out", str(tmp_path / "out")])
    assert build_documents.build([("redpajama", raw)], tmp_path / "out")["outputs"]


@pytest.mark.guarantee("Credentialed data", "Errors and progress lines name ids, not text.")
def test_logs_hold_no_text(tmp_path, monkeypatch):
    """An error inside a step is logged with its traceback by datatrove; the values of variables must not be
    in it."""
    secret = "SECRET-NOTE-TEXT"
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.jsonl").write_text(json.dumps({"text": secret}) + "\n")

    def broken(document, where):
        raise RuntimeError("a bug")

    monkeypatch.setattr(build_documents, "check_document", broken)
    with pytest.raises(RuntimeError):
        build_documents.build([("redpajama", raw)], tmp_path / "out")
    logs = "".join(path.read_text() for path in (tmp_path / ".out.partial").rglob("*.log"))
    assert "a bug" in logs and secret not in logs


@pytest.mark.guarantee(
    "Corpus",
    "The training order is a function of manifest and seed alone, and the blocks do not depend on the number "
    "of workers.",
)
def test_blocks_do_not_depend_on_the_number_of_workers(tmp_path, monkeypatch):
    from data_prep.demo import backbone

    monkeypatch.setattr(build_blocks, "SHARD_CHARACTERS", 200_000)
    raw = raw_files(tmp_path / "raw")
    build_documents.build([("redpajama", raw)], tmp_path / "documents")
    backbone.main(
        [
            "--documents",
            str(tmp_path / "documents"),
            "--out",
            str(tmp_path / "backbone"),
            "--vocab_size",
            "400",
        ]
    )
    mixture = {
        "block_length": 64,
        "tokens": "one_pass",
        "ratio": "as_found",
        "fill": "best_fit",
        "validation_share": 0.1,
        "seed": 0,
    }
    one, two = tmp_path / "one", tmp_path / "two"
    manifests = [
        build_blocks.build(tmp_path / "documents", str(tmp_path / "backbone"), mixture, out, executor)
        for out, executor in ((one, "local"), (two, "local:2"))
    ]
    assert manifests[0] == manifests[1] and hashes(one) == hashes(two) and len(manifests[0]["outputs"]) > 2
    assert re.fullmatch("[0-9a-f]{64}", manifests[0]["outputs"][0]["ids_sha256"])


# ---------------------------------------------------------------- faults
def test_workers_end_with_a_killed_parent(tmp_path):
    raw = raw_files(tmp_path / "raw", lines=4000)
    code = "import sys; from data_prep.build_documents import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "--source", f"redpajama={raw}", "--executor", "local:2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], env=environment, stderr=subprocess.PIPE
    )
    while not list(tmp_path.rglob("*.partial.gz")) and running.poll() is None:  # until a worker is at work
        time.sleep(0.1)
    workers = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.kill()
    running.wait()
    deadline = time.time() + 30
    while time.time() < deadline and any(map(is_worker, workers)):
        time.sleep(0.1)
    assert workers and not [pid for pid in workers if is_worker(pid)]


def is_worker(pid: str) -> bool:
    """Whether a process runs and is a worker, and not another process with a number that was used again."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.guarantee("Files", "Of two builds of one folder the second is refused at once.")
def test_the_second_of_two_builds_is_refused_at_once_and_a_dead_one_is_taken_over(tmp_path):
    holder = (
        "import sys, time; from data_prep.files import whole_folder\nwith "
        "whole_folder(sys.argv[1]): print(1, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "out")], env=environment, stdout=subprocess.PIPE
    )
    first.stdout.readline()
    with (
        pytest.raises(BadInput, match=f"out: process {first.pid} on .* is writing it"),
        files.whole_folder(tmp_path / "out"),
    ):
        pass
    first.kill()
    first.wait()
    with files.whole_folder(tmp_path / "out") as folder:
        (folder / "manifest.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_lock_of_another_machine_holds_while_it_is_touched(tmp_path):
    lock = tmp_path / ".out.lock"
    lock.write_text(json.dumps({"host": "node7", "container": "", "pid": 12, "started": "3"}))
    with (
        pytest.raises(BadInput, match="process 12 on node7 is writing it"),
        files.whole_folder(tmp_path / "out"),
    ):
        pass
    os.utime(lock, (time.time() - 2 * files.LOCK_STALE,) * 2)
    with files.whole_folder(tmp_path / "out"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


@pytest.mark.parametrize("resumable", [True, False])
@pytest.mark.guarantee("Files", "A kill while a finished folder takes its name loses nothing.")
def test_a_kill_between_the_two_renames_is_made_good_by_the_next_build(tmp_path, resumable):
    out, replace = tmp_path / "out", os.replace

    def build(content):
        with files.resumable_folder(out, content) if resumable else files.whole_folder(out) as partial:
            (partial / "manifest.json").write_text(content)

    def dies_after(source, target):
        replace(source, target)
        if Path(source) == out:
            os.kill(os.getpid(), signal.SIGKILL)

    build("old")
    if not (child := os.fork()):
        os.replace = dies_after
        build("new")
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL and not out.exists()
    files.check_out(out)  # which a command calls before it reads its older output
    assert (out / "manifest.json").read_text() == "new"


@pytest.mark.guarantee("Files", "A raw file that was corrected with its size and time kept is noticed.")
def test_a_corrected_raw_file_of_the_same_size_and_time_is_noticed(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, text in (("a", "one"), ("b", "two")):
        (raw / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    source, out = [("redpajama", raw)], tmp_path / "out"
    build_documents.build(source, out)
    times = (raw / "b.jsonl").stat().st_mtime_ns
    os.utime(raw / "a.jsonl", ns=((raw / "a.jsonl").stat().st_mtime_ns,) * 2)  # touched, and the same
    build_documents.build(source, out)
    assert "already complete" in capsys.readouterr().out
    (raw / "b.jsonl").write_text(json.dumps({"text": "six"}) + "\n")
    os.utime(raw / "b.jsonl", ns=(times, times))
    build_documents.build(source, out)
    assert "b.jsonl: changed, with its size and time kept" in capsys.readouterr().out
    assert b"six" in gzip.decompress((out / "redpajama" / "b.jsonl.gz").read_bytes())
    build_documents.build(source, out)
    assert "already complete" in capsys.readouterr().out


@pytest.mark.guarantee("Files", "An output that was replaced, cut or edited after its build is noticed.")
def test_a_documents_file_replaced_by_a_shorter_whole_gzip_is_noticed(tmp_path, capsys):
    raw = raw_files(tmp_path / "raw", lines=3)
    source, out = [("redpajama", raw)], tmp_path / "documents"
    build_documents.build(source, out)
    file = out / "redpajama" / "part0.jsonl.gz"
    whole = file.read_bytes()
    file.write_bytes(gzip.compress(gzip.decompress(whole).splitlines(keepends=True)[0]))
    plan = {"cleaning": {"short": True}, "decontamination": None, "near_duplicates": None}
    with pytest.raises(BadInput, match="part0.jsonl.gz: not the file that its manifest lists"):
        clean_documents.build(out, None, plan, tmp_path / "clean")
    build_documents.build(source, out)
    assert "part0.jsonl.gz: changed after the build" in capsys.readouterr().out
    assert file.read_bytes() == whole


def test_hashes_in_a_manifest_are_those_on_the_disk(tmp_path):
    raw = raw_files(tmp_path / "raw", lines=3)

    def keep_and_damage(folder, paths):
        (folder / paths[0]).write_bytes(gzip.compress(b"{}\n"))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(BadInput, match="changed after it was written"):
        patch.setattr(build_documents, "keep_only", keep_and_damage)
        build_documents.build([("redpajama", raw)], tmp_path / "out")


def test_an_unforeseen_error_about_credentialed_text_quotes_none_of_it(monkeypatch):
    monkeypatch.setattr(executors.egress, "agreements", lambda: ["PhysioNet"])
    step = executors.Units("tests.data_prep.test_executors:quote", [({"name": "a"}, "m")], "/tmp")
    step.terms = []
    with pytest.raises(RuntimeError) as raised:
        step.run()
    assert "SECRET" not in str(raised.value) and "a: ValueError, in " in str(raised.value)
    assert raised.value.__suppress_context__


def quote():
    raise ValueError("SECRET-NOTE-TEXT")
