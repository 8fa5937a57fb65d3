"""recipes/PAPER.md against the YAMLs as the recipes parse them, against the machines, and, where the article lies beside the repository, against its words."""

import importlib
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.recipes.test_configs import ROOT, parsed

PAPER = (ROOT / "recipes/PAPER.md").read_text()
ARTICLE = sorted((ROOT.parent / "shared/paper").glob("*.txt"))
BLOCK = 4096  # tokens


def table(heading):
    """[{column: cell}] of the first table below a heading or a sentence of PAPER.md."""
    lines = PAPER.split(heading, 1)[1].strip().splitlines()
    lines = lines[next(i for i, line in enumerate(lines) if line.startswith("|")) :]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines[: next((i for i, x in enumerate(lines) if not x.startswith("|")), None)]
    ]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


PUBLISHED, OURS, DERIVED = (
    table("## Published values"),
    table("## Where the article is silent"),
    table("## What follows from them"),
)
CELLS = [(row, file) for row in PUBLISHED + OURS for file in row["file"].split()]


def held(file, key):
    """The value that a file holds at `key`: a YAML of recipes/configs as its recipe parses it, others as they are written."""
    if "/" in file:
        value = yaml.safe_load((ROOT / file).read_text())
        for part in key.split("."):
            value = value[part]
        return value
    values = parsed(ROOT / "recipes/configs" / file)
    if key == f"tokens_per_step / (160 x {BLOCK})":
        return values["tokens_per_step"] / (160 * BLOCK)
    return getattr(values[key], "value", values[key])  # an enum of transformers


@pytest.mark.parametrize(
    ("row", "file"), CELLS, ids=[f"{row['stage']}-{row['quantity']}-{Path(file).stem}" for row, file in CELLS]
)
def test_the_yaml_holds_the_value(row, file):
    expected = yaml.safe_load(row.get("value") or row["ours"])
    assert held(file, row["key"]) == expected
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
    listed |= {(file, "tokens_per_step") for file in ("pretrain_13b.yaml", "pretrain_70b.yaml")}
    for file in sorted({file for file, _ in listed if "/" not in file}):
        for line in (ROOT / "recipes/configs" / file).read_text().splitlines():
            if "# paper: " in line and not line.startswith("#"):
                assert (file, line.split(":")[0]) in listed, f"{file}: {line}"


def test_the_step_and_the_steps_of_the_article():
    derived = {row["quantity"]: yaml.safe_load(row["value"]) for row in DERIVED}
    mixture = yaml.safe_load((ROOT / "data_prep/mixtures/paper.yaml").read_text())
    for name in ("pretrain_13b.yaml", "pretrain_70b.yaml"):
        values = parsed(ROOT / "recipes/configs" / name)
        step = values["tokens_per_step"]
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


def test_the_machine_changes_the_accumulation_and_nothing_else():
    """The recipe's own arithmetic: 16 micro-steps on 160 ranks as in the article, 320 on 8, and the same 12,302 steps."""
    parsed(ROOT / "recipes/configs/pretrain_70b.yaml")
    recipe = sys.modules["pretrain"]
    for ranks, accumulation in ((160, 16), (8, 320), (1, 2560)):
        arguments = SimpleNamespace(world_size=ranks, per_device_train_batch_size=1)
        recipe.split_step("tokens_per_step", 10_485_760, BLOCK, arguments)
        assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (
            1,
            accumulation,
        )
    blocks = SimpleNamespace(order=range(129_000_000_000 // BLOCK))
    recipe.PackedBlocks.keep_whole_steps(blocks, 10_485_760 // BLOCK)
    assert len(blocks.order) / 2560 == 12_302 and blocks.left_over < 2560


class Reached(Exception):
    pass


def test_the_epochs_follow_the_rows(monkeypatch):
    """The article's rule as finetune_task.py applies it when the YAML says null, on the article's own numbers of rows."""
    values = parsed(ROOT / "recipes/configs/finetune_task_13b.yaml")
    recipe = sys.modules["finetune_task"]
    assert values["num_train_epochs"] is None

    def reached(*args):
        raise Reached

    monkeypatch.setattr(recipe, "check_launch", lambda *args: None)
    monkeypatch.setattr(recipe, "check_model", reached)
    listed = {
        row["task"]: (yaml.safe_load(row["rows"]), int(row["epochs"]))
        for row in table("Epochs of the twelve benchmarks")
    }
    assert len(listed) == 12
    for task, (rows, epochs) in {**listed, "just below": (9_999, 5), "just not below": (10_000, 3)}.items():
        if task in listed:
            assert importlib.import_module(f"data_prep.benchmarks.{task}").EXPECTED["train"] == rows
        monkeypatch.setattr(
            recipe,
            "read_rows",
            lambda folder, split, rows=rows: [{"prompt": "p", "completion": "c"}] * min(rows, 10_001),
        )
        training_args = SimpleNamespace(num_train_epochs=None, max_length=BLOCK)
        with pytest.raises(Reached):
            recipe.main(
                SimpleNamespace(rows=""),
                training_args,
                SimpleNamespace(model_name_or_path="", model_revision="main"),
            )
        assert training_args.num_train_epochs == epochs, task


def quotes(text):
    return re.findall(r'"([^"]{12,})"', text)


def plain(text):
    """Words only: no footnote marks, no formulas' dollars, one kind of apostrophe and dash."""
    text = (
        re.sub(r"<sup>.*?</sup>|\$|\*\*|<br>", "", text).replace("’", "'").replace("–", "-").replace("‑", "-")
    )
    return re.sub(r"\s+", " ", text).lower()


@pytest.mark.skipif(not ARTICLE, reason="the article does not lie beside the repository")
def test_every_quotation_is_in_the_article():
    article = plain(" ".join(path.read_text() for path in ARTICLE))
    texts = {"PAPER.md": PAPER} | {
        path.name: path.read_text()
        for path in (ROOT / "recipes/configs").glob("*.yaml")
        if not path.stem.startswith("demo")
    }
    for name, text in texts.items():
        parts = [part for quote in quotes(text) for part in re.split(r"\s*\.\.\.\s*", plain(quote))]
        missing = [part for part in parts if part.rstrip(".,;") not in article]
        assert not missing, f"{name}: {missing}"
