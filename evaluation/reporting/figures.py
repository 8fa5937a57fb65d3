"""The figures of the report: scores, differences, loss curves, and the overview. Same inputs, same bytes.
matplotlib is imported where it draws; its own font, no formulas: a label is text, whatever it holds."""

import html
import io
import re
import textwrap
import warnings

from evaluation.reporting.intervals import can_show
from evaluation.reporting.tables import LABELS

INK = "#010203"  # replaced by the page's text colour
COLOURS = ("#3b82c4", "#d9822b", "#3fa372", "#a66bd0", "#c0504d", "#7a7f87", "#b59a2a", "#2f9fb0")
MARKERS = "osD^vP*X"
VERDICTS = {"shown": ("#1b6e3c", "●"), "not shown": ("#80590a", "○"), "contradicted": ("#a42a2a", "×")}
FIGURE2 = {  # paper: the eight datasets that may be sent to a commercial service, and the metric of each
    **dict.fromkeys(("pubmedqa", "medqa", "medmcqa"), "accuracy"),
    **dict.fromkeys(("ddi", "hoc", "mtsamples"), "macro_f1"),
    "pubmed_summ": "rouge1",
    "bionli": "macro_f1",
}


class Drawing(str):
    """An SVG that jinja2 puts on the page as it is; `files` writes it, and a PDF beside it."""

    figure: object

    def __html__(self):
        return self

    def save(self, path, background="none"):
        """A standalone SVG."""
        text = self.replace("currentColor", "#1c1e21")
        if background != "none":
            text = re.sub(
                r"(<svg[^>]*>)", rf'\1<rect width="100%" height="100%" fill="{background}"/>', text, count=1
            )
        path.write_text(text, encoding="utf-8")

    def files(self, folder, name):
        self.save(folder / f"{name}.svg")
        with _settings(name):
            self.figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def _settings(name: str):
    import matplotlib

    warnings.filterwarnings(
        "ignore", "Glyph .* missing from font", UserWarning
    )  # the SVG's reader has other fonts
    colours = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    font = {
        "font.size": 9,
        "font.family": "DejaVu Sans",
        "text.parse_math": False,
        "axes.formatter.use_mathtext": False,
    }
    return matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": name, **font, **dict.fromkeys(colours, INK)}
    )


def drawing(size, name: str, label: str, draw, panels: int = 1) -> Drawing:
    """An SVG of `size` inches on which `draw(axes)` has drawn; with more `panels`, `draw(first, second,
    ...)`. `label`: for screen readers."""
    with _settings(name):
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        several = figure.subplots(1, panels, squeeze=False)[0]
        draw(*several)
        for axes in several:
            axes.set_facecolor("none")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.15, color=INK, axis="both" if name.startswith("curve") else "x")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL).replace(
        INK, "currentColor"
    )
    role = f'role="img" aria-label="{html.escape(label)}"'
    made = Drawing(re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', lambda _: role, svg, count=1))
    made.figure = figure
    return made


def style(number: int) -> dict:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number // len(COLOURS) % len(MARKERS)]}


def legend(axes, **options):
    """Every labelled line of `axes`, in order, also one whose label begins with an underscore, which
    matplotlib leaves out by itself."""
    lines = [line for line in axes.lines if getattr(line, "named", None)]
    made = axes.figure.legend(
        lines, ["x"] * len(lines), frameon=False, fontsize=7.5, loc="outside lower center", ncols=2, **options
    )
    for text, line in zip(made.get_texts(), lines, strict=True):
        text.set_text(line.named)


def _named(line, label: str):
    line.named = label


def curve(label: str, losses: list, unit: str = "loss (nats per token)") -> Drawing:
    """`losses`: [(name, steps, values)] of one training run. Over a noisy training loss lies its running
    mean."""

    def draw(axes):
        for number, (name, steps, values) in enumerate(losses):
            shown = {"color": COLOURS[number % len(COLOURS)], "label": name}
            if name == "training" or len(values) > 40:
                width = max(1, len(values) // 20)
                means = [_mean(values[max(0, i - width) : i + width + 1]) for i in range(len(values))]
                axes.plot(steps, values, color=shown["color"], linewidth=0.7, alpha=0.35)
                axes.plot(steps, means, linewidth=1.6, **shown)
            else:
                shown["label"] = (
                    f"held-out {name}" if unit.startswith("loss") and name != "validation" else name
                )
                axes.plot(steps, values, marker="o", markersize=3, linewidth=1.4, **shown)
        axes.set(xlabel="step", ylabel=unit)
        axes.legend(frameon=False, fontsize=8)

    return drawing((4.6, 2.7), f"curve {label} {unit}", f"{unit} of {label}", draw)


def _mean(values: list) -> float:
    return sum(values) / len(values)


def _points(axes, groups: list[str], series: list[dict]):
    """Horizontal points: a line of the figure for each group, the series below one another in it. A series is
    {"label", "style", "published" (hollow in the legend), "points": {group: (value, low, high, hollow)}}."""
    step = 0.8 / max(len(series), 1)
    for number, one in enumerate(series):
        colour, marker = one["style"]["color"], one["style"]["marker"]

        def face(hollow, colour=colour):
            return {"color": colour, "markerfacecolor": "none" if hollow else colour, "markersize": 5}

        _named(axes.plot([], [], marker, **face(one.get("published")))[0], one["label"])
        for group, (value, low, high, hollow) in one["points"].items():
            y = groups.index(group) - 0.4 + step * (number + 0.5)
            if low is not None:
                axes.plot([low, high], [y, y], color=colour, linewidth=1.3, solid_capstyle="butt")
            axes.plot([value], [y], marker, **face(hollow))
    axes.set_yticks(range(len(groups)), groups)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    for border in range(1, len(groups)):
        axes.axhline(border - 0.5, color=INK, alpha=0.12, linewidth=0.8)


def _scores(models: list[dict], groups: dict[str, str], cells: dict) -> list[dict]:
    """A series for each model: `groups` maps a task to its line, `cells` (model, task) to a cell of
    tables.py."""
    series = []
    for number, model in enumerate(models):
        known = {line: cells.get((model["name"], task)) for task, line in groups.items()}
        points = {
            line: (c["value"], c["low"], c["high"], False)
            for line, c in known.items()
            if c and c["value"] is not None
        }
        series.append({"label": model["label"], "style": style(number), "points": points})
    return [one for one in series if one["points"]]


def figure2(models: list[dict], cells: dict, published: list[dict]) -> Drawing | None:
    """Our models on the paper's eight datasets, with published values as hollow marks. `cells`: {(model,
    task): cell of tables.py}; `published`: {"label", "values": {task: value}}. None if no model was asked one
    of the eight."""
    tasks = [task for task in FIGURE2 if any((model["name"], task) in cells for model in models)]
    metric = {task: "ROUGE-1" if FIGURE2[task] == "rouge1" else LABELS[FIGURE2[task]] for task in tasks}
    names = {task: f"{LABELS[task]}\n{metric[task]}" for task in tasks}
    series = _scores(models, names, cells)
    for number, one in enumerate(published):
        values = {task: value for task, value in one["values"].items() if task in tasks and value is not None}
        if values:
            points = {names[task]: (value, None, None, True) for task, value in values.items()}
            mark = {"color": INK, "marker": MARKERS[number % len(MARKERS)]}
            series.append({"label": one["label"], "published": True, "style": mark, "points": points})
    if not series:
        return None

    def draw(axes):
        _points(axes, list(names.values()), series)
        axes.set(xlabel="score", xlim=(-0.02, 1.02))
        legend(axes)

    height = 1.5 + len(tasks) * (0.2 + 0.11 * len(series))
    return drawing((6.4, height), "figure2", "scores of the models on the datasets of Figure 2", draw)


def forest(baseline: str, differences: list[dict]) -> Drawing | None:
    """Differences to the baseline: {"task", "model" (label), "number" (of the model), "difference", "low",
    "high", "withheld"}."""
    if not differences:
        return None
    tasks = list(dict.fromkeys(d["task"] for d in differences))
    series = {}
    for d in differences:
        one = {"label": d["model"], "style": style(d["number"]), "points": {}}
        points = series.setdefault(d["number"], one)["points"]
        points[d["task"]] = (d["difference"], d["low"], d["high"], bool(d["withheld"]))

    def draw(axes):
        axes.axvline(0, color=INK, linewidth=0.8)
        _points(axes, tasks, list(series.values()))
        apart = can_show((d["low"], d["high"]) for d in differences)
        axes.set(xlabel=f"difference to {baseline} (95 % interval)\n{apart}")
        legend(axes)

    height = 1.2 + len(tasks) * (0.16 + 0.12 * len(series))
    return drawing((6.4, height), "forest", f"differences to {baseline} with their intervals", draw)


def overview(models: list[dict], rows: list[dict], claims: list[dict]) -> Drawing | None:
    """The report in one figure: the score of every model on every task (`rows` of the table of scores), and
    the claims with their verdicts beside them. None without a score that may be printed."""
    cells = {(c["model"], row["task"]): c for row in rows for c in row["cells"] if c}
    groups = {row["task"]: f"{row['task']}\n{LABELS.get(row['metric'], row['metric'])}" for row in rows}
    series = _scores(models, groups, cells)
    if not series:
        return None

    def draw(scores, verdicts=None):
        _points(scores, list(groups.values()), series)
        scores.set(xlabel="score (95 % interval)", xlim=(-0.02, 1.02))
        legend(scores)
        if verdicts is not None:
            _verdicts(verdicts, claims)

    height = max(1.3 + len(rows) * (0.2 + 0.09 * len(series)), 0.5 + 0.85 * len(claims))
    size, label = (10 if claims else 6.4, height), "scores of all models, and the verdict on each claim"
    return drawing(size, "overview", label, draw, panels=2 if claims else 1)


def _verdicts(axes, claims: list[dict]):
    axes.set(xlim=(0, 1), ylim=(len(claims) - 0.4, -0.4), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    for number, claim in enumerate(claims):
        colour, mark = VERDICTS[claim["verdict"]]
        axes.text(0.0, number, mark, color=colour, fontsize=13, va="center")
        statement = textwrap.shorten(claim["statement"], 110, placeholder=" …")
        axes.text(0.06, number - 0.03, textwrap.fill(statement, 58), va="bottom")
        axes.text(0.06, number + 0.06, claim["verdict"], color=colour, weight="bold", va="top")
        estimate = format_claim(claim)
        axes.text(0.32, number + 0.06, estimate, fontsize=8, va="top")


def format_claim(claim: dict) -> str:
    from evaluation.reporting.formats import format_interval

    ratio = claim["kind"] == "perplexity"
    return format_interval(claim["estimate"], claim["low"], claim["high"], signed=not ratio) + (
        " ratio" if ratio else ""
    )
