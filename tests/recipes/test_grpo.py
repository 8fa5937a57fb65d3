"""recipes/grpo.py: the stock GRPOTrainer, bit for bit; rewards that read an answer as evaluation does and earn
nothing by deceit; what is watched while it runs; resumes."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from trl import GRPOTrainer
from trl.scripts import grpo as stock

from evaluation.scoring import parsing
from tests.lab import ROOT, TASK, build_lab, recipe, run_json
from tests.recipes.test_parity import LORA, same

GRPO = {key: value for key, value in TASK.items() if "eval" not in key and "best" not in key}
GRPO = {key: value for key, value in GRPO.items() if key not in ("greater_is_better", "max_length")} | {
    "model_name_or_path": "chat",
    "rows": "choice_rows",
    "rewards": ["answer", "format", "overlong"],
    "reward_weights": [1.0, 0.5, 0.2],
    "max_steps": 2,
    "save_strategy": "no",
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 12,
    "second_measure_steps": 1,
    "stop_without_variance": 50,
}
OURS = ("rows", "rewards", "second_measure_steps", "stop_without_variance", "conversation")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    root = build_lab(tmp_path_factory.getbasetemp() / "lab")
    if (root / "choice_rows").is_dir():
        return root
    if not (root / "chat").is_dir():
        (root / "chat").mkdir()
        for file in (root / "base").iterdir():
            if file.is_file() and not file.name.startswith("."):
                (root / "chat" / file.name).write_bytes(file.read_bytes())
        template = (ROOT / "recipes/chat_template.jinja").read_text()
        (root / "chat/chat_template.jinja").write_text(template)
    common = {"task": "t", "scoring": "choice", "source": "s", "license": "CC0", "access": "gated"}
    common |= {"choices": ["A", "B", "C"], "options": ["rest", "salt", "sun"]}
    rows = [
        {"id": f"r{i}", "prompt": f"Question {i}: fever?\nA. rest\nB. salt\nC. sun\nAnswer:\n"}
        | {"question": f"Fever {i}?", "completion": "ABC"[i % 3]}
        for i in range(8)
    ]
    (root / "choice_rows").mkdir()
    (root / "stock_rows_grpo").mkdir()
    for split, target in (("train", "train"), ("validation", "test")):
        lines = [json.dumps(row | common | {"split": split}) + "\n" for row in rows]
        (root / f"choice_rows/{split}.jsonl").write_text("".join(lines))
        plain = [
            {"prompt": [{"role": "user", "content": row["prompt"]}], "asked": row["prompt"], "id": row["id"]}
            | {"answer": row["completion"], "question": row["question"]}
            | {key: common[key] for key in ("scoring", "choices", "options")}
            for row in rows
        ]
        text = "".join(json.dumps(row) + "\n" for row in plain)
        (root / f"stock_rows_grpo/{target}.jsonl").write_text(text)
    (root / "choice_rows/manifest.json").write_text(json.dumps({"access": "gated"}))
    return root


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes"))
        names = ("rewards", "reward_checks", "alignment_callbacks", "checks")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def trl_grpo(root, config, output_dir, patch):
    """What `trl grpo --config YAML` does with the same reward functions, in this process."""
    given = {key: value for key, value in config.items() if key not in OURS}
    given |= {"dataset_name": "stock_rows_grpo", "output_dir": output_dir}
    run = SimpleNamespace(rewards=config["rewards"], judge_url=None, judge_model=None, reward_file=None)
    patch.chdir(root)
    Path("stock_grpo.json").write_text(json.dumps(given))
    script, training, named, data = stock.make_parser().parse_args_and_config(["--config", "stock_grpo.json"])
    rewards = importlib.import_module("rewards")
    for function in rewards.reward_functions(run, training):
        setattr(sys.modules["rewards"], f"stock_{function.__name__}", function)
    script.reward_funcs = [f"rewards.stock_{name}" for name in config["rewards"]]
    trainers, train = [], GRPOTrainer.train
    patch.setattr(
        GRPOTrainer, "train", lambda self, *a, **k: (trainers.append(self), train(self, *a, **k))[1]
    )
    stock.main(script, training, named, data)
    trainers[0].save_state()


MATRIX = {
    "full": GRPO,
    "lora, kl": GRPO | LORA | {"beta": 0.1, "lora_dropout": 0.0},
    "reused twice": GRPO | {"num_iterations": 2, "loss_type": "grpo"},
}


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.guarantee(
    "Recipes",
    "grpo.py ends in the weights of stock `trl grpo` on the same rows, rewards and YAML, bit for bit.",
)
def test_grpo_is_stock_trl(lab, name, tmp_path, monkeypatch, modules):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    config = MATRIX[name] | {"output_dir": str(tmp_path / "ours")}
    assert recipe(lab, "grpo", config) is None
    trl_grpo(lab, config, str(tmp_path / "theirs"), monkeypatch)
    same(tmp_path / "ours", tmp_path / "theirs")
    log = json.loads((tmp_path / "ours/trainer_state.json").read_text())["log_history"]
    wanted = {"rewards/answer/mean", "rewards/format/mean", "rewards/answer/missing", "entropy", "reward"}
    wanted |= {
        "completions/clipped_ratio",
        "frac_reward_zero_std",
        "sampling/logp_gap",
        "heldout/ll_accuracy",
    }
    assert wanted <= set(log[0]) and ("kl" in log[0]) == ("beta" in config)
    assert log[0]["sampling/logp_gap"] < 1e-4
    record = run_json(tmp_path / "ours")
    assert record["rewards"] == {"parser": parsing.PARSER_VERSION}
    file = tmp_path / "ours/completions/rank0.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    assert len(train) == (8 if name != "reused twice" else 4) and file.stat().st_mode & 0o77 == 0
    assert set(train[0]) == {"step", "split", "id", "completion", "tokens", "rewards"}
    assert {line["split"] for line in lines} == {"train", "validation"}
