"""Perplexity of held-out text over training: one curve per domain and run, several runs in one figure.

    python -m evaluation.reporting.curves outputs/demo/foundation outputs/demo/backbone \\
        --out outputs/demo/curves

Reads   RUN/trainer_state.json     eval_<domain>_perplexity, which recipes/pretrain.py logs at each evaluation
        RUN/run.json
        PARENT/validation.json     of the model before the run, on the same blocks: at token 0
Writes  OUT/perplexity.json        [{"run", "access", "domain", "blocks": a hash,
                               "tokens": [...], "perplexity": [...]}]
        OUT/perplexity.png

Perplexities are compared on the same held-out blocks only, as far as the manifests that the runs read still
tell (`held_out`); curves on other blocks are named. Tokens are those of this run, as its log counts them:
real ones, without padding. An evaluation between two lines of the log is interpolated.
"""

import argparse
import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np

from data_prep.egress import manifest_sha256
from data_prep.files import one_sentence, read_json, whole_folder
from data_prep.schema import BadInput, strictest
from evaluation.models.registry import access_of
from evaluation.reporting import figures
from evaluation.reporting.formats import printable

STROKES = ("-", "--", ":", "-.")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="output folders of recipes/pretrain.py"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    with one_sentence():
        curves = [curve for run in args.runs for curve in read_curves(run)]
        with whole_folder(args.out, mark="perplexity.json") as folder:
            write(curves, folder)
    for curve in curves:
        print(format_curve(curve), flush=True)
    for sentence in not_comparable(curves):
        print(sentence, flush=True)
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
                # the last evaluation is twice in the log
                points.setdefault(match[1], before(run, match[1]))[tokens] = value
    if not points:
        raise BadInput(
            f"{path}: no eval_<domain>_perplexity in its log. Next: eval_strategy: steps, and blocks with a "
            "validation_share"
        )
    return [
        {
            "run": printable(run.name),
            "access": access_of(run),
            "domain": domain,
            "blocks": held_out(run, domain),
            "tokens": sorted(of),
            "perplexity": [of[tokens] for tokens in sorted(of)],
        }
        for domain, of in sorted(points.items())
    ]


def read_optional(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def held_out(run: Path, domain: str) -> str | None:
    """A hash of the blocks of a domain on which a run was validated; None where there are none, or where the
    manifest has changed since."""
    record = read_optional(run / "run.json")
    path = Path(record.get("arguments", {}).get("blocks") or "", "manifest.json")
    if not path.is_file() or manifest_sha256(path) != record.get("inputs", {}).get(str(path)):
        return None
    blocks = sorted(
        o["sha256"] for o in read_json(path)["outputs"] if (o["split"], o["domain"]) == ("validation", domain)
    )
    return hashlib.sha256(json.dumps(blocks).encode()).hexdigest() if blocks else None


def same_blocks(run: Path, other: Path, domain: str) -> bool:
    """Whether perplexities of two runs can be compared; False where the validation blocks are unknown."""
    blocks = held_out(run, domain)
    return blocks is not None and blocks == held_out(other, domain)


def not_comparable(curves: list[dict]) -> list[str]:
    """A sentence for each domain whose curves are on different or unknown blocks."""
    sentences = []
    for domain in dict.fromkeys(curve["domain"] for curve in curves):
        runs, blocks = zip(
            *((curve["run"], curve.get("blocks")) for curve in curves if curve["domain"] == domain),
            strict=True,
        )
        if len(runs) > 1 and (None in blocks or len(set(blocks)) > 1):
            sentences.append(
                f"{domain}: {', '.join(runs)} were validated on different or unknown blocks: do not compare "
                "them"
            )
    return sentences


def before(run: Path, domain: str) -> dict[int, float]:
    """{0: perplexity of the model that the run began with}, where its own run measured it on the same blocks
    and this one did not begin from random weights."""
    arguments = read_optional(run / "run.json").get("arguments", {})
    parent = Path(arguments.get("model_name_or_path", ""))
    losses = read_optional(parent / "validation.json")
    if arguments.get("from_scratch") or domain not in losses or not same_blocks(run, parent, domain):
        return {}
    return {0: math.exp(sum(losses[domain]["nll"]) / sum(losses[domain]["tokens"]))}


def write(curves: list[dict], folder: Path) -> None:
    if strictest(curve["access"] for curve in curves) == "credentialed":
        folder.chmod(0o700)
    (folder / "perplexity.json").write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    draw(curves).figure.savefig(
        folder / "perplexity.png", dpi=150, facecolor="white", metadata={"Software": None}
    )


def draw(curves: list[dict]) -> figures.Drawing:
    """One picture of them all: a colour for each run, a stroke for each domain."""
    runs, domains = (list(dict.fromkeys(curve[key] for curve in curves)) for key in ("run", "domain"))

    def lines(axes):
        for curve in curves:
            style = {
                "color": figures.style(runs.index(curve["run"]))["color"],
                "linestyle": STROKES[domains.index(curve["domain"]) % 4],
            }
            axes.plot(
                curve["tokens"],
                curve["perplexity"],
                marker="o",
                markersize=3,
                linewidth=1.4,
                label=in_brief(curve),
                **style,
            )
        axes.set(xlabel="tokens seen in the run", ylabel="perplexity of held-out text", yscale="log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.legend(frameon=False, fontsize=8)
        if sentences := not_comparable(curves):
            axes.set_title("\n".join(sentences), fontsize=6, loc="left")

    return figures.drawing((6.4, 3.4), "curve perplexity", "perplexity of held-out text over training", lines)


def in_brief(curve: dict) -> str:
    return f"{curve['run']}, {curve['domain']}"


def format_curve(curve: dict) -> str:
    values, tokens = curve["perplexity"], curve["tokens"]
    where = (
        f"after {tokens[-1]:,} tokens" if len(tokens) == 1 else f"from {tokens[0]:,} to {tokens[-1]:,} tokens"
    )
    return f"{in_brief(curve)}: {' -> '.join(f'{value:.2f}' for value in values)} {where}"


if __name__ == "__main__":
    main()
