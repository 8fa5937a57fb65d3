"""The summary of a judged set of cases as tables, pictures and a section of the report. It lays out numbers
and computes none.

section.read(folder)  ->  {"html", "markdown", "access", "allowed"}, for the report
"""

import html
import json
from pathlib import Path

import markupsafe

from data_prep.files import read_json, replaced, write_jsonl
from data_prep.schema import BadInput
from evaluation.reporting import figures
from evaluation.reporting.intervals import DETECTABLE, detectable
from evaluation.reporting.tables import markdown_table

SUMMARY = "summary.json"
PAPER_VALUES = "The paper prints its own values as pictures only, so this page has none."


def write(folder: Path, summary: dict, rows: list[dict]) -> None:
    """summary.json, summary.md, judged.jsonl and the pictures; each takes its name when it is whole."""
    replaced(folder / "judged.jsonl", lambda path: write_jsonl(path, rows))
    replaced(folder / "summary.md", lambda path: path.write_text(markdown(summary) + "\n", encoding="utf-8"))
    for name, drawing in pictures(summary).items():
        drawing.files(folder, name)
    replaced(
        folder / SUMMARY,
        lambda path: path.write_text(
            json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        ),
    )


def read(folder: Path) -> dict:
    if not (folder / SUMMARY).is_file():
        raise BadInput(
            f"{folder / SUMMARY}: no such file. Next: python -m evaluation.judge RUN --judge string --out "
            f"{folder}"
        )
    summary = read_json(folder / SUMMARY)
    allowed = [entry for judge in summary["judges"] for entry in judge.get("allowed", ())]
    return {
        "access": summary["access"],
        "allowed": allowed,
        "markdown": markdown(summary),
        "html": as_html(summary),
    }


# ---------------------------------------------------------------- tables
def tables(summary: dict) -> list[tuple[str, tuple, list[tuple]]]:
    """[(title, head, rows)] of everything that is to be said."""
    found = [
        table
        for judge in summary["judges"]
        for table in (_accuracies(summary, judge), _differences(summary, judge))
    ]
    found += [_again(summary), _agreement(summary), _corrected(summary)]
    rows = [
        (r["first"], r["second"], f"{r['pairs']} in {r['cases']} cases", interval(r["kappa"]))
        for r in summary["raters"]
    ]
    found.append(("Agreement between clinicians", ("rater", "rater", "pairs", "Cohen's kappa"), rows))
    return [table for table in found if table[2]]


def _again(summary):
    rows = [
        (judge["id"], named, f"{one['changed']} of {one['pairs']}", interval(one), str(one["missing"]))
        for judge in summary["judges"]
        for name, named in (("again", "the same question"), ("swapped", "the two names swapped"))
        if (one := (judge.get("again") or {}).get(name))
    ]
    head = ("judge", "asked again", "verdicts that change", "share", "missing")
    return "Does a judge say the same again?", head, rows


TOP = ("top-1", "top-2", "top-3", "top-4", "top-5")


def _accuracies(summary, judge):
    rows = []
    for model in summary["models"]:
        top = judge["models"][model["name"]]["top"].values()
        cells = ["withheld" for _ in top] if model["withheld"] else [bounded(cell) for cell in top]
        rows.append(
            (
                model["name"],
                f"{model['unparsed']} of {model['n']}",
                str(max(cell["missing"] for cell in top)),
                *cells,
            )
        )
        if not model["withheld"]:
            rows.append(("Wilson", "", "", *(wilson(cell) for cell in top)))
            rows.append(("detectable", "", "", *(detectable(cell) for cell in top)))
    return f"Accuracy, judged by {judge['id']}", ("model", "no list", "missing", *TOP), rows


def _differences(summary, judge):
    withheld = {model["name"] for model in summary["models"] if model["withheld"]}
    rows = []
    for pair in judge["pairs_of_models"]:
        names, top = (pair["first"], pair["second"]), pair["top"].values()
        hidden = withheld & set(names)
        rows.append((" - ".join(names), *("withheld" if hidden else difference(cell) for cell in top)))
        if not hidden:
            rows.append(("detectable", *(detectable(cell, paired=True) for cell in top)))
    return f"Differences, judged by {judge['id']}", ("models", *TOP), rows


def _agreement(summary):
    rows = []
    for one in summary["agreement"]:
        measures = (interval(one[name]) for name in ("kappa", "sensitivity", "specificity"))
        rows.append((one["judge"], one["human"], f"{one['pairs']} in {one['cases']} cases", *measures))
    head = ("judge", "clinicians", "pairs", "Cohen's kappa", "sensitivity", "specificity")
    return "Agreement with clinicians on predictions", head, rows


def _corrected(summary):
    shown = [model["name"] for model in summary["models"] if not model["withheld"]]
    rows = [
        (one["judge"], name, *(interval(cell["corrected"][name]) for cell in one["top"].values()))
        for one in summary["agreement"]
        for name in shown
    ]
    return "Accuracy corrected by the clinicians", ("judge", "model", *TOP), rows


def bounded(cell: dict) -> str:
    """The accuracy, and where verdicts are missing what it could be at the least and at the most."""
    return interval(cell) + (
        f" [{cell['least']:.3f} to {cell['most']:.3f} whatever is missing]" if cell["missing"] else ""
    )


def wilson(cell: dict) -> str:
    return "" if cell["value"] is None else f"{cell['wilson_low']:.3f} to {cell['wilson_high']:.3f}"


def difference(cell: dict) -> str:
    if cell["difference"] is None:
        return "not judged"
    interval = f"{cell['difference']:+.3f} ({cell['low']:+.3f} to {cell['high']:+.3f})"
    return f"{interval}; {cell['only_first']}:{cell['only_second']}, p {cell['p']:.3f}"


def interval(cell: dict) -> str:
    if cell["value"] is None:
        return "not defined"
    return f"{cell['value']:.3f}" + (
        "" if cell["low"] is None else f" ({cell['low']:.3f} to {cell['high']:.3f})"
    )


def notes(summary: dict) -> list[str]:
    """What must be read beside the numbers."""
    said = [
        f"{summary['cases']} cases. Top-k: the share of cases with a right diagnosis among the first k. "
        f"Intervals of 95 %: percentile bootstrap over cases "
        f"({summary['draws']} draws), and Wilson's. Differences: paired bootstrap; cases that only one of "
        f"the two has right, and McNemar's exact p, "
        f"not corrected for their number. {PAPER_VALUES} {DETECTABLE}"
    ]
    said += [f"{model['name']}: {model['withheld']}." for model in summary["models"] if model["withheld"]]
    for judge in summary["judges"]:
        parts = [f"{judge['pairs']} predictions", f"{judge['missing']} without a verdict"]
        if judge.get("failed"):
            parts.append(
                f"{judge['failed']} of these got no answer ({judge['first_failure']}) and are asked again "
                f"by the same command"
            )
        if judge.get("served"):
            parts.append(f"served by {', '.join(judge['served'])}")
        parts += (
            [f"prompt {judge['prompt']} (sha256 {judge['prompt_sha256'][:12]})"] if judge["prompt"] else []
        )
        said.append(f"{judge['id']}: {', '.join(parts)}.")
        for member, facts in judge.get("members", {}).items():
            said.append(f"{judge['id']}, {member}: {facts['missing']} without a verdict.")
    if summary["agreement"]:
        said.append(
            "Corrected (Rogan and Gladen): from the judge's sensitivity and specificity on those cases of "
            "the model that clinicians rated, which must be "
            "drawn at random; 'not defined' where they found none right or none wrong, or the judge tells "
            "the two apart no better than chance."
        )
    return said


def markdown(summary: dict) -> str:
    return markdown_of(tables(summary), notes(summary))


def markdown_of(tables: list[tuple], notes: list[str]) -> str:
    """Tables (title, head, rows) and notes as Markdown."""
    parts = [f"### {title}\n\n{aligned(head, rows)}" for title, head, rows in tables]
    return "\n".join([*parts, *(f"- {note}" for note in notes)])


def aligned(head: tuple, rows: list[tuple]) -> str:
    """A Markdown table whose columns line up in a terminal too."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    return markdown_table(padded[0], padded[1:])


def as_html(summary: dict) -> markupsafe.Markup:
    drawn = [
        f'<figure style="max-width: 34rem; margin: .6rem 0">{drawing}</figure>'
        for drawing in pictures(summary).values()
    ]
    return markupsafe.Markup("".join(drawn)) + html_of(tables(summary), notes(summary))


def html_of(tables: list[tuple], notes: list[str]) -> markupsafe.Markup:
    """Tables (title, head, rows) and notes as a part of a page."""
    parts = []
    for title, head, rows in tables:
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        lines = "".join(
            f"<tr><th>{html.escape(row[0])}</th>"
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in rows
        )
        parts.append(
            f"<h3>{html.escape(title)}</h3><div "
            f'class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
        )
    parts.append("<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>")
    return markupsafe.Markup("".join(parts))


# ---------------------------------------------------------------- Figures 3 and 4
def pictures(summary: dict) -> dict:
    """{"figure3", "figure4"} as drawings, each where there is a judge of its kind and a model whose accuracy
    is not withheld."""
    shown = [
        (number, model["name"]) for number, model in enumerate(summary["models"]) if not model["withheld"]
    ]
    machine = next((judge for judge in summary["judges"] if judge["kind"] != "human"), None)
    human = next((judge for judge in summary["judges"] if judge["kind"] == "human"), None)
    found = {}
    if machine and shown:
        found["figure3"] = _figure("figure3", machine, shown, ("1", "2", "3", "4", "5"))
    if human and shown:
        found["figure4"] = _figure("figure4", human, shown, ("1", "5"))
    return found


def _figure(name: str, judge: dict, shown: list, ks: tuple) -> figures.Drawing:
    """Accuracy over k with bootstrap intervals: points joined by lines for Figure 3, bars for Figure 4, as in
    the paper."""

    def draw(axes):
        width = 0.8 / len(shown)
        for place, (number, model) in enumerate(shown):
            style, cells = figures.style(number), [judge["models"][model]["top"][k] for k in ks]
            known = [(i, cell) for i, cell in enumerate(cells) if cell["value"] is not None]
            x = [
                i - 0.4 + width * (place + 0.5)
                if name == "figure4"
                else i + 0.05 * (place - (len(shown) - 1) / 2)
                for i, _ in known
            ]
            y = [cell["value"] for _, cell in known]
            errors = [
                [cell["value"] - cell["low"] for _, cell in known],
                [cell["high"] - cell["value"] for _, cell in known],
            ]
            if name == "figure4":
                axes.bar(x, y, width * 0.9, color=style["color"], label=model)
                axes.errorbar(x, y, errors, fmt="none", ecolor=figures.INK, elinewidth=1, capsize=2)
            else:
                axes.errorbar(
                    x,
                    y,
                    errors,
                    color=style["color"],
                    marker=style["marker"],
                    markersize=5,
                    linewidth=1.3,
                    elinewidth=1,
                    capsize=2,
                    label=model,
                )
        axes.set_xticks(range(len(ks)), [f"top-{k}" for k in ks])
        axes.set(ylabel="accuracy (95 % interval)", ylim=(0, 1.02))
        axes.set_axisbelow(True)
        axes.set_title(f"judged by {judge['id']}", fontsize=8, loc="left")
        axes.figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=3)

    label = f"top-k accuracy of {', '.join(model for _, model in shown)}, judged by {judge['id']}"
    return figures.drawing((5.2 if name == "figure3" else 3.8, 3.2), f"curve {name}", label, draw)
