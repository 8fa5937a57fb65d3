"""manifest.json beside every output of data_prep: what came in, what was dropped and why, what went out.

    {"stage", "arguments", "access", "licenses",
     "inputs":  [{"path", "sha256", "records", "license", "access", ...}],
     "dropped": {source or task: {reason: {"count", "first": "file: record",
                                                  "where": the first 100 of them}}},
     "outputs": [{"path" (relative), "sha256", "records", "tokens"?, "domain"?}],
     "egress"?: "namespace" | "hook", where the access class is credentialed (egress.py),
     "versions": {package: version}, ...}

`access` is the strictest of the inputs'; `declassified` says who lowered one of them, and why
(declassify.py). Nothing else depends on the time or the machine: same inputs and arguments, same bytes.
"""

import collections
import contextlib
import importlib.metadata
import json
from pathlib import Path

from data_prep import egress
from data_prep.files import changed_since, read_json, sha256, sha256_of_all
from data_prep.schema import BadInput, Manifest, mark_credentialed, parse, strictest

NAME = "manifest.json"


FIRST = 100  # places kept of each reason: enough to look at, and not millions for a corpus


class Drops:
    """Counts what a reader leaves out, by reason, and remembers where it was (the first FIRST of each
    reason).

    `bad` marks a record that should not have been there (not JSON, no text): a share of those above a
    threshold stops a build."""

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
        entry["where"] += more["where"][: FIRST - len(entry["where"])]

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
    """The packages whose behaviour is in the bytes of an output; `make hello` installs few of them."""
    found = {}
    for name in ("datasets", "datatrove", "tokenizers", "lxml", "ftfy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


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
    """Write folder/manifest.json and return it. Inputs carry `license` and `access`; the strictest access is
    the output's. The hashes of the outputs are computed again from the disk: BadInput if one of them differs,
    as when a worker that was thought dead has written to it."""
    for output, found in zip(outputs, sha256_of_all([folder / o["path"] for o in outputs]), strict=True):
        if output["sha256"] != found:
            raise BadInput(
                f"{folder / output['path']}: changed after it was written, so another process writes here. "
                "Next: end that process, then the same command again"
            )
    signed = [entry for given in inputs for entry in given.get("declassified", ())]
    signed = [entry for i, entry in enumerate(signed) if entry not in signed[:i]]
    access = strictest(entry["access"] for entry in inputs)
    manifest = {
        "stage": stage,
        "access": access,
        **({"declassified": signed} if signed else {}),
        **({"egress": egress.wall()} if access == "credentialed" else {}),
        "licenses": sorted({entry["license"] for entry in inputs}),
        "arguments": arguments,
        "inputs": inputs,
        "dropped": dropped,
        "outputs": outputs,
        **facts,
        "versions": versions(),
    }
    content = json.dumps(manifest, indent=1, ensure_ascii=False, default=str) + "\n"
    (folder / NAME).write_text(content, encoding="utf-8")
    return manifest


def read_manifest(folder: str | Path, *, made_by: str) -> dict:
    """The manifest of `folder`, or BadInput with the command that makes it."""
    path = Path(folder) / NAME
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Next: {made_by}")
    manifest = read_json(path)
    parse(manifest, Manifest, path)
    for entry in manifest["inputs"]:
        mark_credentialed(entry)
    return manifest


def already_complete(out: Path) -> dict:
    """Say that nothing is to be done, and return the manifest of `out`."""
    print(f"{out}: already complete, nothing to do")
    return read_json(out / NAME)


# ---------------------------------------------------------------- files that are what their manifest says
def check_sha256(path: str | Path, claimed: str) -> None:
    """BadInput if a file is not the one that its manifest lists."""
    if not Path(path).is_file():
        raise BadInput(f"{path}: missing, and its manifest lists it. Next: build its folder again")
    if sha256(path) != claimed:
        raise BadInput(
            f"{path}: not the file that its manifest lists: it was replaced, cut or edited after the build. "
            "Next: build its folder again"
        )


def check_listed(path: Path) -> None:
    """check_sha256 by the manifest beside `path`, if there is one and it lists the file."""
    if (path.parent / NAME).is_file():
        for output in read_json(path.parent / NAME).get("outputs", ()):
            if output["path"] == path.name:
                check_sha256(path, output["sha256"])


def intact(out: Path) -> bool:
    """Whether the outputs in a finished folder are those of its manifest. Only files that were written to
    after the build are hashed (files.changed_since)."""
    listed = {out / output["path"]: output["sha256"] for output in read_json(out / NAME)["outputs"]}
    for path in changed_since(out, listed):
        if not path.is_file() or sha256(path) != listed[path]:
            print(f"{path}: changed after the build, so {out} is built again", flush=True)
            return False
    return True
