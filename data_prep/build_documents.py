"""Read raw sources into documents: one JSON object per text, with the same fields for every source
(schema.py).

Reads   NAME=PATH for each source: the publisher's files, as downloaded (formats and oddities:
        data_prep/sources/NAME.py)
Writes  OUT/<source>/<raw file's name>.jsonl.gz, one for each raw file (for pmc and mimic_cxr, whose files
        hold one document each, OUT/<source>/<source>_00000.jsonl.gz for 10,000 files), and OUT/manifest.json

    python -m data_prep.build_documents --source pubmed=data/raw/pubmed \\
        --source redpajama=data/raw/redpajama --out data/documents --executor local:8

A record that should not be there (not JSON, no text, an empty file) is counted with its place; a share of
them above --max_bad stops the build. Builds are resumable: after a kill, the same command continues with the
files that were not finished.
"""

import argparse
import collections
import hashlib
import itertools
import json
import os
import re
import sys
from pathlib import Path

import numpy as np

from data_prep import egress
from data_prep.corpus import executors
from data_prep.corpus.documents import put_in_place
from data_prep.files import (
    WORK,
    changed_since,
    keep_only,
    one_sentence,
    read_json,
    resumable_folder,
    sha256,
    write_jsonl,
)
from data_prep.manifest import Drops, already_complete, intact, write_manifest
from data_prep.schema import BadInput, check_document, mark_credentialed
from data_prep.sources import ARCHIVES, SOURCES, card, sidecar

MAX_BAD = 0.001


def build(
    source_paths: list[tuple[str, str]], out: str | Path, executor: str = "local", max_bad: float = MAX_BAD
) -> dict:
    """Write the documents of each (source name, path) below `out` and return the manifest. A name may be
    repeated.

    BadInput, and no output, for an unknown name, a path without files of that source, a file that cannot be
    read to its end, or too many bad records."""
    raw_files, out = find_raw_files(source_paths), Path(out)
    arguments = {"source": [f"{name}={path}" for name, path in source_paths]}
    modules = ["data_prep.build_documents", *(SOURCES[name].__name__ for name in raw_files)]
    stamps = [stamp(name, file) for name, files in raw_files.items() for file in files]
    stamps = [[*known[:3], *known[4:]] for known in stamps]  # the time of change: see raw_files_intact
    identity = executors.fingerprint(modules, arguments, max_bad, stamps)

    untouched = lambda out: intact(out) and raw_files_intact(out, raw_files)  # noqa: E731
    with resumable_folder(out, identity, intact=untouched) as folder:
        if folder is None:
            return already_complete(out)
        work = folder / WORK
        units = {name: plan(name, files, work, executor) for name, files in raw_files.items()}
        every = [unit for planned in units.values() for unit in planned]
        facts = iter(executors.run("data_prep.build_documents:read_files", every, work, executor))
        drops, inputs, outputs, licenses, bad = Drops(), [], [], {}, []
        for name, planned in units.items():
            done = list(zip(planned, itertools.islice(facts, len(planned)), strict=True))
            read, kept, licenses[name] = place(folder, name, done, drops, executor)
            inputs += read
            outputs += kept
            bad += report(name, len(raw_files[name]), read, licenses[name], drops, max_bad)
        if bad:
            raise BadInput("; ".join(bad))
        keep_only(folder, [entry["path"] for entry in outputs])
        return write_manifest(
            folder,
            stage="build_documents",
            arguments=arguments,
            inputs=inputs,
            dropped=drops.as_dict(),
            outputs=outputs,
            repaired=drops.repairs.as_dict(),
            document_licenses={name: dict(sorted(counts.items())) for name, counts in licenses.items()},
        )


def find_raw_files(source_paths: list[tuple[str, str]]) -> dict[str, list[Path]]:
    """The raw files of each source. What is credentialed closes this process before a record is read."""
    raw_files = collections.defaultdict(list)
    for name, path in source_paths:
        if name not in SOURCES:
            raise BadInput(f"--source {name}={path}: unknown source '{name}' (known: {', '.join(SOURCES)})")
        raw_files[name] += SOURCES[name].files(path)
    for name, files in raw_files.items():
        raw_files[name] = list(dict.fromkeys(files))  # a file given twice is read once
        for file in {file.parent: file for file in files}.values():
            mark_credentialed(card(name, file))
    return dict(raw_files)


def raw_files_intact(out: Path, raw_files: dict[str, list[Path]]) -> bool:
    """Whether the raw files are those of the manifest of `out`, although size and time of modification are:
    only files whose time of change is after the build are hashed."""
    listed = {(e["source"], e["path"]): e["sha256"] for e in read_json(out / "manifest.json")["inputs"]}
    for name, files in raw_files.items():
        changed = set(changed_since(out, files))
        for start, stop in groups(files, SOURCES[name].FILES_PER_OUTPUT):
            if changed.isdisjoint(files[start:stop]):
                continue
            found = identity_of(files[start:stop])
            if listed.get((name, found["path"])) != found["sha256"]:
                print(
                    f"{found['path']}: changed, with its size and time kept, so {out} is built again",
                    flush=True,
                )
                return False
    return True


def place(folder: Path, name: str, done: list[tuple[dict, dict]], drops: Drops, executor: str):
    """Give the files of one source their names, without the documents whose id an earlier file has. Returns
    (inputs, outputs, documents by license) of the source; what is dropped is counted in `drops`."""
    paths = [f"{name}/{Path(unit['output']).name}" for unit, _ in done]
    files = [
        (unit["output"], fact["sha256"], path, lines)
        for (unit, fact), path, lines in zip(done, paths, repeated_ids(done), strict=True)
    ]
    inputs, outputs, licenses = [], [], collections.Counter()
    placed = put_in_place(folder, files, executor)
    for (unit, fact), path, repeated in zip(done, paths, placed, strict=True):
        drops.merge(fact["dropped"])
        drops.repairs.merge(fact["repaired"])
        for identifier in repeated["ids"]:
            drops.add(name, "duplicate id", f"{unit['files'][0][0]}: document {identifier}")
        licenses += collections.Counter(fact["licenses"]) - collections.Counter(repeated["licenses"])
        inputs.append({"source": name, **fact["identity"], "records": fact["records"], **fact["card"]})
        if records := fact["documents"] - len(repeated["ids"]):
            outputs.append(
                {
                    "path": path,
                    "sha256": repeated["sha256"],
                    "records": records,
                    "characters": fact["characters"] - repeated["characters"],
                    "domain": fact["card"]["domain"],
                    "source": name,
                }
            )
    return inputs, outputs, licenses


def report(name: str, files: int, inputs: list[dict], licenses, drops: Drops, max_bad: float) -> list[str]:
    """Print the counts of a source. Returns what stops the build; BadInput if no document is left."""
    records, kept = sum(entry["records"] for entry in inputs), licenses.total()
    line = f"{name}: {files} files, {records} records, {kept} documents; dropped: {drops.summary(name)}"
    line += f"; repaired: {drops.repairs.summary(name)}" * bool(drops.repairs.count(name))
    bad = too_many(drops, name, records, max_bad)
    if not kept and not bad:
        raise BadInput(f"{inputs[0]['path']}: not one document came out of it ({line})")
    print(line, flush=True)
    return bad


def plan(name: str, files: list[Path], work: Path, executor: str) -> list[dict]:
    """The units of one source: which raw files make which output, and what `read` must know of the other
    files."""
    module, units, used = SOURCES[name], [], set()
    known = [None] * len(files)
    if hasattr(module, "first_pass"):
        scans = None
        if hasattr(module, "scan"):
            scan_units = [
                {
                    "name": f"{name}/{i}",
                    "code": executors.code(module.__name__),
                    "source": name,
                    "file": executors.stamp(file),
                }
                for i, file in enumerate(files)
            ]
            scans = executors.run("data_prep.build_documents:scan_file", scan_units, work, executor)
        known = module.first_pass(files, scans)

    for start, stop in groups(files, module.FILES_PER_OUTPUT):
        loose = module.FILES_PER_OUTPUT > 1 and not files[start].name.endswith(ARCHIVES)
        stem = unused(f"{name}_{len(units):05d}" if loose else stem_of(files[start]), used)
        unit = {
            "name": f"{name}/{stem}",
            "code": executors.code(module.__name__),
            "source": name,
            "files": [stamp(name, file) for file in files[start:stop]],
            "output": str(work / "documents" / name / f"{stem}.jsonl.gz"),
            "known": None,
            "known_sha256": None,
        }
        if any(entry is not None for entry in known[start:stop]):
            path = work / "known" / name / f"{stem}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(known[start:stop]), encoding="utf-8")
            unit |= {"known": str(path), "known_sha256": sha256(path)}
        units.append(unit)
    return units


def stamp(name: str, file: Path) -> list:
    """executors.stamp of a raw file, and the sha256 of the source.yaml that gives its class and columns, if
    its source has one."""
    return executors.stamp(file) + ([sha256(sidecar.above(file))] if hasattr(SOURCES[name], "card") else [])


def groups(files: list[Path], size: int):
    """(start, stop) of the files that share an output: at most `size` one after the other, an archive
    alone."""
    start = 0
    for i, file in enumerate(files):
        archive = file.name.endswith(ARCHIVES)
        if i > start and (archive or i - start == size or files[i - 1].name.endswith(ARCHIVES)):
            yield start, i
            start = i
    yield start, len(files)


# ---------------------------------------------------------------- what a worker does
def scan_file(source: str, file: list) -> dict:
    """What other files of the source must know of this one."""
    return SOURCES[source].scan(Path(file[0]))


def read_files(source: str, files: list, output: str, known: str | None, known_sha256: str | None) -> dict:
    """Write the checked documents of some raw files, each id once; return what must be known of them. The ids
    are kept beside, as 8-byte hashes."""
    module, drops, output, paths = SOURCES[source], Drops(), Path(output), [Path(file[0]) for file in files]
    knowledge_of = json.loads(Path(known).read_text(encoding="utf-8")) if known else [None] * len(paths)
    licenses, ids, digests = collections.Counter(), set(), []
    characters = 0

    def documents():
        nonlocal characters
        for file, knowledge in zip(paths, knowledge_of, strict=True):
            if file.is_file() and file.stat().st_size == 0:
                empty = getattr(module, "EMPTY", None)
                drops.add(source, empty or "the file is empty", str(file), bad=not empty)
                continue
            for document in module.read(file, drops, *([] if knowledge is None else [knowledge])):
                where = f"{file}: document {document.get('id')}"
                check_document(document, where)
                if document["id"] in ids:
                    drops.add(source, "duplicate id", where)
                    continue
                ids.add(document["id"])
                digests.append(
                    int.from_bytes(hashlib.blake2b(document["id"].encode(), digest_size=8).digest())
                )
                licenses[document["license"]] += 1
                characters += len(document["text"])
                yield document

    partial = output.with_name(f"{output.name}.partial.gz")
    count = write_jsonl(partial, documents())
    np.save(output.with_suffix(".npy"), np.array(digests, np.uint64))
    os.replace(partial, output)
    return {
        "sha256": sha256(output),
        "documents": count,
        "characters": characters,
        "records": count + drops.count(source),
        "licenses": licenses,
        "dropped": drops.as_dict(),
        "repaired": drops.repairs.as_dict(),
        "identity": identity_of(paths),
        "card": card(source, paths[0]),
    }


# ---------------------------------------------------------------- ids repeated in another file
def repeated_ids(done: list[tuple[dict, dict]]) -> list[np.ndarray]:
    """For each unit of a source, the lines (from 0) whose id is in an earlier unit or line."""
    digests = [np.load(Path(unit["output"]).with_suffix(".npy")) for unit, _ in done]
    everything = np.concatenate(digests)
    order = np.argsort(everything, kind="stable")
    again = np.sort(order[1:][everything[order[1:]] == everything[order[:-1]]])
    starts = np.cumsum([0, *map(len, digests)])
    return [again[(again >= a) & (again < b)] - a for a, b in zip(starts[:-1], starts[1:], strict=True)]


def too_many(drops: Drops, source: str, records: int, max_bad: float) -> list[str]:
    """One sentence if more than a share `max_bad` of the records of a source are bad."""
    bad = drops.count(source, bad=True)
    if bad <= max_bad * records:
        return []
    first = next(f"{e['first']}: {reason}" for reason, e in drops.as_dict()[source].items() if e.get("bad"))
    return [
        f"{source}: {bad} of {records} records are bad, more than --max_bad {max_bad}; the first is {first}. "
        "Next: correct them, or a larger --max_bad"
    ]


# ---------------------------------------------------------------- names
def stem_of(file: Path) -> str:
    """The name of a raw file without the endings that say its format: discharge.csv.gz -> discharge."""
    return re.sub(r"(\.(xml|nxml|csv|jsonl|json|txt|parquet|yaml|tar|zip|tgz))?(\.(gz|zst))?$", "", file.name)


def unused(stem: str, used: set[str]) -> str:
    """`stem`, or stem_2, stem_3 ... where a file of another folder has that name already (letter case
    aside)."""
    name, number = stem, 1
    while name.lower() in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name.lower())
    return name


def identity_of(group: list[Path]) -> dict:
    """Path and sha256 of a raw file; for several, of the list "sha256  name" they make, as sha256sum prints
    it."""
    if len(group) == 1:
        return {"path": group[0].as_posix(), "sha256": sha256(group[0])}
    listing = "".join(f"{sha256(file)}  {file.name}\n" for file in group)
    span = f"{group[0].as_posix()} ... {group[-1].as_posix()}"
    return {"path": span, "files": len(group), "sha256": hashlib.sha256(listing.encode()).hexdigest()}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="NAME=PATH",
        help=f"repeatable; names: {', '.join(SOURCES)}",
    )
    parser.add_argument(
        "--out", required=True, help="folder to write; replaced whole when everything was read"
    )
    parser.add_argument(
        "--executor", default="local", help="local:N, slurm:YAML or ray:N (data_prep/corpus/executors.py)"
    )
    parser.add_argument(
        "--max_bad",
        type=float,
        default=MAX_BAD,
        help="share of bad records of a source above which the build stops",
    )
    return parser


def main(argv=None):
    arguments = make_parser().parse_args(argv)
    with one_sentence():
        pairs = []
        for given in arguments.source:
            name, equals, path = given.partition("=")
            if not equals or not path:
                raise BadInput(f"--source {given}: expected NAME=PATH (names: {', '.join(SOURCES)})")
            pairs.append((name, path))
        build(pairs, arguments.out, arguments.executor, arguments.max_bad)


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput, readers=SOURCES)
    main()
