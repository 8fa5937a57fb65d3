"""What the task files of this folder point at: rows for lm-evaluation-harness, and our strict metrics in its result table.

    lm_eval run --model hf --model_args pretrained=MODEL --tasks mibe_medqa,mibe_medqa_ll --include_path evaluation/tasks \
        --metadata '{"rows": "data/demo/tasks"}'

Reads   ROWS/<task>/test.jsonl, and train.jsonl for few-shot examples. ROWS is `rows` of --metadata or the environment variable MIBE_ROWS.

The harness prints values without intervals, and a prompt that is too long is cut from the left with a warning.
`python -m evaluation.generate` refuses such prompts, and `python -m evaluation.score` gives the intervals.
"""

import importlib.util
import itertools
import json
import os
from pathlib import Path

import datasets

# by its path, so that the harness finds it from any directory
_spec = importlib.util.spec_from_file_location("mibe_metrics", Path(__file__).resolve().parent.parent / "metrics.py")
metrics = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(metrics)

FEWSHOT_POOL = 100  # training rows that may serve as examples: the first of the file


def load(name: str, rows: str | None = None, option_prefix: str = " ", **_) -> datasets.DatasetDict:
    """The test rows of task `name` and the first of its training rows, in memory: the text of credentialed rows must not land in a cache.

    `option_prefix` stands before each option in the twin tasks: what the model has seen between prompt and answer. A blank after "Answer:";
    under a chat template whatever that template puts there, which the harness would leave out."""
    folder = Path(rows or os.environ.get("MIBE_ROWS") or "") / name
    if not (folder / "test.jsonl").is_file():
        raise FileNotFoundError(
            f"{folder / 'test.jsonl'}: no such file. Next: --metadata '{{\"rows\": ROWS}}', the folder made by data_prep.build_tasks"
        )
    test = _read(folder / "test.jsonl")
    train = _read(folder / "train.jsonl", FEWSHOT_POOL) if (folder / "train.jsonl").is_file() else []
    asked = {row["prompt"] for row in test}
    train = [row for row in train if row["prompt"] not in asked]  # a published train file may repeat the test file
    return datasets.DatasetDict({"test": _dataset(test, option_prefix), "train": _dataset(train, option_prefix)})


def _read(path, limit=None):
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in itertools.islice(lines, limit) if line.strip()]


def _dataset(rows, option_prefix):
    fields = {"id": "", "scoring": "", "prompt": "", "completion": "", "choices": [], "question": "", "options": []}
    columns = {field: [row.get(field, missing) for row in rows] for field, missing in fields.items()}
    columns["option_texts"] = [[option_prefix + option for option in row.get("options", [])] for row in rows]
    return datasets.Dataset.from_dict(columns)


def gold_index(row) -> int:
    return row["choices"].index(row["completion"])


def process_results(row, results) -> dict:
    """One entry per metric: the graded row, because most metrics are not means; the functions below bring them together."""
    if isinstance(results[0], str):
        output = results[0]
    else:
        output = [[float(nats), len(option.encode())] for (nats, _), option in zip(results, row["options"], strict=True)]
    graded = {key: row[key] for key in ("id", "scoring", "completion", "choices")} | {"output": output}
    graded |= metrics.grade(graded)
    entries = dict.fromkeys(metrics.NAMES[metrics.kind(graded)], graded)
    return entries if metrics.kind(graded) == "options" else entries | {"unparsed": float(graded["parsed"] is None)}


def _over_all_rows(name):
    return lambda rows: metrics.value(rows, name)


accuracy, accuracy_norm, macro_f1, micro_f1 = map(_over_all_rows, ("accuracy", "accuracy_norm", "macro_f1", "micro_f1"))
exact_match, f1, rouge1, rouge2, rougeL = map(_over_all_rows, ("exact_match", "f1", "rouge1", "rouge2", "rougeL"))  # noqa: N816
