"""The runs behind a model, from the last to the first, and the data that each of them read, as their run.json
and manifest.json know it."""

import json
from pathlib import Path

from recipes.egress import manifest_sha256

from .files import Refused, read_json, sha256, strictest


def read_chain(folder):
    """([run.json of the run, of the run it continued, ...], base model: {"name", "path" or None,
    "from_scratch"})."""
    if (folder / "adapter_config.json").is_file():
        raise Refused(
            f"{folder}: an adapter, no whole model. Next: python recipes/merge_adapter.py --adapter "
            f"{folder} --output_dir MERGED"
        )
    chain, path, expected = [], folder / "run.json", None
    while True:
        record = read_json(path, expected)
        if record.get("status") != "complete":
            raise Refused(
                f"{path}: status is {record.get('status')}, no finished run. Next: run the same command "
                f"again, it goes on"
            )
        strictest([record.get("access", "missing")], path)
        chain.append(record)
        parent = Path(record["parent"])
        if parent.name != "run.json":
            break
        path, expected = parent, record["inputs"].get(str(parent))
    if parent.name == "complete.json":
        raise Refused(
            f"{path}: began from the checkpoint {parent}, whose run is not known. Next: begin from the "
            f"finished run"
        )
    local = parent.parent if parent.name == "config.json" else None
    base = {"name": local.name, "path": str(local)} if local else {"name": record["parent"], "path": None}
    return chain, base | {"from_scratch": bool(record["arguments"].get("from_scratch"))}


def read_data(record):
    """What a run learned from: {"manifests": in short, "contamination": [lines], "sources": [{source, domain,
    records, unit, tokens, licences, access, declassified}]}."""
    found = {"manifests": [], "sources": [], "contamination": []}
    for path in (Path(path) for path in record["inputs"] if Path(path).name == "manifest.json"):
        manifest, rows = read_json(path, record["inputs"][str(path)]), path.with_name("train.jsonl")
        found["sources"] += (
            block_sources(manifest, path)
            if "domains" in manifest
            else row_sources(manifest, rows, record["inputs"])
        )
        found["manifests"].append(short(manifest))
        found["contamination"] += contamination(manifest)
    return found


def block_sources(manifest, path):
    """Of packed blocks (data_prep/build_blocks.py): the tokens of each source that can be trained on."""
    rows = {}
    for output in (o for o in manifest["outputs"] if o["split"] == "train"):
        row = rows.setdefault((output["source"], output["domain"]), {"records": 0, "tokens": 0})
        row["records"], row["tokens"] = row["records"] + output["documents"], row["tokens"] + output["tokens"]
    for (source, domain), row in rows.items():
        inputs = [
            entry
            for entry in manifest["inputs"]
            if entry["source"] == source and entry.get("domain", domain) == domain
        ]
        licences = manifest.get("document_licenses", {}).get(source) or {entry["license"] for entry in inputs}
        row |= {"source": source, "domain": domain, "unit": "documents", "licences": sorted(licences)}
        row |= {
            "access": strictest([entry.get("access", "missing") for entry in inputs] or ["missing"], path)
        }
        row |= {"declassified": all("declassified" in entry for entry in inputs)}
    return list(rows.values())


def row_sources(manifest, path, inputs):
    """Of rows (build_instructions.py, build_tasks.py): how many of each source were trained on. Tokens are
    not recorded by source."""
    if not path.is_file() or sha256(path) != inputs.get(str(path)):
        raise Refused(
            f"{path}: missing, or changed since it was trained on. Next: bring it back, its rows say their "
            f"licences"
        )
    rows = {}
    for row in map(json.loads, path.open(encoding="utf-8")):
        fact = rows.setdefault(
            row.get("source", "not recorded"), {"records": 0, "licences": set(), "access": set()}
        )
        fact["records"] += 1
        fact["licences"].add(row.get("license", "unknown"))
        fact["access"].add(row.get("access", "missing"))
    common = {
        "domain": "",
        "unit": "rows",
        "tokens": None,
        "declassified": bool(manifest.get("declassified")),
    }
    for name, fact in rows.items():
        fact |= common | {
            "source": name,
            "licences": sorted(fact["licences"]),
            "access": strictest(fact["access"], path),
        }
    return list(rows.values())


def short(manifest):
    """A manifest without file names, ids and places of records."""
    kept = (
        "stage",
        "arguments",
        "domains",
        "order",
        "block_length",
        "tokenizer",
        "documents_sha256",
        "declassified",
        "versions",
    )
    inputs = {}
    for entry in manifest["inputs"]:
        fact = inputs.setdefault(
            (entry.get("source"), entry["license"], entry["access"]), {"files": 0, "records": 0}
        )
        fact["files"], fact["records"] = fact["files"] + 1, fact["records"] + (entry.get("records") or 0)
    return {key: manifest[key] for key in kept if key in manifest} | {
        "access": manifest.get("access", "missing"),
        "inputs": [
            dict(zip(("source", "license", "access"), key, strict=True)) | fact
            for key, fact in inputs.items()
        ],
        "dropped": {
            source: {reason: e["count"] for reason, e in reasons.items()}
            for source, reasons in manifest["dropped"].items()
        },
    }


def contamination(manifest):
    """[sentence] on what was done about evaluation rows in the data of this manifest."""
    stage, found = manifest["stage"], manifest.get("decontamination")
    if (
        "domains" in manifest
    ):  # the documents behind the blocks: what was done to them is in their own manifest
        path = Path(manifest["arguments"]["documents"], "manifest.json")
        if not path.is_file() or manifest_sha256(path) != manifest["documents_sha256"]:
            return [f"{stage}: not recorded, as {path} is not there any more."]
        found = json.loads(path.read_text(encoding="utf-8")).get("decontamination")
        if not found:
            return ["Documents: no decontamination was made."]
        entries = [item for reasons in manifest["dropped"].values() for item in reasons.items()]
        removed = sum(entry["count"] for reason, entry in entries if reason.startswith("evaluation row"))
        looked = ", ".join(f"{task} {n:,}" for task, n in (found["items"] or found["ids"]).items()) or "none"
        done = (
            "only reported"
            if found["settings"].get("report_only")
            else f"{removed:,} documents that hold one were left out"
        )
        missing = f"; not looked for: {', '.join(found['missing'])}" if found["missing"] else ""
        return [f"Documents: evaluation items looked for: {looked}; {done}{missing}."]
    if found and not found["rule"].startswith("none"):
        return [
            f"Rows: {len(found['removed']):,} that give an evaluation row away were left out; rule: "
            f"{found['rule']}."
        ]
    if "near_duplicates" in manifest:
        near = (
            ", ".join(f"{split} {entry['count']:,}" for split, entry in manifest["near_duplicates"].items())
            or "none"
        )
        return [f"Rows of {manifest['task']}: much like a test text, and kept: {near}."]
    return [f"{stage}: no decontamination was made."]
