"""The mixture study: a planted law is found again, the prediction keeps its limit, the verdicts follow the
intervals, and a tiny study runs and goes on."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from data_prep import build_blocks
from data_prep.schema import BadInput as Refused
from recipes.tools import mixture_study as study
from recipes.tools.preflight import load_recipe
from tests.lab import PRETRAIN, ROOT

RATIOS = ["1485:99:16", "285:19:16", "135:9:16", "15:1:4", "15:1:16", "95:19:6", "10:2:3", "5:1:6"]
SHARES = np.array([study.read_ratio("ratios", ratio) for ratio in RATIOS])
ELSEWHERE = np.array([[0.8, 0.1, 0.1], [0.6, 0.06, 0.34], [0.7, 0.05, 0.25]])


def planted(law, own, c, k, *exponents):
    return lambda shares: c + k * study.LAWS[law][0](shares, own, np.array([exponents]))[0]


# ---------------------------------------------------------------- the law
@pytest.mark.parametrize(
    ("law", "own", "exponents"),
    [
        ("exponential", 2, (-3, -9)),
        ("exponential", 0, (1.3, 0.8)),
        ("power", 2, (0.013, 0.7)),
        ("power", 1, (0.11, 1.2)),
    ],
)
def test_a_planted_law_is_found_again(law, own, exponents):
    truth = planted(law, own, 1.1, 0.2, *exponents)
    noisy = truth(SHARES) + np.vstack(
        [np.zeros(len(SHARES)), np.random.default_rng(0).normal(0, 0.002, (50, len(SHARES)))]
    )
    fitted = study.choose_law(SHARES, noisy, own)
    assert fitted["law"] == law
    assert study.predict(fitted, ELSEWHERE)[0] == pytest.approx(truth(ELSEWHERE), abs=0.005)
    draws = study.predict(fitted, ELSEWHERE)[1:]
    assert 0 < draws.std(0).max() < 0.02, "each row is a fit of its own"


def test_what_a_law_misses_is_measured_on_proxies_that_it_was_not_fitted_to():
    losses = planted("exponential", 2, 1.0, 1.5, -2.0, -20.0)(SHARES)[None]
    losses[0, 3] += 0.3  # no law goes through it
    missed = study.choose_law(SHARES, losses, 2)["missed"]["exponential"]
    assert len(missed) == 5 and missed[2] == pytest.approx(-0.3, abs=0.02), (
        "without the least and the most general text"
    )


@pytest.mark.filterwarnings("error")
def test_a_share_that_is_the_same_in_all_ratios_is_fitted_and_not_left():
    shares = np.array([study.read_ratio("ratios", f"{95 - g}:5:{g}") for g in (1, 5, 10, 20, 30, 50, 40)])
    truths = [
        planted("power", 0, 2, 0.3, 0.1, 1.0),
        planted("power", 0, 2, -0.3, 0.1, -1.0),
        planted("power", 2, 1, 0.02, 0.01, 1.0),
    ]
    noise = np.vstack([np.zeros(7), np.random.default_rng(0).normal(0, 0.003, (20, 7))])
    laws = {domain: study.choose_law(shares, truth(shares) + noise, own) for own, (domain, truth) in enumerate(zip(study.DOMAINS, truths, strict=True))}  # fmt: skip
    best = study.predict_best(
        {"shares": shares, "weights": np.array([15, 1, 0]) / 16}, laws, np.full(21, 1.2)
    )
    assert best["shares"] == pytest.approx([0.855, 0.05, 0.095]) and best["losses"]["general"][
        0
    ] == pytest.approx(1.19, abs=0.005)
    assert (
        len(best["drawn"]) == 20
        and best["drawn"][:, 1] == pytest.approx(0.05)
        and "share of clinical text" in best["edges"]
    )


# ---------------------------------------------------------------- the prediction
def fitted_to(truth, own):
    return study.choose_law(SHARES, np.tile(truth(SHARES), (3, 1)), own)


@pytest.fixture
def laws():
    """Medicine is learned with its share, and general text is kept with its own."""
    truths = {"biomedical": planted("power", 0, 0.5, 0.3, 0.1, 1.0), "clinical": planted("power", 1, 0.4, 0.1, 0.1, 1.0),
              "general": planted("power", 2, 1.0, 0.02, 0.01, 1.0)}  # fmt: skip
    return truths, {domain: fitted_to(truth, own) for own, (domain, truth) in enumerate(truths.items())}


@pytest.mark.parametrize("limit", [1.1, 1.2, 1.5])
def test_the_best_ratio_is_the_least_general_text_that_the_limit_allows(laws, limit):
    truths, fitted = laws
    best = study.predict_best(
        {"shares": SHARES, "weights": np.array([15, 1, 0]) / 16}, fitted, np.full(3, limit)
    )
    points = study.search_grid(SHARES)
    target = (15 * truths["biomedical"](points) + truths["clinical"](points)) / 16
    truly = points[np.where(truths["general"](points) <= limit, target, np.inf).argmin()]
    assert best["within_limit"] and best["shares"] == pytest.approx(truly, abs=2 * study.STEP)
    assert best["shares"][2] == pytest.approx(0.02 / (limit - 1) - 0.01, abs=2 * study.STEP), (
        "where the planted law meets the limit"
    )
    assert (
        len(best["drawn"]) == 2
        and best["edges"] == ["clinical part of the medical text"]
        and best["losses"]["general"].shape == (3,)
    )


def test_the_interval_is_that_of_the_point_recommended():
    """The limit is kept with a margin, and the draws keep the same: the point stands in their midst, not at
    the end with the most general text."""
    noise = np.random.default_rng(0).normal(
        0, 0.01, (200, 1)
    )  # of held-out blocks: all proxies move together
    truths = {"biomedical": planted("power", 0, 0.5, 0.3, 0.1, 1.0), "clinical": planted("power", 1, 0.4, 0.1, 0.1, 1.0),
              "general": planted("power", 2, 1.0, 0.02, 0.01, 1.0)}  # fmt: skip
    laws = {domain: study.choose_law(SHARES, truth(SHARES) + np.vstack([[0], noise]), own) for own, (domain, truth) in enumerate(truths.items())}  # fmt: skip
    limit = np.full(201, 1.2)
    best = study.predict_best({"shares": SHARES, "weights": np.array([15, 1, 0]) / 16}, laws, limit)
    assert np.quantile(best["losses"]["general"] - limit, 0.975) <= 0 < best["shares"][2] - 0.09, (
        "within the limit for sure"
    )
    low, middle, high = np.quantile(best["drawn"][:, 2], [0.025, 0.5, 0.975])
    assert low < best["shares"][2] < high and middle == pytest.approx(best["shares"][2], abs=study.STEP)


def test_a_limit_that_nothing_keeps_is_said(laws):
    best = study.predict_best({"shares": SHARES, "weights": np.array([1, 0, 0])}, laws[1], np.full(3, 0.9))
    assert not best["within_limit"] and not len(best["drawn"]) and best["shares"][2] > 0.45, (
        "the nearest to it is given"
    )
    assert "share of general text" in best["edges"]


def test_only_new_points_between_the_ratios_tried_are_searched():
    points = study.search_grid(SHARES)
    clinical = points[:, 1] / points[:, :2].sum(1)
    assert points.sum(1) == pytest.approx(1) and points[:, 2].min() >= 0.01 and points[:, 2].max() <= 0.5
    assert clinical.min() >= 1 / 16 - study.STEP / 2 and clinical.max() <= 1 / 6 + study.STEP / 2
    assert (
        points[:, 1].min() >= SHARES[:, 1].min() - study.STEP / 2
        and points[:, 1].max() <= SHARES[:, 1].max() + study.STEP / 2
    )
    assert np.abs(points[:, None] - SHARES).max(2).min() >= study.STEP / 2, (
        "the check is held out: its ratio is no ratio of the fit"
    )


# ---------------------------------------------------------------- the verdicts
GENERAL = np.array([0.01, 0.2, 0.5])
ALLOWED = SimpleNamespace(max_prediction_error=0.05, max_general_perplexity_ratio=1.1)


def drawn(estimate, spread):
    return np.concatenate([[estimate], np.linspace(estimate - spread, estimate + spread, 101)])


@pytest.mark.parametrize(
    ("least", "spread", "verdict", "in_order"),
    [(1.6, 0.1, "shown", 3), (1.05, 0.2, "not shown", 2), (0.8, 0.1, "reversed", 1)],
)
def test_forgetting_is_shown_not_shown_or_reversed(least, spread, verdict, in_order):
    losses = np.stack([drawn(least, spread), drawn(1.1, 0), drawn(1.0, 0)], 1)
    check = {domain: drawn(1.0, 0) for domain in study.DOMAINS}
    found = study.verdicts(ALLOWED, GENERAL, losses, drawn(1, 0), check, check)["forgetting"]
    assert (found["verdict"], found["pairs_in_order"], found["pairs"]) == (verdict, in_order, 3)
    assert found["nats"][0] == pytest.approx(least - 1.0)


@pytest.mark.parametrize(
    ("miss", "spread", "prediction", "limit"),
    [
        (0.0, 0.02, "held", "kept"),
        (0.04, 0.03, "not settled", "kept"),
        (0.09, 0.02, "missed", "too close to call"),
        (0.2, 0.02, "missed", "not kept"),
    ],
)
def test_the_check_is_judged_by_its_interval(miss, spread, prediction, limit):
    predicted, measured = (
        {domain: drawn(1 + by, over) for domain in study.DOMAINS} for by, over in ((0, 0), (miss, spread))
    )
    found = study.verdicts(ALLOWED, GENERAL, np.ones((102, 3)), drawn(1, 0), predicted, measured)
    assert (found["prediction"]["verdict"], found["limit"]["verdict"]) == (prediction, limit)


# ---------------------------------------------------------------- a study, whole
@pytest.fixture
def trained(lab, monkeypatch):
    """In the lab's folder, with the two stages in this process; the list of the proxies that were really
    trained."""
    monkeypatch.chdir(lab)
    monkeypatch.setattr(study, "DRAWS", 50)
    steps = []

    monkeypatch.setattr(sys, "path", list(sys.path))
    pretrain = load_recipe(ROOT / "recipes/pretrain.py")
    make_trainer = pretrain.make_trainer

    def counted(args, data):
        steps.append(Path(args[1].output_dir).name)
        return make_trainer(args, data)

    def in_process(args, name, words):
        words = [str(word) for word in words]
        if name == "preflight":
            return None
        if words[1] == "data_prep.build_blocks":
            return build_blocks.main(words[2:])
        words = words[words.index(str(study.RECIPES / "pretrain.py")) + 1 :]
        pretrain.main(pretrain.make_parser().parse_args_and_config(words))

    monkeypatch.setattr(pretrain, "make_trainer", counted)
    monkeypatch.setattr(study, "execute", in_process)
    return steps


def written(lab, **changed):
    keys = {**PRETRAIN, "model_name_or_path": "base", "from_scratch": False, "save_steps": 6}
    (lab / "proxy.yaml").write_text(yaml.safe_dump({key: value for key, value in keys.items() if key not in ("blocks", "output_dir", "eval_strategy")} | {"blocks": "-", "output_dir": "-"}))  # fmt: skip
    given = {"pretrain_config": "proxy.yaml", "documents": "documents", "output_dir": "study", "ratios": RATIOS[1:7], "tokens": 1500, "block_length": 32,
             "validation_share": 0.1, "target": "15:1:0", "max_general_perplexity_ratio": 1.5, "max_prediction_error": 0.5,
             "accelerate": str(ROOT / "accelerate_configs/cpu.yaml"), **changed}  # fmt: skip
    (lab / "study.yaml").write_text(yaml.safe_dump(given))
    [args] = study.make_parser().parse_args_and_config(["--config", str(lab / "study.yaml")])
    return args


@pytest.mark.guarantee("Clinical cases and forgetting", "The check of a predicted mixture is in no fit.")
def test_a_study_runs_whole_and_goes_on_where_it_was(lab, trained, capsys):
    args = written(lab)
    study.main(args)
    assert len(trained) == 8 and len(set(trained)) == 8, "six ratios, the base and the check"
    found = json.loads((lab / "study/study.json").read_text())
    assert (
        found["access"] == "gated"
        and len(found["proxies"]) == 6
        and set(found["verdicts"]) == {"forgetting", "prediction", "limit"}
    )
    assert [entry["shares"][2] for entry in found["proxies"]] == pytest.approx(SHARES[1:7, 2], abs=0.02), (
        "as trained"
    )
    for entry in found["proxies"]:
        loss, low, high = entry["loss"]["general"]
        assert (
            low <= loss <= high
            and entry["tokens_seen"] == pytest.approx(args.tokens, rel=0.1)
            and max(entry["passes"]) > 0
        )
    page = (lab / "study/study.md").read_text()
    assert all(f"| {ratio} |" in page for ratio in args.ratios) and "no text is repeated" in page
    assert (lab / "study/study.png").read_bytes().startswith(b"\x89PNG")
    untrained, base = (
        load_file(folder / "model.safetensors") for folder in (lab / "study/runs/base", lab / "base")
    )
    assert all((untrained[name] == base[name]).all() for name in base), (
        "a step at learning rate 0 is the base"
    )
    held_out = {frozenset((o["path"], o["sha256"]) for o in json.loads(path.read_text())["outputs"] if o["split"] == "validation")
                for path in (lab / "study/blocks").glob("*/manifest.json")}  # fmt: skip
    assert len(held_out) == 1, "the same blocks are asked of every proxy"

    assert not list((lab / "study/runs").glob("*/checkpoint-*"))
    assert (
        "Smallest difference of two losses that these rows can show" in (lab / "study/study.md").read_text()
    )
    before, _ = (lab / "study/study.json").read_text(), capsys.readouterr()
    study.main(args)
    assert len(trained) == 8 and (lab / "study/study.json").read_text() == before, "nothing is trained twice"


def test_what_else_differs_is_named():
    entries = [{"passes": [0.5, passes, 0.1], "steps": steps, "apart_over_seeds": {"general": apart}}
               for passes, steps, apart in ((0.2, 9, 0.01), (1.4, 8, 0.034))]  # fmt: skip
    one, two = (
        study.confounders(SimpleNamespace(seeds=seeds), {"proxies": entries[:1], "check": entries[1]})
        for seeds in ([0], [0, 1])
    )
    assert (
        "clinical text is passed 0.20 to 1.40 times" in one
        and "8 to 9 steps" in one
        and "biomedical" not in one
        and "One seed" in one
    )
    assert "up to 0.034 nats apart" in two


def test_other_held_out_blocks_are_refused(lab):
    run = {"name": "a", "validation": {domain: {"nll": [1.0, 2.0], "tokens": [3, 4]} for domain in study.DOMAINS},
           "blocks": {"outputs": [{"split": "validation", "path": "v.arrow", "sha256": "1"}]}}  # fmt: skip
    bootstrap = study.Bootstrap(run)
    assert bootstrap.losses([run], "general")[0] == pytest.approx(3 / 7) and bootstrap.losses(
        [run], "general"
    ).shape == (study.DRAWS + 1,)
    other = {**run, "blocks": {"outputs": [{"split": "validation", "path": "v.arrow", "sha256": "2"}]}}
    with pytest.raises(Refused, match="not those of the other proxies. Next:"):
        bootstrap.losses([other], "general")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ratios": [54064, *RATIOS]}, "ratios: 54064 is not biomedical:clinical:general"),
        ({"ratios": ["15:1:0", *RATIOS]}, "'15:1:0' leaves a domain out"),
        ({"ratios": RATIOS[:4]}, "too few or too alike"),
        ({"ratios": [*RATIOS, "30:2:8"]}, "'15:1:4' is given twice"),
        ({"ratios": [f"15:1:{n}" for n in range(1, 8)]}, "cannot be told apart"),
        ({"ratios": [f"{n}:1:{n + 1}" for n in range(2, 9)]}, "with 4 different shares of general text"),
        ({"target": "15:1"}, "target: '15:1' is not"),
        ({"validation_share": 0.2}, "it has read what would be held out"),
        ({"pretrain_config": "none.yaml"}, "pretrain_config none.yaml: cannot be read"),
        ({"accelerate": str(ROOT / "accelerate_configs/zero3_160gpu.yaml")}, "num_machines 20"),
        ({"max_general_perplexity_ratio": 0.9}, "must be at least 1"),
    ],
)
def test_what_cannot_be_studied_is_one_sentence(lab, trained, changed, said):
    with pytest.raises(Refused) as refused:
        study.main(written(lab, **{"output_dir": "nothing", **changed}))
    assert (
        said in str(refused.value)
        and "Next: " in str(refused.value)
        and not (lab / "nothing").exists()
        and not trained
    )


def test_the_plan_runs_nothing(lab, trained, capsys):
    study.main(written(lab, output_dir="nothing", plan_only=True, seeds=[0, 1]))
    assert "x 2 seeds x 1,500 tokens = 21,000 tokens, from base" in capsys.readouterr().out
    assert not trained and not (lab / "nothing").exists()


def test_a_stage_that_fails_is_named_with_its_log(tmp_path):
    with pytest.raises(Refused, match=r"logs/a\.log: no tokenizer here\. Next:"):
        study.execute(
            SimpleNamespace(output_dir=str(tmp_path)),
            "a",
            ["-c", "import sys; print('x'); sys.exit('error: no tokenizer here')"],
        )


def test_the_error_of_an_earlier_run_is_not_that_of_this_one(tmp_path):
    with pytest.raises(Refused, match="no tokenizer here"):
        study.execute(
            SimpleNamespace(output_dir=str(tmp_path)),
            "a",
            ["-c", "import sys; sys.exit('error: no tokenizer here')"],
        )
    with pytest.raises(Refused, match=r"a\.log: Killed\. Next:"):
        study.execute(
            SimpleNamespace(output_dir=str(tmp_path)), "a", ["-c", "import sys; sys.exit('Killed')"]
        )
    assert "no tokenizer here" in (tmp_path / "logs/a.log").read_text(), "the log keeps both"
