"""Folders of documents: what the stages that write them share."""

import collections
import os
import shutil
from pathlib import Path

import numpy as np

from data_prep import engine
from data_prep.files import WORK, read_jsonl, sha256, write_jsonl


def put_in_place(folder: Path, files: list[tuple[str, str, np.ndarray]], executor: str) -> list[dict]:
    """Give each (written file, its final path below `folder`, lines from 0 to leave out) its final name. Returns for each what `leave_out` does
    (sha256 is None where nothing was left out).

    A file that keeps all its lines is linked, not moved: the result of the unit that wrote it must stay true until the whole build is."""
    units, removed = [], []
    for written, path, lines in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if len(lines):
            listing = folder / WORK / "left_out" / f"{path}.npy"
            listing.parent.mkdir(parents=True, exist_ok=True)
            np.save(listing, lines)
            units.append(
                {"name": path, "written": written, "output": str(folder / path), "lines": str(listing), "lines_sha256": sha256(listing)}
            )
        else:
            (folder / path).unlink(missing_ok=True)
            try:
                os.link(written, folder / path)
            except OSError:  # a file system without hard links
                shutil.copyfile(written, folder / path)
    done = dict(
        zip((unit["name"] for unit in units), engine.run("data_prep.documents:leave_out", units, folder / WORK, executor), strict=True)
    )
    for _, path, _ in files:
        removed.append(done.get(path, {"ids": [], "characters": 0, "licenses": {}, "sha256": None}))
    return removed


def leave_out(written: str, output: str, lines: str, lines_sha256: str) -> dict:
    """Copy a file of documents without `lines`; return ids, characters and licences of those, and the sha256 of the copy."""
    skip, ids, licenses, characters = set(np.load(lines).tolist()), [], collections.Counter(), 0

    def kept():
        nonlocal characters
        for number, (_, document) in enumerate(read_jsonl(written)):
            if number not in skip:
                yield document
                continue
            ids.append(document["id"])
            licenses[document["license"]] += 1
            characters += len(document["text"])

    partial = Path(output).with_name(f".{Path(output).name}.partial.gz")
    write_jsonl(partial, kept())
    os.replace(partial, output)
    return {"ids": ids, "characters": characters, "licenses": licenses, "sha256": sha256(output)}
