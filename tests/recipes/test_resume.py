"""Killed with SIGKILL in the middle of a step and started again: bit for bit the run that was never stopped."""

import importlib
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
import transformers

from tests.lab import (
    PRETRAIN,
    ROOT,
    SFT,
    TASK,
    build_lab,
    in_child,
    ledger,
    logged,
    recipe,
    run_json,
    weights,
)

SHUFFLED = {**SFT, "max_steps": -1, "num_train_epochs": 2, "rows_per_step": 4, "lora_dropout": 0.2, "lora_modules_to_save": None, "save_steps": 2,
            "save_total_limit": 1, "eval_strategy": "steps", "eval_steps": 3}  # fmt: skip
RUNS = {
    "pretrain": ("pretrain", {**PRETRAIN, "per_device_train_batch_size": 1, "save_steps": 4, "save_total_limit": 1, "logging_steps": 3}, 9 * 4 + 2),
    "pretrain_8bit": ("pretrain", {**PRETRAIN, "dtype": "bfloat16", "learning_rate": 1e-5, "optim": "adamw_torch_8bit", "max_steps": 8, "save_steps": 3,
                                   "optim_args": "bf16_stochastic_round=True"}, 8 * 2),
    "lora_padded": ("sft", SHUFFLED, 5 * 2 + 1),
    "lora_packed": ("sft", {**SHUFFLED, "packing": "isolated", "attn_implementation": "torch_varlen", "max_length": 64, "rows_per_step": 2,
                            "per_device_train_batch_size": 1, "save_steps": 3}, 4 * 2 + 1),
    "qlora": ("sft", {**SHUFFLED, "model_name_or_path": "even", "load_in_4bit": True, "dtype": "bfloat16", "max_steps": 6, "save_steps": 4,
                      "eval_strategy": "no"}, 11),  # on a CPU bitsandbytes repacks its weights at the first evaluation, and computes otherwise from there
    "task": ("finetune_task", {**TASK, "max_steps": -1, "rows_per_step": 4, "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 2,
                              "logging_steps": 3},
             10 * 2 + 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return build_lab(tmp_path_factory.getbasetemp() / "lab")


@pytest.fixture
def pretrain(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    return importlib.import_module("pretrain")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """A forked child has no OpenMP threads; torch.compile, which torchao's optimizers call, would take a minute for each shape on a CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    yield
    torch.set_num_threads(threads)


def signalled(lab, name, config, micro_step, with_signal):
    """Run a recipe in a child process that gets a signal at its n-th micro-step. Returns the exit status as of os.waitpid."""
    step, count = transformers.Trainer.training_step, iter(range(1, 10**9))

    def counted(self, *args, **kwargs):
        if next(count) == micro_step:
            os.kill(os.getpid(), with_signal)
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.Trainer, "training_step", counted)
        return in_child(lab, name, config)


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.guarantee(
    "Training", "A run killed with SIGKILL goes on to the same losses and weights, bit for bit, on a CPU."
)
def test_killed_and_resumed_is_the_same_run(lab, kind):
    name, config, micro_step = RUNS[kind]
    whole, killed = lab / f"{kind}_whole", lab / f"{kind}_killed"
    assert recipe(lab, name, {**config, "output_dir": whole.name}) is None
    status = signalled(lab, name, {**config, "output_dir": killed.name}, micro_step, signal.SIGKILL)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    saved = max(int(path.name.split("-")[1]) for path in killed.glob("checkpoint-*"))
    assert run_json(killed)["status"] == "running" and 0 < saved < len(ledger(killed)) < len(ledger(whole)), (
        "between two checkpoints"
    )
    assert recipe(lab, name, {**config, "output_dir": killed.name}) is None

    assert logged(killed, "loss", "learning_rate", "grad_norm") == logged(
        whole, "loss", "learning_rate", "grad_norm"
    )
    assert run_json(killed)["metrics"]["train_loss"] == run_json(whole)["metrics"]["train_loss"]
    assert ledger(killed) == ledger(whole), "the same rows in every step"
    one, other = weights(whole), weights(killed)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    record = run_json(killed)
    assert (
        len(record["sessions"]) == 2
        and record["ledger"] == run_json(whole)["ledger"]
        and record["tokens_seen"] == run_json(whole)["tokens_seen"]
    )
    assert record["seconds"] == pytest.approx(
        sum(session["seconds"] for session in record["sessions"]), abs=0.2
    )
    if kind == "task":
        assert (
            record["best_metric"] == run_json(whole)["best_metric"]
            and record["ledger"]["times_least_seen"] == 5
        ), "the article's five epochs"


def test_sigterm_leaves_a_whole_checkpoint_and_the_same_run(lab):
    config = {**PRETRAIN, "output_dir": "terminated", "save_steps": 100}
    status = signalled(lab, "pretrain", config, 5 * 2 + 1, signal.SIGTERM)
    assert os.WEXITSTATUS(status) == 1 and run_json(lab / "terminated")["status"] == "running"
    assert (lab / "terminated" / "checkpoint-6" / "complete.json").is_file() and len(
        ledger(lab / "terminated")
    ) == 6
    assert recipe(lab, "pretrain", config) is None
    assert logged(lab / "terminated", "loss", "grad_norm") == logged(lab / "base", "loss", "grad_norm")


def test_a_checkpoint_that_was_cut_short_is_passed_over(lab, capsys):
    config = {**PRETRAIN, "output_dir": "cut"}
    assert os.WTERMSIG(signalled(lab, "pretrain", config, 11 * 2, signal.SIGKILL)) == signal.SIGKILL
    (lab / "cut" / "checkpoint-8" / "complete.json").unlink()
    assert recipe(lab, "pretrain", config) is None
    assert "checkpoint-8: not whole, going on from cut/checkpoint-4" in capsys.readouterr().out
    assert logged(lab / "cut", "loss", "grad_norm") == logged(lab / "base", "loss", "grad_norm")


@pytest.mark.guarantee("Training", "The ledger proves that no row was skipped or seen twice.")
def test_a_ledger_that_was_lost_or_changed_is_found(lab):
    config = {**PRETRAIN, "output_dir": "ledger", "save_strategy": "no"}
    assert recipe(lab, "pretrain", config) is None
    facts = run_json(lab / "ledger")["ledger"]
    assert facts == {"steps": 16, "rows": 64, "times_least_seen": 1, "times_most_seen": 1}
    shutil.copytree(lab / "base", lab / "lost")
    for checkpoint in (12, 16):
        shutil.rmtree(lab / "lost" / f"checkpoint-{checkpoint}")
    record = run_json(lab / "lost") | {"status": "running"}
    record["arguments"]["output_dir"] = "lost"
    (lab / "lost" / "run.json").write_text(json.dumps(record))
    lines = (lab / "lost" / "ledger.jsonl").read_text().splitlines()
    (lab / "lost" / "ledger.jsonl").write_text("\n".join(lines[:5]) + "\n")
    assert "ledger.jsonl ends at step 5, before" in recipe(
        lab, "pretrain", {**PRETRAIN, "output_dir": "lost"}
    )
    lines[2] = lines[2].replace('"sha256": "', '"sha256": "0')
    (lab / "lost" / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    assert "wrong at steps [3]: rows were skipped or seen twice" in recipe(
        lab, "pretrain", {**PRETRAIN, "output_dir": "lost"}
    )


@pytest.mark.guarantee(
    "Training", "Going on reads no block before its place, and the order is the same for any number of ranks."
)
def test_going_on_reads_no_block_before_its_place(pretrain):
    """At the end of the article's run, on the last of 160 ranks: 196,832 micro-batches are passed over without a look at any of them."""
    from accelerate import skip_first_batches

    read = []

    class Blocks(torch.utils.data.Dataset):
        def __len__(self):
            return 12_302 * 16 * 160

        def __getitem__(self, place):
            read.append(place)
            return place

    loader = torch.utils.data.DataLoader(
        Blocks(), batch_sampler=pretrain.Places(len(Blocks()), 1, 159, 160), collate_fn=list
    )
    began = time.perf_counter()
    rest = [batch for batch in skip_first_batches(loader, 12_301 * 16)]
    assert time.perf_counter() - began < 5 and len(rest) == 16
    assert read == [12_301 * 16 * 160 + 159 + 160 * i for i in range(16)]


def test_the_places_of_all_ranks_are_the_order_for_any_number_of_ranks(pretrain):
    for ranks, size in ((1, 1), (1, 4), (2, 2), (4, 1), (3, 4)):
        batches = [[list(batch) for batch in pretrain.Places(48, size, rank, ranks)] for rank in range(ranks)]
        assert np.array_equal(
            [place for step in zip(*batches, strict=True) for batch in step for place in batch], np.arange(48)
        )
