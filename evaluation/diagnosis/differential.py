"""The ranked differential that an answer gives: at most five names of diseases, the most likely first. In
doubt, none.

    parse_differential("1. **Gout**: red joint\\n2. Pseudogout")  ->  (["Gout", "Pseudogout"], "numbered")

Pure functions over text. PARSER_VERSION is written to every summary: raise it with any change that can alter
how an answer is read. tests/golden/differentials.jsonl holds hand-labeled answers of each kind.
"""

import itertools
import json
import re

from evaluation.diagnosis.matching import words
from evaluation.scoring.parsing import answer_part

PARSER_VERSION = "1.1"
LENGTH = 5
MOST_TEXT, MOST_LINE = (
    20_000,
    2_000,
)  # characters of an answer, and of a line of it, that are read: the patterns look ahead
MOST_JSON = 50  # brackets at which JSON is looked for
LONGEST = 16  # words of a name; what is longer is a sentence

MARK = r"(?:(?:rank|diagnosis|dx|option|#|no\.?)\s*)?"  # of a numbered line, in whatever brackets and bold
NUMBERED = re.compile(
    rf"(?i)^(\s*)(?:#+\s*)?[*_(\[]{{0,4}}{MARK}#?(\d{{1,2}}|[a-e](?=[.)])|(?:i{{1,3}}"
    rf"|i?v)(?=[.)]))\s*(?:[.)\]:]|\s[-–—](?=\s))[*_)\]]{{0,4}}[ \t]*[.:]?[ \t]*(.+)$"
)
ORDER = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5}
INLINE = re.compile(r"(?:^|(?<=[\s;,:]))\(?(\d)[.)]\s+")
BULLET = re.compile(r"^(\s*)(?:[-•–‣●▪]|[*](?!\*))\s+(.+)$")
BOLD_LINE = re.compile(r"^\s*(\*\*|__)(.+?)\1:?\s*$")
LIST_HEAD = re.compile(
    r"(?i)diagnos[ei]s|differential|ddx|most likely|ranked|final answer|possibilit|conditions?\b"
)
OTHER_HEAD = re.compile(
    r"(?i)finding|features?\b|symptom|work-?up|management|treatment|next step|investigation|reason"
    r"|rationale|plan\b|tests?\b|steps?\b|history|against|support|clue"
    r"|unlikely|ruled? out|exclude|key points?|recommend|analysis|evidence|explanation|referenc|risk factor"
)
RULED_OUT = re.compile(r"(?i)unlikely|less likely|ruled? out|exclude|against|reason for|why")
CUE = re.compile(
    r"(?i)(?:^|(?<=[.\n*_#]))[ \t*_#]{0,9}(?:(?:the|my|single|leading|final|primary|top|working"
    r"|provisional)\s+){0,3}(?:(?:most\s+)?(?:likely|probable)\s+)?(?:clinical\s+)?"
    r"(?:diagnos[ie]s|answer)\b(?:\s+(?:here|in this case|for this patient))?[*_]*\s*(?::|="
    r"|\bis\b(?:\s+(?:most\s+)?(?:likely|probably))?)[ \t*_:]*(?!\s*$)([^\n]+)"
)
SAYS = re.compile(
    r"(?i)\b(?:consistent with|suggestive of|indicative of|likely (?:has|have)|diagnosis of|diagnosed "
    r"with)\s+([^\n.]+)"
)
SENTENCE_LIST = re.compile(
    r"(?i)\b(?:differentials?(?: diagnos[ei]s)?|other (?:considerations|possibilities"
    r"|diagnoses))\b[^.:\n]{0,40}?(?:\binclud(?:es?|ing)|\bare|\bis|:)[ \t*_:]*([^\n]+)"
)
EXPLAINS = re.compile(
    r"\s*(?::\s|\s[-–—]+\s|[–—]|\s->|\s\||\.\s|;\s|,?\s+(?i:because|since|given|as evidenced|as suggested"
    r"|supported by|based on|which|although|explains|explained by|is suggested|"
    r"is supported|is (?:the )?most likely|is less likely|is possible|is likely|could|would|may|can)\b"
    r"|,\s+(?i:with|but|as|characteri[sz]ed|presenting|due to the)\b).*$",
    re.DOTALL,
)
# the rank of an entry in words: "Primary diagnosis:", "Second:", "Alternative diagnosis 2:"
HEAD = re.compile(
    r"(?i)^\s*(?:[-•*]\s)?[*_]{0,3}(?:(?:the|my|most likely|next most likely|probable|primary|secondary"
    r"|tertiary|leading|top|working|final"
    r"|alternative|first|second|third|fourth|fifth|1st|2nd|3rd|4th|5th|next|then|last)\s?){1,3}"
    r"(?:(?:differential\s)?(?:diagnos[ei]s|dx|possibility|choice|consideration|option))?(?:\s?#?\d)?"
    r"(?:[*_]{1,3}\s?[:=]|\s?[:=][*_]{0,3})(?=\s)\s{0,8}"
)
NAME_BELOW = re.compile(  # "**Primary diagnosis:**" with the name in the next line
    r"(?im)^((?:#{1,4}\s)?[*_]{0,3}(?:primary|leading|most likely|final|working)\sdiagnosis(?:[*_]{0,3}:"
    r"|:[*_]{0,3}))[ \t]{0,8}\n{1,2}"
    r"(?=[^\W\d_][^\n]{0,120}(?:\n|$))"
)
HEDGE = re.compile(
    r"(?i)^(?:(?:possible|probable|likely|suspected|presumed|most likely|less likely|consider|diagnosis|the"
    r"|(?-i:an?))(?:\s*[:–-]\s*|\s+)){1,3}(?=\S)"
)
CONFIDENCE = re.compile(
    r"(?i)\s*[(\[][^()\[\]]*(?:\d\s*%|probab|likel|confiden|rank|score)[^()\[\]]*[)\]]"
    r"|\s*[,:-]?\s*~?\d{1,3}\s*%.*$"
)
PROSE = re.compile(
    r"(?i)\b(?:i|i'm|we|you|please|sorry|cannot|can't|unable|patient|presents?|should|here (?:is|are)"
    r"|suggests?|consult|doctor|was|were|he|she|this|that|there|these|those|it|if|"
    r"read|case|list|following|diagnos[ei]s|differential|years?-old|is|are|has)\b"
)
PLACEHOLDER = re.compile(
    r"(?i)^(?:n/?a|none|nil|yes|no|sure|unknown|other|others|undetermined|no diagnosis|etc|[\W\d_]*"
    r"|(?:diagnosis|disease|condition|name)\s*(?:#?\d+|[a-e])?)$"
)
REFUSAL = re.compile(
    r"(?i)\b(?:i (?:cannot|can't|am unable|am not able|won't|will not)|i'm (?:sorry|unable|not able)|as an "
    r"ai|unable to (?:provide|give|make))\b"
)


def parse_differential(text: str) -> tuple[list[str] | None, str]:
    """(the names in their order without repetitions, the rule that found them), or (None, why not): "empty",
    "refusal" or "no list".

      json       an array of names or of objects with one, or an object with ranks as keys or such an array
      table      rows of a Markdown table: the column headed by diagnosis, disease or condition, else the
                 first that is not a number
      inline     "1. A 2. B" in one line
      numbered   lines 1., 2), (3), Rank 4:, **5.**; of several such lists the last under a heading that
                 speaks of diagnoses, never one that is headed by findings, tests or treatment
      bullets    lines with the same mark and indentation, chosen as the numbered ones
      headed     lines that begin with a rank in words: "Primary diagnosis: A", "Second: B"
      bold       lines that are bold and nothing else
      sentence   "The differential includes A, B and C"
      separated  one line of names separated by semicolons or commas
      lines      nothing but short lines
      single     "Most likely diagnosis: A", "... is consistent with A"

    A "most likely diagnosis" that precedes a list without being in it becomes its first entry. Explanations
    after a name are cut."""
    text = text.encode(errors="ignore").decode().replace("\r\n", "\n")  # without halves of characters
    answer = re.sub(r"(\d)\ufe0f?\u20e3", r"\1. ", answer_part(text))  # keycap digits
    answer = re.sub(r"(?m)^([^\n:]{0,40}:)[ \t]+(?=1[.)]\s)", r"\1\n", answer)
    if len(answer) > MOST_TEXT:  # the list is at the end; a line that is cut in two is left out
        answer = answer[-MOST_TEXT:].partition("\n")[2] or answer[-MOST_TEXT:]
    answer = "\n".join(line[:MOST_LINE] for line in answer.split("\n"))
    answer = NAME_BELOW.sub(r"\1 ", answer)
    if not answer:
        return None, "empty"
    lines = [line.rstrip() for line in answer.split("\n")]
    rules = {
        "json": lambda: _json(answer),
        "table": lambda: _table(lines),
        "inline": lambda: _inline(lines),
        "numbered": lambda: _numbered(lines),
        "bullets": lambda: _bullets(lines),
        "headed": lambda: _headed(lines),
        "bold": lambda: [
            m[2] for line in lines if (m := BOLD_LINE.match(line)) and not LIST_HEAD.search(m[2])
        ],
        "sentence": lambda: _sentence(answer),
        "separated": lambda: _separated(lines),
        "lines": lambda: _lines(lines),
    }
    cue = next((name for m in CUE.finditer(answer) if (name := clean(m[1]))), None)
    for rule, read in rules.items():
        names = _distinct(map(clean, read()))
        if names:
            if (
                cue
                and rule not in ("json", "table")
                and words(cue) not in map(words, names)
                and _precedes(answer, cue, names[0])
            ):
                names = _distinct([cue, *names])
            return names[:LENGTH], rule
    single = cue or next((name for m in SAYS.finditer(answer) if (name := clean(m[1]))), None)
    if single:
        return [single], "single"
    return None, "refusal" if REFUSAL.search(answer) else "no list"


def clean(item: str) -> str | None:
    """The bare name of one entry of a list; None if the entry is empty, a placeholder or a sentence."""
    item = HEAD.sub("", item.strip().strip("\"'`") + " ").strip()
    if (bold := re.match(r"^(?:\*\*|__)(.+?)(?:\*\*|__)", item)) and not re.fullmatch(
        r"(?i).*(?:diagnosis|likely|rank)\s*\d*:?", bold[1]
    ):
        item = bold[1]
    item = re.sub(r"[*_`]{1,3}", "", item).strip()
    item = re.sub(
        r"(?i)^(?:(?:most likely |probable |primary )?diagnosis(?: #?\d)?|most likely|next|then"
        r"|name)\s*[:=]\s*",
        "",
        item,
    )
    item = CONFIDENCE.sub("", item)
    item = EXPLAINS.sub("", HEDGE.sub("", item), count=1)
    item = item.strip(" \t.,;:-–—\"'`*_[]")
    if item.count("(") > item.count(")"):
        item = item[: item.rindex("(")].strip()
    if (
        not item
        or PLACEHOLDER.match(item)
        or len(item.split()) > LONGEST
        or not re.search(r"[^\W\d_]{2}", item)
        or REFUSAL.search(item)
    ):
        return None
    return None if PROSE.search(re.sub(r"\(.*?\)", "", item)) else item


def _distinct(names) -> list[str]:
    by_words = {}
    for name in names:
        if name:
            by_words.setdefault(words(name), name)
    return list(by_words.values())


def _precedes(answer: str, first: str, second: str) -> bool:
    return -1 < answer.find(first) < answer.find(second)


# ---------------------------------------------------------------- one rule each: the raw entries, [] if the
# answer has not that form
def _json(answer: str) -> list[str]:
    for start in itertools.islice((m.start() for m in re.finditer(r"[\[{]", answer)), MOST_JSON):
        try:
            value, _ = json.JSONDecoder().raw_decode(answer, start)
        except (ValueError, RecursionError):
            continue
        if names := _names_in(value):
            return names
    return []


def _names_in(value) -> list[str]:
    if isinstance(value, list):
        found = [_name_of(entry) for entry in value]
        return (
            [name for name in found if name] if value and all(isinstance(name, str) for name in found) else []
        )
    if isinstance(value, dict):
        if value and all(
            re.fullmatch(r"\D{0,12}\d{1,2}", key) and isinstance(entry, str) for key, entry in value.items()
        ):
            return [value[key] for key in sorted(value, key=lambda key: int(re.search(r"\d+", key)[0]))]
        lists = {
            key: names
            for key, entry in value.items()
            if isinstance(entry, list | dict) and (names := _names_in(entry))
        }
        return next(
            (names for key, names in lists.items() if LIST_HEAD.search(key)), next(iter(lists.values()), [])
        )
    return []


def _name_of(entry) -> str | None:
    if isinstance(entry, str):
        return entry
    keys = ("diagnosis", "disease", "condition", "name", "dx", "title")
    return (
        next((entry[key] for key in keys if isinstance(entry.get(key), str)), None)
        if isinstance(entry, dict)
        else None
    )


def _table(lines: list[str]) -> list[str]:
    rows = [
        [cell.strip(" *_") for cell in line.strip().strip("|").split("|")]
        for line in lines
        if line.count("|") >= 2
    ]
    rows = [row for row in rows if not all(re.fullmatch(r"[:\s-]*", cell) for cell in row)]
    if len(rows) < 2:
        return []
    head = next(
        (i for i, cell in enumerate(rows[0]) if re.search(r"(?i)diagnos|disease|condition|disorder", cell)),
        None,
    )
    if head is not None:
        return [row[head] for row in rows[1:] if len(row) > head]
    return [next((cell for cell in row if re.search(r"[^\W\d_]{2}", cell)), "") for row in rows]


def _numbered(lines: list[str]) -> list[str]:
    runs = []
    for place, line in enumerate(lines):
        if m := NUMBERED.match(line):
            indent, number = len(m[1].expandtabs(4)), ORDER.get(m[2].lower()) or int(m[2])
            if number == 1 or not runs:
                runs.append((indent, place, [], [0]))
            if indent == runs[-1][0] and number == runs[-1][3][-1] + 1:
                runs[-1][2].append(m[3])
                runs[-1][3].append(number)
    return _chosen([(place, items) for _, place, items, _ in runs if items], lines)


def _bullets(lines: list[str]) -> list[str]:
    runs, indent = [], None
    for place, line in enumerate(lines):
        if m := BULLET.match(line):
            depth = len(m[1].expandtabs(4))
            if not runs or runs[-1] is None:
                runs, indent = [run for run in runs if run] + [(place, [])], depth
            if depth == indent:
                runs[-1][1].append(m[2])
        elif line.strip() and not line.startswith((" ", "\t")) and runs:
            runs.append(None)
    return _chosen([run for run in runs if run], lines)


def _chosen(runs: list[tuple[int, list[str]]], lines: list[str]) -> list[str]:
    """Of several lists the last whose heading speaks of diagnoses, else the first whose heading speaks of
    nothing else."""
    heads, kinds = [""], []  # above each line, the nearest one that is neither empty nor an entry
    for line in lines:
        entry = not line.strip() or BULLET.match(line) or NUMBERED.match(line)
        heads.append(heads[-1] if entry else line)
    for place, items in runs:
        above = heads[place]
        names_list = LIST_HEAD.search(above) and not RULED_OUT.search(above)
        if items := [item for item in items if clean(item)]:
            kinds.append(("list" if names_list else "other" if OTHER_HEAD.search(above) else "plain", items))
    lists = [items for kind, items in kinds if kind == "list"]
    return lists[-1] if lists else next((items for kind, items in kinds if kind == "plain"), [])


def _headed(lines: list[str]) -> list[str]:
    names = [line[m.end() :] for line in lines if (m := HEAD.match(line + " ")) and clean(line[m.end() :])]
    return names if len(names) > 1 and not any(map(SENTENCE_LIST.search, lines)) else []


def _inline(lines: list[str]) -> list[str]:
    for line in lines:
        marks = list(INLINE.finditer(line))
        if len(marks) >= 2 and [int(m[1]) for m in marks] == list(range(1, len(marks) + 1)):
            ends = [m.start() for m in marks[1:]] + [len(line)]
            return [line[m.end() : end].strip(" ,;") for m, end in zip(marks, ends, strict=True)]
    return []


def _sentence(answer: str) -> list[str]:
    for m in SENTENCE_LIST.finditer(answer):
        names = _split(re.split(r"\.(?:\s|$)", m[1])[0])
        if len(names) >= 2:
            return names
    return []


def _separated(lines: list[str]) -> list[str]:
    filled = [line for line in lines if line.strip()]
    if len(filled) > 2:
        return []
    line = re.sub(r"(?i)^.*?(?:diagnos[ei]s|differential)[^:]{0,40}:\s*", "", filled[-1])
    names = (
        re.split(r"\s+>\s+", re.sub(r"^.*:\s*", "", line))
        if line.count(" > ") > 1
        else _split(line.rstrip("."))
    )
    return names if len(names) >= (2 if ";" in line else 3) and all(clean(name) for name in names) else []


def _split(text: str) -> list[str]:
    text = re.sub(r"(?i)^\s*(?:but (?:are|is) not limited to|the following)\W*", "", text)
    parts = (
        text.split(";")
        if ";" in text
        else re.split(r",\s+(?:and\s+|or\s+)?|\s+and\s+(?=[^,]*$)|\s+or\s+(?=[^,]*$)", text)
    )
    return [part.strip() for part in parts if part.strip()]


def _lines(lines: list[str]) -> list[str]:
    filled = [line.strip() for line in lines if line.strip()]
    if len(filled) > 1 and LIST_HEAD.search(filled[0]) and not clean(filled[0]):
        filled = filled[1:]
    return filled if filled and all(clean(line) and ": " not in line for line in filled) else []
