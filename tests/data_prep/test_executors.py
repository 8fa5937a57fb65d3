"""The engine runs units on every executor, survives a killed worker and a killed build, and never takes stale output for done."""

import gzip
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep import build_blocks, build_documents
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


def fake_slurm(folder: Path, monkeypatch):
    """sbatch, srun and scontrol that run the array's tasks one after the other, as `sbatch --wait` does."""
    programs = {
        "sbatch": 'echo "Submitted batch job 7"\nfor last; do :; done\ngrep -q "^#SBATCH --wait$" $last || exit 9\n'
        "n=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' $last)\nstatus=0\n"
        "for i in $(seq 0 $n); do env -u PYTHONPATH SLURM_ARRAY_TASK_ID=$i SLURM_NODELIST=n1 bash $last >> "
        f"{folder}/slurm.log 2>&1 || status=1; done\nexit $status",
        "srun": 'while [ $# -gt 0 ] && [ "$1" != launch_pickled_pipeline ]; do shift; done\nexec "$@"',
        "scontrol": "echo n1",
    }
    for name, script in programs.items():
        (folder / "bin").mkdir(exist_ok=True)
        path = folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def test_slurm_runs_the_same_units_on_nodes_that_know_nothing(tmp_path, monkeypatch):
    fake_slurm(tmp_path, monkeypatch)
    (tmp_path / "c.yaml").write_text("partition: cpu\ntime: '1:00:00'\ntasks_per_job: 2\nqos: null\n")
    facts = executors.run(RUN, units(tmp_path, 3), tmp_path / "w", f"slurm:{tmp_path / 'c.yaml'}")
    assert [fact["number"] for fact in facts] == [0, 1, 2], (tmp_path / "slurm.log").read_text()[-2000:]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    with pytest.raises(BadInput, match="cannot run inside one"):
        executors.run(RUN, units(tmp_path, 4), tmp_path / "w", f"slurm:{tmp_path / 'c.yaml'}")


def test_ray_runs_the_same_units(tmp_path):
    pytest.importorskip("ray", reason="ray is not installed; it is no part of requirements.txt")
    facts = executors.run(RUN, units(tmp_path, 3), tmp_path / "w", "ray:2")
    assert [fact["number"] for fact in facts] == [0, 1, 2]


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


@pytest.mark.guarantee("Corpus", "A build that is killed at any moment goes on to the same bytes.")
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
    """An error inside a step is logged with its traceback by datatrove; the values of variables must not be in it."""
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
    "The training order is a function of manifest and seed alone, and the blocks do not depend on the number of workers.",
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
