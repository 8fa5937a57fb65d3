"""The pictures of the report: loss curves, scores in the manner of the article's Figure 2, differences with their intervals. Drawn by
matplotlib with its own font, the same bytes every time."""

import io
import re

import matplotlib
from matplotlib.figure import Figure

from evaluation.reporting.tables import LABELS

INK = "#010203"  # stands for the colour of the page's text in a drawing
COLOURS = ("#3b82c4", "#d9822b", "#3fa372", "#a66bd0", "#c0504d", "#7a7f87", "#b59a2a", "#2f9fb0")
MARKERS = "osD^vP*X"
FIGURE2 = {  # the eight datasets of the article's Figure 2, which may be sent to a commercial service, and its metric for each
    "pubmedqa": "accuracy", "medqa": "accuracy", "medmcqa": "accuracy", "ddi": "macro_f1", "hoc": "macro_f1", "mtsamples": "macro_f1",
    "pubmed_summ": "rouge1", "bionli": "macro_f1",
}  # fmt: skip


class Drawing(str):
    """An SVG that jinja2 puts on the page as it is; `files` writes it, and a PDF beside it."""

    figure: Figure

    def __html__(self):
        return self

    def files(self, folder, name):
        (folder / f"{name}.svg").write_text(self.replace("currentColor", "#1c1e21"))
        self.figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def drawing(size, name: str, label: str, draw) -> Drawing:
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "font.family": "DejaVu Sans",
    }  # the font matplotlib brings
    colours = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    )
    with matplotlib.rc_context({**settings, **colours}):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot(facecolor="none")
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.15, color=INK, axis="both" if name.startswith("curve") else "x")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL).replace(
        INK, "currentColor"
    )
    made = Drawing(
        re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{label}"', svg, count=1)
    )
    made.figure = figure
    return made


def curve(label: str, losses: list) -> Drawing:
    """`losses`: [(name, steps, values)] of one training run."""

    def draw(axes):
        for number, (name, steps, values) in enumerate(losses):
            style = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.4}
            held_out = {} if name == "training" else {"marker": "o", "markersize": 3}
            axes.plot(
                steps,
                values,
                label=name if name in ("training", "validation") else f"held-out {name}",
                **style,
                **held_out,
            )
        axes.set(xlabel="step", ylabel="loss (nats per token)")
        axes.legend(frameon=False, fontsize=8)

    return drawing((4.6, 2.7), f"curve {label}", f"loss curves of {label}", draw)


def _points(axes, groups: list[str], series: list[dict]):
    """Horizontal points: one line of the picture for each group, the series below one another in it. A series is {"label", "style",
    "published" (hollow in the legend), "points": {group: (value, low, high, hollow)}}."""
    step = 0.8 / max(len(series), 1)
    for number, one in enumerate(series):
        face = "none" if one.get("published") else one["style"]["color"]
        axes.plot(
            [],
            [],
            one["style"]["marker"],
            color=one["style"]["color"],
            markerfacecolor=face,
            markersize=5,
            label=one["label"],
        )
        for group, (value, low, high, hollow) in one["points"].items():
            y = groups.index(group) - 0.4 + step * (number + 0.5)
            colour = one["style"]["color"]
            if low is not None:
                axes.plot([low, high], [y, y], color=colour, linewidth=1.3, solid_capstyle="butt")
            face = "none" if hollow else colour
            axes.plot([value], [y], one["style"]["marker"], color=colour, markerfacecolor=face, markersize=5)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def figure2(models: list[dict], cells: dict, published: list[dict]) -> Drawing | None:
    """Our models on the article's eight datasets, with published values as hollow marks. `cells`: {(model, task): cell of tables.py};
    `published`: {"label", "values": {task: value}}. None if no model was asked one of the eight."""
    tasks = [task for task in FIGURE2 if any((model["name"], task) in cells for model in models)]
    if not tasks:
        return None
    names = {
        task: f"{LABELS[task]}\n{'ROUGE-1' if FIGURE2[task] == 'rouge1' else LABELS[FIGURE2[task]]}"
        for task in tasks
    }
    series = []
    for number, model in enumerate(models):
        known = {names[task]: cells[model["name"], task] for task in tasks if (model["name"], task) in cells}
        points = {
            name: (c["value"], c["low"], c["high"], False)
            for name, c in known.items()
            if c["value"] is not None
        }
        series.append({"label": model["label"], "style": style(number), "points": points})
    for number, one in enumerate(published):
        points = {
            names[task]: (value, None, None, True)
            for task, value in one["values"].items()
            if task in tasks and value is not None
        }
        series.append(
            {
                "label": one["label"],
                "published": True,
                "style": {"color": INK, "marker": MARKERS[number % len(MARKERS)]},
                "points": points,
            }
        )
    series = [one for one in series if one["points"]]
    if not series:
        return None

    def draw(axes):
        _points(axes, [names[task] for task in tasks], series)
        axes.set(xlabel="score", xlim=(-0.02, 1.02))
        axes.figure.legend(frameon=False, fontsize=7.5, loc="outside lower center", ncols=2)

    return drawing(
        (6.4, 1.5 + len(tasks) * (0.2 + 0.11 * len(series))),
        "figure2",
        "scores of the models on the datasets of Figure 2",
        draw,
    )


def style(number: int) -> dict:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number // len(COLOURS) % len(MARKERS)]}


def forest(baseline: str, differences: list[dict]) -> Drawing | None:
    """Differences to the baseline: {"task", "model" (label), "number" (of the model), "difference", "low", "high", "withheld"}."""
    if not differences:
        return None
    tasks = list(dict.fromkeys(d["task"] for d in differences))
    series = {}
    for d in differences:
        one = series.setdefault(d["model"], {"label": d["model"], "style": style(d["number"]), "points": {}})
        one["points"][d["task"]] = (d["difference"], d["low"], d["high"], bool(d["withheld"]))

    def draw(axes):
        axes.axvline(0, color=INK, linewidth=0.8)
        _points(axes, tasks, list(series.values()))
        axes.set(xlabel=f"difference to {baseline} (95 % interval)")
        axes.figure.legend(frameon=False, fontsize=7.5, loc="outside lower center", ncols=2)

    return drawing(
        (6.4, 1.2 + len(tasks) * (0.16 + 0.12 * len(series))),
        "forest",
        f"differences to {baseline} with their intervals",
        draw,
    )
