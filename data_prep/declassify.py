"""Lower the access class of documents or rows, signed by a person: the only way down there is.

    python -m data_prep.declassify data/clean --to gated --who "A. Example, data steward" \\
        --why "de-identified and reviewed, protocol 2026-117" --out data/clean_gated

Reads   a folder of build_documents, clean_documents, build_tasks (one task) or build_instructions
Writes  OUT: the same files with that class in every document or row that was stricter, and manifest.json with
        `declassified`: [{from, to, who, why, date, manifest_sha256}]. The entry is carried into every
        manifest, run.json and model card that is made of it. Blocks are packed anew from such documents.
"""

import argparse
import datetime
import json
import sys
from pathlib import Path

from data_prep import egress
from data_prep.files import one_sentence, read_jsonl, sha256, whole_folder, write_jsonl
from data_prep.manifest import read_manifest
from data_prep.schema import ACCESS, BadInput, strictest


def declassify(folder: Path, to: str, who: str, why: str, out: Path, date: str) -> dict:
    """Write OUT and return its manifest. BadInput if the folder is not an output of these
    commands or not stricter than `to`, if nobody is named, or if the date is in the future."""
    manifest = read_manifest(
        folder,
        made_by="python -m data_prep.build_documents or build_tasks, whose folders can be declassified",
    )
    if ACCESS.index(manifest["access"]) <= ACCESS.index(to):
        raise BadInput(f"{folder}: its access class is {manifest['access']} already, not stricter than {to}")
    if not who.strip() or not why.strip():
        raise BadInput("--who and --why must say who answers for this, and for what reason")
    if not has_come(date):
        raise BadInput(f"--date {date}: must be a date up to today, as 2026-11-01")
    paths = [output["path"] for output in manifest["outputs"]]
    if other := [path for path in paths if not path.endswith((".jsonl", ".jsonl.gz"))]:
        raise BadInput(
            f"{folder}: {other[0]} holds no documents or rows. Next: declassify what it was made of, and "
            "make it again"
        )
    entry = {
        "from": manifest["access"],
        "to": to,
        "who": who,
        "why": why,
        "date": date,
        "manifest_sha256": sha256(folder / "manifest.json"),
    }
    lowered = 0

    def records(path: Path):
        nonlocal lowered
        for _, record in read_jsonl(path):
            stricter = ACCESS.index(record["access"]) > ACCESS.index(to)
            lowered += stricter
            yield record | {"access": to} if stricter else record

    with whole_folder(out) as partial:
        for output in manifest["outputs"]:
            write_jsonl(partial / output["path"], records(folder / output["path"]))
            output["sha256"] = sha256(partial / output["path"])
        for given in manifest["inputs"]:
            if ACCESS.index(given["access"]) > ACCESS.index(to):
                given |= {"access": to, "declassified": [*given.get("declassified", []), entry]}
        manifest |= {"access": strictest(given["access"] for given in manifest["inputs"])}
        manifest["declassified"] = [*manifest.get("declassified", []), entry]
        (partial / "manifest.json").write_text(
            json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    print(f"wrote {out}: {lowered:,} records from {entry['from']} to {to}, signed by {who}")
    return manifest


def has_come(date: str) -> bool:
    """Whether a text is a day as ISO 8601 writes it, with hyphens, and not after today."""
    try:
        return str(datetime.date.fromisoformat(date)) == date <= str(datetime.date.today())
    except ValueError:
        return False


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", required=True, choices=ACCESS[:-1])
    parser.add_argument("--who", required=True, help="name and function of the person who answers for it")
    parser.add_argument("--why", required=True, help="the decision or protocol behind it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--date", default=str(datetime.date.today()))
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with one_sentence():
        declassify(args.folder, args.to, args.who, args.why, args.out, args.date)


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
