"""Gather preference pairs: two answers to one prompt, the better one chosen, for recipes/dpo.py.

    python -m data_prep.build_preferences --task_rows data/demo/tasks --task_names medqa \\
        --out data/demo/preferences
    python -m data_prep.build_preferences --raw RAW --sources ultramedical,our_pairs --task_rows data/tasks \\
        --out data/preferences

Reads   RAW/<source>/... (the docstring of data_prep/preferences/<source>.py is its card); with --task_rows
        every test.jsonl and validation.jsonl as what to keep out, and, of the multiple-choice tasks that
        --task_names names, train.jsonl: chosen is the right option, rejected a wrong one.
Writes  OUT/{train,validation}.jsonl (pairs, schema.py) and OUT/manifest.json, whole or not at all. The
        manifest counts what was dropped and reports the lengths of chosen against rejected.

Dropped and counted: the same answer twice, the same pair again, the same pair the other way round (both:
nobody knows which is better), answers or prompts above --max_characters, what gives an evaluation row away
(build_instructions.HeldOut). Pairs of one prompt, or of one group that the source names, are on one side of
the split. The ids and --seed alone decide which are taken, and their order.
"""

import argparse
import collections
import statistics
import sys
from pathlib import Path

from data_prep import egress, preferences
from data_prep.build_instructions import (
    HeldOut,
    assign,
    names_given,
    normal,
    order_of,
    read_task,
    signatures,
    sizes_given,
)
from data_prep.files import check_out, one_sentence, sha256, whole_folder, write_jsonl
from data_prep.manifest import Drops, describe, write_manifest
from data_prep.preferences import _options
from data_prep.schema import BadInput, check_pair, strictest

LONGER = 0.6  # share of pairs whose chosen answer is the longer one, above which the set teaches length


def build(raw, task_rows, plan: dict, task_names: list[str], out: Path) -> dict:
    """Write OUT and return its manifest. `plan`: "sources" {name: pairs wanted, or None for all},
    "validation" (a share), "seed", "per_question", "max_characters"."""
    check_out(out)
    held_out, drops, removed, inputs = HeldOut(task_rows), Drops(), [], []
    directions = {}  # {(prompt, its two answers): the chosen one, or None where pairs contradict each other}
    groups, side, parts, report = {}, {}, {"train": [], "validation": []}, {}
    found = {}
    for name in plan["sources"]:
        paths, records, license, signed = (
            options_of(task_rows / name, plan["per_question"], drops)
            if name in task_names
            else read_source(raw, name, drops)
        )
        kept, ids = [], set()
        for number, pair in enumerate(records, 1):
            where = f"{name}: {pair.get('id', f'pair {number}')}"
            group, reason, key = pair.pop("group", None), None, key_of(pair)
            if pair["chosen"].strip() == pair["rejected"].strip():
                reason = "chosen and rejected are the same"
            elif max(map(len, (pair["prompt"], pair["chosen"], pair["rejected"]))) > plan["max_characters"]:
                reason = f"longer than {plan['max_characters']:,} characters"
            elif key in directions:
                same = directions[key] == normal(pair["chosen"])
                reason = "the same pair again" if same else "the same pair the other way round"
                directions[key] = directions[key] if same else None
            elif given_away := held_out.find(texts_of(pair)):
                reason = held_out.REASON
                removed.append({"id": pair["id"], "evaluation_row": given_away[0], "how": given_away[1]})
            if reason:
                drops.add(name, reason, where)
                continue
            check_pair(pair | {"split": "train"}, where)
            if pair["id"] in ids:
                raise BadInput(f"{where}: this id is there twice. Next: look for a file that is there twice")
            ids.add(pair["id"])
            directions[key] = normal(pair["chosen"])
            groups[pair["id"]] = group or normal(pair["prompt"])
            kept.append(pair)
        found[name] = (paths, kept, license, signed)
    for name, wanted in plan["sources"].items():
        paths, kept, license, signed = found[name]
        for pair in [pair for pair in kept if directions[key_of(pair)] is None]:
            drops.add(name, "the same pair the other way round", f"{name}: {pair['id']}")
        kept = [pair for pair in kept if directions[key_of(pair)] is not None]
        kept = sorted(kept, key=lambda pair: order_of(plan["seed"], pair["id"]))[:wanted]
        n_validation = assign(kept, groups, side, round(len(kept) * plan["validation"]))
        for pair in kept:
            split = side[groups[pair["id"]]]
            parts[split].append(pair | {"split": split})
        report[name] = {"taken": len(kept), "validation": n_validation, "length": lengths(kept)}
        if kept:
            facts = {"license": license or "; ".join(sorted({pair["license"] for pair in kept}))}
            facts |= {"access": strictest(pair["access"] for pair in kept)}
            facts |= {"declassified": signed} if signed else {}
            inputs += [{"path": str(path), "sha256": sha256(path), **facts} for path in paths]
        print(
            f"{name}: taken {len(kept)} ({n_validation} for validation); dropped: {drops.summary(name)}"
            f"{say(report[name]['length'])}",
            flush=True,
        )
    if not parts["train"]:
        raise BadInput(
            "no pair is left for train.jsonl. Next: look at the counts above, --size and --validation"
        )

    with whole_folder(out) as partial:
        outputs = []
        for split, pairs in parts.items():
            if pairs:
                pairs.sort(key=lambda pair: order_of(plan["seed"], pair["id"]))
                write_jsonl(partial / f"{split}.jsonl", pairs)
                outputs.append(describe(partial, partial / f"{split}.jsonl", records=len(pairs)))
        everything = [pair for pairs in parts.values() for pair in pairs]
        manifest = write_manifest(
            partial,
            stage="build_preferences",
            arguments={"raw": str(raw) if raw else None, "task_rows": str(task_rows) if task_rows else None}
            | {"plan": plan, "task_names": task_names},
            inputs=inputs,
            dropped=drops.as_dict(),
            outputs=outputs,
            sources=report,
            lengths=lengths(everything),
            row_licenses=dict(sorted(collections.Counter(pair["license"] for pair in everything).items())),
            held_out=held_out.files,
            decontamination={
                "rule": held_out.RULE if held_out.files else "none: no --task_rows",
                "removed": removed,
            },
        )
    counts = ", ".join(f"{split} {len(pairs)}" for split, pairs in parts.items())
    print(f"wrote {out}: {counts}{say(manifest['lengths'])}; access {manifest['access']}", flush=True)
    return manifest


def key_of(pair: dict):
    return normal(pair["prompt"]), frozenset((normal(pair["chosen"]), normal(pair["rejected"])))


def texts_of(pair: dict) -> dict:
    """The texts of a pair as a row that HeldOut reads."""
    return {"id": pair["id"], "messages": [{"content": pair[k]} for k in ("prompt", "chosen", "rejected")]}


def lengths(pairs: list[dict]) -> dict | None:
    """Words of chosen against rejected: medians, and the share of pairs whose chosen answer is the longer."""
    if not pairs:
        return None
    sizes = [(len(pair["chosen"].split()), len(pair["rejected"].split())) for pair in pairs]
    chosen, rejected = zip(*sizes, strict=True)
    return {
        "chosen_words": statistics.median(chosen),
        "rejected_words": statistics.median(rejected),
        "chosen_longer": round(sum(a > b for a, b in sizes) / len(sizes), 3),
        "rejected_longer": round(sum(a < b for a, b in sizes) / len(sizes), 3),
    }


def say(found: dict | None) -> str:
    if not found:
        return ""
    warning = " (teaches length: compare answers of like length)" * (found["chosen_longer"] > LONGER)
    return (
        f"; words of chosen {found['chosen_words']:g}, of rejected {found['rejected_words']:g}, "
        f"chosen is the longer in {100 * found['chosen_longer']:.0f} %{warning}"
    )


def read_source(raw, name: str, drops):
    """(raw files, pairs, license, signatures) of a source."""
    if raw is None or not (raw / name).is_dir():
        folder = raw / name if raw else f"RAW/{name}"
        raise BadInput(f"{folder}: no such folder. Next: --raw RAW with the raw files in RAW/{name}")
    module = preferences.load(name, raw / name)
    return module.files(raw / name), module.read(raw / name, drops), module.LICENSE, None


def options_of(folder: Path, per_question: int, drops):
    paths, rows, license = read_task(folder)
    found = (
        pair
        for number, row in enumerate(rows, 1)
        for pair in _options.pairs(row, per_question, drops, f"{paths[0]}: row {number}")
    )
    return paths, found, license, signatures(folder)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--raw", type=Path, help="folder that holds one folder of raw files for each source")
    add("--sources", default="", help="names separated by commas")
    add("--task_rows", type=Path, help="folder of build_tasks; its test and validation rows are kept out")
    add("--task_names", default="", help="multiple-choice tasks whose train rows become pairs")
    add("--per_question", type=int, default=1, help="pairs of one multiple-choice question at most")
    add("--size", nargs="*", default=[], metavar="NAME=PAIRS", help="pairs wanted of a source; else all")
    add("--max_characters", type=int, default=16_000, help="of a prompt or an answer")
    add("--validation", type=float, default=0.05, help="share of each source, 0 to below 1")
    add("--seed", type=int, default=0)
    add("--out", type=Path, required=True)
    return parser


def main(argv=None) -> None:
    args = make_parser().parse_args(argv)
    with one_sentence():
        sources = names_given(args.sources, preferences.names(args.raw), "--sources")
        if args.task_rows and not args.task_rows.is_dir():
            raise BadInput(
                f"{args.task_rows}: no such folder. Next: python -m data_prep.build_tasks --raw RAW "
                f"--tasks all --out {args.task_rows}"
            )
        if args.task_names and not args.task_rows:
            raise BadInput("--task_names needs --task_rows, the folder that build_tasks wrote")
        folders = sorted(path.name for path in args.task_rows.iterdir()) if args.task_rows else []
        task_names = names_given(args.task_names, folders, "--task_names")
        if not sources and not task_names:
            raise BadInput(f"neither --sources nor --task_names. Known: {', '.join(preferences.NAMES)}")
        if not 0 <= args.validation < 1 or args.per_question < 1 or args.max_characters < 1:
            raise BadInput(
                "--validation must be at least 0 and below 1, --per_question and --max_characters above 0"
            )
        sizes = sizes_given(args.size, sources + task_names)
        plan = {"sources": {name: sizes.get(name) for name in sources + task_names}}
        plan |= {key: getattr(args, key) for key in ("validation", "seed", "per_question", "max_characters")}
        build(args.raw, args.task_rows, plan, task_names, args.out)


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
