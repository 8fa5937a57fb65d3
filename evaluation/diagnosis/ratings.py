"""What clinicians rated, from CSV files: those that the rating page exports (evaluation/rating_page.py), or
any with the same columns.

    case_id,item,rater,match            an export: `item` is the id of a prediction, which does not tell the
                                        model
    case_id,prediction,rater,match      a table of one's own, with the words of the prediction
    case_id,rank,rater,match[,model]    ... or with its rank in the answer of a model; without the column
                                        `model` there is one run

`match` is y, n or u (unsure), or yes, no, 1, 0, true, false; where it is empty nothing was rated. A
prediction gets what most of those say who are sure; a tie is missing.
"""

from pathlib import Path

from data_prep.schema import BadInput
from data_prep.sources.raw_files import csv_rows, files_below
from evaluation.diagnosis.verdicts import prediction_id

MATCH = {
    "y": True,
    "yes": True,
    "1": True,
    "true": True,
    "n": False,
    "no": False,
    "0": False,
    "false": False,
    "u": None,
    "unsure": None,
}


def read_ratings(path: Path, runs: dict) -> dict:
    """{(case id, prediction id): {rater: True, False or None}}. `runs`: {model: {case id: its differential or
    None}}, to find a rank."""
    if not path.exists():
        raise BadInput(
            f"{path}: no such file or folder of ratings. Next: python -m evaluation.rating_page RUN --out "
            f"rate.html, and put the CSV that the "
            f"clinician downloads from that page to {path}"
        )
    found = {}
    for file in files_below(path, ("*.csv",), "human"):
        for number, row in csv_rows(file, ("case_id", "rater", "match")):
            where, match = f"{file}: record {number}", row["match"].strip().lower()
            if not match:
                continue
            if match not in MATCH:
                raise BadInput(
                    f"{where}: match '{row['match']}' is not one of {', '.join(MATCH)}. Next: correct it"
                )
            said = found.setdefault((row["case_id"], _item(row, runs, where)), {})
            if said.get(row["rater"], MATCH[match]) != MATCH[match]:
                raise BadInput(
                    f"{where}: {row['rater']} rated this prediction before, and otherwise. Next: leave one "
                    f"of the two"
                )
            said[row["rater"]] = MATCH[match]
    if not found:
        raise BadInput(
            f"{path}: holds no rating. Next: python -m evaluation.rating_page RUN --out rate.html, and "
            f"export from it"
        )
    return found


def _item(row: dict, runs: dict, where: str) -> str:
    if row.get("item"):
        return row["item"].strip()
    if row.get("prediction"):
        return prediction_id(row["case_id"], row["prediction"])
    if not row.get("rank", "").strip().isdigit():
        raise BadInput(f"{where}: has no item, prediction or rank. Next: give one of the three columns")
    model = row.get("model") or (next(iter(runs)) if len(runs) == 1 else None)
    if model not in runs:
        raise BadInput(
            f"{where}: a rank of which of {', '.join(runs) or 'no run'}? Next: a column model with one of "
            f"these names"
        )
    names, rank = runs[model].get(row["case_id"]) or [], int(row["rank"])
    if not 1 <= rank <= len(names):
        raise BadInput(
            f"{where}: {model} has no rank {rank} for case {row['case_id']} ({len(names)} names were "
            f"read). Next: correct it"
        )
    return prediction_id(row["case_id"], names[rank - 1])


def by_rater(ratings: dict) -> dict:
    """{rater: {(case id, prediction id): True or False}} without what is unsure."""
    found = {}
    for pair, said in ratings.items():
        for rater, verdict in said.items():
            if verdict is not None:
                found.setdefault(rater, {})[pair] = verdict
    return found
