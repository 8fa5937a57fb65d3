"""The discharge summaries of MIMIC-III and MIMIC-IV, cut at their headings: what the three note sources of
the clinical rows need."""

import re
from pathlib import Path

from data_prep.schema import BadInput
from data_prep.sources import mimic_iii, mimic_iv_note

LICENSE = mimic_iii.LICENSE
ACCESS = "credentialed"
# The usual headings of a discharge summary, lower case. A section ends where the next of these begins, and
# only there: the paragraphs of a hospital course have headings of their own ("Neuro:").
HEADINGS = (
    "admission date",
    "date of birth",
    "sex",
    "service",
    "allergies",
    "attending",
    "chief complaint",
    "major surgical or invasive procedure",
    "history of present illness",
    "past medical history",
    "social history",
    "family history",
    "physical exam",
    "physical examination",
    "pertinent results",
    "brief hospital course",
    "hospital course",
    "medications on admission",
    "discharge medications",
    "discharge disposition",
    "discharge diagnosis",
    "discharge diagnoses",
    "discharge condition",
    "discharge instructions",
    "followup instructions",
    "follow-up instructions",
    "facility",
)
HEADING = re.compile(rf"^[ \t]*({'|'.join(HEADINGS)}):", re.IGNORECASE | re.MULTILINE)
MARK = re.compile(r"\[\*\*.*?\*\*\]|___")  # where something that could name a person was removed


class _As:
    """Counts what a reader of the corpus leaves out under the name of the instruction source."""

    def __init__(self, drops, name):
        self.drops, self.name = drops, name

    def add(self, _, reason, where, *, bad=False):
        self.drops.add(self.name, reason, where, bad=bad)

    def repair(self, _, reason, where):
        self.drops.repair(self.name, reason, where)


def files(raw: Path) -> list[Path]:
    """NOTEEVENTS.csv and discharge.csv, as far as they are below RAW/mimic_iii and RAW/mimic_iv_note."""
    found = []
    for folder, name in (("mimic_iii", "NOTEEVENTS.csv"), ("mimic_iv_note", "discharge.csv")):
        found += [path for path in (raw / folder / f"{name}{end}" for end in ("", ".gz")) if path.is_file()][
            :1
        ]
    if not found:
        raise BadInput(
            f"{raw}: neither mimic_iii/NOTEEVENTS.csv nor mimic_iv_note/discharge.csv. Next: "
            "physionet.org, with credentials"
        )
    return found


def read(name: str, raw: Path, drops):
    """Yield (id, patient, text, sections(text), where). Other notes, addenda and withdrawn notes are counted
    and left out."""
    for path in files(raw):
        module = mimic_iii if path.name.startswith("NOTEEVENTS") else mimic_iv_note
        for document in module.read(path, _As(drops, name)):
            where, meta = f"{path}: {document['id']}", document["meta"]
            if module is mimic_iii and (meta["category"], meta["description"]) != (
                "Discharge summary",
                "Report",
            ):
                drops.add(name, "not a discharge summary", where)
                continue
            text = document["text"].replace("\r\n", "\n").strip()
            yield document["id"], f"{module.__name__}:{meta['subject_id']}", text, sections(text), where


def sections(text: str) -> dict:
    """{heading in lower case: (start of the heading, end of the section, text of the section)}; of two of one
    name, the first."""
    headings = list(HEADING.finditer(text))
    found = {}
    for heading, following in zip(headings, [*headings, None][1:], strict=True):
        end = following.start() if following else len(text)
        found.setdefault(
            heading[1].lower(), (heading.start(), end, " ".join(text[heading.end() : end].split()))
        )
    return found


def first_words(text: str, number: int) -> str:
    """The text up to its word `number`, its lines kept."""
    match = re.match(rf"(?:\s*\S+){{0,{number}}}", text)
    return match[0].strip()


def last_words(text: str, number: int) -> str:
    """The text from its last `number` words on, its lines kept."""
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    return text[starts[-number] if len(starts) > number else 0 :].strip()
