"""Rule 1 of the house: a recipe is the stock trainer. The same rows and YAML through `trl sft`, or through a
bare Trainer, end in the same losses and the same weights, bit for bit; so does a recipe without its
safeguards."""

import ast
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from trl import SFTTrainer
from trl.scripts import sft as stock

from tests.lab import ALIGNMENT, PRETRAIN, ROOT, SAFEGUARDS, SFT, TASK, losses, recipe, weights

OURS = ("rows", "global_batch_size", "max_loss_jump", "access")
CHAT = {key: value for key, value in SFT.items() if not key.startswith(("use_peft", "lora"))} | {
    "max_steps": 3,
    "save_strategy": "no",
}
LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}
PROMPTS = {
    key: value
    for key, value in TASK.items()
    if "eval" not in key and "best" not in key and key != "greater_is_better"
}
PROMPTS |= {"max_steps": 3, "save_strategy": "no"}
TOOLS = {"rows": "tool_rows", "chat_template_path": "tools.jinja"}
ROPE = {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}
MATRIX = {
    "nll": CHAT,
    "dft": CHAT | {"loss_type": "dft"},
    "chunked_nll": CHAT | {"loss_type": "chunked_nll"},
    "label smoothing": CHAT | {"label_smoothing_factor": 0.1},
    "bfd": CHAT | {"packing": True, "packing_strategy": "bfd"},
    "bfd_split": CHAT | {"packing": True, "packing_strategy": "bfd_split", "max_length": 24},
    "wrapped": CHAT | {"packing": True, "packing_strategy": "wrapped", "max_length": 24},
    "bfd, dft": CHAT | {"packing": True, "loss_type": "dft"},
    "padding_free": CHAT | {"padding_free": True, "max_length": None},
    "cut": CHAT | {"max_length": 20},
    "whole conversation": CHAT | {"assistant_only_loss": False},
    "lora": CHAT | LORA,
    "lora, bfd": CHAT | LORA | {"packing": True},
    "lora, dora": CHAT | LORA | {"use_dora": True},
    "lora, rslora": CHAT | LORA | {"use_rslora": True},
    "lora, modules_to_save": CHAT | LORA | {"lora_modules_to_save": ["embed_tokens", "lm_head"]},
    "qlora": CHAT | LORA | {"model_name_or_path": "even", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "completion": PROMPTS,
    "completion, all tokens": PROMPTS | {"completion_only_loss": False},
    "completion, bfd": PROMPTS | {"packing": True},
    "completion, lora": PROMPTS | LORA,
    "completion, dft": PROMPTS | {"loss_type": "dft"},
    "tools": CHAT | TOOLS,
    "neftune": CHAT | {"neftune_noise_alpha": 5.0},
    "accumulation": CHAT | {"gradient_accumulation_steps": 2},
    "activation checkpointing": CHAT | {"gradient_checkpointing": True},
    "rope by model_init_kwargs": CHAT | {"model_init_kwargs": ROPE},
    "length-grouped": CHAT | {"train_sampling_strategy": "group_by_length"},
    "adafactor, constant": CHAT | {"optim": "adafactor", "lr_scheduler_type": "constant", "max_grad_norm": 0.5},
    "shuffled, seeded": CHAT | {"shuffle_dataset": True, "seed": 7, "data_seed": 3},
    "pad_to_multiple_of": CHAT | {"pad_to_multiple_of": 8},
    "eos_token": CHAT | {"eos_token": "<unk>"},
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(lab):
    template = (ROOT / "recipes/chat_template.jinja").read_text()
    (lab / "tools.jinja").write_text(
        "{{ bos_token }}{% if tools %}{{ tools | length }} tools {% endif %}" + template
    )
    talk = [{"role": "user", "content": "fever?"}, {"role": "assistant", "content": "yes"}]
    tool = {
        "type": "function",
        "function": {"name": "dose", "description": "of a drug", "parameters": {"type": "object"}},
    }
    (lab / "tool_rows").mkdir()
    for split in ("train", "validation"):
        lines = "".join(
            json.dumps({"messages": talk, "tools": [tool] * (1 + i % 2)}) + "\n" for i in range(8)
        )
        (lab / "tool_rows" / f"{split}.jsonl").write_text(lines)
    for name, keys in (
        ("rows", ["messages"]),
        ("task_rows", ["prompt", "completion"]),
        ("tool_rows", ["messages", "tools"]),
    ):
        (lab / f"stock_{name}").mkdir()
        for split, target in (("train", "train"), ("validation", "test")):
            rows = [json.loads(line) for line in (lab / name / f"{split}.jsonl").read_text().splitlines()]
            for row in rows if "messages" in keys else ():
                turns = [
                    {"role": "user", "content": row.get("prompt")},
                    {"role": "assistant", "content": row.get("completion")},
                ]
                row.setdefault("messages", turns)
            lines = "".join(json.dumps({key: row[key] for key in keys}) + "\n" for row in rows)
            (lab / f"stock_{name}" / f"{target}.jsonl").write_text(lines)
    return lab


def same(one, other):
    assert losses(one) == losses(other)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def trl_sft(root, config, output_dir):
    """What `trl sft --config YAML` does, in this process."""
    given = {key: value for key, value in config.items() if key not in OURS}
    given |= {"dataset_name": f"stock_{config['rows']}", "output_dir": output_dir}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        path = Path("stock.json")
        path.write_text(json.dumps(given))
        arguments = stock.make_parser().parse_args_and_config(["--config", str(path)])
        trainers, train = [], SFTTrainer.train
        patch.setattr(
            SFTTrainer, "train", lambda self, *a, **k: (trainers.append(self), train(self, *a, **k))[1]
        )
        stock.main(*arguments)
        trainers[0].save_state()


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.guarantee(
    "Recipes", "sft.py ends in the weights of stock `trl sft` on the same rows and YAML, bit for bit."
)
def test_sft_is_stock_trl(lab, name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    config = MATRIX[name] | {"output_dir": str(tmp_path / "ours")}
    config |= {"access": "public"} if config["rows"] == "tool_rows" else {}
    assert recipe(lab, "sft", config) is None
    trl_sft(lab, config, str(tmp_path / "theirs"))
    same(tmp_path / "ours", tmp_path / "theirs")


def test_the_matrix_tells_settings_apart(lab, tmp_path):
    """Two settings of it do not end in the same weights: the comparison sees what is trained."""
    found = []
    for name in ("nll", "dft"):
        assert recipe(lab, "sft", MATRIX[name] | {"output_dir": str(tmp_path / name)}) is None
        found.append(losses(tmp_path / name))
    assert found[0] != found[1]


# ---------------------------------------------------------------- pretraining
@pytest.mark.parametrize("masking", [True, False])
@pytest.mark.guarantee(
    "Recipes", "pretrain.py ends in the weights of the bare Trainer on the same blocks, bit for bit."
)
def test_pretrain_is_the_bare_trainer(lab, tmp_path, masking):
    config = PRETRAIN | {"document_masking": masking, "output_dir": str(tmp_path / "ours"), "max_steps": 4}
    config |= {"model_name_or_path": "base", "from_scratch": False, "save_strategy": "no"}
    assert recipe(lab, "pretrain", config) is None

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(lab)
        patch.syspath_prepend(str(lab))
        module = runpy.run_path("my_pretrain.py")
        manifest = json.loads(Path("blocks/manifest.json").read_text())
        files = [o["path"] for o in manifest["outputs"] if o["split"] == "train"]
        rows = [row for file in files for row in Dataset.from_file(f"blocks/{file}").with_format("numpy")]
        blocks = [rows[i] for i in np.load("blocks/order.npy")]
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "theirs"),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=4,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
        )
        model = AutoModelForCausalLM.from_pretrained("base")
        trainer = Trainer(model, arguments, data_collator=module["Collator"](masking), train_dataset=blocks)
        trainer.train()
        trainer.save_model()
        trainer.save_state()
    same(tmp_path / "ours", tmp_path / "theirs")


# ---------------------------------------------------------------- without its safeguards
class WithoutSafeguards(ast.NodeTransformer):
    """A recipe without the imports of the modules beside it, and without every line that uses one of their
    names."""

    def __init__(self):
        self.names = set()

    def used(self, node):
        return any(isinstance(part, ast.Name) and part.id in self.names for part in ast.walk(node))

    def visit_Import(self, node):
        gone = [name for name in node.names if f"{name.name}.py" in (*SAFEGUARDS, *ALIGNMENT)]
        self.names |= {name.name for name in gone}
        return None if gone else node

    def visit_ImportFrom(self, node):
        if f"{node.module}.py" in (*SAFEGUARDS, *ALIGNMENT):
            self.names |= {name.asname or name.name for name in node.names}
            return None
        return node

    def visit_ClassDef(self, node):
        node.bases = [base for base in node.bases if not self.used(base)]
        return self.generic_visit(node)

    def visit_With(self, node):
        used = any(self.used(item) for item in node.items)
        node = self.generic_visit(node)
        return node.body if used else node

    def visit_Call(self, node):
        node.keywords = [keyword for keyword in node.keywords if not self.used(keyword)]
        return self.generic_visit(node)

    def generic_visit(self, node):
        if isinstance(node, ast.If) and self.used(node.test):
            return None
        if isinstance(node, ast.Raise) and self.used(node):
            return ast.Raise()
        super().generic_visit(node)
        if isinstance(node, ast.Assign) and self.used(node.value):
            self.names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            return None
        return None if isinstance(node, ast.Expr | ast.AugAssign) and self.used(node) else node


def bare_run(lab, name, config, folder, beside=()):
    """Run what is left of a recipe without its safeguards, alone in a new `folder`; it writes FOLDER/without."""
    bare = WithoutSafeguards().visit(ast.parse((ROOT / "recipes" / f"{name}.py").read_text()))
    text = ast.unparse(ast.fix_missing_locations(bare))
    assert not [
        name
        for name in (*SAFEGUARDS, *ALIGNMENT)
        if f"import {name[:-3]}" in text or f"from {name[:-3]} " in text
    ]
    folder.mkdir()
    for file in beside:  # what it trains on
        shutil.copy(ROOT / "recipes" / file, folder)
    (folder / "bare.py").write_text(text)
    paths = {key: str(lab / config[key]) for key in ("model_name_or_path", "rows", "blocks") if key in config}
    (folder / "run.yaml").write_text(json.dumps(config | paths | {"output_dir": "without"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["bare.py", "--config", "run.yaml"])
        patch.setattr(sys, "path", [str(folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)])
        for file in (*SAFEGUARDS, *ALIGNMENT):
            patch.delitem(sys.modules, Path(file).stem, raising=False)
        runpy.run_path("bare.py", run_name="__main__")


@pytest.mark.parametrize(
    ("name", "config"), [("sft", CHAT), ("sft", PROMPTS), ("pretrain", PRETRAIN | {"max_steps": 4})]
)
@pytest.mark.guarantee(
    "Recipes", "Every safeguard can be deleted: what is left runs alone and ends in the same weights."
)
def test_what_is_left_without_safeguards_ends_in_the_same_weights(lab, tmp_path, name, config):
    assert recipe(lab, name, config | {"output_dir": str(tmp_path / "with")}) is None
    bare_run(lab, name, config, tmp_path / "alone")
    same(tmp_path / "with", tmp_path / "alone/without")
