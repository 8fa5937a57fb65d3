"""DDI 2013: which interaction, if any, does a sentence state between two of its drugs? (Herrero-Zazo et al.
2013)

Origin    github.com/isegura/DDICorpus. License CC BY-NC (its README), public.
Raw       DDICorpus/{Train,Test}/**/*.xml: document > sentence@text > entity@charOffset,
          pair@e1,@e2,@ddi,@type or, as the paper used, the BLUE benchmark's {train,dev,test}.tsv (index,
          sentence, label). If one of these is in the folder, only these are read: their train is cut
          otherwise than ours, and the two must not be mixed.
Rows      one for each pair; the two drugs are written @DRUG$, other drugs stay as they are (the BLUE form)
Splits    XML: Test -> test; Train -> train and validation, 28 % of its documents to validation by the hash of
          the document id TSV: as published, dev is validation
Table 3   18,779 / 7,244 / 5,761, which are the BLUE files. The XML test has 5,716 pairs: BLUE's holds 45
          more, all negative.
Left out  and counted: an interaction without a type (one pair of Train), other labels, pairs in sentences
          without text, pairs whose offsets do not show the drug; the folder "Test for DrugNER task" is not
          read, its 941 pairs are all negative.
Oddities  charOffset includes its end, and may have parts, "12-15;30-44": the whole span, from its first to
          its last character, is marked, as in BLUE. Where the spans of the two drugs overlap, both become one
          @DRUG-DRUG$, also as in BLUE. Sentences repeat (55 of BLUE's test).
"""

import csv
from pathlib import Path

from data_prep.benchmarks import fraction, read_prompt
from data_prep.schema import BadInput
from data_prep.sources.raw_files import csv_records, walk
from data_prep.sources.xml_text import parse

LICENSE = "CC-BY-NC"
ACCESS = "public"
PAGE = "https://github.com/isegura/DDICorpus"
SCORING = "choice"
EXPECTED = {"train": 18779, "validation": 7244, "test": 5761}
DIFFERENCE = (
    "Table 3 counts BLUE's tables, whose test holds 45 negatives that the XML corpus does not; "
    "the split of train is ours."
)
LABELS = ["DDI-effect", "DDI-mechanism", "DDI-advise", "DDI-int", "DDI-false"]
VALIDATION_SHARE = 0.28  # Table 3: 7,244 of 26,023
TSV_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
COMMON = {
    "task": "ddi",
    "source": "ddi",
    "scoring": SCORING,
    "license": LICENSE,
    "access": ACCESS,
    "choices": LABELS,
}


def files(folder: Path) -> list[Path]:
    tables = [path for path in (folder / f"{name}.tsv" for name in TSV_SPLITS) if path.is_file()]
    if tables:
        return tables
    found = []
    for part in ("Train", "Test"):
        found += [
            path
            for path in walk(folder / "DDICorpus" / part)
            if path.suffix == ".xml" and not any("DrugNER" in parent for parent in path.parts)
        ]
    if not found:
        raise BadInput(
            f"{folder}: no DDICorpus/{{Train,Test}}/**/*.xml and no test.tsv. Next: unpack "
            "github.com/isegura/DDICorpus there"
        )
    return found


def read(folder: Path, drops):
    template = read_prompt("ddi", "labels", "text")
    for path in files(folder):
        if path.suffix == ".tsv":
            pairs = _read_table(path)
        else:
            pairs = _read_document(
                path, "Test" if "Test" in path.relative_to(folder).parts else "Train", drops
            )
        for pair_id, split, text, label, where in pairs:
            if label not in LABELS:
                drops.add(
                    "ddi",
                    "interaction without a type"
                    if label in ("DDI-", "DDI-None")
                    else "label is not one of the five",
                    where,
                )
                continue
            prompt = template.format(labels=", ".join(LABELS), text=text)
            yield {"id": f"ddi:{pair_id}", "split": split, **COMMON, "prompt": prompt, "completion": label}


def _read_table(path: Path):
    """Yield (id, split, sentence, label, where). The file has raw quotes, so CSV quoting is off."""
    for number, cells in csv_records(path, delimiter="\t", quoting=csv.QUOTE_NONE):
        if number == 1:
            if cells != ["index", "sentence", "label"]:
                raise BadInput(f"{path}: the columns are {cells}, must be index, sentence, label")
        elif cells:
            if len(cells) != 3:
                raise BadInput(f"{path}: line {number} has {len(cells)} columns, must have 3")
            yield (
                cells[0],
                TSV_SPLITS[path.stem],
                cells[1].strip(),
                cells[2].strip(),
                f"{path}: line {number}",
            )


def _read_document(path: Path, part: str, drops):
    """Yield (id, split, sentence with its two drugs marked, label, where)."""
    document = parse(path)
    split = (
        "test"
        if part == "Test"
        else "validation"
        if fraction(document.get("id", path.stem)) < VALIDATION_SHARE
        else "train"
    )
    for sentence in document.iter("sentence"):
        text = sentence.get("text", "")
        drugs = {drug.get("id"): drug for drug in sentence.iter("entity")}
        for pair in sentence.iter("pair"):
            where = f"{path}: {pair.get('id')}"
            if not text.strip():
                drops.add("ddi", "sentence without text", where)
                continue
            if (
                pair.get("e1") not in drugs
                or pair.get("e2") not in drugs
                or pair.get("ddi") not in ("true", "false")
            ):
                raise BadInput(
                    f"{where}: e1 and e2 must name entities of the sentence, ddi must be true or false"
                )
            parts = [_parts(drugs[pair.get(end)], text) for end in ("e1", "e2")]
            if None in parts:
                drops.add("ddi", "offsets do not show the drug", where)
                continue
            label = f"DDI-{pair.get('type', '')}" if pair.get("ddi") == "true" else "DDI-false"
            spans = [(drug[0][0], drug[-1][1]) for drug in parts]
            yield pair.get("id"), split, mark(text, *spans).strip(), label, where


def _parts(drug, text: str) -> list[tuple[int, int]] | None:
    """The parts of a drug mention as (start, end excluded), or None if the text there is not the mention."""
    try:
        parts = [
            tuple(int(number) for number in part.split("-")) for part in drug.get("charOffset").split(";")
        ]
        parts = [(start, end + 1) for start, end in parts]
    except (AttributeError, ValueError):
        return None
    shown = [text[start:end] for start, end in parts]
    same = "".join("".join(shown).split()) == "".join(drug.get("text", "").split())
    return parts if same and all(part == part.strip() for part in shown) else None


def mark(text: str, first: tuple[int, int], second: tuple[int, int]) -> str:
    """`text` with the spans (start, end excluded) of two drugs replaced by @DRUG$, or by one @DRUG-DRUG$ if
    they overlap."""
    (start, end), (other_start, other_end) = sorted((first, second))
    if end <= other_start:
        return f"{text[:start]}@DRUG${text[end:other_start]}@DRUG${text[other_end:]}"
    return f"{text[:start]}@DRUG-DRUG${text[max(end, other_end) :]}"
