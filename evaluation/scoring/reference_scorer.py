"""The paper's released scorer: what it gives for the same outputs, with its faults.

Written from what it was observed to do, input by input; it holds none of its code. The faults have these
names, in score files too:

    C1  multiple choice: the first letter of A, B, ... that occurs anywhere in the text, so that "Answer: C"
        is A
    C2  the label that comes first in the list of labels wins, not the one that comes first in the text:
        "Option D, not A" is A
    C3  labels are found inside words: "It is not known" is "no", "red eyes" is "yes"
    C4  MTSamples: Neurosurgery and Cosmetic / Plastic Surgery are always read as Surgery, Neurology as
        Urology
    C5  macro-F1 is over the labels that the test rows hold, so it changes with --limit; an output without a
        label is not counted as a class
    D1  DDI: exactly one label, spelled as in the list, or none; "effect" and a second sentence with another
        label give none
    D2  DDI: macro-F1 is over five labels, "no interaction" among them, where the shared task scores four
    H1  HoC: a label counts wherever it is spelled as in the list, after "not" too, and not with a capital or
        a hyphen
    H2  HoC: a label that is neither wanted nor given has F1 0
    E1  emrQA: characters are compared where words are meant: "now" is an exact match of "no w"
    E2  emrQA: characters are counted once in common, but every time in the lengths: an exact answer of 20
        words has an F1 about 0.2
    N1  entities: the F1 is a micro average, although reported as macro
    N2  entities: only the words up to which output and gold agree are scored: what an output leaves out costs
        nothing
    N3  entities: one word that differs shifts all that follow, and entities after it are lost on both sides
    N4  entities: HTML is taken at its word: in <p>...</p> nothing is marked, and an open <hospital> hides the
        entities after it
    N5  entities: only problem, treatment, test and drug are types; others are no entities
    S1  ROUGE: the median of bootstrap means, seeded by nothing (ours by 0); its words hold no letter beyond
        a-z and 0-9

Two of the packages that it used are replaced. Tags are read by html.parser, as its HTML package does; and
words in a tag are cut like the blank English tokenizer cuts them, without its list of abbreviations. Where
output and gold agree, how words are cut makes no difference.
"""

import html
import html.parser
import re
import string

import numpy as np

from evaluation.scoring import metrics

PAPER_VERSION = "1.1"
# the specialties in the order of `MTSample.choices` in src/preprocess_instruct.py of github.com/BIDS-Xu-
# Lab/Me-LLaMA
MTSAMPLES_ORDER = (
    "Surgery",
    "Allergy / Immunology",
    "Sleep Medicine",
    "Pediatrics - Neonatal",
    "SOAP / Chart / Progress Notes",
    "Bariatrics",
    "Pain Management",
    "Lab Medicine - Pathology",
    "Dermatology",
    "Orthopedic",
    "Dentistry",
    "Psychiatry / Psychology",
    "General Medicine",
    "Office Notes",
    "Letters",
    "Neurosurgery",
    "Radiology",
    "Cosmetic / Plastic Surgery",
    "Nephrology",
    "Diets and Nutritions",
    "Chiropractic",
    "Gastroenterology",
    "Cardiovascular / Pulmonary",
    "Speech - Language",
    "Hospice - Palliative Care",
    "Autopsy",
    "Endocrinology",
    "Emergency Room Reports",
    "Discharge Summary",
    "ENT - Otolaryngology",
    "Urology",
    "Physical Medicine - Rehab",
    "Neurology",
    "Podiatry",
    "Ophthalmology",
    "Rheumatology",
    "IME-QME-Work Comp etc.",
    "Hematology - Oncology",
    "Consult - History and Phy.",
    "Obstetrics / Gynecology",
)
FAULTS = {
    "medqa": "C1 C2 C5",
    "medmcqa": "C1 C2 C5",
    "pubmedqa": "C2 C3 C5",
    "mednli": "C2 C5",
    "bionli": "C2 C5",
    "mtsamples": "C2 C4 C5",
    "ddi": "C5 D1 D2",
    "hoc": "H1 H2",
    "emrqa": "E1 E2",
    "i2b2": "N1 N2 N3 N4 N5",
    "pubmed_summ": "S1",
    "mimic_cxr": "S1",
}
NOTES = {
    "i2b2": {"macro_f1": "a micro average, reported as macro (N1)"},
    "emrqa": {"word_f1": "F1 over characters (E1, E2)"},
    "ddi": {"macro_f1": "over five labels, DDI-false among them (D2)"},
    "hoc": {"macro_f1": "a label neither wanted nor given counts as 0 (H2)"},
    "pubmed_summ": {name: "a median of bootstrap means (S1)" for name in ("rouge1", "rouge2", "rougeL")},
    "mimic_cxr": {name: "a median of bootstrap means (S1)" for name in ("rouge1", "rouge2", "rougeL")},
}


# ---------------------------------------------------------------- a row
def applies(row: dict) -> bool:
    """Whether the paper's scorer has a rule for the row: a generated answer to one of its twelve tasks."""
    return row["task"] in FAULTS and isinstance(row["output"], str)


def grade(row: dict) -> dict:
    """{"parsed", "score"} of a row as the paper's scorer has it. `parsed` is None where it finds no label
    ("missing")."""
    task, output, gold, choices = row["task"], row["output"], row["completion"], row.get("choices", [])
    if row["scoring"] == "choice":
        parsed = (
            only_label(output, choices)
            if task == "ddi"
            else first_label(output, in_their_order(task, choices), blind=task not in ("medqa", "medmcqa"))
        )
        return {"parsed": parsed, "score": {"accuracy": float(parsed == gold)}}
    if row["scoring"] == "labels":
        return {"parsed": [choice for choice in choices if choice in output], "score": {}}
    if row["scoring"] == "span":
        return {"parsed": output, "score": span_scores(output, gold)}
    if row["scoring"] == "entities":
        return {"parsed": output, "score": entity_counts(output, gold)}
    if (
        output.isascii() and gold.isascii() and output.strip() == row.get("parsed")
    ):  # the strict ROUGE is the same
        return {"parsed": output, "score": {name: row["score"][name] for name in metrics.NAMES["summary"]}}
    return {"parsed": output, "score": rouge(output, gold)}


def first_label(text: str, choices: list[str], blind: bool) -> str | None:
    """The first of `choices`, in their order, that occurs in `text` (C1, C2, C3); `blind` to case."""
    fold = str.lower if blind else str
    text = fold(text)
    return next((choice for choice in choices if fold(choice) in text), None)


def in_their_order(task: str, choices: list[str]) -> list[str]:
    """`choices` in the order in which the paper's scorer looks for them: for MTSamples its published order
    (C4), for the other tasks that of the row."""
    if task != "mtsamples":
        return choices
    rank = {label: place for place, label in enumerate(MTSAMPLES_ORDER)}
    return sorted(choices, key=lambda choice: rank.get(choice, len(rank)))


def only_label(text: str, choices: list[str]) -> str | None:
    """The label that is a part of `text`, if exactly one is (D1)."""
    found = [choice for choice in choices if choice in text]
    return found[0] if len(found) == 1 else None


def span_scores(prediction: str, gold: str) -> dict[str, float]:
    """Exact match and F1 of the characters that are neither blank nor punctuation (E1, E2)."""
    first, second = (
        [c for c in text.lower() if not c.isspace() and c not in string.punctuation]
        for text in (prediction, gold)
    )
    exact = float(first == second)
    common = len(set(first) & set(second))
    return {
        "exact_match": exact,
        "f1": 2 * common / (len(first) + len(second)) if first and second else exact,
    }


def rouge(prediction: str, gold: str) -> dict[str, float]:
    from rouge_score import rouge_scorer

    scores = rouge_scorer.RougeScorer(list(metrics.NAMES["summary"])).score(gold, prediction)
    return {name: score.fmeasure for name, score in scores.items()}


# ---------------------------------------------------------------- entities
TYPES = ("problem", "treatment", "test", "drug")
VOID = {
    "area",
    "base",
    "basefont",
    "bgsound",
    "br",
    "col",
    "command",
    "embed",
    "frame",
    "hr",
    "image",
    "img",
    "input",
    "isindex",
    "keygen",
    "link",
    "menuitem",
    "meta",
    "nextid",
    "param",
    "source",
    "spacer",
    "track",
    "wbr",
}

# how the blank English tokenizer splits text between blanks: marks at the beginning and at the end, then
# inside
MARK = r"[,:;!?¿¡()\[\]{}<>_#*&…'\"”“`‘´’‚„»«]|\.\.+"
BEGINS = re.compile(rf"{MARK}|[§%=$£€¥—–]|\+(?![0-9])")
UNITS = (
    "km² km³ km m² m³ m dm² dm³ dm cm² cm³ cm mm² mm³ mm ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh "
    "mph hPa Pa mbar mb MB kb KB gb GB "
    "tb TB T G M K %"
)
ENDS = re.compile(
    rf"(?:{MARK}|['’][sS]|[—–]|(?<=[0-9])(?:\+|[$£€¥]|{UNITS.replace(' ', '|')})|(?<=°[FfCcKk])\."
    rf"|(?<=[0-9a-zß-ÿα-ω%²\-)\]+'\"”“`‘´’»«])\."
    r"|(?<=[A-Z][A-Z])\.)$"
)
INSIDE = re.compile(
    r"(\.\.+|…|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[a-zß-ÿ'\"])\.(?=[A-ZÀ-Þ'\"])|(?<=[^\W\d_]),(?=[^\W\d_])"
    r"|(?<=[^\W_])(?:--+|[-–—~])(?=[^\W\d_])"
    r"|(?<=[^\W_])[:<>=/](?=[^\W\d_]))"
)


def words(text: str) -> list[str]:
    """`text` cut like the blank English tokenizer cuts it. A blank parts words; each further blank, and white
    space at the beginning, is a word of its own."""
    cut = []
    for run in re.finditer(r"\s+|\S+", text):
        if run[0].isspace():
            rest = run[0].removeprefix(" ") if run.start() else run[0]
            cut += [rest] if rest else []
        else:
            cut += _cut(run[0])
    return cut


def _cut(chunk):
    before, after = [], []
    while chunk:
        begin = BEGINS.match(chunk)
        end = ENDS.search(chunk, begin.end() if begin else 0)
        if not begin and not end:
            break
        if begin:
            before.append(begin[0])
        if end:
            after.insert(0, end[0])
        chunk = chunk[begin.end() if begin else 0 : end.start() if end else None]
    return before + [piece for piece in INSIDE.split(chunk) if piece] + after


class _TopLevel(html.parser.HTMLParser):
    """`parts` of a text as HTML: [class or None, text] of each element of the top level, with all that it
    contains, and [False, text] of what is between them. An element that is never closed contains the rest; a
    closing tag closes what was opened inside its own."""

    def __init__(self, text):
        super().__init__(convert_charrefs=False)
        self.parts, self.text, self.open, self.void = [], "", [], []
        self.feed(text)
        self.close()
        self.flush()

    def flush(self):
        if self.text and not self.text.strip():
            self.text = "\n" if "\n" in self.text else " "
        if self.open:
            self.parts[-1][1] += self.text
        elif self.text:
            self.parts.append([False, self.text])
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.flush()
        if not self.open:
            self.parts.append([next(iter((dict(attributes).get("class") or "").split()), None), ""])
        if tag in VOID:
            self.void.append(tag)
        else:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        (self.void if tag in VOID else self.open).pop()

    def handle_endtag(self, tag):
        self.flush()
        if tag in self.void:
            self.void.remove(tag)
        elif tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        self.text += data

    def handle_entityref(self, name):
        self.text += html.entities.html5.get(f"{name};", f"&{name}")

    def handle_charref(self, name):
        self.text += html.unescape(f"&#{name};")

    def handle_comment(self, data):
        self.flush()
        if not self.open:
            self.parts.append([False, data])

    handle_decl = unknown_decl = handle_pi = handle_comment

    def parse_marked_section(self, start, report=1):
        """A "<![" that begins nothing known is a comment, as in HTML; Python's parser fails at it until its
        releases of 2025."""
        try:
            return super().parse_marked_section(start, report)
        except AssertionError:
            return self.parse_bogus_comment(start)


def _tagged(text):
    """[(word, tag)] with the tags "O", "B-problem", "I-problem", ..."""
    pairs = []
    for name, content in _TopLevel(text).parts:
        if name is False:
            pairs += [(word, "O") for word in content.split()]
        else:
            pairs += [
                (word, f"{'I' if place else 'B'}-{name}" if name in TYPES else "O")
                for place, word in enumerate(words(content))
            ]
    return pairs


def _side_by_side(prediction, gold):
    """The tags of both texts on the pieces of words on which they agree. Where a word begins with the other,
    its rest is compared with the word after; where neither does, both are skipped, and the texts are out of
    step from there on (N3). The shorter text ends it (N2)."""
    first, second, tags = prediction[::-1], gold[::-1], []
    while first and second:
        (word, tag), (other, wanted) = first.pop(), second.pop()
        if word.startswith(other) or other.startswith(word):
            tags.append((tag, wanted))
            if rest := word[len(other) :]:
                first.append((rest, tag.replace("B-", "I-")))
            if rest := other[len(word) :]:
                second.append((rest, wanted.replace("B-", "I-")))
    return tags


def _entities(tags):
    """{(type, first, last + 1)}; an I- that follows nothing of its type begins an entity."""
    found, start = set(), 0
    for place in range(1, len(tags) + 1):
        before, here = tags[place - 1], tags[place] if place < len(tags) else "O"
        if here[:1] == "B" or here[2:] != before[2:]:
            if before != "O":
                found.add((before[2:], start, place))
            start = place
    return found


def entity_counts(prediction: str, gold: str) -> dict[str, list[int]]:
    """{type: [right, predicted, gold]} of the words on which both agree (N1 to N5). The shorter text ends the
    comparison (N2), so of a prediction far longer than the gold text only the beginning is read: HTML parsing
    is quadratic."""
    prediction = prediction[: 4 * len(gold) + 4000]
    tags = _side_by_side(_tagged(prediction), _tagged(gold))
    given, wanted = (_entities([pair[side] for pair in tags]) for side in (0, 1))
    return {
        name: [sum(entity[0] == name for entity in those) for those in (given & wanted, given, wanted)]
        for name in TYPES
    }


# ---------------------------------------------------------------- a task
def statistics(rows: list[dict]) -> dict:
    """As metrics.statistics, of rows with `paper`, the grade above: the paper's metrics of the task."""
    scoring, task = rows[0]["scoring"], rows[0]["task"]
    graded = [{**row, **row["paper"]} for row in rows]
    if scoring in ("span", "summary"):  # the paper's F1 of a span is beside our word_f1
        own = {"word_f1": "f1"}
        return {name: metrics.mean_of(graded, own.get(name, name)) for name in metrics.names(graded)}
    if scoring == "entities":
        counts = np.array([[row["score"][name] for name in TYPES] for row in graded], dtype=float).reshape(
            len(rows), -1
        )
        return {"macro_f1": (counts, lambda total, n: np.nan_to_num(metrics.micro_f1(total, n)))}
    counts = metrics.label_counts(graded)[1]
    if scoring == "labels":
        return {"macro_f1": (counts, _all_labels)}
    accuracy = {} if task == "ddi" else {"accuracy": metrics.mean_of(graded, "accuracy")}
    return accuracy | {"macro_f1": (counts, _gold_labels)}


def _f1(total):
    by_label = total.reshape(*total.shape[:-1], -1, 3)
    return 2 * by_label[..., 0] / np.maximum(by_label[..., 1] + by_label[..., 2], 1), by_label[..., 2] > 0


def _all_labels(total, n):
    return _f1(total)[0].mean(-1)


def _gold_labels(total, n):
    f1, wanted = _f1(total)
    return np.where(wanted, f1, 0).sum(-1) / wanted.sum(-1)


def point(name: str, counts: np.ndarray, finish, drawn: np.ndarray) -> float:
    """The value that is reported: the metric itself, but for ROUGE the median of its bootstrap draws (S1)."""
    return float(np.median(drawn) if name.startswith("rouge") else finish(counts.sum(0), len(counts)))
