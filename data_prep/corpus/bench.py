"""How fast a corpus is made: MB of text per CPU-second, end to end, beside the bare tokenizer and beside the
usual `datasets.map` pipeline, in one run.

    python -m data_prep.corpus.bench            invented text; --source NAME=PATH: your own files
    python -m data_prep.corpus.bench --growth   cost per MB and memory at 30, 100 and 300 MB

Measured on one core (tokenizers' threads off), CPU time of this process and its children, each several times
in turn; ratios are of the medians:
    bare tokenizer     Tokenizer.encode_batch over the texts, nothing else
    datasets.map       tokenize, then group into blocks, as transformers' run_clm example does it, batched,
                       Arrow cache on disk
    read .. write      build_documents, clean_documents (each step of the plan), build_blocks, from raw files
                       to blocks on disk
for a tokenizer of LLaMA-2's kind (its words looked up in a cache) and one of LLaMA-3's kind (called as it
is). The invented text has a vocabulary as long-tailed as that of real text (Zipf-Mandelbrot) and numbers that
never repeat, so that a cache of words earns no more than it would.

Growth: the three commands, each in a process of its own, on invented text of each size. CPU seconds per
MB, and the peak resident memory of the largest process.

Writes OUT/bench.json or OUT/growth.json and prints one Markdown table.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import datasets
import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_prep import build_blocks, build_documents, clean_documents
from data_prep.corpus.tokenize import SPACE, DocumentTokenizer
from data_prep.files import one_sentence, read_jsonl, write_jsonl
from data_prep.schema import CleaningPlan

MIXTURE = {
    "block_length": 4096,
    "tokens": "one_pass",
    "ratio": "as_found",
    "fill": "best_fit",
    "validation_share": 0.0,
    "seed": 0,
}
STEPS = {"cleaning": {"encoding": {}, "short": {}}, "near_duplicates": {}}


def cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def timed(work) -> float:
    started = cpu()
    work()
    return cpu() - started


# ---------------------------------------------------------------- what is measured on
def invented_texts(megabytes: float):
    """Yield texts of 200 to 4,000 words. Words are made of syllables; the k-th most frequent of 400,000 has
    the share of 1 / (k + 2.7)."""
    rng = np.random.default_rng(0)
    syllables = np.array(
        [a + b + c for a in ["", *"bcdfglmnprst", "st", "ph", "cr"] for b in "aeiou" for c in ["", *"lmnrst"]]
    )
    words = np.array(["".join(parts) for parts in rng.choice(syllables, (400_000, 4))])
    lengths = rng.integers(4, 13, len(words))
    words = np.array([word[:n] for word, n in zip(words, lengths, strict=True)])
    weights = 1 / (np.arange(len(words)) + 2.7)
    shares, size = np.cumsum(weights / weights.sum()), 0
    while size < megabytes * 1e6:
        drawn = np.searchsorted(shares, rng.random(rng.integers(200, 4000)) * shares[-1])
        text = words[drawn].tolist()
        for place in range(0, len(text), 13):
            text[place] += rng.choice(
                [
                    ",",
                    ".",
                    ";",
                    ".\n\n",
                    f" {rng.integers(100_000)}",
                    f" ({rng.integers(1000)}.{rng.integers(10)} mg)",
                ]
            )
        yield (joined := " ".join(text))
        size += len(joined)


def make_tokenizer(texts: list[str], kind: str, folder: Path) -> str:
    """A tokenizer of 32,000 (llama-2) or 65,000 (llama-3) entries trained on some of the texts, with the
    normalizer and pre-tokenizer of its kind."""
    engine = Tokenizer(models.BPE(byte_fallback=kind == "llama-2", unk_token="<unk>", fuse_unk=True))
    special = ["<unk>", "<s>", "</s>"]
    if kind == "llama-2":
        engine.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=32_000 if kind == "llama-2" else 65_000, special_tokens=special, show_progress=False
    )
    engine.train_from_iterator(texts[: max(1, len(texts) // 4)], trainer)
    if kind == "llama-2":
        parts = json.loads(engine.to_str())
        parts["added_tokens"] = parts["added_tokens"][:3]
        engine = Tokenizer.from_str(json.dumps(parts))
        engine.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        )
        engine.pre_tokenizer = None
    folder.mkdir(parents=True)
    engine.save(str(folder / "tokenizer.json"))
    tokens = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens), encoding="utf-8")
    return str(folder)


# ---------------------------------------------------------------- the three ways
def bare(texts: list[str], tokenizer: DocumentTokenizer):
    for start in range(0, len(texts), 1000):
        tokenizer.engine.encode_batch(texts[start : start + 1000], add_special_tokens=False)


def datasets_map(jsonl: Path, tokenizer: DocumentTokenizer, cache: Path):
    length = MIXTURE["block_length"]

    def tokenize(batch):
        return {
            "input_ids": [
                [*ids, tokenizer.eos]
                for ids in tokenizer.hf(batch["text"], add_special_tokens=False)["input_ids"]
            ]
        }

    def group(batch):
        everything = [token for ids in batch["input_ids"] for token in ids]
        rows = [
            everything[start : start + length] for start in range(0, len(everything) - length + 1, length)
        ]
        return {"input_ids": rows, "labels": [list(row) for row in rows]}

    raw = datasets.load_dataset("json", data_files=str(jsonl), split="train", cache_dir=str(cache))
    raw.map(tokenize, batched=True, remove_columns=raw.column_names, load_from_cache_file=False).map(
        group, batched=True, load_from_cache_file=False
    )


def our_stages(sources: list[tuple[str, str]], tokenizer: str, work: Path) -> dict[str, float]:
    """CPU seconds of each stage, raw files to blocks."""
    shutil.rmtree(work, ignore_errors=True)
    plan = dict.fromkeys(CleaningPlan.model_fields)
    return {
        "read": timed(lambda: build_documents.build(sources, work / "documents")),
        "clean": timed(
            lambda: clean_documents.build(
                work / "documents", None, plan | {"cleaning": STEPS["cleaning"]}, work / "clean"
            )
        ),
        "tokenize, pack, write": timed(
            lambda: build_blocks.build(work / "clean", tokenizer, MIXTURE, work / "blocks")
        ),
        "near-duplicates, not in the sum": timed(
            lambda: clean_documents.build(
                work / "documents", None, plan | {"near_duplicates": STEPS["near_duplicates"]}, work / "near"
            )
        ),
    }


# ---------------------------------------------------------------- growth
# In between, since a process starts with the peak memory of the one that forked it
MEASURE = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, "-m", *sys.argv[1:]], stdout=2)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(code)"""


def measured(command: list[str]) -> tuple[float, float]:
    """CPU seconds of a command with its children, and MB of its largest process."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}: exit status {done.returncode}. Next: see above")
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def growth(sizes: list[int], out: Path):
    """Print, and write to OUT/growth.json, {stage: {MB of text: CPU seconds per MB and peak MB}}."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tokenizer = make_tokenizer(list(invented_texts(8)), "llama-2", folder / "tokenizer")
        (folder / "mixture.yaml").write_text(json.dumps(MIXTURE), encoding="utf-8")  # JSON is YAML
        (folder / "plan.yaml").write_text(json.dumps(STEPS), encoding="utf-8")
        for size in sorted(sizes):
            work = folder / f"{size}"
            write_jsonl(work / "raw/text.jsonl.gz", ({"text": text} for text in invented_texts(size)))
            documents, clean = ["--documents", f"{work}/documents"], ["--documents", f"{work}/clean"]
            plan = ["--plan", f"{folder}/plan.yaml", "--out", f"{work}/clean"]
            blocks = ["--tokenizer", tokenizer, "--mixture", f"{folder}/mixture.yaml"]
            for stage, command in {
                "documents": ["--source", f"redpajama={work}/raw", "--out", f"{work}/documents"],
                "clean, near-duplicates": [*documents, *plan],
                "blocks": [*clean, *blocks, "--out", f"{work}/blocks"],
            }.items():
                name = "clean_documents" if "clean" in stage else f"build_{stage}"
                seconds, peak = measured([f"data_prep.{name}", *command])
                found.setdefault(stage, {})[size] = {"cpu_seconds_per_mb": seconds / size, "peak_mb": peak}
            shutil.rmtree(work)
    out.mkdir(parents=True, exist_ok=True)
    (out / "growth.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("| CPU seconds per MB; peak MB | " + " | ".join(f"{size} MB" for size in sorted(sizes)) + " |")
    print("|---" * (len(sizes) + 1) + "|")
    for stage, row in found.items():
        cells = [f"{cell['cpu_seconds_per_mb']:.2f}; {cell['peak_mb']:,.0f}" for cell in row.values()]
        print(f"| {stage} | " + " | ".join(cells) + " |")


def main(argv=None):
    with one_sentence():
        bench(argv)


def bench(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/corpus"))
    parser.add_argument("--megabytes", type=float, default=20, help="of invented text")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="your own files in place of invented text",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--growth", type=int, nargs="*", metavar="MB", help="sizes of invented text")
    args = parser.parse_args(argv)
    if args.growth is not None:
        return growth(args.growth or [30, 100, 300], args.out)
    datasets.disable_progress_bars()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sources = [tuple(given.split("=", 1)) for given in args.source]
        try:
            if not sources:
                write_jsonl(
                    folder / "raw" / "text.jsonl.gz",
                    ({"text": text} for text in invented_texts(args.megabytes)),
                )
                sources = [("redpajama", str(folder / "raw"))]
            manifest = build_documents.build(sources, folder / "documents")
        except ValueError as error:
            sys.exit(f"error: {error}")
        texts = [
            document["text"]
            for output in manifest["outputs"]
            for _, document in read_jsonl(folder / "documents" / output["path"])
        ]
        size = sum(len(text.encode(errors="replace")) for text in texts) / 1e6
        write_jsonl(folder / "plain.jsonl", ({"text": text} for text in texts))
        for kind in ("llama-2", "llama-3"):
            path = make_tokenizer(texts, kind, folder / kind)
            runs = []
            for repeat in range(args.repeats):
                tokenizer = DocumentTokenizer(path)
                run = {"bare tokenizer": timed(lambda t=tokenizer: bare(texts, t))}
                run["datasets.map"] = timed(
                    lambda t=tokenizer, r=repeat: datasets_map(
                        folder / "plain.jsonl", t, folder / f"cache{r}"
                    )
                )
                shutil.rmtree(folder / f"cache{repeat}")
                runs.append(run | our_stages(sources, path, folder / "work"))
            seconds = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            seconds["read .. write"] = seconds["read"] + seconds["clean"] + seconds["tokenize, pack, write"]
            sample = texts[:: max(1, len(texts) // 200)]
            same = all(
                ids.tolist() == tokenizer.reference(text)
                for text, ids in zip(sample, tokenizer.encode(sample), strict=True)
            )
            results[kind] = {
                "megabytes": size,
                "cpu_seconds": seconds,
                "ids_equal_on_sample": same,
                "runs": runs,
            }

    args.out.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    (args.out / "bench.json").write_text(
        json.dumps({"machine": machine, "repeats": args.repeats, "tokenizers": results}, indent=1) + "\n",
        encoding="utf-8",
    )
    print(
        f"\n{size:.1f} MB of text, {machine}, median of {args.repeats}; MB per CPU-second, and cost as a "
        "multiple of the bare tokenizer\n"
    )
    print(
        "| | "
        + " | ".join(f"{kind}: MB/s | x bare" for kind in results)
        + " |\n|---|"
        + "---|---|" * len(results)
    )
    for name in seconds:
        cells = [
            (
                r["megabytes"] / r["cpu_seconds"][name],
                r["cpu_seconds"][name] / r["cpu_seconds"]["bare tokenizer"],
            )
            for r in results.values()
        ]
        print(f"| {name} | " + " | ".join(f"{speed:.2f} | {ratio:.2f}" for speed, ratio in cells) + " |")
    for kind, r in results.items():
        against = r["cpu_seconds"]["datasets.map"] / r["cpu_seconds"]["read .. write"]
        print(
            f"\n{kind}: {against:.2f} times the speed of datasets.map; ids as the tokenizer gives them: "
            f"{r['ids_equal_on_sample']}"
        )
    if not all(r["ids_equal_on_sample"] for r in results.values()):
        sys.exit("error: ids differ from the tokenizer's own")


if __name__ == "__main__":
    main()
