"""The parser on raw answers: a golden file labelled by hand, and what must hold whatever is written."""

import collections
import random
import re
import time
import unicodedata
from pathlib import Path

import pytest

from data_prep.benchmarks.ddi import LABELS as DDI
from data_prep.benchmarks.hoc import LABELS as HALLMARKS
from data_prep.benchmarks.mtsamples import SPECIALTIES
from data_prep.files import read_jsonl
from evaluation.scoring import parsing

# each line: family, choices (a name below), text, label as a careful reader takes it (null: none, several, or
# doubt), options where the question has texts; "missed": the parser is known not to read it
GOLDEN = [row for _, row in read_jsonl(Path(__file__).parents[1] / "golden" / "answers.jsonl")]
CHOICES = {
    "A-E": list("ABCDE"),
    "A-D": list("ABCD"),
    "yes/no/maybe": ["yes", "no", "maybe"],
    "nli": ["entailment", "contradiction", "neutral"],
    "bionli": ["entailment", "contradiction"],
    "ddi": DDI,
    "mtsamples": SPECIALTIES,
    "hoc": HALLMARKS,
}
LETTERS = CHOICES["A-E"]


def read(row):
    if row["choices"] == "hoc":
        return parsing.parse_labels(row["text"], HALLMARKS)
    return parsing.parse_choice(row["text"], CHOICES[row["choices"]], row.get("options", ()))[0]


def test_the_golden_file_is_large_varied_and_without_repeats():
    assert len(GOLDEN) >= 200 and set(CHOICES) == {row["choices"] for row in GOLDEN}
    keys = collections.Counter((row["choices"], row["text"], str(row.get("options"))) for row in GOLDEN)
    assert max(keys.values()) == 1
    assert (
        sum(row["label"] is None for row in GOLDEN) >= 150
    )  # answers that must not score weigh as much as those that must
    assert sum(row.get("missed", False) for row in GOLDEN) <= 0.02 * len(GOLDEN)


@pytest.mark.parametrize("family", sorted({row["family"] for row in GOLDEN}))
def test_golden_answers(family):
    wrong = []
    for row in GOLDEN:
        if row["family"] == family and (found := read(row)) != (None if row.get("missed") else row["label"]):
            wrong.append((row["text"], found, row["label"]))
    assert not wrong


def test_every_label_is_read_back_however_it_is_dressed():
    forms = (
        "{}",
        "{}.",
        " {}\n",
        "**{}**",
        "({})",
        '"{}"',
        "Answer: {}",
        "The answer is {}.",
        "The correct answer is **{}**.",
        "\\boxed{{{}}}",
        "<think>first this, then that</think>{}",
        "Final answer: {}",
        "{}\n\nINPUT: another\nOUTPUT:\nx",
        '{{"answer": "{}"}}',
    )
    for name, choices in CHOICES.items():
        for label in choices if name != "hoc" else ():
            for form in forms:
                assert parsing.parse_choice(form.format(label), choices)[0] == label, form.format(label)
                assert parsing.parse_choice(form.format(label.lower()), choices)[0] == label, form.format(
                    label.lower()
                )
    for label in HALLMARKS:
        assert parsing.parse_labels(label.upper(), HALLMARKS) == [label]
    assert parsing.parse_labels("; ".join(HALLMARKS[:9]), HALLMARKS) == HALLMARKS[:9]
    assert parsing.parse_labels("; ".join(HALLMARKS), HALLMARKS) is None  # the prompt's own list


# ---------------------------------------------------------------- an output that names no option never scores
PROSE = (
    "the patient was seen with fever and pain so therefore I think it is likely that the best option would "
    "be to wait as this seems correct to "
    "me answer : . , ; ( ) ** \" ' - Answer: Final answer: The answer is The correct option is Diagnosis: "
    "\n \n\n Therefore, thus hence Option "
    "choice Based on 12 3.5 mg % <think> </think> \\boxed{ } { } [ ] $ I'm sorry cannot help Please ask "
    "your doctor see ACE DNA HbA1c EKG CT"
)
TERMS = [
    "vitamin C",
    "hepatitis B",
    "type A",
    "E. coli",
    "C. difficile",
    "B cell",
    "D-dimer",
    "E-selectin",
    "C-reactive protein",
    "A 45-year-old",
    "A patient",
]
OTHER_TERMS = [
    "know",
    "nothing",
    "cannot",
    "noted",
    "eyes",
    "Bayesian",
    "neurosurgical",
    "effective",
    "surgeries",
    "mechanisms",
    "contradicts",
    "entails",
    "no difference",
    "no evidence",
    "unknown",
]


def sentences(rng, terms, number):
    for _ in range(number):
        yield rng.choice([" ", " ", "\n"]).join(
            rng.choice(PROSE.split(" ") if rng.random() < 0.7 else terms) for _ in range(rng.randrange(1, 25))
        )


def test_an_output_that_names_no_option_is_never_read_as_one():
    rng = random.Random(0)
    for text in sentences(rng, TERMS, 3000):
        if not re.search(r"(?i)\b(option|choice)\s+A\s", text):  # chance may put "A patient" behind "option"
            assert parsing.parse_choice(text, LETTERS)[0] is None, text
    for text in sentences(rng, OTHER_TERMS, 2000):
        for name in ("yes/no/maybe", "nli", "ddi", "mtsamples"):
            assert parsing.parse_choice(text, CHOICES[name])[0] is None, (name, text)
        assert parsing.parse_labels(text, HALLMARKS) is None, text


def test_what_is_read_is_named_in_the_text():
    def words(text):
        text = unicodedata.normalize("NFKC", text).casefold()
        return [word for word in "".join(c if c.isalnum() else " " for c in text).split() if word != "and"]

    rng = random.Random(1)
    for name, choices in CHOICES.items():
        parts = [
            part
            for choice in choices
            for part in (choice, choice.lower(), f"({choice})", f"{choice}.", f"not {choice}", f"{choice} or")
        ]
        read = 0
        for text in sentences(rng, parts, 600):
            answers = (
                parsing.parse_labels(text, choices)
                if name == "hoc"
                else [parsing.parse_choice(text, choices)[0]]
            )
            for answer in filter(None, answers or ()):
                names = [words(part) for part in (answer, *re.split(" - | / |(?<=DDI)-", answer))]
                said, read = words(text), read + 1
                assert any(said[i : i + len(those)] == those for those in names for i in range(len(said))), (
                    text,
                    answer,
                )
        assert read > 20  # of these texts many name one


def test_any_text_is_read_in_no_time():
    rng = random.Random(2)
    signs = [
        chr(c)
        for c in (*range(0x20, 0x7F), 0x0A, 0x0D, 0xA0, 0xDF, 0x3B1, 0x4E00, 0x1F600, 0xFF23, 0x200B, 0xD800)
    ]
    texts = ["".join(rng.choice(signs) for _ in range(rng.randrange(200))) for _ in range(300)]
    texts += [
        part * 1500
        for part in (
            "A ",
            "(",
            "**",
            "answer is ",
            "option A ",
            "\n",
            "not ",
            "Surgery ",
            "\"'`*_(",
            "<think>",
            "A, ",
            "- ",
            "\\text{",
        )
    ]
    for text in texts:
        for name in ("A-E", "mtsamples"):
            started = time.process_time()
            label, rule = parsing.parse_choice(text, CHOICES[name])
            assert (label is None) == (rule in ("empty", "no label", "two labels"))
            assert time.process_time() - started < 2
        parsing.parse_labels(text, HALLMARKS)


# ---------------------------------------------------------------- what of an output is the answer
def test_reasoning_and_further_examples_are_no_answer():
    assert parsing.answer_part("<think>long</think> short") == "short"
    assert parsing.answer_part("<think>cut short") == ""
    assert parsing.answer_part("No acute process.</s>and more") == "No acute process."
    assert parsing.answer_part("No acute process.\n\nINPUT: next\nOUTPUT: x") == "No acute process."
    assert (
        parsing.answer_part("CONTEXT: a structured abstract.\nContext: again")
        == "CONTEXT: a structured abstract.\nContext: again"
    )
    assert parsing.answer_part("5 mg\n\nContext: next", parsing.NEXT_QUESTION) == "5 mg"


def test_entities_of_a_text():
    words, entities = parsing.parse_entities(
        'A <span class="Problem">chest pain</span>, <span class=test>x <span class="drug">y</span></span> '
        "<b>z"
    )
    assert words == ["a", "chest", "pain", ",", "x", "y", "<", "b", ">", "z"]
    assert sorted(entities) == [("drug", 5, 6), ("problem", 1, 3), ("test", 4, 6)]
    assert parsing.parse_entities('<span class="problem">never closed')[1] == []


@pytest.mark.parametrize(
    "text",
    [
        "Mesenteric ischemia? No.",
        "Mesenteric ischemia. No, this is wrong.",
        "Mesenteric ischemia. However, the labs point elsewhere.",
        "Appendicitis (false)",
        "Appendicitis. Incorrect.",
        "Appendicitis. Not this one.",
        "Appendicitis. This was my first thought, but the pain is on the left.",
        "Answer: appendicitis (not supported by imaging)",
        "Diagnosis: appendicitis. But I would not choose it.",
        "Final diagnosis: appendicitis?",
    ],
)
def test_an_option_that_is_taken_back_is_no_answer(text):
    options = ["Mesenteric ischemia", "Diverticulitis", "Splenic abscess", "Appendicitis"]
    assert parsing.parse_choice(text, list("ABCD"), options)[0] is None
