"""The article's Tables 4, 5 and 6 with our models beside the published ones, as plain values, Markdown, CSV and LaTeX.

A cell of ours: strict value with its interval, the article's scorer on the same outputs, and how many outputs held no readable answer. Where
the headline of a task is withheld, so is every strict value of it. Published values are printed as they stand in paper_tables.json.
"""

import csv
import io
from pathlib import Path

from data_prep.files import read_json

ARTICLE = Path(__file__).resolve().parent / "paper_tables.json"
TABLES = {4: "table4_supervised", 5: "table5_zero_shot", 6: "table6_ablation"}
TASK = {
    "mtsample": "mtsamples",
    "pubmed": "pubmed_summ",
}  # names of the article's file -> ours, where they differ
METRIC = {("emrqa", "accuracy"): "exact_match"}
LABELS = {
    "accuracy": "accuracy", "macro_f1": "macro-F1", "exact_match": "exact match", "f1": "F1", "rougeL": "ROUGE-L", "bertscore": "BERTScore",
    "pubmedqa": "PubMedQA", "medqa": "MedQA", "medmcqa": "MedMCQA", "emrqa": "emrQA", "i2b2": "i2b2", "ddi": "DDI", "hoc": "HoC",
    "mtsamples": "MTSamples", "pubmed_summ": "PubMed", "mimic_cxr": "MIMIC-CXR", "bionli": "BioNLI", "mednli": "MedNLI",
}  # fmt: skip


def cell(model: str, task: str, entry: dict | None, metric: str) -> dict | None:
    """What a model's entry of scores.json says of one metric; None where there is nothing."""
    if entry is None or metric not in entry["metrics"]:
        return None
    theirs = entry["paper"] or {"metrics": {}, "notes": {}, "faults": []}
    paper = theirs["metrics"].get(metric)
    withheld = entry["headline"]["withheld"]
    return {
        "model": model, "task": task, "metric": metric, "n": entry["n"], "withheld": withheld, "best": False, "unparsed": entry["unparsed"],
        "unparsed_rate": entry["unparsed_rate"], "paper": paper and paper["value"],
        "paper_note": "; ".join(filter(None, (theirs["notes"].get(metric), "faults " + " ".join(theirs["faults"])))) if paper else "",
        **(dict.fromkeys(("value", "low", "high")) if withheld else entry["metrics"][metric]),
    }  # fmt: skip


def article_tables(models: list[dict], evaluations: dict, of: dict[str, list[int]]) -> list[dict]:
    """The tables in which one of `models` has a place (`of`: model name -> table numbers) and at least one score."""
    article, tables = read_json(ARTICLE), []
    asked = {record["dataset"]: record["test"] for record in article["table3_benchmark"]["records"]}
    for number, key in TABLES.items():
        ours = [model for model in models if number in of[model["name"]]]
        records, notes, rows = article[key]["records"], set(), []
        for dataset, metric in dict.fromkeys((record["dataset"], record["metric"]) for record in records):
            line = {r["model"]: r for r in records if (r["dataset"], r["metric"]) == (dataset, metric)}
            published = [{"cited": False, "footnote": ""} | line[name] for name in article[key]["models"]]
            task, ours_metric = TASK.get(dataset, dataset), METRIC.get((dataset, metric), metric)
            cells = [
                cell(m["name"], task, evaluations[m["name"]]["scores"].get(task), ours_metric) for m in ours
            ]
            notes |= {note for record in published for note in record["footnote"].split(", ") if note}
            counts = sorted({c["n"] for c in cells if c})
            rows.append({
                "task": task, "dataset": LABELS[task], "metric": ours_metric, "label": LABELS[ours_metric], "n_article": asked[dataset],
                "n": counts[0] if counts else None, "published": published, "ours": cells,
            })  # fmt: skip
        if any(c for row in rows for c in row["ours"]):
            tables.append({
                "number": number, "title": article[key]["source"], "source": article["source"], "published": article[key]["models"],
                "ours": [{"name": model["name"], "label": model["label"]} for model in ours], "rows": rows,
                "cited": any(record.get("cited") for record in records), "notes": {note: article["footnotes"][note] for note in sorted(notes)},
            })  # fmt: skip
    return tables


def reasons(table: dict) -> list[str]:
    """One sentence for each task of a model whose headline is withheld."""
    label = {model["name"]: model["label"] for model in table["ours"]}
    found = {
        (c["model"], c["task"]): c["withheld"]
        for row in table["rows"]
        for c in row["ours"]
        if c and c["withheld"]
    }
    return [f"{label[model]}, {LABELS[task]}: {reason}" for (model, task), reason in found.items()]


# ---------------------------------------------------------------- as text
def printed(record: dict) -> str:
    """A published value with its marks: * is cited by the article, a letter a footnote."""
    value = "–" if record["value"] is None else f"{record['value']:.3f}"
    marks = ",".join(filter(None, ("*" if record["cited"] else "", record["footnote"])))
    return f"{value} ({marks})" if marks else value


def in_words(c: dict | None) -> str:
    if c is None:
        return "–"
    strict = (
        "withheld"
        if c["withheld"]
        else "not defined"
        if c["value"] is None
        else f"{c['value']:.3f} ({c['low']:.3f} to {c['high']:.3f})"
    )
    paper = "" if c["paper"] is None else f"; paper {c['paper']:.3f}"
    return f"{strict}{paper}; {c['unparsed_rate']:.1%} unparsed"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(
        [
            "| " + " | ".join(head) + " |",
            "|" + " --- |" * len(head),
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
        ]
    )


def markdown(table: dict) -> str:
    head = [
        "dataset",
        "metric",
        "rows (article's)",
        *table["published"],
        *(f"**{model['label']}**" for model in table["ours"]),
    ]
    rows = [
        [
            row["dataset"],
            row["label"],
            f"{row['n'] or '–'} ({row['n_article']:,})",
            *map(printed, row["published"]),
            *map(in_words, row["ours"]),
        ]
        for row in table["rows"]
    ]
    notes = [f"({letter}) {text}" for letter, text in table["notes"].items()]
    notes += ["(*) cited by the article from another one"] if table["cited"] else []
    notes += [f"Withheld: {reason}." for reason in reasons(table)]
    return markdown_table(head, rows) + "\n" + "".join(f"- {note}\n" for note in notes)


FIELDS = (
    "table",
    "dataset",
    "metric",
    "model",
    "source",
    "n",
    "strict",
    "low",
    "high",
    "paper_scorer",
    "unparsed_rate",
    "withheld",
    "published",
    "note",
)


def as_csv(tables: list[dict]) -> str:
    """One line for each cell of the tables, published or ours."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table["rows"]:
            place = {"table": table["number"], "dataset": row["task"], "metric": row["metric"]}
            for record in row["published"]:
                notes = ["cited"] * record["cited"] + [
                    table["notes"][n] for n in record["footnote"].split(", ") if n
                ]
                facts = {
                    "model": record["model"],
                    "source": "article",
                    "n": row["n_article"],
                    "published": record["value"],
                    "note": "; ".join(notes),
                }
                writer.writerow(place | facts)
            for c in filter(None, row["ours"]):
                facts = {
                    "model": c["model"],
                    "source": "ours",
                    "n": c["n"],
                    "strict": c["value"],
                    "low": c["low"],
                    "high": c["high"],
                }
                facts |= {
                    "paper_scorer": c["paper"],
                    "unparsed_rate": c["unparsed_rate"],
                    "withheld": c["withheld"],
                }
                writer.writerow(place | {key: "" if value is None else value for key, value in facts.items()})
    return text.getvalue()


ESCAPES = {"\\": r"\textbackslash{}", "–": "--", **{c: "\\" + c for c in "&%$#_{}"}}


def latex_text(text: str) -> str:
    return "".join(ESCAPES.get(character, character) for character in text)


def latex(tables: list[dict]) -> str:
    r"""A \begin{table} for each, for \input; needs no package. Ours: strict, with the article's scorer and the unparsed share below it."""
    parts = []
    for table in tables:
        names = [*table["published"], *(model["label"] for model in table["ours"])]
        lines = [
            r"\begin{table}",
            r"\scriptsize",
            rf"\begin{{tabular}}{{ll*{{{len(names)}}}{{r}}}}",
            r"\hline",
        ]
        lines += [" & ".join(["Dataset", "Metric", *map(latex_text, names)]) + r" \\", r"\hline"]
        for row in table["rows"]:
            marked = [printed(record).replace(" (", "$^{").replace(")", "}$") for record in row["published"]]
            ours = [[""] * 2 if c is None else latex_cell(c) for c in row["ours"]]
            lines.append(
                " & ".join(
                    [
                        row["dataset"],
                        row["label"],
                        *(m.replace("–", "--") for m in marked),
                        *(c[0] or "--" for c in ours),
                    ]
                )
                + r" \\"
            )
            if any(c[1] for c in ours):
                lines.append(" & ".join(["", "", *[""] * len(marked), *(c[1] for c in ours)]) + r" \\")
        notes = [f"$^{{{letter}}}$ {latex_text(text)}" for letter, text in table["notes"].items()]
        notes += ["$^{*}$ cited by the article from another one."] if table["cited"] else []
        notes += [f"Withheld: {latex_text(reason)}." for reason in reasons(table)]
        caption = f"{latex_text(table['title'])}. Published values beside ours: strict score, below it the article's scorer and the share of "
        caption += "outputs without a readable answer. " + " ".join(notes)
        lines += [r"\hline", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex_cell(c: dict) -> list[str]:
    strict = "withheld" if c["withheld"] else "--" if c["value"] is None else f"{c['value']:.3f}"
    return [
        strict,
        f"({'--' if c['paper'] is None else format(c['paper'], '.3f')}, {100 * c['unparsed_rate']:.1f}\\%)",
    ]
