"""The strict scorer: from the text a model wrote to a parsed answer, from parsed answers to numbers with intervals.

A row is scored by its field `scoring` alone. Every metric here is a function of a sum over rows: a row gives a vector of counts, the
vectors are added, and `finish` turns the sum into the metric. So a bootstrap draw is a reweighted sum, for a macro-F1 as for a mean.

The metrics of each scoring are in NAMES; "options" is what a row is if its output is log-likelihoods of its options and not text.

Pure functions over rows: no file is read or written, and nothing local is imported, because tasks/mibe.py loads this file by its path.
"""

import collections
import difflib
import functools
import math
import re

import numpy as np
from rouge_score import rouge_scorer

NAMES = {
    "choice": ("accuracy", "macro_f1"),
    "labels": ("macro_f1", "micro_f1", "exact_match"),
    "span": ("exact_match", "f1"),
    "entities": ("macro_f1", "micro_f1"),
    "summary": ("rouge1", "rouge2", "rougeL"),
    "options": ("accuracy", "accuracy_norm"),
}
DRAWS = 1000  # bootstrap draws of every interval
LEVEL = 0.95  # coverage of every interval


# ---------------------------------------------------------------- choice: one label out of the row's choices
CUE = r"\b(?:answer|diagnosis|choice|option|label|class|category|specialty|relationship|relation|conclusion|prediction|output|response)\b"
VERB = (
    r"(?:\s*(?:\b(?:is|are|was|would be|should be|must be)\b|[:=]))+"
    r"\s*(?:(?:clearly|most likely|probably|therefore|the|option|choice|label)\s+)*"
)
NEGATION = r"(?i)(?:\bnot|n't|\bnever|\bneither|\brather than|\binstead of|\bexcept)\s+(?:(?:be|a|an|the|option|choice)\s+)*[\"'`*_(\[]*$"
OPEN, CLOSE = r"[\s\"'`*_(\[{]*", r"[\s\"'`*_)\]}]*"


def parse_choice(text: str, choices: list[str]) -> str | None:
    """The one label of `choices` that `text` gives as its answer, or None: no label, or more than one and no telling which.

    In this order, the first rule that finds labels decides, and finding two different labels is None:
      exact    the whole text, or its first line, is a label
      cue      a label right after "the answer is", "Diagnosis:" and the like: in the first line, else anywhere
      leading  the text begins with a label and a mark ("C. Acute pancreatitis", "no, because")
      bracket  a label alone in brackets or bold: "(C)", "**C**"
      mention  whole words: exactly one label is mentioned at all, and not after "not" and the like
    Labels are matched without regard to case and longest first, so "Neurosurgery" is never "Surgery". A label of one letter is stricter: it
    is upper case unless it stands alone, and a mere mention counts only as "option D", "is D" and the like ("vitamin D" is no answer).
    """
    text = text.strip()
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    canonical = {_fold(choice): choice for choice in choices}
    for whole in (text, lines[0]):
        bare = _fold(whole.strip(" \t\r\n\"'`*_()[]{}.:,;!#-"))
        if bare in canonical:
            return canonical[bare]
    label = _label_pattern(tuple(choices))
    # the first line by itself comes first: a base model goes on to write further examples with further answers
    cue = rf"(?i:{CUE}{VERB}){OPEN}(?P<label>{label}){_more(label)}"
    leading = rf"{OPEN}(?P<label>{label}){CLOSE}(?:[.:,;)\]!]|\s[-–—]\s|\n|$){_more(label)}"
    bracket = rf"(?:\(|\[|\{{|\*\*)\s*(?P<label>{label})\s*(?:\)|\]|\}}|\*\*)"
    for found in (
        re.finditer(cue, lines[0]),
        re.finditer(cue, text),
        filter(None, [re.match(leading, text)]),
        re.finditer(bracket, text),
    ):
        answers = set()
        for match in found:
            answers.add(canonical[_fold(match["label"])])
            if match.groupdict().get("more"):
                answers.add(None)  # "C or D"
        if answers:
            return answers.pop() if len(answers) == 1 else None
    return _only_mention(text, label, canonical)


def _fold(text):
    return " ".join(text.casefold().split()).rstrip(".")  # a label may end in a point: "Consult - History and Phy."


@functools.lru_cache(256)
def _label_pattern(choices):
    """Any of the labels as whole words, longest first; single letters in upper case only."""
    words = sorted((choice for choice in choices if len(choice) > 1), key=len, reverse=True)
    letters = [choice for choice in choices if len(choice) == 1]
    parts = ["(?i:" + "|".join(r"\s+".join(map(re.escape, word.rstrip(".").split())) for word in words) + ")"] if words else []
    parts += ["[" + re.escape("".join(letters)) + "]"] if letters else []
    return r"(?<![\w-])(?:" + "|".join(parts) + r")(?![\w-])"


def _more(label):
    """Another label joined to the first one: "C or D", "A, B and C"."""
    return rf"(?P<more>(?:\s*(?:,|/|&|\band\b|\bor\b))+\s*(?:option\s+)?{label})?"


def _only_mention(text, label, canonical):
    mentions, introduced = set(), set()
    for match in re.finditer(label, text):
        answer, word = canonical[_fold(match[0])], match[0]
        before, after = text[: match.start()], text[match.end() :]
        shown = re.search(r"(?i)\b(?:option|choice|letter|answer|pick|choose|select|is|be)\s*[\"'`*_(\[]*$", before)
        if re.search(NEGATION, before):
            return None  # what it is not does not say what it is
        if word == "A" and not shown and re.match(r"\s+[a-z0-9]", after):
            continue  # the article
        mentions.add(answer)
        if shown or len(word) > 1:
            introduced.add(answer)
    return mentions.pop() if len(mentions) == 1 and introduced else None


# ---------------------------------------------------------------- labels: any number of the row's choices
def parse_labels(text: str, choices: list[str]) -> list[str] | None:
    """The labels listed in `text`, in the order of `choices`; None if it lists none. Items are lines or parted by ; or , and an item counts
    only if it is a label and nothing else (case, hyphens, numbering and a lead-in up to a colon aside): "not sustaining ..." is no label.
    Only the first paragraph with a label is read: a base model goes on to write further examples."""
    canonical = {_item(choice): choice for choice in choices}
    for paragraph in re.split(r"\n\s*\n", text):
        items = {_item(part) for part in re.split(r"[;,\n]", paragraph)}
        items |= {_item(part.rpartition(":")[2]) for part in re.split(r"[;,\n]", paragraph)}
        items |= {_item(line) for line in paragraph.splitlines()}  # a label may hold a comma itself
        found = {canonical[item] for item in items if item in canonical}
        if found:
            return [choice for choice in choices if choice in found]
    return None


def _item(text):
    return " ".join(re.sub(r"^\s*(?:\d+[.)]|[-*•])\s*", "", text).casefold().replace("-", " ").strip(" \t\r.\"'`*_()[]").split())


# ---------------------------------------------------------------- span: SQuAD (Rajpurkar et al. 2016), words as a multiset
def span_tokens(text: str) -> list[str]:
    """Lower-case words without punctuation and articles. A point or comma between digits stays: 5.0 mg is not 50 mg."""
    text = re.sub(r"[^\w\s]|_", lambda m: m[0] if _between_digits(m) else " ", text.lower())
    return [word for word in text.split() if word not in ("a", "an", "the")]


def _between_digits(match):
    before, after = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    return match[0] in ".," and before.isdigit() and after.isdigit()


def span_f1(prediction: str, gold: str) -> float:
    """Harmonic mean of the precision and recall of words, in [0, 1]; two empty spans agree."""
    predicted, wanted = span_tokens(prediction), span_tokens(gold)
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = sum((collections.Counter(predicted) & collections.Counter(wanted)).values())
    return 2 * common / (len(predicted) + len(wanted))


# ---------------------------------------------------------------- entities: <span class="problem">chest pain</span> in the sentence
TAG = re.compile(r"<span\s+class\s*=\s*[\"']?\s*([^\"'>]*?)\s*[\"']?\s*>|(</span\s*>)", re.IGNORECASE)


def parse_entities(text: str) -> tuple[list[str], list[tuple[str, int, int]]]:
    """The words of `text` without its span tags, and its entities (class in lower case, first word, word after the last).
    Any other tag is text. A span that is never closed is no entity, and takes no text with it; of nested spans each is one."""
    words, entities, opened, place = [], [], [], 0
    for tag in TAG.finditer(text):
        words += _words(text[place : tag.start()])
        place = tag.end()
        if tag[2] is None:
            opened.append((tag[1].lower(), len(words)))
        elif opened:
            kind, start = opened.pop()
            if len(words) > start:
                entities.append((kind, start, len(words)))
    return words + _words(text[place:]), entities


def _words(text):
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def entity_counts(prediction: str, gold: str, types: list[str]) -> dict[str, list[int]]:
    """{type: [right, predicted, gold]} with one more key "" for predicted classes that are not in `types`.

    Predicted words are aligned to the words of the gold text, and an entity is right if it has the type and exactly the words of a gold
    one, in the same place. Every gold entity counts, whether the prediction got that far or not; a repeated or invented one is wrong."""
    gold_words, gold_entities = parse_entities(gold)
    words, entities = parse_entities(prediction)
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
    """Words of any alphabet; the tokenizer of rouge_score drops everything beyond ASCII and finds "β-blocker" equal to "α blocker"."""

    def tokenize(self, text):
        return re.findall(r"[^\W_]+", text.lower())


@functools.cache
def _rouge():
    return rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words())


# ---------------------------------------------------------------- a row
def kind(row: dict) -> str:
    """How the row is scored: its `scoring`, or "options" if its output is a list of log-likelihoods."""
    return "options" if isinstance(row["output"], list) else row["scoring"]


def grade(row: dict) -> dict:
    """{"parsed", "score"} of a row with its `output`. `parsed` is None if no answer could be read, and then every score is that of a wrong
    answer. A log-likelihood output is [[sum of nats, bytes], ...], one for each of the row's options."""
    scoring, output, gold = kind(row), row["output"], row["completion"]
    if scoring == "options":
        if len(output) != len(row["choices"]):  # over-long: it was not run
            return {"parsed": None, "score": {"accuracy": 0.0, "accuracy_norm": 0.0}}
        plain = row["choices"][int(np.argmax([nats for nats, _ in output]))]
        by_byte = row["choices"][int(np.argmax([nats / size for nats, size in output]))]
        return {"parsed": plain, "score": {"accuracy": float(plain == gold), "accuracy_norm": float(by_byte == gold)}}
    if scoring == "choice":
        parsed = parse_choice(output, row["choices"])
        return {"parsed": parsed, "score": {"accuracy": float(parsed == gold)}}
    if scoring == "labels":
        parsed = parse_labels(output, row["choices"])
        return {"parsed": parsed, "score": {"exact_match": float(set(parsed or ()) == set(parse_labels(gold, row["choices"]) or ()))}}
    if scoring == "span":
        parsed = output.strip()
        score = {"exact_match": float(span_tokens(parsed) == span_tokens(gold)), "f1": span_f1(parsed, gold)}
        return {"parsed": parsed or None, "score": score}
    if scoring == "entities":
        words, entities = parse_entities(output)
        parsed = [[name, " ".join(words[start:end])] for name, start, end in entities]
        return {"parsed": parsed if words else None, "score": entity_counts(output, gold, row["choices"])}
    if scoring == "summary":
        parsed = output.strip()
        return {"parsed": parsed or None, "score": {name: value.fmeasure for name, value in _rouge().score(gold, parsed).items()}}
    raise ValueError(f"scoring '{scoring}' has no metric (row {row['id']})")


# ---------------------------------------------------------------- a task
def statistics(rows: list[dict]) -> dict:
    """{metric: (counts [rows, k], finish)} of graded rows of one task; finish maps summed counts [..., k] and the number of rows to values
    [...]. NaN is a metric that is not defined on these rows, e.g. an F1 where no entity is wanted and none was given."""
    if not rows:
        raise ValueError("no rows to score")
    scoring = kind(rows[0])
    if any(kind(row) != scoring for row in rows):
        raise ValueError(f"rows of one task are scored in different ways: {sorted({kind(row) for row in rows})}")
    if scoring in ("options", "span", "summary"):
        return {name: _mean(rows, name) for name in NAMES[scoring]}
    names = list(dict.fromkeys(choice for row in rows for choice in row["choices"]))
    if scoring == "choice":
        counts = _label_counts(names, [([row["parsed"]], [row["completion"]]) for row in rows])
        return {"accuracy": _mean(rows, "accuracy"), "macro_f1": (counts, _macro_f1)}
    if scoring == "labels":
        counts = _label_counts(names, [(row["parsed"] or [], parse_labels(row["completion"], row["choices"]) or []) for row in rows])
        return {"macro_f1": (counts, _macro_f1), "micro_f1": (counts, _micro_f1), "exact_match": _mean(rows, "exact_match")}
    counts = np.array([[row["score"].get(name, [0, 0, 0]) for name in [*names, ""]] for row in rows], dtype=float)
    return {"macro_f1": (counts[:, :-1].reshape(len(rows), -1), _macro_f1), "micro_f1": (counts.reshape(len(rows), -1), _micro_f1)}


def primary(rows: list[dict]) -> str:
    """The metric that stands for the task: accuracy where options are asked by letter, macro-F1 over other labels and over entity types."""
    by_scoring = {"options": "accuracy", "labels": "macro_f1", "span": "f1", "entities": "macro_f1", "summary": "rougeL"}
    return by_scoring.get(kind(rows[0])) or ("accuracy" if "options" in rows[0] else "macro_f1")


def value(rows: list[dict], metric: str) -> float:
    """One metric of graded rows, without an interval."""
    counts, finish = statistics(rows)[metric]
    return float(finish(counts.sum(0), len(rows)))


def _mean(rows, name):
    return np.array([[row["score"][name]] for row in rows], dtype=float), lambda total, n: total[..., 0] / n


def _label_counts(names, pairs):
    """[rows, labels x (right, predicted, gold)] of (predicted labels, gold labels) per row."""
    index, counts = {name: i for i, name in enumerate(names)}, np.zeros((len(pairs), len(names), 3))
    for row, (predicted, gold) in enumerate(pairs):
        for name in gold:
            counts[row, index[name], 2] = 1
        for name in predicted:
            if name is not None:
                counts[row, index[name], 1] = 1
                counts[row, index[name], 0] = float(name in gold)
    return counts.reshape(len(pairs), -1)


def _f1(right, predicted, gold):
    with np.errstate(invalid="ignore"):
        return 2 * right / (predicted + gold)


def _macro_f1(total, n):
    """Mean over the declared labels. One that is neither wanted nor given has no F1 and is left out: it says nothing about the model."""
    by_label = total.reshape(*total.shape[:-1], -1, 3)
    f1 = _f1(by_label[..., 0], by_label[..., 1], by_label[..., 2])
    known = ~np.isnan(f1)
    with np.errstate(invalid="ignore"):
        return np.where(known, f1, 0).sum(-1) / known.sum(-1)


def _micro_f1(total, n):
    by_label = total.reshape(*total.shape[:-1], -1, 3).sum(-2)
    return _f1(by_label[..., 0], by_label[..., 1], by_label[..., 2])


# ---------------------------------------------------------------- intervals and tests
def draws(counts, finish, seed: int = 0, number: int = DRAWS) -> np.ndarray:
    """[number] values of a metric on rows drawn with replacement. Same number of rows and same seed draw the same rows, which makes the
    difference of two models' draws a paired bootstrap."""
    n, rng, values = len(counts), np.random.default_rng(seed), []
    for start in range(0, number, 100):  # 100 draws at a time: the weights of 27,000 rows take 20 MB
        weights = rng.multinomial(n, np.full(n, 1 / n), size=min(100, number - start))
        values.append(finish(weights @ counts, n))
    return np.concatenate(values)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile interval of bootstrap draws; draws in which the metric is not defined are left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_difference(better: list[dict], worse: list[dict], metric: str, seed: int = 0) -> tuple[float, np.ndarray]:
    """The difference of a metric between two models on the same rows, and its bootstrap draws. ValueError if the rows differ."""
    if [row["id"] for row in better] != [row["id"] for row in worse]:
        raise ValueError("the two models did not answer the same rows in the same order")
    pair = [statistics(rows)[metric] for rows in (better, worse)]
    totals = [float(finish(counts.sum(0), len(counts))) for counts, finish in pair]
    first, second = (draws(counts, finish, seed) for counts, finish in pair)
    return totals[0] - totals[1], first - second


def ratio_of_perplexities(new: dict, old: dict, seed: int = 0) -> tuple[float, np.ndarray]:
    """Perplexity of `new` over that of `old`, each {"nll": [nats of a block], "tokens": [predicted tokens of a block]} on the same blocks,
    weighted by tokens; and its draws from a bootstrap over blocks. ValueError if the blocks differ."""
    if new["tokens"] != old["tokens"]:
        raise ValueError("the two models were not validated on the same blocks")
    counts = np.array([new["nll"], old["nll"], new["tokens"]], dtype=float).T

    def finish(total, n):
        return np.exp((total[..., 0] - total[..., 1]) / total[..., 2])

    return float(finish(counts.sum(0), len(counts))), draws(counts, finish, seed)


def mcnemar(first: list[bool], second: list[bool]) -> float:
    """Exact two-sided p-value of McNemar's test on paired right and wrong answers (binomial over the rows on which the two differ)."""
    pairs = list(zip(first, second, strict=True))
    only_first = sum(bool(a) and not b for a, b in pairs)
    only_second = sum(bool(b) and not a for a, b in pairs)
    n, k = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
