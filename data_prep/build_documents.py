"""Read raw sources into documents: one JSON object a text, the same fields for every source (see contracts.py).

Reads   NAME=PATH for each source: the publisher's files, as downloaded (formats and oddities: data_prep/sources/NAME.py)
Writes  OUT/<source>/<raw file's name>.jsonl.gz, one for each raw file (for pmc and mimic_cxr, whose files hold one document each,
        OUT/<source>/<source>_00000.jsonl.gz for 10,000 files), and OUT/manifest.json

    python -m data_prep.build_documents --source pubmed=data/raw/pubmed --source redpajama=data/raw/redpajama --out data/documents

Documents stream through; what is kept in memory is the ids of one source (about 0.1 GB for a million), to drop an id met before.
"""

import argparse
import collections
import hashlib
import re
import sys
from pathlib import Path

from data_prep.contracts import BadInput, check_document
from data_prep.files import sha256, whole_folder, write_jsonl
from data_prep.manifest import Drops, describe, write_manifest
from data_prep.sources import SOURCES


def build(source_paths: list[tuple[str, str]], out: str | Path) -> dict:
    """Write the documents of each (source name, path) below `out` and return the manifest. A name may come more than once.

    BadInput, and no output, for an unknown name, a path without files of that source, or a file that cannot be read to its end."""
    raw_files = collections.defaultdict(list)
    for name, path in source_paths:
        if name not in SOURCES:
            raise BadInput(f"--source {name}={path}: unknown source '{name}' (known: {', '.join(SOURCES)})")
        raw_files[name] += SOURCES[name].files(path)

    drops, inputs, outputs, licenses = Drops(), [], [], {}
    with whole_folder(out) as folder:
        for name, files in raw_files.items():
            files = list(dict.fromkeys(files))  # a file given twice is read once
            module = SOURCES[name]
            first_pass = (module.first_pass(files),) if hasattr(module, "first_pass") else ()
            ids, licenses[name], names_taken = set(), collections.Counter(), set()
            records_in = records_out = 0

            for start in range(0, len(files), module.FILES_PER_OUTPUT):
                group = files[start : start + module.FILES_PER_OUTPUT]
                dropped_before = _dropped(drops, name)
                stem = _stem(group[0]) if module.FILES_PER_OUTPUT == 1 else f"{name}_{start // module.FILES_PER_OUTPUT:05d}"
                output = folder / name / f"{_not_taken(stem, names_taken)}.jsonl.gz"
                written = write_jsonl(output, _documents(module, name, group, drops, first_pass, ids, licenses[name]))
                if written:
                    outputs.append(describe(folder, output, records=written, domain=module.DOMAIN, source=name))
                else:
                    output.unlink()
                records = written + _dropped(drops, name) - dropped_before
                inputs.append({"source": name, **_identity(group), "records": records, "license": module.LICENSE, "access": module.ACCESS})
                records_in, records_out = records_in + records, records_out + written

            line = f"{name}: {len(files)} files, {records_in} records, {records_out} documents; dropped: {drops.summary(name)}"
            if not records_out:
                raise BadInput(f"{files[0].parent}: not one document came out of it ({line})")
            print(line, flush=True)

        return write_manifest(
            folder,
            stage="build_documents",
            arguments={"source": [f"{name}={path}" for name, path in source_paths]},
            inputs=inputs,
            dropped=drops.as_dict(),
            outputs=outputs,
            document_licenses={name: dict(sorted(counts.items())) for name, counts in licenses.items()},
        )


def _documents(module, name, group, drops, first_pass, ids, licenses):
    """The checked documents of some raw files, each id once."""
    for file in group:
        for document in module.read(file, drops, *first_pass):
            where = f"{file}: document {document.get('id')}"
            check_document(document, where)
            if document["id"] in ids:
                drops.add(name, "duplicate id", where)
                continue
            ids.add(document["id"])
            licenses[document["license"]] += 1
            yield document


def _dropped(drops: Drops, name: str) -> int:
    return sum(entry["count"] for entry in drops.as_dict().get(name, {}).values())


def _stem(file: Path) -> str:
    """The name of a raw file without the endings that say its format: discharge.csv.gz -> discharge."""
    return re.sub(r"(\.(xml|nxml|csv|jsonl|json|txt))?(\.(gz|zst))?$", "", file.name)


def _not_taken(stem: str, taken: set[str]) -> str:
    """`stem`, or stem_2, stem_3 ... where a file of another folder has that name already (letter case aside)."""
    name, number = stem, 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name.lower())
    return name


def _identity(group: list[Path]) -> dict:
    """Path and sha256 of a raw file; for several, of the list "sha256  name" they make, as sha256sum prints it."""
    if len(group) == 1:
        return {"path": group[0].as_posix(), "sha256": sha256(group[0])}
    listing = "".join(f"{sha256(file)}  {file.name}\n" for file in group)
    span = f"{group[0].as_posix()} ... {group[-1].as_posix()}"
    return {"path": span, "files": len(group), "sha256": hashlib.sha256(listing.encode()).hexdigest()}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", action="append", required=True, metavar="NAME=PATH", help=f"repeatable; names: {', '.join(SOURCES)}")
    parser.add_argument("--out", required=True, help="folder to write; replaced whole when everything was read")
    return parser


def main(argv=None):
    arguments = make_parser().parse_args(argv)
    try:
        pairs = []
        for given in arguments.source:
            name, equals, path = given.partition("=")
            if not equals or not path:
                raise BadInput(f"--source {given}: expected NAME=PATH (names: {', '.join(SOURCES)})")
            pairs.append((name, path))
        build(pairs, arguments.out)
    except BadInput as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
