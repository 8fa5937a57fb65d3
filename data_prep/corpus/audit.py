"""Re-read packed blocks and prove that they are what their manifest says.

    python -m data_prep.corpus.audit data/demo/blocks

1. Files: the sha256 of every training and validation file, of its list of ids, and of order.npy.
2. Order: made anew from (blocks on disk, ratio, tokens, seed), it is order.npy; it gives every block as often
as the passes say. 3. Ratio: tokens of each domain in every prefix of the order of at least 1,000 blocks,
against the ratio asked for. 4. Blocks: of blocks taken at random, every piece is found in the document whose
id it carries, as the tokenizer itself encodes that document; a document of
   the training files is never one of the validation files.

Exit code 1, and the first disagreement in one sentence, where a claim does not hold.
"""

import argparse
import gzip
import sys
from pathlib import Path

import numpy as np

from data_prep import egress
from data_prep.build_blocks import by_length, columns, held_out, ids_path, joined, mix, shards
from data_prep.corpus.tokenize import DocumentTokenizer
from data_prep.files import one_sentence, read_jsonl
from data_prep.manifest import check_sha256, read_manifest
from data_prep.schema import DOMAINS, BadInput

PREFIX, TOLERANCE = 1_000, 0.001  # blocks; share of the tokens


def audit(folder: Path, blocks: int = 64, seed: int = 0) -> list[str]:
    """One line for each proof; BadInput for the first that fails. `blocks` of every file are read in the
    fourth."""
    manifest = read_manifest(folder, made_by="python -m data_prep.build_blocks --help")
    if manifest["stage"] != "build_blocks":
        next_step = (
            "python -m data_prep.build_blocks --documents DOCUMENTS --tokenizer TOKENIZER "
            "--mixture YAML --out BLOCKS"
        )
        raise BadInput(
            f"{folder}: made by {manifest['stage']}, and holds no packed blocks. Next: {next_step}"
        )
    lines = [check_files(folder, manifest)]
    return [*lines, check_order(folder, manifest), check_blocks(folder, manifest, blocks, seed)]


def rows_of(folder: Path, output: dict):
    """The blocks of one file. Each keeps its file open, and a corpus has more files than a process may
    open."""
    from datasets import Dataset  # here, as it takes seconds to import

    return Dataset.from_file(str(folder / output["path"]))


def check_files(folder: Path, manifest: dict) -> str:
    claims = [(output["path"], output["sha256"]) for output in manifest["outputs"]]
    claims += [(ids_path(output["path"]), output["ids_sha256"]) for output in manifest["outputs"]]
    claims.append((manifest["order"]["path"], manifest["order"]["sha256"]))
    for path, claimed in claims:
        check_sha256(folder / path, claimed)
    return f"files: {len(claims)} hashes agree"


def check_order(folder: Path, manifest: dict) -> str:
    mixture, order, used = manifest["arguments"]["mixture"], np.load(folder / "order.npy"), {}
    for output in manifest["outputs"]:
        if output["split"] == "train":
            lengths = rows_of(folder, output).with_format("arrow")["seq_lengths"]
            blocks = [by_length(np.array(row)) for chunk in lengths.chunks for row in chunk.to_pylist()]
            blocks = np.array(blocks)
            counts = blocks[:, 0]
            if len(counts) != output["records"] or counts.sum() != output["tokens"]:
                raise BadInput(
                    f"{output['path']}: {len(counts)} blocks, {counts.sum()} tokens; the manifest says "
                    f"{output['records']}, {output['tokens']}"
                )
            used.setdefault(output["domain"], []).append(blocks)
    used = {domain: np.concatenate(parts) for domain, parts in used.items()}
    found = {domain: int(blocks[:, 0].sum()) for domain, blocks in used.items()}
    arguments = columns(used, mixture, found)
    used, ratio = arguments[:2]
    if not np.array_equal(order, mix(*arguments)[0]):
        raise BadInput(f"{folder / 'order.npy'}: not the order that the blocks, the ratio and the seed give")

    tokens, domain = (
        np.concatenate(list(used.values()))[order],
        np.digitize(order, np.cumsum([len(u) for u in used.values()])),
    )
    running, first, worst = np.cumsum(tokens), min(PREFIX, len(order)) - 1, 0.0
    shares = []
    for d, name in enumerate(used):
        share = np.cumsum(np.where(domain == d, tokens, 0)) / running
        error = float(np.abs(share[first:] - ratio[name] / sum(ratio.values())).max())
        worst = max(worst, error)
        shares.append(f"{name} {100 * share[-1]:.3f} %")
        if len(order) >= PREFIX and error > TOLERANCE:
            raise BadInput(
                f"{folder / 'order.npy'}: a prefix holds {name} text {100 * error:.2f} percentage points off "
                "the ratio"
            )
    what = (
        f"every prefix of {PREFIX:,} blocks or more"
        if len(order) >= PREFIX
        else f"the whole run of {len(order):,} blocks"
    )
    return (
        f"order: made anew, the same; {', '.join(shares)}; {what} within {100 * worst:.3f} percentage "
        "points of the ratio"
    )


def check_blocks(folder: Path, manifest: dict, count: int, seed: int) -> str:
    rng, pieces, texts = np.random.default_rng(seed), {}, {}
    share = manifest["arguments"]["mixture"]["validation_share"]
    for output in manifest["outputs"]:
        with gzip.open(folder / ids_path(output["path"]), "rt", encoding="utf-8") as stream:
            lines = [line.split("\t") for line in stream.read().splitlines()]
        ids = [line[0] for line in lines]
        if len(ids) != output["documents"]:
            raise BadInput(f"{output['path']}: {len(ids)} ids for {output['documents']} documents")
        for name, *group in lines:  # a patient's documents are on one side
            if held_out(output["source"], *group or [name], share) != (output["split"] == "validation"):
                raise BadInput(f"{output['path']}: document {name} belongs to the other split")
        rows = rows_of(folder, output)
        for number in rng.choice(output["records"], min(count, output["records"]), replace=False):
            row, start = rows[int(number)], 0
            for length, document in zip(row["seq_lengths"], row["documents"], strict=True):
                where = f"{output['path']}: block {number}"
                pieces.setdefault((output["source"], ids[document]), []).append(
                    (where, row["input_ids"][start : start + length])
                )
                start += length

    documents = Path(manifest["arguments"]["documents"])
    made_from = read_manifest(
        documents,
        made_by=(
            "the documents that these blocks were made of, where arguments.documents of the manifest says"
        ),
    )
    if egress.manifest_sha256(documents / "manifest.json") != manifest["documents_sha256"]:
        raise BadInput(
            f"{documents}: not the documents that these blocks were made of. Next: audit before they are "
            "changed"
        )
    for *_, files in shards(made_from, DOMAINS):
        found = (document for path, _ in files for _, document in read_jsonl(documents / path))
        for document in joined(found) if manifest["arguments"]["mixture"]["fill"] == "long_first" else found:
            if (document["source"], document["id"]) in pieces:  # a patient may be in several files
                texts.setdefault((document["source"], document["id"]), []).append(document["text"])
    tokenizer = DocumentTokenizer(manifest["arguments"]["tokenizer"])
    if tokenizer.sha256 != manifest["tokenizer"]["sha256"]:
        raise BadInput(f"{manifest['arguments']['tokenizer']}: not the tokenizer that made these blocks")
    for key, found in pieces.items():
        if key not in texts:
            raise BadInput(f"{found[0][0]}: document {key[1]} is not among the documents")
        wholes = [np.array(tokenizer.reference(text), tokenizer.dtype).tobytes() for text in texts[key]]
        for where, ids in found:
            if not any(np.array(ids, tokenizer.dtype).tobytes() in whole for whole in wholes):
                raise BadInput(f"{where}: {len(ids)} tokens are not those of document {key[1]}")
    return (
        f"blocks: {sum(map(len, pieces.values())):,} pieces of {len(pieces):,} documents, taken at "
        "random, are what the tokenizer gives"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("blocks", type=Path, help="folder made by build_blocks")
    parser.add_argument("--count", type=int, default=64, help="blocks of each file to read again")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of blocks")
    args = parser.parse_args(argv)
    with one_sentence():
        for line in audit(args.blocks, args.count, args.seed):
            print(line, flush=True)


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
