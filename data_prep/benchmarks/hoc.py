"""HoC, Hallmarks of Cancer: which of ten hallmarks does an abstract relate to? Any number of them. (Baker et
al. 2016)

Origin    github.com/sb895/Hallmarks-of-Cancer. License GPL-3.0, public.
Raw       text/PMID.txt, one tokenized sentence a line, and labels/PMID.txt, one line with a field for each
          sentence:
              < <Resisting cell death--Apoptosis-- ANDInducing angiogenesis--< NULL
          or, as the paper used, the BLUE benchmark's {train,dev,test}.tsv: pmid, text, labels (lower case,
          separated by ";"). If one of these is in the folder, only these are read.
Rows      one for each abstract; the completion lists its hallmarks, separated by "; ", in the order of LABELS
Splits    TSV: as published, dev is validation. Original: 70 / 10 / 20 % by the hash of the PMID, as the list
          of BLUE's ids is not with it
Table 3   1,108 / 157 / 315, which are the BLUE files, 1,580 abstracts
Left out  and counted: abstracts without a hallmark (272 of the original's 1,852; BLUE leaves them out too),
          and those with a label outside the ten
Oddities  the original's fields begin with "<", so the first piece is empty; " AND" has no blank after it;
          labels are paths of which the first name is the hallmark; 11 files contain the word NULL. Two of
          BLUE's label sets differ from the original's. The TSV is read as CSV (36 rows are quoted) and holds
          U+0085, at which str.splitlines would cut.
"""

from pathlib import Path

from data_prep.benchmarks import fraction, read_prompt
from data_prep.files import open_text, read_whole
from data_prep.schema import BadInput
from data_prep.sources.raw_files import csv_records

LICENSE = "GPL-3.0"
ACCESS = "public"
PAGE = "https://github.com/sb895/Hallmarks-of-Cancer"
SCORING = "labels"
EXPECTED = {"train": 1108, "validation": 157, "test": 315}
DIFFERENCE = (
    "Table 3 counts BLUE's files; from the original files, the split is ours, by the hash of the PMID."
)
LABELS = [
    "activating invasion and metastasis",
    "avoiding immune destruction",
    "cellular energetics",
    "enabling replicative immortality",
    "evading growth suppressors",
    "genomic instability and mutation",
    "inducing angiogenesis",
    "resisting cell death",
    "sustaining proliferative signaling",
    "tumor promoting inflammation",
]
TSV_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
COMMON = {
    "task": "hoc",
    "source": "hoc",
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
    for text_path in sorted(folder.glob("text/*.txt")):
        label_path = folder / "labels" / text_path.name
        if not label_path.is_file():
            raise BadInput(f"{label_path}: no such file. Next: add it, or remove {text_path}")
        found += [text_path, label_path]
    if not found:
        raise BadInput(f"{folder}: no text/*.txt and no test.tsv. Next: take text and labels from {PAGE}")
    return found


def read(folder: Path, drops):
    template = read_prompt("hoc", "labels", "text")
    paths = files(folder)
    if paths[0].suffix == ".tsv":
        abstracts = (abstract for path in paths for abstract in _read_table(path))
    else:
        abstracts = (_read_original(*pair) for pair in zip(paths[::2], paths[1::2], strict=True))
    for pmid, split, text, labels, where in abstracts:
        if not text:
            drops.add("hoc", "empty text", where)
        elif not labels:
            drops.add("hoc", "no hallmark", where)
        elif labels - set(LABELS):
            drops.add("hoc", "label is not one of the ten", where)
        else:
            prompt = template.format(labels="; ".join(LABELS), text=text)
            yield {
                "id": f"hoc:{pmid}",
                "split": split,
                **COMMON,
                "prompt": prompt,
                "completion": "; ".join(label for label in LABELS if label in labels),
            }


def _read_original(text_path: Path, label_path: Path):
    """(PMID, split, text, hallmarks, where) of one abstract."""
    with open_text(text_path) as stream:
        text = " ".join(read_whole(stream, text_path).split())
    labels = set()
    if label_path.stat().st_size:
        with open_text(label_path) as stream:
            for field in read_whole(stream, label_path).split("<"):
                labels |= {path.partition("--")[0].strip().lower() for path in field.split(" AND")}
    place = fraction(text_path.stem)
    split = (
        "test" if place < TEST_SHARE else "validation" if place < TEST_SHARE + VALIDATION_SHARE else "train"
    )
    return text_path.stem, split, text, labels - {"", "null"}, str(label_path)


def _read_table(path: Path):
    """Yield (PMID, split, text, hallmarks, where) for each row of a BLUE table."""
    records = csv_records(path, delimiter="\t")
    _, header = next(records, (0, []))
    if header[1:] != ["text", "labels"]:
        raise BadInput(f"{path}: the columns are {header}, must be pmid, text, labels")
    for number, (_, cells) in enumerate(records, 1):
        if not cells:
            continue
        where = f"{path}: record {number}"
        if len(cells) != 3:
            raise BadInput(f"{where} has {len(cells)} columns, must have 3")
        labels = {label.strip().lower() for label in cells[2].split(";")} - {"", "null"}
        yield cells[0].strip(), TSV_SPLITS[path.stem], " ".join(cells[1].split()), labels, where
