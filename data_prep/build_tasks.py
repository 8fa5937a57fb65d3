"""Turn the raw files of the evaluation sets into task rows with prompts, a folder for each set.

    python -m data_prep.build_tasks --raw data/demo/raw --tasks all --out data/demo/tasks

Reads   RAW/<task>/..., as the publisher ships it (the docstring of data_prep/benchmarks/<task>.py is the card
        of the set), and data_prep/prompts/<task>.txt; or RAW/<task>/hub/*, rows with prompts of their own
        (data_prep/benchmarks/_hub.py).
Writes  OUT/<task>/{train,validation,test}.jsonl (rows, schema.py; a split without rows has no file) and
        OUT/<task>/manifest.json. Each folder is written whole or not at all, and the folders of other tasks
        are left alone.

Rows of train and validation whose prompt is also in the test, and rows of train whose prompt is also in
validation, are dropped and counted, so few-shot examples, which are taken from train.jsonl, are never test
rows. Texts that merely resemble one of the test are counted and kept (`near_duplicates` in the manifest): see
`sketch`. The paper's Table 3 is printed beside the rows of each split, and why the numbers differ."""

import argparse
import contextlib
import hashlib
import heapq
import json
import re
import sys
import zlib
from pathlib import Path

from data_prep import benchmarks, egress
from data_prep.files import check_out, one_sentence, sha256, whole_folder
from data_prep.manifest import Drops, describe, write_manifest
from data_prep.schema import SPLITS, BadInput, check_row

FILES_LISTED = 20  # inputs of more files than this are described by one hash
SHINGLE, SKETCH, SAME_IN_SKETCH, WORDS_READ = 8, 8, 6, 400  # see sketch()


def build(name: str, raw: Path, out: Path) -> dict:
    """Write OUT/name and return its manifest."""
    check_out(out / name)
    folder, drops = raw / name, Drops()
    if not folder.is_dir():
        raise BadInput(
            f"{folder}: no such folder. Next: put the raw files there, see the card in "
            f"data_prep/benchmarks/{name}.py"
        )

    module = benchmarks.load(name, folder)

    # The set is read twice: what is held out of train must be known before it is written, and no set must fit
    # in memory.
    test_prompts, validation_prompts = set(), set()

    def test():
        for row in benchmarks.read(name, folder, Drops()):
            if row["split"] == "validation":
                validation_prompts.add(_digest(row["prompt"]))
            if row["split"] == "test":
                test_prompts.add(_digest(row["prompt"]))
                yield row["prompt"]

    head = benchmarks.wording(name, test(), SHINGLE + SKETCH - 1)

    counts, ids, answers, ambiguous = dict.fromkeys(SPLITS, 0), set(), {}, 0
    test_sketches, other_sketches = [], []
    with whole_folder(out / name) as partial:
        with contextlib.ExitStack() as stack:
            streams = {}
            for row in benchmarks.read(name, folder, drops):
                split, where = row["split"], f"{folder}: {row['id']}"
                check_row(row, where)
                if row["id"] in ids:
                    raise BadInput(
                        f"{where}: this id is there twice. Next: look for a file that is there twice"
                    )
                ids.add(row["id"])
                if split != "test" and _digest(row["prompt"]) in test_prompts:
                    drops.add(name, f"{split} prompt is also in the test", where)
                    continue
                if split == "train" and _digest(row["prompt"]) in validation_prompts:
                    drops.add(name, "train prompt is also in the validation", where)
                    continue
                answer = _digest(row["completion"])
                ambiguous += answers.setdefault((split, _digest(row["prompt"])), answer) != answer
                if split == "test":
                    test_sketches.append(sketch(row["prompt"].removeprefix(head)))
                else:
                    other_sketches.append((split, row["id"], sketch(row["prompt"].removeprefix(head))))
                if split not in streams:
                    streams[split] = stack.enter_context(
                        (partial / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n")
                    )
                streams[split].write(json.dumps(row, ensure_ascii=False) + "\n")
                counts[split] += 1
        if not any(counts.values()):
            raise BadInput(f"{folder}: no row could be made. Dropped: {drops.summary(name)}")
        near = near_duplicates(test_sketches, other_sketches)
        prompt = {"path": f"source.yaml of {name}, or data_prep/benchmarks/_beyond.py"}
        if name in benchmarks.NAMES:
            path = benchmarks.prompt_file(name)
            prompt = {"path": f"data_prep/prompts/{path.name}", "sha256": sha256(path)}
            prompt |= {"wording": "the release page's alone"} if benchmarks.RELEASE_WORDS else {}
        manifest = write_manifest(
            partial,
            stage="build_tasks",
            arguments={"raw": str(raw), "task": name},
            inputs=[
                {
                    **_describe_raw(folder, benchmarks.raw_files(name, folder)),
                    "license": module.LICENSE,
                    "access": module.ACCESS,
                }
            ],
            dropped=drops.as_dict(),
            outputs=[
                describe(partial, partial / f"{split}.jsonl", records=counts[split])
                for split in SPLITS
                if counts[split]
            ],
            task=name,
            scoring=module.SCORING,
            prompt={"path": "hub: the query of each record"} if benchmarks.from_hub(folder) else prompt,
            table3=module.EXPECTED,
            same_prompt_other_completion=ambiguous,
            near_duplicates=near,
        )

    cells = [
        f"{split} {counts[split]:,} of {want:,} ({counts[split] - want:+,})"
        for split, want in module.EXPECTED.items()
    ] or [f"{split} {count:,}" for split, count in counts.items()]
    notes = [f"same prompt, other completion: {ambiguous:,}"] if ambiguous else []
    if near:
        notes.append(
            "much like a test text: "
            + ", ".join(f"{split} {entry['count']:,}" for split, entry in near.items())
        )
    print("; ".join([f"{name}: {', '.join(cells)}", f"dropped: {drops.summary(name)}", *notes]), flush=True)
    if module.EXPECTED not in ({}, counts):
        print(f"    difference: {module.DIFFERENCE}", flush=True)
    return manifest


def sketch(text: str) -> tuple[int, ...]:
    """The 8 smallest hashes of all runs of 8 words among the first 400 words of a text; () if it has fewer
    than 8 such runs.

    Of two texts, as many of these are likely to be the same as the texts share of their runs (Broder
    1997)."""
    words = re.findall(r"\w+", text.casefold())[:WORDS_READ]
    hashes = {zlib.crc32(" ".join(words[i : i + SHINGLE]).encode()) for i in range(len(words) - SHINGLE + 1)}
    return tuple(heapq.nsmallest(SKETCH, hashes)) if len(hashes) >= SKETCH else ()


def near_duplicates(test: list[tuple], others: list[tuple]) -> dict:
    """{split: {"count", "first": id}} of the (split, id, sketch) that share 6 of 8 hashes with the sketch of
    one test text."""
    holders = {}
    for number, numbers in enumerate(dict.fromkeys(test)):
        for value in numbers:
            holders.setdefault(value, []).append(number)
    found = {}
    for split, row_id, numbers in others:
        shared = {}
        for value in numbers:
            for holder in holders.get(value, ()):
                shared[holder] = shared.get(holder, 0) + 1
        if shared and max(shared.values()) >= SAME_IN_SKETCH:
            found.setdefault(split, {"count": 0, "first": row_id})["count"] += 1
    return found


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _describe_raw(folder: Path, paths: list[Path]) -> dict:
    """The manifest entry of the raw files: each with its sha256 if they are few, and always `sha256sum FILES
    | sha256sum`."""
    entries = [{"path": path.relative_to(folder).as_posix(), "sha256": sha256(path)} for path in paths]
    lines = "".join(f"{entry['sha256']}  {entry['path']}\n" for entry in entries)
    entry = {
        "path": str(folder),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "n_files": len(entries),
    }
    return entry | ({"files": entries} if len(entries) <= FILES_LISTED else {})


def choose(names: str, raw: Path) -> list[str]:
    """The tasks of the flag `--tasks`; "all" are those whose raw folder is there."""
    if not raw.is_dir():
        raise BadInput(
            f"{raw}: no such folder. Next: python -m data_prep.demo.sources --out {raw}, or your own raw "
            "files"
        )
    known = benchmarks.names(raw)
    if names == "all":
        chosen = [name for name in known if (raw / name).is_dir()]
        if not chosen:
            raise BadInput(f"{raw}: no folder is named like a task ({', '.join(known)})")
        missing = [name for name in known if name not in chosen]
        print(f"tasks: {', '.join(chosen)}; no raw folder for: {', '.join(missing) or 'none'}", flush=True)
        return chosen
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise BadInput(f"--tasks: '{', '.join(unknown)}' is no task. Known: {', '.join(known)}, or all")
    return list(dict.fromkeys(chosen))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--raw", type=Path, required=True, help="folder that holds one folder of raw files for each task"
    )
    parser.add_argument(
        "--tasks", default="all", help="names separated by commas, or all: those whose raw folder is there"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder that takes one folder of rows for each task"
    )
    parser.add_argument(
        "--release_words",
        action="store_true",
        help="prompts in the words of the release page alone, without what data_prep/prompts/ours.yaml adds",
    )
    return parser


def main(argv=None) -> None:
    args = make_parser().parse_args(argv)
    benchmarks.RELEASE_WORDS = args.release_words
    with one_sentence():
        chosen, failed = choose(args.tasks, args.raw), []
        for name in chosen:
            try:
                build(name, args.raw, args.out)
            except BadInput as error:
                if args.tasks != "all":
                    raise
                failed.append(str(error))
                print(f"{name}: not built: {error}", flush=True)
        if failed:
            raise BadInput(f"{len(failed)} of {len(chosen)} tasks not built: {'; '.join(failed)}")


if __name__ == "__main__":
    readers = {name: benchmarks.load(name) for name in benchmarks.NAMES}
    egress.isolate(sys.argv[1:], BadInput, readers=readers)
    main()
