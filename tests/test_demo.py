"""The demo's driver: what makes a stage stale, what is skipped or resumed, and what a failure says."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import demo


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the code, to edit; fingerprints() of it."""
    for room in ("data_prep", "evaluation", "recipes", "accelerate_configs"):
        shutil.copytree(demo.ROOT / room, tmp_path / room)
    shutil.copy(demo.ROOT / "requirements.txt", tmp_path)
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    content = demo.content.__wrapped__
    read = cache(lambda path, text: content(path))  # parses again only the file that was edited
    monkeypatch.setattr(demo, "content", lambda path: read(path, path.read_bytes()))
    monkeypatch.setattr(demo, "beside", demo.beside.__wrapped__)
    return tmp_path


def changed(path, line):
    """The names of the stages that a line more in a file makes stale."""
    before = demo.fingerprints(demo.STAGES)
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}{line}\n", encoding="utf-8")
    after = demo.fingerprints(demo.STAGES)
    path.write_text(text, encoding="utf-8")
    return {name for name in before if before[name] != after[name]}


@pytest.mark.guarantee(
    "Files", "A stage of the demo is redone when what it reads has changed, and only then."
)
def test_what_makes_a_stage_stale(copy):
    assert not changed(copy / "data_prep/benchmarks/medqa.py", "# a comment")
    stale = changed(copy / "data_prep/benchmarks/medqa.py", "NEW = 1")
    assert {"tasks", "clean", "backbone", "report"} <= stale and not stale & {"raw", "documents"}
    stale = changed(copy / "data_prep/clean_documents.py", "NEW = 1")
    assert {"clean", "blocks", "foundation"} <= stale and not stale & {"documents", "tasks", "instructions"}
    stale = changed(copy / "evaluation/scoring/compare.py", "NEW = 1")
    assert {"forgetting", "ablation", "report"} <= stale and not stale & {"foundation", "chat"}
    stale = changed(copy / "evaluation/reporting/report.html", "<p>")
    assert "report" in stale and not stale & {"chat", "evaluation_chat"}
    assert changed(copy / "evaluation/gates/demo.yaml", "#") == {"forgetting", "report", "release"}
    assert changed(copy / "recipes/configs/demo_task.yaml", "#") == {"task", "evaluation_task", "report"}
    assert changed(copy / "requirements.txt", "#") == {stage.name for stage in demo.STAGES}


def test_every_stage_reads_what_an_earlier_one_makes():
    check_chain(demo.STAGES + demo.FULL)


def check_chain(stages, given=()):
    """Every folder that a command names is made by its stage, by one before it, or is given."""
    made, known = [], {stage.name: stage for stage in stages}
    for stage in stages:
        for name in stage.after.split():
            assert name in [earlier.name for earlier in made], f"{stage.name} reads {name}"
        before, todo = set(), set(stage.after.split())
        while todo:
            before.add(name := todo.pop())
            todo |= set(known[name].after.split()) - before
        own = stage.makes.split()
        readable = own + [folder for name in before for folder in known[name].makes.split()]
        for word in (word.split("=")[-1] for command in stage.commands() for word in command):
            if word.startswith(("data/", "outputs/")) and not word.startswith(tuple(given)):
                nested = any(f"{word}/".startswith(f"{folder}/") for folder in readable)
                around = any(f"{folder}/".startswith(f"{word}/") for folder in readable)
                assert nested or around, f"{stage.name} names {word}, which no stage before it makes"
        made.append(stage)


def stage(name, code, after=""):
    return demo.Stage(name, f"the {name}", 1, f"outputs/{name}", after, f'python -c "{code}"')


def make(name, more="pass"):
    folder = f"outputs/{name}"
    return f"import os; os.makedirs('{folder}', exist_ok=True); open('{folder}/log', 'a').write('x'); {more}"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begun(capsys):
    return [line.split()[1].rstrip(":") for line in capsys.readouterr().out.splitlines()]


def test_what_is_done_is_skipped_and_what_is_missing_is_made(elsewhere, capsys):
    stages = [stage("a", make("a")), stage("b", make("b"), "a"), stage("c", make("c"), "a b")]
    demo.run(stages, jobs=2)
    assert begun(capsys) == ["a", "b", "c"]
    demo.run(stages, jobs=2)
    assert begun(capsys) == []
    shutil.rmtree("outputs/b")
    demo.run(stages, jobs=2)
    assert begun(capsys) == ["b"]
    stages[1] = stage("b", make("b", "print(1)"), "a")
    demo.run(stages, jobs=2)
    assert begun(capsys) == ["b", "c"]
    assert (elsewhere / "outputs/b/log").read_text() == "x", "a changed stage begins in an empty folder"


def test_independent_stages_run_side_by_side(elsewhere):
    wait = "import time; [time.sleep(0.01) for _ in range(1000) if not os.path.exists('outputs/{0}')]; "
    wait += "open('outputs/{0}/log')"
    demo.run([stage("a", make("a", wait.format("b"))), stage("b", make("b", wait.format("a")))], jobs=2)


def test_an_interrupted_stage_resumes(elsewhere, capsys):
    stages = [stage("a", make("a", "print('to the log'); os.path.exists('ready') or 1 / 0"))]
    with pytest.raises(SystemExit, match="error: stage a failed. Next: read outputs/demo/log/a.log"):
        demo.run(stages, jobs=2)
    assert "ZeroDivisionError" in capsys.readouterr().err
    (elsewhere / "ready").touch()
    demo.run(stages, jobs=2)
    assert (elsewhere / "outputs/a/log").read_text() == "xx", "it found what it had written"
    assert "to the log" in (elsewhere / "outputs/demo/log/a.log").read_text()


FORK = """
import demo, sys
demo.load_torch = lambda log: True
stage = demo.Stage("a", "the a", 1, "outputs/a", "", f"python recipes/my.py --what {sys.argv[1]}")
demo.run([stage], jobs=1)
"""
FORKED = """
import os, sys
import beside
assert __name__ == "__main__" and sys.modules["__main__"].what == sys.argv[2]
"""


@pytest.mark.parametrize(
    "end, status, printed",
    [
        ("os.makedirs('outputs/a')", 0, ""),
        ("sys.exit('error: a sentence')", 1, "error: a sentence"),
        ("sys.excepthook = lambda *error: print('one sentence', flush=True); 1 / 0", 1, "one sentence"),
        ("print('no such model', flush=True); sys.exit(75)", 0, "no such model"),
        ("os.kill(os.getpid(), 9)", 1, "stage a failed"),
    ],
)
def test_a_forked_command_is_the_command(elsewhere, end, status, printed):
    """It sees its arguments, the modules beside it and __main__; its end is that of a process of its own."""
    (elsewhere / "recipes").mkdir()
    (elsewhere / "recipes/beside.py").touch()
    (elsewhere / "recipes/my.py").write_text(f"what = 'it'{FORKED}{end}")
    ended = subprocess.run(
        [sys.executable, "-c", FORK, "it"],
        env=os.environ | {"PYTHONPATH": str(demo.ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == status and printed in ended.stdout + ended.stderr
    assert Path("outputs/demo/.stages/a.json").exists() == (not status and not printed)


def test_a_stage_is_run_with_those_before_it_alone(capsys):
    demo.main(["foundation", "--list"])
    named = [
        line.split(":")[0].lstrip("# ") for line in capsys.readouterr().out.splitlines() if line[:1] == "#"
    ]
    assert named == [
        "raw",
        "documents",
        "tasks",
        "clean",
        "tokenizer",
        "general_blocks",
        "blocks",
        "backbone",
        "foundation",
    ]
    with pytest.raises(SystemExit):
        demo.main(["fundation"])
