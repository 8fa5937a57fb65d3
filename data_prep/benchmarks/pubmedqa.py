"""PubMedQA: does the abstract answer its own title's question with yes, no or maybe? (Jin et al. 2019)

Origin    github.com/pubmedqa/pubmedqa. License MIT, public.
Raw       ori_pqal.json           1000 expert-labelled questions (PQA-L), one JSON object keyed by PMID:
                                  {QUESTION, CONTEXTS [paragraphs of the abstract], LABELS, final_decision,
                                  LONG_ANSWER, ...}
          test_ground_truth.json  {PMID: label}, the official 500 test ids, all of them in ori_pqal.json
          ori_pqaa.json           optional, 211,269 artificially labelled questions (PQA-A), the same shape,
          yes and no only
Splits    test        the official 500 (yes 276, no 169, maybe 55)
          without PQA-A: train = the other 500 of PQA-L, no validation
          with PQA-A: train and validation = PQA-A, 10 % to validation by the hash of the PMID, as in the
          paper's Table 3; the other 500 of PQA-L are then left out and counted
Table 3   190,143 / 21,126 / 500
Oddities  keyed by PMID, so the id is no field of the record. reasoning_*_pred are guesses of a model, not
          labels: unused.
"""

from pathlib import Path

from data_prep.benchmarks import fraction, pick, read_prompt, texts
from data_prep.files import read_json
from data_prep.schema import BadInput

LICENSE = "MIT"
ACCESS = "public"
PAGE = "https://github.com/pubmedqa/pubmedqa"
SCORING = "choice"
EXPECTED = {"train": 190143, "validation": 21126, "test": 500}
DIFFERENCE = (
    "Without ori_pqaa.json there is no PQA-A to train on; with it, validation is a tenth by the "
    "hash of the PMID, so a few rows more or less."
)
CHOICES = ["yes", "no", "maybe"]
VALIDATION_SHARE = 0.1  # Table 3: 21,126 of 211,269
COMMON = {
    "task": "pubmedqa",
    "source": "pubmedqa",
    "scoring": SCORING,
    "license": LICENSE,
    "access": ACCESS,
    "choices": CHOICES,
}


def files(folder: Path) -> list[Path]:
    needed = [folder / "ori_pqal.json", folder / "test_ground_truth.json"]
    for path in needed:
        if not path.is_file():
            raise BadInput(
                f"{path}: no such file. Next: take it from the data folder of github.com/pubmedqa/pubmedqa"
            )
    return needed + [path for path in [folder / "ori_pqaa.json"] if path.is_file()]


def read(folder: Path, drops):
    labelled_path, truth_path, *artificial_path = files(folder)
    labelled, truth = _object(labelled_path), _object(truth_path)
    for pmid, label in truth.items():
        if pmid not in labelled:
            raise BadInput(f"{truth_path}: PMID {pmid} is not in {labelled_path.name}")
        if pick(labelled[pmid], f"{labelled_path}: PMID {pmid}", final_decision=str) != [label]:
            raise BadInput(f"{truth_path}: PMID {pmid} is '{label}', but {labelled_path.name} says otherwise")

    template = read_prompt("pubmedqa", "question", "context")
    for pmid, record in labelled.items():
        where = f"{labelled_path}: PMID {pmid}"
        if pmid in truth:
            yield from _row(template, pmid, record, "test", where, drops)
        elif artificial_path:
            drops.add("pubmedqa", "PQA-L outside the test, not used beside PQA-A", where)
        else:
            yield from _row(template, pmid, record, "train", where, drops)

    for path in artificial_path:
        for pmid, record in _object(path).items():
            where = f"{path}: PMID {pmid}"
            if pmid in labelled:
                drops.add("pubmedqa", "PQA-A question that is also in PQA-L", where)
                continue
            split = "validation" if fraction(pmid) < VALIDATION_SHARE else "train"
            yield from _row(template, pmid, record, split, where, drops)


def _object(path: Path) -> dict:
    value = read_json(path)
    if not isinstance(value, dict) or not value:
        raise BadInput(f"{path}: expected a JSON object keyed by PMID, found {type(value).__name__}")
    return value


def _row(template: str, pmid: str, record: dict, split: str, where: str, drops):
    question, contexts, label = pick(record, where, QUESTION=str, CONTEXTS=list, final_decision=str)
    if label not in CHOICES:
        drops.add("pubmedqa", "label is not yes, no or maybe", where)
        return
    prompt = template.format(question=question.strip(), context="\n".join(texts(contexts, where, "CONTEXTS")))
    yield {"id": f"pubmedqa:{pmid}", "split": split, **COMMON, "prompt": prompt, "completion": label}
