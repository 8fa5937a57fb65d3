"""cleaning.py: each step on texts that need it and on texts that must stay as they are, and the switches of
the YAML."""

import os
import pickle
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data_prep.corpus.cleaning import (
    STEPS,
    Drop,
    RegexWordTokenizer,
    deidentification,
    encoding,
    make_cleaner,
    quality,
    short,
)
from data_prep.schema import BadInput


def document(text, source="redpajama", domain="general", **meta) -> dict:
    return {
        "id": f"{source}:1",
        "text": text,
        "source": source,
        "domain": domain,
        "license": "l",
        "access": "public",
        "meta": meta,
    }


def page(sentences=40, seed=0) -> str:
    """A web page that all four filters keep: two sentences a line, all different, with the words that every
    English text has."""
    numbers, names = (
        random.Random(seed),
        [
            f"{a}{b}"
            for a in ("ma", "to", "ri", "ke", "lu", "sa")
            for b in ("ron", "vel", "dic", "pam", "ston", "gle")
        ],
    )
    words = [*names, "the", "of", "and", "that", "have", "with"]
    sentence = lambda: " ".join(numbers.choice(words) for _ in range(14)).capitalize() + "."  # noqa: E731
    return "\n".join(f"{sentence()} {sentence()}" for _ in range(sentences // 2))


# --- encoding ---


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("cafÃ© and â€œquotesâ€\x9d", "café and “quotes”"),
        ("nai\u0308ve", "naïve"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\x00b\x07 c\ufeff", "ab c"),
        ("two  \t\n\n\nlines \n\n", "two\n\n\nlines"),
        ("p &lt; 0.05 &amp; more", "p < 0.05 & more"),
        ("<b>p &lt; 0.05</b>", "<b>p &lt; 0.05</b>"),
        ("half \ud83d a pair", "half \ufffd a pair"),
        ("NO-BREAK\u00a0space, 5 µg, ≥3 °C, “curly”, ﬁ", "NO-BREAK\u00a0space, 5 µg, ≥3 °C, “curly”, ﬁ"),
        (" FINDINGS: indented by one space stays.", " FINDINGS: indented by one space stays."),
    ],
)
def test_encoding(raw, clean):
    assert encoding(raw) == clean
    assert encoding(clean) == clean


def test_encoding_leaves_entities_where_told():
    assert encoding("p &lt; 0.05", unescape_html=False) == "p &lt; 0.05"


def test_the_blocks_of_an_article_are_counted_right_or_not_at_all():
    """The instruction sources made of PMC documents take them apart by meta.blocks."""
    text, blocks = (
        "Title\n\nAbstract \u00e2\u0080\u0093 one.\n\nBody\u0000 two.",
        {"title": 1, "abstract": 1, "body": 1},
    )
    cleaned, _ = make_cleaner({"encoding": {}})(document(text, "pmc", "biomedical", blocks=blocks))
    assert cleaned["text"] == "Title\n\nAbstract – one.\n\nBody two." and cleaned["meta"] == {
        "blocks": blocks
    }
    cleaned, _ = make_cleaner({"encoding": {}})(
        document("\x07\n\n" + text, "pmc", "biomedical", blocks=blocks, pmid="1")
    )
    assert cleaned["text"].startswith("Title") and cleaned["meta"] == {"pmid": "1"}


# --- de-identification marks ---

MIMIC_III = """Admission Date:  [**2118-6-2**]       Discharge Date:  [**2118-6-14**]

Name: [**Known lastname 123**],[**Known firstname **]
[**Hospital1 18**] [**Location (un) 86**], [**Numeric Identifier 4**]
HISTORY OF PRESENT ILLNESS:  Dr. [**First Name8 (NamePattern2)
**] [**Last Name**] saw her on [**6-3**].
"""


def test_marks_become_one_token():
    assert deidentification(MIMIC_III) == (
        "Admission Date:  ___       Discharge Date:  ___\n\nName: ___,___\nHISTORY OF PRESENT ILLNESS:  "
        "Dr. ___ ___ saw her on ___.\n"
    )
    assert deidentification(MIMIC_III, token="[hidden]").count("[hidden]") == 7
    assert deidentification(MIMIC_III, marks="keep") == MIMIC_III


def test_marks_are_deleted_with_the_blank_before_them():
    assert deidentification(MIMIC_III, marks="delete") == (
        "Admission Date:       Discharge Date:\n\nName:,\nHISTORY OF PRESENT ILLNESS:  Dr. saw her on.\n"
    )


def test_marks_of_mimic_iv_and_cxr():
    note = " \nName:  ___                    Unit No:   ___\n \n___\n- ___.\nThe ___ year old was seen by Dr.___ at 3pm.\n________________\n"
    note += "A rating_of_3 __ stays"
    assert deidentification(note) == note.replace("___\n- ___.\n", "")
    assert deidentification(note, marks="delete").startswith(
        " \nName:                    Unit No:\n \nThe year old was seen by Dr. at 3pm.\n____"
    )


def test_a_mark_that_never_closes_takes_nothing_with_it():
    text = "Seen [**Last Name by Dr. Smith. " + "Long story. " * 50 + "**] and [**Name**]"
    assert deidentification(text) == text.replace("[**Name**]", "___")


# --- short, quality ---


def test_short():
    assert short("x" * 99) == "fewer than 100 characters" and isinstance(short("x" * 99), Drop)
    assert short("x" * 100) == "fewer than 15 words"
    assert short("word " * 20) == "word " * 20
    assert short("ab cd", characters=5, words=2) == "ab cd"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (lambda: page(2), "gopher_short_doc"),
        (lambda: "The same line again and again, with it.\n" * 40, "dup_line_frac"),
        (lambda: "the river and " * 200, "top_2_gram"),
        (lambda: re.sub(r"(\w+ \w+ )", r"#\1", page()), "gopher_too_many_hashes"),
        (lambda: re.sub(r"\b(the|of|and|that|have|with)\b", "plus", page(), flags=re.IGNORECASE), "gopher_enough_stop_words"),
        (lambda: page() + "\nif (x) { return the_rest; } of that.", "curly_bracket"),
        (lambda: page() + "\nLorem ipsum dolor sit amet, and so on.", "lorem_ipsum"),
        (lambda: page().replace(".", "").replace("\n", " "), "too_few_sentences"),
        (lambda: "".join(f"- {word} {i}\n" for i, word in enumerate(page(200).split())), "gopher_too_many_bullets"),
        (lambda: page(8).replace(".\n", ";\n").strip("."), "line_punct_ratio"),
        (lambda: re.sub(r"((\w+ ){3}\w+) ((\w+ ){3}\w+) ", r"\1\n\3.\n", page(80).replace(".", "")), "short_line_ratio"),
    ],
)  # fmt: skip
def test_quality_drops_with_the_reason_of_the_library(text, reason):
    assert quality(text()) == reason


def test_quality_keeps_a_page_and_takes_out_single_lines():
    assert quality(page()) == page()
    with_lines = page() + "\nThis site uses cookies, as you know.\nPlease enable Javascript to see the page."
    assert quality(with_lines) == page()
    assert quality(with_lines, c4=None) == with_lines
    assert quality(page(2), gopher_quality={"min_doc_words": 20}, c4=None, fineweb=None) == page(2)


def test_words_and_sentences_of_the_filters():
    tokenizer = RegexWordTokenizer()
    assert tokenizer.word_tokenize("It's 3.5 mg/dL (p<0.05), well-known...") == [
        "It's",
        "3.5",
        "mg/dL",
        "(",
        "p",
        "<",
        "0.05",
        "),",
        "well-known",
        "...",
    ]
    assert tokenizer.sent_tokenize('One. "Two!" Three 3.5') == ["One.", '"Two!"', "Three 3.5"]
    assert (
        tokenizer.sent_tokenize("") == []
        and hash(tokenizer) == hash(RegexWordTokenizer())
        and tokenizer == RegexWordTokenizer()
    )


# --- the list of steps ---

ALL = {
    "quality": True,
    "short": [{"domains": ["clinical"], "characters": 30, "words": 5}, {}],
    "encoding": {},
    "deidentification": {"marks": "token"},
}


def test_cleaner_counts_what_it_changed_and_leaves_the_input_alone():
    cleaner = make_cleaner(ALL)
    note = document("Seen by Dr. [**Name**] in cafÃ© rooms.", "mimic_iii", "clinical")
    before = dict(note)
    cleaned, reason = cleaner(note)
    assert cleaned == {**note, "text": "Seen by Dr. ___ in café rooms."} and reason is None and note == before
    unchanged = document(page())
    assert cleaner(unchanged) == (unchanged, None) and cleaner(unchanged)[0] is unchanged
    assert cleaner(document("x" * 50)) == (None, "short: fewer than 100 characters")
    assert cleaner(document("[**Name**]\n ___" + "\n___" * 50, "mimic_iii", "clinical")) == (
        None,
        "deidentification: no text left",
    )
    assert cleaner.changed == Counter({("mimic_iii", "encoding"): 1, ("mimic_iii", "deidentification"): 1})


def test_steps_run_in_their_own_order_and_only_where_they_belong():
    assert [name for name, _ in make_cleaner(ALL).steps] == list(STEPS)
    cleaner = make_cleaner(ALL)
    blanks = "Fill in the blanks: ___ is the capital of ___, and so on for the rest of the page. [**Not a note**] It goes on and on."
    kept = lambda **kind: cleaner(document(blanks, **kind))[0] is not None  # noqa: E731
    assert cleaner(document(blanks, "plain"))[1] == "quality: gopher_short_doc"
    assert cleaner(document(blanks, slice="c4"))[1] == "quality: gopher_short_doc"
    assert kept(slice="github") and kept(slice="arxiv"), "code and formulas are no web pages"
    assert cleaner(document(blanks, "pubmed", "biomedical"))[0]["text"] == blanks
    only = make_cleaner({"short": {"sources": ["pubmed"], "words": 99}})
    assert only(document(blanks))[0] and only(document(blanks, "pubmed"))[1] == "short: fewer than 99 words"


def test_what_is_not_named_does_not_run():
    dirty = document("cafÃ© ")
    for config in (None, {}, {"encoding": False, "short": None, "quality": False}):
        assert make_cleaner(config)(dirty) == (dirty, None)


def test_a_cleaner_can_be_sent_to_a_worker():
    cleaner = pickle.loads(pickle.dumps(make_cleaner(ALL)))
    assert (
        cleaner(document("x" * 50))[1] == "short: fewer than 100 characters"
        and cleaner(document(page()))[1] is None
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"spelling": {}}, "unknown step 'spelling'"),
        (
            {"short": {"chars": 3}},
            "short: unknown key 'chars' .known: domains, sources, slices, characters, words",
        ),
        (
            {"short": [{}, {"domains": ["medical"]}]},
            "short: domains: 0: must be 'biomedical', 'clinical' or 'general', found 'medical'",
        ),
        ({"short": {"words": "many"}}, "cleaning: short: words: must be a valid integer"),
        (
            {"deidentification": {"marks": "surrogate"}},
            "marks: must be 'token', 'delete' or 'keep', found 'surrogate'",
        ),
        ({"quality": {"c4": {"strict": True}}}, "quality: .*strict"),
    ],
)
def test_bad_settings_are_named_before_any_document(config, message):
    with pytest.raises(BadInput, match=message):
        make_cleaner(config)


def test_the_logs_of_datatrove_show_no_text():
    """By default its logger prints the values of variables beside each line of a traceback."""
    code = """
import data_prep.corpus.cleaning
from datatrove.utils.logging import logger
def step(note):
    return note["text"]
try:
    step("".join(["patient ", "Doe"]))
except TypeError:
    logger.exception("failed")
"""
    root, environment = (
        Path(__file__).resolve().parents[2],
        {key: value for key, value in os.environ.items() if key != "LOGURU_DIAGNOSE"},
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=environment | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert "failed" in done.stderr and "TypeError" in done.stderr and "patient Doe" not in done.stderr
