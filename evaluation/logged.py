"""What a run left behind: its rows with their outputs, checked, and the facts about how they came about.

A folder of evaluation.generate holds <task>.jsonl and run.json. A folder of the harness alone (`lm_eval run --log_samples --output_path DIR`)
holds samples_<task>_<date>.jsonl and results_<date>.json, somewhere below. Both are read as the same thing.
"""

from pathlib import Path

from data_prep.contracts import ACCESS, SCORINGS, BadInput, hold, shown
from data_prep.files import read_json, read_jsonl

NEEDED = ("id", "scoring", "completion", "output", "task", "access")
OURS = ("id", "task", "split", "scoring", "source", "license", "access", "prompt", "completion", "choices", "question", "options")


def task_files(folder: Path) -> dict[str, Path]:
    """{task: the file of its outputs} of a run, sorted by task."""
    generated = [
        path for path in folder.glob("*.jsonl") if not path.name.endswith(".scored.jsonl") and not path.name.startswith("samples_")
    ]
    files = {}
    for path in sorted([*generated, *folder.rglob("samples_*.jsonl")]):
        task = path.stem
        if _of_the_harness(path):
            task = path.stem.removeprefix("samples_").rpartition("_")[0].removeprefix("mibe_")
        if task in files:
            raise BadInput(f"{folder}: two files of {task}, {files[task].name} and {path.name}. Next: leave one of them in the folder")
        files[task] = path
    if not files:
        raise BadInput(
            f"{folder}: nothing to score. Next: python -m evaluation.generate --model MODEL --rows ROWS --tasks TASKS --out {folder}"
        )
    return dict(sorted(files.items()))


def read_rows(path: Path) -> list[dict]:
    """The rows of a file of task_files, each with its `output`. BadInput names the line that cannot be scored, and says why."""
    next_step = f"Next: python -m evaluation.generate --out {path.parent} ..."
    rows, lines, first = [], {}, None
    for number, row in read_jsonl(path):
        where = f"{path}: line {number}"
        if not isinstance(row, dict):
            raise BadInput(f"{where}: expected a JSON object, found {type(row).__name__}. {next_step}")
        if _of_the_harness(path):
            row = _row_of_sample(row, where)
        _check(row, where, next_step)
        if row["id"] in lines:
            raise BadInput(f"{where}: row {row['id']} stands in line {lines[row['id']]} too. {next_step}")
        lines[row["id"]] = number
        form = (row["task"], row["scoring"], isinstance(row["output"], list))
        first = first or form
        if form != first:
            raise BadInput(f"{where}: rows of different tasks or scorings in one file (row {row['id']}). {next_step}")
        rows.append(row)
    if not rows:
        raise BadInput(f"{path}: no rows. {next_step}")
    return rows


def _check(row, where, next_step):
    missing = [field for field in NEEDED if row.get(field) is None]
    if missing:
        raise BadInput(f"{where}: field '{missing[0]}' is missing (row {row.get('id')}). {next_step}")
    wrong = [field for field in NEEDED if field != "output" and not isinstance(row[field], str)]
    if wrong:
        raise BadInput(f"{where}: field '{wrong[0]}' must be str, found {type(row[wrong[0]]).__name__} (row {row['id']}). {next_step}")
    here, choices, output = f"(row {row['id']}). {next_step}", row.get("choices"), row["output"]
    for field in ("choices", "options"):
        listed = row.get(field)
        if listed is not None and not (isinstance(listed, list) and all(isinstance(text, str) and text for text in listed)):
            raise BadInput(f"{where}: field '{field}' must be a list of texts {here}")
    if row["scoring"] not in SCORINGS or row["scoring"] == "none":
        raise BadInput(f"{where}: scoring '{row['scoring']}' has no metric {here}")
    if row["access"] not in ACCESS:
        raise BadInput(f"{where}: access '{row['access']}' is none of {', '.join(ACCESS)} {here}")
    hold({"license": "not stated in the row", **row})
    if row["scoring"] in ("choice", "labels", "entities") and not choices:
        raise BadInput(f"{where}: scoring '{row['scoring']}' needs 'choices' {here}")
    wanted = [row["completion"]] if row["scoring"] == "choice" else row["completion"].split(";") if row["scoring"] == "labels" else []
    if unknown := [label for label in wanted if label.strip() not in choices]:
        raise BadInput(f"{where}: completion {shown(row, unknown[0].strip())} is not among the choices {here}")
    if isinstance(output, list):
        if row["scoring"] != "choice" or len(output) not in (0, len(choices)) or not all(_is_likelihood(pair) for pair in output):
            raise BadInput(f"{where}: 'output' must be [nats, bytes] for each of the choices, or [] {here}")
    elif not isinstance(output, str):
        raise BadInput(f"{where}: 'output' must be text, found {type(output).__name__} {here}")


def _is_likelihood(pair):
    """Whether it is [nats, bytes]; NaN is no number, and an integer of hundreds of digits none that numpy knows."""
    if (
        not isinstance(pair, list)
        or len(pair) != 2
        or not all(isinstance(x, float) or (isinstance(x, int) and abs(x) < 2**53) for x in pair)
    ):
        return False
    return pair[0] == pair[0] and pair[1] > 0


def read_facts(folder: Path, task: str, path: Path, rows: list[dict]) -> dict:
    """How the outputs of `task` came about, in the fields of `provenance` (score.py); what is not known is left out or None."""
    dataset = {"dataset": {name: rows[0].get(name) for name in ("source", "license")}}
    if _of_the_harness(path):
        return dataset | _facts_of_the_harness(path)
    run = _object(folder / "run.json")
    settings, facts = _part(run, "settings"), _part(_part(run, "tasks"), task)
    known = dataset | {name: run.get(name) for name in ("model", "fingerprint", "revision", "access", "settings", "versions")}
    known["model_access"] = run.get("model_access", run.get("access"))  # without it, what the rows and the model are together
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
        known | {name: facts.get(name) for name in (*asked, "n_overlong")} | {n: facts[n] for n in ("versions", "hardware") if n in facts}
    )


def _object(path: Path) -> dict:
    """The JSON object of a file, or {} where there is no file."""
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise BadInput(
            f"{path}: expected a JSON object, found {type(found).__name__}. Next: score a folder as evaluation.generate or lm_eval left it"
        )
    return found


def _part(record: dict, name: str) -> dict:
    """The object under a name of a record, or {}."""
    return record[name] if isinstance(record.get(name), dict) else {}


# ---------------------------------------------------------------- what the harness alone leaves
def _of_the_harness(path):
    return path.name.startswith("samples_")


def _row_of_sample(sample, where):
    """The row of one logged sample; the harness writes what a model gave as text."""
    try:
        row = {field: value for field, value in sample["doc"].items() if field in OURS and value not in ("", [])}
        if isinstance(sample["resps"][0][0], str):
            return row | {"output": sample["resps"][0][0]}
        answers = row.get("options") or row["choices"]
        return row | {"output": [[float(r[0][0]), len(a.encode())] for r, a in zip(sample["resps"], answers, strict=True)]}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadInput(f"{where}: no sample of one of our tasks. Next: lm_eval run --tasks mibe --log_samples ...") from error


def _facts_of_the_harness(path):
    date = path.stem.rpartition("_")[2]
    results = _object(path.with_name(f"results_{date}.json"))
    _, sample = next(read_jsonl(path))
    asked, config = _part(_part(sample, "arguments"), "gen_args_0"), _part(results, "config")
    name = path.stem.removeprefix("samples_").rpartition("_")[0]
    return {
        "model": results.get("model_name"), "revision": config.get("model_revision"), "fingerprint": config.get("model_sha"),
        "settings": {key: config.get(key) for key in ("model", "model_args", "batch_size", "limit", "gen_kwargs")},
        "template": {"name": "chat_template" if results.get("chat_template") else "none", "sha256": results.get("chat_template_sha")},
        "shots": {"number": _part(results, "n-shot").get(name), "ids": None},
        "decoding": asked.get("arg_1") if isinstance(asked.get("arg_1"), dict) else {"loglikelihood": True},
        "first_prompt": asked.get("arg_0"), "first_prompt_sha256": sample.get("prompt_hash"),
        "versions": {"lm_eval": results.get("lm_eval_version"), "transformers": results.get("transformers_version")},
    }  # fmt: skip
