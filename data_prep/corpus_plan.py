"""Before anything runs: what a corpus will give. Tokens and passes for each source, bytes on disk, core-hours, and a warning where text repeats too often.

    python -m data_prep.corpus_plan --source pubmed=data/raw/pubmed --source pmc=data/raw/pmc --tokenizer meta-llama/Llama-2-13b-hf \\
        --mixture data_prep/mixtures/paper.yaml

The first megabytes of a few files of each source are read, cleaned of nothing, and tokenised; the rest is arithmetic on the sizes of the files. What a whole
corpus loses to duplicates, decontamination and quality filters is not in it. Without --source, the targets of the mixture alone.
"""

import argparse
import contextlib
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from data_prep.build_blocks import read_mixture
from data_prep.contracts import DOMAINS, BadInput
from data_prep.manifest import Drops
from data_prep.sources import SOURCES, card
from data_prep.tokenise import DocumentTokenizer

SAMPLE_BYTES = 4_000_000  # of the raw (compressed) file
SAMPLE_FILES = 4  # of the files of a source, spread over their list
MOST_PASSES = 4  # repeating more than this teaches little (Muennighoff et al. 2023, https://arxiv.org/abs/2305.16264)


def sample(name: str, path: str, tokenizer: DocumentTokenizer) -> dict:
    """Documents, tokens, bytes and CPU seconds of one source, by what its first megabytes give a raw byte."""
    module, drops = SOURCES[name], Drops()
    files = module.files(path)
    sizes = np.array([file.stat().st_size for file in files])
    loose = module.FILES_PER_OUTPUT > 1  # one document a file: more of them make a sample
    chosen = sorted({int(i) for i in np.linspace(0, len(files) - 1, SAMPLE_FILES * (50 if loose else 1))})
    raw = documents = tokens = packed = 0
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for i in chosen:
            whole = sizes[i] <= SAMPLE_BYTES or files[i].suffix in (".parquet", ".yaml", ".yml", ".zip")
            file = files[i] if whole else _head(files[i], Path(folder))
            texts = []
            with (
                contextlib.suppress(BadInput) if not whole else contextlib.nullcontext()
            ):  # a cut file ends in an error, after its documents
                for document in module.read(file, drops):
                    texts.append(document["text"])
            raw += int(sizes[i]) if whole else SAMPLE_BYTES
            documents += len(texts)
            tokens += sum(map(len, tokenizer.encode(texts)))
            packed += len(zlib.compress("\n".join(texts).encode(errors="replace"), 3))
    if not tokens:
        raise BadInput(
            f"{path}: no text in the first {SAMPLE_BYTES / 1e6:.0f} MB of its files (dropped: {drops.summary(name)}). Next: check --source {name}"
        )
    scale = float(sizes.sum()) / raw
    return {
        "source": name, "domain": card(name, files[0])["domain"], "access": card(name, files[0])["access"], "files": len(files),
        "raw_bytes": int(sizes.sum()), "documents": round(documents * scale), "tokens": round(tokens * scale),
        "document_bytes": round(packed * scale), "cpu_seconds": (time.process_time() - started) * scale, "sampled": min(1.0, 1 / scale),
    }  # fmt: skip


def _head(file: Path, folder: Path) -> Path:
    head = folder / file.name
    with file.open("rb") as stream:
        head.write_bytes(stream.read(SAMPLE_BYTES))
    return head


def report(mixture: dict, sources: list[dict], bytes_per_token: int) -> str:
    """The plan as text: per source and per domain; everything in it but the raw bytes is planned, not measured."""
    found = {domain: sum(s["tokens"] for s in sources if s["domain"] == domain) for domain in DOMAINS}
    ratio = mixture["ratio"]
    ratio = {domain: tokens for domain, tokens in found.items() if tokens} if ratio == "as_found" else ratio
    target = sum(found.values()) if mixture["tokens"] == "one_pass" else mixture["tokens"]
    wanted = {domain: target * weight / sum(ratio.values()) for domain, weight in ratio.items()} if ratio else {}
    length = mixture["block_length"]
    lines = [f"{'domain':<12}{'target tokens':>20}{'found':>20}{'passes':>10}"]
    warnings = []
    for domain, tokens in wanted.items():
        passes = tokens / found[domain] if found.get(domain) else None
        lines.append(
            f"{domain:<12}{tokens:>20,.0f}{found[domain] or '-':>20,}{passes:>10.2f}"
            if passes
            else f"{domain:<12}{tokens:>20,.0f}{'-':>20}{'-':>10}"
        )
        if sources and passes is None:
            warnings.append(f"no {domain} source: the mixture cannot be built. Next: one more --source, or another --mixture")
        elif passes and passes > MOST_PASSES:
            warnings.append(
                f"{domain} text would be repeated {passes:.1f} times (more than {MOST_PASSES} teaches little). Next: more of it, a smaller weight, or fewer tokens"
            )
    lines.append(f"{'run':<12}{sum(wanted.values()):>20,.0f} tokens = {sum(wanted.values()) / length:,.0f} blocks of {length:,}")
    if sources:
        lines.append(f"\n{'source':<16}{'files':>9}{'raw':>10}{'documents':>14}{'tokens':>18}{'passes':>8}{'sampled':>9}  access")
        for s in sources:
            passes = f"{wanted[s['domain']] / found[s['domain']]:.2f}" if s["domain"] in wanted else "unused"
            lines.append(
                f"{s['source']:<16}{s['files']:>9,}{size(s['raw_bytes']):>10}{s['documents']:>14,}{s['tokens']:>18,}{passes:>8}"
                f"{100 * s['sampled']:>8.1f}%  {s['access']}"
            )
        blocks = bytes_per_token * sum(s["tokens"] for s in sources if s["domain"] in wanted)
        documents, cpu = sum(s["document_bytes"] for s in sources), sum(s["cpu_seconds"] for s in sources)
        lines.append(
            f"\ndisk: documents {size(documents)} (twice with cleaning), blocks {size(blocks)}, order {size(4 * sum(wanted.values()) / length)}"
            f"\ncompute: {f'{cpu / 3600:,.1f} core-hours' if cpu > 360 else f'{cpu:.0f} core-seconds'} on this machine to read and tokenise"
        )
    else:
        lines.append(
            f"disk: blocks {size(bytes_per_token * sum(wanted.values()))} if nothing repeats. Give --source NAME=PATH for passes and core-hours"
        )
    return "\n".join([*lines, *(f"warning: {warning}" for warning in warnings)])


def size(count: float) -> str:
    """Bytes for a reader: 3.4 MB."""
    power = min(4, max(1, int(np.log10(max(count, 1)) // 3)))
    return f"{count / 1000**power:,.1f} {'BkMGT'[power]}B"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", action="append", default=[], metavar="NAME=PATH", help=f"repeatable; names: {', '.join(SOURCES)}")
    parser.add_argument("--tokenizer", help="folder or Hub name of the model to be trained; needed with --source")
    parser.add_argument("--mixture", type=Path, required=True, help="YAML, see data_prep/mixtures")
    args = parser.parse_args(argv)
    try:
        mixture, sources = read_mixture(args.mixture), []
        if args.source and not args.tokenizer:
            raise BadInput("--source needs --tokenizer: tokens are counted with it")
        tokenizer = DocumentTokenizer(args.tokenizer) if args.tokenizer else None
        for given in args.source:
            name, equals, path = given.partition("=")
            if not equals or not path or name not in SOURCES:
                raise BadInput(f"--source {given}: expected NAME=PATH (names: {', '.join(SOURCES)})")
            sources.append(sample(name, path, tokenizer))
    except BadInput as error:
        sys.exit(f"error: {error}")
    print(report(mixture, sources, tokenizer.dtype.itemsize if tokenizer else 2))


if __name__ == "__main__":
    main()
