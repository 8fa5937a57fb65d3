"""Stages of data and evaluation, each killed at random moments and started again: every file of them, and the
report, are as if nothing had happened.

The training stages are killed in test_resume.py, and the whole demo, stage by stage, by `make fault-run`
(fault_run.py)."""

import hashlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest
import yaml

from data_prep import build_blocks, build_documents, build_instructions, build_tasks, clean_documents
from data_prep.files import write_jsonl
from evaluation import generate, report, score
from tests.data_prep.test_blocks import MIXTURE
from tests.data_prep.test_executors import raw_files
from tests.fault_run import same_files
from tests.tiny_model import REPO, make_model

STAGES = [
    ("documents", build_documents.main, ["--source", "redpajama=raw/redpajama", "--out", "documents"]),
    ("tasks", build_tasks.main, ["--raw", "raw", "--tasks", "medqa", "--out", "tasks"]),
    ("clean", clean_documents.main, ["--documents", "documents", "--rows", "tasks", "--plan", "plan.yaml", "--out", "clean"]),
    ("blocks", build_blocks.main, ["--documents", "clean", "--tokenizer", "one", "--mixture", "mixture.yaml", "--out", "blocks"]),
    ("instructions", build_instructions.main, ["--raw", "raw", "--sources", "dolly", "--out", "instructions"]),
    *((f"generate {name}", generate.main, ["--model", name, "--rows", "tasks", "--tasks", "medqa", "--preset", "chat", "--limit", "12",
       "--max_new_tokens", "8", "--batch_size", "2", "--allow_overlong", "--out", f"evaluation/{name}"]) for name in ("one", "two")),
    ("score", score.main, ["evaluation/one", "evaluation/two"]),
    ("report", report.main, ["--evaluation", "evaluation", "--out", "report"]),
]  # fmt: skip
TIMED = {"run.json", ".identity", "report.html", "report.md"}  # seconds or times of change are in them


FORKSERVER = multiprocessing.get_context(
    "forkserver"
)  # it imports, and never starts a thread that a fork would lose
FORKSERVER.set_forkserver_preload([__name__, "torch", "transformers", "lm_eval.models.huggingface"])


def run(folder, number, log):
    os.chdir(folder)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    STAGES[number][1](STAGES[number][2])


def start(folder, number):
    """A stage in a process of its own."""
    process = FORKSERVER.Process(target=run, args=(str(folder), number, f"{folder}.log"))
    process.start()
    return process


def hashes(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in TIMED]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    raw = raw_files(root / "begin" / "raw" / "redpajama", lines=10).parent
    words = ["fever", "cough", "pain", "liver", "heart", "lung", "kidney", "aspirin", "insulin", "statin"]
    for split, count in (("train", 20), ("dev", 5), ("test", 8)):
        questions = [
            {
                "question": f"Which is {a} of {b} in the {split} set?",
                "options": dict(zip("ABCDE", words[i % 5 :], strict=False)),
                "answer": words[i % 5 + 1],
                "answer_idx": "B",
            }
            for i, (a, b) in enumerate(itertools.islice(itertools.permutations(words, 2), count))
        ]
        write_jsonl(raw / "medqa" / "US" / f"{split}.jsonl", questions)
    answers = [
        {"instruction": f"Spell {word}.", "context": "", "response": "-".join(word)} for word in words * 3
    ]
    write_jsonl(raw / "dolly" / "databricks-dolly-15k.jsonl", answers)
    for seed, name in enumerate(("one", "two")):
        make_model(root / "begin" / name, seed=seed, positions=1024)
    shutil.copy(REPO / "data_prep" / "cleaning_plans" / "demo.yaml", root / "begin" / "plan.yaml")
    mixture = MIXTURE | {"ratio": {"general": 1}, "tokens": 3000}
    (root / "begin" / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    return root


@pytest.mark.guarantee("Files", "Stages killed at random moments end in the same report.")
def test_stages_killed_at_random_moments_end_in_the_same_report(begun):
    rng, kills = random.Random(0), 0
    for name in ("whole", "killed"):
        shutil.copytree(begun / "begin", begun / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(begun / "whole")
        for number, (_, main, arguments) in enumerate(STAGES):
            began = time.monotonic()
            main(arguments)
            seconds = min(time.monotonic() - began, 2)
            for _ in range(2):
                running = start(begun / "killed", number)
                running.join(rng.uniform(0, seconds))
                running.kill()
                running.join()
                kills += running.exitcode == -signal.SIGKILL
            last = start(begun / "killed", number)
            last.join(120)
            assert last.exitcode == 0, (begun / "killed.log").read_text()
    assert kills >= 4
    assert not list((begun / "killed").rglob(".*.partial*")), "nothing unfinished is left"
    assert hashes(begun / "killed") == hashes(begun / "whole")
    assert not same_files(begun / "whole" / "report", begun / "killed" / "report")
