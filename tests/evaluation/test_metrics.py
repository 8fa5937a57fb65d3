"""The strict metrics: vectors worked out by hand, and what must hold whatever the answers are."""

import math
import random

import numpy as np
import pytest

from evaluation.scoring import compare, metrics

ANSWER = ["yes", "no", "maybe"]


def choice_rows(golds, outputs, choices):
    rows = [
        {"id": str(i), "scoring": "choice", "choices": choices, "completion": gold, "output": output}
        for i, (gold, output) in enumerate(zip(golds, outputs, strict=True))
    ]
    return [row | metrics.grade(row) for row in rows]


def test_macro_f1_is_over_the_declared_labels():
    rows = choice_rows(["yes", "yes", "no", "no"], ["yes", "I do not know", "no", "maybe"], ANSWER)
    assert metrics.value(rows, "macro_f1") == pytest.approx(
        4 / 9
    )  # maybe is wrongly given: 0; an unparsed answer is not a class
    assert metrics.value(rows, "accuracy") == 0.5
    assert [row["parsed"] for row in rows] == ["yes", None, "no", "maybe"]


def test_classes_and_confusion_count_every_row():
    rows = choice_rows(["yes", "yes", "no", "no"], ["yes", "I do not know", "no", "maybe"], ANSWER)
    yes, no, maybe = metrics.classes(rows)
    assert yes == {
        "label": "yes",
        "gold": 2,
        "predicted": 1,
        "right": 1,
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
    }
    assert (no["f1"], maybe["precision"], maybe["recall"], maybe["f1"]) == (
        pytest.approx(2 / 3),
        0.0,
        None,
        0.0,
    )
    table = metrics.confusion(rows)
    assert table["parsed"] == [*ANSWER, "unparsed"] and table["counts"] == [
        [1, 0, 0, 1],
        [0, 1, 1, 0],
        [0, 0, 0, 0],
    ]


def test_ddi_with_and_without_false():
    labels = ["DDI-effect", "DDI-int", "DDI-false"]
    rows = choice_rows(
        ["DDI-effect", "DDI-int", "DDI-false", "DDI-false"],
        ["DDI-effect", "DDI-false", "DDI-false", "DDI-int"],
        labels,
    )
    assert metrics.names(rows) == ("accuracy", "macro_f1", "macro_f1_positive", "micro_f1_positive")
    assert metrics.value(rows, "macro_f1") == pytest.approx((1 + 0 + 0.5) / 3)
    assert metrics.value(rows, "macro_f1_positive") == pytest.approx(0.5)
    assert metrics.value(rows, "micro_f1_positive") == pytest.approx(2 * 1 / (2 + 2))


def test_a_label_that_no_row_wants_or_gives_does_not_lower_a_perfect_score():
    rows = choice_rows(["yes", "no"], ["yes", "no"], ANSWER)
    assert metrics.value(rows, "macro_f1") == 1.0


HALLMARKS = ["sustaining proliferative signaling", "tumor promoting inflammation", "resisting cell death"]


def test_labels_macro_f1_skips_a_label_absent_from_gold_and_output():
    rows = [
        {
            "id": "1",
            "scoring": "labels",
            "choices": HALLMARKS,
            "completion": "; ".join(HALLMARKS[:2]),
            "output": HALLMARKS[0],
        }
    ]
    rows = [row | metrics.grade(row) for row in rows]
    assert metrics.value(rows, "macro_f1") == pytest.approx(0.5)  # 1.0 and 0.0; the third has no F1
    assert metrics.value(rows, "micro_f1") == pytest.approx(2 / 3)


def test_span_scores_words_not_characters():
    assert metrics.span_f1("aspirin 81 mg daily", "aspirin 81 mg daily") == 1.0
    assert metrics.span_f1("cab", "abc") == 0.0
    assert metrics.span_f1("now", "no w") == 0.0
    assert metrics.span_f1("The aspirin.", "aspirin") == 1.0
    assert metrics.span_f1("pain pain", "pain") == pytest.approx(
        2 / 3
    )  # a multiset: the second word is not found again
    assert metrics.span_f1("", "aspirin") == 0.0
    assert metrics.span_tokens("5.0 mg") != metrics.span_tokens("50 mg")
    row = {"id": "1", "scoring": "span", "completion": "chest pain", "output": "pain chest"}
    assert metrics.grade(row)["score"] == {"exact_match": 0.0, "word_f1": 1.0}


TYPES = ["problem", "treatment", "test"]
GOLD = (
    'He has <span class="problem">chest pain</span> and took <span class="treatment">aspirin</span> '
    'before the <span class="test">chest x-ray</span> for <span class="problem">a cough</span> .'
)


def recall(output, gold=GOLD):
    counts = metrics.entity_counts(output, gold, TYPES)
    return sum(c[0] for c in counts.values()) / sum(c[2] for c in counts.values())


@pytest.mark.parametrize(
    ("output", "right", "predicted"),
    [
        (GOLD, 4, 4),
        ("", 0, 0),
        ("I cannot help with that.", 0, 0),
        ("Output: " + GOLD, 4, 4),
        ("<p>" + GOLD + "</p>", 4, 4),
        (GOLD.replace('"problem"', '"Problem"'), 4, 4),
        (GOLD.replace("class=", "CLASS = "), 4, 4),
        (GOLD.replace("and took", "took"), 4, 4),  # a word dropped outside
        (GOLD.replace("chest pain", "pain", 1), 3, 4),  # other borders
        (GOLD.replace('"test"', '"treatment"'), 3, 4),  # other type
        (GOLD.replace('"test"', '"hospital"'), 3, 4),  # an undeclared type is a wrong one
        (GOLD.replace("aspirin</span>", "aspirin"), 3, 3),  # never closed
        (GOLD + " " + GOLD, 4, 8),  # said twice
        (GOLD.replace("He has", "<hospital> He has"), 4, 4),  # another tag is text
    ],
)
def test_entities(output, right, predicted):
    counts = metrics.entity_counts(output, GOLD, TYPES)
    assert [sum(c[i] for c in counts.values()) for i in range(3)] == [right, predicted, 4]


def test_a_cut_output_never_raises_recall():
    rng = random.Random(0)
    for _ in range(30):
        words = [rng.choice(["pain", "cough", "aspirin", "x", "and", "the", "scan"]) for _ in range(40)]
        marked = [f'<span class="{rng.choice(TYPES)}">{w}</span>' if rng.random() < 0.3 else w for w in words]
        gold = " ".join(marked)
        wrong = " ".join(w for w in marked if rng.random() < 0.95)
        for output in (gold, wrong):
            full = recall(output, gold)
            assert recall(output[: rng.randrange(len(output))], gold) <= full
        assert recall(gold, gold) == 1.0


def test_entity_f1_counts_documents_without_an_answer():
    rows = [
        {
            "id": str(i),
            "scoring": "entities",
            "choices": TYPES,
            "completion": GOLD,
            "output": GOLD if i == 0 else "",
        }
        for i in range(100)
    ]
    rows = [row | metrics.grade(row) for row in rows]
    assert metrics.value(rows, "micro_f1") == pytest.approx(2 * 4 / (4 + 400))
    assert metrics.value(rows, "macro_f1") == pytest.approx(2 / 101)


def test_entity_f1_without_entities_is_not_defined():
    rows = [
        {
            "id": "1",
            "scoring": "entities",
            "choices": TYPES,
            "completion": "All is well.",
            "output": "All is well.",
        }
    ]
    assert math.isnan(metrics.value([row | metrics.grade(row) for row in rows], "macro_f1"))


def test_rouge_knows_letters_beyond_ascii():
    def rouge(output, gold):
        return metrics.grade({"id": "1", "scoring": "summary", "completion": gold, "output": output})["score"]

    assert rouge("β-blocker", "α blocker")["rouge1"] == pytest.approx(0.5)
    assert rouge("", "No acute process.")["rougeL"] == 0.0
    assert rouge("the heart is normal", "heart size is normal")["rougeL"] == pytest.approx(0.75)
    assert rouge("the heart is normal", "heart size is normal")["rouge2"] == pytest.approx(1 / 3)


def test_log_likelihood_plain_and_per_byte():
    row = {
        "id": "1",
        "scoring": "choice",
        "choices": ["A", "B"],
        "options": ["x", "a long one"],
        "question": "?",
        "completion": "B",
    }
    assert metrics.grade(row | {"output": [[-2.0, 1], [-5.0, 10]]}) == {
        "parsed": "A",
        "score": {"accuracy": 0.0, "accuracy_norm": 1.0},
    }
    assert metrics.grade(row | {"output": []})["parsed"] is None  # over-long
    assert metrics.primary([row | {"output": []}]) == "accuracy"


def test_draws_of_a_macro_f1_are_a_bootstrap():
    rng = random.Random(1)
    golds = [rng.choice(ANSWER) for _ in range(60)]
    rows = choice_rows(golds, [g if rng.random() < 0.6 else rng.choice(ANSWER) for g in golds], ANSWER)
    counts, finish = metrics.statistics(rows)["macro_f1"]
    # the weights of one draw, by kind of row, are rows drawn with replacement: the metric of these rows is
    # the draw's
    distinct, kinds = np.unique(counts, axis=0, return_inverse=True)
    weights = np.random.default_rng(0).multinomial(60, np.bincount(kinds) / 60, size=100)
    one_of = {kind: rows[place] for place, kind in enumerate(kinds)}
    slow = [
        metrics.value([one_of[kind] for kind, times in enumerate(draw) for _ in range(times)], "macro_f1")
        for draw in weights[:20]
    ]
    assert metrics.draws(counts, finish, seed=0)[:20] == pytest.approx(slow)
    # and they spread as plain resampling spreads
    plain = [metrics.value(rng.choices(rows, k=60), "macro_f1") for _ in range(1000)]
    fast = metrics.draws(counts, finish)
    assert np.mean(fast) == pytest.approx(np.mean(plain), abs=0.01) and np.std(fast) == pytest.approx(
        np.std(plain), rel=0.15
    )


def test_interval_covers_and_is_deterministic():
    rows = choice_rows(["yes"] * 100, ["yes"] * 70 + ["no"] * 30, ANSWER)
    counts, finish = metrics.statistics(rows)["accuracy"]
    low, high = metrics.interval(metrics.draws(counts, finish))
    assert 0.58 < low < 0.66 < 0.7 < 0.75 < high < 0.82  # 0.7 +- 1.96 * sqrt(0.21 / 100) = 0.61 to 0.79
    assert (low, high) == metrics.interval(metrics.draws(counts, finish))


def test_pairing_narrows_the_interval_and_needs_the_same_rows():
    golds = [ANSWER[i % 2] for i in range(200)]
    worse = choice_rows(golds, [gold if i % 2 else "maybe" for i, gold in enumerate(golds)], ANSWER)
    better = choice_rows(
        golds, [gold if i % 2 or i % 20 == 0 else "maybe" for i, gold in enumerate(golds)], ANSWER
    )
    difference, values = metrics.paired_difference(better, worse, "accuracy")
    low, high = metrics.interval(values)
    assert difference == pytest.approx(0.05) and 0 < low < 0.05 < high < 0.09
    assert (
        metrics.p_value(values)
        < 0.01
        < metrics.p_value(metrics.paired_difference(better, better[:], "macro_f1")[1])
    )
    with pytest.raises(ValueError, match="same rows"):
        metrics.paired_difference(better, worse[1:], "accuracy")


def test_ratio_of_perplexities_is_weighted_by_tokens():
    old = {"nll": [20.0, 200.0], "tokens": [10, 100]}
    new = {"nll": [20.0, 200.0 + 110 * math.log(1.2)], "tokens": [10, 100]}
    ratio, values = metrics.ratio_of_perplexities(new, old)
    assert ratio == pytest.approx(1.2) and len(values) == metrics.DRAWS
    with pytest.raises(ValueError, match="same blocks"):
        metrics.ratio_of_perplexities(new | {"tokens": [100, 10]}, old)


def test_mcnemar_exact():
    assert metrics.mcnemar([True] * 5, [True] * 5) == 1.0
    assert metrics.mcnemar([True] * 6, [False] * 6) == pytest.approx(2 / 64)
    assert metrics.mcnemar([True, True, False, True], [False, True, True, True]) == 1.0


def test_an_interval_has_a_width_where_all_rows_agree():
    rows = [
        {"id": str(i), "task": "t", "scoring": "choice", "choices": ["A", "B"], "completion": "A"}
        for i in range(20)
    ]
    rows = [row | {"output": "A", "options": ["x", "y"]} for row in rows]
    rows = [row | metrics.grade(row) for row in rows]
    counts, finish = metrics.statistics(rows)["accuracy"]
    right = metrics.estimate(1.0, metrics.draws(counts, finish), len(rows))
    assert right["high"] == 1.0 and right["low"] == pytest.approx(0.8389, abs=1e-4)  # Wilson, 20 of 20
    difference, drawn = metrics.paired_difference(rows, rows, "accuracy")
    both = metrics.estimate(difference, drawn, len(rows), difference=True)
    assert both["value"] == 0 and both["high"] == -both["low"] == pytest.approx(0.1611, abs=1e-4)
    assert compare.compare(rows, rows)["metrics"]["accuracy"]["high"] > 0.1
