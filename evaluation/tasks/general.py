"""The general tasks of evaluation.forgetting: lm-evaluation-harness's own definitions, and where their data
is.

Prompts, answers, filters and metrics are those of the installed harness, unchanged. Ours: the metric that
represents a task, the number of examples in the prompt, and a reader of the publishers' files for machines
without the Hub. In a folder DATA:

    mmlu/{dev,test}/<subject>_{dev,test}.csv         github.com/hendrycks/test: question, answers, letter
    hellaswag/hellaswag_{train,val}.jsonl            github.com/rowanz/hellaswag
    arc/ARC-Challenge-{Train,Test}.jsonl             allenai.org/data/arc, at any depth
    winogrande/{train_xl,dev}.jsonl                  winogrande.allenai.org
    gsm8k/{train,test}.jsonl                         github.com/openai/grade-school-math
    truthfulqa/mc_task.json                          github.com/sylinrl/TruthfulQA
    ifeval/input_data.jsonl                          google-research/instruction_following_eval on GitHub

or, in the same folders, the Parquet files of the Hub's dataset (`hf download --repo-type dataset ID
--local-dir DATA/<task>`). The file of the examples is optional: without it the task is asked without
examples, and the output says so.

The medical ones (MEDICAL), for evaluation.stock, without examples unless asked for, as their files have it:

    medqa/US/4_options/phrases_no_exclude_{train,test}.jsonl    github.com/jind11/MedQA
    medmcqa/{train,dev}.json                                    github.com/medmcqa/medmcqa
    pubmedqa/{ori_pqal,test_ground_truth}.json                  github.com/pubmedqa/pubmedqa
    careqa/CareQA_en.json                                       huggingface.co/datasets/HPAI-BSC/CareQA
    mmlu/...                                                    as above, six subjects

mmlu_answers asks the same questions with the texts of the answers in place of the letters (the harness's
mmlu_continuation), for models too small to answer by letter. Every question counts equally, whatever its
subject. Shots: 25 for ARC, 10 for HellaSwag, 5 for MMLU, WinoGrande and GSM8K, as in the first Open LLM
Leaderboard (recalled). TruthfulQA has six in its prompt.
"""

import csv
import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

from data_prep import egress
from data_prep.files import open_text, read_json, read_jsonl, read_parquet
from data_prep.schema import BadInput


# ---------------------------------------------------------------- publishers' records in the form of the Hub
def of_mmlu(line: list[str]) -> dict:
    question, *choices, letter = line
    if len(choices) != 4:
        raise ValueError(f"{len(line)} columns, not 6")
    return {"question": question, "choices": choices, "answer": "ABCD".index(letter.strip())}


def of_hellaswag(record: dict) -> dict:
    return {key: record[key] for key in ("activity_label", "ctx_a", "ctx_b", "endings")} | {
        "label": str(int(record["label"]))
    }


def of_arc(record: dict) -> dict:
    choices = record["question"]["choices"]
    texts, labels = [c["text"] for c in choices], [c["label"] for c in choices]
    return {
        "id": record["id"],
        "question": record["question"]["stem"],
        "choices": {"text": texts, "label": labels},
        "answerKey": labels[labels.index(record["answerKey"])],
    }


def of_winogrande(record: dict) -> dict:
    if record["answer"] not in ("1", "2") or "_" not in record["sentence"]:
        raise ValueError("no blank in the sentence, or no answer 1 or 2")
    return {key: record[key] for key in ("sentence", "option1", "option2", "answer")}


def of_gsm8k(record: dict) -> dict:
    return {key: record[key] for key in ("question", "answer")}


def of_truthfulqa(record: dict) -> dict:
    targets = {
        name: {"choices": list(record[name]), "labels": [int(label) for label in record[name].values()]}
        for name in ("mc1_targets", "mc2_targets")
    }
    return {"question": record["question"], **targets}


def of_ifeval(record: dict) -> dict:
    return {key: record[key] for key in ("key", "prompt", "instruction_id_list", "kwargs")}


def of_medqa(record: dict) -> dict:
    options = [record["options"][letter] for letter in "ABCD"]
    if len(record["options"]) != 4:
        raise ValueError(f"{len(record['options'])} options, not 4")
    endings = {f"ending{i}": option for i, option in enumerate(options)}
    return {"sent1": record["question"], "sent2": "", **endings, "label": "ABCD".index(record["answer_idx"])}


def of_medmcqa(record: dict) -> dict:
    if record["cop"] not in (1, 2, 3, 4):
        raise ValueError("cop is not 1 to 4, as the publisher counts")
    return {key: record[key] for key in ("id", "question", "opa", "opb", "opc", "opd")} | {
        "cop": record["cop"] - 1
    }


def of_pubmedqa(record: dict) -> dict:
    if record["final_decision"] not in ("yes", "no", "maybe"):
        raise ValueError("no final_decision of yes, no or maybe")
    return {key: record[key] for key in ("QUESTION", "CONTEXTS", "final_decision")}


def of_careqa(record: dict) -> dict:
    if record["cop"] not in (1, 2, 3, 4):
        raise ValueError("cop is not 1 to 4")
    return {key: record[key] for key in ("question", "op1", "op2", "op3", "op4", "cop")}


# ---------------------------------------------------------------- the tasks
@dataclasses.dataclass(frozen=True)
class General:
    """`harness`: the definition, {} is each subject. `metrics`: as the harness logs them, the one that
    represents the task first. `files`: split -> patterns below the task's folder, of which the first with a
    match counts; the asked split comes first. `folder`: in DATA, and of the harness's definitions."""

    harness: str
    group: str
    metrics: tuple[str, ...]
    shots: int
    files: dict[str, tuple[str, ...]]
    read: Callable
    folder: str
    needs: tuple[str, ...] = ()


MMLU = {"test": ("test/{}_test.csv", "{}/test-*.parquet"), "dev": ("dev/{}_dev.csv", "{}/dev-*.parquet")}
ARC = {
    "test": ("**/ARC-Challenge-Test.jsonl", "ARC-Challenge/test-*.parquet"),
    "train": ("**/ARC-Challenge-Train.jsonl", "ARC-Challenge/train-*.parquet"),
}
TASKS = {
    "mmlu": General("mmlu_{}", "mmlu", ("acc,none",), 5, MMLU, of_mmlu, "mmlu"),
    "hellaswag": General(
        "hellaswag",
        "hellaswag",
        ("acc_norm,none", "acc,none"),
        10,
        {
            "validation": ("hellaswag_val.jsonl", "**/validation-*.parquet"),
            "train": ("hellaswag_train.jsonl", "**/train-*.parquet"),
        },
        of_hellaswag,
        "hellaswag",
    ),
    "arc": General("arc_challenge", "arc_challenge", ("acc_norm,none", "acc,none"), 25, ARC, of_arc, "arc"),
    "winogrande": General(
        "winogrande",
        "winogrande",
        ("acc,none",),
        5,
        {
            "validation": ("dev.jsonl", "winogrande_xl/validation-*.parquet"),
            "train": ("train_xl.jsonl", "winogrande_xl/train-*.parquet"),
        },
        of_winogrande,
        "winogrande",
    ),
    "gsm8k": General(
        "gsm8k",
        "gsm8k",
        ("exact_match,flexible-extract", "exact_match,strict-match"),
        5,
        {"test": ("test.jsonl", "main/test-*.parquet"), "train": ("train.jsonl", "main/train-*.parquet")},
        of_gsm8k,
        "gsm8k",
    ),
    "truthfulqa": General(
        "truthfulqa_mc2",
        "truthfulqa_mc2",
        ("acc,none",),
        0,
        {"validation": ("mc_task.json", "multiple_choice/validation-*.parquet")},
        of_truthfulqa,
        "truthfulqa",
    ),
    "ifeval": General(
        "ifeval",
        "ifeval",
        ("prompt_level_strict_acc,none", "prompt_level_loose_acc,none"),
        0,
        {"train": ("input_data.jsonl", "ifeval_input_data.jsonl", "**/train-*.parquet")},
        of_ifeval,
        "ifeval",
        ("langdetect", "immutabledict"),
    ),
    "mmlu_answers": General(
        "mmlu_{}_continuation", "mmlu_continuation", ("acc,none", "acc_norm,none"), 5, MMLU, of_mmlu, "mmlu"
    ),
}
GENERAL = [name for name in TASKS if name != "mmlu_answers"]
LETTERS, MEDQA = ("acc,none", "acc_norm,none"), "**/phrases_no_exclude_{}.jsonl"
TASKS |= {
    "medqa_4options": General(
        "medqa_4options",
        "medqa_4options",
        LETTERS,
        0,
        {"test": (MEDQA.replace("{}", "test"),), "train": (MEDQA.replace("{}", "train"),)},
        of_medqa,
        "medqa",
    ),
    "medmcqa": General(
        "medmcqa",
        "medmcqa",
        LETTERS,
        0,
        {
            "validation": ("dev.json", "**/validation-*.parquet"),
            "train": ("train.json", "**/train-*.parquet"),
        },
        of_medmcqa,
        "medmcqa",
    ),
    # the publisher's split into train and validation is made by a script of its own: only the test is read
    "pubmedqa": General(
        "pubmedqa",
        "pubmedqa",
        ("acc,none",),
        0,
        {"test": ("ori_pqal.json",), "train": ()},
        of_pubmedqa,
        "pubmedqa",
    ),
    "careqa_en": General(
        "careqa_en", "careqa_en", ("acc,none",), 0, {"test": ("**/CareQA_en.json*",)}, of_careqa, "careqa"
    ),
} | {
    f"mmlu_{subject}": dataclasses.replace(
        TASKS["mmlu"],
        harness=f"mmlu_{subject}",
        group=f"mmlu_{subject}",
        shots=0,
        files={split: tuple(p.format(subject) for p in patterns) for split, patterns in MMLU.items()},
    )
    for subject in (
        "anatomy",
        "clinical_knowledge",
        "college_biology",
        "college_medicine",
        "medical_genetics",
        "professional_medicine",
    )
}
MEDICAL = [name for name in TASKS if name not in GENERAL and name != "mmlu_answers"]


class Missing(Exception):
    """Why a task cannot be asked here, as the end of a sentence."""


def load(name: str, data: Path | None, num_fewshot: int | None = None) -> tuple[dict, dict]:
    """({name of the harness: its task, ready to ask}, what was found). From the files in `data`, else from
    the Hub or its local cache; a closed process (egress.py) has the cache only. Missing if there is nothing
    to load in `data`; BadInput names a record that cannot be read, or what the Hub did not give."""
    from lm_eval import tasks as harness

    task = TASKS[name]
    if absent := [package for package in task.needs if not importlib.util.find_spec(package)]:
        raise Missing(f"its definition needs packages that are not installed: pip install {' '.join(absent)}")
    if name == "ifeval" and not _has_sentences():
        raise Missing(
            "its definition counts sentences with NLTK data that is missing: python -m nltk.downloader "
            "punkt_tab"
        )
    manager = harness.TaskManager(
        include_path=str(Path(harness.__file__).parent / task.folder), include_defaults=False
    )
    if data is None:
        try:
            loaded = manager.load([task.group])["tasks"]
        except (OSError, ValueError, BadInput) as error:
            closed = (
                "a credentialed model is asked, so nothing is fetched, and the Hub's local cache lacks it"
            )
            said = closed if egress.agreements() else " ".join(str(error).split())[:120]
            raise BadInput(
                f"{name}: the Hub's data set could not be loaded ({said}). Next: --data DIR with the "
                f"publisher's files in DIR/{task.folder}"
            ) from error
        found = {one: "Hub" for one in loaded}
    else:
        local = _local(task, data / task.folder)
        if unknown := [one for one in local if one not in manager.all_subtasks]:
            where = data / task.folder
            raise BadInput(
                f"{where}: the harness has no definition '{unknown[0]}'. Next: leave its file out of {where}"
            )
        members = [{"task": one, "custom_dataset": _giver(splits)} for one, (splits, _) in local.items()]
        loaded = manager.load([{"group": "local files", "task": members}])["tasks"]
        found = {one: files for one, (_, files) in local.items()}
    for one in loaded.values():
        wanted = task.shots if num_fewshot is None else num_fewshot
        pool = one.fewshot_docs() if wanted else ()
        one.set_config("num_fewshot", min(wanted, len(pool)) if one.get_config("num_fewshot") != 0 else 0)
    return loaded, found


def _has_sentences() -> bool:
    import nltk

    try:
        return bool(nltk.data.find("tokenizers/punkt_tab"))
    except LookupError:
        return False


def _giver(splits):
    return lambda **_: splits


def _local(task: General, folder: Path) -> dict:
    """{name of the harness: (splits, {split: path})} of what lies in `folder`; a missing split of examples is
    empty."""
    import datasets

    asked, *examples = task.files
    found = {}
    for subject in _subjects(task, folder):
        paths = {split: _first(folder, patterns, subject) for split, patterns in task.files.items()}
        if paths[asked]:
            splits = datasets.DatasetDict({asked: datasets.Dataset.from_list(_records(task, paths[asked]))})
            for split in examples:
                pool = _records(task, paths[split]) if paths[split] else []
                splits[split] = datasets.Dataset.from_list(pool) if pool else splits[asked].select([])
            found[task.harness.format(subject)] = (
                splits,
                {split: str(path) for split, path in paths.items() if path},
            )
    if not found:
        patterns = " or ".join(str(folder / pattern.format("<subject>")) for pattern in task.files[asked])
        raise Missing(f"no {patterns}")
    return found


def _subjects(task: General, folder: Path) -> list[str]:
    if "{}" not in task.harness:
        return [""]
    csvs = {path.name.removesuffix("_test.csv") for path in folder.glob("test/*_test.csv")}
    return sorted(csvs | {path.parent.name for path in folder.glob("*/test-*.parquet")})


def _first(folder: Path, patterns: tuple[str, ...], subject: str) -> Path | None:
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern.format(subject)))), None)


def _records(task: General, path: Path) -> list[dict]:
    """The records of a file, in the form of the Hub. BadInput names the one that is not as its publisher
    describes it."""
    if path.suffix == ".parquet":  # the Hub's own
        return [record for _, record in read_parquet(path)]
    if path.suffix == ".csv":
        with open_text(path) as stream:
            numbered = list(enumerate(csv.reader(stream), 1))
    else:
        numbered = list(read_jsonl(path)) if _has_lines(path) else list(enumerate(_whole(path), 1))
    records = []
    for number, record in numbered:
        try:
            records.append(task.read(record))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"{path}: record {number} is not as published ({error}). Next: fetch the file again"
            ) from error
    if not records:
        raise BadInput(f"{path}: no records. Next: fetch the file again")
    return records


def _has_lines(path: Path) -> bool:
    """Whether a file is JSON lines: by its name, or as MedMCQA's .json are, one object to a line."""
    if path.suffix == ".jsonl":
        return True
    with open_text(path) as stream:
        first = stream.readline().strip()
    return first.startswith("{") and first.endswith("}")


def _whole(path: Path) -> list:
    """The records of a JSON list, or those of PubMedQA's object that its list of test ids names."""
    value = read_json(path)
    if isinstance(value, dict):
        ids = read_json(path.with_name("test_ground_truth.json"))
        if absent := [one for one in ids if one not in value]:
            raise BadInput(f"{path}: {absent[0]} of test_ground_truth.json is missing. Next: fetch it again")
        return [value[one] for one in ids]
    return value
