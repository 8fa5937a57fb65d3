"""The strict metrics: from rows with an output to numbers with intervals.

A row is scored by its field `scoring` alone. Every metric here is a function of a sum over rows: a row gives
a vector of counts, the vectors are added, and `finish` turns the sum into the metric. So a bootstrap draw is
a reweighted sum, for a macro-F1 as for a mean.

What an output says is read by parsing.py; an output that says nothing is wrong. The metrics of each scoring
are in NAMES; "options" is what a row is if its output is log-likelihoods of its answers and not text. Pure
functions over rows: no file is read or written.
"""

import collections
import difflib
import functools
import math
import re

import numpy as np

from evaluation.scoring import parsing

NAMES = {
    "choice": ("accuracy", "macro_f1"),
    "labels": ("macro_f1", "micro_f1", "exact_match"),
    "span": ("exact_match", "word_f1"),
    "entities": ("macro_f1", "micro_f1"),
    "summary": ("rouge1", "rouge2", "rougeL"),
    "number": ("accuracy",),
    "options": ("accuracy", "accuracy_norm", "macro_f1"),
}
# where it is a label, F1 is given over the other labels too: the shared task scores these alone (Segura-
# Bedmar et al. 2013)
NEGATIVE = "DDI-false"
COLLAPSED = 0.95  # share of rows with one and the same answer, ours
POSITIVE_NAMES = ("macro_f1_positive", "micro_f1_positive")
DRAWS = 1000  # bootstrap draws of every interval
LEVEL = 0.95  # coverage of every interval


# ---------------------------------------------------------------- span
# After SQuAD (Rajpurkar et al. 2016): words as a multiset, without case, punctuation and articles. Not equal
# to it, hence the name word_f1: SQuAD deletes punctuation, so that 5.0 mg and 50 mg agree and x-ray is one
# word; here a point between digits stays, and other punctuation parts words.
span_tokens = parsing.span_tokens


def span_f1(prediction: str, gold: str) -> float:
    """Harmonic mean of the precision and recall of words, in [0, 1]; two empty spans agree."""
    predicted, wanted = span_tokens(prediction), span_tokens(gold)
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = sum((collections.Counter(predicted) & collections.Counter(wanted)).values())
    return 2 * common / (len(predicted) + len(wanted))


# ---------------------------------------------------------------- entities
def entity_counts(prediction: str, gold: str, types: list[str]) -> dict[str, list[int]]:
    """{type: [right, predicted, gold]} with one more key "" for predicted classes that are not in `types`.

    Predicted words are aligned to the words of the gold text, and an entity is right if it has the type and
    exactly the words of a gold one, in the same place. Every gold entity counts, whether the prediction got
    that far or not; a repeated or invented one is wrong."""
    gold_words, gold_entities = parsing.parse_entities(gold)
    words, entities = parsing.parse_entities(prediction)
    place = {}
    for a, b, size in difflib.SequenceMatcher(None, words, gold_words, autojunk=False).get_matching_blocks():
        place.update((a + i, b + i) for i in range(size))
    by_fold = {kind.casefold(): kind for kind in types}
    counts = {kind: [0, 0, 0] for kind in [*types, ""]}
    missing = set()
    for kind, start, end in gold_entities:
        counts[by_fold.get(kind, "")][2] += 1
        missing.add((kind, start, end))
    for kind, start, end in entities:
        counts[by_fold.get(kind, "")][1] += 1
        first = place.get(start)
        same = (kind, first, first + end - start) if first is not None else None
        if same in missing and all(place.get(i) == first + i - start for i in range(start, end)):
            missing.remove(same)
            counts[by_fold.get(kind, "")][0] += 1
    return counts


# ---------------------------------------------------------------- summary: ROUGE
class _Words:
    """Words of any alphabet; the tokenizer of rouge_score drops everything beyond ASCII and finds "β-blocker"
    equal to "α blocker"."""

    def tokenize(self, text):
        return re.findall(r"[^\W_]+", text.lower())


@functools.cache
def _rouge():
    from rouge_score import rouge_scorer  # imports nltk and scipy: two seconds

    return rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words())


# ---------------------------------------------------------------- a row
def kind(row: dict) -> str:
    """How the row is scored: its `scoring`, or "options" if its output is a list of log-likelihoods."""
    return "options" if isinstance(row["output"], list) else row["scoring"]


def grade(row: dict, rouge: dict | None = None) -> dict:
    """{"parsed", "score"} of a row with its `output`, and {"rule"} of a choice: which rule of the parser
    decided. `parsed` is None if no answer could be read, and then every score is that of a wrong answer. A
    log-likelihood output is [[sum of nats, bytes], ...], one for each of the row's answers. `rouge`: the
    score of a summary where it is known already."""
    scoring, output, gold = kind(row), row["output"], row["completion"]
    if scoring == "options":
        if len(output) != len(row["choices"]):  # over-long: it was not run
            return {"parsed": None, "score": {"accuracy": 0.0, "accuracy_norm": 0.0}}
        plain = row["choices"][int(np.argmax([nats for nats, _ in output]))]
        by_byte = row["choices"][int(np.argmax([nats / size for nats, size in output]))]
        return {
            "parsed": plain,
            "score": {"accuracy": float(plain == gold), "accuracy_norm": float(by_byte == gold)},
        }
    if scoring == "choice":
        parsed, rule = parsing.parse_choice(output, row["choices"], row.get("options") or ())
        return {"parsed": parsed, "rule": rule, "score": {"accuracy": float(parsed == gold)}}
    if scoring == "labels":
        parsed = parsing.parse_labels(output, row["choices"])
        return {"parsed": parsed, "score": {"exact_match": float(set(parsed or ()) == gold_labels(row))}}
    if scoring == "span":
        parsed = parsing.answer_part(output, parsing.NEXT_QUESTION)
        if not parsed:  # wrong, also where the gold answer has no words either ("-", "the")
            return {"parsed": None, "score": {"exact_match": 0.0, "word_f1": 0.0}}
        return {
            "parsed": parsed,
            "score": {
                "exact_match": float(span_tokens(parsed) == span_tokens(gold)),
                "word_f1": span_f1(parsed, gold),
            },
        }
    if scoring == "entities":
        answer = parsing.answer_part(output)
        words, entities = parsing.parse_entities(answer)
        parsed = [[name, " ".join(words[start:end])] for name, start, end in entities]
        return {"parsed": parsed if words else None, "score": entity_counts(answer, gold, row["choices"])}
    if scoring == "summary":
        parsed = parsing.answer_part(output)
        return {
            "parsed": parsed or None,
            "score": rouge or {name: v.fmeasure for name, v in _rouge().score(gold, parsed).items()},
        }
    if scoring == "number":
        parsed = parsing.parse_number(output, dated="limits" not in row)
        if "limits" in row:
            right = parsed is not None and row["limits"][0] <= parsed <= row["limits"][1]
        else:
            right = parsed is not None and parsed == parsing.parse_number(gold, dated=True)
        return {"parsed": parsed, "score": {"accuracy": float(right)}}
    raise ValueError(f"scoring '{scoring}' has no metric (row {row['id']})")


def gold_labels(row: dict) -> set[str]:
    """The labels of a row of scoring "labels": its completion lists them, separated by ";"."""
    return {label.strip() for label in row["completion"].split(";") if label.strip()}


# ---------------------------------------------------------------- a task
def statistics(rows: list[dict]) -> dict:
    """{metric: (counts [rows, k], finish)} of graded rows of one task; finish maps summed counts [..., k] and
    the number of rows to values [...]. NaN is a metric that is not defined on these rows, e.g. an F1 where no
    entity is wanted and none was given."""
    if not rows:
        raise ValueError("no rows to score")
    scoring = kind(rows[0])
    if any(kind(row) != scoring for row in rows):
        raise ValueError(
            f"rows of one task are scored in different ways: {sorted({kind(row) for row in rows})}"
        )
    if scoring in ("span", "summary", "number"):
        return {name: mean_of(rows, name) for name in names(rows)}
    labels, counts = label_counts(rows)
    if scoring == "options":
        means = {name: mean_of(rows, name) for name in ("accuracy", "accuracy_norm")}
        return means | {"macro_f1": (counts, macro_f1)}
    found = {"macro_f1": (counts, macro_f1), "micro_f1": (counts, micro_f1)}
    if scoring == "choice":
        found = {"accuracy": mean_of(rows, "accuracy"), "macro_f1": found["macro_f1"]}
        if NEGATIVE in labels:
            positive = np.delete(counts.reshape(len(rows), -1, 3), labels.index(NEGATIVE), axis=1).reshape(
                len(rows), -1
            )
            found |= zip(POSITIVE_NAMES, ((positive, macro_f1), (positive, micro_f1)), strict=True)
    elif scoring == "labels":
        found["exact_match"] = mean_of(rows, "exact_match")
    else:
        found["macro_f1"] = (
            counts[:, :-3],
            macro_f1,
        )  # the last are the types that are not declared: wrong, but no class
    return found


def names(rows: list[dict]) -> tuple[str, ...]:
    """The metrics of graded rows of one task, in the order in which they are printed."""
    scoring = kind(rows[0])
    if scoring == "choice" and any(NEGATIVE in row["choices"] for row in rows):
        return NAMES[scoring] + POSITIVE_NAMES
    if scoring == "summary" and all("bertscore" in row["score"] for row in rows):
        return (*NAMES[scoring], "bertscore")
    return NAMES[scoring]


def primary(rows: list[dict]) -> str:
    """The headline metric of the task: accuracy where options are asked by letter, macro-F1 over other labels
    and over entity types."""
    by_scoring = {
        "options": "accuracy",
        "labels": "macro_f1",
        "span": "word_f1",
        "entities": "macro_f1",
        "summary": "rougeL",
        "number": "accuracy",
    }
    return by_scoring.get(kind(rows[0])) or ("accuracy" if rows[0].get("options") else "macro_f1")


def label_counts(rows: list[dict]) -> tuple[list[str], np.ndarray]:
    """(declared labels or types, counts [rows, labels x (right, predicted, gold)]) of graded rows. Entities
    have one more label, "", for predicted types that are not declared."""
    labels = list(dict.fromkeys(choice for row in rows for choice in row["choices"]))
    if kind(rows[0]) == "entities":
        labels.append("")
        return labels, np.array(
            [[row["score"].get(name, [0, 0, 0]) for name in labels] for row in rows], dtype=float
        ).reshape(len(rows), -1)
    index, counts = {name: i for i, name in enumerate(labels)}, np.zeros((len(rows), len(labels), 3))
    for place, row in enumerate(rows):
        several = kind(row) == "labels"
        wanted = gold_labels(row) if several else {row["completion"]}
        given = set(row["parsed"] or ()) if several else {row["parsed"]} - {None}
        for column, those in enumerate((wanted & given, given, wanted)):
            for name in those:
                counts[place, index[name], column] = 1
    return labels, counts.reshape(len(rows), -1)


def classes(rows: list[dict]) -> list[dict]:
    """One entry for each declared label: how often it is wanted (gold), given (predicted) and both (right),
    with precision, recall and F1."""
    if kind(rows[0]) not in ("choice", "labels", "entities", "options"):
        return []
    labels, counts = label_counts(rows)
    table = []
    for label, (right, predicted, gold) in zip(labels, counts.sum(0).reshape(-1, 3).tolist(), strict=True):
        if label or predicted:
            table.append(
                {
                    "label": label or "(not declared)",
                    "gold": int(gold),
                    "predicted": int(predicted),
                    "right": int(right),
                    "precision": right / predicted if predicted else None,
                    "recall": right / gold if gold else None,
                    "f1": 2 * right / (predicted + gold) if predicted + gold else None,
                }
            )
    return table


def confusion(rows: list[dict]) -> dict | None:
    """How often each wanted label (gold) was read as each label, or as none, of rows with one label; None for
    other rows."""
    if kind(rows[0]) not in ("choice", "options"):
        return None
    labels = list(dict.fromkeys(choice for row in rows for choice in row["choices"]))
    pairs = collections.Counter((row["completion"], row["parsed"]) for row in rows)
    return {
        "gold": labels,
        "parsed": [*labels, "unparsed"],
        "counts": [[pairs[gold, parsed] for parsed in [*labels, None]] for gold in labels],
    }


def one_answer(rows: list[dict]) -> dict | None:
    """{"majority", "share", "collapsed"} of rows with one label, None for other rows. majority: the accuracy
    of always giving the most frequent gold answer; share: of the rows that get the model's most frequent
    answer; collapsed: at least COLLAPSED of 10 rows or more, where the gold answers differ more than that."""
    if kind(rows[0]) not in ("choice", "options"):
        return None
    gold, given = (
        max(collections.Counter(row[field] for row in rows if row[field] is not None).values(), default=0)
        / len(rows)
        for field in ("completion", "parsed")
    )
    return {"majority": gold, "share": given, "collapsed": len(rows) >= 10 and given >= COLLAPSED > gold}


def value(rows: list[dict], metric: str) -> float:
    """One metric of graded rows, without an interval."""
    counts, finish = statistics(rows)[metric]
    return float(finish(counts.sum(0), len(rows)))


def mean_of(rows: list[dict], name: str) -> tuple:
    """The statistic of a score that every row has: its mean."""
    return np.array([[row["score"][name]] for row in rows], dtype=float), lambda total, n: total[..., 0] / n


def macro_f1(total, n):
    """Mean over the declared labels. One that is neither wanted nor given has no F1 and is left out: it says
    nothing about the model."""
    by_label = total.reshape(*total.shape[:-1], -1, 3)
    f1 = _f1(by_label[..., 0], by_label[..., 1], by_label[..., 2])
    known = ~np.isnan(f1)
    with np.errstate(invalid="ignore"):
        return np.where(known, f1, 0).sum(-1) / known.sum(-1)


def micro_f1(total, n):
    """F1 of the counts of all labels together."""
    by_label = total.reshape(*total.shape[:-1], -1, 3).sum(-2)
    return _f1(by_label[..., 0], by_label[..., 1], by_label[..., 2])


def _f1(right, predicted, gold):
    with np.errstate(invalid="ignore"):
        return 2 * right / (predicted + gold)


# ---------------------------------------------------------------- intervals and tests
def draws(counts, finish, seed: int = 0, number: int = DRAWS) -> np.ndarray:
    """[number] values of a metric on rows drawn with replacement. Rows with the same counts are drawn
    together: how often a label is confused with another is drawn at once, however many rows there are. Same
    counts and seed, same draws."""
    n, rng, values = len(counts), np.random.default_rng(seed), []
    distinct, times = np.unique(counts, axis=0, return_counts=True)
    for start in range(0, number, 100):  # 100 draws at a time: the weights of 27,000 rows take 20 MB
        weights = rng.multinomial(n, times / n, size=min(100, number - start))
        values.append(finish(weights @ distinct, n))
    return np.concatenate(values)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile interval of bootstrap draws; draws in which the metric is not defined are left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def wilson(right: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion (Wilson 1927)."""
    p, d = right / n, 1 + z * z / n
    center, half = (p + z * z / (2 * n)) / d, z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return max(0.0, center - half), min(1.0, center + half)


def with_width(
    value: float, low: float, high: float, n: int, difference: bool = False
) -> tuple[float, float]:
    """(low, high) of a metric in [0, 1], or of a difference of two, over `n` rows. Where every bootstrap draw
    is the same (all rows right, or no row on which two models differ) the percentile interval has no width.
    In its place: Wilson's interval for `value` of `n` rows, and for a difference `value` plus and minus
    Wilson's upper bound for 0 of `n`."""
    if low != high or not n or not -1 <= value <= 1:
        return low, high
    if not difference:
        return wilson(max(0.0, value) * n, n)
    half = wilson(0, n)[1]
    return max(-1.0, value - half), min(1.0, value + half)


def smallest_difference(low: float | None, high: float | None, paired: bool = False) -> float | None:
    """The smallest true difference that a test at 5 % finds with a power of 80 %: 1.96 + 0.84 standard errors
    (minimum detectable effect, Bloom 1995). The standard error is that of the interval; the difference of
    two such scores, taken as independent, has sqrt(2) times it. A paired comparison on the same rows
    finds smaller ones."""
    if low is None:
        return None
    return (1.959964 + 0.841621) * (1 if paired else 2**0.5) * (high - low) / (2 * 1.959964)


def estimate(value: float, drawn: np.ndarray, n: int = 0, difference: bool = False) -> dict:
    """{"value", "low", "high"} of a metric and its bootstrap draws; None where it is not defined. With `n`,
    the number of rows, the interval always has a width (with_width)."""
    numbers = (value, *with_width(value, *interval(drawn), n, difference))
    return {
        key: None if math.isnan(x) else x for key, x in zip(("value", "low", "high"), numbers, strict=True)
    }


def paired(first: np.ndarray, second: np.ndarray, difference, seed: int = 0) -> tuple[float, np.ndarray]:
    """What `difference` makes of the summed counts of two models on the same rows and the number of rows, and
    its draws from a paired bootstrap."""
    both, width = np.hstack([first, second]), first.shape[1]

    def finish(total, n):
        return difference(total[..., :width], total[..., width:], n)

    return float(finish(both.sum(0), len(both))), draws(both, finish, seed)


def paired_difference(
    better: list[dict], worse: list[dict], metric: str, seed: int = 0
) -> tuple[float, np.ndarray]:
    """The difference of a metric between two models on the same rows, and its draws from a paired bootstrap.
    ValueError if the rows differ."""
    if [row["id"] for row in better] != [row["id"] for row in worse]:
        raise ValueError("the two models did not answer the same rows in the same order")
    (first, finish_first), (second, finish_second) = (statistics(rows)[metric] for rows in (better, worse))
    return paired(
        first, second, lambda total, other, n: finish_first(total, n) - finish_second(other, n), seed
    )


def p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of the draws of a difference: how often it is on the other side of 0. It is never 0:
    the draws are finite."""
    known = differences[~np.isnan(differences)]
    least = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (least + 1) / (len(known) + 1)))


def ratio_of_perplexities(new: dict, old: dict, seed: int = 0) -> tuple[float, np.ndarray]:
    """Perplexity of `new` over that of `old`, each {"nll": [nats of a block], "tokens": [predicted tokens of
    a block]} on the same blocks, weighted by tokens; and its draws from a bootstrap over blocks. Which blocks
    these were is not told here (perplexity_curves.same_blocks); ValueError if not even their tokens agree."""
    if new["tokens"] != old["tokens"]:
        raise ValueError("the two models were not validated on the same blocks")
    counts = np.array([new["nll"], old["nll"], new["tokens"]], dtype=float).T

    def finish(total, n):
        return np.exp((total[..., 0] - total[..., 1]) / total[..., 2])

    return float(finish(counts.sum(0), len(counts))), draws(counts, finish, seed)


def mcnemar(first: list[bool], second: list[bool]) -> float:
    """Exact two-sided p-value of McNemar's test on paired right and wrong answers (binomial over the rows on
    which the two differ)."""
    pairs = list(zip(first, second, strict=True))
    only_first = sum(bool(a) and not b for a, b in pairs)
    only_second = sum(bool(b) and not a for a, b in pairs)
    n, k = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
