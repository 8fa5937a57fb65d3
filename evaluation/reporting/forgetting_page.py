"""forgetting.json as Markdown, and as a section of report.html."""

from pathlib import Path

import jinja2
import markupsafe

from evaluation.reporting import curves
from evaluation.reporting.tables import markdown_table
from evaluation.scoring import metrics

TITLE = "Forgetting: general tasks before and after training"


def markdown(result: dict, heading: str = "#") -> str:
    """The result as Markdown, a section of its own. `result`: forgetting.json."""
    v = view(result)
    head = [
        "task",
        "items",
        "model",
        "of the base",
        "of the model",
        "difference (95 % interval)",
        "right in one only, McNemar",
    ]
    rows = [
        [row[key] for key in ("task", "what", "model", "base", "value", "difference", "test")]
        for row in v["rows"]
    ]
    parts = [f"{heading} {TITLE}\n", f"The base is {v['base']}.\n", markdown_table(head, rows)]
    parts += ["\n".join(f"- {note}" for note in v["notes"]) + "\n"] if v["notes"] else []
    if v["verdict"]:
        parts += [
            f"Gate ({v['limits']}): **{v['verdict']}**\n",
            "".join(f"- {sentence}\n" for sentence in v["findings"]),
        ]
    return "\n".join(parts)


def html(result: dict) -> markupsafe.Markup:
    """The same as a section of report.html, with the curves drawn."""
    template = (Path(__file__).resolve().parent / "forgetting.html").read_text()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    drawing = curves.draw(result["curves"]) if result["curves"] else None
    return markupsafe.Markup(
        environment.from_string(template).render(
            view(result), title=TITLE, drawing=drawing, draws=metrics.DRAWS
        )
    )


def view(result: dict) -> dict:
    """What both show, in words."""
    rows, base = [], result["base"]["name"]
    for task, facts in result["asked"].items():
        for one in result["tuned"]:
            levels = [in_level(model["tasks"][task][facts["metric"]]) for model in (result["base"], one)]
            difference = one["differences"][task]
            rows.append({"task": task, "what": in_words(facts), "model": one["name"], "base": levels[0], "value": levels[1],
                         "difference": in_difference(difference), "test": in_test(difference)})  # fmt: skip
    if len(result["asked"]) > 1:
        nothing = dict.fromkeys(("what", "base", "value", "test"), "")
        rows += [
            nothing
            | {"task": "mean over tasks", "model": one["name"], "difference": in_difference(one["mean"])}
            for one in result["tuned"]
        ]
    notes = [f"{task} was not asked: {why}" for task, why in result["not_asked"].items()]
    notes += [
        f"{task}: {base} does not answer it better than by chance, so a loss cannot show"
        for task in result["at_chance"]
    ]
    notes += [
        f"perplexity of {one['name']} over that of {base} on {domain} text: {r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f}), {r['blocks']} blocks"
        for one in result["tuned"]
        for domain, r in one["perplexity"].items()
    ]
    notes += [f"perplexity of held-out text, {curves.in_words(curve)}" for curve in result["curves"]]
    notes += [f"perplexity of held-out text, {sentence}" for sentence in curves.apart(result["curves"])]
    return {
        "base": base,
        "rows": rows,
        "notes": notes,
        "verdict": result["gate"]["verdict"],
        "limits": ", ".join(
            f"{name} {in_text(value)}"
            for name, value in result["gate"]["limits"].items()
            if value not in (None, [])
        ),
        "findings": [finding["sentence"] for one in result["tuned"] for finding in one["gate"]],
    }


def in_words(facts: dict) -> str:
    """A task as it was asked: 573 items in 3 sets, 0 examples, acc,none."""
    sets = f" in {len(facts['definitions'])} sets" if len(facts["definitions"]) > 1 else ""
    note = f" ({facts['note']})" if facts["note"] else ""
    return (
        f"{facts['n']} items{sets}, {' to '.join(map(str, facts['shots']))} examples{note}, {facts['metric']}"
    )


def in_text(value) -> str:
    return " and ".join(value) if isinstance(value, list) else str(value)


def in_level(v: dict) -> str:
    return f"{v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})"


def in_difference(d: dict) -> str:
    return f"{d['difference']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})"


def in_test(d: dict) -> str:
    test = d.get("mcnemar")
    return f"{test['only_this']} gained, {test['only_other']} lost, p {test['p']:.3f}" if test else ""
