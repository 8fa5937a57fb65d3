"""What must hold whatever is given, tried by hypothesis on generated texts, rows and files: parsers, scorers,
readers, packing, words, chat rows.

The examples follow from the tests and not from chance. To look further, at 2,000 random ones for each:
    PROFILE=far python -m pytest tests/test_properties.py
"""

import collections
import csv
import json
import math
import os
import re
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data_prep.benchmarks.ddi import LABELS as DDI
from data_prep.benchmarks.hoc import LABELS as HALLMARKS
from data_prep.benchmarks.mtsamples import SPECIALTIES
from data_prep.build_blocks import fill_best_fit, fill_concat
from data_prep.corpus.shingles import hash_words
from data_prep.corpus.tokenize import DocumentTokenizer
from data_prep.files import read_jsonl, write_jsonl
from data_prep.instructions import sharegpt
from data_prep.manifest import Drops
from data_prep.schema import check_document, check_row
from data_prep.sources import mimic_iii, pmc, pubmed, redpajama
from evaluation.scoring import metrics, parsing, reference_scorer
from tests.data_prep.test_sources import article_set, citation, jats
from tests.test_hostile_files import compressed
from tests.tiny_model import SPECIAL, make_tokenizer

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("here", max_examples=60, derandomize=True, **COMMON)
settings.register_profile("far", max_examples=2000, **COMMON)
settings.load_profile(os.environ.get("PROFILE", "here"))

# Unicode without half characters; and outputs of models: words of the answers, of their dress and of markup,
# between text of any kind
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
CHOICES = {
    "letters": list("ABCDE"),
    "yes/no/maybe": ["yes", "no", "maybe"],
    "ddi": DDI,
    "mtsamples": SPECIALTIES,
}
TYPES = ["problem", "treatment", "test"]
FRAGMENTS = [
    *(label for labels in CHOICES.values() for label in labels[:6]), *HALLMARKS[:4], "The answer is ", "Answer: ", "not ", "option ", "Therefore, ", "**", "(",
    ") ", "\n", "\n\n", "; ", ", ", ": ", "<think>", "</think>", "<answer>", "</answer>", "</s>", "INPUT: x", "Question:", "\\boxed{", "}", "is wrong", "- 1. ",
    '<span class="problem">', '<span class="x">', "</span>", "<span", "<!--", "-->", "<p>", "&amp;", "&#0;", "<![", "<?", "pain ", "5.0 mg", "é", "\u2028", "\0", "\ud800",
]  # fmt: skip
OUTPUT = st.lists(st.sampled_from(FRAGMENTS) | TEXT, max_size=12).map("".join)


# ---------------------------------------------------------------- parsers
@given(OUTPUT)
def test_the_answer_part_is_a_part_and_has_no_other(text):
    for pattern in (parsing.NEXT_PROMPT, parsing.NEXT_QUESTION):
        part = parsing.answer_part(text, pattern)
        assert part in text and parsing.answer_part(part, pattern) == part


@given(OUTPUT, st.sampled_from(sorted(CHOICES)))
def test_a_choice_is_one_of_the_choices_or_none_with_a_reason(text, name):
    choices = CHOICES[name]
    label, rule = parsing.parse_choice(text, choices)
    assert label in choices or (label is None and rule in ("empty", "no label", "two labels"))
    assert (
        parsing.parse_choice(f"<think>{FRAGMENTS[0]}</think>{text}", choices) == (label, rule)
        or "think" in text
    )
    assert parsing.parse_choice(f" {text}\n", choices) == (label, rule)
    if name != "letters":  # of a letter, a small one means less
        assert parsing.parse_choice(text, choices[::-1])[0] == label  # the order of the labels says nothing


@given(OUTPUT)
def test_labels_are_labels_in_their_order(text):
    found = parsing.parse_labels(text, HALLMARKS)
    assert found is None or (found and found == [label for label in HALLMARKS if label in found])
    if found:
        assert parsing.parse_labels("; ".join(found), HALLMARKS) == found


@given(TEXT)
@pytest.mark.guarantee("Evaluation", "An output that names no option never scores.")
def test_an_output_without_a_letter_of_a_label_names_none(text):
    text = re.sub(r"[^\W\d_]", "", text)
    for choices in CHOICES.values():
        assert parsing.parse_choice(text, choices)[0] is None
    assert parsing.parse_labels(text, HALLMARKS) is None


@given(OUTPUT)
def test_entities_are_spans_of_the_words(text):
    words, entities = parsing.parse_entities(text)
    assert all(0 <= start < end <= len(words) for _, start, end in entities)
    bare = parsing.TAG.sub(" ", text)
    assert parsing.TAG.search(bare) or (words, []) == parsing.parse_entities(bare)


@given(OUTPUT, OUTPUT)
def test_the_article_s_scorer_reads_any_text(text, other):
    rows = [
        {"task": "medqa", "scoring": "choice", "completion": "A", "choices": CHOICES["letters"]},
        {"task": "ddi", "scoring": "choice", "completion": DDI[0], "choices": DDI},
        {"task": "hoc", "scoring": "labels", "completion": HALLMARKS[0], "choices": HALLMARKS},
        {"task": "emrqa", "scoring": "span", "completion": other},
        {"task": "i2b2", "scoring": "entities", "completion": other, "choices": TYPES},
        {"task": "mimic_cxr", "scoring": "summary", "completion": other, "parsed": None},
    ]
    for row in rows:
        graded = reference_scorer.grade(row | {"output": text})
        flat = [value for value in graded["score"].values() if isinstance(value, float)]
        assert all(0 <= value <= 1 for value in flat)
        for right, predicted, wanted in (
            value for value in graded["score"].values() if isinstance(value, list)
        ):
            assert 0 <= right <= min(predicted, wanted)


# ---------------------------------------------------------------- scorers
PLAIN = st.lists(
    st.sampled_from(["pain", "cough", "fever", "no", "acute", "5.0", "mg", "of", "the", "chest", "x-ray"]),
    min_size=1,
    max_size=8,
).map(" ".join)
MARKED = st.lists(st.tuples(st.sampled_from([None, *TYPES]), PLAIN), min_size=1, max_size=5).map(
    lambda parts: " ".join(f'<span class="{kind}">{text}</span>' if kind else text for kind, text in parts)
)
GOLD = {
    "choice": st.sampled_from(CHOICES["yes/no/maybe"]), "labels": st.sets(st.sampled_from(HALLMARKS), min_size=1, max_size=3).map(sorted).map("; ".join),
    "span": PLAIN, "entities": MARKED, "summary": PLAIN,
}  # fmt: skip
ALLOWED = {"choice": CHOICES["yes/no/maybe"], "labels": HALLMARKS, "entities": TYPES}


@st.composite
def graded(draw, scoring, outputs=None):
    pairs = draw(st.lists(st.tuples(GOLD[scoring], GOLD[scoring] | OUTPUT), min_size=1, max_size=12))
    rows = [
        {
            "id": str(i),
            "task": "t",
            "scoring": scoring,
            "completion": gold,
            "output": gold if outputs == "gold" else output,
            "choices": ALLOWED.get(scoring, []),
        }
        for i, (gold, output) in enumerate(pairs)
    ]
    return [row | metrics.grade(row) for row in rows]


ANY_ROWS = st.sampled_from(sorted(GOLD)).flatmap(graded)


@given(ANY_ROWS, st.randoms(use_true_random=False))
def test_metrics_are_shares_and_blind_to_the_order_of_rows(rows, random):
    mixed = random.sample(rows, len(rows))
    for name, (counts, finish) in metrics.statistics(rows).items():
        value = float(finish(counts.sum(0), len(rows)))
        assert math.isnan(value) or 0 <= value <= 1
        assert metrics.value(mixed, name) == pytest.approx(value, nan_ok=True)
        draws = metrics.draws(counts, finish, number=50)
        assert np.array_equal(
            draws, metrics.draws(metrics.statistics(mixed)[name][0], finish, number=50), equal_nan=True
        )
        low, high = metrics.interval(draws)
        assert math.isnan(low) or 0 <= low <= high <= 1


@given(st.sampled_from(sorted(GOLD)).flatmap(lambda scoring: graded(scoring, "gold")))
def test_the_gold_answers_are_perfect(rows):
    for name in metrics.names(rows):
        value = metrics.value(rows, name)
        few = name == "rouge2" and any(
            len(re.findall(r"[^\W_]+", row["completion"])) < 2 for row in rows
        )  # without two words there is no pair
        none = rows[0]["scoring"] == "entities" and "<span" not in "".join(row["completion"] for row in rows)
        assert value == pytest.approx(1) or few or none


@given(ANY_ROWS)
def test_an_output_that_gives_no_answer_is_wrong_and_adding_one_never_helps(rows):
    for row in rows:
        if row["parsed"] is None and row["scoring"] != "entities":
            assert not any(row["score"].values())
    wordless = {"scoring": "span", "completion": "the", "output": ""}
    assert metrics.grade(wordless) == {"parsed": None, "score": {"exact_match": 0.0, "word_f1": 0.0}}
    silent = rows[0] | {"id": "silent", "output": ""}
    more = [*rows, silent | metrics.grade(silent)]
    for name in metrics.names(rows):
        if name != "macro_f1":  # which may gain a class of its own
            before, after = metrics.value(rows, name), metrics.value(more, name)
            assert math.isnan(before) or math.isnan(after) or after <= before + 1e-9


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 5))
def test_the_interval_of_a_mean_contains_it(values, seed):
    counts, finish = metrics.mean_of([{"score": {"accuracy": float(value)}} for value in values], "accuracy")
    low, high = metrics.interval(metrics.draws(counts, finish, seed=seed))
    assert low <= np.mean(values) <= high or np.isclose(np.mean(values), [low, high]).any()


@given(graded("labels") | graded("entities"))
def test_micro_and_macro_f1_lie_among_those_of_the_classes(rows):
    found = [
        entry["f1"]
        for entry in metrics.classes(rows)
        if entry["f1"] is not None and entry["label"] != "(not declared)"
    ]
    assume(found)
    assert min(found) - 1e-9 <= metrics.value(rows, "macro_f1") <= max(found) + 1e-9
    everything = [entry["f1"] for entry in metrics.classes(rows) if entry["f1"] is not None]
    assert min(everything) - 1e-9 <= metrics.value(rows, "micro_f1") <= max(everything) + 1e-9


@given(OUTPUT | PLAIN, OUTPUT | PLAIN)
def test_span_f1_is_symmetric_and_1_for_the_same_words(one, other):
    value = metrics.span_f1(one, other)
    assert value == metrics.span_f1(other, one) and 0 <= value <= 1
    assert (value == 1) == (
        collections.Counter(metrics.span_tokens(one)) == collections.Counter(metrics.span_tokens(other))
    )


@given(MARKED | OUTPUT, MARKED | OUTPUT)
def test_entities_are_counted_within_bounds(prediction, gold):
    counts = metrics.entity_counts(prediction, gold, TYPES)
    assert set(counts) == {*TYPES, ""} and all(
        0 <= right <= min(predicted, wanted) for right, predicted, wanted in counts.values()
    )
    same = metrics.entity_counts(gold, gold, TYPES)
    assert all(right == wanted for right, _, wanted in same.values())


@given(graded("span"), st.randoms(use_true_random=False))
def test_differences_change_their_sign_with_the_sides(rows, random):
    others = [row | metrics.grade(row | {"output": random.choice(rows)["output"]}) for row in rows]
    there, draws = metrics.paired_difference(rows, others, "word_f1")
    back, _ = metrics.paired_difference(others, rows, "word_f1")
    assert (
        there == pytest.approx(-back)
        and metrics.paired_difference(rows, rows, "word_f1")[0] == 0
        and 0 < metrics.p_value(draws) <= 1
    )
    right, wrong = ([row["score"]["exact_match"] == 1 for row in those] for those in (rows, others))
    assert metrics.mcnemar(right, wrong) == metrics.mcnemar(wrong, right) <= 1


# ---------------------------------------------------------------- readers: what stands in a field comes out of it
XML = st.text(
    st.characters(
        exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff", include_characters="\t\n\r\x85"
    ),
    max_size=80,
)


def in_xml(text: str) -> str:
    return escape(text, {"\r": "&#13;"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


def only(module, file, content: bytes, *first_pass):
    """The one document of a file with this content."""
    file.write_bytes(content)
    [document] = module.read(file, Drops(), *first_pass)
    return check_document(document, "here")


@given(
    text=st.lists(
        TEXT | st.sampled_from(["\u2028", "\x85", "\0", "\r\n", "\x1c", "\ufeff", "\uffff", "😀"]),
        min_size=1,
        max_size=6,
    ).map("".join)
)
def test_any_text_goes_through_json_lines(folder, text):
    assume(text.strip())
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst"):
        for ascii_only in (True, False):
            line = json.dumps({"text": text, "meta": {text: text}}, ensure_ascii=ascii_only) + "\n"
            document = only(redpajama, folder / name, compressed(name, line.encode()))
            assert document["text"] == text
    records = [document, document | {"id": "2"}]
    for name in ("b.jsonl", "b.jsonl.gz"):
        assert (
            write_jsonl(folder / name, records) == 2
            and [record for _, record in read_jsonl(folder / name)] == records
        )


@given(text=XML, title=XML)
def test_any_text_goes_through_xml(folder, text, title):
    words, heading = " ".join(text.split()), " ".join(title.split())
    assume(words)
    record = citation(title=in_xml(title), abstract=f"<AbstractText>{in_xml(text)}<!-- x --></AbstractText>")
    document = only(pubmed, folder / "a.xml", article_set(record).encode())
    assert document["text"] == (f"{heading}\n\n{words}" if heading else words)
    article = only(pmc, folder / "a.nxml", jats(f"<p>{in_xml(text)}<?x y?></p>").encode())
    assert article["text"] == f"The title\n\nShort.\n\n{words}"


@given(
    text=st.lists(TEXT | st.sampled_from(['"', "\n", "\r", "\r\n", ",", "\0", "\u2028"]), max_size=8).map(
        "".join
    )
)
def test_any_text_goes_through_csv(folder, text):
    assume(text.strip())
    columns = ["ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CATEGORY", "DESCRIPTION", "ISERROR", "TEXT"]
    with (folder / "NOTEEVENTS.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([columns, ["1", *"ababa", "", text]])
    [document] = mimic_iii.read(folder / "NOTEEVENTS.csv", Drops())
    assert document["text"] == text


# ---------------------------------------------------------------- packing
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=60),
    st.integers(2, 40),
    st.sampled_from([fill_best_fit, fill_concat]),
)
def test_every_token_is_packed_once(lengths, size, fill):
    ends = np.cumsum(lengths)
    blocks = fill(ends, size)
    spans = [span for block in blocks for span in block]
    assert sorted(token for start, stop in spans for token in range(start, stop)) == list(range(ends[-1]))
    assert all(0 < sum(stop - start for start, stop in block) <= size for block in blocks)
    assert not any(start < end < stop for start, stop in spans for end in ends.tolist())


@pytest.fixture(scope="module")
def tokenizer(folder):
    make_tokenizer().save_pretrained(folder / "tokenizer")
    return DocumentTokenizer(str(folder / "tokenizer"))


@given(
    texts=st.lists(
        st.lists(TEXT | st.sampled_from(SPECIAL), max_size=5).map("".join), min_size=1, max_size=8
    ),
    size=st.integers(4, 64),
)
@pytest.mark.guarantee("Corpus", "Any text comes out of its blocks as it went in.")
def test_documents_come_out_of_their_blocks_as_they_went_in(tokenizer, texts, size):
    documents = tokenizer.encode(texts)
    assert [ids.tolist() for ids in documents] == [tokenizer.reference(text) for text in texts]
    tokens, ends = np.concatenate(documents), np.cumsum(list(map(len, documents)))
    spans = sorted(span for block in fill_best_fit(ends, size) for span in block)
    again = np.concatenate([tokens[start:stop] for start, stop in spans])
    for text, start, end in zip(texts, [0, *ends], ends, strict=False):
        ids = again[start:end].tolist()
        assert (ids[0], ids[-1]) == (tokenizer.bos[0], tokenizer.eos) and not {ids[0], ids[-1]} & set(
            ids[1:-1]
        )
        assert tokenizer.hf.decode(ids[1:-1], clean_up_tokenization_spaces=False) == text.strip()


# ---------------------------------------------------------------- words, by which copies are found
def words_of(text):
    return hash_words(text)[0].tolist()


@given(TEXT, TEXT)
def test_words_are_found_where_they_stand_and_do_not_depend_on_what_is_around(one, other):
    _, starts, ends = hash_words(one)
    assert (
        all(0 <= start < end <= len(one) for start, end in zip(starts, ends, strict=True))
        and (starts[1:] >= ends[:-1]).all()
    )
    assert words_of(one + " " + other) == words_of(one) + words_of(other)
    assert words_of(" ".join(one[start:end] for start, end in zip(starts, ends, strict=True))) == words_of(
        one
    )  # the same again


@given(
    st.lists(
        st.text(
            st.characters(min_codepoint=0x41, max_codepoint=0x17F, categories=["Lu", "Ll"]),
            min_size=1,
            max_size=8,
        ),
        max_size=8,
    )
)
def test_words_are_blind_to_case_accents_and_marks(words):
    import unicodedata

    plain = words_of(" ".join(words))
    assert (
        words_of("".join(c.lower() for c in ", ".join(words)))
        == plain
        == words_of(unicodedata.normalize("NFD", "-".join(words)))
    )


# ---------------------------------------------------------------- chat
TURNS = st.lists(
    st.fixed_dictionaries(
        {
            "from": st.sampled_from(["human", "gpt", "human", "gpt", "system", "x"]),
            "value": TEXT | st.just(""),
        }
    ),
    max_size=6,
)


@given(
    TURNS
    | st.lists(st.tuples(TEXT, TEXT), max_size=3).map(
        lambda pairs: [
            {"from": w, "value": v or "x"} for p in pairs for w, v in zip(("human", "gpt"), p, strict=True)
        ]
    )
)
def test_a_conversation_is_a_row_or_has_a_reason(turns):
    messages, reason = sharegpt.to_messages(turns)
    assert (messages is None) == bool(reason)
    if messages:
        check_row({"id": "1", **sharegpt.COMMON, "messages": messages}, "here")
        assert [m["content"] for m in messages] == [turn["value"].strip() for turn in turns[: len(messages)]]


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_what_a_model_is_asked_with_is_the_beginning_of_what_it_was_taught(pairs):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (Path(__file__).parents[1] / "recipes" / "chat_template.jinja").read_text()
    messages = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    taught = tokenizer.apply_chat_template(messages, tokenize=False)
    for turn in range(0, len(messages), 2):
        asked = tokenizer.apply_chat_template(
            messages[: turn + 1], tokenize=False, add_generation_prompt=True
        )
        assert taught.startswith(asked)
        assert taught[len(asked) :].startswith(
            f" {messages[turn + 1]['content'].strip()}{tokenizer.eos_token}"
        )
