"""The recipes, run whole from a copy in another folder: train, stop, resume, merge, refuse."""

import importlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_prep import build_blocks, make_demo_backbone
from data_prep.files import write_jsonl
from tests.test_blocks import MIXTURE, write_documents

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.py"))
PRETRAIN = {
    "model_name_or_path": "backbone", "from_scratch": True, "blocks": "blocks", "packing": "isolated", "tokens_per_step": 128, "output_dir": "base",
    "per_device_train_batch_size": 2, "num_train_epochs": 1, "learning_rate": 1e-3, "logging_steps": 1, "save_steps": 4, "eval_strategy": "no",
    "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "dataloader_num_workers": 0,
}  # fmt: skip
SFT = {
    "model_name_or_path": "base", "rows": "rows", "output_dir": "adapter", "chat_template_path": str(ROOT / "recipes/chat_template.jinja"),
    "assistant_only_loss": True, "max_length": 128, "use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "max_steps": 6,
    "per_device_train_batch_size": 2, "learning_rate": 1e-2, "logging_steps": 1, "save_steps": 3, "use_cpu": True, "bf16": False,
    "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True,
}  # fmt: skip
TASK = {**SFT, "rows": "task_rows", "output_dir": "task", "use_peft": False, "max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2,
        "load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False, "learning_rate": 1e-3}  # fmt: skip
for key in ("chat_template_path", "assistant_only_loss", "lora_r", "lora_target_modules"):
    del TASK[key]


def copied(folder, name, config):
    """argv of a copy of a recipe in `folder`, where nothing of this repository lies."""
    shutil.copy(ROOT / "recipes" / f"{name}.py", folder / f"my_{name}.py")
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return [f"my_{name}.py", "--config", f"{name}.yaml"]


def recipe(folder, name, config, *arguments):
    """Run the copy to its end as `python my_NAME.py --config NAME.yaml` would; return what it exits with (None: all is well)."""
    argv = [*copied(folder, name, config), *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", argv)
        patch.setattr(sys, "path", [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT])
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as stop:
            return str(stop)


def start_process(folder, name, config):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, *copied(folder, name, config)]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_json(folder):
    return json.loads((folder / "run.json").read_text())


def losses(folder):
    return [entry["loss"] for entry in json.loads((folder / "trainer_state.json").read_text())["log_history"] if "loss" in entry]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder outside the repository with documents, tokenizer, blocks, rows and a trained base model."""
    root = tmp_path_factory.mktemp("lab")
    write_documents(root / "documents")
    make_demo_backbone.main(["--documents", str(root / "documents"), "--out", str(root / "backbone"), "--vocab_size", "400"])
    (root / "mixture.yaml").write_text(yaml.safe_dump(MIXTURE | {"tokens": 2000}))
    arguments = [
        "--documents",
        root / "documents",
        "--tokenizer",
        root / "backbone",
        "--mixture",
        root / "mixture.yaml",
        "--out",
        root / "blocks",
    ]
    build_blocks.main([str(a) for a in arguments])
    common = {"task": "t", "scoring": "none", "source": "s", "license": "CC0", "access": "gated"}
    pairs = [(f"Is fever {i} given to the patient?\n", "yes" if i % 2 else "no") for i in range(16)]
    talk = [{"role": "user", "content": "liver?"}, {"role": "assistant", "content": "yes"}] * 2
    for name, extra in (("rows", [{"id": "m", "split": "train", "messages": talk, **common}]), ("task_rows", [])):
        for split in ("train", "validation"):
            rows = [{"id": f"{split}{i}", "split": split, "prompt": p, "completion": c, **common} for i, (p, c) in enumerate(pairs)]
            write_jsonl(root / name / f"{split}.jsonl", rows + extra)
        (root / name / "manifest.json").write_text(json.dumps({"access": "gated"}))
    assert recipe(root, "pretrain", PRETRAIN) is None
    return root


def test_pretrain_writes_a_model_and_a_complete_record(lab):
    record = run_json(lab / "base")
    assert record["status"] == "complete" and record["access"] == "gated" and record["arguments"]["tokens_per_step"] == 128
    assert record["metrics"]["eval_general_loss"] > 0 and record["peak_memory_bytes"] > 1e7 and record["steps"] == len(losses(lab / "base"))
    assert losses(lab / "base")[-1] < losses(lab / "base")[0]
    validation = json.loads((lab / "base" / "validation.json").read_text())
    for domain, blocks in validation.items():
        mean = sum(blocks["nll"]) / sum(blocks["tokens"])
        assert record["metrics"][f"eval_{domain}_loss"] == pytest.approx(mean), "weighted by tokens"
    assert AutoModelForCausalLM.from_pretrained(lab / "base").config.vocab_size == len(AutoTokenizer.from_pretrained(lab / "base"))


def test_validation_loss_does_not_change_with_the_batch_size(lab):
    for size in (1, 7):
        recipe(
            lab,
            "pretrain",
            {**PRETRAIN, "output_dir": f"batch{size}", "per_device_eval_batch_size": size, "max_steps": 1, "save_strategy": "no"},
        )
    one, seven = (run_json(lab / f"batch{size}")["metrics"] for size in (1, 7))
    for domain in MIXTURE["ratio"]:
        assert one[f"eval_{domain}_loss"] == pytest.approx(seven[f"eval_{domain}_loss"], rel=1e-5)
        assert one[f"eval_{domain}_tokens"] == seven[f"eval_{domain}_tokens"]


def test_killed_and_resumed_is_the_same_run(lab, capsys):
    config = {**PRETRAIN, "output_dir": "killed"}
    process = start_process(lab, "pretrain", config)
    deadline = time.time() + 120
    while not (lab / "killed" / "checkpoint-4" / "trainer_state.json").is_file() and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    assert run_json(lab / "killed")["status"] == "running"
    process = start_process(lab, "pretrain", config)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert losses(lab / "killed") == losses(lab / "base"), "the same losses, step by step"
    one, other = (AutoModelForCausalLM.from_pretrained(lab / name).state_dict() for name in ("killed", "base"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    before = (lab / "killed" / "model.safetensors").stat().st_mtime_ns
    assert recipe(lab, "pretrain", config) is None
    assert "already complete" in capsys.readouterr().out
    assert (lab / "killed" / "model.safetensors").stat().st_mtime_ns == before


@pytest.fixture
def pretrain(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    return importlib.import_module("pretrain")


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path, pretrain):
    assert pretrain.last_checkpoint(tmp_path) is None
    for step in (4, 8, 12, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step in (4, 12):
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert Path(pretrain.last_checkpoint(tmp_path)).name == "checkpoint-12"


def test_isolated_documents_do_not_see_each_other(lab, pretrain):
    model = AutoModelForCausalLM.from_pretrained(lab / "base").eval()
    first = torch.randint(4, 400, (10,)).numpy()
    second = torch.randint(4, 400, (22,)).numpy()
    block = {"input_ids": torch.cat([torch.tensor(first), torch.tensor(second)]).numpy(), "seq_lengths": [10, 20]}
    changed = {**block, "input_ids": torch.cat([torch.tensor(first[::-1].copy()), torch.tensor(second)]).numpy()}
    for isolated in (True, False):
        collate = pretrain.BlockCollator(isolated)
        with torch.no_grad():
            logits, other = (
                model(**{k: v for k, v in collate([b, b]).items() if k != "labels"}, use_cache=False).logits for b in (block, changed)
            )
        moved = (logits[:, 10:30] - other[:, 10:30]).abs().max().item()
        assert (moved < 1e-5) if isolated else (moved > 1e-3), (isolated, moved)
    labels = pretrain.BlockCollator(True)([block])["labels"][0]
    assert labels[0] == labels[10] == -100 and (labels[30:] == -100).all() and (labels[11:30] != -100).all()


def test_sft_then_merge(lab):
    assert recipe(lab, "sft", SFT) is None
    record = run_json(lab / "adapter")
    assert record["tokens_seen"] > 100 and run_json(lab / "base")["tokens_seen"] > 1000
    assert record["status"] == "complete" and record["access"] == "gated" and losses(lab / "adapter")[-1] < losses(lab / "adapter")[0]
    assert not (lab / "adapter" / "model.safetensors").exists()
    assert recipe(lab, "merge_adapter", {"adapter": "adapter", "output_dir": "chat"}) is None
    parity = run_json(lab / "chat")["parity"]
    assert parity["max_logit_difference"] < 1e-4 and parity["same_token"] == 1 and not (lab / "chat" / "unproven").exists()
    base, chat = (AutoModelForCausalLM.from_pretrained(lab / name).state_dict() for name in ("base", "chat"))
    moved = [key for key in base if not torch.equal(base[key], chat[key])]
    assert moved and all("q_proj" in key or "v_proj" in key for key in moved)
    tokenizer = AutoTokenizer.from_pretrained(lab / "chat")
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}] * 2
    rendered = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ids, trained = rendered["input_ids"], [i for i, m in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if m]
    assert ids.count(tokenizer.bos_token_id) == 2 and trained.count(tokenizer.eos_token_id) == ids.count(tokenizer.eos_token_id) == 2
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids[: len(prompt)] == prompt, "generation starts from the very tokens of training"

    shutil.copytree(lab / "base", lab / "base_kept")
    (lab / "base" / "run.json").write_text((lab / "base" / "run.json").read_text() + " ")
    said = recipe(lab, "merge_adapter", {"adapter": "adapter", "output_dir": "wrong"})
    assert said and "base has changed since adapter was trained" in said
    shutil.copy(lab / "base_kept" / "run.json", lab / "base" / "run.json")


def test_a_changed_row_or_template_is_another_run(lab):
    shutil.copytree(lab / "rows", lab / "rows_copy")
    shutil.copy(ROOT / "recipes/chat_template.jinja", lab / "template.jinja")
    config = {**SFT, "rows": "rows_copy", "chat_template_path": "template.jinja", "output_dir": "templated", "max_steps": 1}
    assert recipe(lab, "sft", config) is None and recipe(lab, "sft", config) is None
    for name in ("template.jinja", "rows_copy/train.jsonl"):
        before = (lab / name).read_text()
        (lab / name).write_text(
            before + "\n" if name.endswith("jinja") else before + before.splitlines()[0].replace("train0", "more") + "\n"
        )
        said = recipe(lab, "sft", config)
        assert said and f"differs in {name}" in said
        (lab / name).write_text(before)


def test_finetune_task_keeps_the_best_checkpoint(lab):
    assert recipe(lab, "finetune_task", TASK) is None
    record = run_json(lab / "task")
    assert record["status"] == "complete" and record["best_checkpoint"]
    assert record["best_metric"] == pytest.approx(record["metrics"]["eval_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "config", "arguments", "said"),
    [
        ("pretrain", {**PRETRAIN, "learning_ratte": 1}, (), "learning_ratte"),
        ("pretrain", PRETRAIN, ("--learning_rat", "3"), "learning_rat"),
        (
            "pretrain",
            {**PRETRAIN, "blocks": "documents", "output_dir": "new"},
            (),
            "no packed blocks. Next: python -m data_prep.build_blocks",
        ),
        ("pretrain", {**PRETRAIN, "tokens_per_step": 100, "output_dir": "new"}, (), "100 is no multiple of 64"),
        ("pretrain", {**PRETRAIN, "learning_rate": 5e-4}, (), "holds another run (differs in learning_rate)"),
        ("pretrain", {**PRETRAIN, "packing": "isolate", "output_dir": "new"}, (), "packing"),
        ("sft", {**SFT, "rows": "nowhere", "output_dir": "new"}, (), "nowhere"),
        ("sft", {**SFT, "rows": "bad_rows", "output_dir": "new"}, (), "train.jsonl: line 2 is no row"),
        ("sft", {**SFT, "model_name_or_path": "no/such/model", "output_dir": "new"}, (), "no/such/model: no model here"),
        ("pretrain", {**PRETRAIN, "model_name_or_path": "documents", "output_dir": "new"}, (), "documents: no model here"),
        ("finetune_task", {**TASK, "model_name_or_path": "no_such/model", "output_dir": "new"}, (), "finetune_task.yaml: "),
        ("merge_adapter", {"adapter": "base", "output_dir": "new"}, (), "no adapter_config.json"),
    ],
)
def test_wrong_input_is_one_sentence_before_the_first_step(lab, name, config, arguments, said):
    shutil.copytree(lab / "rows", lab / "bad_rows", dirs_exist_ok=True)
    (lab / "bad_rows" / "train.jsonl").write_text('{"id": "a", "prompt": "p\\n", "completion": "c"}\n{"id": "a", "prompt": "p\\n"}\n')
    stopped = recipe(lab, name, config, *arguments)
    assert stopped and stopped.startswith("error: ") and said in stopped
    assert not (lab / "new" / "checkpoint-1").exists()
    shutil.rmtree(lab / "new", ignore_errors=True)


def test_blocks_of_another_tokenizer_are_refused(lab):
    make_demo_backbone.main(["--documents", str(lab / "documents"), "--out", str(lab / "other"), "--vocab_size", "380"])
    said = recipe(lab, "pretrain", {**PRETRAIN, "model_name_or_path": "other", "output_dir": "new"})
    assert said and "is not the one that made blocks" in said and not (lab / "new").exists()


# ---------------------------------------------------------------- the files themselves
def test_locked_copies_are_identical():
    blocks = {
        name: re.search(r"# -+ run record: locked copy.*?# -+ end of locked copy", (ROOT / "recipes" / name).read_text(), re.S)
        for name in RECIPES
    }
    assert len(RECIPES) == 4 and all(blocks.values()) and len({match.group() for match in blocks.values()}) == 1


def test_a_recipe_imports_nothing_local():
    for name in RECIPES:
        assert not re.search(r"^\s*(from|import) (recipes|data_prep|evaluation|tests)\b", (ROOT / "recipes" / name).read_text(), re.M), name


def test_accelerate_launch_reports_our_sentence_alone(lab):
    """What the Makefile runs: the launcher adds no traceback of its own to a refusal."""
    command = [
        Path(sys.executable).parent / "accelerate",
        "launch",
        "-q",
        "--config_file",
        ROOT / "accelerate_configs/cpu.yaml",
        ROOT / "recipes/pretrain.py",
    ]
    done = subprocess.run([*command, "--config", "nothing.yaml"], cwd=lab, capture_output=True, text=True)
    assert done.returncode != 0 and "nothing.yaml" in done.stderr and "Traceback" not in done.stderr
