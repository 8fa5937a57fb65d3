"""Tasks that have rows in ROWS and no file in evaluation/tasks: benchmarks of your own
(data_prep/benchmarks/_table.py), those beyond the paper's twelve, and the harness's (evaluation/stock.py).
The rows say how they are asked and scored."""

from pathlib import Path

from data_prep.files import read_jsonl
from evaluation.scoring.run_outputs import rows_name

TASKS = Path(__file__).resolve().parent / "tasks"
TASK = "include: {tasks}/{base}.yaml\ntask: mibe_{task}\ndataset_kwargs:\n  name: {name}\n"
UNPARSED = "metric_list:\n  - {metric: unparsed, aggregation: mean, higher_is_better: false}\n"
STOCK = "stock_"  # what the names of evaluation.stock's rows begin with


def names(rows: Path) -> list[str]:
    """The tasks that ROWS has and evaluation/tasks has not, with the twins that their rows can be asked as:
    NAME_ll (texts of the options, or labels) and, where there are options, NAME_letters_ll. The harness's
    own have that one twin and no text is generated."""
    found = []
    for path in sorted(Path(rows).glob("*/test.jsonl")):
        name = path.parent.name
        if (TASKS / f"{name}.yaml").is_file():
            continue
        first = _first(path)
        if name.startswith(STOCK):
            found.append(f"{name}_letters_ll")
            continue
        found.append(name)
        found += [f"{name}_ll"] if first.get("scoring") == "choice" or "options" in first else []
        found += [f"{name}_letters_ll"] if "options" in first else []
    return found


def twin(rows: Path, task: str) -> str:
    """The file of evaluation/tasks that a task of `names` includes, without its ending."""
    if not task.endswith("_ll"):
        rubric = _first(rows / task / "test.jsonl").get("scoring") == "rubric"
        return "_conversation" if rubric else "_generate"
    if task.startswith(STOCK):
        return "_stock"
    if task.endswith("_letters_ll"):
        return "_likelihood_letters"
    return (
        "_likelihood" if "options" in _first(rows / rows_name(task) / "test.jsonl") else "_likelihood_labels"
    )


def write(folder: Path, rows: Path, tasks: list[str]) -> Path:
    """Write the task files of `tasks` (as `names` gives them) to `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        base = twin(rows, task)
        content = TASK.format(tasks=TASKS, base=base, task=task, name=rows_name(task))
        content += UNPARSED if base == "_generate" else ""
        (folder / f"{task}.yaml").write_text(content, encoding="utf-8")
    return folder


def _first(path: Path) -> dict:
    return next((row for _, row in read_jsonl(path)), {}) if path.is_file() else {}
