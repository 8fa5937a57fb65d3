"""Duplicates and near-duplicates within and across sources, by document id, with a choice of which copy
stays.

A text becomes `buckets` keys by MinHash (Broder 1997): two texts have the same key in a bucket with the
probability J ** hashes_per_bucket, where J (Jaccard) is the share of their runs of `n_grams` words that they
have in common. With the default sizes, which are FineWeb's, one of 14 keys agrees in

    J             0.5   0.6    0.7    0.75   0.8    0.9     0.95
    of the pairs  5 %   21 %   56 %   77 %   92 %   99.9 %  all            1 - (1 - J ** 8) ** 14

so of texts that share half of their runs 1 pair in 20 would pass for duplicates, unless `find_duplicates` is
given `same` to compare the two texts (with `overlap`, which is exact). Numbers count as words: two radiology
reports that differ in every number are not the same.

Not datatrove's MinHash: its last stage addresses documents by (rank, place in the file), so that a changed
input silently removes the wrong ones; it keeps any member of a cluster; and its hashing fails with xxhash 4.
Its clusters are chains, too: of texts each like the next only one stays. Here a document goes only if it is a
candidate of the very document that stays. As YAML, with the defaults (schema.NearDuplicates):

    near_duplicates:
      runs:                     # each list is compared within itself; the first source has priority, then the
      lower id
        - [pmc, guidelines, pubmed, pile_pubmed]
        - [mimic_iv_note, mimic_iii, mimic_cxr]      # a note is never dropped as a duplicate of a non-note
        - [redpajama]
      n_grams: 5
      buckets: 14
      hashes_per_bucket: 8
      seed: 1
      jaccard: 0.7              # least similarity to the document that stays; null: the keys alone decide
      abstracts_of_full_texts: true   # drop the PubMed abstract of a paper that is there in full
"""

import array
import hashlib
import random
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_prep.corpus.shingles import hash_runs, hash_words, mix
from data_prep.schema import BadInput, NearDuplicates, parse
from data_prep.sources import SOURCES

DEFAULT = NearDuplicates()
RUNS_AT_ONCE, RECORDS_AT_ONCE = 512, 1 << 14
# of one key, where `same` says that they differ: what all share is a phrase, and comparing all with all would
# never end
HOLDERS = 8


def make_settings(config: dict) -> NearDuplicates:
    """The settings of a plan's `near_duplicates`. BadInput names an unknown key or source, or a source in two
    runs."""
    settings = parse(config, NearDuplicates, "near_duplicates")
    for source in (source for run in settings.runs for source in run):
        if source not in SOURCES:
            raise BadInput(f"near_duplicates: runs: unknown source '{source}' (known: {', '.join(SOURCES)})")
    return settings


# ---------------------------------------------------------------- of one text
def text_hash(text: str) -> bytes:
    """16 bytes, the same for texts that differ in white space and letter case only."""
    return hashlib.blake2b(
        " ".join(text.casefold().split()).encode(errors="surrogatepass"), digest_size=16
    ).digest()


def signature(text: str, settings: NearDuplicates = DEFAULT) -> np.ndarray:
    """[buckets] uint64 keys of a text, or [0] of a text with fewer words than one run."""
    runs = hash_runs(hash_words(text)[0], settings.n_grams)
    if not len(runs):
        return np.empty(0, np.uint64)
    factors, terms = _permutations(settings.seed, settings.buckets * settings.hashes_per_bucket)
    least = np.full(len(factors), np.iinfo(np.uint64).max)
    for start in range(0, len(runs), RUNS_AT_ONCE):  # the whole table of a 50 MB text would take gigabytes
        hashes = runs[start : start + RUNS_AT_ONCE, None] * factors + terms
        np.minimum(least, hashes.min(axis=0), out=least)
    keys = np.arange(settings.buckets, dtype=np.uint64)
    for column in least.reshape(settings.buckets, settings.hashes_per_bucket).T:
        keys = mix(keys ^ column)
    return keys


@lru_cache
def _permutations(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """[count] factors (odd) and terms: x -> factor * x + term permutes the 64-bit numbers."""
    numbers = random.Random(seed)
    factors = [numbers.getrandbits(64) | 1 for _ in range(count)]
    return np.array(factors, np.uint64), np.array([numbers.getrandbits(64) for _ in range(count)], np.uint64)


def distinct_runs(text: str, settings: NearDuplicates) -> np.ndarray:
    """[distinct runs] uint64, ascending."""
    return np.unique(hash_runs(hash_words(text)[0], settings.n_grams))


def overlap(runs: np.ndarray, others: np.ndarray) -> float:
    """The Jaccard similarity of two texts by their `distinct_runs`: the share of the runs of both that is in
    both, 0 where neither has one."""
    both = len(np.intersect1d(runs, others, assume_unique=True))
    return both / max(1, len(runs) + len(others) - both)


# ---------------------------------------------------------------- of all texts of a run
def find_duplicates(records, priority, same=None):
    """Yield (source, id, kept source, kept id, kind) for each document of a run that goes; kind is "exact" or
    "near".

    `records`: (source, id, text_hash, keys), in any order: the result does not depend on it. `priority`: the
    sources, first the one whose copies stay; within a source the lower id stays. `same((source, id), (kept
    source, kept id))`, if given, confirms a near-duplicate. BadInput for a source without priority, or an id
    that stands twice. In memory: the ids and some 60 bytes a document; the keys wait in a temporary
    folder."""
    with tempfile.TemporaryDirectory() as folder:
        documents = _Documents(priority)
        keyed = documents.read(records, Path(folder))
        members, groups, exact_groups = _groups(Path(folder), keyed)

    order = np.argsort(members, kind="stable")
    members, groups = members[order], groups[order]
    distinct, first = np.unique(members, return_index=True)
    last = np.append(first[1:], len(members))
    holders, before = {}, None  # group -> the places in `ranked` of its documents that stay
    ranked = sorted(range(len(distinct)), key=lambda i: documents.rank(distinct[i]))
    for place, i in enumerate(ranked):
        rank, own = documents.rank(distinct[i]), groups[first[i] : last[i]].tolist()
        if rank == before:
            raise BadInput(
                f"near_duplicates: id {rank[1].decode()} of source '{documents.sources[rank[0]]}' stands "
                "twice among the records"
            )
        before = rank
        exact = {holder for group in own if group < exact_groups for holder in holders.get(group, ())}
        near = {holder for group in own for holder in holders.get(group, ())} - exact
        name = documents.name(distinct[i])
        for holder in (*sorted(exact), *sorted(near)):
            kept = documents.name(distinct[ranked[holder]])
            if holder in exact or same is None or same(name, kept):
                yield *name, *kept, "exact" if holder in exact else "near"
                break
        else:
            for group in own:
                if len(held := holders.setdefault(group, [])) < HOLDERS:
                    held.append(place)


class _Documents:
    """Sources and ids of many documents, without a Python object for each."""

    def __init__(self, priority):
        self.sources = list(priority)
        self._source, self._ids, self._ends = array.array("H"), bytearray(), array.array("Q", [0])

    def read(self, records, folder: Path) -> np.ndarray:
        """Take the records in: text hashes go to folder/exact, column b of the keys to folder/b. Returns the
        documents with keys."""
        keyed, rows, exact = array.array("Q"), [], []
        for number, (source, name, text, keys) in enumerate(records):
            if source not in self.sources:
                raise BadInput(
                    f"near_duplicates: source '{source}' has no place in the order {', '.join(self.sources)}"
                )
            self._source.append(self.sources.index(source))
            self._ids += name.encode()
            self._ends.append(len(self._ids))
            exact.append(int.from_bytes(text[:8]))
            if len(keys):
                keyed.append(number)
                rows.append(keys)
            if len(exact) == RECORDS_AT_ONCE:
                _write(folder, exact, rows)
                rows, exact = [], []
        _write(folder, exact, rows)
        return np.array(keyed, np.int64)

    def rank(self, number: int) -> tuple[int, bytes]:
        return self._source[number], bytes(self._ids[self._ends[number] : self._ends[number + 1]])

    def name(self, number: int) -> tuple[str, str]:
        source, name = self.rank(number)
        return self.sources[source], name.decode()


def _write(folder: Path, exact: list, rows: list) -> None:
    columns = ({"exact": np.array(exact, np.uint64)} if exact else {}) | {
        str(b): column for b, column in enumerate(np.array(rows).T if rows else [])
    }
    for name, column in columns.items():
        with (folder / name).open("ab") as file:
            file.write(np.ascontiguousarray(column, np.uint64).tobytes())


def _groups(folder: Path, keyed: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(document, group) for each document of each key that several have, a group a key; and how many groups,
    the first, are exact."""
    members, groups, count, exact_groups = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0, 0
    for path in sorted(folder.iterdir(), key=lambda path: (path.name != "exact", path.name)):
        keys = np.fromfile(path, np.uint64)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        same = np.concatenate(([False], keys[1:] == keys[:-1], [False]))  # as the one before it
        shared = same[:-1] | same[1:]
        group = np.cumsum(shared & ~same[:-1]) - 1
        numbers = order if path.name == "exact" else keyed[order]
        members.append(numbers[shared])
        groups.append(group[shared] + count)
        count += int((shared & ~same[:-1]).sum())
        exact_groups = exact_groups if path.name != "exact" else count
    return np.concatenate(members), np.concatenate(groups), exact_groups


# ---------------------------------------------------------------- abstracts of full texts
def pmid(document: dict) -> int | None:
    """Of a PubMed abstract its PMID, of a PMC article with an abstract in it the PMID of that; of others
    None."""
    meta = document["meta"]
    if document["source"] == "pubmed":
        found = document["id"].rpartition(":")[2]
    else:
        found = (
            meta.get("pmid")
            if document["source"] == "pmc" and meta.get("blocks", {}).get("abstract")
            else None
        )
    return int(found) if found and found.isdecimal() and len(found) < 10 else None


def find_abstracts(abstracts, full_texts):
    """Yield (source, id, kept source, kept id, "abstract of <kept id>") for each abstract whose article is
    there in full.

    Both are (source, id, pmid, or 0 or None) of documents that are still there: an abstract must not go for
    an article that goes too. In memory: about 0.2 GB for a million articles."""
    articles = {}
    for source, name, number in full_texts:
        if number:
            articles[number] = min(articles.get(number, (source, name)), (source, name))
    for source, name, number in abstracts:
        if number in articles:
            yield source, name, *articles[number], f"abstract of {articles[number][1]}"
