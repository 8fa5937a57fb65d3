"""forgetting.json as Markdown, and as a section of report.html."""

from pathlib import Path

import jinja2
import markupsafe

from evaluation.reporting import curves
from evaluation.reporting.formats import format_difference, format_interval, markdown_table, markdown_text
from evaluation.reporting.intervals import DETECTABLE, detectable
from evaluation.scoring import metrics

TITLE = "Forgetting: general tasks before and after training"
COLUMNS = {
    "task": "task",
    "what": "items",
    "model": "model",
    "base": "of the base",
    "value": "of the model",
    "difference": "difference (95 % interval)",
    "detectable": "detectable",
    "test": "right in one only, McNemar",
}


def section(result: dict) -> dict:
    """Both forms, for the report."""
    return {"html": html(result), "markdown": markdown(result, "##")}


def markdown(result: dict, heading: str = "#") -> str:
    """The result as Markdown, a section of its own. `result`: forgetting.json."""
    v = view(result)
    rows = [[row[key] for key in COLUMNS] for row in v["rows"]]
    parts = [f"{heading} {TITLE}\n", f"The base is {markdown_text(v['base'])}.\n"]
    parts += [markdown_table(list(COLUMNS.values()), rows)]
    parts += ["".join(f"- {markdown_text(note)}\n" for note in v["notes"])] if v["notes"] else []
    if v["verdict"]:
        findings = "".join(f"- {markdown_text(sentence)}\n" for sentence in v["findings"])
        parts += [f"Gate ({v['limits']}): **{v['verdict']}**\n", findings]
    return "\n".join(parts)


def html(result: dict) -> markupsafe.Markup:
    """The result as a section of report.html, with the curves drawn."""
    template = Path(__file__).resolve().parent / "forgetting.html"
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(template.read_text(encoding="utf-8"))
    drawing = curves.draw(result["curves"]) if result["curves"] else None
    return markupsafe.Markup(page.render(view(result), title=TITLE, drawing=drawing, draws=metrics.DRAWS))


def view(result: dict) -> dict:
    """What both forms show, as text."""
    limits = {name: value for name, value in result["gate"]["limits"].items() if value not in (None, [])}
    listed = {name: " and ".join(v) if isinstance(v, list) else str(v) for name, v in limits.items()}
    return {
        "base": result["base"]["name"],
        "rows": [*_rows(result), *_means(result)],
        "notes": list(_notes(result)),
        "verdict": result["gate"]["verdict"],
        "limits": ", ".join(f"{name} {value}" for name, value in listed.items()),
        "findings": [finding["sentence"] for one in result["tuned"] for finding in one["gate"]],
    }


def _rows(result: dict):
    for task, facts in result["asked"].items():
        for one in result["tuned"]:
            base, value = (model["tasks"][task][facts["metric"]] for model in (result["base"], one))
            difference = one["differences"][task]
            yield {
                "task": task,
                "what": format_task(facts),
                "model": one["name"],
                "base": format_interval(base["value"], base["low"], base["high"]),
                "value": format_interval(value["value"], value["low"], value["high"]),
                "difference": format_difference(difference),
                "detectable": detectable(difference, paired=True),
                "test": format_test(difference.get("mcnemar")),
            }


def _means(result: dict):
    if len(result["asked"]) > 1:
        for one in result["tuned"]:
            shown = {
                "task": "mean over tasks",
                "model": one["name"],
                "difference": format_difference(one["mean"]),
                "detectable": detectable(one["mean"], paired=True),
            }
            yield dict.fromkeys(COLUMNS, "") | shown


def _notes(result: dict):
    base = result["base"]["name"]
    yield DETECTABLE
    for one in result["tuned"]:
        if one.get("published"):
            yield f"{one['name']} in the paper: {format_published(one['published'])}"
    for task, why in result["not_asked"].items():
        yield f"{task} was not asked: {why}"
    for task in result["at_chance"]:
        yield f"{task}: {base} does not answer it better than by chance, so a loss cannot show"
    for one in result["tuned"]:
        for domain, r in one["perplexity"].items():
            ratio = format_interval(r["ratio"], r["low"], r["high"])
            of = f"perplexity of {one['name']} over that of {base} on {domain} text"
            yield f"{of}: {ratio}, {r['blocks']} blocks, detectable {detectable(r, paired=True)}"
    for curve in result["curves"]:
        yield f"perplexity of held-out text, {curves.format_curve(curve)}"
    for sentence in curves.not_comparable(result["curves"]):
        yield f"perplexity of held-out text, {sentence}"


def summary(results: list[dict]) -> str:
    """The mean difference of each tuned model over all tasks, beside what the paper says of it. `results`:
    one per base."""
    rows = []
    for result in results:
        for one in result["tuned"]:
            published = one.get("published")
            said = format_published(published) if published else "–"
            gate = ", ".join(sorted({finding["level"] for finding in one["gate"]})) or "passed"
            mean = format_difference(one["mean"]), detectable(one["mean"], paired=True)
            rows.append([one["name"], result["base"]["name"], *mean, said, gate])
    head = ["model", "base", "mean difference (95 % interval)", "detectable", "in the paper", "gate"]
    note = f"The paper names neither the tasks nor the settings behind its figures. {DETECTABLE}\n"
    return f"# {TITLE}\n\n{markdown_table(head, rows)}\n{note}"


def format_published(record: dict) -> str:
    points = "no figure" if record["points"] is None else f"{record['points']:+.1f} %"
    return f"{points}, medical to general text {record['ratio']} (“{record['quote']}”)"


def format_task(facts: dict) -> str:
    """A task as it was asked: 573 items in 3 sets, 0 examples, acc,none."""
    sets = f" in {len(facts['definitions'])} sets" if len(facts["definitions"]) > 1 else ""
    note = f" ({facts['note']})" if facts["note"] else ""
    shots = " to ".join(map(str, facts["shots"]))
    return f"{facts['n']} items{sets}, {shots} examples{note}, {facts['metric']}"


def format_test(test: dict | None) -> str:
    return f"{test['only_this']} gained, {test['only_other']} lost, p {test['p']:.3f}" if test else ""
