"""Benchmarks of your own (data_prep/benchmarks/_table.py) as tasks of lm-evaluation-harness, without a file
in evaluation/tasks: the rows say how they are asked and scored."""

from pathlib import Path

from data_prep.files import read_jsonl

TASKS = Path(__file__).resolve().parent / "tasks"
GENERATE = """include: {tasks}/_generate.yaml
task: mibe_{name}
dataset_kwargs:
  name: {name}
metric_list:
  - {{metric: unparsed, aggregation: mean, higher_is_better: false}}
"""
LIKELIHOOD = "include: {tasks}/_likelihood.yaml\ntask: mibe_{name}_ll\ndataset_kwargs:\n  name: {name}\n"


def names(rows: Path) -> list[str]:
    """The tasks that ROWS has and evaluation/tasks has not; NAME_ll too where the rows have options."""
    found = []
    for path in sorted(Path(rows).glob("*/test.jsonl")):
        name = path.parent.name
        if (TASKS / f"{name}.yaml").is_file():
            continue
        found.append(name)
        _, first = next(iter(read_jsonl(path)), (0, {}))
        found += [f"{name}_ll"] if "options" in first else []
    return found


def write(folder: Path, tasks: list[str]) -> Path:
    """Write the task files of `tasks` (as `names` gives them) to `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        name, template = task.removesuffix("_ll"), LIKELIHOOD if task.endswith("_ll") else GENERATE
        content = template.format(tasks=TASKS, name=name)
        (folder / f"{task}.yaml").write_text(content, encoding="utf-8")
    return folder
