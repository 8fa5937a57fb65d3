"""Clean documents: normalize and filter their text, remove the evaluation sets and duplicates. Every removal
is counted or listed.

    python -m data_prep.clean_documents --documents data/documents --rows data/tasks \\
        --plan data_prep/cleaning_plans/clean.yaml --out data/clean --executor local:8

Reads   DOCUMENTS (build_documents); ROWS, the task rows of build_tasks, which no training text may hold; and
        a plan, whose sections can each be left out:
            cleaning          data_prep/corpus/cleaning.py: de-identification marks, encoding, short texts,
                              quality filters
            decontamination   data_prep/corpus/decontamination.py: by id, then by runs of words
            near_duplicates   data_prep/corpus/minhash.py: exact and near, within and across sources
Writes  OUT/<source>/*.jsonl.gz, documents as they were read but for their text; OUT/manifest.json; and
        OUT/removed.jsonl.gz: {source, id, stage, ...} of every document removed for an evaluation row or
        another document, and of every passage cut; an evaluation row of a credentialed set is named by a hash
        of its id (evaluation_items.item_name).
        OUT/unmatched.jsonl.gz: {task, item, reason} of the evaluation rows with too few words of their own
        to be looked for.

clean.yaml gives the corpus to train on. paper_like.yaml gives the paper's (it does not mention
decontamination): it reports what it would remove, and keeps it.
"""

import argparse
import collections
import functools
import itertools
import os
import resource
import sys
from pathlib import Path

import numpy as np

from data_prep import egress
from data_prep.benchmarks import PROMPTS
from data_prep.corpus import executors, minhash
from data_prep.corpus.cleaning import make_cleaner
from data_prep.corpus.decontamination import load as load_decontaminator
from data_prep.corpus.decontamination import make_decontaminator
from data_prep.corpus.documents import put_in_place
from data_prep.files import WORK, keep_only, one_sentence, read_jsonl, resumable_folder, sha256, write_jsonl
from data_prep.manifest import (
    Drops,
    already_complete,
    check_listed,
    check_sha256,
    intact,
    read_manifest,
    write_manifest,
)
from data_prep.schema import BadInput, CleaningPlan, load

OPEN_FILES = 64  # of runs of words, at a time; a quarter of what the system allows, where that is less


def read_plan(path: Path) -> dict:
    """The sections of a plan, each a mapping or None. BadInput names an unknown section or key."""
    plan = load(path, CleaningPlan, example="data_prep/cleaning_plans/clean.yaml")
    if not plan.model_fields_set:
        raise BadInput(f"{path}: must have some of the sections {', '.join(CleaningPlan.model_fields)}")
    return plan.model_dump()


def build(documents: Path, rows: Path | None, plan: dict, out: Path, executor: str = "local") -> dict:
    """Write the clean documents below `out` and return the manifest. BadInput for a plan, documents or rows
    that cannot be used."""
    made_by = f"python -m data_prep.build_documents --source NAME=PATH --out {documents}"
    manifest = read_manifest(documents, made_by=made_by)
    check_plan(plan, rows)
    read = [{"path": str(file), "sha256": sha256(file)} for file in files_looked_for(plan, rows)]
    made_from = egress.manifest_sha256(documents / "manifest.json")
    identity = executors.fingerprint(["data_prep.clean_documents"], made_from, str(documents), plan, read)

    with resumable_folder(out, identity, intact=intact) as folder:
        if folder is None:
            return already_complete(out)
        work, found = folder / WORK, {}

        # Text by text: clean, decontaminate, and take the keys that duplicates are found by
        index = None
        if plan["decontamination"] is not None:
            decontaminator = make_decontaminator(plan["decontamination"], rows)
            index = {
                "folder": str(work / "decontamination"),
                "settings": plan["decontamination"],
                "looked_for": read,
            }
            decontaminator.save(Path(index["folder"]))
            found = decontaminator.facts()
            if found["missing"]:
                missing = ", ".join(found["missing"])
                print(
                    f"decontamination: no rows of {missing} in {rows}: nothing is removed for them",
                    flush=True,
                )
        units = [
            {
                "name": output["path"],
                "file": [str(documents / output["path"]), output["sha256"]],
                "source": output["source"],
                "output": str((work / "cleaned" / output["path"]).absolute()),
                "cleaning": plan["cleaning"],
                "decontamination": index,
                "near_duplicates": plan["near_duplicates"],
            }
            for output in manifest["outputs"]
        ]
        facts = executors.run("data_prep.clean_documents:clean_file", units, work, executor)

        # All texts together: duplicates
        settings = plan["near_duplicates"] and minhash.make_settings(plan["near_duplicates"])
        removed = duplicates(units, facts, settings, work, executor) if settings else []
        lines = {}  # output -> lines to leave out
        for entry in removed:
            lines.setdefault(entry["unit"], []).append(entry["line"])
        files = [
            (
                unit["output"],
                fact["sha256"],
                unit["name"],
                np.array(sorted(lines.get(unit["name"], [])), np.int64),
            )
            for unit, fact in zip(units, facts, strict=True)
        ]
        placed = put_in_place(folder, files, executor)

        # Account for all of it
        count = write_jsonl(folder / "removed.jsonl.gz", listing(units, removed))
        if index and decontaminator.index:
            keys = ("task", "item", "reason")
            unmatched = (dict(zip(keys, entry, strict=True)) for entry in decontaminator.index.unmatched)
            write_jsonl(folder / "unmatched.jsonl.gz", unmatched)
        drops, outputs, changed, licenses = account(manifest, facts, placed, removed)
        if not outputs:
            raise BadInput(
                f"{documents}: not one document is left. Next: check the drops above, and the plan"
            )
        keep_only(folder, ["removed.jsonl.gz", "unmatched.jsonl.gz", *(output["path"] for output in outputs)])
        return write_manifest(
            folder,
            stage="clean_documents",
            arguments={"documents": str(documents), "rows": str(rows), "plan": plan},
            inputs=manifest["inputs"],
            dropped=drops.as_dict(),
            outputs=outputs,
            repaired=manifest.get("repaired", {}),
            changed={f"{source}: {step}": n for (source, step), n in sorted(changed.items())},
            document_licenses={source: dict(sorted(counts.items())) for source, counts in licenses.items()},
            decontamination=found,
            removed={
                "path": "removed.jsonl.gz",
                "sha256": sha256(folder / "removed.jsonl.gz"),
                "records": count,
            },
            documents_sha256=made_from,
        )


def check_plan(plan: dict, rows: Path | None) -> None:
    """BadInput names what is wrong in a plan, before anything runs."""
    make_cleaner(plan["cleaning"])
    if plan["near_duplicates"] is not None:
        minhash.make_settings(plan["near_duplicates"])
    if plan["decontamination"] is not None and rows is None:
        next_step = "Next: --rows FOLDER, made by python -m data_prep.build_tasks"
        raise BadInput(f"the plan decontaminates, and needs the evaluation rows. {next_step}")


def files_looked_for(plan: dict, rows: Path | None) -> list[Path]:
    """The files of evaluation items that the plan names, and the prompts whose wording is taken off them. A
    row file must be the one that its manifest lists."""
    settings = plan["decontamination"] or {}
    given = sorted(rows.glob("*/*.jsonl")) if rows else []
    for file in given:
        check_listed(file)
    named = [*settings.get("cases", ()), *filter(None, [settings.get("pmc_ids")])]
    if missing := [path for path in named if not Path(path).is_file()]:
        raise BadInput(f"{missing[0]}: no such file. Next: correct the plan's decontamination section")
    return [*given, *map(Path, named), *(sorted(PROMPTS.glob("*.txt")) if rows else ())]


def account(manifest: dict, facts: list[dict], placed: list[dict], removed: list[dict]):
    """(drops, outputs, documents changed by (source, step), licenses by source) of what is left; prints a
    line for each source."""
    drops, outputs, changed, licenses = Drops(), [], collections.Counter(), {}
    drops.merge(manifest["dropped"])
    for output, fact, gone in zip(manifest["outputs"], facts, placed, strict=True):
        source = output["source"]
        drops.merge(fact["dropped"])
        changed.update({(source, step): count for step, count in fact["changed"].items()})
        kept = collections.Counter(fact["licenses"]) - collections.Counter(gone["licenses"])
        licenses.setdefault(source, collections.Counter()).update(kept)
        if records := fact["documents"] - len(gone["ids"]):
            characters = fact["characters"] - gone["characters"]
            outputs.append(output | {"records": records, "characters": characters, "sha256": gone["sha256"]})
    for entry in removed:
        drops.add(entry["source"], f"duplicate ({entry['kind'].split()[0]})", f"document {entry['id']}")
    for source in licenses:
        before = sum(output["records"] for output in manifest["outputs"] if output["source"] == source)
        after = sum(output["records"] for output in outputs if output["source"] == source)
        steps = [f"{step} {n:,}" for (name, step), n in sorted(changed.items()) if name == source]
        print(
            f"{source}: {before:,} documents, {after:,} kept; dropped in all: {drops.summary(source)}; "
            f"changed by: {', '.join(steps) or 'none'}",
            flush=True,
        )
    return drops, outputs, changed, licenses


def listing(units: list[dict], removed: list[dict]):
    """The lines of removed.jsonl.gz: what met an evaluation row, file by file, and then the duplicates."""
    for unit in units:
        met = Path(f"{unit['output']}.met.jsonl")
        for _, record in read_jsonl(met) if met.stat().st_size else ():
            yield {"stage": "decontamination", **record}
    for entry in removed:
        yield {
            "stage": "near_duplicates",
            **{key: entry[key] for key in ("source", "id", "kept_source", "kept_id", "kind")},
        }


# ---------------------------------------------------------------- what a worker does
def clean_file(
    file: list,
    source: str,
    output: str,
    cleaning: dict | None,
    decontamination: dict | None,
    near_duplicates: dict | None,
) -> dict:
    """Clean the documents of one file. Beside the output: the records of what met an evaluation row
    (.met.jsonl), the ids (.ids), and for duplicates one hash of each text, its MinHash keys and its PMID
    (.npz)."""
    check_sha256(*file)
    cleaner = make_cleaner(cleaning)
    decontaminate = None if decontamination is None else load_decontaminator(Path(decontamination["folder"]))
    settings = None if near_duplicates is None else minhash.make_settings(near_duplicates)
    drops, licenses, met, ids, characters = Drops(), collections.Counter(), [], [], 0
    hashes, keys, keyed, pmids = [], [], [], []

    def documents():
        nonlocal characters
        for number, document in read_jsonl(file[0]):
            where = f"{file[0]}: line {number}"
            document, reason = cleaner(document)
            if document is None:
                drops.add(source, reason, where)
                continue
            if decontaminate:
                left, records = decontaminate(document)
                met.extend(records)
                if left is None:
                    drops.add(source, f"evaluation row ({records[0]['task']}, by {records[0]['by']})", where)
                    continue
                document = left
            if settings:
                hashes.append(int.from_bytes(minhash.text_hash(document["text"])[:8]))
                signature = minhash.signature(document["text"], settings)
                keyed.append(len(signature) > 0)
                keys.append(signature if keyed[-1] else np.zeros(settings.buckets, np.uint64))
                pmids.append(minhash.pmid(document) or 0)
            ids.append(document["id"])
            licenses[document["license"]] += 1
            characters += len(document["text"])
            yield document

    output = Path(output)
    partial = output.with_name(f".{output.name}.partial.gz")
    count = write_jsonl(partial, documents())
    Path(f"{output}.ids").write_text("\n".join(ids), encoding="utf-8")
    write_jsonl(Path(f"{output}.met.jsonl"), met)
    if settings:
        arrays = {
            "hashes": np.array(hashes, np.uint64),
            "keys": np.array(keys, np.uint64).reshape(count, settings.buckets),
        }
        np.savez(f"{output}.npz", **arrays, keyed=np.array(keyed, bool), pmids=np.array(pmids, np.int64))
    os.replace(partial, output)
    changed = {step: n for (_, step), n in cleaner.changed.items()}
    return {
        "sha256": sha256(output),
        "documents": count,
        "characters": characters,
        "licenses": licenses,
        "dropped": drops.as_dict(),
        "changed": changed,
    }


def runs_of(file: list, lines: str, lines_sha256: str, output: str, near_duplicates: dict) -> dict:
    """Write the distinct runs of words of some documents of a file one after the other to OUTPUT.npy; return
    where each ends."""
    settings, wanted, runs = minhash.make_settings(near_duplicates), set(np.load(lines).tolist()), []
    for number, (_, document) in enumerate(read_jsonl(file[0])):
        if number in wanted:
            runs.append(minhash.distinct_runs(document["text"], settings))
    np.save(output, np.concatenate(runs))
    return {"ends": np.cumsum([len(part) for part in runs]).tolist()}


# ---------------------------------------------------------------- duplicates
def duplicates(
    units: list[dict], facts: list[dict], settings: minhash.NearDuplicates, work: Path, executor: str
) -> list[dict]:
    """{unit, line, source, id, kept_source, kept_id, kind} of each document that goes for another one that
    stays."""
    filled = [unit for unit, fact in zip(units, facts, strict=True) if fact["documents"]]
    contents = {unit["name"]: fact["sha256"] for unit, fact in zip(units, facts, strict=True)}
    present = {unit["source"] for unit in filled}
    others = sorted(present - {source for run in settings.runs for source in run})
    found = []
    for run in [
        *settings.runs,
        *([source] for source in others),
    ]:  # a source of no run is compared with itself
        if sources := [source for source in run if source in present]:
            same = (
                None
                if settings.jaccard is None
                else compare(filled, contents, sources, settings, work, executor)
            )
            found += minhash.find_duplicates(
                (record[:4] for record in records(filled, sources)), sources, same
            )
    if settings.abstracts_of_full_texts:
        gone = {entry[:2] for entry in found}
        left = [
            [(*record[:2], record[4]) for record in records(filled, [source]) if record[:2] not in gone]
            for source in ("pubmed", "pmc")
        ]
        found += minhash.find_abstracts(*left)
    places, keys = (
        locate(filled, {entry[:2] for entry in found}),
        ("source", "id", "kept_source", "kept_id", "kind"),
    )
    return [
        dict(zip(keys, entry, strict=True), unit=places[entry[:2]][0]["name"], line=places[entry[:2]][1])
        for entry in found
    ]


def records(units: list[dict], sources: list[str]):
    """Yield (source, id, hash of the text, MinHash keys or none, PMID or 0) of every clean document of some
    sources."""
    for unit in units:
        if unit["source"] in sources:
            with np.load(f"{unit['output']}.npz") as arrays:
                columns = [arrays[key] for key in ("hashes", "keys", "keyed", "pmids")]
            for name, text, keys, has_keys, pmid in zip(
                Path(f"{unit['output']}.ids").read_text(encoding="utf-8").split("\n"), *columns, strict=True
            ):
                yield unit["source"], name, int(text).to_bytes(8), keys if has_keys else keys[:0], int(pmid)


def locate(units: list[dict], names: set) -> dict:
    """{(source, id): (unit, line)} of some documents."""
    places = {}
    for unit in units:
        for line, name in enumerate(Path(f"{unit['output']}.ids").read_text(encoding="utf-8").split("\n")):
            if (unit["source"], name) in names:
                places[unit["source"], name] = (unit, line)
    return places


def compare(
    units: list[dict],
    contents: dict,
    sources: list[str],
    settings: minhash.NearDuplicates,
    work: Path,
    executor: str,
):
    """A function that says whether two documents share enough of their runs of words. Those of all candidates
    are taken from the texts first."""
    candidates = set()

    def note(one, other):  # says no to every pair, and so sees every pair
        candidates.update((one, other))

    collections.deque(
        minhash.find_duplicates((record[:4] for record in records(units, sources)), sources, note), maxlen=0
    )
    wanted = {}  # name of the unit -> (unit, [(line, document)])
    for document, (unit, line) in locate(units, candidates).items():
        wanted.setdefault(unit["name"], (unit, []))[1].append((line, document))
    tasks = []
    for name, (unit, lines) in wanted.items():
        listing = work / "candidates" / f"{name}.npy"
        listing.parent.mkdir(parents=True, exist_ok=True)
        np.save(listing, np.array(sorted(line for line, _ in lines)))
        tasks.append(
            {
                "name": name,
                "file": [unit["output"], contents[name]],
                "lines": str(listing),
                "lines_sha256": sha256(listing),
                "output": f"{unit['output']}.runs.npy",
                "near_duplicates": unit["near_duplicates"],
            }
        )
    spans = {}  # document -> (file, start, end)
    facts = executors.run("data_prep.clean_documents:runs_of", tasks, work, executor)
    for task, fact in zip(tasks, facts, strict=True):
        ends = itertools.pairwise([0, *fact["ends"]])
        for (_, document), (start, end) in zip(sorted(wanted[task["name"]][1]), ends, strict=True):
            spans[document] = (task["output"], start, end)

    @functools.lru_cache(min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
    def mapped(path: str) -> np.ndarray:  # each map keeps its file open
        return np.load(path, mmap_mode="r")

    def runs(document) -> np.ndarray:
        path, start, end = spans[document]
        return mapped(path)[start:end]

    return lambda one, other: minhash.overlap(runs(one), runs(other)) >= settings.jaccard


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=Path, required=True, help="folder made by build_documents")
    parser.add_argument(
        "--rows", type=Path, help="task rows made by build_tasks; needed where the plan decontaminates"
    )
    parser.add_argument("--plan", type=Path, required=True, help="YAML, see data_prep/cleaning_plans")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--executor", default="local", help="local:N, slurm:YAML or ray:N (data_prep/corpus/executors.py)"
    )
    args = parser.parse_args(argv)
    with one_sentence():
        manifest = build(args.documents, args.rows, read_plan(args.plan), args.out, args.executor)
    kept, met = sum(output["records"] for output in manifest["outputs"]), manifest["removed"]["records"]
    print(
        f"wrote {args.out}: {kept:,} documents; {met:,} lines in removed.jsonl.gz, access "
        f"{manifest['access']}"
    )


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
