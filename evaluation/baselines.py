"""What a model has to beat: the majority class of the training rows, and chance, on multiple-choice tasks.

    python -m evaluation.baselines --rows data/demo/tasks --out outputs/demo/hello/evaluation
    python -m evaluation.score outputs/demo/hello/evaluation/*

Reads   ROWS/<task>/{train,test}.jsonl (data_prep.build_tasks), of the tasks whose scoring is `choice`
Writes  OUT/{majority,chance}/<task>.jsonl with run.json, as evaluation.generate does for a model

`majority` is the most frequent completion of train.jsonl; `chance` one of the row's choices, drawn by its id.
"""

import argparse
import collections
import hashlib
import json
import sys
from pathlib import Path

from data_prep import egress
from data_prep.files import one_sentence, read_jsonl, sha256, whole_folder, write_jsonl
from data_prep.schema import BadInput, strictest


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, required=True, help="folder made by data_prep.build_tasks")
    parser.add_argument("--out", type=Path, required=True, help="folder of the two runs")
    args = parser.parse_args(argv)
    with one_sentence():
        tasks = multiple_choice(args.rows)
        for name, answer in (("majority", majority), ("chance", chance)):
            write_run(args.out / name, name, {task: answer(*rows) for task, rows in tasks.items()})
    print(f"wrote {args.out}: {', '.join(tasks)}. Next: python -m evaluation.score {args.out}/*")


def multiple_choice(folder: Path) -> dict[str, tuple[list[dict], list[dict]]]:
    """{task: (training rows, test rows)} of the tasks with one right answer among choices."""
    tasks = {}
    for path in sorted(folder.glob("*/test.jsonl")):
        train, test = (
            [row for _, row in read_jsonl(path.with_name(f"{split}.jsonl"))] for split in ("train", "test")
        )
        if train and test and test[0]["scoring"] == "choice":
            tasks[path.parent.name] = train, test
    if not tasks:
        raise BadInput(
            f"{folder}: no multiple-choice task with train.jsonl and test.jsonl. "
            f"Next: python -m data_prep.build_tasks --raw RAW --tasks medqa --out {folder}"
        )
    return tasks


def majority(train: list[dict], test: list[dict]) -> list[dict]:
    """The test rows with the most frequent completion of the training rows as output (ties: the first)."""
    counts = collections.Counter(row["completion"] for row in train)
    answer = min(counts, key=lambda text: (-counts[text], text))
    access = strictest(row["access"] for row in train)
    return [{**row, "output": answer, "model_access": access} for row in test]


def chance(train: list[dict], test: list[dict]) -> list[dict]:
    """The test rows with one of their choices as output, uniform over SHA-256 of the row's id."""
    drawn = [int(hashlib.sha256(row["id"].encode()).hexdigest(), 16) for row in test]
    return [
        {**row, "output": row["choices"][number % len(row["choices"])], "model_access": "public"}
        for row, number in zip(test, drawn, strict=True)
    ]


def write_run(out: Path, name: str, tasks: dict[str, list[dict]]) -> None:
    rows = [row for task in tasks.values() for row in task]
    run = {
        "stage": "generate",
        "access": strictest([row[key] for row in rows for key in ("access", "model_access")]),
        "model": name,
        "name": name,
        "model_access": strictest(row["model_access"] for row in rows),
        "egress": egress.wall(),
        "n": len(rows),
    }
    with whole_folder(out, mark="run.json") as folder:
        if run["access"] == "credentialed":
            folder.chmod(0o700)
        run["tasks"] = {}
        for task, answered in tasks.items():
            write_jsonl(folder / f"{task}.jsonl", answered)
            digest = sha256(folder / f"{task}.jsonl")
            run["tasks"][task] = {
                "n": len(answered),
                "max_new_tokens": 0,
                "n_overlong": 0,
                "outputs_sha256": digest,
            }
        (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
