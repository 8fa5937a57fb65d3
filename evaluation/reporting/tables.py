"""The paper's Tables 4, 5 and 6 with our models beside the published ones, as plain values, Markdown, CSV and
LaTeX.

A cell of ours holds the strict value with its interval, the value of the paper's scorer on the same outputs,
and how many outputs held no readable answer. Where the headline of a task is withheld, so is every strict
value of it. Published values are those of paper_tables.json. A supervised model has cells of the task it was
fine-tuned on, and of no other.
"""

import csv
import io
from pathlib import Path

from data_prep.files import read_json
from evaluation.reporting.formats import (
    format_interval,
    inert,
    latex_text,
    markdown_table,
    markdown_text,
    printable,
)
from evaluation.reporting.intervals import DETECTABLE, smallest, with_width

PAPER = Path(__file__).resolve().parent / "paper_tables.json"
TABLES = {4: "table4_supervised", 5: "table5_zero_shot", 6: "table6_ablation"}
FEW_SHOT = "few-shot"
NO_TABLE = "Few-shot, on the datasets of Table 5 (the paper prints no few-shot table)"
TASK = {
    "mtsample": "mtsamples",
    "pubmed": "pubmed_summ",
}  # names of paper_tables.json -> ours, where they differ
METRIC = {("emrqa", "accuracy"): "exact_match", ("emrqa", "f1"): "word_f1"}
LABELS = {
    **{"accuracy": "accuracy", "macro_f1": "macro-F1", "exact_match": "exact match", "word_f1": "word F1"},
    **{
        "rougeL": "ROUGE-L",
        "bertscore": "BERTScore",
        "pubmedqa": "PubMedQA",
        "medqa": "MedQA",
        "medmcqa": "MedMCQA",
    },
    **{
        "emrqa": "emrQA",
        "i2b2": "i2b2",
        "ddi": "DDI",
        "hoc": "HoC",
        "mtsamples": "MTSamples",
        "pubmed_summ": "PubMed",
    },
    **{"mimic_cxr": "MIMIC-CXR", "bionli": "BioNLI", "mednli": "MedNLI"},
}


def cell(model: str, task: str, entry: dict | None, metric: str) -> dict | None:
    """What a model's entry of scores.json says of one metric; None where there is nothing."""
    if entry is None or metric not in entry["metrics"]:
        return None
    theirs = entry["paper"] or {"metrics": {}, "notes": {}, "faults": []}
    paper = theirs["metrics"].get(metric)
    notes = (theirs["notes"].get(metric), "faults " + " ".join(theirs["faults"])) if paper else ()
    withheld, strict = entry["headline"]["withheld"], with_width(entry["metrics"][metric], entry["n"])
    if withheld:
        strict = dict.fromkeys(("value", "low", "high"))
    return {
        "model": model,
        "task": task,
        "metric": metric,
        "n": entry["n"],
        "withheld": withheld,
        "best": False,
        "unparsed": entry["unparsed"],
        "unparsed_rate": entry["unparsed_rate"],
        "paper": paper and paper["value"],
        "paper_note": "; ".join(filter(None, notes)),
        **strict,
    }


def scores_table(models: list[dict], evaluations: dict, tasks: list[str]) -> list[dict]:
    """A task's primary metric for every model; a model without a score on it has no cell."""
    rows = []
    for task in tasks:
        entries = [evaluations[model["name"]]["scores"].get(task) for model in models]
        metric = next(entry["primary"] for entry in entries if entry)
        cells = [cell(m["name"], task, entry, metric) for m, entry in zip(models, entries, strict=True)]
        best = max((c["value"] for c in cells if c and c["value"] is not None), default=None)
        for c in filter(None, cells):
            c["best"] = c["value"] is not None and c["value"] == best
        n = next(c["n"] for c in cells if c)
        rows.append({"task": task, "metric": metric, "n": n, "smallest": smallest(cells), "cells": cells})
    return rows


def paper_tables(models: list[dict], evaluations: dict, places: dict[str, list]) -> list[dict]:
    """The tables in which one of `models` has at least one score; `places` maps a model's name to its tables:
    4, 5, 6 or FEW_SHOT."""
    paper, found = read_json(PAPER), []
    for number, key in (*TABLES.items(), (FEW_SHOT, TABLES[5])):
        ours = [model for model in models if number in places[model["name"]]]
        published = [] if number == FEW_SHOT else paper[key]["models"]
        rows = _rows(paper, key, published, ours, evaluations)
        if not any(c for row in rows for c in row["ours"]):
            continue
        records = [record for row in rows for record in row["published"]]
        letters = {letter for record in records for letter in record["footnote"].split(", ") if letter}
        found.append(
            {
                "number": number,
                "title": paper[key]["source"] if published else NO_TABLE,
                "heading": f"The paper's {paper[key]['source']}" if published else NO_TABLE,
                "source": paper["source"],
                "published": published,
                "ours": [{"name": m["name"], "label": _label(m, evaluations, number)} for m in ours],
                "rows": rows,
                "cited": any(record["cited"] for record in records),
                "notes": {letter: paper["footnotes"][letter] for letter in sorted(letters)},
            }
        )
    return found


def _label(model: dict, evaluations: dict, number) -> str:
    shots = evaluations[model["name"]].get("run", {}).get("settings", {}).get("num_fewshot")
    return f"{model['label']}, {shots} examples" if number == FEW_SHOT else model["label"]


def _rows(paper: dict, key: str, published: list[str], ours: list[dict], evaluations: dict) -> list[dict]:
    asked = {record["dataset"]: record["test"] for record in paper["table3_benchmark"]["records"]}
    rows, records = [], paper[key]["records"]
    for dataset, metric in dict.fromkeys((record["dataset"], record["metric"]) for record in records):
        line = {r["model"]: r for r in records if (r["dataset"], r["metric"]) == (dataset, metric)}
        task, ours_metric = TASK.get(dataset, dataset), METRIC.get((dataset, metric), metric)
        cells = [cell(m["name"], task, evaluations[m["name"]]["scores"].get(task), ours_metric) for m in ours]
        rows.append(
            {
                "task": task,
                "dataset": LABELS[task],
                "metric": ours_metric,
                "label": LABELS[ours_metric],
                "n_paper": asked[dataset],
                "n": min((c["n"] for c in cells if c), default=None),
                "published": [{"cited": False, "footnote": ""} | line[name] for name in published],
                "ours": cells,
            }
        )
    return rows


def models_table(models: list[dict], trained: dict) -> tuple[list[str], list[list[str]]]:
    """(head, rows) of the paper's Table 1: the medical LLMs as printed, then those of ours whose training run
    is known."""
    head = [
        "model",
        "backbone",
        "size",
        "biomedical",
        "clinical",
        "pretraining tokens",
        "instructions",
        "released",
    ]
    rows = []
    for r in read_json(PAPER)["table1_models"]["records"]:
        marks = ["yes" if r[key] else "no" for key in ("biomedical", "clinical")]
        rows.append(
            [r["model"], r["backbone"], r["size"], *marks, r["tokens"], r["instructions"], r["released"]]
        )
    for model in models:
        run = trained[model["name"]]["run"]
        if run:
            backbone = Path(run.get("arguments", {}).get("model_name_or_path") or "").name
            seen = run.get("tokens_seen") if run.get("stage") == "pretrain" else None
            taught = None if seen is not None or run.get("stage") != "sft" else run.get("rows")
            counts = [f"{n:,}" if isinstance(n, int) else None for n in (seen, taught)]
            rows.append([f"**{model['label']}**", printable(backbone), None, None, None, *counts, None])
    return head, [[cell or "–" for cell in row] for row in rows]


def reasons(table: dict) -> list[str]:
    """One sentence for each task of a model whose headline is withheld."""
    label = {model["name"]: model["label"] for model in table["ours"]}
    cells = [c for row in table["rows"] for c in row["ours"] if c and c["withheld"]]
    found = {(c["model"], c["task"]): c["withheld"] for c in cells}
    return [f"{label[model]}, {LABELS[task]}: {reason}" for (model, task), reason in found.items()]


# ---------------------------------------------------------------- as text
def format_published(record: dict) -> str:
    """A published value with its marks: * is cited by the paper, a letter a footnote."""
    value = "–" if record["value"] is None else f"{record['value']:.3f}"
    marks = ",".join(filter(None, ("*" if record["cited"] else "", record["footnote"])))
    return f"{value} ({marks})" if marks else value


def format_cell(c: dict | None) -> str:
    if c is None:
        return "–"
    strict = "withheld" if c["withheld"] else format_interval(c["value"], c["low"], c["high"])
    paper = "" if c["paper"] is None else f"; paper {c['paper']:.3f}"
    return f"{strict}{paper}; {c['unparsed_rate']:.1%} unparsed"


def notes_below(table: dict) -> list[str]:
    """Footnotes, the smallest differences that our rows can show, and why values are withheld."""
    found = [(f"{row['dataset']} {row['label']}", smallest(row["ours"])) for row in table["rows"]]
    shown = ", ".join(f"{name} {value:.3f}" for name, value in found if value is not None)
    notes = [f"({letter}) {text}" for letter, text in table["notes"].items()]
    notes += ["(*) cited by the paper from another one"] if table["cited"] else []
    notes += [f"{DETECTABLE} Here: {shown}."] if shown else []
    return notes + [f"Withheld: {reason}." for reason in reasons(table)]


def markdown(table: dict) -> str:
    ours = [f"**{model['label']}**" for model in table["ours"]]
    rows = [
        [
            row["dataset"],
            row["label"],
            f"{row['n'] or '–'} ({row['n_paper']:,})",
            *map(format_published, row["published"]),
            *map(format_cell, row["ours"]),
        ]
        for row in table["rows"]
    ]
    head = ["dataset", "metric", "rows (paper's)", *table["published"], *ours]
    return markdown_table(head, rows) + "\n" + "".join(f"- {markdown_text(n)}\n" for n in notes_below(table))


FIELDS = ("table", "dataset", "metric", "model", "source", "n", "strict", "low", "high", "paper_scorer")
FIELDS += ("unparsed_rate", "withheld", "published", "note")


def as_csv(tables: list[dict]) -> str:
    """One line for each cell of the tables, published or ours; text is inert in a spreadsheet."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table["rows"]:
            place = {"table": table["number"], "dataset": row["task"], "metric": row["metric"]}
            for line in (*_published(table, row), *_ours(row)):
                cells = {key: "" if value is None else inert(value) for key, value in line.items()}
                writer.writerow(place | cells)
    return text.getvalue()


def _published(table: dict, row: dict):
    for record in row["published"]:
        notes = ["cited"] * record["cited"]
        notes += [table["notes"][letter] for letter in record["footnote"].split(", ") if letter]
        facts = {"model": record["model"], "source": "paper", "n": row["n_paper"]}
        yield facts | {"published": record["value"], "note": "; ".join(notes)}


def _ours(row: dict):
    for c in filter(None, row["ours"]):
        facts = {"model": c["model"], "source": "ours", "strict": c["value"], "paper_scorer": c["paper"]}
        yield facts | {key: c[key] for key in ("n", "low", "high", "unparsed_rate", "withheld")}


def latex(tables: list[dict]) -> str:
    r"""A \begin{table} for each, for \input; needs no package. Ours: strict; below it the paper's scorer and
    the unparsed share."""
    return "\n\n".join(map(_latex_table, tables)) + "\n"


def _latex_table(table: dict) -> str:
    names = [*table["published"], *(model["label"] for model in table["ours"])]
    lines = [["Dataset", "Metric", *map(latex_text, names)]]
    for row in table["rows"]:
        published = [_latex_published(record) for record in row["published"]]
        ours = [["--", ""] if c is None else _latex_cell(c) for c in row["ours"]]
        lines.append([row["dataset"], row["label"], *published, *(c[0] for c in ours)])
        if any(c[1] for c in ours):
            lines.append(["", "", *[""] * len(published), *(c[1] for c in ours)])
    head, *body = (" & ".join(line) + r" \\" for line in lines)
    notes = [rf"$^{{{letter}}}$ {latex_text(text)}" for letter, text in table["notes"].items()]
    notes += ["$^{*}$ cited by the paper from another one."] if table["cited"] else []
    notes += [f"Withheld: {latex_text(reason)}." for reason in reasons(table)]
    caption = (
        f"{latex_text(table['title'])}. Published values beside ours: strict score, below it the paper's "
    )
    caption += "scorer and the share of outputs without a readable answer. " + " ".join(notes)
    top = [r"\begin{table}", r"\scriptsize", rf"\begin{{tabular}}{{ll*{{{len(names)}}}{{r}}}}", r"\hline"]
    bottom = [r"\hline", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
    return "\n".join([*top, head, r"\hline", *body, *bottom])


def _latex_published(record: dict) -> str:
    value, _, marks = format_published(record).partition(" (")
    return latex_text(value) + (f"$^{{{marks.rstrip(')')}}}$" if marks else "")


def _latex_cell(c: dict) -> list[str]:
    strict = "withheld" if c["withheld"] else "--" if c["value"] is None else f"{c['value']:.3f}"
    paper = "--" if c["paper"] is None else f"{c['paper']:.3f}"
    return [strict, rf"({paper}, {100 * c['unparsed_rate']:.1f}\%)"]
