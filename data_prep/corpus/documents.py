"""Folders of documents: what the stages that write them share."""

import collections
import os
import shutil
from pathlib import Path

import numpy as np

from data_prep.corpus import executors
from data_prep.files import WORK, read_jsonl, sha256, write_jsonl
from data_prep.manifest import check_sha256


def put_in_place(folder: Path, files: list[tuple[str, str, str, np.ndarray]], executor: str) -> list[dict]:
    """Give each (written file, its sha256, its final path below `folder`, lines from 0 to leave out) its
    final name. Returns for each what `leave_out` does (with no ids where nothing was left out).

    Final files are links to the results of units, which must stay true until the whole build is: they are
    neither moved nor changed."""
    units, done = [], {}
    for written, content, path, lines in files:
        done[path] = {"output": written, "ids": [], "characters": 0, "licenses": {}, "sha256": content}
        if len(lines):
            listing, output = (folder / WORK / part / path for part in ("left_out", "without"))
            listing.parent.mkdir(parents=True, exist_ok=True)
            np.save(f"{listing}.npy", lines)
            units.append(
                {
                    "name": path,
                    "written": written,
                    "written_sha256": content,
                    "output": str(output),
                    "lines": f"{listing}.npy",
                    "lines_sha256": sha256(f"{listing}.npy"),
                }
            )
    facts = executors.run("data_prep.corpus.documents:leave_out", units, folder / WORK, executor)
    done |= {unit["name"]: fact for unit, fact in zip(units, facts, strict=True)}
    for path, fact in done.items():
        link(fact["output"], folder / path)
    return list(done.values())


def link(written: str | Path, path: Path) -> None:
    """Let `path` be the file `written`, by a hard link where the file system has them, else by a copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        os.link(written, path)
    except OSError:
        shutil.copyfile(written, path)


def leave_out(written: str, written_sha256: str, output: str, lines: str, lines_sha256: str) -> dict:
    """Copy a file of documents without `lines`; return the copy, its sha256, and ids, characters and licenses
    of what it lacks."""
    skip, ids, licenses, characters = set(np.load(lines).tolist()), [], collections.Counter(), 0

    check_sha256(written, written_sha256)

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
    return {
        "output": output,
        "ids": ids,
        "characters": characters,
        "licenses": licenses,
        "sha256": sha256(output),
    }
