"""MedMCQA: questions of the Indian medical entrance examinations, four options. (Pal et al. 2022)

Origin    github.com/medmcqa/medmcqa. License MIT, public.
Raw       {train,dev}.json, JSON *lines* despite the name: {id, question, opa..opd, cop, subject_name,
          topic_name, exp, choice_type}; cop is the right option, counted from 1 or the export of the Hub,
          {train,validation}-*.parquet with the same fields, where cop counts from 0
Splits    test = the published dev, as in the paper (the published test has no labels and is not read)
          train and validation = the published train, 10 % to validation by the hash of the id (Table 3:
          18,282 of 182,822)
Table 3   164,540 / 18,282 / 4,183
Oddities  A .json made from the Hub's export counts cop from 0 as well: read as if from 1 it would silently
          shift every label, so one cop of 0 refuses the file. 21 rows of dev offer the same text twice;
          "multi" rows still have one answer.
"""

from pathlib import Path

from data_prep.benchmarks import fraction, pick, read_prompt
from data_prep.files import read_jsonl, read_parquet
from data_prep.schema import BadInput

LICENSE = "MIT"
ACCESS = "public"
PAGE = "https://github.com/medmcqa/medmcqa"
SCORING = "choice"
EXPECTED = {"train": 164540, "validation": 18282, "test": 4183}
DIFFERENCE = "Validation is a tenth of the published train by the hash of the id, so a few rows more or less."
LETTERS = ["A", "B", "C", "D"]
VALIDATION_SHARE = 0.1
COMMON = {
    "task": "medmcqa",
    "source": "medmcqa",
    "scoring": SCORING,
    "license": LICENSE,
    "access": ACCESS,
    "choices": LETTERS,
}


def files(folder: Path) -> list[Path]:
    found = [path for path in (folder / "train.json", folder / "dev.json") if path.is_file()]
    found = found or sorted([*folder.glob("train-*.parquet"), *folder.glob("validation-*.parquet")])
    if not found:
        raise BadInput(f"{folder}: neither train.json nor dev.json. Next: python -m data_prep.fetch medmcqa")
    return found


def read(folder: Path, drops):
    template = read_prompt("medmcqa", "question", "options")
    for path in files(folder):
        hub = path.suffix == ".parquet"
        for number, record in read_parquet(path) if hub else read_jsonl(path):
            where = f"{path}: {'row' if hub else 'line'} {number}"
            question, *options, name = pick(
                record, where, question=str, opa=str, opb=str, opc=str, opd=str, id=str
            )
            answer = record.get("cop")
            if not hub and answer == 0 and answer is not False:
                raise BadInput(
                    f"{where}: cop is 0, but the publisher counts from 1. "
                    "Next: the publisher's file, or the Parquet files of the Hub"
                )
            answer = answer + 1 if hub and type(answer) is int else answer
            if type(answer) is not int or not 1 <= answer <= 4:
                drops.add("medmcqa", "cop is missing or not 1 to 4", where)
                continue
            validation = fraction(name) < VALIDATION_SHARE
            test = path.stem == "dev" or path.stem.startswith("validation-")
            split = "test" if test else "validation" if validation else "train"
            question, options = question.strip(), [text.strip() for text in options]
            listed = "\n".join(f"{choice}. {text}" for choice, text in zip(LETTERS, options, strict=True))
            yield {
                "id": f"medmcqa:{name}",
                "split": split,
                **COMMON,
                "prompt": template.format(question=question, options=listed),
                "completion": LETTERS[answer - 1],
                "question": question,
                "options": options,
            }
