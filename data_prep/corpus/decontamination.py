"""Take the evaluation rows out of the corpus: first by the id of the record they were made of, then by words.

Most of the twelve benchmarks are pieces of the corpus: PubMedQA, HoC, BioNLI and the PubMed summaries are
PubMed and PMC texts, known by PMID or PMCID; the MIMIC-CXR summaries are reports, known by study. What
carries no such id (The Pile, web pages, notes of MIMIC in i2b2, emrQA and MedNLI) is found by its words: an
item is matched where a document holds at least the share `coverage` of its runs of `n` words, and at least
`min_hits` of them. A gold summary is an item by itself, beside the item of its whole row. Items whose longest
text is under 2 n words are matched by runs of `n_short`. A run that is in more than `max_df` items is wording
and does not count. Items with fewer than `min_hits` runs left cannot be matched: they are listed in
`Index.unmatched`. Paraphrases are not found. Measured recall: tests/data_prep/test_decontamination.py prints
it.

    decontamination:                 # the defaults (schema.Decontamination)
      splits: [validation, test]     # of the rows; the training rows may be in the corpus
      cases: []                      # further files of items: JSON lines of {id, text} or of any objects with
      text ids: true pmc_ids: null                  # NLM's PMC-ids.csv[.gz], which pairs PMIDs and PMCIDs
      ngrams: true n: 13 n_short: 8 max_df: 10 min_hits: 3 coverage: {default: 0.2}       # and by task where
      texts are full of set phrases: {default: 0.2, mimic_cxr: 0.5} cut: [pmc, pile_pubmed, guidelines,
      redpajama]   # only the passage goes; of other sources the document margin: 200                    #
      characters cut before and after the passage report_only: false             # true: list what would go
      and keep it, as the paper mentions no decontamination
"""

import collections
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import benchmarks
from data_prep.corpus.evaluation_items import Item, document_ids, id_blocklist, read_items, row_files
from data_prep.corpus.shingles import hash_runs, hash_words
from data_prep.schema import BadInput, Decontamination, parse

MOST = 512  # runs kept of an item, by their hash: of a whole article a sample is as good as all


class Match(NamedTuple):
    task: str
    item: str
    coverage: float  # share of the item's runs of words that the document holds
    passages: list  # [(start, end)] characters of the document


class Index:
    """All items by their runs of words: `find` gives those that a text holds."""

    def __init__(self, items: list[Item], n=13, n_short=8, max_df=10, min_hits=3, coverage=0.2):
        self.coverage = coverage if isinstance(coverage, dict) else {"default": coverage}
        self.min_hits, self.items, self.unmatched = min_hits, [], []
        owned = {n: [], n_short: []}  # run length -> [(the item's place in self.items, its runs)]
        spread = {n: [], n_short: []}  # the runs of each text, once: how many different texts hold a run
        seen = set()
        for item in items:
            words = [hash_words(text)[0] for text in item.texts]
            length = n if max(map(len, words), default=0) >= 2 * n else n_short
            texts = [_sample(np.unique(hash_runs(w, length))) for w in words]
            for w, runs in zip(words, texts, strict=True):
                if (key := (length, hashlib.blake2b(w, digest_size=16).digest())) not in seen:
                    seen.add(key)
                    spread[length].append(runs)
            owned[length].append(
                (len(self.items), _sample(np.unique(np.concatenate([np.empty(0, np.uint64), *texts]))))
            )
            self.items.append((item.task, item.id, sum(map(len, words))))
        self.sizes = np.zeros(len(self.items), np.int64)
        self.tables = [
            self._table(length, owned[length], spread[length], max_df) for length in owned if owned[length]
        ]

    def _table(self, length: int, owned: list, spread: list, max_df: int) -> "Table":
        runs = np.concatenate([runs for _, runs in owned])
        owners = np.concatenate([np.full(len(runs), place, np.int32) for place, runs in owned])
        distinct, texts = np.unique(np.concatenate(spread), return_counts=True)
        kept = ~np.isin(runs, distinct[texts > max_df])
        sizes = np.bincount(owners[kept], minlength=len(self.items))
        for place, before in owned:
            self.sizes[place] = sizes[place]
            if sizes[place] < self.min_hits:
                reason = "too few words" if len(before) < self.min_hits else "shared wording only"
                self.unmatched.append((*self.items[place][:2], reason))
        kept &= sizes[owners] >= self.min_hits
        order = np.argsort(runs[kept], kind="stable")
        return Table(length, runs[kept][order], owners[kept][order])

    def find(self, text: str) -> list[Match]:
        """The items that the text holds, the most covered first."""
        words, starts, ends = hash_words(text)
        found = []
        for table in self.tables:
            entries, places = table.look_up(hash_runs(words, table.length))
            if not len(entries):
                continue
            items, hits = np.unique(table.owners[np.unique(entries)], return_counts=True)
            for item, count in zip(items, hits, strict=True):
                task, name, size = self.items[item]
                share = count / self.sizes[item]
                if count >= self.min_hits and share >= self.coverage.get(
                    task, self.coverage.get("default", 0.2)
                ):
                    own = np.unique(places[table.owners[entries] == item])
                    # hits further apart than the item is long are two copies of it; what stands between two
                    # hits of one copy goes with them
                    copies = np.split(own, np.flatnonzero(np.diff(own) > size) + 1)
                    passages = [
                        (int(starts[copy[0]]), int(ends[copy[-1] + table.length - 1])) for copy in copies
                    ]
                    found.append(Match(task, name, round(float(share), 3), passages))
        return sorted(found, key=lambda match: (-match.coverage, match.task, match.item))


class Table:
    """Sorted runs [entries] of `length` words and the item that each belongs to, behind bits that say at once
    what is not there."""

    def __init__(self, length: int, runs: np.ndarray, owners: np.ndarray):
        self.length, self.runs, self.owners = length, runs, owners
        self.size = 1 << max(16, (16 * len(runs)).bit_length())
        bits = np.zeros(self.size, bool)
        bits[runs & np.uint64(self.size - 1)] = True
        self.bits = np.packbits(bits, bitorder="little")

    def look_up(self, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(entry, place in `runs`) for each of the document's runs that an item has, each [hits]."""
        low = runs & np.uint64(self.size - 1)
        places = np.flatnonzero(self.bits[low >> np.uint64(3)] >> (low & np.uint64(7)).astype(np.uint8) & 1)
        first = np.searchsorted(self.runs, runs[places], "left")
        count = np.searchsorted(self.runs, runs[places], "right") - first
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(first, count) + within, np.repeat(places, count)


def _sample(runs: np.ndarray) -> np.ndarray:
    """All of them, or those whose hash is under a bound that leaves about MOST: the same runs in every
    text."""
    halvings = max(0, (len(runs) - 1) // MOST).bit_length()
    return runs[runs >> np.uint64(64 - halvings) == 0] if halvings else runs


# ---------------------------------------------------------------- one document
class Decontaminator:
    """decontaminator(document) -> (document, what is left of it, or None; records), with a record for each
    item that it met: {source, id, task, item, by: "pmid" | "pmcid" | "cxr_study" | "words", coverage (with
    "words"), action: "drop" | "cut" | "report"}."""

    def __init__(self, settings: Decontamination, blocked: dict, index: Index | None, missing: list[str]):
        self.settings, self.blocked, self.index, self.missing = settings, blocked, index, missing

    def __call__(self, document: dict) -> tuple[dict | None, list[dict]]:
        known = next((key for key in document_ids(document) if key in self.blocked), None)
        found = self.index.find(document["text"]) if self.index and not known else []
        left, action = None, "drop"
        if known:
            met = [dict(zip(("task", "item"), self.blocked[known], strict=True), by=known[0])]
        else:
            most = {(match.task, match.item): match.coverage for match in reversed(found)}
            met = [
                {"task": task, "item": item, "by": "words", "coverage": coverage}
                for (task, item), coverage in reversed(most.items())
            ]
            if found and document["source"] in self.settings.cut:
                left = cut(
                    document, [passage for match in found for passage in match.passages], self.settings.margin
                )
                action = "cut" if left else "drop"
        if not met or self.settings.report_only:
            left, action = document, "report"
        return left, [
            {"source": document["source"], "id": document["id"], **one, "action": action} for one in met
        ]

    def facts(self) -> dict:
        """For the manifest: how many items and ids are looked for, how many items cannot be matched, and the
        sets without rows."""
        items, unmatched = (self.index.items, self.index.unmatched) if self.index else ([], [])
        return {
            "settings": self.settings.model_dump(),
            "items": dict(sorted(collections.Counter(task for task, *_ in items).items())),
            "ids": dict(sorted(collections.Counter(task for task, _ in self.blocked.values()).items())),
            "unmatched": dict(
                sorted(collections.Counter(f"{task}: {why}" for task, _, why in unmatched).items())
            ),
            "missing": self.missing,
        }

    def save(self, folder: Path) -> None:
        """Write what `load` reads: arrays that all processes of a machine map from the same files."""
        folder.mkdir(parents=True, exist_ok=True)
        blocked = [[*key, *row] for key, row in self.blocked.items()]
        facts = {"settings": self.settings.model_dump(), "blocked": blocked, "missing": self.missing}
        if self.index:
            facts["index"] = {
                "items": self.index.items,
                "unmatched": self.index.unmatched,
                "lengths": [t.length for t in self.index.tables],
            }
            arrays = {"sizes": self.index.sizes}
            for table in self.index.tables:
                arrays |= {f"runs_{table.length}": table.runs, f"owners_{table.length}": table.owners}
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array)
        (folder / "decontamination.json").write_text(json.dumps(facts), encoding="utf-8")


def make_decontaminator(config: dict | None, rows: str | Path) -> Decontaminator:
    """The decontaminator of a YAML's `decontamination` and a folder of task rows. BadInput names what is
    wrong in either."""
    settings = parse(config or {}, Decontamination, "decontamination")
    names = ["default", *benchmarks.NAMES, *(Path(case).stem for case in settings.cases)]
    for name in settings.coverage:
        if name not in names:
            raise BadInput(f"decontamination: coverage: unknown task '{name}' (known: {', '.join(names)})")
    blocked = id_blocklist(rows, settings.splits, settings.pmc_ids) if settings.ids else {}
    index = None
    if settings.ngrams:
        items = read_items(rows, settings.splits, settings.cases)
        index = Index(
            items, settings.n, settings.n_short, settings.max_df, settings.min_hits, settings.coverage
        )
    present = {path.parent.name for path in row_files(rows, settings.splits)}
    return Decontaminator(
        settings, blocked, index, [name for name in benchmarks.NAMES if name not in present]
    )


def load(folder: Path) -> Decontaminator:
    """What `Decontaminator.save` wrote."""
    facts = json.loads((folder / "decontamination.json").read_text(encoding="utf-8"))
    settings, index = Decontamination(**facts["settings"]), None
    if "index" in facts:
        index = Index([], min_hits=settings.min_hits, coverage=settings.coverage)
        index.items, index.unmatched = (
            list(map(tuple, facts["index"][key])) for key in ("items", "unmatched")
        )
        index.sizes = np.load(folder / "sizes.npy")
        arrays = lambda name: np.load(folder / f"{name}.npy", mmap_mode="r")  # noqa: E731
        index.tables = [
            Table(n, arrays(f"runs_{n}"), arrays(f"owners_{n}")) for n in facts["index"]["lengths"]
        ]
    return Decontaminator(
        settings,
        {(kind, name): (task, row) for kind, name, task, row in facts["blocked"]},
        index,
        facts["missing"],
    )


def cut(document: dict, passages: list[tuple[int, int]], margin: int) -> dict | None:
    """The document without the passages [(start, end)] and `margin` characters around each; None if less than
    half of it is left.

    Of a document whose meta counts its `blocks` (PMC) whole blocks go, and the counts are those of what is
    left."""
    text, meta = document["text"], document["meta"]
    spans = [(max(0, start - margin), end + margin) for start, end in sorted(passages)]
    left, start = [], 0
    if "blocks" in meta:
        meta = {**meta, "blocks": dict.fromkeys(meta["blocks"], 0)}
        parts = [part for part, count in document["meta"]["blocks"].items() for _ in range(count)]
        for part, block in zip(parts, text.split("\n\n"), strict=True):
            if not any(first < start + len(block) and start < last for first, last in spans):
                left.append(block)
                meta["blocks"][part] += 1
            start += len(block) + 2
    else:
        for first, last in [*spans, (len(text), len(text))]:
            left.append(text[start:first].strip())  # nothing where two spans overlap
            start = max(start, last)
    kept = "\n\n".join(filter(None, left))
    return {**document, "text": kept, "meta": meta} if 2 * len(kept) >= len(text) else None
