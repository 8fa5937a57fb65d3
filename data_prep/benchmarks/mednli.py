"""MedNLI: does a sentence of a clinical note entail, contradict or leave open a hypothesis? (Romanov and
Shivade 2018)

Origin    physionet.org/content/mednli. License PhysioNet Credentialed Health Data License 1.5.0,
          credentialed.
Raw       mli_{train,dev,test}_v1.jsonl, one {pairID, sentence1 (premise), sentence2 (hypothesis), gold_label,
          *_parse} a line
Splits    as published; dev is validation. A file that is not there gives no rows.
Table 3   11,232 / 1,422 / 1,395 (recalled: the published dev has 1,395 and test 1,422, the other way round)
Oddities  the input is "[PRE] premise [HYP] hypothesis", as the paper's released evaluation code has it.
"""

from pathlib import Path

from data_prep.benchmarks import pick, read_prompt
from data_prep.files import read_jsonl
from data_prep.schema import BadInput

LICENSE = "PhysioNet Credentialed Health Data License 1.5.0"
ACCESS = "credentialed"
PAGE = "https://physionet.org/content/mednli/"
SCORING = "choice"
EXPECTED = {"train": 11232, "validation": 1422, "test": 1395}
DIFFERENCE = (
    "The published files are used whole; the paper's validation and test counts may be swapped "
    "(recalled: 1,395 and 1,422)."
)
CHOICES = ["entailment", "contradiction", "neutral"]
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
COMMON = {
    "task": "mednli",
    "source": "mednli",
    "scoring": SCORING,
    "license": LICENSE,
    "access": ACCESS,
    "choices": CHOICES,
}


def files(folder: Path) -> list[Path]:
    found = [path for path in (folder / f"mli_{name}_v1.jsonl" for name in SPLITS) if path.is_file()]
    if not found:
        raise BadInput(
            f"{folder}: no mli_train_v1.jsonl, mli_dev_v1.jsonl or mli_test_v1.jsonl. Next: "
            "physionet.org/content/mednli"
        )
    return found


def read(folder: Path, drops):
    template = read_prompt("mednli", "premise", "hypothesis")
    for path in files(folder):
        name = path.stem.split("_")[1]
        for number, record in read_jsonl(path):
            where = f"{path}: line {number}"
            premise, hypothesis, label, pair = pick(
                record, where, sentence1=str, sentence2=str, gold_label=str, pairID=str
            )
            if label not in CHOICES:
                drops.add("mednli", "label is not one of the three", where)
                continue
            prompt = template.format(premise=premise.strip(), hypothesis=hypothesis.strip())
            yield {
                "id": f"mednli:{name}:{pair}",
                "split": SPLITS[name],
                **COMMON,
                "prompt": prompt,
                "completion": label,
            }
