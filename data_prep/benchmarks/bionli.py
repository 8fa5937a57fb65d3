"""BioNLI: is the conclusion of an abstract entailed by its other sentences, or was it changed to contradict
them? (Bastan et al. 2022)

Origin    github.com/StonyBrookNLP/BioNLI; the files on Google Drive, the test set from the authors on
          request. License CC BY 4.0, public.
Raw       {train_balanced,dev_balanced,test}.csv: index, pmid, supp_set (premise), conclusion (hypothesis),
          label_cat
Labels    two: label_cat "pos" is entailment; every other value names the way in which the conclusion was
          changed (SRE, SEN, LPR, swap_number, generation, ...) and is contradiction. There is no neutral.
Splits    as published; dev is validation. A file that is not there gives no rows.
Table 3   5,544 / 5,000 / 6,308
Left out  and counted: rows whose label_cat holds SET, as in the authors' code, and rows without label,
          premise or conclusion
Oddities  the premise holds the marks <re> <er> <el> <le>: kept. 745 of the 6,308 test rows repeat a premise
          and hypothesis: kept. The schema is documented, not measured: the files were not at hand when this
          was written.
"""

from pathlib import Path

from data_prep.benchmarks import read_prompt
from data_prep.schema import BadInput
from data_prep.sources.raw_files import csv_rows

LICENSE = "CC BY 4.0"
ACCESS = "public"
PAGE = "https://github.com/StonyBrookNLP/BioNLI"
SCORING = "choice"
EXPECTED = {"train": 5544, "validation": 5000, "test": 6308}
DIFFERENCE = (
    "The authors publish several versions of train and dev; the balanced ones are read, and the "
    "paper names none."
)
CHOICES = ["entailment", "contradiction"]
SPLITS = {"train_balanced": "train", "dev_balanced": "validation", "test": "test"}
COMMON = {
    "task": "bionli",
    "source": "bionli",
    "scoring": SCORING,
    "license": LICENSE,
    "access": ACCESS,
    "choices": CHOICES,
}


def files(folder: Path) -> list[Path]:
    found = [path for path in (folder / f"{name}.csv" for name in SPLITS) if path.is_file()]
    if not found:
        raise BadInput(
            f"{folder}: none of train_balanced.csv, dev_balanced.csv, test.csv. Next: ask for them as "
            f"{PAGE} says"
        )
    return found


def read(folder: Path, drops):
    template = read_prompt("bionli", "premise", "hypothesis")
    for path in files(folder):
        for number, row in csv_rows(path, ("pmid", "supp_set", "conclusion", "label_cat")):
            where = f"{path}: record {number}"
            premise, hypothesis, kind = (
                row["supp_set"].strip(),
                row["conclusion"].strip(),
                row["label_cat"].strip(),
            )
            if not kind:
                drops.add("bionli", "no label", where)
            elif "SET" in kind:
                drops.add("bionli", "label_cat holds SET", where)
            elif not premise or not hypothesis:
                drops.add("bionli", "no premise or no conclusion", where)
            else:
                prompt = template.format(premise=premise, hypothesis=hypothesis)
                label = "entailment" if kind == "pos" else "contradiction"
                row_id = f"bionli:{SPLITS[path.stem]}:{number}:{row['pmid'].strip()}"
                yield {
                    "id": row_id,
                    "split": SPLITS[path.stem],
                    **COMMON,
                    "prompt": prompt,
                    "completion": label,
                }
