"""The offline judge: does a predicted diagnosis name the final one? Words and synonyms alone, so in doubt no.

    Matcher().same("Haemophilia A", "Hemophilia", [])  ->  (True, "more specific")

Accents, case, British spelling, possessives, plurals and Roman numerals do not count, nor does the order of
the words; text in brackets is another name. A name that adds words before or after the whole final diagnosis
is more specific and right, unless a word turns it into something else ("pseudo-", "non-", "-like", "history
of"); a less specific one is wrong. Abbreviations count where they are given as synonyms, by the case or by a
table: a TSV file, the names of one disease in a line.
"""

import re
import unicodedata
from pathlib import Path

from data_prep.files import open_text, sha256
from data_prep.schema import BadInput

MATCHER_VERSION = "1.0"
SPELLINGS = (  # British and Latin -> American, inside a word
    ("haem", "hem"),
    ("aemi", "emi"),
    ("oedem", "edem"),
    ("oesoph", "esoph"),
    ("aesth", "esth"),
    ("tumour", "tumor"),
    ("rrhoe", "rrhe"),
    ("pnoe", "pne"),
    ("paed", "ped"),
    ("gynaec", "gynec"),
    ("foet", "fet"),
    ("caec", "cec"),
    ("faec", "fec"),
    ("coeliac", "celiac"),
    ("aetio", "etio"),
    ("neurone", "neuron"),
    ("fibre", "fiber"),
    ("behaviour", "behavior"),
    ("amoeb", "ameb"),
    ("sulph", "sulf"),
    ("oestr", "estr"),
    ("leucocyt", "leukocyt"),
)
ROMAN = {"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8"}
ONE_LETTER = {"i": "1", "v": "5", "x": "10"}  # letters as well: only after "type" and the like
LONGEST = 400  # characters of a prediction that are compared
EMPTY = {"an", "the", "of", "in", "and", "with", "by", "to", "type"}
HEADS = {"disease", "syndrome", "disorder"}  # "Crohn" is Crohn's disease
CHANGES = {  # a word that makes of a disease another thing
    "no",
    "not",
    "non",
    "without",
    "pseudo",
    "like",
    "mimic",
    "mimicking",
    "history",
    "risk",
    "exposure",
    "versus",
    "vs",
    "or",
    "rule",
    "ruled",
    "out",
    "exclude",
    "excluded",
    "negative",
    "prophylaxis",
    "vaccine",
    "vaccination",
    "carrier",
    "family",
    "fear",
    "phobia",
    "anti",
    "unlikely",
    "resolved",
    "induced",
    "related",
}


def words(name: str) -> tuple[str, ...]:
    """The words of a name that count, as they are compared."""
    text = unicodedata.normalize("NFKD", name).casefold()
    text = (
        "".join(c for c in text if not unicodedata.combining(c))
        .replace("ß", "ss")
        .replace("œ", "oe")
        .replace("æ", "ae")
    )
    text = re.sub(r"(?<=\w)['’`]s?\b", "", text)
    text = re.sub(r"^\s*a\s+(?=\S)", "", text)  # elsewhere an a is a letter: hepatitis A
    text = re.sub(r"\b(?:secondary|due) to\b|\bassociated with\b", " ", text)
    text = re.sub(
        r"\b(type|grade|stage|class|group|factor) (i|v|x)\b", lambda m: f"{m[1]} {ONE_LETTER[m[2]]}", text
    )
    found = []
    for word in re.findall(r"[^\W_]+", text):
        for british, american in SPELLINGS:
            word = word.replace(british, american)
        if len(word) > 3 and re.search(r"(?<![suix])s$", word):
            word = re.sub(r"(?<=[^aeiou])ie$", "y", word[:-1])
        word = ROMAN.get(word, word)
        if word not in EMPTY:
            found.append(word)
    return tuple(found)


def names_of(text: str) -> list[tuple[str, ...]]:
    """The words of a name without its brackets, and of each bracket: "Osteoclastoma (giant cell tumor of
    bone)" is two names. What follows the first LONGEST characters is not looked at."""
    text = text[:LONGEST]
    inside = [
        part
        for part in re.findall(r"[(\[]([^()\[\]]+)[)\]]", text)
        if not re.match(r"(?i)(?:e\.?g|such as|including|possibly|vs|versus|secondary|due|with)\b", part)
    ]
    return [found for found in map(words, [re.sub(r"[(\[].*?[)\]]", " ", text), *inside]) if found]


class Matcher:
    def __init__(self, table: Path | None = None):
        """`table`: lines of names separated by tabs, all of one disease."""
        self.groups, self.sha256 = {}, table and sha256(table) if table and table.is_file() else None
        if table is None:
            return
        with open_text(table) as lines:
            for number, line in enumerate(lines, 1):
                group = {frozenset(words(name)) for name in line.split("\t")} - {frozenset()}
                if line.startswith("#") or not group:
                    continue
                if "\t" not in line:
                    raise BadInput(
                        f"{table}: line {number} has one name. Next: write the names of a disease in one "
                        f"line, separated by tabs"
                    )
                for name in group:
                    self.groups.setdefault(name, set()).update(group)

    def same(self, prediction: str, diagnosis: str, synonyms: list[str]) -> tuple[bool, str]:
        """(whether `prediction` names `diagnosis`, the rule that said so)."""
        prediction = prediction[:LONGEST]
        given = names_of(prediction)
        wanted = names_of(diagnosis) + [name for synonym in synonyms for name in names_of(synonym)]
        others = {name for known in wanted for name in self.groups.get(frozenset(known), ())}
        for name in given:
            if frozenset(name) in map(frozenset, wanted):
                return True, "the same words"
            if frozenset(name) in others:
                return True, "synonym table"
            if any(
                frozenset(name) ^ frozenset(known) <= HEADS
                and min(len(name), len(known)) == 1
                and len(set(name) ^ set(known)) == 1
                for known in wanted
            ):
                return True, "the same but for 'disease'"
        whole = words(re.sub(r"[(\[].*?[)\]]", " ", prediction))
        if not re.search(r"(?i)\b(?:vs\.?|versus|or)\b|\?", prediction):
            for known in wanted:
                if _adds_to(whole, known):
                    return True, "more specific"
        return False, "other words"


def _adds_to(name: tuple[str, ...], known: tuple[str, ...]) -> bool:
    """Whether `name` begins or ends with all of `known` and what it adds leaves it the same disease. An
    abbreviation is too short to be added to."""
    if not 0 < len(known) < len(name) or len("".join(known)) < 5 or CHANGES & (set(name) - set(known)):
        return False
    return name[: len(known)] == known or name[-len(known) :] == known
