"""near_duplicates.py: what is found, what stays, and that nothing depends on the order in which documents
come."""

import random
import tracemalloc

import numpy as np
import pytest

from data_prep.corpus.minhash import (
    NearDuplicates,
    distinct_runs,
    find_abstracts,
    find_duplicates,
    make_settings,
    overlap,
    pmid,
    signature,
    text_hash,
)
from data_prep.schema import BadInput

WORDS = [
    f"{a}{b}{c}"
    for a in ("ba", "de", "fi", "go", "lu")
    for b in ("ro", "ne", "ti", "ka")
    for c in ("x", "m", "s", "lin", "th")
]


def prose(seed, words=200) -> str:
    numbers = random.Random(seed)
    return " ".join(numbers.choice(WORDS) for _ in range(words))


def edited(text: str, share: float, seed=0) -> str:
    numbers = random.Random(seed)
    return " ".join(numbers.choice(WORDS) if numbers.random() < share else word for word in text.split())


def jaccard(text: str, other: str, settings=NearDuplicates()) -> float:  # noqa: B008 (frozen)
    return overlap(distinct_runs(text, settings), distinct_runs(other, settings))


def found(texts: dict, priority, same=None) -> set:
    """What goes of {(source, id): text}: the same for three orders of the records."""
    records = [(*name, text_hash(text), signature(text)) for name, text in texts.items()]
    results = []
    for seed in range(3):
        random.Random(seed).shuffle(records)
        results.append(list(find_duplicates(iter(records), priority, same)))
    assert results[0] == results[1] == results[2], "the order of the records must not matter"
    return set(results[0])


def test_priority_decides_which_copy_stays_then_the_id():
    text = prose(1)
    texts = {
        ("pubmed", "b"): text,
        ("pubmed", "a"): text,
        ("pmc", "z"): edited(text, 0.005),
        ("pubmed", "other"): prose(2),
    }
    texts[("pubmed", "spaced")] = text.upper().replace(" ", "\n  ", 5)
    assert found(texts, ["pmc", "pubmed"]) == {
        ("pubmed", name, "pmc", "z", "near") for name in ("a", "b", "spaced")
    }
    assert found(texts, ["pubmed", "pmc"]) == {
        ("pubmed", "b", "pubmed", "a", "exact"),
        ("pubmed", "spaced", "pubmed", "a", "exact"),
        ("pmc", "z", "pubmed", "a", "near"),
    }


def test_texts_too_short_for_a_run_are_exact_duplicates_only():
    texts = {("n", "1"): "No change.", ("n", "2"): "no  change.", ("n", "3"): "No change", ("n", "4"): "-"}
    assert len(signature("No change.")) == 0
    assert found(texts, ["n"]) == {("n", "2", "n", "1", "exact")}
    assert found({}, ["n"]) == set()


def test_numbers_count_as_words():
    report = "CT of the chest, slice {}. Nodule of {} mm in segment {}, density {} HU, formerly {} mm. Dose {} mGy, {} images, study {} of {}."
    one, other = (report.format(*random.Random(seed).sample(range(100, 999), 9)) for seed in (1, 2))
    assert jaccard(one, other) < 0.1 and found({("n", "1"): one, ("n", "2"): other}, ["n"]) == set()
    assert jaccard(one, one) == 1.0


def test_a_document_goes_only_for_one_that_it_resembles():
    texts, text = {}, prose(3, 400).split()
    for i in range(12):  # a chain: each text is much like the next, the last has no word of the first
        texts["n", f"{i:02d}"] = " ".join(text)
        text = text[40:] + prose(100 + i, 40).split()
    gone = found(texts, ["n"])
    assert gone and all(jaccard(texts[s, i], texts[t, k]) > 0.4 for s, i, t, k, _ in gone)
    assert len(gone) < 11


def test_the_texts_may_confirm_a_candidate():
    texts = {("n", f"{i}"): edited(prose(4), 0.03, seed=i) for i in range(12)}
    near = found(texts, ["n"])
    assert near and all(kind == "near" for *_, kind in near)
    asked = []
    assert found(texts, ["n"], lambda *pair: asked.append(pair)) == set() and asked
    exact = {("n", "1"): prose(5), ("n", "2"): prose(5)}
    assert found(exact, ["n"], lambda *pair: pytest.fail("an exact copy needs no confirmation"))


@pytest.mark.parametrize("share", [0.5, 0.7, 0.8, 0.9])
def test_candidates_come_as_often_as_the_table_says(share):
    """Pairs of random texts that share exactly `share` of their runs: built of runs of words that occur in no
    other place."""
    pairs, caught, exactly = 400, 0, []
    for pair in range(pairs):
        numbers = random.Random(f"{share}-{pair}")
        blocks = [" ".join(str(numbers.getrandbits(40)) for _ in range(5)) for _ in range(2000)]
        common = round(200 * share)  # of the 200 runs that the two have together
        alone = (200 - common) // 2
        settings = NearDuplicates(n_grams=1)
        text = " ".join(b.replace(" ", "") for b in blocks[: common + alone])
        other = " ".join(
            b.replace(" ", "") for b in blocks[:common] + blocks[common + alone : common + 2 * alone]
        )
        exactly.append(jaccard(text, other, settings))
        caught += bool((signature(text, settings) == signature(other, settings)).any())
    assert np.allclose(exactly, share)
    expected = 1 - (1 - share**8) ** 14
    print(f"J {share}: {caught / pairs:.3f} of {pairs} pairs are candidates, {expected:.3f} by the formula")
    assert abs(caught / pairs - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5 + 0.005


def test_the_keys_of_a_text_never_change():
    """Keys are kept on disk and compared with those of another machine: another value here is another
    format."""
    assert [f"{key:016x}" for key in signature("the quick brown fox jumps over the lazy dog")[:2]] == KEYS
    assert text_hash("A  b\n") == text_hash("a B") != text_hash("ab")


KEYS = ["d18f82e5887efdd2", "2ecb59898b444c72"]


def test_a_text_of_many_megabytes_takes_little_memory():
    text = prose(6, 20_000) * 40  # some 5 MB
    tracemalloc.start()
    signature(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25 * len(text), f"{peak / len(text):.0f} bytes a character"


def test_bad_input_is_named():
    record = ("n", "1", text_hash("a"), signature("a"))
    with pytest.raises(BadInput, match="'m' has no place in the order n"):
        list(find_duplicates([("m", *record[1:])], ["n"]))
    with pytest.raises(BadInput, match="id 1 of source 'n' stands twice"):
        list(find_duplicates([record, record], ["n"]))
    with pytest.raises(BadInput, match="unknown key 'ngrams'"):
        make_settings({"ngrams": 5})
    with pytest.raises(BadInput, match="source 'pmc' is in runs twice"):
        make_settings({"runs": [["pmc", "pubmed"], ["redpajama", "pmc"]]})
    for runs in (
        None,
        "pubmed",
        ["pubmed"],
        [["pubmd", "pmc"]],
        [["mimic_iv_notes", "mimic_iii"]],
        [[["pmc"]]],
    ):
        with pytest.raises(
            BadInput,
            match=r"near_duplicates: runs: (must be a list of lists of sources, found|.* must be a valid "
            r"(string|list), found|unknown source '.*' \(known: pubmed, pmc, )",
        ):
            make_settings({"runs": runs})
    assert make_settings({"runs": [["pmc", "pubmed"]]}).runs == [["pmc", "pubmed"]]
    assert make_settings({"n_grams": 3}).n_grams == 3 and make_settings({}) == NearDuplicates()


def test_an_abstract_goes_where_its_article_is():
    article = {"source": "pmc", "id": "pmc:PMC9", "meta": {"pmid": "7", "blocks": {"abstract": 1}}}
    without = {"source": "pmc", "id": "pmc:PMC8", "meta": {"pmid": "6", "blocks": {"abstract": 0}}}
    abstracts = [{"source": "pubmed", "id": f"pubmed:{number}", "meta": {}} for number in (5, 6, 7)]
    assert [pmid(d) for d in (article, without, *abstracts)] == [7, None, 5, 6, 7]
    assert pmid({"source": "redpajama", "id": "redpajama:7", "meta": {}}) is None
    as_records = lambda documents: [(d["source"], d["id"], pmid(d)) for d in documents]  # noqa: E731
    gone = list(find_abstracts(as_records(abstracts), as_records([article, without])))
    assert gone == [("pubmed", "pubmed:7", "pmc", "pmc:PMC9", "abstract of pmc:PMC9")]
