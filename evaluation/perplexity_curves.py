"""Perplexity of held-out text over a training run, one curve for each domain, several runs over one another.

    python -m evaluation.perplexity_curves outputs/demo/foundation outputs/demo/backbone --out outputs/demo/curves

Reads   RUN/trainer_state.json (recipes/pretrain.py logs eval_<domain>_perplexity at each evaluation), RUN/run.json
        the validation.json of the run's parent model, where there is one: the perplexity at token 0
Writes  OUT/perplexity.json   [{"run", "domain", "tokens": [seen so far], "perplexity": [...]}]
        OUT/perplexity.png

Tokens are those of this run, as its log counts them: real ones, without padding. An evaluation between two lines of the log is placed between them.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import numpy as np

from data_prep.contracts import BadInput
from data_prep.files import read_json, whole_folder
from evaluation import figures

STROKES = ("-", "--", ":", "-.")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folders of recipes/pretrain.py")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        curves = [curve for run in args.runs for curve in read_curves(run)]
        with whole_folder(args.out, mark="perplexity.json") as folder:
            write(curves, folder)
    except BadInput as error:
        sys.exit(f"error: {error}")
    for curve in curves:
        print(in_words(curve), flush=True)
    print(f"wrote {args.out / 'perplexity.png'} and perplexity.json", flush=True)


def read_curves(run: Path) -> list[dict]:
    """The curves of one run, a domain each. BadInput if the run logged none."""
    path = run / "trainer_state.json"
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Next: give the output_dir of a run of recipes/pretrain.py")
    state = read_json(path)
    log = state.get("log_history", [])
    counted = {0: 0} | {entry["step"]: entry["tokens_seen"] for entry in log if "tokens_seen" in entry}
    counted[state.get("global_step", 0)] = state.get("num_input_tokens_seen", 0)
    steps = sorted(counted)
    points = {}
    for entry in log:
        for key, value in entry.items():
            if match := re.fullmatch(r"eval_(.+)_perplexity", key):
                tokens = int(np.interp(entry["step"], steps, [counted[step] for step in steps]))
                points.setdefault(match[1], before(run, match[1]))[tokens] = value  # the last evaluation stands twice in the log
    if not points:
        raise BadInput(f"{path}: no eval_<domain>_perplexity in its log. Next: eval_strategy: steps, and blocks with a validation_share")
    return [
        {"run": run.name, "domain": domain, "tokens": sorted(of), "perplexity": [of[tokens] for tokens in sorted(of)]}
        for domain, of in sorted(points.items())
    ]


def before(run: Path, domain: str) -> dict[int, float]:
    """{0: perplexity of the model that the run began with}, where its own run measured it and this one did not begin from random weights."""
    arguments = read_json(run / "run.json").get("arguments", {}) if (run / "run.json").is_file() else {}
    measured = Path(arguments.get("model_name_or_path", ""), "validation.json")
    if arguments.get("from_scratch") or not measured.is_file() or domain not in (losses := read_json(measured)):
        return {}
    return {0: math.exp(sum(losses[domain]["nll"]) / sum(losses[domain]["tokens"]))}


def write(curves: list[dict], folder: Path) -> None:
    (folder / "perplexity.json").write_text(json.dumps(curves, indent=1) + "\n")
    draw(curves).figure.savefig(folder / "perplexity.png", dpi=150, facecolor="white", metadata={"Software": None})


def draw(curves: list[dict]) -> figures.Drawing:
    """One picture of them all: a colour for each run, a stroke for each domain."""
    runs, domains = (list(dict.fromkeys(curve[key] for curve in curves)) for key in ("run", "domain"))

    def lines(axes):
        for curve in curves:
            style = {"color": figures.style(runs.index(curve["run"]))["color"], "linestyle": STROKES[domains.index(curve["domain"]) % 4]}
            axes.plot(curve["tokens"], curve["perplexity"], marker="o", markersize=3, linewidth=1.4, label=in_brief(curve), **style)
        axes.set(xlabel="tokens seen in the run", ylabel="perplexity of held-out text", yscale="log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.legend(frameon=False, fontsize=8)

    return figures.drawing((6.4, 3.4), "curve perplexity", "perplexity of held-out text over training", lines)


def in_brief(curve: dict) -> str:
    return f"{curve['run']}, {curve['domain']}"


def in_words(curve: dict) -> str:
    values, tokens = curve["perplexity"], curve["tokens"]
    where = f"after {tokens[-1]:,} tokens" if len(tokens) == 1 else f"from {tokens[0]:,} to {tokens[-1]:,} tokens"
    return f"{in_brief(curve)}: {' -> '.join(f'{value:.2f}' for value in values)} {where}"


if __name__ == "__main__":
    main()
