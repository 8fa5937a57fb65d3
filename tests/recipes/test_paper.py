"""recipes/PAPER.md against the YAMLs as the recipes parse them, against the accelerate files and, if the
paper is beside the repository, against its text."""

import importlib
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from tests.recipes.test_configs import ROOT, parsed

TABLES = (ROOT / "recipes/PAPER.md").read_text(encoding="utf-8")
PAPER = sorted((ROOT.parent / "shared/paper").glob("*.txt"))
BLOCK = 4096  # tokens


def table(heading):
    """[{column: cell}] of the first table below a heading or a sentence of PAPER.md."""
    lines = TABLES.split(heading, 1)[1].strip().splitlines()
    lines = lines[next(i for i, line in enumerate(lines) if line.startswith("|")) :]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines[: next((i for i, x in enumerate(lines) if not x.startswith("|")), None)]
    ]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


PUBLISHED, OURS, DERIVED = (
    table("## Published values"),
    table("## Where the paper is silent"),
    table("## What follows from them"),
)
CELLS = [(row, file) for row in PUBLISHED + OURS for file in row["file"].split()]


def value_of(file, key):
    """The value of `key`: in recipes/configs as the recipe parses it, in other files as it is written."""
    if "/" in file:
        value = yaml.safe_load((ROOT / file).read_text())
        for part in key.split("."):
            value = value[part]
        return value
    values = parsed(ROOT / "recipes/configs" / file)
    if key == f"global_batch_tokens / (160 x {BLOCK})":
        return values["global_batch_tokens"] / (160 * BLOCK)
    return getattr(values[key], "value", values[key])  # an enum of transformers


@pytest.mark.parametrize(
    ("row", "file"), CELLS, ids=[f"{row['stage']}-{row['quantity']}-{Path(file).stem}" for row, file in CELLS]
)
def test_the_yaml_has_the_value(row, file):
    expected = yaml.safe_load(row.get("value") or row["ours"])
    assert value_of(file, row["key"]) == expected
    path = ROOT / file if "/" in file else ROOT / "recipes/configs" / file
    key = row["key"].split(" / ")[0].split(".")[-1]
    line = re.search(rf"^\s*{key}:.*", path.read_text(), re.M)
    assert line, f"{path.name} leaves {key} to a default"
    if "/" not in file and "value" in row and key not in ("use_peft",):
        assert "# paper: " in line.group(), f"{path.name}: {key} is published; its line says so"
    if "/" not in file and "ours" in row:
        assert re.search("# (ours|memory)", line.group()) and "# paper" not in line.group(), (
            f"{path.name}: {key} is not published"
        )


def test_every_value_marked_as_published_is_in_the_table():
    listed = {(file, row["key"].split(" / ")[0]) for row in PUBLISHED for file in row["file"].split()}
    listed |= {(file, "global_batch_tokens") for file in ("pretrain_13b.yaml", "pretrain_70b.yaml")}
    for file in sorted({file for file, _ in listed if "/" not in file}):
        for line in (ROOT / "recipes/configs" / file).read_text().splitlines():
            if "# paper: " in line and not line.startswith("#"):
                assert (file, line.split(":")[0]) in listed, f"{file}: {line}"


def test_tokens_of_a_step_and_number_of_steps():
    derived = {row["quantity"]: yaml.safe_load(row["value"]) for row in DERIVED}
    mixture = yaml.safe_load((ROOT / "data_prep/mixtures/paper.yaml").read_text())
    for name in ("pretrain_13b.yaml", "pretrain_70b.yaml"):
        values = parsed(ROOT / "recipes/configs" / name)
        step = values["global_batch_tokens"]
        assert (
            step
            == values["per_device_train_batch_size"] * 16 * 160 * mixture["block_length"]
            == derived["tokens of an optimizer step"]
            == 10_485_760
        )
        blocks = mixture["tokens"] // mixture["block_length"]
        steps = blocks // (step // mixture["block_length"]) * values["num_train_epochs"]
        assert steps == derived["steps of pretraining"] == 12_302
        assert values["lr_scheduler_type"] == "cosine" and values["warmup_steps"] < 1
        assert math.ceil(steps * values["warmup_steps"]) == derived["steps of warmup"]
        assert step // (8 * mixture["block_length"]) == derived["gradient accumulation on 8 GPUs"]
    assert round(700 * 3600 / 12_302) == derived["seconds of a step"]


class Reached(Exception):
    pass


def test_the_machine_changes_the_accumulation_and_nothing_else(monkeypatch, tmp_path):
    """The recipe's own arithmetic: 16 micro-steps on 160 ranks as in the paper, 320 on 8; 12,302 steps."""
    values = parsed(ROOT / "recipes/configs/pretrain_70b.yaml")
    recipe = sys.modules["pretrain"]
    blocks = 129_000_000_000 // BLOCK
    manifest = {"block_length": BLOCK, "domains": {}, "outputs": [], "order": {}, "tokenizer": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    np.lib.format.open_memmap(tmp_path / "order.npy", mode="w+", dtype=np.int32, shape=(blocks,))  # sparse
    run = SimpleNamespace(global_batch_tokens=values["global_batch_tokens"], blocks=str(tmp_path))

    def reached(*args):
        raise Reached

    monkeypatch.setattr(recipe.checks, "check_launch", reached)
    for ranks, accumulation in ((160, 16), (8, 320), (1, 2560)):
        training = SimpleNamespace(
            world_size=ranks, per_device_train_batch_size=values["per_device_train_batch_size"]
        )
        with pytest.raises(Reached):
            recipe.main((run, training))
        assert training.gradient_accumulation_steps == accumulation
    assert len(recipe.load_data((run, None))["train"]) == 12_302 * 2560


def test_the_epochs_follow_the_rows():
    """The paper's rule, on its own numbers of rows, in the table and in the YAML of each task."""
    epochs = {}
    for row in table("Epochs of the twelve benchmarks"):
        rows = yaml.safe_load(row["rows"])
        assert importlib.import_module(f"data_prep.benchmarks.{row['task']}").EXPECTED["train"] == rows
        epochs[row["task"]] = int(row["epochs"])
        assert epochs[row["task"]] == (5 if rows < 10_000 else 3), row["task"]
    assert len(epochs) == 12
    paths = sorted((ROOT / "recipes/configs").glob("finetune_task_*.yaml"))
    tasks = {path.stem: Path(parsed(path)["rows"]).name for path in paths}
    assert set(tasks.values()) == {"medqa", "hoc"}
    for path in paths:
        assert parsed(path)["num_train_epochs"] == epochs[tasks[path.stem]], path.name


def quotes(text):
    return re.findall(r'"([^"]{12,})"', text)


def plain(text):
    """Words only: no footnote marks, no formulas' dollars, one kind of apostrophe and dash."""
    text = (
        re.sub(r"<sup>.*?</sup>|\$|\*\*|<br>", "", text).replace("’", "'").replace("–", "-").replace("‑", "-")
    )
    return re.sub(r"\s+", " ", text).lower()


@pytest.mark.skipif(not PAPER, reason="the paper is not beside the repository")
def test_every_quotation_is_in_the_paper():
    paper = plain(" ".join(path.read_text(encoding="utf-8") for path in PAPER))
    texts = {"PAPER.md": TABLES} | {
        path.name: path.read_text()
        for path in (ROOT / "recipes/configs").glob("*.yaml")
        if not path.stem.startswith("demo")
    }
    for name, text in texts.items():
        parts = [part for quote in quotes(text) for part in re.split(r"\s*\.\.\.\s*", plain(quote))]
        missing = [part for part in parts if part.rstrip(".,;") not in paper]
        assert not missing, f"{name}: {missing}"
