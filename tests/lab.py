"""A folder outside the repository in which copies of the recipes run: invented documents, tokenizer, blocks, rows and a trained base model."""

import json
import os
import runpy
import shutil
import signal
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from data_prep import build_blocks
from data_prep.demo import backbone
from data_prep.files import write_jsonl
from tests.data_prep.test_blocks import MIXTURE, write_documents

ROOT = Path(__file__).resolve().parent.parent
PRETRAIN = {
    "model_name_or_path": "backbone", "from_scratch": True, "blocks": "blocks", "packing": "isolated", "tokens_per_step": 128, "output_dir": "base",
    "per_device_train_batch_size": 2, "num_train_epochs": 1, "learning_rate": 1e-3, "logging_steps": 1, "save_steps": 4, "eval_strategy": "no",
    "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "dataloader_num_workers": 0,
}  # fmt: skip
SFT = {
    "model_name_or_path": "base", "rows": "rows", "output_dir": "adapter", "chat_template_path": str(ROOT / "recipes/chat_template.jinja"),
    "assistant_only_loss": True, "max_length": 128, "packing": "none", "use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"],
    "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "logging_steps": 1, "save_steps": 3, "use_cpu": True, "bf16": False,
    "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True,
}  # fmt: skip
TASK = {**SFT, "rows": "task_rows", "output_dir": "task", "use_peft": False, "max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2,
        "load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False, "learning_rate": 1e-3}  # fmt: skip
for key in ("chat_template_path", "assistant_only_loss", "lora_r", "lora_target_modules"):
    del TASK[key]


def copied(folder, name, config):
    """argv of a copy of a recipe and of what is copied along in `folder`, where nothing else of this repository lies."""
    for file in ("run_guard.py", "egress.py"):
        shutil.copy(ROOT / "recipes" / file, folder)
    shutil.copy(ROOT / "recipes" / f"{name}.py", folder / f"my_{name}.py")
    file = folder / f"{name}_{config.get('output_dir', 'run')}.yaml"
    file.write_text(yaml.safe_dump(config))
    return [f"my_{name}.py", "--config", file.name]


def recipe(folder, name, config, *arguments):
    """Run the copy to its end as `python my_NAME.py --config ...` would; return what it exits with (None: all is well)."""
    argv = [*copied(folder, name, config), *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", argv)
        patch.setattr(
            sys, "path", [str(folder), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
        )
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as stop:
            return str(stop)


def in_child(folder, name, config):
    """Run the copy in a forked process, for what this one must not live through: signals, imports. Returns the status as of os.waitpid (0: all is well)."""
    if (child := os.fork()) == 0:
        try:
            torch.set_num_threads(1)  # the others were not forked with it
            signal.alarm(300)
            said = recipe(folder, name, config)
            os.write(2, f"{said or ''}\n".encode())
            os._exit(1 if said else 0)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1]


def run_json(folder):
    return json.loads((folder / "run.json").read_text())


def ledger(folder):
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def logged(folder, *keys):
    """[(value of each key)] of the training log of a run, step by step."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [tuple(entry[key] for key in keys) for entry in history if "loss" in entry]


def losses(folder):
    return [loss for (loss,) in logged(folder, "loss")]


def weights(folder):
    return load_file(
        next(
            folder / name
            for name in ("model.safetensors", "adapter_model.safetensors")
            if (folder / name).is_file()
        )
    )


@cache
def build_lab(root):
    write_documents(root / "documents")
    backbone.main(
        ["--documents", str(root / "documents"), "--out", str(root / "backbone"), "--vocab_size", "400"]
    )
    (root / "mixture.yaml").write_text(yaml.safe_dump(MIXTURE | {"tokens": 2000}))
    build_blocks.main([f"--{name}={root / path}" for name, path in (
        ("documents", "documents"), ("tokenizer", "backbone"), ("mixture", "mixture.yaml"), ("out", "blocks"))])  # fmt: skip
    common = {"task": "t", "scoring": "none", "source": "s", "license": "CC0", "access": "gated"}
    pairs = [(f"Is fever {i} given to the patient?\n", "yes" if i % 2 else "no") for i in range(16)]
    talk = [{"role": "user", "content": "liver?"}, {"role": "assistant", "content": "yes"}] * 2
    for name, extra in (
        ("rows", [{"id": "m", "split": "train", "messages": talk, **common}]),
        ("task_rows", []),
    ):
        for split in ("train", "validation"):
            rows = [
                {"id": f"{split}{i}", "split": split, "prompt": p, "completion": c, **common}
                for i, (p, c) in enumerate(pairs)
            ]
            write_jsonl(root / name / f"{split}.jsonl", rows + extra)
        (root / name / "manifest.json").write_text(json.dumps({"access": "gated"}))
    assert recipe(root, "pretrain", PRETRAIN) is None
    shutil.copytree(
        root / "backbone", root / "even"
    )  # bitsandbytes' 4-bit kernel for CPUs wants multiples of 64
    LlamaForCausalLM(LlamaConfig.from_pretrained(root / "even", intermediate_size=384)).save_pretrained(
        root / "even"
    )
    return root
