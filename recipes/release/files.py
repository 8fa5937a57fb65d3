"""Files as every part of a release reads them: JSON that is what a run has read, sums, access classes; and
Refused, which says why there is no release."""

import hashlib
import json
from pathlib import Path

from recipes.egress import ACCESS, manifest_sha256

SUMS, PROVENANCE = "SHA256SUMS.txt", "provenance.json"


class Refused(Exception):
    """What cannot be released as it is; the message says what to do next."""


def read_json(path, expected=None):
    """The JSON of a file. Refused if it is not there, or not the one with the sha256 that a run.json
    knows (of a manifest: manifest_sha256)."""
    try:
        text = Path(path).read_bytes()
        found = json.loads(text)
    except OSError as error:
        raise Refused(
            f"{path}: cannot be read ({error.strerror}). Next: bring it back, or give another"
        ) from error
    except ValueError as error:
        raise Refused(f"{path}: not JSON ({error}). Next: make it again") from error
    if expected and expected not in (hashlib.sha256(text).hexdigest(), manifest_sha256(path)):
        raise Refused(
            f"{path}: has changed since a run read it, so its facts are others. Next: bring it back, or "
            f"train again"
        )
    return found


def sha256(path):
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listing(folder):
    """The files and links of a folder and below, as relative paths."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    )


def strictest(classes, where):
    """The strictest access class. Refused if one is unknown: silence is never public."""
    if wrong := [found for found in classes if found not in ACCESS]:
        raise Refused(
            f"{where}: access is {wrong[0]}, there or in what it was made of, and never taken as public. "
            f"Next: make that again"
        )
    return max(classes, key=ACCESS.index)
