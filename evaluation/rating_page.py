"""One HTML file in which a clinician rates what models diagnosed, blind to which model said what.

    python -m evaluation.rating_page outputs/demo/diagnosis/chat outputs/other --out rate.html
    python -m evaluation.judge outputs/demo/diagnosis/chat outputs/other --judge string \\
        --judge human:ratings_AB.csv --out outputs/judged

Reads   RUN/diagnosis.jsonl, as evaluation.judge does; its CSVs are also pairs for recipes/dpo.py
        (data_prep/preferences/rating_page.py)
Writes  OUT            the page: opened from disk, it loads and sends nothing, keeps ratings in the browser,
                       exports a CSV
        OUT.key.json   seed, runs, and for each item of the page the ranks that models gave it; no text. Not
                       for the rater

A prediction is on the page once, however many models made it, in an order drawn from --seed: nothing in the
page or its CSV reveals a model or a rank.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from data_prep import egress
from data_prep.files import check_folder, one_sentence, replaced
from data_prep.schema import BadInput, strictest
from evaluation.diagnosis.verdicts import hashed, prediction_id
from evaluation.generate import check_numbers
from evaluation.judge import read_runs

TEMPLATE = Path(__file__).resolve().parent / "diagnosis" / "rating_page.html"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="RUN", help="folders written by evaluation.generate"
    )
    parser.add_argument("--out", type=Path, required=True, help="the page, e.g. rate.html")
    parser.add_argument("--seed", type=int, default=0, help="of the order of cases and predictions")
    parser.add_argument(
        "--limit",
        type=int,
        help="so many cases, drawn by the seed: to measure how far a judge agrees with a clinician",
    )
    args = parser.parse_args(argv)
    with one_sentence():
        check_numbers(args)
        check_folder(args.out.parent)
        if args.out.is_dir():
            raise BadInput(
                f"{args.out}: is a folder, and the page is a file. Next: --out {args.out}/rate.html"
            )
        page, key = contents(read_runs(args.folders), args.seed, args.limit)
        data = json.dumps(page, separators=(",", ":")).replace("<", "\\u003c")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        for path, text in (  # its owner's alone where read_runs has closed this process
            (args.out, TEMPLATE.read_text(encoding="utf-8").replace("@DATA@", data)),
            (args.out.with_name(f"{args.out.name}.key.json"), json.dumps(key, indent=1)),
        ):
            replaced(path, lambda partial, text=text: partial.write_text(text, encoding="utf-8"))
    n = sum(len(case["predictions"]) for case in page["cases"])
    print(
        f"wrote {args.out}: {len(page['cases'])} cases, {n} predictions, access {page['access']}; "
        f"{args.out}.key.json is not for the rater",
        flush=True,
    )


def contents(runs: dict, seed: int, limit: int | None = None) -> tuple[dict, dict]:
    """(what the page holds, what its key holds)."""
    cases, key, access = {}, {}, []
    for model, run in runs.items():
        for row in run["rows"]:
            case = cases.setdefault(
                row["id"],
                {
                    "id": row["id"],
                    "text": row.get("question", row["prompt"]),
                    "diagnosis": row["completion"],
                    "synonyms": row.get("synonyms", []),
                    "license": row["license"],
                    "access": row["access"],
                    "predictions": {},
                },
            )
            case["access"] = strictest([case["access"], row["model_access"]])
            access.append(case["access"])
            for rank, name in enumerate(row["differential"] or (), 1):
                item = prediction_id(row["id"], name)
                case["predictions"].setdefault(item, {"item": item, "name": name})
                key.setdefault(item, {"case": row["id"], "ranks": {}})["ranks"].setdefault(model, rank)
    shown = [case for case in cases.values() if case["predictions"]]
    if not shown:
        raise BadInput(
            f"{', '.join(runs)}: no answer holds a list that could be rated. Next: look at the outputs in "
            "diagnosis.jsonl"
        )
    rng = random.Random(f"rating page {seed}")
    rng.shuffle(shown)
    for case in shown:
        case["predictions"] = rng.sample(
            sorted(case["predictions"].values(), key=lambda p: p["item"]), len(case["predictions"])
        )
    shown = shown[:limit]
    items = [prediction["item"] for case in shown for prediction in case["predictions"]]
    page = {
        "page": hashed(items, [case["diagnosis"] for case in shown])[:16],
        "access": strictest(access),
        "cases": shown,
    }
    outputs = {model: run["facts"]["outputs_sha256"] for model, run in runs.items()}
    return page, {
        "page": page["page"],
        "seed": seed,
        "outputs_sha256": outputs,
        "items": {item: key[item] for item in items},
    }


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
