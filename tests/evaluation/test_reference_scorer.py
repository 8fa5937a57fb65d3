"""The paper's scorer: for each of its faults the inputs and results that were observed."""

import random
import string

import pytest

from data_prep.benchmarks.ddi import LABELS as DDI
from data_prep.benchmarks.hoc import LABELS as HALLMARKS
from data_prep.benchmarks.mtsamples import SPECIALTIES
from evaluation.scoring import metrics, reference_scorer

CHOICES = {
    "medqa": list("ABCDE"),
    "medmcqa": list("ABCD"),
    "pubmedqa": ["yes", "no", "maybe"],
    "mednli": ["entailment", "contradiction", "neutral"],
    "mtsamples": SPECIALTIES,
    "ddi": DDI,
    "hoc": HALLMARKS,
    "i2b2": ["problem", "treatment", "test"],
}
SCORINGS = {
    "hoc": "labels",
    "emrqa": "span",
    "i2b2": "entities",
    "mimic_cxr": "summary",
    "pubmed_summ": "summary",
}


def graded(task, pairs):
    """Rows of (output, gold), with both grades."""
    rows = []
    for number, (output, gold) in enumerate(pairs):
        row = {
            "id": str(number),
            "task": task,
            "scoring": SCORINGS.get(task, "choice"),
            "output": output,
            "completion": gold,
        }
        row |= {"choices": CHOICES[task]} if task in CHOICES else {}
        row |= metrics.grade(row)
        rows.append(row | {"paper": reference_scorer.grade(row)})
    return rows


def value(rows, name):
    """One metric of the paper's scorer, without an interval."""
    counts, finish = reference_scorer.statistics(rows)[name]
    return reference_scorer.point(name, counts, finish, metrics.draws(counts, finish))


@pytest.mark.parametrize(
    ("task", "output", "theirs", "ours"),
    [
        ("medqa", "Answer: C", "A", "C"),  # C1
        ("medqa", "C. Acute pancreatitis", "A", "C"),
        ("medqa", "Based on the findings, the answer is D", "B", "D"),
        ("medqa", "Diagnosis: E", "D", "E"),
        ("medqa", "(c)", None, "C"),
        ("medmcqa", "Abdomen", "A", None),
        ("medqa", "Start an ACE inhibitor", "A", None),
        ("medqa", "Option D, not A", "A", "D"),  # C2
        ("mednli", "This is not an entailment, it is neutral", "entailment", "neutral"),
        ("pubmedqa", "It is not known", "no", None),  # C3
        ("pubmedqa", "I cannot tell", "no", None),
        ("pubmedqa", "The diagnosis is uncertain, maybe", "no", "maybe"),
        ("pubmedqa", "red eyes were seen, so the answer is no", "yes", "no"),
        ("pubmedqa", "Bayesian analysis: no", "yes", "no"),
        ("mtsamples", "Neurosurgery", "Surgery", "Neurosurgery"),  # C4
        ("mtsamples", "Cosmetic / Plastic Surgery", "Surgery", "Cosmetic / Plastic Surgery"),
        ("mtsamples", "Neurology", "Urology", "Neurology"),
        # in the published order: Surgery, Allergy / Immunology, Sleep Medicine, ..., Autopsy is 26th, Urology
        # 31st
        ("mtsamples", "Between Autopsy and Urology, the best fit is Urology.", "Autopsy", None),
        (
            "mtsamples",
            "Urology. The note might also be filed under Sleep Medicine.",
            "Sleep Medicine",
            "Urology",
        ),
        ("mtsamples", "Dentistry or Dermatology", "Dermatology", None),
        ("mtsamples", "Neurology, not Radiology", "Radiology", "Neurology"),
        ("ddi", "ddi-effect", None, "DDI-effect"),  # D1
        ("ddi", "effect", None, "DDI-effect"),
        ("ddi", "DDI-effect. There is no DDI-false.", None, "DDI-effect"),
        ("ddi", "DDI-int\nINPUT: a further example\nOUTPUT:\nDDI-false", None, "DDI-int"),
        ("ddi", "DDI-effect", "DDI-effect", "DDI-effect"),
    ],
)
def test_labels_as_they_were_read(task, output, theirs, ours):
    [row] = graded(task, [(output, CHOICES[task][0])])
    assert (row["paper"]["parsed"], row["parsed"]) == (theirs, ours)


def test_the_published_order_of_mtsamples_has_all_of_its_labels():
    assert sorted(reference_scorer.MTSAMPLES_ORDER) == sorted(SPECIALTIES)


def test_a_perfect_model_cannot_reach_1_on_mtsamples():
    rows = graded("mtsamples", [(label, label) for label in SPECIALTIES])
    assert value(rows, "accuracy") == 0.925 and value(rows, "macro_f1") == pytest.approx(0.904, abs=5e-4)
    assert metrics.value(rows, "accuracy") == metrics.value(rows, "macro_f1") == 1.0


def test_macro_f1_is_over_the_labels_of_the_gold_answers():  # C5
    rows = graded("pubmedqa", [("yes", "yes"), ("I do", "yes"), ("no", "no"), ("maybe", "no")])
    assert value(rows, "macro_f1") == pytest.approx(2 / 3) and metrics.value(
        rows, "macro_f1"
    ) == pytest.approx(4 / 9)


def test_ddi_has_one_number_over_five_labels():  # D2
    rows = graded("ddi", [("DDI-false", "DDI-false"), ("DDI-false", "DDI-int")])
    assert list(reference_scorer.statistics(rows)) == ["macro_f1"]
    assert (
        value(rows, "macro_f1") == pytest.approx((2 / 3 + 0) / 2)
        and metrics.value(rows, "macro_f1_positive") == 0.0
    )


def test_hallmarks():  # H1, H2
    sustaining, inflammation = HALLMARKS[8], HALLMARKS[9]
    for output, found in (
        (sustaining.capitalize(), []),
        ("tumor-promoting inflammation", []),
        (f"not {sustaining}", [sustaining]),
    ):
        assert graded("hoc", [(output, sustaining)])[0]["paper"]["parsed"] == found
    rows = graded("hoc", [(f"{sustaining}; {inflammation}", f"{sustaining}; {inflammation}")])
    assert value(rows, "macro_f1") == pytest.approx(0.2) and metrics.value(rows, "macro_f1") == 1.0


@pytest.mark.parametrize(
    ("output", "gold", "exact", "f1"),
    [
        ("chest pain", "pain chest", 0.0, 1.0),  # E1
        ("abc", "cab", 0.0, 1.0),
        ("now", "no w", 1.0, None),
        ("aspirin 81 mg daily", "aspirin 81 mg daily", 1.0, 0.8125),  # E2
        ("", "aspirin", 0.0, 0.0),
        ("Aspirin.", "aspirin", 1.0, None),
    ],
)
def test_spans_by_character(output, gold, exact, f1):
    score = reference_scorer.span_scores(output, gold)
    assert score["exact_match"] == exact and (f1 is None or score["f1"] == f1)


def test_an_exact_span_scores_less_the_longer_it_is():
    rng, words = (
        random.Random(0),
        ["".join(random.Random(i).choices(string.ascii_lowercase, k=6)) for i in range(200)],
    )
    means = []
    for length in (1, 2, 5, 12, 20):
        spans = [" ".join(rng.choices(words, k=length)) for _ in range(50)]
        means.append(sum(reference_scorer.span_scores(span, span)["f1"] for span in spans) / 50)
        assert all(metrics.span_f1(span, span) == 1.0 for span in spans)
    assert means == sorted(means, reverse=True) and means[0] > 0.85 and means[-1] < 0.25


GOLD = 'He has <span class="problem">chest pain</span> and took <span class="treatment">aspirin</span> before the <span class="test">chest x-ray</span> .'


def entity_f1(*outputs, gold=GOLD):
    return value(graded("i2b2", [(output, gold) for output in outputs]), "macro_f1")


def test_what_an_output_leaves_out_costs_nothing():  # N2
    first = GOLD[: GOLD.index(" and took")]
    assert (
        entity_f1(first) == 1.0
        and entity_f1(GOLD, *[""] * 99) == 1.0
        and entity_f1(GOLD, *["I cannot help with that."] * 99) == 1.0
    )
    rows = graded("i2b2", [(GOLD, GOLD)] + [("", GOLD)] * 99)
    assert metrics.value(rows, "micro_f1") == pytest.approx(2 * 3 / (3 + 300))


def test_one_word_that_differs_loses_what_follows():  # N3
    assert entity_f1(GOLD, "Output: " + GOLD) == 1.0  # the second is ignored, on both sides
    assert entity_f1("Output: " + GOLD) == 0.0
    assert reference_scorer.entity_counts(GOLD.replace("has ", ""), GOLD) == {
        name: [0, 0, 0] for name in reference_scorer.TYPES
    }
    assert reference_scorer.entity_counts(GOLD.replace("the ", ""), GOLD)["problem"] == [1, 1, 1]
    assert reference_scorer.entity_counts(GOLD.replace('"problem">', '"problem"> '), GOLD)["test"] == [
        0,
        0,
        0,
    ]  # a blank in the tag is a word


def test_tags_are_taken_at_their_word():  # N4, N5
    def counts(output, gold=GOLD):
        return [
            sum(those) for those in zip(*reference_scorer.entity_counts(output, gold).values(), strict=True)
        ]

    assert counts(GOLD) == [3, 3, 3]
    assert counts(f"<p>{GOLD}</p>") == [0, 0, 3]
    assert counts(GOLD.replace('"problem"', '"Problem"')) == [2, 2, 3]
    assert counts(GOLD.replace("aspirin</span>", "aspirin")) == [1, 2, 3]  # an open tag takes the rest
    assert counts(GOLD.replace("chest pain", 'chest <span class="test">pain</span>')) == [
        3,
        3,
        3,
    ]  # a tag in a tag is lost
    hospital = GOLD.replace("and took", "and at <hospital> took")
    assert counts(hospital, hospital) == [1, 1, 1] and metrics.entity_counts(
        hospital, hospital, CHOICES["i2b2"]
    )["test"] == [1, 1, 1]
    assert counts(GOLD.replace('"problem"', '"finding"'), GOLD.replace('"problem"', '"finding"')) == [2, 2, 2]


def test_the_macro_average_is_a_micro_average():  # N1
    gold = " ".join(f'<span class="{name}">w{i}</span>' for i, name in enumerate(["problem"] * 4 + ["test"]))
    rows = graded("i2b2", [(gold.replace('"test"', '"treatment"'), gold)])
    assert value(rows, "macro_f1") == pytest.approx(0.8) == metrics.value(rows, "micro_f1")
    assert metrics.value(rows, "macro_f1") == pytest.approx(1 / 3)


def test_where_texts_agree_the_cut_of_words_does_not_matter(monkeypatch):
    rng = random.Random(0)
    pairs = []
    for _ in range(200):
        words = [
            rng.choice(["pain", "x-ray,", "(5mg)", "b.i.d.", "T.", "isn't", "10%", "and/or", "B12"])
            for _ in range(12)
        ]
        mark = [lambda w: w, lambda w: f'<span class="{rng.choice(reference_scorer.TYPES)}">{w}</span>']
        pairs.append(tuple(" ".join(rng.choice(mark)(word) for word in words) for _ in range(2)))
    blank_english = [reference_scorer.entity_counts(*pair) for pair in pairs]
    monkeypatch.setattr(reference_scorer, "words", str.split)
    assert [reference_scorer.entity_counts(*pair) for pair in pairs] == blank_english


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chest pain", ["chest", "pain"]),
        (" a  b\nc ", [" ", "a", " ", "b", "\n", "c"]),
        ("(x-ray),", ["(", "x", "-", "ray", ")", ","]),
        (
            "5mg 10% patient's and/or 3+4",
            ["5", "mg", "10", "%", "patient", "'s", "and", "/", "or", "3", "+", "4"],
        ),
        ("U.S. end.", ["U.S.", "end", "."]),
    ],
)
def test_words_in_a_tag(text, words):
    assert reference_scorer.words(text) == words


def test_rouge_drops_letters_beyond_ascii_and_is_a_median():  # S1
    rows = graded("mimic_cxr", [("β-blocker", "α blocker"), ("the heart is normal", "heart size is normal")])
    assert rows[0]["paper"]["score"]["rouge1"] == 1.0 and rows[0]["score"]["rouge1"] == pytest.approx(0.5)
    assert rows[1]["paper"]["score"] == rows[1]["score"]
    words = list("abcdefghi")
    skewed = graded(
        "mimic_cxr", [(" ".join(words[: 1 + n % 9]), " ".join(words[: 5 + n % 4])) for n in range(40)]
    )
    median, mean = value(skewed, "rouge1"), metrics.value(skewed, "rouge1")
    assert median != mean and median == pytest.approx(mean, abs=0.01)


def test_no_rule_for_other_tasks_and_for_likelihoods():
    assert not reference_scorer.applies(
        {"task": "clinical_cases", "output": "x"}
    ) and not reference_scorer.applies({"task": "medqa", "output": [[-1.0, 1]]})
    assert set(reference_scorer.FAULTS) >= set(reference_scorer.NOTES) and len(reference_scorer.FAULTS) == 12
    named = {
        line.split()[0]
        for line in reference_scorer.__doc__.splitlines()
        if line.startswith("    ") and line.strip()[1:2].isdigit()
    }
    assert {fault for faults in reference_scorer.FAULTS.values() for fault in faults.split()} == named
