"""LongHealth: questions on long records of invented patients, five options. (Adams et al. 2024,
arXiv:2401.14490) Not one of the paper's twelve.

Origin    github.com/kbressem/LongHealth, data/benchmark_v5.json. License Apache-2.0, public.
Raw       {"patient_NN": {"texts": {"text_K": text}, "questions": [{"No", "question", "answer_a" ...
          "answer_e", "correct" (text)}]}}
Splits    test alone: nothing to train on
Rows      its first task: the whole record, 5,090 to 6,754 words, then the question. The prompts are longer
          than 4,096 tokens: evaluation refuses them on a model with fewer positions.
Oddities  the right answer is given as text, not as a letter; where no option has it, or two, the row is
          dropped.
Looked up in the longhealth environment of MedARC's med-lm-envs, which reads this file; the file itself and
          its repository were not at hand.
"""

import re
from pathlib import Path

from data_prep.benchmarks import pick, read_prompt, texts
from data_prep.files import read_json
from data_prep.schema import BadInput

LICENSE = "Apache-2.0"
ACCESS = "public"
PAGE = "https://github.com/kbressem/LongHealth"
SCORING = "choice"
EXPECTED = {"train": 0, "validation": 0, "test": 400}
DIFFERENCE = "A question whose right answer is not exactly one of its options is left out."
LETTERS = ["A", "B", "C", "D", "E"]
COMMON = {
    "task": "longhealth",
    "source": "longhealth",
    "scoring": SCORING,
    "license": LICENSE,
    "access": ACCESS,
    "choices": LETTERS,
}


def files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("benchmark_v*.json"))
    if not found:
        raise BadInput(f"{folder}: no benchmark_v5.json. Next: take it from {PAGE}, data/")
    return found[-1:]


def read(folder: Path, drops):
    template = read_prompt("longhealth", "record", "question", "options")
    (path,) = files(folder)
    records = read_json(path)
    if not isinstance(records, dict):
        raise BadInput(f"{path}: expected a JSON object of patients, found {type(records).__name__}")
    for patient, content in records.items():
        record, questions = pick(content, f"{path}: {patient}", texts=dict, questions=list)
        ordered = sorted(record, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
        whole = "\n\n".join(texts([record[name] for name in ordered], f"{path}: {patient}", "texts"))
        for number, given in enumerate(questions):
            where = f"{path}: {patient}: question {number}"
            keys = [f"answer_{letter.lower()}" for letter in LETTERS]
            kinds = {"question": str, "correct": str, **dict.fromkeys(keys, str)}
            question, answer, *options = pick(given, where, **kinds)
            options = texts(options, where, "options")
            if options.count(answer.strip()) != 1:
                drops.add("longhealth", "the answer is not exactly one option", where)
                continue
            listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=True))
            yield {
                "id": f"longhealth:{patient}:{number}",
                "split": "test",
                **COMMON,
                "prompt": template.format(record=whole, question=question.strip(), options=listed),
                "completion": LETTERS[options.index(answer.strip())],
                "question": question.strip(),
                "options": options,
            }
