"""manifest.json stands beside every output of data_prep: what came in, what was dropped and why, what went out.

    {"stage", "arguments", "access", "licenses",
     "inputs":  [{"path", "sha256", "records", "license", "access", ...}],
     "dropped": {source or task: {reason: {"count", "first": "file: record", "where": the first 100 of them}}},
     "outputs": [{"path" (relative), "sha256", "records", "tokens"?, "domain"?}],
     "versions": {package: version}, ...}

`access` is the strictest of the inputs'; `declassified` says who lowered one of them, and why (declassify.py). Nothing here depends on the time or the machine: same inputs and arguments, same bytes.
"""

import collections
import importlib.metadata
import json
from pathlib import Path

from data_prep.files import read_json, sha256
from data_prep.schema import BadInput, hold, strictest

NAME = "manifest.json"


PLACES_KEPT = 100  # of each reason: enough to look at, and no list of millions for a corpus


class Drops:
    """Counts what a reader leaves out, by reason, and remembers where it stood (the first PLACES_KEPT of each reason).

    `bad` marks a record that should not have been there (not JSON, no text): a share of those above a threshold stops a build."""

    def __init__(self):
        self._reasons = collections.defaultdict(dict)
        self._repairs = None

    @property
    def repairs(self) -> "Drops":
        """The same account of the records that were kept, but changed."""
        self._repairs = self._repairs or Drops()
        return self._repairs

    def repair(self, group: str, reason: str, where: str) -> None:
        self.repairs.add(group, reason, where)

    def add(self, group: str, reason: str, where: str, *, bad: bool = False) -> None:
        self._merge(
            group, reason, {"count": 1, "first": where, "where": [where], **({"bad": True} if bad else {})}
        )

    def merge(self, dropped: dict) -> None:
        """Add what another Drops has counted (its as_dict)."""
        for group, reasons in dropped.items():
            for reason, entry in reasons.items():
                self._merge(group, reason, entry)

    def _merge(self, group: str, reason: str, more: dict) -> None:
        entry = self._reasons[group].setdefault(reason, {**more, "count": 0, "where": []})
        entry["count"] += more["count"]
        entry["where"] += more["where"][: PLACES_KEPT - len(entry["where"])]

    def count(self, group: str, *, bad: bool = False) -> int:
        """How many records of a group were left out; with `bad`, of those that should not have been there."""
        return sum(entry["count"] for entry in self._reasons[group].values() if entry.get("bad") or not bad)

    def as_dict(self) -> dict:
        return {
            group: dict(sorted(reasons.items()))
            for group, reasons in sorted(self._reasons.items())
            if reasons
        }

    def summary(self, group: str) -> str:
        return (
            ", ".join(f"{reason} {entry['count']}" for reason, entry in sorted(self._reasons[group].items()))
            or "none"
        )


def versions() -> dict[str, str]:
    """The packages whose behaviour is in the bytes of an output."""
    return {
        name: importlib.metadata.version(name)
        for name in ("datasets", "datatrove", "tokenizers", "lxml", "ftfy")
    }


def describe(folder: Path, path: Path, **facts) -> dict:
    """The entry of one output file."""
    return {"path": path.relative_to(folder).as_posix(), "sha256": sha256(path), **facts}


def write_manifest(
    folder: Path,
    *,
    stage: str,
    arguments: dict,
    inputs: list[dict],
    dropped: dict,
    outputs: list[dict],
    **facts,
) -> dict:
    """Write folder/manifest.json and return it. Inputs carry `license` and `access`; the strictest access is the output's."""
    signed = [entry for given in inputs for entry in given.get("declassified", ())]
    signed = [entry for i, entry in enumerate(signed) if entry not in signed[:i]]
    manifest = {
        "stage": stage,
        "access": strictest(entry["access"] for entry in inputs),
        **({"declassified": signed} if signed else {}),
        "licenses": sorted({entry["license"] for entry in inputs}),
        "arguments": arguments,
        "inputs": inputs,
        "dropped": dropped,
        "outputs": outputs,
        **facts,
        "versions": versions(),
    }
    (folder / NAME).write_text(
        json.dumps(manifest, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    return manifest


def read_manifest(folder: str | Path, *, made_by: str) -> dict:
    """The manifest of `folder`, or BadInput with the command that makes it."""
    path = Path(folder) / NAME
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Next: {made_by}")
    manifest = read_json(path)
    for entry in manifest.get("inputs", ()):
        hold(entry)
    return manifest
