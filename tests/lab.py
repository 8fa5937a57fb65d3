"""A folder outside the repository in which copies of the recipes run: invented documents, tokenizer, blocks,
rows and a trained base model."""

import contextlib
import gc
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import transformers
import yaml
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from data_prep import build_blocks
from data_prep.demo import backbone
from data_prep.files import write_jsonl
from tests.data_prep.test_blocks import MIXTURE, write_documents

ROOT = Path(__file__).resolve().parent.parent
SAFEGUARDS = ("callbacks.py", "checks.py", "run_record.py", "egress.py", "attention.py", "hardware.py")
ALIGNMENT = ("alignment_checks.py", "alignment_callbacks.py", "reward_checks.py")
REWARDS = ("rewards.py", "parsing.py")  # what grpo.py trains on: no safeguards
PRETRAIN = {
    "model_name_or_path": "backbone",
    "from_scratch": True,
    "blocks": "blocks",
    "document_masking": True,
    "global_batch_tokens": 128,
    "output_dir": "base",
    "per_device_train_batch_size": 2,
    "num_train_epochs": 1,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_steps": 4,
    "eval_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
}
TASK = {
    "model_name_or_path": "base",
    "rows": "task_rows",
    "output_dir": "task",
    "max_length": 128,
    "max_steps": 4,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": False,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
}
EVALUATION = (
    "eval_strategy",
    "eval_steps",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
)
SFT = {key: value for key, value in TASK.items() if key not in EVALUATION} | {
    "rows": "rows",
    "output_dir": "adapter",
    "chat_template_path": str(ROOT / "recipes/chat_template.jinja"),
    "assistant_only_loss": True,
    "use_peft": True,
    "lora_r": 4,
    "lora_target_modules": ["q_proj", "v_proj"],
    "max_steps": 6,
    "learning_rate": 1e-2,
    "save_steps": 3,
}


def copied(folder, name, config):
    """argv of a copy of a recipe and its safeguards in `folder`, where nothing else of this repository is."""
    more = {"dpo": ALIGNMENT[:2], "grpo": (*ALIGNMENT, *REWARDS)}.get(name, ())
    for file in (*SAFEGUARDS, *more):
        shutil.copy(ROOT / "recipes" / file, folder)
    shutil.copy(ROOT / "recipes" / f"{name}.py", folder / f"my_{name}.py")
    file = folder / f"{name}_{Path(config.get('output_dir', 'run')).name}.yaml"
    file.write_text(yaml.safe_dump(config))
    return [f"my_{name}.py", "--config", file.name]


def run_script(folder, argv):
    """Run `python ARGV` in this process, in `folder`; return the sentence that it exits with (None: all is
    well)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", argv)
        elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
        patch.setattr(sys, "path", [str(folder), *elsewhere])
        patch.setattr(sys, "excepthook", sys.__excepthook__)
        environment = dict(os.environ)
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as stop:
            return str(stop)
        except Exception as error:  # what the excepthook of one_sentence_errors prints
            printed = io.StringIO()
            with contextlib.redirect_stderr(printed):
                sys.excepthook(type(error), error, error.__traceback__)
            if not printed.getvalue().startswith("error: "):
                raise
            return printed.getvalue().strip()
        finally:  # what a run sets would have ended with its process
            os.environ.clear()
            os.environ.update(environment)


def recipe(folder, name, config, *arguments):
    """Run the copy to its end as `python my_NAME.py --config ...` would."""
    return run_script(folder, [*copied(folder, name, config), *arguments])


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


class Killed(BaseException):
    """Ends a recipe in the middle of a step, as SIGKILL does: nothing of ours handles it."""


def killed(folder, name, config, micro_step):
    """Run the copy in this process until its n-th micro-step."""
    step, count = transformers.Trainer.training_step, iter(range(1, 10**9))

    def counted(self, *args, **kwargs):
        if next(count) == micro_step:
            raise Killed
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(transformers.Trainer, "training_step", counted)
        recipe(folder, name, config)
    gc.collect()  # the lock on the folder would have ended with the process


SIGNAL = """
import os, runpy, signal, sys
import transformers
step, count = transformers.Trainer.training_step, iter(range(1, 10**9))
at, number, sys.argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
def counted(self, *args, **kwargs):
    if next(count) == at:
        os.kill(os.getpid(), number)
    return step(self, *args, **kwargs)
transformers.Trainer.training_step = counted
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def signalled(folder, name, config, micro_step, number):
    """subprocess.CompletedProcess of the copy, which gets a signal at its n-th micro-step."""
    (folder / "with_signal.py").write_text(SIGNAL)
    argv = [
        sys.executable,
        "with_signal.py",
        str(micro_step),
        str(int(number)),
        *copied(folder, name, config),
    ]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."}
    return subprocess.run(argv, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
