"""The paper's countable claims, recomputed: each confirmed or contradicted, with the cells that decide.

    python -m evaluation.reporting.paper_claims         # from the paper's own tables

evaluation.ablation recomputes them from our values, where a plan names the paper's columns. What counts:
evaluation/claims/paper.yaml.
"""

from pathlib import Path
from typing import Literal

import pydantic

from data_prep.files import read_json
from data_prep.schema import load
from evaluation.reporting import tables
from evaluation.reporting.config import Section
from evaluation.reporting.formats import markdown_table

CLAIMS = Path(__file__).resolve().parents[1] / "claims/paper.yaml"
DATASETS = 12


class PaperClaim(Section):
    kind: Literal["wins", "close", "gain", "picture"]
    source: str
    quote: str
    table: Literal[4, 5, 6] | None = None
    of: str | None = None
    over: list[str] = []
    datasets: int | None = None
    exceptions: list[str] | None = pydantic.Field(default=None, alias="except")
    points: float | None = None
    low: float | None = None
    high: float | None = None


class PaperClaims(Section):
    claims: list[PaperClaim]


def main() -> None:
    print(markdown(check_paper()), end="")


def check_paper() -> list[dict]:
    """Every claim on the paper's own values."""
    paper, found = read_json(tables.PAPER), []
    for claim in load(CLAIMS, PaperClaims).claims:
        values = {}
        for record in paper[tables.TABLES[claim.table]]["records"] if claim.table else ():
            key = tables.TASK.get(record["dataset"], record["dataset"]), record["metric"]
            values.setdefault(key, {})[record["model"]] = record["value"]
        found.append(check(claim, values))
    return found


def check_ours(table: dict, models: list[dict]) -> list[dict]:
    """The claims about a table of tables.py on our strict values; `models` say which of the paper's columns
    they are (`paper`)."""
    columns = {model["name"]: model["paper"] for model in models if model["paper"]}
    values = {}
    for row in table["rows"]:
        cells = [c for c in row["ours"] if c and c["model"] in columns]
        values[row["task"], row["metric"]] = {columns[c["model"]]: c["value"] for c in cells}
    wanted = [claim for claim in load(CLAIMS, PaperClaims).claims if claim.table == table["number"]]
    return [check(claim, values) for claim in wanted if {claim.of, *claim.over} <= set(columns.values())]


def check(claim: PaperClaim, values: dict) -> dict:
    """{"quote", "source", "verdict", "cells"}; `values`: {(task, metric): {model: value or None}} in the
    order of the table."""
    if claim.kind == "picture":
        verdict, cells = "cannot be recomputed", "printed as a figure, or about a model that is in no table"
    elif len({task for task, _ in values}) < DATASETS:
        verdict, cells = "undecided", f"needs all {DATASETS} datasets"
    else:
        verdict, cells = (check_gain if claim.kind == "gain" else check_count)(claim, values)
    return {
        "quote": claim.quote,
        "source": claim.source,
        "table": claim.table,
        "verdict": verdict,
        "cells": cells,
    }


def check_count(claim: PaperClaim, values: dict) -> tuple[str, str]:
    """wins, close: the first metric of each dataset decides."""
    margin, first, lost, unknown = (claim.points or 0) / 100, {}, {}, []
    for (task, metric), line in values.items():
        first.setdefault(task, (metric, line))
    for task, (metric, line) in first.items():
        own, others = line.get(claim.of), [line[name] for name in claim.over if line.get(name) is not None]
        if own is None or not others:
            unknown.append(task)
        elif own < max(others) - margin - 1e-9 or (claim.kind == "wins" and own <= max(others)):
            lost[task] = f"{cell(task, metric)} {own:.3f} against {max(others):.3f}"
    if unknown:
        return "undecided", f"no value of {', '.join(unknown)}"
    reached = len(first) - len(lost)
    right = reached == claim.datasets and (claim.exceptions is None or set(lost) == set(claim.exceptions))
    said = f"{reached} of {len(first)}" + (f" within {claim.points:g} points" if claim.points else "")
    return (
        "confirmed" if right else "contradicted",
        f"{said}; all but {'; '.join(lost.values())}" if lost else said,
    )


def check_gain(claim: PaperClaim, values: dict) -> tuple[str, str]:
    """The range of the improvements, at the precision that the claim prints, and on how many datasets the
    first metric improves."""
    (base,), gains = claim.over, {}
    for key, line in values.items():
        if line.get(claim.of) is None or line.get(base) is None:
            return "undecided", f"no value of {cell(*key)}"
        gains[key] = round(100 * (line[claim.of] - line[base]), 6)
    better = {key: gain for key, gain in gains.items() if gain > 0}
    if not better:
        return "contradicted", "no metric improves"
    least, most = min(better, key=better.get), max(better, key=better.get)
    digits = max(len(f"{bound:g}".partition(".")[2]) for bound in (claim.low, claim.high))
    right = [round(better[least], digits) == claim.low, round(better[most], digits) == claim.high]
    said = f"from {better[least]:.1f} ({cell(*least)}) to {better[most]:.1f} ({cell(*most)})"
    below = [f"{cell(*key)} {gain:+.1f}" for key, gain in gains.items() if gain <= 0]
    said += f"; no improvement: {', '.join(below)}" if below else ""
    if claim.datasets:
        improved = {task for task, _ in better}
        right.append(len(improved) == claim.datasets)
        said += f"; {len(improved)} datasets improve by some metric"
    return "confirmed" if all(right) else "contradicted", said


def cell(task: str, metric: str) -> str:
    return f"{tables.LABELS[task]} {tables.LABELS[metric]}"


def markdown(checked: list[dict]) -> str:
    rows = [
        (f"“{c['quote']}” ({c['source']})", str(c["table"] or "–"), f"**{c['verdict']}**", c["cells"])
        for c in checked
    ]
    return markdown_table(("claim", "table", "verdict", "cells"), rows)


if __name__ == "__main__":
    main()
