"""The functions that the task files of this folder name: rows for lm-evaluation-harness, and our metrics.

    lm_eval run --model hf --model_args pretrained=MODEL --tasks mibe,mibe_ll \
        --include_path evaluation/tasks --metadata '{"rows": "data/tasks"}' --log_samples --output_path OUT
    ... --apply_chat_template               # the chat preset
    ... --gen_kwargs max_gen_toks=256       # the paper preset: raw prompts, 256 new tokens
    ... --num_fewshot 5                     # the first examples in the order of `shots`
    python -m evaluation.score OUT          # intervals, and the paper's scorer beside ours

Reads   ROWS/<task>/test.jsonl, and train.jsonl for few-shot examples. ROWS is `rows` of --metadata or the
        environment variable MIBE_ROWS.

The harness alone prints values without intervals, and cuts a prompt that is too long from the left with a
warning. `python -m evaluation.generate` refuses such prompts.
"""

import hashlib
import itertools
import json
import os
import sys
from pathlib import Path

import datasets
from lm_eval.api.task import ConfigurableTask

sys.path.append(
    str(Path(__file__).resolve().parents[2])
)  # the repository, for `lm_eval run` from any directory
from data_prep.schema import hold  # noqa: E402
from evaluation.scoring import metrics  # noqa: E402
from evaluation.scoring.run_outputs import answers  # noqa: E402

FEWSHOT_POOL = 1000  # training rows among which examples are chosen: the first of the file
FIELDS = ("id", "task", "split", "scoring", "source", "license", "access", "prompt", "completion", "question")
LISTS = ("choices", "options", "limits", "history")


def load(name: str, rows: str | None = None, option_prefix: str | None = None, **_) -> datasets.DatasetDict:
    """The test rows of task `name`, and training rows in the order in which they serve as examples. In
    memory: the text of credentialed rows must not land in a cache.

    `option_prefix` precedes each answer in the twin tasks: what the model has seen between prompt and answer.
    Raw, a blank after "Answer:" and nothing after a newline; under a chat template whatever that template
    puts there, which the harness would leave out."""
    folder = Path(rows or os.environ.get("MIBE_ROWS") or "") / name
    if not (folder / "test.jsonl").is_file():
        raise FileNotFoundError(
            f"{folder / 'test.jsonl'}: no such file. Next: --metadata '{{\"rows\": ROWS}}', the folder "
            f"made by data_prep.build_tasks"
        )
    test = _read(folder / "test.jsonl")
    train = _read(folder / "train.jsonl", FEWSHOT_POOL) if (folder / "train.jsonl").is_file() else []
    asked = {row["prompt"] for row in test}
    train = shots(
        [row for row in train if row["prompt"] not in asked]
    )  # a published train file may repeat the test file
    return datasets.DatasetDict(
        {"test": _dataset(test, option_prefix), "train": _dataset(train, option_prefix)}
    )


def shots(rows: list[dict]) -> list[dict]:
    """`rows` in the order in which they serve as few-shot examples, the same on every machine: by the hash of
    their id, and where a row has one label, one row of each label after the other."""
    by_label = {}
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).digest()):
        by_label.setdefault(row["completion"] if row["scoring"] == "choice" else None, []).append(row)
    return [row for turn in itertools.zip_longest(*by_label.values()) for row in turn if row is not None]


def _read(path, limit=None):
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, limit) if line.strip()]
    # a credentialed one closes this process, and one that does not say its class
    return [hold({"access": "credentialed", "license": "not stated in the row", **row}) for row in rows]


def _dataset(rows, option_prefix):
    columns = {field: [row.get(field, "") for row in rows] for field in FIELDS}
    columns |= {field: [row.get(field, []) for row in rows] for field in LISTS}
    blank = " " if option_prefix is None else option_prefix
    columns["option_texts"] = [[blank + option for option in row.get("options", [])] for row in rows]
    columns["label_texts"] = [
        [(option_prefix or "") + label for label in row.get("choices", [])] for row in rows
    ]
    columns["stock_texts"] = [[blank + label for label in row.get("choices", [])] for row in rows]
    return datasets.Dataset.from_dict(columns)


class Conversation(ConfigurableTask):
    """A task whose rows have turns before the prompt. Where the model has no chat template, or one without
    a second turn, the conversation is one text, as `question` has it."""

    def __init__(self, config):
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def fewshot_context(
        self,
        doc,
        num_fewshot,
        system_instruction=None,
        apply_chat_template=False,
        fewshot_as_multiturn=False,
        chat_template=None,
        gen_prefix=None,
    ):
        if num_fewshot:
            raise ValueError(f"{doc['task']}: conversations have no examples. Next: --num_fewshot 0")
        turns = [*doc["history"], {"role": "user", "content": doc["prompt"].strip()}]
        if not apply_chat_template:
            return f"{doc['question']}\n\nassistant:"
        if not fewshot_as_multiturn and doc["history"]:
            turns = [{"role": "user", "content": doc["question"]}]
        return chat_template(turns)


def stock_prompt(row) -> str:
    """The prompt of a row of evaluation.stock, without the newline in which the prompt of every row ends."""
    return row["prompt"].removesuffix("\n")


def gold_index(row) -> int:
    return row["choices"].index(row["completion"])


def process_letters(row, results) -> dict:
    """As process_results, where the answers are the row's choices and not the texts of its options."""
    return process_results(row | {"options": []}, results)


def process_results(row, results) -> dict:
    """One entry per metric: the graded row, because most metrics are not means; the functions below bring
    them together."""
    if isinstance(results[0], str):
        output = results[0]
    else:
        output = [
            [float(nats), len(answer.encode())]
            for (nats, _), answer in zip(results, answers(row), strict=True)
        ]
    graded = {key: row[key] for key in ("id", "task", "scoring", "completion", "choices", "options")} | {
        "output": output
    }
    graded |= {"limits": row["limits"]} if row["limits"] else {}
    graded |= metrics.grade(graded)
    entries = dict.fromkeys(metrics.NAMES[metrics.kind(graded)], graded)
    return (
        entries
        if metrics.kind(graded) == "options"
        else entries | {"unparsed": float(graded["parsed"] is None)}
    )


def _over_all_rows(name):
    return lambda rows: metrics.value(rows, name)


accuracy, accuracy_norm, macro_f1, micro_f1 = map(
    _over_all_rows, ("accuracy", "accuracy_norm", "macro_f1", "micro_f1")
)
exact_match, word_f1, rouge1, rouge2, rougeL = map(
    _over_all_rows, ("exact_match", "word_f1", "rouge1", "rouge2", "rougeL")
)  # noqa: N816
