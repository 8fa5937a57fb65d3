"""Before anything runs: what a corpus will give. Tokens and passes for each source, bytes on disk,
core-hours, and a warning where text repeats too often.

    python -m data_prep.corpus.estimate --source pubmed=data/raw/pubmed --source pmc=data/raw/pmc \\
        --tokenizer meta-llama/Llama-2-13b-hf --mixture data_prep/mixtures/paper.yaml

The first megabytes of a few files of each source are read, not cleaned, and tokenized; the rest is arithmetic
on file sizes. Replaced records, repeated ids and what is held out for validation are left out, as
make corpus leaves them out. What a whole corpus loses to near duplicates, decontamination and quality filters
is not in it. Nor is what a dataset of the Hub holds beyond the texts that were read: nothing here says how
much that is.
Without --source, the targets of the mixture alone.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet

from data_prep import build_blocks, egress
from data_prep.build_blocks import read_mixture, target
from data_prep.corpus.tokenize import DocumentTokenizer
from data_prep.files import one_sentence
from data_prep.manifest import Drops
from data_prep.schema import DOMAINS, BadInput, mark_credentialed, strictest
from data_prep.sources import SOURCES, card, sidecar

SAMPLE_BYTES = 4_000_000  # of the raw (compressed) file
SAMPLE_CHARACTERS = 16_000_000  # of the texts of what cannot be cut: Parquet, a .zip, a dataset of the Hub
SCAN_BYTES = 1_000_000_000  # of raw files that are searched for records which a later file replaces
SAMPLE_FILES = 4  # of the files of a source, spread over their list
MOST_PASSES = (
    4  # repeating more than this teaches little (Muennighoff et al. 2023, https://arxiv.org/abs/2305.16264)
)


def sample(name: str, path: str | list[str], tokenizer: DocumentTokenizer, held_out: float = 0) -> dict:
    """Documents, tokens, bytes and CPU seconds of one source, by what its first megabytes give a raw byte.
    "open": there is more of it, how much is unknown. `held_out`: the share of validation; "validation": its
    tokens, by the rule of build_blocks."""
    module, drops = SOURCES[name], Drops()
    files = list(dict.fromkeys(file for one in np.atleast_1d(path) for file in module.files(one)))
    cards = [mark_credentialed(card(name, file)) for file in {file.parent: file for file in files}.values()]
    if len(domains := sorted({card["domain"] for card in cards})) > 1:
        raise BadInput(f"{path}: holds {' and '.join(domains)} text. Next: one --source {name}=PATH for each")
    sizes = np.array([file.stat().st_size for file in files])
    loose = module.FILES_PER_OUTPUT > 1  # one document a file: more of them make a sample
    hub = name == "hub"  # whose files say where the texts are, and nothing of how many
    chosen = sorted(
        {
            int(i)
            for i in np.linspace(
                0, len(files) - 1, len(files) if hub else SAMPLE_FILES * (50 if loose else 1)
            )
        }
    )
    raw = documents = tokens = validation = packed = 0
    ids = set()
    more, started = False, time.process_time()
    known, scanned = replacements(module, files, sizes)
    scan_seconds, started = time.process_time() - started, time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for i in chosen:
            if not sizes[i]:
                continue
            listed = files[i].suffix in (".parquet", ".zip")
            cut = sizes[i] > SAMPLE_BYTES and not listed
            texts, of_validation, left, before = [], [], SAMPLE_CHARACTERS, drops.count(name)
            # a cut file ends in an error, after its documents
            with contextlib.suppress(BadInput) if cut else contextlib.nullcontext():
                file = _head(module, files[i], Path(folder)) if cut else files[i]
                for document in module.read(file, drops, *([] if known[i] is None else [known[i]])):
                    if document["id"] in ids:
                        drops.add(name, "duplicate id", str(files[i]))
                        continue
                    ids.add(document["id"])
                    texts.append(document["text"])
                    group = build_blocks.person(document)
                    of_validation.append(build_blocks.held_out(document["source"], group, held_out))
                    left -= len(document["text"])
                    if left < 0 and (listed or hub):
                        break
            more |= left < 0 and hub
            read = (
                (len(texts) + drops.count(name) - before) / _records(files[i]) if left < 0 and listed else 1
            )
            raw += SAMPLE_BYTES if cut else read * int(sizes[i])
            documents += len(texts)
            lengths = np.fromiter(map(len, tokenizer.encode(texts)), dtype=np.int64)
            tokens += int(lengths.sum())
            validation += int(lengths[np.array(of_validation, dtype=bool)].sum())
            packed += len(zlib.compress("\n".join(texts).encode(errors="replace"), 3))
    if not tokens:
        raise BadInput(
            f"{path}: no text in the first {SAMPLE_BYTES / 1e6:.0f} MB of its files (dropped: "
            f"{drops.summary(name)}). Next: check --source {name}"
        )
    scale = float(sizes.sum()) / raw
    return {
        "source": name,
        "domain": domains[0],
        "access": strictest(card["access"] for card in cards),
        "files": len(files),
        "open": more,
        "scanned": scanned,
        "raw_bytes": int(sizes.sum()),
        "documents": round(documents * scale),
        "tokens": round(tokens * scale),
        "validation": round(validation * scale),
        "document_bytes": round(packed * scale),
        "cpu_seconds": scan_seconds + (time.process_time() - started) * scale,
        "sampled": min(1.0, 1 / scale),
    }


def replacements(module, files: list[Path], sizes: np.ndarray) -> tuple[list, bool]:
    """(what `read` must know of the other files, for each file; whether they were read for it). Without it a
    record that a later file replaces is counted twice."""
    if not hasattr(module, "first_pass"):
        return [None] * len(files), True
    if not hasattr(module, "scan"):
        return module.first_pass(files, None), True
    if sizes.sum() > SCAN_BYTES:
        return [None] * len(files), False
    return module.first_pass(files, [module.scan(file) for file in files]), True


def _head(module, file: Path, folder: Path) -> Path:
    """The first bytes of a file, with the source.yaml that is for it beside them."""
    if hasattr(module, "card"):
        shutil.copyfile(sidecar.above(file), folder / sidecar.NAME)
    head = folder / file.name
    with file.open("rb") as stream:
        head.write_bytes(stream.read(SAMPLE_BYTES))
    return head


def _records(file: Path) -> int:
    """Rows of a Parquet file, reports of an archive."""
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_metadata(file).num_rows
    with zipfile.ZipFile(file) as archive:
        return sum(name.endswith(".txt") for name in archive.namelist())


def report(mixture: dict, sources: list[dict], bytes_per_token: int) -> str:
    """The plan as text: per source and per domain; everything in it but the raw bytes is planned, not
    measured."""
    found = {domain: sum(s["tokens"] for s in sources if s["domain"] == domain) for domain in DOMAINS}
    held_out = {domain: sum(s["validation"] for s in sources if s["domain"] == domain) for domain in DOMAINS}
    train = {domain: tokens - held_out[domain] for domain, tokens in found.items() if tokens}
    ratio, total = target(train, mixture)
    wanted = {domain: total * weight / sum(ratio.values()) for domain, weight in ratio.items()}
    length = mixture["block_length"]
    more = {s["domain"] for s in sources if s["open"]}
    lines = [f"{'domain':<12}{'target tokens':>20}{'found':>20}{'passes':>10}"]
    warnings = [
        f"{s['source']}: read to {SAMPLE_CHARACTERS:,} characters, and nothing says how much more there "
        "is: >, <, disk and compute are of what was read"
        for s in sources
        if s["open"]
    ]
    warnings += [
        f"{s['source']}: more than {size(SCAN_BYTES)}, "
        "so records that a later file replaces are counted twice"
        for s in sources
        if not s["scanned"]
    ]
    for domain, tokens in wanted.items():
        passes = tokens / train[domain] if train.get(domain) else None
        at_least, at_most = ("> ", "< ") if domain in more else ("", "")
        there, times = (f"{at_least}{found[domain]:,}", f"{at_most}{passes:.2f}") if passes else ("-", "-")
        lines.append(f"{domain:<12}{tokens:>20,.0f}{there:>20}{times:>10}")
        if sources and passes is None:
            warnings.append(
                f"no {domain} source: the mixture cannot be built. Next: one more --source, or another "
                "--mixture"
            )
        elif passes and passes > MOST_PASSES and domain not in more:
            warnings.append(
                f"{domain} text would be repeated {passes:.1f} times (more than {MOST_PASSES} teaches "
                "little). Next: more of it, a smaller weight, or fewer tokens"
            )
    lines.append(
        f"{'run':<12}{sum(wanted.values()):>20,.0f} tokens = {sum(wanted.values()) / length:,.0f} blocks "
        f"of {length:,}" + f"; {sum(held_out.values()):,} more are held out" * any(held_out.values())
    )
    if sources:
        lines.append(
            f"\n{'source':<16}{'files':>9}{'raw':>10}{'documents':>14}{'tokens':>18}"
            f"{'passes':>8}{'sampled':>9}  access"
        )
        for s in sources:
            at_least, at_most = "> " * s["open"], "< " * (s["domain"] in more)
            documents, tokens = (f"{at_least}{s[key]:,}" for key in ("documents", "tokens"))
            passes = (
                f"{at_most}{wanted[s['domain']] / train[s['domain']]:.2f}"
                if s["domain"] in wanted and train[s["domain"]]
                else "unused"
            )
            sampled = "?" if s["open"] else f"{100 * s['sampled']:.1f}%"
            lines.append(
                f"{s['source']:<16}{s['files']:>9,}{size(s['raw_bytes']):>10}{documents:>14}{tokens:>18}"
                f"{passes:>8}{sampled:>9}  {s['access']}"
            )
        blocks = bytes_per_token * sum(s["tokens"] for s in sources if s["domain"] in wanted)
        documents, cpu = sum(s["document_bytes"] for s in sources), sum(s["cpu_seconds"] for s in sources)
        lines.append(
            f"\ndisk: documents {size(documents)} (twice with cleaning), blocks {size(blocks)}, order "
            f"{size(4 * sum(wanted.values()) / length)}"
            f"\ncompute: {f'{cpu / 3600:,.1f} core-hours' if cpu > 360 else f'{cpu:.0f} core-seconds'} "
            "on this machine to read and tokenize"
        )
    else:
        lines.append(
            f"disk: blocks {size(bytes_per_token * sum(wanted.values()))} if nothing repeats. Give "
            "--source NAME=PATH for passes and core-hours"
        )
    return "\n".join([*lines, *(f"warning: {warning}" for warning in warnings)])


def size(count: float) -> str:
    """Bytes for a reader: 3.4 MB."""
    power = min(4, max(1, int(np.log10(max(count, 1)) // 3)))
    return f"{count / 1000**power:,.1f} {'BkMGT'[power]}B"


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help=f"repeatable; names: {', '.join(SOURCES)}",
    )
    parser.add_argument(
        "--tokenizer", help="folder or Hub name of the model to be trained; needed with --source"
    )
    parser.add_argument("--mixture", type=Path, required=True, help="YAML, see data_prep/mixtures")
    args = parser.parse_args(argv)
    with one_sentence():
        mixture, sources = read_mixture(args.mixture), []
        if args.source and not args.tokenizer:
            raise BadInput("--source needs --tokenizer: tokens are counted with it")
        tokenizer = DocumentTokenizer(args.tokenizer) if args.tokenizer else None
        paths = {}  # those of one source together, where a record of one can replace a record of another
        for given in args.source:
            name, equals, path = given.partition("=")
            if not equals or not path or name not in SOURCES:
                raise BadInput(f"--source {given}: expected NAME=PATH (names: {', '.join(SOURCES)})")
            together = hasattr(SOURCES[name], "first_pass")
            paths.setdefault((name, None if together else path), []).append(path)
        for (name, _), found in paths.items():
            sources.append(sample(name, found, tokenizer, mixture["validation_share"]))
    print(report(mixture, sources, tokenizer.dtype.itemsize if tokenizer else 2))


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput, readers=SOURCES)
    main()
