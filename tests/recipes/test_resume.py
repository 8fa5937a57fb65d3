"""Killed in the middle of a step and started again: bit for bit the run that was never stopped. What is
damaged is not used, what is somebody else's is left alone, and nothing deletes whole checkpoints but
save_total_limit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from accelerate import skip_first_batches

from tests.lab import (
    PRETRAIN,
    SFT,
    TASK,
    copied,
    killed,
    ledger,
    logged,
    recipe,
    run_json,
    signalled,
    weights,
)

CHAT = SFT | {
    "max_steps": -1,
    "num_train_epochs": 2,
    "global_batch_size": 4,
    "lora_dropout": 0.2,
    "save_steps": 2,
    "save_total_limit": 1,
    "eval_strategy": "steps",
    "eval_steps": 3,
}
PACKED = {
    "packing": True,
    "attn_implementation": "torch_varlen",
    "max_length": 64,
    "global_batch_size": 2,
    "per_device_train_batch_size": 1,
    "save_steps": 3,
}
QUANTISED = {
    "model_name_or_path": "even",
    "load_in_4bit": True,
    "dtype": "bfloat16",
    "max_steps": 6,
    "save_steps": 4,
}
BY_EPOCH = {"max_steps": -1, "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 2}
RUNS = {  # recipe, config, micro-step at which it is killed, which is not the first after a checkpoint
    "pretrain": ("pretrain", PRETRAIN | {"per_device_train_batch_size": 1, "logging_steps": 3}, 9 * 4 + 2),
    "pretrain, 8-bit": (
        "pretrain",
        PRETRAIN
        | {"dtype": "bfloat16", "learning_rate": 1e-5, "optim": "adamw_torch_8bit", "max_steps": 8}
        | {"save_steps": 3, "optim_args": "bf16_stochastic_round=True"},
        8 * 2,
    ),
    "lora": ("sft", CHAT, 5 * 2 + 1),
    "lora, packed": ("sft", CHAT | PACKED, 4 * 2 + 1),
    # on a CPU bitsandbytes repacks its weights at the first evaluation, and computes otherwise from there
    "qlora": ("sft", CHAT | QUANTISED | {"eval_strategy": "no"}, 11),
    "length groups": (
        "sft",
        CHAT | {"train_sampling_strategy": "group_by_length", "save_strategy": "epoch"},
        7 * 2,
    ),
    "task": (
        "sft",
        TASK | BY_EPOCH | {"global_batch_size": 4, "logging_steps": 3, "num_train_epochs": 5},
        10 * 2 + 1,
    ),
}


@pytest.fixture(autouse=True)
def eager_optimizer(monkeypatch):
    """torchao compiles its step: a minute for each shape of weight on a CPU, and the same numbers."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.guarantee(
    "Training", "A killed run resumes to the same losses and weights, bit for bit, on a CPU."
)
def test_killed_and_resumed_is_the_same_run(lab, kind):
    name, config, micro_step = RUNS[kind]
    whole, cut = lab / f"{kind} whole", lab / f"{kind} killed"
    assert recipe(lab, name, config | {"output_dir": whole.name}) is None
    killed(lab, name, config | {"output_dir": cut.name}, micro_step)
    assert run_json(cut)["status"] == "running" and list(cut.glob("checkpoint-*/complete.json"))
    assert recipe(lab, name, config | {"output_dir": cut.name}) is None

    keys = ("loss", "learning_rate", "grad_norm", "tokens_seen")
    assert logged(cut, *keys) == logged(whole, *keys)
    assert same_weights(whole, cut)
    one, other = run_json(whole), run_json(cut)
    assert one["metrics"]["train_loss"] == other["metrics"]["train_loss"]
    assert [one[key] for key in ("tokens_seen", "steps", "best_metric")] == [
        other[key] for key in ("tokens_seen", "steps", "best_metric")
    ]
    assert len(other["sessions"]) == 2
    if name == "pretrain":
        assert ledger(cut) == ledger(whole) and one["ledger"] == other["ledger"], (
            "the same blocks in every step"
        )


@pytest.mark.guarantee(
    "Training", "A killed run resumes to the same losses and weights, bit for bit, on a CPU."
)
def test_sigkill_and_sigterm(lab):
    config = PRETRAIN | {"output_dir": "sigkill"}
    assert signalled(lab, "pretrain", config, 9 * 2 + 1, signal.SIGKILL).returncode == -signal.SIGKILL
    assert recipe(lab, "pretrain", config) is None
    config = PRETRAIN | {"output_dir": "sigterm", "save_steps": 100}
    done = signalled(lab, "pretrain", config, 5 * 2 + 1, signal.SIGTERM)
    assert (
        done.returncode == 1
        and "stopped by SIGTERM after step 6. Next: the same command resumes" in done.stderr
    )
    assert (lab / "sigterm" / "checkpoint-6" / "complete.json").is_file() and len(
        ledger(lab / "sigterm")
    ) == 6
    assert recipe(lab, "pretrain", config) is None
    for folder in ("sigkill", "sigterm"):
        assert logged(lab / folder, "loss", "grad_norm") == logged(lab / "base", "loss", "grad_norm")
        assert same_weights(lab / folder, lab / "base")


# ---------------------------------------------------------------- checkpoints
def cut_short(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])


def flipped(folder):
    content = bytearray((folder / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "optimizer.pt").write_bytes(content)


DAMAGE = {
    "complete.json": (lambda folder: (folder / "complete.json").unlink(), r"not whole \(no complete.json\)"),
    "cut short": (cut_short, "model.safetensors changed or cut short"),
    "a flipped bit": (flipped, "optimizer.pt changed or cut short"),
    "no scheduler": (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt missing"),
    "no random state": (lambda folder: (folder / "rng_state.pth").unlink(), "rng_state.pth missing"),
}


@pytest.fixture(scope="module")
def interrupted(lab):
    killed(lab, "pretrain", PRETRAIN | {"output_dir": "interrupted"}, 11 * 2)
    return lab / "interrupted"


def copy_of(run, name):
    """The same run in another folder: output_dir does not identify it."""
    return shutil.copytree(run, run.parent / name)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.guarantee(
    "Training", "A damaged checkpoint is passed over, in one sentence, for the newest whole one."
)
def test_a_damaged_checkpoint_is_passed_over(lab, interrupted, kind, capsys):
    damage, said = DAMAGE[kind]
    copy = copy_of(interrupted, f"damaged {kind}")
    damage(copy / "checkpoint-8")
    assert recipe(lab, "pretrain", PRETRAIN | {"output_dir": copy.name}) is None
    assert __import__("re").search(f"checkpoint-8: .*{said}; passed over", capsys.readouterr().out)
    assert same_weights(copy, lab / "base")


def test_folders_that_are_not_checkpoints(lab, interrupted):
    copy = copy_of(interrupted, "beside")
    for name in ("checkpoint-best", "checkpoint-8.bak", "checkpoint-16-backup"):
        (copy / name).mkdir()
    assert recipe(lab, "pretrain", PRETRAIN | {"output_dir": "beside"}) is None
    assert (copy / "checkpoint-best").is_dir() and same_weights(copy, lab / "base")


def test_rotation_goes_by_steps_not_by_clocks(lab, interrupted):
    copy = copy_of(interrupted, "clock")
    for step in (4, 8):
        os.utime(copy / f"checkpoint-{step}", (time.time() + 86_400,) * 2)
    assert recipe(lab, "pretrain", PRETRAIN | {"output_dir": "clock", "save_total_limit": 2}) is None
    assert sorted(path.name for path in copy.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-16"]


@pytest.mark.guarantee("Training", "An old checkpoint is removed only when the new one is whole.")
def test_an_old_checkpoint_goes_only_when_the_new_one_is_whole(lab, monkeypatch):
    seen, remove = [], shutil.rmtree

    def recorded(folder, *args, **kwargs):
        seen.append(sorted(path.parent.name for path in lab.glob("rotated/checkpoint-*/complete.json")))
        remove(folder, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", recorded)
    assert recipe(lab, "pretrain", PRETRAIN | {"output_dir": "rotated", "save_total_limit": 1}) is None
    assert seen == [[f"checkpoint-{step}" for step in sorted((a, a + 4), key=str)] for a in (4, 8, 12)]


def test_resume_from_checkpoint_is_honoured(lab, interrupted):
    copy_of(interrupted, "named")
    config = PRETRAIN | {"output_dir": "named", "resume_from_checkpoint": "named/checkpoint-4"}
    assert recipe(lab, "pretrain", config) is None and same_weights(lab / "named", lab / "base")
    said = recipe(
        lab, "pretrain", config | {"output_dir": "from nowhere", "resume_from_checkpoint": "no/checkpoint-5"}
    )
    assert (
        "resume_from_checkpoint no/checkpoint-5: not whole (no complete.json). Next: leave the key out"
        in said
    )


def test_checkpoints_without_optimizer(lab, capsys):
    config = PRETRAIN | {"output_dir": "only model", "save_only_model": True}
    killed(lab, "pretrain", config, 11 * 2)
    assert "an interrupted run starts again from step 0" in capsys.readouterr().out
    assert recipe(lab, "pretrain", config) is None
    assert "checkpoint-8: has no optimizer (save_only_model); passed over" in capsys.readouterr().out
    assert same_weights(lab / "only model", lab / "base")


@pytest.mark.guarantee("Training", "The ledger proves which blocks each optimizer step consumed.")
def test_a_ledger_that_was_lost_or_changed_is_found(lab, interrupted):
    for name, change, said in (
        ("lost", lambda lines: lines[:5], "ends at step 5, before checkpoint-8"),
        (
            "changed",
            lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
            "step 3 consumed other blocks",
        ),
    ):
        file = copy_of(interrupted, name) / "ledger.jsonl"
        file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))
        assert said in recipe(lab, "pretrain", PRETRAIN | {"output_dir": name})


# ---------------------------------------------------------------- what is the same run
@pytest.mark.guarantee(
    "Training", "Changed code or cadence resumes a run; changed training arguments need another folder."
)
def test_what_identifies_a_run(lab, interrupted, capsys):
    copy_of(interrupted, "edited")
    cadence = {
        "logging_steps": 2,
        "save_steps": 5,
        "eval_strategy": "steps",
        "eval_steps": 7,
        "save_total_limit": 3,
    }
    said = recipe(lab, "pretrain", PRETRAIN | {"output_dir": "edited", "learning_rate": 5e-4})
    assert "edited holds another run (differs in learning_rate). Next: another output_dir" in said
    assert "overwrite" not in said
    manifest = lab / "blocks" / "manifest.json"
    made = json.loads(before := manifest.read_text())
    how = {
        "egress": "hook",
        "versions": {"datasets": "0"},
        "arguments": made["arguments"] | {"documents": "d"},
    }
    manifest.write_text(json.dumps(made | how, indent=1) + "\n")  # the same blocks, built in another way
    argv = copied(lab, "pretrain", PRETRAIN | {"output_dir": "edited"} | cadence)
    (lab / argv[0]).write_text((lab / argv[0]).read_text() + "# a comment\n")
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *argv], cwd=lab, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "warning: my_pretrain.py changed since edited began" in done.stdout, (
        done.stderr
    )
    assert same_weights(lab / "edited", lab / "base")
    made["outputs"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(made, indent=1) + "\n")
    said = recipe(lab, "pretrain", PRETRAIN | {"output_dir": "edited"})
    manifest.write_text(before)
    assert "edited holds another run (differs in data)" in said


def test_an_attempt_that_left_nothing_does_not_hold_the_folder(lab, interrupted, capsys):
    for path in copy_of(interrupted, "barren").iterdir():
        if path.name != "run.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    config = PRETRAIN | {"output_dir": "barren", "learning_rate": 5e-4, "max_steps": 1}
    assert recipe(lab, "pretrain", config) is None
    assert "an attempt that had saved nothing; begun anew" in capsys.readouterr().out
    assert run_json(lab / "barren")["arguments"]["learning_rate"] == 5e-4


@pytest.mark.guarantee("Training", "--overwrite moves another run aside; nothing deletes its checkpoints.")
def test_overwrite_moves_the_old_run_aside(lab, interrupted, capsys):
    copy_of(interrupted, "old")
    assert (
        recipe(
            lab,
            "pretrain",
            PRETRAIN | {"output_dir": "old", "seed": 3, "max_steps": 1},
            "--overwrite",
            "true",
        )
        is None
    )
    assert (lab / "old.1" / "checkpoint-8" / "complete.json").is_file() and run_json(lab / "old.1")[
        "status"
    ] == "running"
    assert run_json(lab / "old")["status"] == "complete" and not (lab / "old" / "checkpoint-8").exists()
    assert "the run that was there is now" in capsys.readouterr().out


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a+"); fcntl.flock(file, fcntl.LOCK_EX)
file.write("host node7, pid 4242, since today"); file.flush(); print("held", flush=True); time.sleep(60)
"""


@pytest.mark.guarantee("Training", "One process per output folder; a second start is refused at once.")
def test_two_runs_in_one_folder(lab, interrupted):
    copy = copy_of(interrupted, "twice")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(copy / ".lock")], stdout=subprocess.PIPE, text=True
    )
    holder.stdout.readline()
    (copy / ".lock").write_text("host node7, pid 4242, since today\n")
    said = recipe(lab, "pretrain", PRETRAIN | {"output_dir": "twice"})
    assert "twice is in use by host node7, pid 4242, since today. Next: wait for it" in said
    holder.kill()
    holder.wait()
    assert recipe(lab, "pretrain", PRETRAIN | {"output_dir": "twice"}) is None, "a dead holder's lock is free"
    assert same_weights(copy, lab / "base")


@pytest.mark.guarantee("Training", "Resuming reads no block before its place.")
def test_resuming_reads_no_block_before_its_place():
    """At the end of the paper's run: 196,832 micro-batches of one rank are passed over without a look at any
    of them."""
    read = []

    class Blocks(torch.utils.data.Dataset):
        def __len__(self):
            return 12_302 * 16

        def __getitem__(self, place):
            read.append(place)
            return place

    loader = torch.utils.data.DataLoader(
        Blocks(), batch_size=1, sampler=torch.utils.data.SequentialSampler(Blocks())
    )
    assert len(list(skip_first_batches(loader, 12_301 * 16))) == 16
    assert read == list(range(12_301 * 16, 12_302 * 16))


def test_the_complete_record_has_its_sums(lab):
    record = json.loads((lab / "base" / "run.json").read_text())
    assert record["ledger"]["blocks"] == 64 and record["ledger"]["steps"] == record["steps"] == 16
    assert record["tokens_seen"] == 64 * 32
