"""README.md of packed blocks: the dataset card that a user of the Hub would expect, written from the manifest
alone."""

from itertools import pairwise
from pathlib import Path

import yaml

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)


def write_card(folder: Path, manifest: dict) -> None:
    """Write FOLDER/README.md: YAML header (https://huggingface.co/docs/hub/datasets-cards), contents, origin,
    licenses, how to load and how to audit."""
    blocks = sum(output["records"] for output in manifest["outputs"] if output["split"] == "train")
    splits = [
        split
        for split in ("train", "validation")
        if any(output["split"] == split for output in manifest["outputs"])
    ]
    header = {
        "pretty_name": "Packed blocks for continual pretraining",
        "language": ["en"],
        "license": "other",
        "license_name": "the licenses of the sources, listed below",
        "task_categories": ["text-generation"],
        "tags": ["medical", "pretraining", "packed", manifest["access"]],
        "size_categories": [next((name for limit, name in SIZES if blocks < limit), "n>100M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}/**/*.arrow"} for split in splits],
            }
        ],
    }
    mixture, tokenizer, order = manifest["arguments"]["mixture"], manifest["tokenizer"], manifest["order"]
    lines = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n",
        "# Packed blocks for continual pretraining\n",
        f"{order['blocks']:,} blocks of {manifest['block_length']:,} tokens in a fixed training order: "
        f"{order['tokens']:,} tokens of a tokenizer with "
        f"{tokenizer['vocabulary']:,} entries (sha256 `{tokenizer['sha256'][:16]}`). Access class: "
        f"**{manifest['access']}**.\n",
        *(
            ["The sources hold text under data use agreements: this folder must not leave the site.\n"]
            if manifest["access"] == "credentialed"
            else []
        ),
        "## The mixture\n",
        "| domain | tokens | tokens in the run | passes | share of the run | held out "
        "|\n|---|---|---|---|---|---|",
        *(
            f"| {domain} | {t['tokens']:,} | {t['tokens_in_run']:,} | {t['passes']:.2f} | "
            f"{100 * t['share']:.2f} % | {t['validation_tokens']:,} |"
            for domain, t in manifest["domains"].items()
        ),
        *_lengths(manifest["domains"]),
        f"\nRatio asked for: {mixture['ratio']}. Packing: {mixture['fill']}. Seed: {mixture['seed']}.\n",
        "## Sources\n",
        "| source | domain | documents | tokens | license | access |\n|---|---|---|---|---|---|",
        *_sources(manifest),
        "",
        *_document_licenses(manifest.get("document_licenses", {})),
        "## What was left out\n",
        *_dropped(manifest["dropped"]),
        "\n## Loading\n",
        "```python\nimport datasets, json, numpy as np\n"
        'manifest = json.load(open("manifest.json"))\n'
        'files = [o["path"] for o in manifest["outputs"] if o["split"] == "train"]\n'
        "blocks = datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])  # "
        "memory-mapped\n"
        'blocks = blocks.select(np.load("order.npy"))  # the training order\n```\n',
        "Made by `python -m data_prep.build_blocks`; `python -m data_prep.corpus.audit` proves this "
        "folder against its manifest.\n",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _lengths(domains: dict):
    """Share of the run's tokens by the length of the document, or of its piece, that they stand in."""
    counts = {
        domain: facts["tokens_by_length"] for domain, facts in domains.items() if "tokens_by_length" in facts
    }
    bands = [int(band) for band in next(iter(counts.values()), ())]
    names = [f"below {high:,}" if not low else f"{low:,} to {high:,}" for low, high in pairwise(bands)]
    names += [f"{bands[-1]:,} and more"] if bands else []
    shown = [
        (str(b), name)
        for b, name in zip(bands, names, strict=True)
        if any(c[str(b)] for c in counts.values())
    ]
    if shown:
        yield "\n| tokens of the document in its block | " + " | ".join(counts) + " |"
        yield "|---" * (1 + len(counts)) + "|"
    for band, name in shown:
        shares = (f"{100 * count[band] / sum(count.values()):.1f} %" for count in counts.values())
        yield f"| {name} | " + " | ".join(shares) + " |"


def _sources(manifest: dict):
    for domain, source in dict.fromkeys(
        (output["domain"], output["source"]) for output in manifest["outputs"]
    ):
        mine = [
            output
            for output in manifest["outputs"]
            if (output["domain"], output["source"]) == (domain, source)
        ]
        inputs = [
            entry
            for entry in manifest["inputs"]
            if (entry.get("domain", domain), entry["source"]) == (domain, source)
        ]
        licenses, access = (
            " / ".join(sorted({entry[key] for entry in inputs})) for key in ("license", "access")
        )
        documents, tokens = (sum(output[key] for output in mine) for key in ("documents", "tokens"))
        yield f"| {source} | {domain} | {documents:,} | {tokens:,} | {licenses} | {access} |"


def _dropped(dropped: dict):
    for source, reasons in dropped.items():
        counts = ", ".join(f"{reason} {entry['count']:,}" for reason, entry in reasons.items())
        yield f"- {source}: {counts}"


def _document_licenses(counts: dict):
    for source, licenses in counts.items():
        if len(licenses) > 1:
            listed = ", ".join(f"{name} {n:,}" for name, n in licenses.items())
            yield f"Documents of {source} by license: {listed}.\n"
