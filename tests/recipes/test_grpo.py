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

from evaluation.scoring import metrics, parsing
from tests.evaluation.test_parsing import CHOICES, GOLDEN
from tests.fake_openai import FakeServer
from tests.lab import ROOT, TASK, killed, logged, recipe, run_json
from tests.recipes.test_parity import LORA, bare_run, same

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
def lab(lab):
    (lab / "chat").mkdir()
    for file in (lab / "base").iterdir():
        if file.is_file() and not file.name.startswith("."):
            (lab / "chat" / file.name).write_bytes(file.read_bytes())
    (lab / "chat/chat_template.jinja").write_text((ROOT / "recipes/chat_template.jinja").read_text())
    common = {"task": "t", "scoring": "choice", "source": "s", "license": "CC0", "access": "gated"}
    common |= {"choices": ["A", "B", "C"], "options": ["rest", "salt", "sun"]}
    rows = [
        {"id": f"r{i}", "prompt": f"Question {i}: fever?\nA. rest\nB. salt\nC. sun\nAnswer:\n"}
        | {"question": f"Fever {i}?", "completion": "ABC"[i % 3]}
        for i in range(8)
    ]
    (lab / "choice_rows").mkdir()
    (lab / "stock_rows_grpo").mkdir()
    for split, target in (("train", "train"), ("validation", "test")):
        lines = [json.dumps(row | common | {"split": split}) + "\n" for row in rows]
        (lab / f"choice_rows/{split}.jsonl").write_text("".join(lines))
        plain = [
            {"prompt": [{"role": "user", "content": row["prompt"]}], "asked": row["prompt"], "id": row["id"]}
            | {"answer": row["completion"], "question": row["question"]}
            | {key: common[key] for key in ("scoring", "choices", "options")}
            for row in rows
        ]
        text = "".join(json.dumps(row) + "\n" for row in plain)
        (lab / f"stock_rows_grpo/{target}.jsonl").write_text(text)
    (lab / "choice_rows/manifest.json").write_text(json.dumps({"access": "gated"}))
    return lab


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


# ---------------------------------------------------------------- rewards
@pytest.mark.guarantee(
    "Recipes", "A GRPO reward reads an answer as the evaluation does: one parser, one verdict."
)
def test_a_reward_and_a_score_agree(modules):
    """On every hand-labeled answer, and the parser is the evaluation's own file."""
    assert (ROOT / "recipes/parsing.py").resolve() == ROOT / "evaluation/scoring/parsing.py"
    tried = 0
    for case in GOLDEN:
        choices, output = CHOICES[case["choices"]], case["text"]
        for gold in choices if case["choices"] != "hoc" else ():
            row = {"scoring": "choice", "choices": choices, "options": case.get("options") or []}
            graded = metrics.grade(row | {"completion": gold, "output": output})
            found = modules.rewards.answer(output, row | {"answer": gold})
            assert found == graded["score"]["accuracy"]
            assert modules.rewards.format(output, row) == float(graded["parsed"] is not None)
            tried += 1
    assert tried > 500
    labels = {"scoring": "labels", "choices": ["a", "b", "c"]}
    span = {"scoring": "span", "choices": None}
    number = {"scoring": "number", "limits": [95.0, 105.0]}
    day = {"scoring": "number"}
    for output, row, gold in (
        ("b; a", labels, "a;b"),
        ("a", labels, "a;b"),
        ("a; b; c", labels, "a;b"),
        ("The 5.0 mg dose.", span, "5.0 mg dose"),
        ("50 mg dose", span, "5.0 mg dose"),
        ("-", span, "-"),
        ("", span, "-"),
        ("The result is 104.9 mL/min.", number, "100"),
        ("105.1", number, "100"),
        ("98 or 99", number, "100"),
        ("The answer is not 100.", number, "100"),
        ("It is 5/13/2022.", day, "05/13/2022"),
        ("5/13/2022 or 5/14/2022", day, "05/13/2022"),
        ("", day, "none"),
    ):
        graded = metrics.grade(row | {"completion": gold, "output": output, "id": "x"})
        scored = graded["score"].get("exact_match", graded["score"].get("accuracy"))
        assert modules.rewards.answer(output, row | {"answer": gold}) == scored, output
        assert modules.rewards.format(output, row) == float(graded["parsed"] is not None)


def tried(modules, function=None, **changes):
    """check_rewards of one row, with the reward `function` or ours."""
    row = {"id": "r", "scoring": "choice", "answer": "B", "choices": ["A", "B"], "options": None}
    row |= {"asked": "Fever?\nA. rest\nB. salt\nAnswer:\n"} | changes
    reward = modules.rewards.over_rows("answer", function or modules.rewards.answer)
    modules.reward_checks.check_rewards(SimpleNamespace(reward_funcs=[reward], train_dataset=[row]))


@pytest.mark.guarantee(
    "Recipes",
    "Before GRPO's first step the right answer of each row earns 1, every other choice and every text made to "
    "deceive 0.",
)
def test_rewards_are_tried_before_the_first_step(modules):
    tried(modules)
    tried(modules, scoring="labels", answer="rash;cough", choices=["rash", "cough", "fever"])
    tried(modules, scoring="span", answer="5 mg", choices=None)
    tried(modules, scoring="number", answer="17.2", choices=None, limits=[16.3, 18.1])
    tried(modules, scoring="number", answer="05/13/2022", choices=None, limits=None)
    for lenient, said in (
        (lambda text, row: float("B" in text), "a text of .* made to deceive earns 1.0"),
        (lambda text, row: float(text.strip().endswith("B")), "made to deceive earns 1.0"),
        (lambda text, row: 0.0, "the right answer earns 0.0"),
        (lambda text, row: float(len(text) > 10 or text == "B"), "made to deceive earns 1.0"),
    ):
        with pytest.raises(modules.checks.Refused, match=said):
            tried(modules, lenient)
    for changes in ({"scoring": "summary"}, {"answer": " "}):
        with pytest.raises(modules.checks.Refused, match="row r: .* no answer that can be verified"):
            tried(modules, **changes)


# ---------------------------------------------------------------- bad input, and what is watched
def failed(lab, out, **changes):
    return recipe(lab, "grpo", GRPO | {"output_dir": str(out)} | changes)


def test_settings_that_are_refused_by_name(lab, tmp_path):
    for changes, said in (
        (
            {"use_vllm": True},
            "use_vllm: TRL 1.16.0 takes vLLM 0.22 to 0.31, which wants transformers below 5.18",
        ),
        ({"log_completions": True}, "log_completions: True prints completions"),
        ({"log_completions": True, "log_completions_hub_repo": "a/b"}, "log_completions_hub_repo would send"),
        ({"rewards": ["answr"]}, "rewards: no answr. Next: some of answer, format"),
        ({"rewards": ["judge"]}, "rewards: judge needs judge_url and judge_model"),
        ({"judge_url": "http://grader.example/v1"}, "judge_url: http://grader.example/v1 is another machine"),
        ({"num_generations": 3}, "must be divisible by num_generations"),
        ({"max_loss_jump": 1.0}, "max_loss_jump: 1.0 has no effect here"),
        ({"reward_file": "none.py"}, "reward_file: none.py: no such file"),
    ):
        found = failed(lab, tmp_path / "no", **{"reward_weights": None, **changes})
        assert said in found and not (tmp_path / "no").exists(), changes


REWARDS = """
def sometimes(text, row):
    return None if row["id"] == "r1" else float(len(text) % 3)

def raises(text, row):
    if row["id"] != "r0":
        raise ValueError("of a text that no log may show")
    return 1.0

def constant(text, row):
    return 1.0
"""


def test_a_reward_of_none_is_counted_and_one_that_raises_is_one_sentence(lab, tmp_path, caplog):
    (lab / "mine.py").write_text(REWARDS)
    own = {"reward_file": "mine.py", "reward_weights": None, "second_measure_steps": 0}
    assert (
        failed(lab, tmp_path / "none", rewards=["sometimes"], num_train_epochs=1, max_steps=-1, **own) is None
    )
    log = [e for e in read_log(tmp_path / "none") if "loss" in e]
    missing = [entry["rewards/sometimes/missing"] for entry in log]
    assert sorted(missing) == [0.0] * 7 + [4.0]
    lost = log[missing.index(4.0)]
    assert lost["reward"] is None and lost["loss"] == 0 and "Question" not in caplog.text
    lines = (tmp_path / "none/completions/rank0.jsonl").read_text().splitlines()
    train = [line for line in map(json.loads, lines) if line["split"] == "train"]
    assert {line["id"] for line in train if line["rewards"]["sometimes"] is None} == {"r1"}

    said = failed(lab, tmp_path / "raises", rewards=["raises"], **own)
    assert "the reward 'raises' raised ValueError on one of the rows r" in said and "no log" not in said
    said = failed(lab, tmp_path / "flat", rewards=["constant"], **own | {"stop_without_variance": 2})
    assert "no group had any variance in the last 2 steps, so nothing was trained" in said


def read_log(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def test_a_judge_that_is_down_or_unreadable_gives_none(modules, lab, tmp_path):
    row = {"id": "r", "asked": "Fever?", "answer": "rest"}
    judge = modules.rewards.Judge("http://127.0.0.1:9/v1", "m", timeout=2)
    assert judge("rest", row) is None and "refused" in judge.failure
    said = failed(
        lab, tmp_path / "down", rewards=["judge"], reward_weights=None, judge_url=judge.url, judge_model="m"
    )
    assert "the judge cannot be asked" in said and "Next: start it, or check judge_url" in said
    with FakeServer() as server:
        judge = modules.rewards.Judge(server.url("chat").removesuffix("/chat/completions"), "m")
        for reply, wanted in (("Yes.", 1.0), ("No, it does not.", 0.0), ("Hard to say", None)):
            server.reply = lambda *_, reply=reply: reply
            assert judge("rest", row) == wanted


class Log:
    """A log_history, and what a callback makes of it."""

    def __init__(self, callback):
        self.state = SimpleNamespace(global_step=0, log_history=[], is_world_process_zero=True)
        self.callback = callback

    def add(self, step, **entry):
        self.state.global_step = step
        self.state.log_history.append(entry | {"step": step, "loss": 0.0})
        self.callback.on_log(None, self.state, None, logs=dict(self.state.log_history[-1]))


def test_a_reward_that_rises_while_the_second_measure_falls_ends_the_run(modules):
    rows = [{"scoring": "choice"}] * 200
    for second, stops in ((0.5, False), (0.6, False), (0.3, True)):
        watch = modules.alignment_callbacks.SecondMeasure(SimpleNamespace(eval_dataset=rows), 10)
        log = Log(watch)
        watch.found = {watch.KEY: 0.5}
        for step in range(1, 11):
            log.add(step, reward=step / 10)
        watch.found = {watch.KEY: second}
        if not stops:
            log.add(11, reward=1.2)
            continue
        with pytest.raises(modules.checks.Refused, match="the reward rose from .* fell from 0.5 to 0.3"):
            log.add(11, reward=1.2)


def test_groups_without_variance_are_warned_of_and_end_the_run(modules, capsys):
    log = Log(modules.alignment_callbacks.GroupVariance(steps=20))
    log.add(10, frac_reward_zero_std=0.6)
    assert (
        "warning: step 10: 60 % of the groups have no variance and train nothing" in capsys.readouterr().out
    )
    log.add(20, frac_reward_zero_std=1.0)
    with pytest.raises(modules.checks.Refused, match="in the last 20 steps"):
        log.add(30, frac_reward_zero_std=1.0)


# ---------------------------------------------------------------- resume, and without safeguards
@pytest.mark.guarantee(
    "Training", "A killed GRPO run resumes to the same completions and weights, bit for bit, on a CPU."
)
def test_a_killed_run_resumes_to_the_same_completions(lab):
    config = GRPO | LORA | {"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "lora_dropout": 0.0}
    assert recipe(lab, "grpo", config | {"output_dir": "grpo whole"}) is None
    killed(lab, "grpo", config | {"output_dir": "grpo killed"}, 4)
    assert recipe(lab, "grpo", config | {"output_dir": "grpo killed"}) is None
    same(lab / "grpo whole", lab / "grpo killed")
    keys = ("reward", "sampling/logp_gap", "heldout/ll_accuracy", "frac_reward_zero_std")
    assert logged(lab / "grpo whole", *keys) == logged(lab / "grpo killed", *keys)
    files = [(lab / name / "completions/rank0.jsonl").read_text() for name in ("grpo whole", "grpo killed")]
    assert files[0] == files[1]


def test_without_its_safeguards(lab, tmp_path):
    config = GRPO | {"output_dir": str(tmp_path / "with")}
    assert recipe(lab, "grpo", config) is None
    bare_run(lab, "grpo", config, tmp_path / "alone", beside=("rewards.py", "parsing.py"))
    same(tmp_path / "with", tmp_path / "alone/without")
