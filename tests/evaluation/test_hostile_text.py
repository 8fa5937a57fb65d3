"""Model output written to hang a scorer: every parser and scorer takes time linear in its length."""

import time

import pytest

from data_prep.benchmarks.hoc import LABELS as HALLMARKS
from data_prep.benchmarks.mtsamples import SPECIALTIES
from evaluation.diagnosis import differential, matching, server_judge
from evaluation.scoring import metrics, parsing, reference_scorer

PIECES = (
    "<answer>",
    "<span class=",
    "(",
    "[",
    "{",
    "1. a",
    "1. a\n",
    "<a",
    "<!--",
    "* ",
    "**",
    "<![",
    "A, ",
    " ",
    "answer is ",
)
ENTITY = '<span class="problem">a cough</span>'
OPTIONS = ("Mesenteric ischemia", "Gout", "A (b)", "Appendicitis")


def paper(task, scoring):
    row = {"task": task, "scoring": scoring, "completion": ENTITY, "choices": SPECIALTIES}
    return lambda text: reference_scorer.grade(row | {"output": text})


def strict(scoring, gold):
    return lambda text: metrics.grade(
        {"scoring": scoring, "completion": gold, "output": text, "choices": ["problem"]}
    )


READERS = {
    "choice": lambda text: parsing.parse_choice(text, list("ABCD"), OPTIONS),
    "names": lambda text: parsing.parse_choice(text, SPECIALTIES),
    "labels": lambda text: parsing.parse_labels(text, HALLMARKS),
    "span": strict("span", "5 mg"),
    "entities": strict("entities", ENTITY),
    "summary": strict("summary", "No acute process."),
    "number": parsing.parse_number,
    "date": lambda text: parsing.parse_number(text, dated=True),
    "differential": differential.parse_differential,
    "matcher": lambda text: matching.Matcher().same(text, "Gout (acute)", ["podagra"]),
    "names of a disease": matching.names_of,
    "verdict": server_judge.read_verdict,
    "paper's choice": paper("mtsamples", "choice"),
    "paper's entities": paper("i2b2", "entities"),
    "paper's span": paper("emrqa", "span"),
    "paper's summary": paper("mimic_cxr", "summary"),
}


@pytest.mark.parametrize("name", READERS)
def test_time_is_linear_in_the_length_of_hostile_text(name):
    def seconds(text):
        started = time.process_time()
        READERS[name](text)
        return time.process_time() - started

    READERS[name]("warm")  # imports and compiled patterns
    for piece in PIECES:
        for start in ("", "<span class=" if name == "entities" else "Diagnosis: "):
            short, long = ((start + piece * (size // len(piece) + 1))[:size] for size in (25_000, 100_000))
            first = seconds(short)
            assert first < 4, (
                piece,
                first,
            )  # of processor time; a quadratic reader needs minutes for the long text
            second = seconds(long)
            if second >= 6 * max(first, 0.02):  # once more: the machine may be busy
                first, second = seconds(short), seconds(long)
            assert second < 6 * max(first, 0.02), (piece, start, first, second)
