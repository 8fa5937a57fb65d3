"""Benchmarks beyond the paper's twelve. Each is read where its raw folder is there; asked, scored and part of
decontamination like a benchmark of your own (_table.py), with its letter and likelihood twins.

medxpertqa  MIT; 2,450 test, 5 dev, ten options. Text/{test,dev}.jsonl of TsinghuaC3I/MedXpertQA: {id,
            question, options {"A".."J"}, label}. The question ends in its options: cut off. The folder MM of
            the same set has pictures, and is not read
metamedqa   CC BY 4.0; 1,373, six options. data/test-*.parquet of maximegmd/MetaMedQA: {question, options
            {"A".."F"}, answer_idx}. Some options say that one cannot know: choosing one is abstaining, and
            scores.json says how often and whether rightly
careqa      Apache 2.0; 5,621. CareQA_en.json of HPAI-BSC/CareQA: {question, op1..op4, cop from 1, unique_id}
medcalc     CC BY-SA 4.0; 1,100 test, 10,543 train. test*.csv, train*.csv of ncbi/MedCalc-Bench-v1.2, the
            version that its publisher recommends: "Row Number", "Patient Note", "Question", "Output Type"
            (decimal, integer or date), "Ground Truth Answer", "Lower Limit", "Upper Limit". A decimal is
            right within the limits, an integer if the answer rounds to it, a date if it is the same day,
            weeks and days (Output Type date too) if both agree
healthbench MIT; 5,000 conversations, healthbench_hard 1,000 and healthbench_consensus 3,671 of them. *.jsonl
            of openai/healthbench: {prompt_id, prompt [{role, content}], rubrics [{criterion, points, tags}],
            example_tags}. Asked as a conversation, judged by evaluation.rubrics. Never to be trained on

All on huggingface.co/datasets, in RAW/<name>; a row without question, options or an answer among them is left
out and counted. Where the fields were looked up; no data file was at hand but MedCalc-Bench's:
    medxpertqa   files and splits in its card (huggingface.co/datasets/TsinghuaC3I/MedXpertQA, README.md);
                 fields in code that loads it
    metamedqa    its card (features, license) and github.com/maximegmd/MetaMedQA, run.py
    careqa       its card, and lm_eval/tasks/careqa/utils.py of lm-evaluation-harness, which holds a record
    medcalc      its card, and dataset/test_data.csv of github.com/ncbi-nlp/MedCalc-Bench (version 1.0);
                 the scoring in evaluation/evaluate.py there. Names of the CSV files in the card of
                 ncbi/MedCalc-Bench
    healthbench  github.com/openai/simple-evals, healthbench_eval.py; file names and license in its card
"""

import csv
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from data_prep.benchmarks import pick
from data_prep.files import open_text, read_json, read_jsonl, read_parquet
from data_prep.schema import BadInput

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHOICE = "Answer the multiple-choice question. Reply with the letter of one option."
NUMBER = {
    "decimal": "Reply with the number alone, in the unit asked for.",
    "integer": "Reply with the number alone.",
    "date": "Reply with the date or the weeks and days alone, as mm/dd/yyyy or (weeks, days).",
}
INLINE = re.compile(r"\n?Answer Choices: .*", re.DOTALL)
CSV_FIELDS = ("Row Number", "Patient Note", "Question", "Output Type", "Ground Truth Answer", "Lower Limit")


def of_medxpertqa(record, where):
    name, question, options, label = pick(record, where, id=str, question=str, options=dict, label=str)
    return name, INLINE.sub("", question), [options[key] for key in sorted(options)], label


def of_metamedqa(record, where):
    question, options, label = pick(record, where, question=str, options=dict, answer_idx=str)
    return None, question, [options[key] or "" for key in sorted(options)], label


def of_careqa(record, where):
    fields = dict.fromkeys(("question", "op1", "op2", "op3", "op4"), str)
    question, *options, cop, name = pick(record, where, **fields, cop=int, unique_id=str)
    return name, question, options, LETTERS[cop - 1] if 1 <= cop <= 4 else ""


def of_medcalc(record, where):
    values = pick(record, where, **dict.fromkeys((*CSV_FIELDS, "Upper Limit"), str))
    number, note, question, kind, answer, low, high = (value.strip() for value in values)
    if kind not in NUMBER:
        raise BadInput(f"{where}: 'Output Type' is '{kind}', must be one of {', '.join(NUMBER)}")
    limits = {}
    if kind != "date":
        try:
            around = [float(answer) - 0.5, float(answer) + 0.5]  # what rounds to it
            limits = {"limits": sorted([float(low), float(high)]) if kind == "decimal" else around}
        except ValueError as error:
            raise BadInput(f"{where}: a limit is not a number. Next: fetch the file again") from error
    prompt = f"{NUMBER[kind]}\nPatient note: {note}\nQuestion: {question}\nAnswer:\n"
    return number, note and question and prompt, limits, answer


def of_healthbench(record, where):
    name, turns, rubric = pick(record, where, prompt_id=str, prompt=list, rubrics=list)
    said = [pick(turn, f"{where}: prompt", role=str, content=str) for turn in turns]
    kinds = {"criterion": str, "points": object, "tags": list}
    items = [pick(item, f"{where}: rubrics", **kinds) for item in rubric]
    if wrong := [points for _, points, _ in items if type(points) not in (int, float)]:
        raise BadInput(f"{where}: rubrics: field 'points' must be a number, found {type(wrong[0]).__name__}")
    if not said or said[-1][0] != "user" or not all(content.strip() for _, content in said):
        return name, "", {}, ""
    history = [{"role": role, "content": content} for role, content in said[:-1]]
    return (
        name,
        said[-1][1].strip() + "\n",
        {
            "question": "\n\n".join(f"{role}: {content}" for role, content in said),
            "history": history,
            "rubric": [dict(zip(kinds, item, strict=True)) for item in items],
            "tags": [tag for tag in record.get("example_tags") or () if isinstance(tag, str)],
        },
        "\n".join(f"[{points:g}] {criterion}" for criterion, points, _ in items if points > 0),
    )


@dataclasses.dataclass(frozen=True)
class Beyond:
    """What a benchmark module has. `patterns`: of the raw files; `record`: one record to (id or None,
    question, options, letter), or for scoring "number" and "rubric" to (id, prompt, more fields, answer)."""

    name: str
    PAGE: str
    LICENSE: str
    EXPECTED: dict
    patterns: tuple[str, ...]
    record: Callable
    SCORING: str = "choice"
    ACCESS: str = "public"
    DIFFERENCE: str = "Rows that cannot be scored are left out and counted."

    def files(self, folder: Path) -> list[Path]:
        found = sorted({path for pattern in self.patterns for path in folder.rglob(pattern)})
        if not found:
            raise BadInput(f"{folder}: no {' or '.join(self.patterns)}. Next: take them from {self.PAGE}")
        return found

    def read(self, folder: Path, drops):
        common = {"task": self.name, "source": self.name, "scoring": self.SCORING}
        common |= {"license": self.LICENSE, "access": self.ACCESS}
        for path in self.files(folder):
            split = "validation" if "dev" in path.stem else "train" if "train" in path.stem else "test"
            for number, raw in _records(path):
                where = f"{path}: record {number}"
                name, question, options, answer = self.record(raw, where)
                row = {"id": f"{self.name}:{path.stem}:{name or number}", "split": split, **common}
                if self.SCORING != "choice":
                    row |= {"prompt": question, "completion": answer, **options}
                    complete = question and answer
                else:
                    question, options = question.strip(), [str(option).strip() for option in options]
                    row |= _asked(question, options) | {"completion": answer}
                    complete = question and len(options) > 1 and all(options) and answer in row["choices"]
                if complete:
                    yield row
                else:
                    drops.add(
                        self.name, "no question, an empty option, or an answer outside the options", where
                    )


def _asked(question: str, options: list[str]) -> dict:
    choices = list(LETTERS[: len(options)])
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(choices, options, strict=True))
    prompt = f"{CHOICE}\nQuestion: {question}\nOptions:\n{listed}\nAnswer:\n"
    return {"prompt": prompt, "choices": choices, "question": question, "options": options}


def _records(path: Path):
    if path.suffix == ".csv":
        with open_text(path) as stream:
            yield from enumerate(csv.DictReader(stream), 1)
    elif path.suffix == ".parquet":
        yield from read_parquet(path)
    elif path.suffix == ".json":
        yield from enumerate(read_json(path), 1)
    else:
        yield from read_jsonl(path)


HUB = "https://huggingface.co/datasets/"
BEYOND = {
    one.name: one
    for one in (
        Beyond(
            "medxpertqa",
            HUB + "TsinghuaC3I/MedXpertQA",
            "MIT",
            {"validation": 5, "test": 2450},
            ("Text/test.jsonl", "Text/dev.jsonl"),
            of_medxpertqa,
        ),
        Beyond(
            "metamedqa",
            HUB + "maximegmd/MetaMedQA",
            "CC BY 4.0",
            {"test": 1373},
            ("test*.parquet",),
            of_metamedqa,
        ),
        Beyond(
            "careqa", HUB + "HPAI-BSC/CareQA", "Apache 2.0", {"test": 5621}, ("CareQA_en.json*",), of_careqa
        ),
        Beyond(
            "medcalc",
            HUB + "ncbi/MedCalc-Bench-v1.2",
            "CC BY-SA 4.0",
            {"train": 10543, "test": 1100},
            ("test*.csv", "train*.csv"),
            of_medcalc,
            "number",
        ),
        *(
            Beyond(name, HUB + "openai/healthbench", "MIT", {"test": n}, (pattern,), of_healthbench, "rubric")
            for name, n, pattern in (
                ("healthbench", 5000, "*oss_eval.jsonl"),
                ("healthbench_hard", 1000, "hard_*.jsonl"),
                ("healthbench_consensus", 3671, "consensus_*.jsonl"),
            )
        ),
    )
}
