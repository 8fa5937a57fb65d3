"""Does a model use its context? Loss by position on held-out blocks, and a needle sought in invented notes.

    python -m evaluation.long_context outputs/pretrain_13b outputs/extend_13b_16k_merged \\
        --blocks data/blocks_16k --lengths 2048,4096,8192,16384 --out outputs/long_context

Reads   MODEL  folders, or names of evaluation/models; BLOCKS (build_blocks), their validation split
Writes  OUT/long_context.json   for each model: nats by position with 95 % intervals (bootstrap over blocks),
                                and for each length and depth the needles found (Wilson interval)
        OUT/position.svg, needle.svg, long_context.md; evaluation.report --long_context shows them

Position counts from the beginning of the document, or of its piece, in the block. A needle is a sentence with
a number of four digits among the notes of one invented patient, at a depth from 0 (first) to 1 (last); it is
found where each token of the number is the most likely one. Numbers are drawn by the seed alone: models are
compared on the same notes. With --old_length, the length before the extension, each later model's needles
beyond it are compared with the first model's, in pairs. --ruler asks RULER's generated tasks (ruler.py).
Prompts longer than the model's positions are asked too: what happens there is the question.
"""

import argparse
import json
import random
import sys
from itertools import pairwise
from pathlib import Path

import markupsafe
import numpy as np

from data_prep import egress
from data_prep.files import one_sentence, whole_folder
from data_prep.manifest import read_manifest
from data_prep.schema import BadInput, strictest
from evaluation import block_losses, generate, ruler
from evaluation.models.registry import fingerprint, read_entry
from evaluation.reporting import figures
from evaluation.reporting.formats import markdown_table, markdown_text, printable
from evaluation.reporting.intervals import DETECTABLE, difference_with_width
from evaluation.scoring import metrics

NOTES = (
    "Day {day}: temperature {a}, pulse {b}. The patient slept well and took breakfast.",
    "Day {day}: wound dry, dressing changed. Pain {a} of 10 at rest.",
    "Day {day}: seen on the round. Chest clear, abdomen soft, no new complaints.",
    "Day {day}: potassium {a}, creatinine {b}. Diuretic continued, weight recorded.",
)
NEEDLE = "The locker number of the patient is {code}."
QUESTION = "The locker number of the patient is"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="folders, or names of evaluation/models")
    add("--blocks", type=Path, help="folder of build_blocks, for the loss by position")
    add("--lengths", default="2048,4096,8192,16384", help="tokens of needle prompts, with commas; '': none")
    add("--depths", type=int, default=5, help="places of the needle, from the first to the last note")
    add("--repeats", type=int, default=10, help="needles of each length and depth")
    add("--old_length", type=int, help="tokens: needles beyond it are compared with the first model's")
    add("--ruler", default="", help=f"RULER's generated tasks, with commas: {', '.join(ruler.TASKS)}")
    add("--limit", type=int, default=200, help="held-out blocks of each domain; examples of a RULER task")
    add("--dtype", default="auto", help="type of the weights; auto: as stored")
    add("--seed", type=int, default=0, help="of the invented notes")
    add("--out", type=Path, required=True)
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with one_sentence():
        result = measure(args)
        with whole_folder(args.out, mark="long_context.json") as folder:
            if result["access"] == "credentialed":
                folder.chmod(0o700)
            text = json.dumps(result, indent=1) + "\n"
            page = f"# Longer context\n\n{ABOUT}\n\n{markdown(result)}"
            (folder / "long_context.json").write_text(text, encoding="utf-8")
            (folder / "long_context.md").write_text(page, encoding="utf-8")
            for name, drawn in drawings(result).items():
                drawn.save(folder / f"{name}.svg")
    print(f"{markdown(result)}\nwrote {args.out / 'long_context.json'}", flush=True)


def measure(args) -> dict:
    try:
        lengths = sorted({int(length) for length in args.lengths.split(",") if args.lengths})
    except ValueError:
        raise BadInput(f"--lengths {args.lengths}: whole numbers with commas. Next: 2048,4096") from None
    if min(lengths, default=64) < 64 or args.depths < 2 or args.repeats < 1 or args.limit < 1:
        raise BadInput("--lengths from 64, --depths from 2, --repeats and --limit from 1. Next: --help")
    ruler.check([task for task in args.ruler.split(",") if task], lengths)
    if args.old_length and (len(args.models) < 2 or args.old_length >= max(lengths, default=0)):
        raise BadInput("--old_length needs a second model and a longer length. Next: --help")
    entries = [read_entry(model) for model in args.models]
    if served := next((entry.name for entry in entries if entry.on_server), None):
        raise BadInput(
            f"{served}: a server gives no loss of each token. Next: a folder, or a name of evaluation/models"
        )
    made_by = "python -m data_prep.build_blocks --help"
    manifest = read_manifest(args.blocks, made_by=made_by) if args.blocks else {"access": "public"}
    for entry in entries:
        generate.keep_on_site(
            None, entry, [{"access": manifest["access"], "license": f"the data of {args.blocks}"}]
        )
    documents = longest_documents(args.blocks, manifest, args.limit) if args.blocks else []
    models = [measure_model(entry, args, documents, lengths) for entry in entries]
    access = strictest([manifest["access"], *(entry.access for entry in entries)])
    found = {"seed": args.seed, "blocks": args.blocks and str(args.blocks), "old_length": args.old_length}
    changes = [beyond(models[0], model, args.old_length) for model in models[1:] if args.old_length]
    return {"access": access, **found, "models": models, "beyond": changes}


def measure_model(entry, args, documents: list[np.ndarray], lengths: list[int]) -> dict:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name, revision = str(entry.path or entry.hub), entry.revision or "main"
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        name, revision=revision, dtype=args.dtype, trust_remote_code=False
    )
    model.eval().to(device)
    needles = []
    for length in lengths:
        for depth in np.linspace(0, 1, args.depths).tolist():
            asked = (needle(tokenizer, length, depth, f"{args.seed} {n}") for n in range(args.repeats))
            each = [bool((ranks(model, ids, answer) == 0).all()) for ids, answer in asked]
            found = sum(each)
            low, high = metrics.wilson(found, args.repeats)
            cell = {"length": length, "depth": depth, "found": found, "asked": args.repeats, "each": each}
            needles.append(cell | {"low": low, "high": high})
    return {
        "model": printable(Path(entry.name).name),
        "fingerprint": fingerprint(entry),
        "positions": model.config.get_text_config().max_position_embeddings,
        "rope_parameters": model.config.get_text_config().rope_parameters,
        "loss": by_position([block_losses.losses(model, document) for document in documents]),
        "needles": needles,
        "ruler": ruler.ask(model, tokenizer, [t for t in args.ruler.split(",") if t], lengths, args.limit),
    }


def beyond(first: dict, model: dict, old_length: int) -> dict:
    """Needles longer than `old_length` that `model` finds and `first` does not: the paired difference."""
    counts = [
        [float(hit) for cell in one["needles"] if cell["length"] > old_length for hit in cell["each"]]
        for one in (model, first)
    ]
    new, old = (np.array(one)[:, None] for one in counts)
    difference, drawn = metrics.paired(new, old, lambda a, b, n: (a[..., 0] - b[..., 0]) / n)
    low, high = difference_with_width(difference, *metrics.interval(drawn), len(new))
    verdict = "shown" if low > 0 else "contradicted" if high < 0 else "not shown"
    facts = {"found": float(new.mean()), "found_by_first": float(old.mean()), "asked": len(new)}
    return {"model": model["model"], **facts, "difference": difference, "low": low, "high": high} | {
        "verdict": verdict
    }


# ---------------------------------------------------------------- loss by position
def longest_documents(folder: Path, manifest: dict, limit: int) -> list[np.ndarray]:
    """Token ids of the longest document, or piece, of each validation block."""
    longest = [max(parts, key=len) for _, parts in block_losses.held_out(folder, manifest, limit)]
    return [document for document in longest if len(document) > 1]


def by_position(documents: list[np.ndarray]) -> list[dict]:
    """Mean nats in bands of positions, each twice as wide as the one before, with 95 % intervals over
    documents."""
    longest = max((len(document) for document in documents), default=0)
    edges, bands = [0, *(32 * 2**i for i in range(20) if 32 * 2 ** (i - 1) < longest)], []
    for first, stop in pairwise(edges):
        parts = [document[first:stop] for document in documents if len(document) > first]
        counts = np.array([[part.sum(), len(part)] for part in parts])
        if not len(counts):
            continue
        drawn = metrics.draws(counts, lambda total, n: total[:, 0] / total[:, 1])
        low, high = metrics.interval(drawn) if len(counts) > 1 else (None, None)
        band = {"first": first, "stop": stop, "documents": len(parts), "tokens": int(counts[:, 1].sum())}
        bands.append(
            band | {"nats": float(counts[:, 0].sum() / counts[:, 1].sum()), "low": low, "high": high}
        )
    return bands


# ---------------------------------------------------------------- the needle
def needle(tokenizer, length: int, depth: float, seed: str) -> tuple[list[int], list[int]]:
    """(prompt of at most `length` tokens with its answer, the answer): notes of an invented patient, the
    needle at `depth` among them, the question at the end."""
    from data_prep.corpus.tokenize import adds_bos  # make hello reads this module, and has no tokenizers

    draw = random.Random(f"{seed} {length} {depth}")
    code = f" {draw.randrange(1000, 10000)}"
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    planted, question = encode(f"{NEEDLE.format(code=code.strip())}\n"), encode(QUESTION)
    whole = encode(QUESTION + code)
    if whole[: len(question)] != question:
        raise BadInput("this tokenizer merges the question with its answer. Next: lm_eval --tasks ruler")
    answer = whole[len(question) :]
    start = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    room, notes = length - len(start) - len(planted) - len(question) - len(answer), []
    while True:
        numbers = {"day": len(notes) + 1, "a": draw.randrange(1, 10), "b": draw.randrange(60, 100)}
        note = encode(f"{draw.choice(NOTES).format(**numbers)}\n")
        if sum(map(len, notes)) + len(note) > room:
            break
        notes.append(note)
    notes.insert(round(depth * len(notes)), planted)
    return [*start, *(token for note in notes for token in note), *question, *answer], answer


def ranks(model, ids: list[int], answer: list[int]):
    """int64 [len(answer)]: how many other tokens are as likely as each token of the answer or more, given
    those before it."""
    import torch

    with torch.no_grad():
        tokens = torch.tensor([ids], device=model.device)
        logits = model(tokens, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1].float()
    right = logits.gather(1, tokens[0, -len(answer) :, None])
    return (logits >= right).sum(1).cpu() - 1


# ---------------------------------------------------------------- the page
def drawings(result: dict) -> dict[str, figures.Drawing]:
    """{"position": curves with bands, "needle": a heat map of each model}"""
    drawn, models = {}, result["models"]

    def curves(axes):
        for i, model in enumerate(models):
            bands, colour = model["loss"], figures.style(i)["color"]
            at = [(band["first"] + band["stop"]) / 2 for band in bands]
            axes.plot(
                at,
                [band["nats"] for band in bands],
                marker="o",
                markersize=3,
                color=colour,
                label=model["model"],
            )
            if all(band["low"] is not None for band in bands):
                low, high = ([band[key] for band in bands] for key in ("low", "high"))
                axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="position in the document, tokens", ylabel="nats", xscale="log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend(frameon=False, fontsize=8)

    def maps(*several):
        for axes, model in zip(several, models, strict=True):
            lengths, depths = (
                sorted({cell[key] for cell in model["needles"]}) for key in ("length", "depth")
            )
            for cell in model["needles"]:
                x, y, share = (
                    lengths.index(cell["length"]),
                    depths.index(cell["depth"]),
                    cell["found"] / cell["asked"],
                )
                axes.barh(y, 0.96, left=x - 0.48, height=0.94, color="#3fa372", alpha=max(0.04, share))
                axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=8)
            axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
            axes.set_yticks(range(len(depths)), [f"{100 * depth:.0f} %" for depth in depths])
            axes.set(
                xlabel="tokens", ylabel="depth", title=f"{model['model']} ({model['positions']:,} positions)"
            )
            axes.invert_yaxis()

    if any(model["loss"] for model in models):
        drawn["position"] = figures.drawing((6.4, 3.2), "curve position", "loss by position", curves)
    if any(model["needles"] for model in models):
        size = (3.4 * len(models), 3)
        drawn["needle"] = figures.drawing(size, "needle", "needles found, %", maps, len(models))
    return drawn


def section(results: list[dict]) -> dict:
    """Both forms, for the report."""
    html = f"<h2>Longer context</h2>\n<p>{ABOUT}</p>\n"
    for result in results:
        html += "".join(f"<p>{markupsafe.escape(line)}</p>" for line in sentences(result))
        html += "".join(f'<figure class="scroll">{drawn}</figure>' for drawn in drawings(result).values())
    body = "\n".join(markdown(result) for result in results)
    return {"html": markupsafe.Markup(html), "markdown": f"## Longer context\n\n{ABOUT}\n\n{body}"}


ABOUT = (
    "Nats of held-out text by its position, with 95 % intervals, and needles found in invented notes, in %, "
    "by the length of the notes and the depth of the needle."
)


def sentences(result: dict) -> list[str]:
    """What was found beyond the old length, and RULER's scores."""
    first, lines = result["models"][0]["model"], []
    percent = "{:.1f} %".format
    for one in result["beyond"]:
        found, theirs = percent(100 * one["found"]), percent(100 * one["found_by_first"])
        low, high = f"{100 * one['low']:+.1f}", f"{100 * one['high']:+.1f}"
        where = f"Beyond {result['old_length']:,} tokens, {one['asked']} needles"
        lines.append(
            f"{where}: {one['model']} finds {found}, {first} {theirs}; difference "
            f"{100 * one['difference']:+.1f} points ({low} to {high}): {one['verdict']}."
        )
    for model in result["models"]:
        for one in model["ruler"]:
            value = f"{100 * one['value']:.1f} % ({100 * one['low']:.1f} to {100 * one['high']:.1f})"
            lines.append(f"RULER {one['task']}, {one['length']:,} tokens, {model['model']}: {value}.")
    return lines


def spread(band: dict) -> str:
    return "" if band["low"] is None else f" ({band['low']:.3f} to {band['high']:.3f})"


def markdown(result: dict) -> str:
    parts = [f"{markdown_text(line)}\n" for line in sentences(result)]
    for model in result["models"]:
        name, lengths = markdown_text(model["model"]), sorted({cell["length"] for cell in model["needles"]})
        rows = []
        for length in lengths:
            cells = [cell for cell in model["needles"] if cell["length"] == length]
            found, asked = (sum(cell[key] for cell in cells) for key in ("found", "asked"))
            low, high = metrics.wilson(found, asked)
            apart = 100 * metrics.smallest_difference(low, high)
            cell = f"{100 * found / asked:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            rows.append((f"{length:,}", cell, f"{apart:.1f}"))
        parts += [f"**{name}**, {model['positions']:,} positions\n"]
        parts += [markdown_table(("tokens", "found, %", "detectable"), rows)] if rows else []
        rows = [
            (
                f"{band['first']:,} to {band['stop']:,}",
                f"{band['nats']:.3f}{spread(band)}",
                f"{band['documents']:,}",
            )
            for band in model["loss"]
        ]
        parts += [markdown_table(("positions", "nats", "documents"), rows)] if rows else []
    return "\n".join([*parts, DETECTABLE])


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
