"""Loss by position and the needle: computed as said, shown in the report, and blind models find nothing."""

import json
import math
import re
import shutil
import sys
import types
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from data_prep.schema import BadInput
from evaluation import long_context, needle_rows, report, ruler
from tests import tokenizer_families
from tests.tiny_model import make_tokenizer

TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
TINY |= {"intermediate_size": 8, "vocab_size": 512, "max_position_embeddings": 2048}


def test_the_needle_is_where_it_should_be_and_is_asked_for():
    tokenizer = make_tokenizer()
    places = []
    for depth in (0.0, 0.5, 1.0):
        ids, answer = long_context.needle(tokenizer, 1200, depth, "0")
        text, code = tokenizer.decode(ids), tokenizer.decode(answer).strip()
        assert 1000 < len(ids) <= 1200 and ids[0] == tokenizer.bos_token_id
        assert text.count(f"The locker number of the patient is {code}") == 2 and text.endswith(code)
        assert ids[-len(answer) :] == answer and code.isdigit() and len(code) == 4
        places.append(text.index(code) / len(text))
    assert places[0] < 0.1 and 0.4 < places[1] < 0.6 and places[2] > 0.85
    assert long_context.needle(tokenizer, 1200, 0.5, "0") == long_context.needle(tokenizer, 1200, 0.5, "0")


class Copyist(torch.nn.Module):
    """Repeats what followed the last earlier appearance of the last twelve tokens, up to `reach` tokens back."""

    def __init__(self, reach):
        super().__init__()
        self.reach, self.device = reach, "cpu"

    def __call__(self, tokens, use_cache=None, logits_to_keep=0):
        ids = tokens[0].tolist()
        logits = torch.zeros(1, len(ids), 300)
        for i in range(len(ids) - logits_to_keep, len(ids)):
            earlier = range(i - 1, max(12, i - self.reach), -1)
            found = next((j for j in earlier if ids[j - 12 : j] == ids[i - 12 + 1 : i + 1]), None)
            if found is not None:
                logits[0, i, ids[found]] = 1.0
        return type("Output", (), {"logits": logits[:, -logits_to_keep:]})


def test_a_model_finds_what_it_can_reach_and_no_more():
    """An ideal copyist finds every needle; one that reaches half as far finds the late ones; a tie is no find."""
    tokenizer = make_tokenizer()
    for depth, near in ((0.0, False), (1.0, True)):
        ids, answer = long_context.needle(tokenizer, 600, depth, "1")
        for reach, expected in ((600, True), (300, near)):
            assert bool((long_context.ranks(Copyist(reach), ids, answer) == 0).all()) == expected
    assert not (long_context.ranks(Copyist(1), ids, answer) == 0).any()


def test_the_command_and_its_place_in_the_report(lab, tmp_path):
    """On held-out blocks the mean over bands is the loss of the whole; the page shows curve and heat map."""
    models = [str(lab / "backbone_trained"), str(lab / "base")]
    if not (lab / "backbone_trained").exists():
        shutil.copytree(lab / "base", models[0])
    out = tmp_path / "long"
    arguments = ["--blocks", str(lab / "blocks"), "--lengths", "96,192", "--depths", "2", "--repeats", "2"]
    long_context.main([*models, *arguments, "--old_length", "96", "--out", str(out)])
    result = json.loads((out / "long_context.json").read_text())
    (change,) = result["beyond"]
    assert change["asked"] == 4 and change["difference"] == 0 and change["verdict"] == "not shown"
    assert "Beyond 96 tokens, 4 needles" in long_context.markdown(result)
    first, second = result["models"]
    assert first["needles"] == second["needles"] and first["loss"] == second["loss"]
    assert [cell["length"] for cell in first["needles"]] == [96, 96, 192, 192]

    model = AutoModelForCausalLM.from_pretrained(lab / "base").eval()
    manifest = json.loads((lab / "blocks/manifest.json").read_text())
    documents = long_context.longest_documents(lab / "blocks", manifest, 200)
    sums = []
    for ids in documents:
        tokens = torch.from_numpy(ids.astype(np.int64))[None]
        with torch.no_grad():
            sums.append(model(tokens, labels=tokens).loss.item() * (len(ids) - 1))
    tokens = sum(len(ids) - 1 for ids in documents)
    bands = first["loss"]
    assert sum(band["tokens"] for band in bands) == tokens
    mean = sum(band["nats"] * band["tokens"] for band in bands) / tokens
    assert math.isclose(mean, sum(sums) / tokens, rel_tol=1e-4)
    assert all(band["low"] <= band["nats"] <= band["high"] for band in bands if band["documents"] > 20)

    page = long_context.section([result])
    assert page["html"].count("<svg") == 2 and "Longer context" in page["markdown"]
    with pytest.raises(SystemExit, match="no such file. Next: python -m evaluation.long_context"):
        report.main(
            ["--evaluation", str(tmp_path), "--long_context", "none.json", "--out", str(tmp_path / "r")]
        )


def test_rows_that_teach_it_are_prompts_that_are_not_asked(tmp_path, capsys):
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    given = ["--tokenizer", str(tmp_path / "tokenizer"), "--out", str(tmp_path / "rows"), "--rows", "50"]
    needle_rows.main([*given, "--longest", "300"])
    lines = (tmp_path / "rows/train.jsonl").read_text().splitlines()
    assert len(lines) == 50 and len((tmp_path / "rows/validation.jsonl").read_text().splitlines()) == 1
    for row in map(json.loads, lines):
        assert f"{long_context.QUESTION}{row['completion']}.\n" in row["prompt"], "the number is in the notes"
        assert row["prompt"].endswith(long_context.QUESTION) and len(row["completion"].strip()) == 4
    asked = make_tokenizer().decode(long_context.needle(make_tokenizer(), 300, 0.5, "0 0")[0])
    assert not any(json.loads(line)["prompt"] in asked for line in lines)
    with pytest.raises(SystemExit, match="--longest from 48"):
        needle_rows.main([*given, "--longest", "20"])


@pytest.mark.parametrize("name", tokenizer_families.FAMILIES)
def test_a_needle_begins_as_its_tokenizer_begins_a_text(name):
    tokenizer = tokenizer_families.FAMILIES[name]()
    ids, _ = long_context.needle(tokenizer, 600, 0.5, "0")
    assert (ids[0] == tokenizer.bos_token_id) == (name in tokenizer_families.ADDS_BOS)


def test_needles_beyond_the_old_length_are_compared_in_pairs():
    def model(name, *found):
        cells = [{"length": length, "each": each} for length, each in zip((96, 192, 384), found, strict=True)]
        return {"model": name, "needles": cells}

    old = model("old", [True] * 4, [True, False, False, False], [False] * 4)
    new = model("new", [False] * 4, [True] * 4, [True] * 4)
    change = long_context.beyond(old, new, 96)
    assert (change["found"], change["found_by_first"], change["difference"]) == (1.0, 0.125, 0.875)
    assert change["low"] > 0.5 and change["verdict"] == "shown"
    assert long_context.beyond(new, old, 96)["verdict"] == "contradicted"


def test_ruler_is_asked_as_the_harness_defines_it_without_a_download(monkeypatch):
    """One model answers right, as its answers are put into its mouth; no tokenizer is loaded by name."""
    words = {"nouns": ["apple", "stone"], "adjectives": ["red", "old"], "verbs": ["go", "run"]}
    fake = types.ModuleType("wonderwords")
    fake.RandomWord = lambda: SimpleNamespace(_categories=words)
    fake.__spec__ = ModuleSpec("wonderwords", None)
    monkeypatch.setitem(sys.modules, "wonderwords", fake)
    ruler.check(["niah_single_1"], [1024])
    asked = []

    def answers(self, requests, **kwargs):
        prompts = [request.args[0] for request in requests]
        asked.extend(prompts)
        return [re.search(r"is: (\d+)", prompt)[1] if i % 2 else "none" for i, prompt in enumerate(prompts)]

    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.generate_until", answers)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**TINY))
    (cell,) = ruler.ask(model, make_tokenizer(), ["niah_single_1"], [1024], 6)
    assert (cell["task"], cell["length"], cell["asked"], cell["value"]) == ("niah_single_1", 1024, 6, 0.5)
    assert cell["low"] < 0.5 < cell["high"] and len(asked) == 6 and "special magic number" in asked[0]
    for tasks, lengths, said in (
        (["niah_single_2"], [1024], "no generated task"),
        (["ruler_vt"], [512], "from 1024"),
    ):
        with pytest.raises(BadInput, match=said):
            ruler.check(tasks, lengths)


def test_bad_arguments_are_one_sentence(lab, tmp_path):
    for given, said in ((["--lengths", "many"], "whole numbers"), (["--lengths", "8"], "from 64"),
                        (["--blocks", "nowhere"], "nowhere"), (["--old_length", "64"], "needs a second model"),
                        (["--ruler", "essays"], "no generated task 'essays'")):  # fmt: skip
        with pytest.raises(SystemExit, match=said):
            long_context.main([str(lab / "base"), *given, "--out", str(tmp_path / "out")])
