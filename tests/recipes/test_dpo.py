"""recipes/dpo.py is the stock DPOTrainer, bit for bit; resumes to the same bits; and refuses, before step 1,
what would train something else than the pairs say."""

import json
import shutil
import signal
from math import log
from pathlib import Path
from unittest.mock import ANY

import pytest
from trl import DPOTrainer
from trl.scripts import dpo as stock

from tests.lab import ROOT, TASK, killed, logged, losses, recipe, run_json, signalled
from tests.recipes.test_parity import LORA, bare_run, same

PLAIN = {key: value for key, value in TASK.items() if "eval" not in key and "best" not in key}
PLAIN = {key: value for key, value in PLAIN.items() if key != "greater_is_better"} | {
    "model_name_or_path": "chat",
    "rows": "pairs",
    "max_steps": 2,
    "save_strategy": "no",
    "max_length": 96,
    "per_device_eval_batch_size": 4,
}
OURS = ("rows", "global_batch_size", "conversation")
MATRIX = {
    "full": PLAIN,
    "lora": PLAIN | LORA,
    "qlora": PLAIN | LORA | {"model_name_or_path": "even_chat", "load_in_4bit": True},
    "precomputed": PLAIN | {"precompute_ref_log_probs": True},
    "raw text": PLAIN | {"conversation": False, "model_name_or_path": "base"},
    "ipo, cut": PLAIN | {"loss_type": ["ipo"], "max_length": 24},
    "sigmoid with sft": PLAIN | {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    "bf16": PLAIN | {"bf16": True},
    "accumulation": PLAIN | LORA | {"gradient_accumulation_steps": 2, "beta": 0.3, "label_smoothing": 0.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(lab):
    template = (ROOT / "recipes/chat_template.jinja").read_text()
    for name, copy in (("base", "chat"), ("even", "even_chat")):
        (lab / copy).mkdir()
        for file in (lab / name).iterdir():
            if file.is_file() and not file.name.startswith("."):
                (lab / copy / file.name).write_bytes(file.read_bytes())
        (lab / copy / "chat_template.jinja").write_text(template)
    common = {"source": "s", "license": "CC0", "access": "gated"}
    rows = [
        {"id": f"p{i}", "prompt": f"Is fever {i} given?\n", "chosen": "yes, it is", "rejected": f"no {i}"}
        for i in range(16)
    ]
    (lab / "pairs").mkdir()
    (lab / "stock_pairs").mkdir()
    (lab / "stock_text").mkdir()
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    for split, target in (("train", "train"), ("validation", "test")):
        part = [row | common | {"split": split} for row in rows]
        talks = [{k: [{"role": roles[k], "content": row[k]}] for k in roles} for row in rows]
        texts = [{k: row[k] for k in roles} for row in rows]
        for folder, name, lines in (
            ("pairs", split, part),
            ("stock_pairs", target, talks),
            ("stock_text", target, texts),
        ):
            (lab / folder / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (lab / "pairs/manifest.json").write_text(json.dumps({"access": "gated"}))
    return lab


def trl_dpo(root, config, output_dir):
    """What `trl dpo --config YAML` does, in this process."""
    given = {key: value for key, value in config.items() if key not in OURS}
    text = config.get("conversation", True) is False
    given |= {"dataset_name": "stock_text" if text else "stock_pairs", "output_dir": output_dir}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        Path("stock_dpo.json").write_text(json.dumps(given))
        arguments = stock.make_parser().parse_args_and_config(["--config", "stock_dpo.json"])
        trainers, train = [], DPOTrainer.train
        patch.setattr(
            DPOTrainer, "train", lambda self, *a, **k: (trainers.append(self), train(self, *a, **k))[1]
        )
        stock.main(*arguments)
        trainers[0].save_state()


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.guarantee(
    "Recipes", "dpo.py ends in the weights of stock `trl dpo` on the same pairs and YAML, bit for bit."
)
def test_dpo_is_stock_trl(lab, name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    config = MATRIX[name] | {"output_dir": str(tmp_path / "ours")}
    assert recipe(lab, "dpo", config) is None
    trl_dpo(lab, config, str(tmp_path / "theirs"))
    same(tmp_path / "ours", tmp_path / "theirs")
    if config.get("loss_type", ["sigmoid"]) == ["sigmoid"] and not config.get("label_smoothing"):
        assert losses(tmp_path / "ours")[0] == pytest.approx(log(2), abs=1e-3)
    metrics = run_json(tmp_path / "ours")["metrics"]
    assert {"eval_rewards/margins", "eval_rewards/accuracies", "eval_entropy"} <= set(metrics)


@pytest.mark.parametrize("name", ["lora", "precomputed"])
@pytest.mark.guarantee(
    "Training", "A killed DPO run resumes to the same losses, margins and weights, bit for bit, on a CPU."
)
def test_kill_9_and_resume_is_the_same_run(lab, name):
    config = MATRIX[name] | {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "lora_dropout": 0.0}
    config |= {"eval_strategy": "steps", "eval_steps": 3}
    whole, cut = f"dpo {name} whole", f"dpo {name} killed"
    assert recipe(lab, "dpo", config | {"output_dir": whole}) is None
    if name == "lora":
        died = signalled(lab, "dpo", config | {"output_dir": cut}, 6, signal.SIGKILL)
        assert died.returncode == -signal.SIGKILL
    else:
        killed(lab, "dpo", config | {"output_dir": cut}, 6)
    assert run_json(lab / cut)["status"] == "running"
    assert (lab / cut / "checkpoint-4/complete.json").is_file()
    assert recipe(lab, "dpo", config | {"output_dir": cut}) is None
    same(lab / whole, lab / cut)
    keys = ("loss", "rewards/margins", "rewards/accuracies", "grad_norm", "tokens_seen")
    assert logged(lab / whole, *keys) == logged(lab / cut, *keys)
    history = [json.loads((lab / n / "trainer_state.json").read_text())["log_history"] for n in (whole, cut)]
    kl = [[entry["eval_kl"] for entry in log if "eval_kl" in entry] for log in history]
    assert kl[0] == kl[1] and (name == "precomputed") == (not kl[0]) and all(value > 0 for value in kl[0])
    assert run_json(lab / cut)["rows"] == run_json(lab / whole)["rows"] == {
        "given": 16, "kept": 16, "cut": 0, "chosen_tokens": ANY, "rejected_tokens": ANY, "chosen_longer": ANY
    }  # fmt: skip


@pytest.mark.guarantee(
    "Recipes", "Every safeguard can be deleted: what is left runs alone and ends in the same weights."
)
def test_without_its_safeguards(lab, tmp_path, monkeypatch):
    config = MATRIX["lora"] | {"output_dir": str(tmp_path / "with")}
    assert recipe(lab, "dpo", config) is None
    bare_run(lab, "dpo", config, tmp_path / "alone")
    same(tmp_path / "with", tmp_path / "alone/without")


def refused(lab, config, **changes):
    said = recipe(lab, "dpo", config | {"output_dir": "refused"} | changes)
    assert said and said.startswith("error: ") and "Next: " in said and not (lab / "refused").exists()
    return said


def test_settings_without_effect_are_refused(lab):
    assert "padding_free: True has no effect" in refused(lab, PLAIN, padding_free=True)
    assert "max_loss_jump: 2.0 has no effect here" in refused(lab, PLAIN, max_loss_jump=2.0)
    assert "has no chat template" in refused(lab, PLAIN, model_name_or_path="base")
    assert "not a multiple of 2" in refused(lab, PLAIN, global_batch_size=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rejected": None}, "line 3 is not a pair (TypeError)"),
        ({"rejected": "yes, it is "}, "line 3 has the same answer as chosen and as rejected"),
        ({"chosen": " "}, "line 3 has an empty text in 'chosen'"),
    ],
)
def test_bad_pairs_are_one_sentence(lab, tmp_path, change, said):
    lines = (lab / "pairs/train.jsonl").read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | change)
    shutil.copytree(lab / "pairs", tmp_path / "pairs")
    (tmp_path / "pairs/train.jsonl").write_text("\n".join(lines))
    out = str(tmp_path / "out")
    found = recipe(lab, "dpo", PLAIN | {"rows": str(tmp_path / "pairs"), "output_dir": out})
    assert said in found and "Is fever" not in found
    no_answer = json.loads(lines[2])
    del no_answer["rejected"]
    (tmp_path / "pairs/train.jsonl").write_text(json.dumps(no_answer))
    found = recipe(lab, "dpo", PLAIN | {"rows": str(tmp_path / "pairs"), "output_dir": out + "2"})
    assert "line 1 is not a pair (KeyError: 'rejected')" in found


def test_what_would_train_something_else_is_refused_before_step_1(lab, tmp_path, monkeypatch):
    endless = (lab / "chat/chat_template.jinja").read_text().replace("+ eos_token", "+ ' .'")
    shutil.copytree(lab / "chat", tmp_path / "endless")
    (tmp_path / "endless/chat_template.jinja").write_text(endless)
    out = {"output_dir": str(tmp_path / "out1")}
    said = recipe(lab, "dpo", PLAIN | out | {"model_name_or_path": str(tmp_path / "endless")})
    assert "pair 1: its chosen answer does not end in EOS" in said

    shutil.copytree(lab / "pairs", tmp_path / "merging")
    for split in ("train", "validation"):
        lines = [json.loads(x) for x in (lab / f"pairs/{split}.jsonl").read_text().splitlines()]
        text = "".join(json.dumps(x | {"prompt": "Is fev", "chosen": "er given"}) + "\n" for x in lines)
        (tmp_path / f"merging/{split}.jsonl").write_text(text)
    config = MATRIX["raw text"] | {"rows": str(tmp_path / "merging"), "output_dir": str(tmp_path / "out2")}
    assert "the end of its prompt is tokenized otherwise once an answer follows" in recipe(lab, "dpo", config)

    found = DPOTrainer.compute_ref_log_probs
    shifted = lambda self, *given: tuple(logps + 0.1 for logps in found(self, *given))  # noqa: E731
    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", shifted)
    said = recipe(lab, "dpo", MATRIX["precomputed"] | {"output_dir": str(tmp_path / "out3")})
    assert "before step 1 policy and reference differ by 0.01 in the first batch" in said
    assert not list((tmp_path / "out3").glob("checkpoint-*"))
