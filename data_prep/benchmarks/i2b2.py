"""i2b2/VA 2010 concepts: mark the problems, treatments and tests of each line of a clinical note. (Uzuner et
al. 2011)

Origin    n2c2 portal (portal.dbmi.hms.harvard.edu), 2010 challenge. License n2c2 data use agreement,
          credentialed.
Raw       {train,test}/txt/NAME.txt, one sentence a line, tokens separated by blanks, and
          {train,test}/concept/NAME.con with
              c="lower-cased words" LINE:TOKEN LINE:TOKEN||t="problem"      lines from 1, tokens from 0, both
              ends included
Rows      one for each line that is not blank. The completion is the line with <span class="problem"> ..
          </span> around each concept and nothing else changed: < and & stay as they are, so taking the six
          known tags out gives the input back. A line without concepts is a row too, its completion is the
          line itself.
Splits    test = the folder test; train and validation = the folder train, 11 % of its records to validation
          by the hash of the name
Table 3   60,875 / 7,400 / 7,451. The paper re-split all records and does not publish how, so our numbers
          differ.
Left out  and counted: blank lines; lines with a concept that runs over several lines, does not match the text
          at its offsets, or overlaps another; lines with a span tag already. The whole line goes: half its
          labels would be a wrong answer.
Oddities  if a line starts with white space, its token 0 is the empty one before it. Some files count a run of
          blanks as one break, others as several: each concept is located by both counts and must read as the
          .con file says (blind to case). Words may contain " and |, so a .con line is read from its end. The
          release page calls the set "2012 i2b2" by mistake.
"""

import re
from pathlib import Path

from data_prep.benchmarks import fraction, read_prompt
from data_prep.files import open_text, read_whole
from data_prep.schema import BadInput

LICENSE = "n2c2 Data Use Agreement"
ACCESS = "credentialed"
PAGE = "https://portal.dbmi.hms.harvard.edu"
SCORING = "entities"
EXPECTED = {"train": 60875, "validation": 7400, "test": 7451}
DIFFERENCE = (
    "The paper re-split all records and does not say how: our test is the published one, whole "
    "records go to validation."
)
TYPES = ["problem", "treatment", "test"]
VALIDATION_SHARE = 0.11  # Table 3: 7,400 of 68,275
COMMON = {
    "task": "i2b2",
    "source": "i2b2",
    "scoring": SCORING,
    "license": LICENSE,
    "access": ACCESS,
    "choices": TYPES,
}
CONCEPT = re.compile(
    r'c="(?P<words>.*)" (?P<line>\d+):(?P<first>\d+) (?P<end_line>\d+):(?P<last>\d+)\|\|t="(?P<type>'
    r'[^"]*)"\s*'
)
TAG = re.compile(r'<span class="(?:problem|treatment|test)">|</span>')


def files(folder: Path) -> list[Path]:
    found = []
    for text_path in sorted(folder.glob("train/txt/*.txt")) + sorted(folder.glob("test/txt/*.txt")):
        concept_path = text_path.parent.parent / "concept" / f"{text_path.stem}.con"
        if not concept_path.is_file():
            raise BadInput(f"{concept_path}: no such file. Next: add it, or remove {text_path.name}")
        found += [text_path, concept_path]
    if not found:
        raise BadInput(
            f"{folder}: no train/txt/*.txt and no test/txt/*.txt. Next: request the 2010 data at "
            "portal.dbmi.hms.harvard.edu"
        )
    return found


def read(folder: Path, drops):
    template = read_prompt("i2b2", "text")
    paths = files(folder)
    for text_path, concept_path in zip(paths[::2], paths[1::2], strict=True):
        part, record = text_path.parent.parent.name, text_path.stem
        split = "test" if part == "test" else "validation" if fraction(record) < VALIDATION_SHARE else "train"
        with open_text(text_path) as stream:
            lines = [
                line.rstrip("\r") for line in read_whole(stream, text_path).split("\n")
            ]  # splitlines() would also cut at form feeds
        concepts, broken = _read_concepts(concept_path, len(lines))
        for number, line in enumerate(lines, 1):
            where = f"{text_path}: line {number}"
            if not line.strip():
                if number < len(lines):  # what follows the last line end is no line
                    drops.add("i2b2", "blank line", where)
                continue
            marked, reason = (
                (None, "concept over several lines")
                if number in broken
                else mark(line, concepts.get(number, []))
            )
            if marked is None:
                drops.add("i2b2", reason, where)
                continue
            yield {
                "id": f"i2b2:{part}:{record}:{number}",
                "split": split,
                **COMMON,
                "prompt": template.format(text=line.strip(" \t")),
                "completion": marked.strip(" \t"),
            }


def _read_concepts(path: Path, n_lines: int) -> tuple[dict, set]:
    """({line number: [(words, first token, last token, type)]}, line numbers touched by a concept over
    several lines)."""
    concepts, broken = {}, set()
    if path.stat().st_size == 0:  # a record without concepts
        return concepts, broken
    with open_text(path) as stream:
        for number, text in enumerate(read_whole(stream, path).split("\n"), 1):
            if not text.strip():
                continue
            match = CONCEPT.fullmatch(text)
            if not match or match["type"] not in TYPES:
                raise BadInput(
                    f'{path}: line {number} does not read c="words" line:token '
                    'line:token||t="problem|treatment|test"'
                )
            start, end = int(match["line"]), int(match["end_line"])
            if not 1 <= start <= end <= n_lines:
                raise BadInput(f"{path}: line {number} points at line {end} of a text of {n_lines} lines")
            if start != end:
                broken.update(range(start, end + 1))
            else:
                entry = (match["words"], int(match["first"]), int(match["last"]), match["type"])
                concepts.setdefault(start, set()).add(entry)
    return concepts, broken


def mark(line: str, concepts) -> tuple[str | None, str]:
    """`line` with a span around each (words, first token, last token, type), or None and the reason why it
    cannot be marked."""
    if TAG.search(line):
        return None, "line has a span tag already"
    places = []
    for words, first, last, kind in concepts:
        place = _locate(line, words, first, last)
        if place is None:
            return None, "concept does not read as its offsets"
        places.append((*place, kind))
    places.sort(reverse=True)
    if any(left[1] > right[0] for right, left in zip(places, places[1:], strict=False)):
        return None, "overlapping concepts"
    for start, end, kind in places:  # from the right, so that the offsets to the left stay true
        line = f'{line[:start]}<span class="{kind}">{line[start:end]}</span>{line[end:]}'
    return line, ""


def _locate(line: str, words: str, first: int, last: int) -> tuple[int, int] | None:
    """Character offsets (end excluded) of tokens `first` to `last`, if they read `words`."""
    before = [(0, 0)] if line[:1].isspace() else []
    by_runs = before + [match.span() for match in re.finditer(r"\S+", line)]
    by_blanks, start = [] if line[:1] == " " else list(before), 0
    for token in line.split(" "):
        by_blanks.append((start, start + len(token)))
        start += len(token) + 1
    for spans in (by_blanks, by_runs):
        if first <= last < len(spans):
            start, end = spans[first][0], spans[last][1]
            if line[start:end].lower().split() == words.lower().split():
                return start, end
    return None
