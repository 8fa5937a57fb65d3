"""Gather the instruction-tuning set: rows of several sources, sampled to size, without duplicates and without
evaluation rows.

    python -m data_prep.build_instructions --raw data/demo/raw --sources alpaca,dolly,sharegpt,flashcards \\
        --task_rows data/demo/tasks --task_names medqa --size alpaca=8000 flashcards=34000 \\
        --out data/demo/instructions
    python -m data_prep.build_instructions --raw RAW --documents data/documents --task_rows data/tasks \\
        --plan data_prep/instructions/paper.yaml --out data/instructions

Reads   RAW/<source>/... (the docstring of data_prep/instructions/<source>.py is the card of the source),
        DOCUMENTS/pmc/*.jsonl.gz for the sources made of our own documents, and the plan: sources and the rows
        wanted of each; with --task_rows, TASKS/<task>/: every test.jsonl and validation.jsonl as what to keep
        out, and, of the tasks that --task_names names and of no others, train.jsonl as a further source.
Writes  OUT/{train,validation}.jsonl (rows, schema.py) and OUT/manifest.json. The folder is written whole
        or not at all.

--seed and the ids of the rows alone decide which rows are taken, and their order: a larger size takes the
same rows and more. A source with fewer rows than wanted gives all it has, and says so. The validation share
is taken from each source by whole groups: rows of one prompt, or of one document or patient where the source
names it, are on one side, across sources. What is held out, and how a row is recognized: see `HeldOut`; the
manifest lists the ids that were removed. """

import argparse
import collections
import hashlib
import heapq
import json
import re
import sys
from pathlib import Path

from data_prep import benchmarks, egress, instructions
from data_prep.corpus.evaluation_items import item_name
from data_prep.files import check_out, one_sentence, read_json, read_jsonl, sha256, whole_folder, write_jsonl
from data_prep.manifest import Drops, check_listed, describe, write_manifest
from data_prep.schema import BadInput, InstructionPlan, check_row, class_of, load, strictest

LABELLED = ("choice", "labels")  # scorings whose completions are labels, which rows of any text share


# ---------------------------------------------------------------- decontamination
class HeldOut:
    """The test and validation rows under `task_rows`, and whether a row of a source gives one of them away.
    It does if

    exact     a text of it (prompt, completion, turn) is the prompt or the bare question of an evaluation row,
              or its completion of at least 13 words, blind to case and white space; or
    covered   it holds at least half of the runs of 13 words (64 of them, evenly spaced, if there are more) of
              such a prompt without the instruction that all prompts of the file begin with
              (benchmarks.wording), of such a question, or of such a completion; or
    article   it was made of the same article of PMC, by the PMCID in both ids.
    Shorter texts are compared exactly only, and a paraphrase is not found. Evaluation rows are named as
    evaluation_items.item_name does."""

    RULE = (
        "exact text, or at least 0.5 of the 13-word runs of an evaluation row (at most 64 of them) in "
        "prompt and answer, or the same PMCID"
    )
    N, GRAMS, COVERAGE = 13, 64, 0.5
    REASON = "gives an evaluation row away"

    def __init__(self, task_rows: Path | None):
        self.exact, self.holders, self.items, self.articles, self.files = {}, {}, [], {}, []
        if task_rows is None:
            return
        paths = sorted([*task_rows.glob("*/test.jsonl"), *task_rows.glob("*/validation.jsonl")])
        if not paths:
            raise BadInput(
                f"{task_rows}: no <task>/test.jsonl. Next: python -m data_prep.build_tasks --raw RAW "
                f"--tasks all --out {task_rows}"
            )
        for path in paths:
            check_listed(path)
            self._read(path)
            self.files.append({"path": str(path), "sha256": sha256(path)})

    def _read(self, path: Path) -> None:
        def prompts():
            for number, row in read_jsonl(path):
                check_row(row, f"{path}: line {number}")
                if "prompt" not in row:
                    raise BadInput(f"{path}: line {number} is a conversation, not a row of an evaluation set")
                yield row["prompt"]

        head = benchmarks.wording(path.parent.name, prompts(), self.N)
        for _, row in read_jsonl(path):
            name = item_name(row, row["task"], row["id"])
            bare = [row["question"]] if "question" in row else []
            is_long = row["scoring"] not in LABELLED and len(row["completion"].split()) >= self.N
            long_answer = [row["completion"]] if is_long else []
            for item in (row["prompt"].removeprefix(head), *bare, *long_answer):
                grams = list(dict.fromkeys(self._grams(item)))
                grams = (
                    [grams[i * len(grams) // self.GRAMS] for i in range(self.GRAMS)]
                    if len(grams) > self.GRAMS
                    else grams
                )
                for gram in grams:
                    self.holders.setdefault(gram, []).append(len(self.items))
                if grams:
                    self.items.append((name, len(grams)))
            self.exact.update((normal(item), name) for item in (row["prompt"], *bare, *long_answer))
            self.articles.update((article, name) for article in re.findall(r"PMC\d+", row["id"]))

    def _grams(self, text: str):
        words = re.findall(r"\w+", text.casefold())
        return (hash(tuple(words[i : i + self.N])) for i in range(len(words) - self.N + 1))

    def find(self, row: dict) -> tuple[str, str] | None:
        """(name of the evaluation row that `row` gives away, how it was recognised), or None. Of several that
        are covered, the one that is covered most."""
        for article in re.findall(r"PMC\d+", row["id"]):
            if article in self.articles:
                return self.articles[article], "article"
        texts = (
            [m["content"] for m in row["messages"]]
            if "messages" in row
            else [row["prompt"], row["completion"]]
        )
        for text in texts:
            if normal(text) in self.exact:
                return self.exact[normal(text)], "exact"
        counts = collections.Counter()
        for gram in {gram for text in texts for gram in self._grams(text)}:
            counts.update(self.holders.get(gram, ()))
        shares = ((count / self.items[item][1], self.items[item][0]) for item, count in counts.items())
        if covered := [(-share, name) for share, name in shares if share >= self.COVERAGE]:
            share, name = min(covered)
            return name, f"covered {-share:.2f}"
        return None


# ---------------------------------------------------------------- the set
def build(
    raw: Path,
    documents: Path | None,
    plan: dict,
    out: Path,
    task_rows: Path | None,
    task_names: list[str],
    skip: bool,
) -> dict:
    """Write OUT and return its manifest. `plan`: "sources" {name: rows wanted, or None for all}, "validation"
    (a share), "seed".

    `skip`: continue without a source whose raw files are not there."""
    check_out(out)
    held_out, drops, seen, inputs, removed = HeldOut(task_rows), Drops(), set(), [], []
    side, groups = {}, {}  # {group: its split}, {id of a row: its group}
    seed, report, parts, licenses = plan["seed"], {}, {"train": [], "validation": []}, collections.Counter()
    for name, wanted in plan["sources"].items():
        try:
            paths, records, license = (
                read_task(task_rows / name)
                if name in task_names
                else read_source(raw, documents, name, drops)
            )
        except BadInput as error:
            if not skip:
                raise
            report[name] = {
                "wanted": "all" if wanted is None else wanted,
                "available": 0,
                "taken": 0,
                "validation": 0,
                "missing": str(error),
            }
            print(f"{name}: wanted {report[name]['wanted']}, available 0, taken 0: {error}", flush=True)
            continue
        taken, ids, available = [], set(), 0  # taken: a heap with the row of the largest order on top
        for number, row in enumerate(records, 1):
            where = f"{name}: {row.get('id', f'row {number}')}"
            group = row.pop("group", None)
            check_row(row, where)
            if row["id"] in ids:
                raise BadInput(f"{where}: this id is there twice. Next: look for a file that is there twice")
            ids.add(row["id"])
            content = _content(row)
            if content in seen:
                drops.add(name, "duplicate of an earlier row", where)
                continue
            seen.add(content)
            available += 1
            order = order_of(seed, row["id"])
            if wanted is not None and len(taken) == wanted and (not taken or order > -taken[0][0]):
                continue  # would not be taken anyway, so it need not be compared with the evaluation rows
            given_away = held_out.find(row)
            if given_away:
                drops.add(name, held_out.REASON, where)
                removed.append({"id": row["id"], "evaluation_row": given_away[0], "how": given_away[1]})
                available -= 1
                continue
            groups[row["id"]] = group or _prompt(row)
            (heapq.heappushpop if len(taken) == wanted else heapq.heappush)(taken, (-order, row["id"], row))
        rows = [row for _, _, row in sorted(taken, key=lambda entry: -entry[0])]
        n_validation = assign(rows, groups, side, round(len(rows) * plan["validation"]))
        for row in rows:
            split = side[groups[row["id"]]]
            parts[split].append(row | {"split": split})
        licenses.update(row["license"] for row in rows)
        report[name] = {
            "wanted": "all" if wanted is None else wanted,
            "available": available,
            "taken": len(rows),
            "validation": n_validation,
        }
        if rows:
            facts = {"license": license or rows[0]["license"], "access": strictest(map(class_of, rows))}
            if name in task_names and (signed := signatures(task_rows / name)):
                facts["declassified"] = signed
            inputs += [{"path": str(path), "sha256": sha256(path), **facts} for path in paths]
        counts = (
            f"wanted {report[name]['wanted']}, available {available}, taken {len(rows)} "
            f"({n_validation} for validation)"
        )
        repaired = f"; repaired: {drops.repairs.summary(name)}" * bool(drops.repairs.count(name))
        print(f"{name}: {counts}; dropped: {drops.summary(name)}{repaired}", flush=True)
    if not parts["train"]:
        raise BadInput(
            "no row is left for train.jsonl. Next: look at the counts above, --size and --validation"
        )

    with whole_folder(out) as partial:
        outputs = []
        for split, rows in parts.items():
            if rows:
                rows.sort(key=lambda row: order_of(seed, row["id"]))
                write_jsonl(partial / f"{split}.jsonl", rows)
                outputs.append(describe(partial, partial / f"{split}.jsonl", records=len(rows)))
        manifest = write_manifest(
            partial,
            stage="build_instructions",
            arguments={"raw": str(raw), "documents": str(documents) if documents else None, "plan": plan}
            | {"task_rows": str(task_rows) if task_rows else None, "task_names": task_names},
            inputs=inputs,
            dropped=drops.as_dict(),
            outputs=outputs,
            sources=report,
            row_licenses=dict(sorted(licenses.items())),
            held_out=held_out.files,
            repaired=drops.repairs.as_dict(),
            decontamination={
                "rule": held_out.RULE if held_out.files else "none: no --task_rows",
                "removed": removed,
            },
        )
    wanted = [entry["wanted"] for entry in report.values()]
    total = f", of {sum(wanted):,} wanted" if all(isinstance(number, int) for number in wanted) else ""
    counts = f"{', '.join(f'{split} {len(rows)}' for split, rows in parts.items())}{total}"
    print(
        f"wrote {out}: {counts}; {len(removed)} rows that give an evaluation row away left out; access "
        f"{manifest['access']}",
        flush=True,
    )
    if plan["validation"] and not parts["validation"]:
        said = "no rows for validation, as each group (patient, document, prompt) is larger than the share"
        print(f"{said} of {plan['validation']}. Next: a larger --validation; recipes/sft.py reads both files")
    return manifest


def assign(rows: list[dict], groups: dict, side: dict, wanted: int) -> int:
    """Give each group of `rows` a split in `side`: whole groups, in the order of the rows, go to validation
    while at most `wanted` rows are there. A group that an earlier source has keeps its split. Returns the
    rows of validation."""
    sizes = collections.Counter(groups[row["id"]] for row in rows)
    taken = sum(size for group, size in sizes.items() if side.get(group) == "validation")
    for group, size in sizes.items():
        if group not in side:
            fits = taken + size <= wanted
            taken += size * fits
            side[group] = "validation" if fits else "train"
    return taken


def _prompt(row: dict) -> str:
    """The group of a row that names none: rows that ask the same."""
    messages = row.get("messages", ())
    asked = next((m["content"] for m in messages if m["role"] == "user"), None) if messages else row["prompt"]
    return hashlib.sha256(normal(asked).encode()).hexdigest()


def read_source(raw: Path, documents: Path | None, name: str, drops):
    """(raw files, rows, license) of a source."""
    module = instructions.load(name, raw / name)
    if getattr(module, "FROM_DOCUMENTS", False):
        if documents is None:
            raise BadInput(
                f"{name} is made of our own documents. Next: --documents DOCUMENTS, the folder that "
                "build_documents wrote"
            )
        folder = documents / module.FOLDER
    else:
        folder = raw / getattr(module, "FOLDER", name)
    if not folder.is_dir():
        raise BadInput(
            f"{folder}: no such folder. Next: put the raw files there, see the card in "
            f"data_prep/instructions/{name}.py"
        )
    return module.files(folder), instructions.read(name, folder, drops), module.LICENSE


def read_task(folder: Path):
    """([train.jsonl], its rows, None) of a task that build_tasks wrote."""
    path = folder / "train.jsonl"
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file. Next: python -m data_prep.build_tasks, or leave {folder.name} out of "
            "--task_names"
        )

    check_listed(path)

    def rows():
        for number, row in read_jsonl(path):
            check_row(row, f"{path}: line {number}")
            if row["split"] != "train":
                raise BadInput(
                    f"{path}: line {number} is a row of split '{row['split']}', which must not be trained on"
                )
            yield row

    return [path], rows(), None


def signatures(folder: Path) -> list[dict]:
    """Who declassified the rows of a task (declassify.py)."""
    return (
        read_json(folder / "manifest.json").get("declassified", [])
        if (folder / "manifest.json").is_file()
        else []
    )


def normal(text: str) -> str:
    """`text` as it is compared with another: blind to case and white space."""
    return " ".join(text.split()).casefold()


def _content(row: dict) -> bytes:
    content = row["messages"] if "messages" in row else [row["prompt"], row["completion"]]
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).digest()


def order_of(seed: int, row_id: str) -> int:
    """The place of a row in the order that seed and id alone give: a larger size keeps the smaller one's."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{row_id}".encode()).digest())


# ---------------------------------------------------------------- the plan
def read_plan(path: Path, known=instructions.NAMES) -> dict:
    """The plan of a YAML file; BadInput names the key that is unknown or of the wrong kind."""
    plan = load(path, InstructionPlan, example="data_prep/instructions/paper.yaml").model_dump()
    names_given(",".join(plan["sources"]), known, f"{path}: sources")
    return plan


def names_given(text: str, known, flag: str) -> list[str]:
    """The names of a list with commas, each once; BadInput if one is not in `known`."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadInput(f"{flag}: '{', '.join(unknown)}' is unknown. Known: {', '.join(known)}")
    return names


def sizes_given(items: list[str], names: list[str]) -> dict:
    """{name: rows} of NAME=ROWS items."""
    sizes = {}
    for item in items:
        name, _, number = item.partition("=")
        if name not in names or not number.isdecimal():
            raise BadInput(f"--size: '{item}' must be NAME=ROWS, with a NAME of {', '.join(names)}")
        sizes[name] = int(number)
    return sizes


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--raw", type=Path, required=True, help="folder that holds one folder of raw files for each source"
    )
    parser.add_argument(
        "--documents", type=Path, help="folder that build_documents wrote; the pmc_* sources are made of it"
    )
    parser.add_argument(
        "--plan",
        type=Path,
        help="YAML with sources and sizes, e.g. data_prep/instructions/paper.yaml; flags win over it",
    )
    parser.add_argument("--sources", help="names separated by commas; else those of the plan")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--task_rows",
        type=Path,
        help="folder that build_tasks wrote; its test and validation rows are kept out",
    )
    parser.add_argument(
        "--task_names",
        default="",
        help="tasks whose train rows are added, separated by commas; needs --task_rows",
    )
    parser.add_argument(
        "--size",
        nargs="*",
        default=[],
        metavar="NAME=ROWS",
        help="rows wanted of a source or task; else the plan's, or all",
    )
    parser.add_argument(
        "--validation",
        type=float,
        help="share of each source that goes to validation.jsonl, 0 to below 1; else the plan's, or 0.05",
    )
    parser.add_argument("--seed", type=int, help="else the plan's, or 0")
    parser.add_argument(
        "--skip_missing", action="store_true", help="continue without a source whose raw files are not there"
    )
    return parser


def main(argv=None) -> None:
    args = make_parser().parse_args(argv)
    with one_sentence():
        known = instructions.names(args.raw)
        plan = (
            read_plan(args.plan, known)
            if args.plan
            else InstructionPlan.model_construct(sources={}).model_dump()
        )
        if args.sources is None and not args.plan:
            raise BadInput(f"neither --sources nor --plan. Known sources: {', '.join(instructions.NAMES)}")
        sources = (
            list(plan["sources"])
            if args.sources is None
            else names_given(args.sources, instructions.names(args.raw), "--sources")
        )
        if args.task_rows and not args.task_rows.is_dir():
            raise BadInput(
                f"{args.task_rows}: no such folder. Next: python -m data_prep.build_tasks --raw RAW "
                f"--tasks all --out {args.task_rows}"
            )
        if args.task_names and not args.task_rows:
            raise BadInput("--task_names needs --task_rows, the folder that build_tasks wrote")
        folders = (
            sorted(path.name for path in args.task_rows.iterdir() if path.is_dir()) if args.task_rows else []
        )
        task_names = names_given(args.task_names, folders, "--task_names")
        if not sources and not task_names:
            raise BadInput(f"--sources: no source is named. Known: {', '.join(instructions.NAMES)}")
        sizes = plan["sources"] | sizes_given(args.size, sources + task_names)
        plan["sources"] = {name: sizes.get(name) for name in sources + task_names}
        plan["validation"] = plan["validation"] if args.validation is None else args.validation
        plan["seed"] = plan["seed"] if args.seed is None else args.seed
        if not 0 <= plan["validation"] < 1:
            raise BadInput(f"--validation: {plan['validation']} must be at least 0 and below 1")
        build(args.raw, args.documents, plan, args.out, args.task_rows, task_names, args.skip_missing)


if __name__ == "__main__":
    readers = {name: instructions.load(name) for name in instructions.NAMES}
    egress.isolate(sys.argv[1:], BadInput, readers=readers)
    main()
