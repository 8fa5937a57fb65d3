"""MedMCQA: questions of the Indian medical entrance examinations, four options. (Pal et al. 2022)

Origin    github.com/medmcqa/medmcqa. Licence MIT, public.
Raw       {train,dev}.json, JSON *lines* despite the name: {id, question, opa..opd, cop, subject_name, topic_name, exp, choice_type}
          cop is the right option, counted from 1
Splits    test = the published dev, as in the article (the published test has no labels and is not read)
          train and validation = the published train, 10 % to validation by the hash of the id (Table 3: 18,282 of 182,822)
Table 3   164,540 / 18,282 / 4,183
Oddities  the Hugging Face export counts cop from 0 (-1 where unknown): read as if from 1 it would shift every label without a
          sound, so one cop of 0 refuses the file. 21 rows of dev offer the same text twice; "multi" rows still have one answer.
"""

from pathlib import Path

from data_prep.benchmarks import fraction, pick, read_prompt
from data_prep.files import read_jsonl
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
    if not found:
        raise BadInput(
            f"{folder}: neither train.json nor dev.json. Next: take them from github.com/medmcqa/medmcqa"
        )
    return found


def read(folder: Path, drops):
    template = read_prompt("medmcqa", "question", "options")
    for path in files(folder):
        for number, record in read_jsonl(path):
            where = f"{path}: line {number}"
            question, *options, name = pick(
                record, where, question=str, opa=str, opb=str, opc=str, opd=str, id=str
            )
            answer = record.get("cop")
            if answer == 0 and answer is not False:
                raise BadInput(
                    f"{where}: cop is 0, but the publisher counts from 1. Next: use the publisher's file, not the Hugging Face export"
                )
            if type(answer) is not int or not 1 <= answer <= 4:
                drops.add("medmcqa", "cop is missing or not 1 to 4", where)
                continue
            split = (
                "test"
                if path.stem == "dev"
                else "validation"
                if fraction(name) < VALIDATION_SHARE
                else "train"
            )
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
