"""Tokenise documents, pack them into fixed-length blocks, and lay down the training order of the mixture.

    python -m data_prep.build_blocks --documents data/demo/documents --tokenizer data/demo/backbone_config \\
        --mixture data_prep/mixtures/demo.yaml --out data/demo/blocks

Reads   DOCUMENTS/manifest.json and the files it names, the tokenizer of the model to be trained, and the mixture:
            block_length  tokens per block
            tokens        length of the training run, in tokens of this tokenizer, or `one_pass`: as many as there are
            ratio         weight of each domain, in tokens (article: biomedical 15, clinical 1, general 4), or `as_found`
            fill          best_fit: whole documents where they fit, the rest split over blocks; concat: one endless text, cut every block_length
            validation_share   share of the documents (by a hash of their id) that is held out, per domain
            seed
Writes  OUT/train/<domain>/<source>.arrow and OUT/validation/<domain>/<source>.arrow: memory-mapped `datasets` files, one row per block:
            input_ids     [block_length] uint16, or uint32 where the vocabulary needs it; unused places at the end hold the EOS id
            seq_lengths   tokens of each document (or piece of one) in the block, in order; their sum is the used length
        OUT/order.npy: uint32 [blocks of the run], the row (of all training files, one after the other as in the manifest) that is trained at each place.
        OUT/manifest.json: tokens and passes per source, the realised ratio, hashes, drops, access and licences.

The order is a function of (files, ratio, tokens, seed) alone. Domains are interleaved by systematic sampling, so every prefix of the run holds each
domain's share to within one block; inside a domain the blocks are shuffled, anew for each pass. Resuming needs one integer: the place in `order.npy`.
"""

import argparse
import hashlib
import itertools
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from transformers import AutoTokenizer

from data_prep.contracts import DOMAINS, BadInput
from data_prep.files import read_jsonl, sha256, whole_folder
from data_prep.manifest import describe, read_manifest, write_manifest


def _whole(least):
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _weights(value):
    return isinstance(value, dict) and value and all(d in DOMAINS and isinstance(w, int | float) and w > 0 for d, w in value.items())


MIXTURE_KEYS = {  # what each key must be, in words and as a check
    "block_length": ("a whole number of at least 2", _whole(2)),
    "tokens": ("a whole number, or one_pass", lambda value: value == "one_pass" or _whole(1)(value)),
    "ratio": (f"as_found, or weights above 0 for some of {', '.join(DOMAINS)}", lambda value: value == "as_found" or _weights(value)),
    "fill": ("best_fit or concat", lambda value: value in ("best_fit", "concat")),
    "validation_share": ("a share from 0 to below 1", lambda value: isinstance(value, int | float) and 0 <= value < 1),
    "seed": ("a whole number", _whole(0)),
}
BATCH_CHARACTERS = 4_000_000  # tokenised at once: bounds the memory by text, not by number of documents
ROWS_PER_WRITE = 512


# ---------------------------------------------------------------- the mixture
def read_mixture(path: Path) -> dict:
    """The mixture of a YAML file; BadInput names the key that is missing, unknown or out of range."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Next: copy data_prep/mixtures/demo.yaml")
    try:
        mixture = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(mixture, dict):
        raise BadInput(f"{path}: must be keys and values, found {type(mixture).__name__}")
    for key in [*MIXTURE_KEYS, *mixture]:
        if key not in MIXTURE_KEYS:
            raise BadInput(f"{path}: unknown key '{key}' (known: {', '.join(MIXTURE_KEYS)})")
        wanted, right = MIXTURE_KEYS[key]
        if key not in mixture or not right(mixture[key]):
            raise BadInput(f"{path}: key '{key}' must be {wanted}, found {mixture.get(key)!r}")
    return mixture


def held_out(source: str, document_id: str, share: float) -> bool:
    """Whether a document belongs to validation: by a hash of its id, so that it does so in every mixture."""
    digest = hashlib.sha256(f"{source}\0{document_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


# ---------------------------------------------------------------- tokenise
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


def tokenise(files: list[Path], tokenizer, share: float, work: Path, dtype) -> dict[str, np.ndarray]:
    """Append BOS + tokens + EOS of each document to work/{train,validation}.bin; return the end of each document per split, in tokens."""
    engine = tokenizer.backend_tokenizer
    engine.no_truncation()  # a tokenizer.json may carry truncation from its last use, and would obey it without a word
    engine.no_padding()
    engine.encode_special_tokens = True  # "<s>" in a web page is three characters, not the beginning of a document
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ends, written = {"train": [], "validation": []}, {"train": 0, "validation": 0}
    with (work / "train.bin").open("wb") as train, (work / "validation.bin").open("wb") as validation:
        out = {"train": train, "validation": validation}
        for batch in batches((document for file in files for _, document in read_jsonl(file)), BATCH_CHARACTERS):
            for document, encoding in zip(
                batch, engine.encode_batch_fast([d["text"] for d in batch], add_special_tokens=False), strict=True
            ):
                split = "validation" if held_out(document["source"], document["id"], share) else "train"
                ids = np.array([*bos, *encoding.ids, tokenizer.eos_token_id], dtype)
                ids.tofile(out[split])
                written[split] += len(ids)
                ends[split].append(written[split])
    return {split: np.array(values, np.int64) for split, values in ends.items()}


# ---------------------------------------------------------------- pack
def fill_concat(ends: np.ndarray, length: int) -> list[list[tuple[int, int]]]:
    """Blocks as lists of (start, stop) token spans: the documents one after the other, cut every `length` tokens; the last block may be short."""
    total = int(ends[-1]) if len(ends) else 0
    blocks = []
    for start in range(0, total, length):
        stop = min(start + length, total)
        cuts = ends[np.searchsorted(ends, start, "right") : np.searchsorted(ends, stop, "left")].tolist()
        blocks.append(list(itertools.pairwise([start, *cuts, stop])))
    return blocks


def fill_best_fit(ends: np.ndarray, length: int) -> list[list[tuple[int, int]]]:
    """Blocks as lists of (start, stop) token spans. A document longer than a block fills whole blocks first; what is left of it, and every shorter
    document, goes longest first into the fullest open block that has room (best-fit decreasing). No token is lost."""
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


def write_blocks(path: Path, tokens: np.ndarray, blocks: list, length: int, filler: int) -> int:
    """Write blocks as an Arrow stream that `datasets.Dataset.from_file` memory-maps; return the number of tokens in them."""
    value = pa.from_numpy_dtype(tokens.dtype)
    schema = pa.schema({"input_ids": pa.list_(value, length), "seq_lengths": pa.list_(pa.uint32())})
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with pa.ipc.new_stream(path, schema) as stream:
        for first in range(0, len(blocks), ROWS_PER_WRITE):
            part = blocks[first : first + ROWS_PER_WRITE]
            ids = np.full((len(part), length), filler, tokens.dtype)
            for row, spans in zip(ids, part, strict=True):
                used = np.concatenate([tokens[start:stop] for start, stop in spans])
                row[: len(used)] = used
                count += len(used)
            lengths = pa.array([[stop - start for start, stop in spans] for spans in part], pa.list_(pa.uint32()))
            stream.write_batch(pa.record_batch([pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), length), lengths], schema))
    return count


# ---------------------------------------------------------------- mix
def splitmix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al., 2014): a fully specified shuffle key, where numpy's own stream may change between versions."""
    with np.errstate(over="ignore"):
        x = x.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def shuffled(count: int, key: str) -> np.ndarray:
    """A permutation of range(count) that depends on `key` alone."""
    salt = np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]))
    return np.argsort(splitmix64(np.arange(count, dtype=np.uint64) ^ salt), kind="stable")


def mix(
    rows: dict[str, int], tokens: dict[str, int], ratio: dict[str, float], total_tokens: int, seed: int
) -> tuple[np.ndarray, dict[str, int]]:
    """The training order over rows numbered domain after domain (dict order), and how many blocks each domain gives to it.

    rows, tokens: blocks and tokens of each domain. ratio: weight of each domain in tokens. A domain smaller than its share is passed again,
    reshuffled; the k-th block of domain d stands at (k + 1/2) / share(d), so that every prefix is within one block of the ratio.
    """
    weight = sum(ratio.values())
    wanted = {
        d: max(1, round(total_tokens * ratio[d] / weight / (tokens[d] / rows[d]))) for d in rows
    }  # blocks, by the mean fill of the domain's
    places, order, first = [], [], 0
    for domain, count in wanted.items():
        passes = [shuffled(rows[domain], f"{seed} {domain} {p}") for p in range(-(-count // rows[domain]))]
        order.append(first + np.concatenate(passes)[:count])
        places.append((np.arange(count) + 0.5) / count)
        first += rows[domain]
    return np.concatenate(order)[np.argsort(np.concatenate(places), kind="stable")].astype(np.uint32), wanted


def build(documents: Path, tokenizer_path: str, mixture: dict, out: Path) -> dict:
    manifest = read_manifest(documents, made_by=f"python -m data_prep.build_documents --source NAME=PATH --out {documents}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{tokenizer_path}: no tokenizer here ({str(error).splitlines()[0]}). Next: --tokenizer with a model's folder"
        ) from error
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{tokenizer_path}: the tokenizer has no EOS token, so no model could learn where a document ends")
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    length = mixture["block_length"]
    fill = {"best_fit": fill_best_fit, "concat": fill_concat}[mixture["fill"]]

    sources = {}  # domain -> source -> files
    for output in manifest["outputs"]:
        sources.setdefault(output["domain"], {}).setdefault(output["source"], []).append(documents / output["path"])
    domains = [d for d in DOMAINS if d in (sources if mixture["ratio"] == "as_found" else mixture["ratio"])]
    for domain in domains:
        if domain not in sources:
            raise BadInput(
                f"{documents}: the mixture wants {domain} text, and no document is. Next: build_documents with more, or another --mixture"
            )

    # Tokenise and pack, source by source
    outputs, totals = [], {d: {"rows": 0, "tokens": 0, "validation_tokens": 0} for d in domains}
    work = out / "work"
    work.mkdir()
    for domain, source, files in [(d, s, sources[d][s]) for d in domains for s in sorted(sources[d])]:
        ends = tokenise(files, tokenizer, mixture["validation_share"], work, dtype)
        for split in [split for split in ends if len(ends[split])]:
            path = out / split / domain / f"{source}.arrow"
            blocks = fill(ends[split], length)
            count = write_blocks(path, np.memmap(work / f"{split}.bin", dtype, "r"), blocks, length, tokenizer.eos_token_id)
            facts = {
                "split": split,
                "domain": domain,
                "source": source,
                "documents": len(ends[split]),
                "records": len(blocks),
                "tokens": count,
            }
            outputs.append(describe(out, path, **facts))
            totals[domain]["rows"] += len(blocks) if split == "train" else 0
            totals[domain]["tokens" if split == "train" else "validation_tokens"] += count
            print(f"{source}: {split} {len(ends[split]):,} documents, {count:,} tokens, {len(blocks):,} blocks", flush=True)
    shutil.rmtree(work)

    # Mix
    for domain in domains:
        if not totals[domain]["rows"]:
            raise BadInput(f"{documents}: every {domain} document was held out. Next: a smaller validation_share, or more documents")
    rows, tokens = {d: totals[d]["rows"] for d in domains}, {d: totals[d]["tokens"] for d in domains}
    ratio = tokens if mixture["ratio"] == "as_found" else mixture["ratio"]
    order, taken = mix(rows, tokens, ratio, sum(tokens.values()) if mixture["tokens"] == "one_pass" else mixture["tokens"], mixture["seed"])
    np.save(out / "order.npy", order)
    run_tokens = {d: taken[d] * tokens[d] / rows[d] for d in domains}
    for domain in domains:
        passes, share = taken[domain] / rows[domain], run_tokens[domain] / sum(run_tokens.values())
        totals[domain] |= {"blocks_in_run": taken[domain], "passes": round(passes, 3), "share": round(share, 5)}
        again = ": repeated more than four times, more documents would teach more" if passes > 4 else ""
        print(f"{domain}: {tokens[domain]:,} tokens, {passes:.2f} passes, {100 * share:.2f} % of the run{again}", flush=True)

    return write_manifest(
        out, stage="build_blocks", arguments={"documents": str(documents), "tokenizer": str(tokenizer_path), "mixture": mixture},
        inputs=[entry for entry in manifest["inputs"] if any(entry["source"] in sources[d] for d in domains)], dropped={}, outputs=outputs,
        order={"path": "order.npy", "sha256": sha256(out / "order.npy"), "blocks": len(order), "tokens": round(sum(run_tokens.values()))},
        domains=totals, block_length=length, dtype=np.dtype(dtype).name, documents_sha256=sha256(documents / "manifest.json"),
        tokenizer={"sha256": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(), "vocabulary": len(tokenizer),
                   "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id},
    )  # fmt: skip


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True, help="folder or Hub name of the model to be trained")
    parser.add_argument("--mixture", type=Path, required=True, help="YAML, see data_prep/mixtures")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        mixture = read_mixture(args.mixture)
        with whole_folder(args.out) as out:
            manifest = build(args.documents, args.tokenizer, mixture, out)
    except BadInput as error:
        sys.exit(f"error: {error}")
    print(
        f"wrote {args.out}: {manifest['order']['blocks']:,} blocks of {mixture['block_length']}, about {manifest['order']['tokens']:,} tokens, access {manifest['access']}"
    )


if __name__ == "__main__":
    main()
