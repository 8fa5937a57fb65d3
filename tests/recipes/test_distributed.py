"""Two CPU processes under DDP, DeepSpeed ZeRO-2 and ZeRO-3 and FSDP2, from the shipped accelerate files: the
same experiment as one process."""

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from data_prep import build_blocks
from tests.data_prep.test_blocks import MIXTURE
from tests.lab import PRETRAIN, ROOT, SFT, copied, ledger, losses, recipe, run_json, weights
from tests.recipes.test_dpo import PLAIN
from tests.recipes.test_dpo import lab as dpo_lab  # noqa: F401  a fixture: pairs and a chat model in the lab

RUN = {
    **PRETRAIN,
    "model_name_or_path": "base",
    "from_scratch": False,
    "per_device_train_batch_size": 1,
    "max_steps": 4,
    "save_steps": 2,
}
BROKEN = {**RUN, "save_steps": 1}
LORA = {**SFT, "global_batch_size": 4, "lora_dropout": 0.0, "max_steps": 3}
SHIM = """  # accelerate turns FSDP on for GPUs only; on a CPU it would quietly run DDP
import accelerate.state as state
begin = state.PartialState.__init__
def begin_as_gpu(self, cpu=False, **kwargs):
    begin(self, cpu=cpu, **kwargs)
    if self._shared_state.get("distributed_type") == state.DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = state.DistributedType.MULTI_GPU
state.PartialState.__init__ = begin_as_gpu
"""
GLOO = """  # DeepSpeed would compile its own communication between CPUs, which takes minutes
import deepspeed.ops
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
"""
SEVERAL = """
import json, math, os, runpy, signal, sys
import transformers
from accelerate.state import AcceleratorState, GradientState
llama = transformers.LlamaForCausalLM
forward = llama.forward
for argv, event, at in json.loads(sys.argv[1]):
    count = iter(range(1, 10**9))
    def forward_on_rank_1(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        if self.training and output.loss is not None and next(count) == at:  # not the probe of packing
            if event == "sigterm on rank 1":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                output.loss = output.loss * math.nan
        return output
    llama.forward = forward_on_rank_1 if event and os.environ["RANK"] == "1" else forward
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        print(f"RANK {os.environ['RANK']} STOPPED BY {type(error).__name__}", flush=True)
    AcceleratorState._reset_state()
    GradientState._reset_state()
"""


@pytest.fixture(scope="module")
def lab(lab):
    assert recipe(lab, "pretrain", {**RUN, "output_dir": "one"}) is None
    return lab


def launch(lab, machine, *runs, shim="", ranks=2):
    """(exit code, output) of `accelerate launch` with a shipped accelerate file on `ranks` processes.

    runs: (recipe, config) or (recipe, config, what goes wrong, at which micro-step), one after the other in
    the same processes.
    """
    config = yaml.safe_load((ROOT / "accelerate_configs" / f"{machine}.yaml").read_text()) | {
        "num_processes": ranks,
        "num_machines": 1,
    }
    for key in ("main_process_ip", "main_process_port"):
        config.pop(key, None)
    if "parallelism_config" in config:
        config["parallelism_config"] |= {"parallelism_config_sp_size": ranks}
    if "deepspeed_config" in config:
        file = config["deepspeed_config"]["deepspeed_config_file"]
        config["deepspeed_config"] = {**config["deepspeed_config"], "deepspeed_config_file": str(ROOT / file)}
    (lab / f"{machine}.yaml").write_text(yaml.safe_dump(config))
    shim += GLOO if "deepspeed_config" in config or "parallelism_config" in config else ""
    (lab / "several.py").write_text(shim + SEVERAL)
    jobs = [
        ([*copied(lab, name, run), "--world_size", "2"], *(*event, None, None)[:2])
        for name, run, *event in runs
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "OMP_NUM_THREADS": "1"
    }
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--config_file",
        f"{machine}.yaml",
        "several.py",
        json.dumps(jobs),
    ]
    done = subprocess.run(command, cwd=lab, env=environment, capture_output=True, text=True, timeout=1800)
    return done.returncode, done.stdout + done.stderr


def same_as_one(lab, name, tolerance=1e-4):
    """The run of two ranks took the blocks of the run of one in the same steps, with the same losses and the
    same saved model."""
    assert run_json(lab / name)["ranks"] == 2 and run_json(lab / "one")["ranks"] == 1
    assert ledger(lab / name) == ledger(lab / "one")
    assert losses(lab / name) == pytest.approx(losses(lab / "one"), abs=tolerance)
    metrics, expected = (run_json(lab / folder)["metrics"] for folder in (name, "one"))
    for key in (key for key in expected if key.endswith(("_loss", "_tokens")) and key.startswith("eval_")):
        assert metrics[key] == pytest.approx(expected[key], abs=tolerance), key
    text = torch.arange(4, 36)[None]
    with torch.no_grad():
        one, two = (
            AutoModelForCausalLM.from_pretrained(lab / folder).eval()(text).logits for folder in ("one", name)
        )
    assert (one - two).abs().max() < 10 * tolerance and (one - two).abs().max() < 0.1 * one.std()


def stopped_by_nan(lab, name, output):
    """Both ranks stopped before step 2, for a loss that was broken on rank 1 alone; checkpoint-1 is kept."""
    assert output.count("error: loss nan") == 1, "one sentence for all ranks"
    assert "at step 2; the weights did not take that step" in output
    assert all(f"RANK {rank} STOPPED BY Refused" in output for rank in (0, 1))
    assert run_json(lab / name)["status"] == "running" and len(ledger(lab / name)) == 1
    saved = [path.parent.name for path in (lab / name).glob("checkpoint-*/complete.json")]
    assert saved == ["checkpoint-1"]


def test_ddp_and_resuming_on_one_rank(lab):
    signalled = {**RUN, "output_dir": "signalled", "save_steps": 100}
    code, output = launch(
        lab,
        "ddp_8gpu",
        ("pretrain", {**RUN, "output_dir": "ddp"}),
        ("pretrain", signalled, "sigterm on rank 1", 3),
    )
    assert code == 0, output
    same_as_one(lab, "ddp")
    assert output.count("error: stopped by SIGTERM after step 2. Next: the same command resumes") == 1
    assert all(f"RANK {rank} STOPPED BY Refused" in output for rank in (0, 1)), "both, though one was asked"
    assert (lab / "signalled" / "checkpoint-2" / "complete.json").is_file() and len(
        ledger(lab / "signalled")
    ) == 2

    stopped = lab / "stopped"
    shutil.copytree(lab / "ddp", stopped)
    shutil.rmtree(stopped / "checkpoint-4")
    record = (stopped / "run.json").read_text()
    (stopped / "run.json").write_text(record.replace('"complete"', '"running"'))
    assert recipe(lab, "pretrain", {**RUN, "output_dir": "stopped"}) is None
    assert [session["ranks"] for session in run_json(stopped)["sessions"]] == [2, 1]
    assert ledger(stopped) == ledger(lab / "one")
    assert losses(stopped) == pytest.approx(losses(lab / "one"), abs=1e-4)


def test_zero2(lab):
    broken = {**BROKEN, "output_dir": "broken2"}
    code, output = launch(
        lab,
        "zero2_8gpu",
        ("pretrain", {**RUN, "output_dir": "zero2"}),
        ("pretrain", broken, "nan on rank 1", 3),
    )
    assert code == 0, output
    same_as_one(lab, "zero2")
    stopped_by_nan(lab, "broken2", output)


@pytest.mark.guarantee(
    "Training", "A checkpoint saved under ZeRO-3, LoRA included, reloads with equal logits."
)
@pytest.mark.usefixtures("dpo_lab")
def test_zero3_and_lora(lab):
    """And DPO: policy and sharded reference agree before step 1."""
    assert recipe(lab, "sft", {**LORA, "output_dir": "lora_one"}) is None
    broken = {**BROKEN, "output_dir": "broken3"}
    runs = (
        ("pretrain", {**RUN, "output_dir": "zero3"}),
        ("sft", {**LORA, "output_dir": "lora_zero3"}),
        ("dpo", {**PLAIN, "output_dir": "dpo_zero3"}),
        ("pretrain", broken, "nan on rank 1", 3),
    )
    code, output = launch(lab, "zero3_8gpu", *runs)
    assert code == 0, output
    stopped_by_nan(lab, "broken3", output)
    same_as_one(lab, "zero3")
    assert losses(lab / "dpo_zero3")[0] == pytest.approx(math.log(2), abs=1e-3)
    one, two = weights(lab / "lora_one"), weights(lab / "lora_zero3")
    assert one.keys() == two.keys() and all(
        one[key].shape == two[key].shape and one[key].numel() for key in one
    )
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one) and any(
        two[key].abs().max() > 0 for key in two if "lora_B" in key
    )


def test_fsdp2(lab):
    sync = {"accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}}}
    broken = {**BROKEN, **sync, "output_dir": "broken_fsdp2"}
    runs = (("pretrain", {**RUN, **sync, "output_dir": "fsdp2"}), ("pretrain", broken, "nan on rank 1", 3))
    code, output = launch(lab, "fsdp2_160gpu", *runs, shim=SHIM)
    assert code == 0, output
    stopped_by_nan(lab, "broken_fsdp2", output)
    same_as_one(lab, "fsdp2")
    assert list((lab / "fsdp2" / "checkpoint-4").glob("pytorch_model_fsdp_0/*.distcp")), "really sharded"


@pytest.mark.guarantee("Long context", "Ranks that share each row (Ulysses) take the steps of one rank.")
def test_ulysses(lab):
    """Two ranks share each row: the blocks, losses and saved model of one rank. Full blocks, as DeepSpeed weighs
    every micro-batch alike."""
    (lab / "flat.yaml").write_text(yaml.safe_dump(MIXTURE | {"tokens": 2000, "fill": "concat"}))
    build_blocks.main([f"--{name}={lab / path}" for name, path in (
        ("documents", "documents"), ("tokenizer", "backbone"), ("mixture", "flat.yaml"), ("out", "flat"))])  # fmt: skip
    run = {
        **RUN,
        "blocks": "flat",
        "document_masking": False,
        "attn_implementation": "sdpa",
        "save_steps": 100,
    }
    assert recipe(lab, "pretrain", {**run, "output_dir": "unshared"}) is None
    code, output = launch(lab, "ulysses_8gpu", ("pretrain", {**run, "output_dir": "ulysses"}))
    assert code == 0, output
    assert ledger(lab / "ulysses") == ledger(lab / "unshared")
    assert losses(lab / "ulysses") == pytest.approx(losses(lab / "unshared"), abs=1e-3)
    one, two = weights(lab / "unshared"), weights(lab / "ulysses")
    assert all(torch.allclose(one[key], two[key], atol=1e-3) for key in one)
