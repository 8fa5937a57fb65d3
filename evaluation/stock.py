"""The medical multiple-choice tasks that everybody publishes, as lm-evaluation-harness asks them, as rows.

    python -m evaluation.stock --data data/raw --out data/tasks
    python -m evaluation.generate --model DIR --rows data/tasks --tasks stock --preset paper --out OUT
    python -m evaluation.score OUT

Reads   DATA, the publishers' files (tasks/general.py says which), else the Hub
Writes  OUT/stock_<task>/test.jsonl   one row per question: its `prompt` is the harness's own, to the letter,
                                      after it a newline, which is not sent; its `choices` are the harness's
        OUT/stock_<task>/manifest.json

Prompt, answers and examples come from the installed harness, so with --preset paper (no chat template) the
likelihoods and the accuracy are those of `lm_eval run --tasks medqa_4options,medmcqa,...` on the same model
and rows; a test runs both. Ours has its softmax in float32 (the harness's softmax_dtype), which for bfloat16
weights keeps answers apart that the harness's default finds equal. --num_fewshot puts the harness's own
examples into the prompts. A task whose files are not in DATA is left out by name.
"""

import argparse
import sys
from pathlib import Path

from data_prep import egress
from data_prep.files import check_out, one_sentence, sha256, whole_folder, write_jsonl
from data_prep.manifest import describe, write_manifest
from data_prep.schema import BadInput, check_row
from evaluation.own_tasks import STOCK
from evaluation.tasks import general

LICENSES = {"careqa_en": "Apache-2.0"}  # as its card on the Hub says; the others are MIT


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the publishers' files; default: the Hub")
    parser.add_argument("--tasks", default="all", help=f"comma-separated, of {', '.join(general.MEDICAL)}")
    parser.add_argument(
        "--num_fewshot", type=int, help="examples in each prompt; default: the harness's, none"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    with one_sentence():
        tasks = general.MEDICAL if args.tasks == "all" else args.tasks.split(",")
        if unknown := [task for task in tasks if task not in general.MEDICAL]:
            raise BadInput(f"--tasks: unknown task '{unknown[0]}' (known: all, {', '.join(general.MEDICAL)})")
        if (args.num_fewshot or 0) < 0:
            raise BadInput(f"--num_fewshot {args.num_fewshot}: must be 0 or more. Next: leave it out")
        made = [task for task in tasks if build(task, args.data, args.num_fewshot, args.out)]
        if not made:
            raise BadInput(f"{args.data}: holds the files of none of these tasks. Next: see tasks/general.py")
        print(f"wrote {args.out}. Next: python -m evaluation.generate --rows {args.out} --tasks stock ...")


def build(task: str, data: Path | None, num_fewshot: int | None, out: Path) -> int:
    """Write OUT/stock_<task> and return its number of rows; 0 where DATA does not have the task."""
    name = f"{STOCK}{task}"
    check_out(out / name)
    try:
        loaded, found = general.load(task, data, num_fewshot)
    except general.Missing as error:
        print(f"{task}: left out, {error}", flush=True)
        return 0
    (asked,), (files,) = loaded.values(), found.values()
    shots = asked.get_config("num_fewshot") or 0
    if num_fewshot and shots < num_fewshot:
        raise BadInput(
            f"{task}: {shots} examples are to be had, not {num_fewshot}. Next: a smaller --num_fewshot, or "
            f"add the publisher's train file"
        )
    made = rows(asked, name, LICENSES.get(task, "MIT"))
    with whole_folder(out / name) as folder:
        write_jsonl(folder / "test.jsonl", made)
        given = files.values() if isinstance(files, dict) else ()
        facts = {"license": LICENSES.get(task, "MIT"), "access": "public"}
        write_manifest(
            folder,
            stage="stock_tasks",
            arguments={"task": task, "num_fewshot": shots},
            inputs=[{"path": p, "sha256": sha256(p), **facts} for p in given] or [{"path": "Hub", **facts}],
            dropped={},
            outputs=[describe(folder, folder / "test.jsonl", rows=len(made))],
        )
    print(f"{name}: {len(made)} rows, {shots} examples in each prompt", flush=True)
    return len(made)


def rows(task, name: str, license: str) -> list[dict]:
    """A loaded task of the harness as rows. BadInput unless its requests are a prompt and, after a blank, one
    of the same few answers."""
    task.set_fewshot_seed(1234)  # as lm_eval run sets it
    task.build_all_requests()
    asked, docs = {}, list(task.eval_docs)
    for instance in task.instances:
        asked.setdefault(instance.doc_id, []).append(instance.args)
    made = []
    for number, doc in enumerate(docs):
        prompts, answers = {p for p, _ in asked[number]}, [a for _, a in asked[number]]
        choices, target = [answer.removeprefix(" ") for answer in answers], task.doc_to_target(doc)
        if len(prompts) != 1 or answers != [f" {choice}" for choice in choices]:
            raise BadInput(f"{name}: question {number} is not asked as one prompt and ' answer'")
        made.append(
            {
                "id": f"{name}:{number}",
                "task": name,
                "split": "test",
                "scoring": "choice",
                "source": f"lm_eval {name.removeprefix(STOCK)}",
                "license": license,
                "access": "public",
                "prompt": prompts.pop() + "\n",
                "completion": choices[target] if isinstance(target, int) else target,
                "choices": choices,
            }
        )
        check_row(made[-1], f"{name}: question {number}")
    return made


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
