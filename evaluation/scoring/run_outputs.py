"""What a run left behind: its rows with their outputs, checked, and the facts about how they came about.

A folder of evaluation.generate holds <task>.jsonl and run.json. A folder of the harness alone (`lm_eval run
--log_samples --output_path DIR`) holds samples_<task>_<date>.jsonl and results_<date>.json, somewhere below.
Both are read as the same thing.

A row says in `access` of which class its text is, and in `model_access` what the model that wrote its output
was trained on; `closed` is the one rule for both. That class is the strictest that the rows and run.json say.
Of the harness alone results_<date>.json names the weights: a folder says it itself, a name of the Hub is
public as far as can be known. A path that is gone, a server, a file without a run.json: credentialed, with a
sentence.
"""

import functools
import os
from pathlib import Path

from data_prep.files import read_json, read_jsonl
from data_prep.schema import ACCESS, SCORINGS, BadInput, hold, shown, strictest
from evaluation.models.registry import access_of

NEEDED = ("id", "scoring", "completion", "output", "task", "access")
OURS = (
    "limits",
    "id",
    "task",
    "split",
    "scoring",
    "source",
    "license",
    "access",
    "prompt",
    "completion",
    "choices",
    "question",
    "options",
)
WEIGHTS = (
    "pretrained",
    "peft",
    "delta",
    "lora_local_path",
)  # arguments of the harness that name what was loaded
LOADERS = ("hf", "hf-auto", "huggingface", "vllm", "sglang")  # its backends that load it here


def task_files(folder: Path) -> dict[str, Path]:
    """{task: the file of its outputs} of a run, sorted by task."""
    generated = [
        path
        for path in folder.glob("*.jsonl")
        if not path.name.endswith(".scored.jsonl") and not path.name.startswith("samples_")
    ]
    files = {}
    for path in sorted([*generated, *folder.rglob("samples_*.jsonl")]):
        task = _task_of(path)
        if task in files:
            raise BadInput(
                f"{folder}: two files of {task}, {files[task].name} and {path.name}. Next: leave one of "
                f"them in the folder"
            )
        files[task] = path
    if not files:
        raise BadInput(f"{folder}: nothing to score. Next: {generate_command(folder)}")
    return dict(sorted(files.items()))


def generate_command(folder: Path, tasks: str = "TASKS") -> str:
    """The command that makes `folder`, as far as it is known here: what is in capitals is to be filled in."""
    command = "python -m evaluation.generate --model MODEL --rows ROWS"
    return f"{command} --tasks {tasks} --preset PRESET --out {folder}"


def read_rows(path: Path) -> list[dict]:
    """The rows of a file of task_files, each with its `output` and `model_access`. BadInput names the line
    that cannot be scored, and says why."""
    next_step = f"Next: {generate_command(path.parent)}"
    rows, lines, first = [], {}, None
    for number, row in read_jsonl(path):
        where = f"{path}: line {number}"
        if not isinstance(row, dict):
            raise BadInput(f"{where}: expected a JSON object, found {type(row).__name__}. {next_step}")
        if _of_the_harness(path):
            row = _row_of_sample(row, where, _task_of(path))
        _check(row, where, next_step)
        if row["id"] in lines:
            raise BadInput(f"{where}: row {row['id']} is also in line {lines[row['id']]}. {next_step}")
        lines[row["id"]] = number
        form = (row["task"], row["scoring"], isinstance(row["output"], list))
        first = first or form
        if form != first:
            raise BadInput(
                f"{where}: rows of different tasks or scorings in one file (row {row['id']}). {next_step}"
            )
        rows.append(row)
    if not rows:
        raise BadInput(f"{path}: no rows. {next_step}")
    return written(path, rows)


def closed(row: dict) -> bool:
    """Whether what a model made of a row stays on the site: the row is credentialed, or the model that wrote
    it."""
    return "credentialed" in (row["access"], row["model_access"])


def rows_name(task: str) -> str:
    """The rows that a task is asked on: those of "medqa" for medqa, medqa_ll and medqa_letters_ll."""
    return task.removesuffix("_ll").removesuffix("_letters")


def answers(row: dict, task: str = "") -> list[str]:
    """The texts whose likelihoods a twin task compares: the options of a question, else the labels or
    letters."""
    return row["choices"] if task.endswith("_letters_ll") else row.get("options") or row["choices"]


def _check(row, where, next_step):
    missing = [field for field in NEEDED if row.get(field) is None]
    if missing:
        raise BadInput(f"{where}: field '{missing[0]}' is missing (row {row.get('id')}). {next_step}")
    wrong = [field for field in NEEDED if field != "output" and not isinstance(row[field], str)]
    if wrong:
        raise BadInput(
            f"{where}: field '{wrong[0]}' must be str, found {type(row[wrong[0]]).__name__} (row "
            f"{row['id']}). {next_step}"
        )
    here, choices, output = f"(row {row['id']}). {next_step}", row.get("choices"), row["output"]
    for field in ("choices", "options"):
        listed = row.get(field)
        if listed is not None and not (
            isinstance(listed, list) and all(isinstance(text, str) and text for text in listed)
        ):
            raise BadInput(f"{where}: field '{field}' must be a list of texts {here}")
    if row["scoring"] not in SCORINGS or row["scoring"] == "none":
        raise BadInput(f"{where}: scoring '{row['scoring']}' has no metric {here}")
    if row["access"] not in ACCESS:
        raise BadInput(f"{where}: access '{row['access']}' is not one of {', '.join(ACCESS)} {here}")
    if row.get("model_access", "public") not in ACCESS:
        raise BadInput(
            f"{where}: model_access '{row['model_access']}' is not one of {', '.join(ACCESS)} {here}"
        )
    hold({"license": "not stated in the row", **row})
    if row["scoring"] in ("choice", "labels", "entities") and not choices:
        raise BadInput(f"{where}: scoring '{row['scoring']}' needs 'choices' {here}")
    wanted = (
        [row["completion"]]
        if row["scoring"] == "choice"
        else row["completion"].split(";")
        if row["scoring"] == "labels"
        else []
    )
    if unknown := [label for label in wanted if label.strip() not in choices]:
        raise BadInput(
            f"{where}: completion {shown(row, unknown[0].strip())} is not among the choices {here}"
        )
    if isinstance(output, list):
        if (
            row["scoring"] != "choice"
            or len(output) not in (0, len(choices))
            or not all(_is_likelihood(pair) for pair in output)
        ):
            raise BadInput(f"{where}: 'output' must be [nats, bytes] for each of the choices, or [] {here}")
    elif not isinstance(output, str):
        raise BadInput(f"{where}: 'output' must be text, found {type(output).__name__} {here}")


def _is_likelihood(pair):
    """Whether it is [nats, bytes]; NaN is no number, and an integer of hundreds of digits none that numpy
    knows."""
    if (
        not isinstance(pair, list)
        or len(pair) != 2
        or not all(isinstance(x, float) or (isinstance(x, int) and abs(x) < 2**53) for x in pair)
    ):
        return False
    return pair[0] == pair[0] and pair[1] > 0


def read_facts(folder: Path, task: str, path: Path, rows: list[dict]) -> dict:
    """How the outputs of `task` came about, in the fields of `provenance` (score.py); what is not known is
    left out or None."""
    known = {"dataset": {name: rows[0].get(name) for name in ("source", "license")}}
    known["access"] = strictest(row[name] for row in rows for name in ("access", "model_access"))
    if _of_the_harness(path):
        return known | _facts_of_the_harness(path)
    run = _object(folder / "run.json")
    settings, facts = _part(run, "settings"), _part(_part(run, "tasks"), task)
    known["access"] = strictest([known["access"], _stated(path, run, "access") or "public"])
    known |= {name: run.get(name) for name in ("model", "fingerprint", "revision", "settings", "versions")}
    known |= {"preset": settings.get("preset"), "hardware": run.get("hardware") or run.get("machine")}
    asked = (
        "template",
        "shots",
        "decoding",
        "rows",
        "rows_sha256",
        "outputs_sha256",
        "prompts_sha256",
        "first_prompt",
        "first_prompt_sha256",
    )
    return (
        known
        | {name: facts.get(name) for name in (*asked, "n_overlong")}
        | {n: facts[n] for n in ("versions", "hardware") if n in facts}
    )


def _object(path: Path) -> dict:
    """The JSON object of a file, or {} if the file does not exist."""
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise BadInput(
            f"{path}: expected a JSON object, found {type(found).__name__}. Next: score a folder as "
            f"evaluation.generate or lm_eval left it"
        )
    return found


def _part(record: dict, name: str) -> dict:
    """The object under a name of a record, or {}."""
    return record[name] if isinstance(record.get(name), dict) else {}


# ---------------------------------------------------------------- the class of the model
def written(path: Path, rows: list[dict]) -> list[dict]:
    """The rows of `path`, each with the class of the model that wrote them all. A credentialed row or model
    closes this process (contracts.hold)."""
    if _of_the_harness(path):
        record = _results(path)
        beside, mend = (
            _class_of_weights(record),
            "score a folder made by evaluation.generate, or put the model's folder back",
        )
    else:
        record = _object(path.with_name("run.json"))
        beside = _stated(path, record, "model_access") or _stated(
            path, record, "access"
        )  # the second: what rows and model are together
        mend = "put the run.json of evaluation.generate beside it"
    said = {row.get("model_access", beside) for row in rows} | ({beside} - {None})
    if None in said:
        _say(
            f"{path}: nothing tells what the model that wrote it was trained on, so it is kept as "
            f"credentialed. Next: {mend}"
        )
    access = "credentialed" if None in said else strictest(said)
    for row in rows:
        row["model_access"] = access
        hold(
            {"license": "not stated in the row", **row}
        )  # those of a scored file too, which were not checked
    hold(
        {
            "access": access,
            "license": f"what {record.get('model') or record.get('model_name') or 'the model'} was trained "
            f"under",
        }
    )
    return rows


def _stated(path: Path, run: dict, key: str) -> str | None:
    if run.get(key) not in (None, *ACCESS):
        raise BadInput(
            f"{path.with_name('run.json')}: {key} '{run[key]}' is not one of {', '.join(ACCESS)}. Next: make "
            f"this run again"
        )
    return run.get(key)


def _class_of_weights(results: dict) -> str | None:
    """The class of what the harness says that it loaded; None where that of a part is not known."""
    config = _part(results, "config")
    given = config.get("model_args")
    if isinstance(given, str):
        given = dict(part.strip().partition("=")[::2] for part in given.split(","))
    if not isinstance(given, dict) or not given.get("pretrained"):
        return None
    here = config.get("model") in LOADERS and not given.get("base_url")
    classes = {_class_of(str(given[key]), here) for key in WEIGHTS if given.get(key)}
    return None if None in classes else strictest(classes)


def _class_of(name: str, here: bool) -> str | None:
    """Of weights in a folder or on the Hub; `here`: the harness loaded them itself. None: not known."""
    if os.path.isdir(name):
        return access_of(Path(name))
    if not here or os.path.isdir(name.partition("/")[0]):  # the second: a path whose end is gone
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no name as the Hub has them
        return None
    return access_of(Path(config).parent) if isinstance(config, str) else "public"


@functools.cache
def _say(sentence: str) -> None:
    """Once, however often a file is read."""
    print(sentence, flush=True)


# ---------------------------------------------------------------- what the harness alone leaves
def _of_the_harness(path):
    return path.name.startswith("samples_")


def _task_of(path):
    if not _of_the_harness(path):
        return path.stem
    return path.stem.removeprefix("samples_").rpartition("_")[0].removeprefix("mibe_")


def _results(path):
    """What the harness says of the run that a file of samples is of."""
    return _object(path.with_name(f"results_{path.stem.rpartition('_')[2]}.json"))


def _row_of_sample(sample, where, task):
    """The row of one logged sample; the harness writes what a model gave as text."""
    try:
        row = {
            field: value for field, value in sample["doc"].items() if field in OURS and value not in ("", [])
        }
        if isinstance(sample["resps"][0][0], str):
            return row | {"output": sample["resps"][0][0]}
        return row | {
            "output": [
                [float(r[0][0]), len(a.encode())]
                for r, a in zip(sample["resps"], answers(row, task), strict=True)
            ]
        }
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadInput(
            f"{where}: no sample of one of our tasks. Next: lm_eval run --tasks mibe --log_samples ..."
        ) from error


def _facts_of_the_harness(path):
    results = _results(path)
    _, sample = next(read_jsonl(path))
    asked, config = _part(_part(sample, "arguments"), "gen_args_0"), _part(results, "config")
    name = path.stem.removeprefix("samples_").rpartition("_")[0]
    return {
        "model": results.get("model_name"),
        "revision": config.get("model_revision"),
        "fingerprint": config.get("model_sha"),
        "settings": {
            key: config.get(key) for key in ("model", "model_args", "batch_size", "limit", "gen_kwargs")
        },
        "template": {
            "name": "chat_template" if results.get("chat_template") else "none",
            "sha256": results.get("chat_template_sha"),
        },
        "shots": {"number": _part(results, "n-shot").get(name), "ids": None},
        "decoding": asked.get("arg_1") if isinstance(asked.get("arg_1"), dict) else {"loglikelihood": True},
        "first_prompt": asked.get("arg_0"),
        "first_prompt_sha256": sample.get("prompt_hash"),
        "versions": {
            "lm_eval": results.get("lm_eval_version"),
            "transformers": results.get("transformers_version"),
        },
    }
