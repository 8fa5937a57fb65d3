"""Two processes on a CPU under DDP, DeepSpeed ZeRO-2 and ZeRO-3 and FSDP2, from the shipped accelerate files: the same experiment as one process."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tests.lab import PRETRAIN, ROOT, SFT, build_lab, copied, ledger, losses, recipe, run_json, weights

RUN = {
    **PRETRAIN,
    "model_name_or_path": "base",
    "from_scratch": False,
    "per_device_train_batch_size": 1,
    "max_steps": 4,
    "save_steps": 2,
}
LORA = {**SFT, "rows_per_step": 4, "lora_dropout": 0.0, "max_steps": 3}
SHIM = """  # accelerate turns FSDP on for GPUs only; on a CPU it would quietly run DDP
import accelerate.state as state
begin = state.PartialState.__init__
def begin_as_gpu(self, cpu=False, **kwargs):
    begin(self, cpu=cpu, **kwargs)
    if self._shared_state.get("distributed_type") == state.DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = state.DistributedType.MULTI_GPU
state.PartialState.__init__ = begin_as_gpu
"""
SEVERAL = """
import json, math, os, runpy, signal, sys
import transformers
from accelerate.state import AcceleratorState, GradientState
plain = transformers.Trainer.training_step, transformers.Trainer.compute_loss
for argv, event, at in json.loads(sys.argv[1]):
    count = iter(range(1, 10**9))
    def training_step(self, *args, **kwargs):
        if next(count) == at and event == "sigterm on rank 1" and self.args.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain[0](self, *args, **kwargs)
    def compute_loss(self, *args, **kwargs):
        return plain[1](self, *args, **kwargs) * (math.nan if next(count) == at and self.args.process_index == 1 else 1)
    transformers.Trainer.training_step, transformers.Trainer.compute_loss = plain
    if event == "sigterm on rank 1":
        transformers.Trainer.training_step = training_step
    if event == "nan on rank 1":
        transformers.Trainer.compute_loss = compute_loss
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        print(f"RANK {os.environ['RANK']} SAID {stop}", flush=True)
    AcceleratorState._reset_state()
    GradientState._reset_state()
"""
needs_compiler = pytest.mark.skipif(
    not (
        shutil.which("g++")
        and shutil.which("ninja", path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    ),
    reason="DeepSpeed compiles its CPU communication once: g++ and ninja must be on PATH",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    root = build_lab(tmp_path_factory.getbasetemp() / "lab")
    assert recipe(root, "pretrain", {**RUN, "output_dir": "one"}) is None
    return root


def launch(lab, machine, *runs, shim="", ranks=2):
    """`accelerate launch` with a shipped accelerate file, made smaller: `ranks` processes on this machine. Returns (exit code, output).

    runs are (recipe, config) or (recipe, config, what goes wrong, at which micro-step), one after the other in the same processes.
    """
    config = yaml.safe_load((ROOT / "accelerate_configs" / f"{machine}.yaml").read_text()) | {
        "num_processes": ranks,
        "num_machines": 1,
    }
    for key in ("main_process_ip", "main_process_port"):
        config.pop(key, None)
    if "deepspeed_config" in config:
        file = config["deepspeed_config"]["deepspeed_config_file"]
        config["deepspeed_config"] = {**config["deepspeed_config"], "deepspeed_config_file": str(ROOT / file)}
    (lab / f"{machine}.yaml").write_text(yaml.safe_dump(config))
    (lab / "several.py").write_text(shim + SEVERAL)
    jobs = [
        ([*copied(lab, name, run), "--world_size", "2"], *(*event, None, None)[:2])
        for name, run, *event in runs
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "OMP_NUM_THREADS": "1"
    }
    environment["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environment["PATH"]  # ninja
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
    done = subprocess.run(command, cwd=lab, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def same_as_one(lab, name, tolerance=1e-4):
    """The run of two ranks took the same blocks in the same steps as the run of one, with the same losses, and its one saved model is the same model."""
    assert run_json(lab / name)["ranks"] == 2 and run_json(lab / "one")["ranks"] == 1
    assert [line["sha256"] for line in ledger(lab / name)] == [line["sha256"] for line in ledger(lab / "one")]
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
    """Both ranks stopped at step 2 of `name`, for a loss that was broken on rank 1 alone, and the weights of step 1 are saved."""
    assert output.count("loss nan") == 1 and "the weights before it are in checkpoint-1" in output, (
        "said once"
    )
    assert run_json(lab / name)["status"] == "running" and len(ledger(lab / name)) == 1
    assert (lab / name / "checkpoint-1" / "complete.json").is_file() and not (
        lab / name / "checkpoint-2"
    ).exists()
    assert all(weight.isfinite().all() for weight in weights(lab / name / "checkpoint-1").values())


def test_ddp_and_going_on_with_one_rank(lab):
    signalled = {**RUN, "output_dir": "signalled", "save_steps": 100}
    code, output = launch(
        lab,
        "ddp_8gpu",
        ("pretrain", {**RUN, "output_dir": "ddp"}),
        ("pretrain", signalled, "sigterm on rank 1", 3),
    )
    assert code == 0, output
    same_as_one(lab, "ddp")
    assert "RANK 0 SAID error: stopped by SIGTERM after step 2" in output and "RANK 1 SAID 1" in output, (
        "both, though one was asked"
    )
    assert (lab / "signalled" / "checkpoint-2" / "complete.json").is_file() and len(
        ledger(lab / "signalled")
    ) == 2

    stopped = lab / "stopped"
    shutil.copytree(lab / "ddp", stopped)
    shutil.rmtree(stopped / "checkpoint-4")
    (stopped / "run.json").write_text(
        (stopped / "run.json")
        .read_text()
        .replace('"complete"', '"running"')
        .replace('"output_dir": "ddp"', '"output_dir": "stopped"')
    )
    assert recipe(lab, "pretrain", {**RUN, "output_dir": "stopped"}) is None
    assert [session["ranks"] for session in run_json(stopped)["sessions"]] == [2, 1]
    assert [line["sha256"] for line in ledger(stopped)] == [line["sha256"] for line in ledger(lab / "one")]
    assert losses(stopped) == pytest.approx(losses(lab / "one"), abs=1e-4)


@needs_compiler
def test_zero2(lab):
    broken = {**RUN, "output_dir": "broken2", "save_steps": 100}
    code, output = launch(
        lab,
        "zero2_8gpu",
        ("pretrain", {**RUN, "output_dir": "zero2"}),
        ("pretrain", broken, "nan on rank 1", 3),
    )
    assert code == 0, output
    same_as_one(lab, "zero2")
    stopped_by_nan(lab, "broken2", output)


@needs_compiler
@pytest.mark.guarantee(
    "Training", "A checkpoint saved under ZeRO-3, LoRA included, reloads with equal logits."
)
def test_zero3_and_lora(lab):
    assert recipe(lab, "sft", {**LORA, "output_dir": "lora_one"}) is None
    broken = {**RUN, "output_dir": "broken3", "save_steps": 100}
    runs = (
        ("pretrain", {**RUN, "output_dir": "zero3"}),
        ("sft", {**LORA, "output_dir": "lora_zero3"}),
        ("pretrain", broken, "nan on rank 1", 3),
    )
    code, output = launch(lab, "zero3_8gpu", *runs)
    assert code == 0, output
    stopped_by_nan(lab, "broken3", output)
    same_as_one(lab, "zero3")
    one, two = weights(lab / "lora_one"), weights(lab / "lora_zero3")
    assert one.keys() == two.keys() and all(
        one[key].shape == two[key].shape and one[key].numel() for key in one
    )
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one) and any(
        two[key].abs().max() > 0 for key in two if "lora_B" in key
    )


def test_fsdp2(lab):
    broken = {**RUN, "output_dir": "broken_fsdp2", "save_steps": 100, "logging_steps": 1}
    runs = (("pretrain", {**RUN, "output_dir": "fsdp2"}), ("pretrain", broken, "nan on rank 1", 3))
    code, output = launch(lab, "fsdp2_160gpu", *runs, shim=SHIM)
    assert code == 0, output
    assert (
        output.count("loss nan") == 1 and (lab / "broken_fsdp2" / "checkpoint-1" / "complete.json").is_file()
    )
    same_as_one(lab, "fsdp2")
    assert list((lab / "fsdp2" / "checkpoint-4").glob("pytorch_model_fsdp_0/*.distcp")), "really sharded"
