"""Let a model answer task rows, through lm-evaluation-harness.

    python -m evaluation.generate --model outputs/demo/chat --rows data/demo/tasks --tasks medqa,medqa_ll,mednli --preset chat \
        --out outputs/demo/evaluation/chat

Reads   MODEL (a folder: config, weights, tokenizer; an adapter must be merged first)
        ROWS/<task>/test.jsonl (and train.jsonl with --num_fewshot)
Writes  OUT/<task>.jsonl   the rows, each with its `output`: text, or for a task ending in _ll [[sum of nats, bytes], ...] of its options
        OUT/run.json       the model and its fingerprint, the first prompt of each task as the model saw it, decoding, over-long rows
        OUT/../.responses  every response as it comes, by model fingerprint: a killed run goes on where it was

Two presets. paper: the raw prompt, no chat template, at most 256 new tokens, stopped by EOS only, as the article's evaluation code did.
chat: the model's chat template, and the limit of each task's file in evaluation/tasks. Decoding is greedy in both.

OUT is replaced as a whole or left alone. Tasks that OUT already holds from the same model, rows and settings are not run again.
"""

import argparse
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import sys
import time
from pathlib import Path

from data_prep.contracts import BadInput, check_row, strictest
from data_prep.files import read_json, read_jsonl, sha256, whole_folder, write_jsonl

TASKS = Path(__file__).resolve().parent / "tasks"
KNOWN = sorted(path.stem for path in TASKS.glob("*.yaml") if not path.stem.startswith("_") and path.stem != "mibe")
PRESETS = {"paper": {"chat_template": False, "max_new_tokens": 256}, "chat": {"chat_template": True, "max_new_tokens": None}}
OVERLONG = 0.01  # share of rows whose prompt does not fit; above it nothing is generated unless --allow_overlong


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a whole model with its tokenizer")
    parser.add_argument("--rows", type=Path, required=True, help="folder made by data_prep.build_tasks")
    parser.add_argument("--tasks", required=True, help=f"comma-separated, of: {', '.join(KNOWN)}")
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="the first N rows of each task only")
    parser.add_argument("--num_fewshot", type=int, default=0, help="examples from the top of train.jsonl")
    parser.add_argument("--max_new_tokens", type=int, help="instead of the preset's limit")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument("--dtype", default="auto", help="type of the weights; auto: as stored")
    parser.add_argument("--allow_overlong", action="store_true", help="score rows as wrong whose prompt does not fit, however many")
    try:
        generate(parser.parse_args(argv))
    except BadInput as error:
        sys.exit(f"error: {error}")


def generate(args) -> None:
    started = time.time()
    rows = {task: read_rows(args, task) for task in parse_tasks(args.tasks)}
    identity = fingerprint(args.model)
    settings = {
        "preset": args.preset,
        "chat_template": PRESETS[args.preset]["chat_template"],
        "max_new_tokens": args.max_new_tokens or PRESETS[args.preset]["max_new_tokens"],  # None: each task's own
        "num_fewshot": args.num_fewshot,
        "limit": args.limit,
        "do_sample": False,
        "stop": "EOS",
        "dtype": args.dtype,
    }
    origin = {"fingerprint": identity, "settings": settings}
    keys = {task: task_key(origin, args, task) for task in rows}

    old = read_json(args.out / "run.json") if (args.out / "run.json").is_file() else {"tasks": {}}
    kept = {
        task: facts
        for task, facts in old["tasks"].items()
        if {key: old.get(key) for key in origin} == origin and keys.get(task) in (None, facts["key"])
    }
    for task in old["tasks"]:
        if task in rows and task in kept:
            print(f"{task}: already done", flush=True)
        elif task not in rows and task not in kept:
            print(f"{task}: dropped from {args.out}, it was made by another model or other settings", flush=True)
    todo = {task: task_rows for task, task_rows in rows.items() if task not in kept}
    if not todo:
        return

    made, facts = answer(args, settings, identity, todo)
    for task in made:
        facts[task]["key"] = keys[task]
    parent = read_json(args.model / "run.json") if (args.model / "run.json").is_file() else {}
    access = strictest([parent.get("access", "public"), *(f["access"] for f in kept.values()), *(f["access"] for f in facts.values())])
    names = ("torch", "transformers", "tokenizers", "datasets", "lm_eval")
    run = {
        "stage": "generate",
        "access": access,
        "model": str(args.model),
        **origin,
        "tasks": dict(sorted({**kept, **facts}.items())),
        "n": sum(f["n"] for f in [*kept.values(), *facts.values()]),
        "seconds": round(time.time() - started, 1),
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }
    with whole_folder(args.out, mark="run.json") as folder:
        if access == "credentialed":
            folder.chmod(0o700)
        for task in kept:
            shutil.copy2(args.out / f"{task}.jsonl", folder)
        for task, task_rows in made.items():
            write_jsonl(folder / f"{task}.jsonl", task_rows)
        (folder / "run.json").write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {args.out}: {', '.join(made)} in {run['seconds']} s. Next: python -m evaluation.score {args.out}", flush=True)


# ---------------------------------------------------------------- inputs
def parse_tasks(text: str) -> list[str]:
    tasks = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for task in tasks:
        if task not in KNOWN:
            raise BadInput(f"--tasks: unknown task '{task}' (known: {', '.join(KNOWN)})")
    if not tasks:
        raise BadInput(f"--tasks: names no task (known: {', '.join(KNOWN)})")
    return tasks


def rows_file(args, task: str, split: str = "test") -> Path:
    return args.rows / task.removesuffix("_ll") / f"{split}.jsonl"


def read_rows(args, task: str) -> list[dict]:
    """The checked test rows of a task, at most --limit."""
    made_by = f"Next: python -m data_prep.build_tasks --raw RAW --tasks {task.removesuffix('_ll')} --out {args.rows}"
    for split in ("test", "train") if args.num_fewshot else ("test",):
        if not rows_file(args, task, split).is_file():
            raise BadInput(f"{rows_file(args, task, split)}: no such file. {made_by}")
    path, rows = rows_file(args, task), []
    for number, row in read_jsonl(path):
        check_row(row, f"{path}: line {number}")
        if "prompt" not in row or row["scoring"] == "none":
            raise BadInput(f"{path}: line {number}: not a row with 'prompt' and a scoring. {made_by}")
        if task.endswith("_ll") and "options" not in row:
            raise BadInput(f"{path}: line {number}: no 'options', so {task} cannot be asked of it. {made_by}")
        rows.append(row)
    if not rows:
        raise BadInput(f"{path}: no rows. {made_by}")
    return rows[: args.limit]


def fingerprint(model: Path) -> str:
    """sha256 over the config, the weights and the tokenizer of a model folder: what its answers depend on, wherever it lies."""
    if not (model / "config.json").is_file():
        if (model / "adapter_config.json").is_file():
            raise BadInput(
                f"{model}: an adapter, not a whole model. Next: python recipes/merge_adapter.py --adapter {model} --output_dir MERGED"
            )
        raise BadInput(f"{model}: no model here (no config.json). Next: train one with recipes/, or give the folder of one")
    patterns = ("*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "*.txt")
    ours = {"run.json", "trainer_state.json", "validation.json", "manifest.json"}  # about the training, not about the model
    files = sorted(
        {path for pattern in patterns for path in model.glob(pattern) if path.name not in ours and path.name != "training_args.bin"}
    )
    if not any(path.suffix in (".safetensors", ".bin") for path in files):
        raise BadInput(f"{model}: no weights here (*.safetensors). Next: wait for its training to end, or train it again")
    return hashlib.sha256("".join(f"{path.name} {sha256(path)}\n" for path in files).encode()).hexdigest()


def task_key(origin: dict, args, task: str) -> str:
    """What the outputs of a task depend on: model, settings, rows, and the task's files."""
    inputs = [rows_file(args, task), *([rows_file(args, task, "train")] if args.num_fewshot else [])]
    inputs += [TASKS / f"{task}.yaml", TASKS / "mibe.py", TASKS / ("_likelihood.yaml" if task.endswith("_ll") else "_generate.yaml")]
    return hashlib.sha256(json.dumps([origin, [sha256(path) for path in inputs]], sort_keys=True).encode()).hexdigest()


def machine() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU, {os.cpu_count()} cores"


# ---------------------------------------------------------------- the harness
def answer(args, settings: dict, identity: str, todo: dict[str, list[dict]]) -> tuple[dict, dict]:
    """({task: rows with output}, {task: facts for run.json})."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # model and rows are local: nothing has to be asked of the Hub
    import lm_eval  # imported here: it takes seconds, and a mistake in the arguments should not
    import torch
    from lm_eval.api.model import CachingLM
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    # an absolute path can never be taken for the name of a model on the Hub
    lm = HFLM(pretrained=str(args.model.resolve()), device=device, dtype=args.dtype, batch_size=args.batch_size, trust_remote_code=False)
    chat = settings["chat_template"]
    if chat and not lm.tokenizer.chat_template:
        raise BadInput(
            f"{args.model}: its tokenizer has no chat template. Next: --preset paper, or recipes/sft.py to make a chat model of it"
        )
    generation = {"max_gen_toks": settings["max_new_tokens"]} if settings["max_new_tokens"] else {}
    names = {f"mibe_{task}": task for task in todo}
    metadata = {"rows": str(args.rows.resolve()), "option_prefix": option_prefix(lm.tokenizer) if chat else " "}
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)

    # every prompt as the model will see it, to count what does not fit: the harness would cut it from the left
    facts, fitting, loaded = {}, {}, manager.load(list(names))["tasks"]
    for name, task in loaded.items():
        task.set_config("num_fewshot", args.num_fewshot)
        if task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", generation, update=True)
        template = {"apply_chat_template": True, "chat_template": lm.apply_chat_template} if chat else {}
        try:
            task.build_all_requests(limit=args.limit, fewshot_as_multiturn=True, **template)
        except AssertionError as error:
            raise BadInput(f"{rows_file(args, names[name], 'train')}: --num_fewshot {args.num_fewshot}: {error}") from error
        facts[names[name]], fitting[name] = look_at_prompts(args, lm, task, names[name], todo[names[name]])

    any_overlong = any(f["overlong"] for f in facts.values())
    results = {}
    if asked := [name for name in names if fitting[name]]:
        cache = args.out.parent / ".responses"
        cache.mkdir(parents=True, exist_ok=True)
        cache.chmod(0o700)  # it holds text
        # the harness's key is the request alone: without the fingerprint a second model would get the answers of the first
        cached = CachingLM(lm, str(cache / f"{identity[:16]}-{args.dtype}.db"))
        results = lm_eval.evaluate(
            lm=cached, task_dict={"tasks": {name: loaded[name] for name in asked}, "groups": {}}, apply_chat_template=chat,
            fewshot_as_multiturn=True, bootstrap_iters=0, log_samples=True, limit=None if any_overlong else args.limit,
            samples={name: fitting[name] for name in asked} if any_overlong else None,
        )["samples"]  # fmt: skip
    made = {}
    for name, task in names.items():
        likelihood = task.endswith("_ll")
        outputs = {sample["doc_id"]: output_of(sample, todo[task][sample["doc_id"]], likelihood) for sample in results.get(name, [])}
        made[task] = [{**row, "output": outputs.get(i, [] if likelihood else "")} for i, row in enumerate(todo[task])]
        if sorted(outputs) != fitting[name]:
            raise BadInput(f"{task}: the harness answered {len(outputs)} of {len(fitting[name])} rows. Next: run the same command again")
    return made, facts


def look_at_prompts(args, lm, task, name: str, rows: list[dict]) -> tuple[dict, list[int]]:
    """(facts for run.json, places of the rows whose prompt fits into the context)."""
    new = 0 if name.endswith("_ll") else task.config.generation_kwargs["max_gen_toks"]
    lengths, prompts = [0] * len(rows), {}
    for instance in task.instances:
        prompt, continuation = instance.args if name.endswith("_ll") else (instance.args[0], "")
        prompts.setdefault(instance.doc_id, prompt)
        lengths[instance.doc_id] = max(lengths[instance.doc_id], len(lm.tok_encode(prompt + continuation)))
    if sorted(prompts) != list(range(len(rows))):
        raise BadInput(f"{name}: the harness built {len(prompts)} prompts for {len(rows)} rows. Next: check {rows_file(args, name)}")
    fitting = [i for i, length in enumerate(lengths) if length + new <= lm.max_length]
    overlong = [rows[i]["id"] for i, length in enumerate(lengths) if length + new > lm.max_length]
    said = f"{len(overlong)} of {len(rows)} prompts (up to {max(lengths)} tokens) do not fit into {lm.max_length} with {new} new ones"
    if len(overlong) > OVERLONG * len(rows) and not args.allow_overlong:
        raise BadInput(f"{name}: {said}. Next: a smaller --max_new_tokens, or --allow_overlong to score these rows as wrong")
    print(f"{name}: {len(rows)} rows, prompts of {min(lengths)} to {max(lengths)} tokens" + (f"; {said}" if overlong else ""), flush=True)
    return {
        "n": len(rows),
        "n_overlong": len(overlong),
        "overlong": overlong,
        "max_new_tokens": new,
        "longest_prompt_tokens": max(lengths),
        "first_prompt": prompts[0],
        "first_prompt_sha256": hashlib.sha256(prompts[0].encode()).hexdigest(),
        "prompts_sha256": hashlib.sha256(json.dumps([prompts[i] for i in sorted(prompts)]).encode()).hexdigest(),
        "rows": str(rows_file(args, name)),
        "rows_sha256": sha256(rows_file(args, name)),
        "access": strictest(row["access"] for row in rows),
    }, fitting


def option_prefix(tokenizer) -> str:
    """What the chat template puts between the prompt and the assistant's words: LLaMA-2's a blank, others nothing."""
    user, mark = {"role": "user", "content": "question"}, "answer"
    prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([user, {"role": "assistant", "content": mark}], tokenize=False)
    return whole[len(prompt) :].split(mark)[0] if whole.startswith(prompt) and mark in whole[len(prompt) :] else ""


def output_of(sample: dict, row: dict, likelihood: bool):
    """The output of one logged sample of the harness, in the form that score.py reads."""
    if not likelihood:
        return sample["resps"][0][0]
    return [[float(response[0][0]), len(option.encode())] for response, option in zip(sample["resps"], row["options"], strict=True)]


if __name__ == "__main__":
    main()
