"""The stage table of `make real`, which demo.py's driver runs: closed, stale when a file of it changes, skipped."""

import re
from pathlib import Path

import pytest
import yaml

import demo
import real
from data_prep.base_model import SKIPPED
from tests.test_demo import check_chain, stage

ROOT = Path(__file__).resolve().parent.parent
RAW = "data/raw"


@pytest.fixture
def raw(tmp_path):
    for name in (*real.NEEDED, "mmlu"):
        (tmp_path / name).mkdir()
    return str(tmp_path)


def test_every_stage_reads_what_an_earlier_one_makes():
    check_chain(real.stages(None, RAW) + real.FULL, given=(RAW,))


def test_the_model_and_the_files_are_the_users(raw, capsys):
    before = demo.fingerprints(real.stages(None, raw))
    after = demo.fingerprints(real.stages("my/model", raw))
    same = {name for name in before if before[name] == after[name]}
    assert same == {"real_documents", "real_tasks", "real_clean", "real_instructions"}
    real.main(["--raw", raw, "--model", "my/model", "--list"])
    printed = capsys.readouterr().out
    real.main(["--raw", raw, "--gpu", "--list"])
    trained = re.findall(r"recipes/(?:pretrain|sft)\.py .*", capsys.readouterr().out)
    assert len(trained) == 5 and all("--use_cpu false" in command for command in trained)
    assert "--model my/model" in printed and f"--data {raw}" in printed and "medicationqa" not in printed


def test_full_is_for_the_default_model(raw, capsys):
    with pytest.raises(SystemExit):
        real.main(["--raw", raw, "--model", "my/model", "--full"])
    assert "Next: a copy of recipes/configs/real_scaled.yaml" in capsys.readouterr().err


def test_missing_files_are_named_with_the_command_that_fetches_them(tmp_path, capsys):
    with pytest.raises(SystemExit):
        real.main(["--raw", str(tmp_path)])
    assert re.search(r"no pubmed, pmc, .*Next: make fetch SOURCES=", capsys.readouterr().err)


def test_a_chain_that_cannot_be_had_here_ends_with_its_sentence_and_no_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert demo.SKIPPED == SKIPPED
    absent = stage("model", f"import sys; print('skipped: not here'); sys.exit({SKIPPED})")
    with pytest.raises(SystemExit) as stopped:
        demo.run([absent, stage("tuned", "pass", "model")], jobs=1)
    assert stopped.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == "skipped: not here"


def test_the_control_differs_in_its_text_alone():
    """So that a difference between the two models is one of the text: equal steps, tokens and settings."""
    made = {one.name: one.commands()[0] for one in real.stages(None, RAW)}
    own, control = made["real_foundation"], made["real_control_trained"]
    assert control[: len(own)] == own and control[len(own) :: 2] == ["--blocks", "--output_dir"]
    mixtures = [
        yaml.safe_load((ROOT / f"data_prep/mixtures/{name}.yaml").read_text())
        for name in ("real", "real_general")
    ]
    assert {key for key in mixtures[0] if mixtures[0][key] != mixtures[1][key]} == {"ratio"}
    assert mixtures[1]["ratio"] == {"general": 1} and mixtures[0]["ratio"] == {"biomedical": 16, "general": 4}


def test_every_claim_is_about_models_and_tasks_of_the_chain():
    claims = yaml.safe_load((ROOT / "evaluation/claims/real.yaml").read_text())
    assert [(model["name"], model["preset"]) for model in claims["models"]] == list(real.MODELS)
    made = " ".join(one.makes for one in real.stages(None, RAW))
    assert all(f"outputs/real/{model['run']}" in made.split() for model in claims["models"])
    asked = {*real.CHOICES.split(","), "pubmedqa", "medqa", "medmcqa"}
    assert all(set(claim.get("tasks", [])) <= asked for claim in claims["claims"])
