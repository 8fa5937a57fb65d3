"""What a plan of evaluation.ablation will take, before it is run: GPU-hours of one GPU, from the rows and the
sizes of the models.

Training: 6 FLOPs per weight and token at the assumed share of the peak. Prompts: 2 FLOPs per weight and
token. Generating: every step reads the weights once for a batch (2 bytes each), so it takes weights /
bandwidth; an upper bound, as answers may end before the limit. Tokens are characters / 4. Where the rows are
not built, their number is that of the paper's Table 3 and their length is not known.
"""

from pathlib import Path

from data_prep.files import read_json
from evaluation import generate
from evaluation.models.registry import FOLDER, families
from evaluation.reporting import tables
from evaluation.reporting.curves import read_optional
from evaluation.reporting.formats import markdown_table

CHARACTERS = 4  # of a token of English, about
UNKNOWN = 2000  # characters of a row that is not built: an assumption, marked in the table
BATCH = 16


def table(plan, tasks: list[str], args, done) -> str:
    """Markdown: a line for each checkpoint, what is missing and its GPU-hours. `done`:
    evaluation.ablation.done."""
    known = families(sorted(FOLDER.glob("*.yaml")))
    rows, total, lengths = ([], 0.0, {task: length(Path(plan.rows, task), plan.training) for task in tasks})
    for model in plan.models:
        asked, weights = model.asked(tasks), parameters(known.get(model.model, {}))
        states = [done(plan, model, task) for task in asked]
        to_train = [task for task, (ready, _) in zip(asked, states, strict=True) if not ready]
        to_ask = [task for task, (_, answered) in zip(asked, states, strict=True) if not answered]
        hours = weights and sum(training_hours(lengths[task], weights, args) for task in to_train)
        asking = weights and sum(asking_hours(lengths[task], weights, model, plan, args) for task in to_ask)
        total += (hours or 0) + (asking or 0)
        rows.append(
            [
                model.label,
                f"{weights / 1e9:g}B" if weights else "size unknown",
                f"{len(to_train)} of {len(asked)}" if plan.training else "–",
                f"{hours:,.1f}" if weights else "–",
                f"{len(to_ask)} of {len(asked)}",
                f"{asking:,.1f}" if weights else "–",
            ]
        )
    head = ["model", "weights", "tasks to train", "GPU-hours", "tasks to ask", "GPU-hours, at most"]
    assumed = [task for task in tasks if lengths[task]["assumed"]]
    gpu = f"a GPU with {args.gpu_tflops:g} TFLOP/s and {args.gpu_gbps:g} GB/s"
    notes = (
        f"\nTotal {total:,.0f} GPU-hours of {gpu}, training at {args.mfu:.0%} of the peak, {BATCH} rows at "
    )
    notes += "once; a planning figure, not a measurement.\n"
    if assumed:
        notes += "Not built yet, so with the paper's number of rows and "
        notes += f"{UNKNOWN:,} characters a row: {', '.join(assumed)}.\n"
    return markdown_table(head, rows) + notes


def parameters(facts: dict) -> float | None:
    size = str(facts.get("size", ""))
    return float(size.removesuffix("B")) * 1e9 if size.endswith("B") else None


def length(folder: Path, training) -> dict:
    """{"train", "test": (rows, characters a row), "assumed"} of a task; sizes of files, no row is read."""
    task = generate.rows_name(folder.name)
    published = {
        tables.TASK.get(r["dataset"], r["dataset"]): r
        for r in read_json(tables.PAPER)["table3_benchmark"]["records"]
    }
    manifest = read_optional(folder.with_name(task) / "manifest.json")
    counts = {Path(output["path"]).stem: output["records"] for output in manifest.get("outputs", ())}
    found = {"assumed": False}
    for split in ("train", "test") if training else ("test",):
        path = folder.with_name(task) / f"{split}.jsonl"
        if counts.get(split) and path.is_file():
            found[split] = (counts[split], path.stat().st_size / counts[split])
        else:
            found |= {split: (published.get(task, {}).get(split, 0), UNKNOWN), "assumed": True}
    return found


def training_hours(rows: dict, weights: float, args) -> float:
    count, characters = rows["train"]
    epochs = 5 if count < 10_000 else 3  # paper: Methods, "Supervised Learning"
    return 6 * weights * count * epochs * characters / CHARACTERS / (args.gpu_tflops * 1e12 * args.mfu) / 3600


def asking_hours(rows: dict, weights: float, model, plan, args) -> float:
    count, characters = rows["test"]
    new = int(plan.settings.get("max_new_tokens", generate.PRESETS[model.preset]["max_new_tokens"] or 256))
    prompts = 2 * weights * count * characters / CHARACTERS / (args.gpu_tflops * 1e12 * args.mfu)
    steps = count / BATCH * new * 2 * weights / (args.gpu_gbps * 1e9)
    return (prompts + steps) / 3600
