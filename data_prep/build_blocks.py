"""Tokenize documents, pack them into fixed-length blocks, and lay down the training order of the mixture.

    python -m data_prep.build_blocks --documents data/demo/clean --tokenizer data/demo/backbone_config \\
        --mixture data_prep/mixtures/demo.yaml --out data/demo/blocks --executor local:2

Reads   DOCUMENTS/manifest.json and the files it names, the tokenizer of the model to be trained, and the
        mixture:
            block_length  tokens per block
            tokens        length of the training run, in tokens of this tokenizer, or `one_pass`: as many as
                          there are
            ratio         weight of each domain, in tokens (paper: biomedical 15, clinical 1, general 4), or
                          `as_found`
            fill          best_fit: whole documents where they fit, the rest split over blocks;
                          long_first: best_fit on joined documents, the notes of one patient in the order of
                          their dates (of one training file), and of a domain that has more than the run
                          takes, the blocks with the longest documents;
                          concat: one endless text, cut every block_length
            validation_share   share of the documents that is held out, per domain, by a hash of the patient
                          or else of the document's id
            seed
Writes  OUT/{train,validation}/<domain>/<source>_NNNNN.arrow: memory-mapped `datasets` files, one row per
        block:
            input_ids     [block_length] uint16, or uint32 where the vocabulary needs it; padded at the end
                          with EOS
            seq_lengths   tokens of each document (or piece of one) in the block, in order; their sum is the
                          used length
            documents     which document each piece is of: a line (from 0) of the file's .ids.txt.gz
        OUT/order.npy: uint32 [blocks of the run], the row (of all training files, one after the other as in
        the manifest) that is trained at each step of the order.
        OUT/manifest.json: tokens and passes per source, the realized ratio, hashes, drops, access and
        licenses. OUT/README.md: a dataset card.

The order is a function of (files, ratio, tokens, seed) alone. Domains are interleaved by systematic sampling
in tokens, so every prefix of the run holds each domain's share to about one block; inside a domain the blocks
are shuffled, anew for each pass. Resuming needs one integer: the index in `order.npy`.
"""

import argparse
import contextlib
import gzip
import hashlib
import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep import egress
from data_prep.corpus import executors
from data_prep.corpus.dataset_card import write_card
from data_prep.corpus.documents import link
from data_prep.corpus.tokenize import DocumentTokenizer
from data_prep.files import WORK, keep_only, one_sentence, read_jsonl, resumable_folder, sha256
from data_prep.manifest import already_complete, check_sha256, describe, intact, read_manifest, write_manifest
from data_prep.schema import DOMAINS, BadInput, Mixture, load

SHARD_CHARACTERS = (
    250_000_000  # of documents in one training file, the unit of parallel work: about 60 million tokens
)
BATCH_CHARACTERS = 4_000_000  # tokenized at once: bounds the memory by text, not by number of documents
ROWS_PER_WRITE = 512
DATES = ("charttime", "chartdate", "date")  # in the meta of a note
BANDS = (0, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)  # tokens of a document, for the dataset card


# ---------------------------------------------------------------- the mixture
def read_mixture(path: Path) -> dict:
    """The mixture of a YAML file; BadInput names the key that is missing, unknown or out of range."""
    return load(path, Mixture, example="data_prep/mixtures/demo.yaml").model_dump()


def person(document: dict) -> str:
    """What goes to one split as a whole: the patient of a document, if it names one, else the document."""
    patient = document["meta"].get("patient") or document["meta"].get("subject_id")
    return f"patient {patient}" if patient else document["id"]


def held_out(source: str, document_id: str, share: float) -> bool:
    """Whether a document belongs to validation: by a hash of its id, so that it does so in every mixture."""
    digest = hashlib.sha256(f"{source}\0{document_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


# ---------------------------------------------------------------- tokenize
def batches(documents, characters: int):
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document["text"])
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def joined(documents):
    """The documents of each patient as one, in the order of their dates; all others as they are."""
    patients = {}
    for document in documents:
        if (group := person(document)) == document["id"]:
            yield document
        else:
            patients.setdefault((document["source"], group), []).append(document)
    for (source, group), notes in patients.items():
        notes.sort(key=lambda note: next((note["meta"][key] for key in DATES if note["meta"].get(key)), ""))
        text = "\n\n".join(note["text"] for note in notes)
        yield {"id": group, "source": source, "text": text, "meta": {}}


def tokenize(
    files: list[Path], tokenizer: DocumentTokenizer, share: float, stem: Path, join: bool = False
) -> dict[str, np.ndarray]:
    """Write the tokens of each split one after the other to STEM.{train,validation}.bin and the ids of its
    documents to STEM.{...}.ids.txt.gz; return the end of each document per split, in tokens. join: the
    documents of a patient are one."""
    ends, written = {"train": [], "validation": []}, {"train": 0, "validation": 0}
    with contextlib.ExitStack() as stack:
        tokens = {split: stack.enter_context(open(f"{stem}.{split}.bin", "wb")) for split in ends}
        names = {}
        for split in ends:
            raw = stack.enter_context(open(f"{stem}.{split}.ids.txt.gz", "wb"))
            names[split] = stack.enter_context(gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0))
        documents = (document for file in files for _, document in read_jsonl(file))
        for batch in batches(joined(documents) if join else documents, BATCH_CHARACTERS):
            for document, ids in zip(batch, tokenizer.encode([d["text"] for d in batch]), strict=True):
                group = person(document)
                split = "validation" if held_out(document["source"], group, share) else "train"
                ids.tofile(tokens[split])
                of_group = f"\t{group}" if group != document["id"] else ""
                names[split].write(f"{document['id']}{of_group}\n".encode())
                written[split] += len(ids)
                ends[split].append(written[split])
    return {split: np.array(values, np.int64) for split, values in ends.items()}


# ---------------------------------------------------------------- pack
def fill_concat(ends: np.ndarray, length: int) -> list[list[tuple[int, int]]]:
    """Blocks as lists of (start, stop) token spans: the documents one after the other, cut every `length`
    tokens; the last block may be short."""
    total = int(ends[-1]) if len(ends) else 0
    blocks = []
    for start in range(0, total, length):
        stop = min(start + length, total)
        cuts = ends[np.searchsorted(ends, start, "right") : np.searchsorted(ends, stop, "left")].tolist()
        blocks.append(list(itertools.pairwise([start, *cuts, stop])))
    return blocks


def fill_best_fit(ends: np.ndarray, length: int) -> list[list[tuple[int, int]]]:
    """Blocks as lists of (start, stop) token spans. A document longer than a block fills whole blocks first;
    what is left of it, and every shorter document, goes longest first into the fullest open block that has
    room (best-fit decreasing). No token is lost."""
    blocks, rest = [], []
    for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        while end - start >= length:
            blocks.append([(start, start + length)])
            start += length
        if end > start:
            rest.append((start, end))
    rest.sort(key=lambda span: (span[0] - span[1], span[0]))
    by_room = [[] for _ in range(length + 1)]  # open blocks by the tokens they still take
    for start, end in rest:
        size = end - start
        room = next((r for r in range(size, length + 1) if by_room[r]), None)
        if room is None:
            block, room = len(blocks), length
            blocks.append([])
        else:
            block = by_room[room].pop()
        blocks[block].append((start, end))
        by_room[room - size].append(block)
    return blocks


def write_blocks(
    path: Path, tokens: np.ndarray, ends: np.ndarray, blocks: list, length: int, filler: int
) -> np.ndarray:
    """Write blocks as an Arrow stream that `datasets.Dataset.from_file` memory-maps; return `by_length` of
    each."""
    value = pa.from_numpy_dtype(tokens.dtype)
    columns = {
        "input_ids": pa.list_(value, length),
        "seq_lengths": pa.list_(pa.uint32()),
        "documents": pa.list_(pa.uint32()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    used = np.zeros((len(blocks), 2 + len(BANDS)), np.int64)
    with pa.ipc.new_stream(path, pa.schema(columns)) as stream:
        for first in range(0, len(blocks), ROWS_PER_WRITE):
            part = blocks[first : first + ROWS_PER_WRITE]
            ids = np.full((len(part), length), filler, tokens.dtype)
            for number, (row, spans) in enumerate(zip(ids, part, strict=True), first):
                content = np.concatenate([tokens[start:stop] for start, stop in spans])
                row[: len(content)] = content
                used[number] = by_length(np.array([stop - start for start, stop in spans]))
            lengths = pa.array(
                [[stop - start for start, stop in spans] for spans in part], columns["seq_lengths"]
            )
            documents = [
                np.searchsorted(ends, [start for start, _ in spans], "right").tolist() for spans in part
            ]
            arrays = [
                pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), length),
                lengths,
                pa.array(documents, columns["documents"]),
            ]
            stream.write_batch(pa.record_batch(arrays, pa.schema(columns)))
    return used


FILLS = {"best_fit": fill_best_fit, "long_first": fill_best_fit, "concat": fill_concat}


def by_length(lengths: np.ndarray) -> np.ndarray:
    """int64 [2 + len(BANDS)] of a block with documents (or pieces) of these lengths: tokens, their squared
    lengths, and the tokens in pieces of each band of lengths."""
    lengths = lengths.astype(np.int64)
    band = np.searchsorted(BANDS, lengths, "right") - 1
    return np.array([lengths.sum(), (lengths**2).sum(), *np.bincount(band, lengths, len(BANDS))], np.int64)


def pack_shard(
    documents: str,
    files: list,
    tokenizer: str,
    tokenizer_sha256: str,
    mixture: dict,
    domain: str,
    source: str,
    stem: str,
    folder: str,
) -> dict:
    """One training file and one validation file of some document files: what a worker does. Returns the
    outputs as the manifest lists them, and `used`: for each split the file with the number of tokens in each
    block."""
    for path, claimed in files:
        check_sha256(Path(documents, path), claimed)
    tokenizer, folder, outputs, used = DocumentTokenizer(tokenizer), Path(folder), [], {}
    work = folder / WORK / "shards" / domain / stem
    work.parent.mkdir(parents=True, exist_ok=True)
    paths = [Path(documents, path) for path, _ in files]
    ends = tokenize(paths, tokenizer, mixture["validation_share"], work, mixture["fill"] == "long_first")
    for split in [split for split in ends if len(ends[split])]:
        path = folder / WORK / "blocks" / split / domain / f"{stem}.arrow"
        partial = path.with_name(f".{path.name}.partial")
        blocks = FILLS[mixture["fill"]](ends[split], mixture["block_length"])
        tokens = np.memmap(f"{work}.{split}.bin", tokenizer.dtype, "r")
        counts = write_blocks(partial, tokens, ends[split], blocks, mixture["block_length"], tokenizer.eos)
        used[split] = f"{work}.{split}.used.npy"
        np.save(used[split], counts)
        os.replace(f"{work}.{split}.ids.txt.gz", path.with_suffix(".ids.txt.gz"))
        os.replace(partial, path)
        facts = {
            "split": split,
            "domain": domain,
            "source": source,
            "documents": len(ends[split]),
            "records": len(blocks),
            "tokens": int(counts[:, 0].sum()),
        }
        outputs.append(
            describe(folder / WORK / "blocks", path, **facts)
            | {"ids_sha256": sha256(path.with_suffix(".ids.txt.gz"))}
        )
    for split in ends:
        os.unlink(f"{work}.{split}.bin")
    return {"outputs": outputs, "used": used}


# ---------------------------------------------------------------- mix
def splitmix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al., 2014): a fully specified shuffle key, where numpy's own
    stream may change between versions."""
    with np.errstate(over="ignore"):
        x = x.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def shuffled(count: int, key: str) -> np.ndarray:
    """A permutation of range(count) that depends on `key` alone."""
    salt = np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]))
    return np.argsort(splitmix64(np.arange(count, dtype=np.uint64) ^ salt), kind="stable")


def longest(tokens: np.ndarray, squares: np.ndarray, wanted: float) -> np.ndarray:
    """Rows of the blocks with the longest documents (in the mean over their tokens) that hold `wanted`
    tokens, in their order; all rows where there are fewer."""
    rows = np.argsort(-squares / tokens, kind="stable")
    return np.sort(rows[: int(np.searchsorted(np.cumsum(tokens[rows]), wanted)) + 1])


def mix(
    used: dict[str, np.ndarray],
    ratio: dict[str, float],
    total_tokens: int,
    seed: int,
    squares: dict[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The training order over rows numbered domain after domain (dict order), and for each domain the rows it
    gives to it, in their order.

    used: tokens of each row of each domain. ratio: weight of each domain in tokens. squares: squared lengths
    of the documents of each row, to take the rows with the longest. A domain smaller than its share is passed
    again, reshuffled. A block of domain d stands at (tokens of d before its middle) / (tokens
    of d in the run), so that every prefix is within about one block of the ratio.
    """
    weight, places, rows, first = sum(ratio.values()), [], {}, 0
    for domain, tokens in used.items():
        wanted = total_tokens * ratio[domain] / weight
        taken = longest(tokens, squares[domain], wanted) if squares else np.arange(len(tokens))
        passes = int(wanted // tokens[taken].sum()) + 1
        row = np.concatenate([taken[shuffled(len(taken), f"{seed} {domain} {p}")] for p in range(passes)])
        ends = np.cumsum(tokens[row], dtype=np.int64)
        count = max(
            1, int(np.searchsorted(ends - tokens[row] / 2, wanted))
        )  # the last block is in if its middle is
        rows[domain] = first + row[:count]
        places.append((ends - tokens[row] / 2)[:count] / wanted)
        first += len(tokens)
    order = np.concatenate(list(rows.values()))[np.argsort(np.concatenate(places), kind="stable")].astype(
        np.uint32
    )
    return order, rows


# ---------------------------------------------------------------- build
def shards(manifest: dict, domains: list[str]):
    """(domain, source, stem, files) of each unit: the document files of a source in their order, up to
    SHARD_CHARACTERS together."""
    files = {}
    for output in manifest["outputs"]:
        if output["domain"] in domains:
            files.setdefault((DOMAINS.index(output["domain"]), output["source"]), []).append(output)
    for (domain, source), outputs in sorted(files.items(), key=lambda item: item[0]):
        parts, size = [[]], 0
        for output in outputs:
            if parts[-1] and size + output.get("characters", 0) > SHARD_CHARACTERS:
                parts.append([])
                size = 0
            parts[-1].append([output["path"], output["sha256"]])
            size += output.get("characters", 0)
        for number, part in enumerate(parts):
            yield DOMAINS[domain], source, f"{source}_{number:05d}", part


def build(documents: Path, tokenizer_path: str, mixture: dict, out: Path, executor: str = "local") -> dict:
    """Write the packed blocks and the training order below `out` and return the manifest. BadInput for
    documents, a tokenizer or a mixture that cannot be used together."""
    made_by = f"python -m data_prep.build_documents --source NAME=PATH --out {documents}"
    made_from = read_manifest(documents, made_by=made_by)
    tokenizer = DocumentTokenizer(tokenizer_path)
    documents_sha256 = egress.manifest_sha256(documents / "manifest.json")
    domains = wanted_domains(documents, made_from, mixture)
    identity = executors.fingerprint(
        ["data_prep.build_blocks"],
        documents_sha256,
        str(documents),
        tokenizer.sha256,
        str(tokenizer_path),
        mixture,
    )
    with resumable_folder(out, identity, intact=intact) as folder:
        if folder is None:
            return already_complete(out)

        # Tokenize and pack, one training file at a time
        units = [
            {
                "name": f"{domain}/{stem}",
                "documents": str(documents.absolute()),
                "files": files,
                "tokenizer": str(tokenizer_path),
                "tokenizer_sha256": tokenizer.sha256,
                "mixture": {key: mixture[key] for key in ("block_length", "fill", "validation_share")},
                "domain": domain,
                "source": source,
                "stem": stem,
                "folder": str(folder.absolute()),
            }
            for domain, source, stem, files in shards(made_from, domains)
        ]
        facts = executors.run("data_prep.build_blocks:pack_shard", units, folder / WORK, executor)
        outputs = [output for fact in facts for output in fact["outputs"]]
        paths = [path for output in outputs for path in (output["path"], ids_path(output["path"]))]
        for path in paths:
            link(folder / WORK / "blocks" / path, folder / path)
        report(outputs)

        # Mix
        used = used_tokens(documents, units, facts, domains)
        order, totals = lay_out(used, mixture, outputs)
        np.save(folder / "order.npy", order)

        keep_only(folder, ["order.npy", *paths])
        sources = {output["source"] for output in outputs}
        licenses = made_from.get("document_licenses", {})
        manifest = write_manifest(
            folder,
            stage="build_blocks",
            arguments={"documents": str(documents), "tokenizer": str(tokenizer_path), "mixture": mixture},
            inputs=[entry for entry in made_from["inputs"] if entry["source"] in sources],
            dropped=made_from["dropped"],
            outputs=outputs,
            order={
                "path": "order.npy",
                "sha256": sha256(folder / "order.npy"),
                "blocks": len(order),
                "tokens": sum(total["tokens_in_run"] for total in totals.values()),
            },
            domains=totals,
            block_length=mixture["block_length"],
            dtype=tokenizer.dtype.name,
            documents_sha256=documents_sha256,
            document_licenses={source: counts for source, counts in licenses.items() if source in sources},
            tokenizer={
                "sha256": tokenizer.sha256,
                "vocabulary": len(tokenizer.hf),
                "bos": tokenizer.hf.bos_token_id,
                "eos": tokenizer.eos,
                "word_cache": tokenizer.words is not None,
            },
        )
        write_card(folder, manifest)
        return manifest


def wanted_domains(documents: Path, manifest: dict, mixture: dict) -> list[str]:
    """The domains of the mixture; BadInput if there are no documents of one."""
    present = {output["domain"] for output in manifest["outputs"]}
    domains = [d for d in DOMAINS if d in (present if mixture["ratio"] == "as_found" else mixture["ratio"])]
    for domain in domains:
        if domain not in present:
            next_step = "Next: build_documents with more sources, or another --mixture"
            raise BadInput(f"{documents}: holds no {domain} text, which the mixture wants. {next_step}")
    return domains


def ids_path(path: str) -> str:
    """The list of document ids beside a file of blocks."""
    return path.replace(".arrow", ".ids.txt.gz")


def report(outputs: list[dict]) -> None:
    """Print documents, tokens and blocks of each source and split."""
    totals = {}
    for output in outputs:
        counts = totals.setdefault((output["domain"], output["source"], output["split"]), [0, 0, 0])
        for i, key in enumerate(("documents", "tokens", "records")):
            counts[i] += output[key]
    for (_, source, split), (documents, tokens, blocks) in totals.items():
        print(f"{source}: {split} {documents:,} documents, {tokens:,} tokens, {blocks:,} blocks", flush=True)


def used_tokens(
    documents: Path, units: list[dict], facts: list[dict], domains: list[str]
) -> dict[str, np.ndarray]:
    """For each domain, `by_length` of each of its training blocks; BadInput if validation took all of one."""
    used = {domain: [] for domain in domains}
    for unit, fact in zip(units, facts, strict=True):
        if "train" in fact["used"]:
            used[unit["domain"]].append(np.load(fact["used"]["train"]))
    for domain in domains:
        if not used[domain]:
            next_step = "Next: a smaller validation_share, or more documents"
            raise BadInput(f"{documents}: every {domain} document was held out. {next_step}")
    return {domain: np.concatenate(parts).astype(np.int64) for domain, parts in used.items()}


def target(found: dict[str, int], mixture: dict) -> tuple[dict[str, float], int]:
    """(ratio, tokens of the run) of a mixture, given the tokens that there are of each domain."""
    ratio = found if mixture["ratio"] == "as_found" else mixture["ratio"]
    return ratio, sum(found.values()) if mixture["tokens"] == "one_pass" else mixture["tokens"]


def columns(used: dict[str, np.ndarray], mixture: dict, found: dict[str, int]) -> tuple:
    """Arguments of `mix`: from `by_length` of each block, the mixture and the tokens of each domain."""
    tokens, squares = ({domain: blocks[:, i] for domain, blocks in used.items()} for i in (0, 1))
    return (
        tokens,
        *target(found, mixture),
        mixture["seed"],
        squares if mixture["fill"] == "long_first" else None,
    )


def lay_out(used: dict[str, np.ndarray], mixture: dict, outputs: list[dict]) -> tuple[np.ndarray, dict]:
    """(training order, totals by domain for the manifest); prints a line for each domain."""
    found = {domain: int(blocks[:, 0].sum()) for domain, blocks in used.items()}
    order, rows = mix(*columns(used, mixture, found))
    blocks = np.concatenate(list(used.values()))
    tokens = blocks[:, 0]
    in_run = {domain: int(tokens[row].sum()) for domain, row in rows.items()}
    totals = {}
    for domain in used:
        epochs, share = len(rows[domain]) / len(used[domain]), in_run[domain] / sum(in_run.values())
        held = [o["tokens"] for o in outputs if (o["domain"], o["split"]) == (domain, "validation")]
        totals[domain] = {
            "rows": len(used[domain]),
            "tokens": found[domain],
            "validation_tokens": sum(held),
            "blocks_in_run": len(rows[domain]),
            "tokens_in_run": in_run[domain],
            "passes": round(epochs, 3),
            "share": round(share, 5),
            "tokens_by_length": dict(
                zip(map(str, BANDS), blocks[rows[domain], 2:].sum(0).tolist(), strict=True)
            ),
        }
        again = ": repeated more than four times, more documents would teach more" if epochs > 4 else ""
        share = f"{100 * share:.2f} % of the run"
        print(f"{domain}: {found[domain]:,} tokens, {epochs:.2f} passes, {share}{again}", flush=True)
    return order, totals


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True, help="folder or Hub name of the model to be trained")
    parser.add_argument("--mixture", type=Path, required=True, help="YAML, see data_prep/mixtures")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--executor", default="local", help="local:N, slurm:YAML or ray:N (data_prep/corpus/executors.py)"
    )
    args = parser.parse_args(argv)
    with one_sentence():
        mixture = read_mixture(args.mixture)
        manifest = build(args.documents, args.tokenizer, mixture, args.out, args.executor)
    blocks, tokens = manifest["order"]["blocks"], manifest["order"]["tokens"]
    size, access = f"{blocks:,} blocks of {mixture['block_length']}", manifest["access"]
    print(f"wrote {args.out}: {size}, {tokens:,} tokens, access {access}")


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
