"""Let a model answer task rows, through lm-evaluation-harness.

    python -m evaluation.generate --model outputs/demo/chat --rows data/demo/tasks \
        --tasks medqa,medqa_ll,mednli --preset chat --out outputs/demo/evaluation/chat
    python -m evaluation.generate --model pmc-llama-13b-chat path=/models/PMC_LLaMA_13B backend=vllm \
        --rows data/tasks --tasks all ...
    python -m evaluation.generate --model server backend=chat served=NAME access=public context=8192 \
        base_url=http://127.0.0.1:8000/v1/chat/completions ...
        # access: the class of the data that the model was trained on (models/registry.py)

Reads   MODEL (models/registry.py: a folder, or a name of evaluation/models; an adapter must be merged first)
        ROWS/<task>/test.jsonl (and train.jsonl with --num_fewshot)
Writes  OUT/<task>.jsonl   the rows, each with its `output`: text, or for a task ending in _ll [[sum of nats,
                           bytes], ...] of its answers; and with `model_access`, the class of the model
        OUT/run.json       the model and its fingerprint; for each task the first prompt as the model saw it,
                           template, examples and their ids, decoding, over-long and failed rows
        OUT/../.responses  every response as it comes, by model fingerprint: a killed run resumes where it
                           stopped

Two presets. paper: the raw prompt, no chat template, at most 256 new tokens, stopped by EOS only, as the
paper's evaluation code did. chat: the model's prompt wrapper (that of its entry, else its tokenizer's), and
the limit of each task's file in evaluation/tasks. Decoding is greedy in both. A chat endpoint is sent the
prompt as one message in both: its server wraps it.

OUT is replaced as a whole or left alone. Tasks that OUT already holds from the same model, rows and settings
are not run again. Nothing is fetched. With rows or a model of access class credentialed the process reaches
this machine only, and what an entry of --allow_list opens (egress.py).
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import logging
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path

from data_prep import egress
from data_prep.files import check_out, one_sentence, read_json, read_jsonl, sha256, whole_folder, write_jsonl
from data_prep.manifest import check_listed
from data_prep.schema import BadInput, check_row, strictest
from evaluation import own_tasks
from evaluation.models.registry import Entry, asks_server, fingerprint, positions, read_entry
from evaluation.models.response_cache import Responses
from evaluation.scoring.run_outputs import answers, rows_name

TASKS = Path(__file__).resolve().parent / "tasks"
KNOWN = sorted(path.stem for path in TASKS.glob("*.yaml") if not path.stem.startswith(("_", "mibe")))
# not one of the twelve: it has its own builder, and is judged, not scored: evaluation/judge.py
CASES = "diagnosis"
GROUPS = {
    "all": [task for task in KNOWN if not task.endswith("_ll") and task != CASES],
    "all_ll": [task for task in KNOWN if task.endswith("_ll")],
}
PRESETS = {
    "paper": {"chat_template": False, "max_new_tokens": 256},
    "chat": {"chat_template": True, "max_new_tokens": None},
}
OTHER_WEIGHTS = {
    "pretrained",
    "peft",
    "delta",
    "lora_local_path",
    "tokenizer",
    "gguf_file",
    "revision",
    "subfolder",
    "trust_remote_code",
}
# A chat template may open the reasoning itself. The tag is then put before each output: without it, reasoning
# that was cut off would look like an answer.
REASONING_OPEN = re.compile(r"<(?:think|thinking|reasoning)>\s*$")
DTYPES = ("auto", "float32", "float16", "bfloat16")
LEAST = {"limit": 1, "max_new_tokens": 1, "num_fewshot": 0}
OVERLONG = (
    0.01  # share of rows whose prompt does not fit; above it nothing is generated unless --allow_overlong
)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model",
        required=True,
        help="folder of a whole model with its tokenizer, or a name of evaluation/models",
    )
    parser.add_argument(
        "changes",
        nargs="*",
        metavar="KEY=VALUE",
        help="change a fact of the entry: path=DIR, backend=vllm, ... (models/registry.py)",
    )
    parser.add_argument("--rows", type=Path, required=True, help="folder made by data_prep.build_tasks")
    parser.add_argument(
        "--tasks",
        required=True,
        help=f"comma-separated, of: {', '.join(KNOWN)}; all: those of the twelve that ROWS has; all_ll: of "
        f"their twins; stock: those of evaluation.stock",
    )
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="the first N rows of each task only")
    parser.add_argument(
        "--num_fewshot", type=int, default=0, help="examples from train.jsonl, the same for every row"
    )
    parser.add_argument("--max_new_tokens", type=int, help="instead of the preset's limit")
    parser.add_argument("--batch_size", default="16", help="of the local backends; auto[:N]: as many as fit")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument("--dtype", default="auto", help="type of the weights; auto: as stored")
    parser.add_argument(
        "--reproducible",
        action="store_true",
        help="batch size 1: in bfloat16 the rows of a batch change each other's outputs",
    )
    parser.add_argument(
        "--backend_args",
        default="",
        help="more arguments of the harness's backend: tensor_parallel_size=4 (vllm), parallelize=True "
        "(hf), num_concurrent=32 (servers)",
    )
    parser.add_argument(
        "--allow_overlong",
        action="store_true",
        help="count rows whose prompt does not fit as wrong, however many",
    )
    parser.add_argument(
        "--allow_failed", action="store_true", help="count rows that the server does not answer as wrong"
    )
    parser.add_argument(
        "--allow_list",
        type=Path,
        help="YAML of servers that may be sent credentialed rows (data_prep/egress.py)",
    )
    return parser


def main(argv=None):
    with one_sentence():
        generate(make_parser().parse_intermixed_args(argv))


def generate(args) -> None:
    started = time.time()
    check_numbers(args)
    args.batch_size = "1" if args.reproducible else args.batch_size
    check_backend(args)
    check_out(args.out, "run.json")
    entry = read_entry(args.model, args.changes)
    rows = {
        task: read_rows(args, task)
        for task in with_rows(args, parse_tasks(args.tasks, own_tasks.names(args.rows)))
    }
    shots = {task: read_shots(args, task) for task in rows}
    given = list(itertools.chain(*rows.values(), *shots.values()))
    allowed, listed = keep_on_site(args.allow_list, entry, given), None
    if entry.on_server:
        listed = check_server(args, entry, rows)
        allowed = keep_on_site(
            args.allow_list, entry, given
        )  # the server may have named weights of a stricter class
    identity = fingerprint(entry, listed)
    template = template_facts(args, entry)
    settings = {
        "preset": args.preset,
        "backend": entry.backend,
        "chat_template": template["name"] != "none",
        "template": template,
        "max_new_tokens": args.max_new_tokens
        or PRESETS[args.preset]["max_new_tokens"],  # None: each task's own
        "num_fewshot": args.num_fewshot,
        "fewshot_turns": entry.turns,
        "limit": args.limit,
        "do_sample": False,
        "stop": "EOS",
        "dtype": args.dtype,
        "batch_size": None if entry.on_server else args.batch_size,
        "device": None if entry.on_server else device_of(args, entry),
        "backend_args": args.backend_args,
    }
    origin = {"fingerprint": identity, "settings": settings}
    keys = {task: task_key(origin, args, task) for task in rows}

    old = read_json(args.out / "run.json") if (args.out / "run.json").is_file() else {"tasks": {}}
    same = {key: old.get(key) for key in (*origin, "model_access")} == origin | {"model_access": entry.access}
    kept = {
        task: facts for task, facts in old["tasks"].items() if same and keys.get(task) in (None, facts["key"])
    }
    for task in old["tasks"]:
        if task in rows and task in kept:
            print(f"{task}: already done", flush=True)
        elif task not in rows and task not in kept:
            print(
                f"{task}: dropped from {args.out}, it was made by another model or other settings", flush=True
            )
    todo = {task: task_rows for task, task_rows in rows.items() if task not in kept}
    if not todo:
        return

    made, facts = answer(args, entry, settings, identity, todo)
    access = strictest(
        [entry.access, *(f["access"] for f in kept.values()), *(f["access"] for f in facts.values())]
    )
    names = ("torch", "transformers", "tokenizers", "datasets", "lm_eval", "vllm")
    run = {
        "stage": "generate",
        "access": access,
        "model": entry.name if entry.path is None else str(entry.path),
        "name": entry.name,
        "model_access": entry.access,
        "allowed": [*allowed, *(e for e in old.get("allowed", ()) if kept and e not in allowed)],
        "egress": egress.wall(),
        "revision": entry.revision,
        **origin,
        "server": {"base_url": entry.base_url, "served": entry.served, "listed": listed}
        if entry.on_server
        else None,
        "n": sum(f["n"] for f in [*kept.values(), *facts.values()]),
        "seconds": round(time.time() - started, 1),
        **machine(),
        "versions": {
            name: importlib.metadata.version(name) for name in names if importlib.util.find_spec(name)
        },
    }
    with whole_folder(args.out, mark="run.json") as folder:
        if access == "credentialed":
            folder.chmod(0o700)
        for task in kept:
            for path in (args.out / f"{task}.jsonl", args.out / f"{task}.bertscore.json"):
                if path.is_file():
                    shutil.copy2(path, folder)
        for task, task_rows in made.items():
            write_jsonl(folder / f"{task}.jsonl", task_rows)
            facts[task] |= {"key": keys[task], "outputs_sha256": sha256(folder / f"{task}.jsonl")}
        run["tasks"] = dict(sorted({**kept, **facts}.items()))
        (folder / "run.json").write_text(
            json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    print(
        f"wrote {args.out}: {', '.join(made)} in {run['seconds']} s. Next: {next_step(made, args.out)}",
        flush=True,
    )


def next_step(made: dict[str, list[dict]], out: Path) -> str:
    from evaluation.score import JUDGED

    judged = [
        f"{JUDGED[rows[0]['scoring']].format(run=out, task=task)} --out {out}_judged"
        for task, rows in made.items()
        if rows[0]["scoring"] in JUDGED
    ]
    return judged[0] if judged else f"python -m evaluation.score {out}"


# ---------------------------------------------------------------- inputs
def check_numbers(args) -> None:
    """BadInput for an invalid number of rows, tokens or examples."""
    for name, least in LEAST.items():
        value = getattr(args, name, None)
        if value is not None and value < least:
            raise BadInput(
                f"--{name} {value}: must be {least} or more. Next: leave it out, or --{name} {max(least, 1)}"
            )


def check_backend(args) -> None:
    """BadInput for an invalid batch size, dtype or backend argument, or a device that this machine lacks."""
    if not re.fullmatch(r"[1-9]\d*|auto(:[1-9]\d*)?", args.batch_size):
        raise BadInput(
            f"--batch_size {args.batch_size}: must be 1 or more, auto or auto:N. Next: leave it out, or "
            f"--batch_size 1"
        )
    if args.dtype not in DTYPES:
        raise BadInput(
            f"--dtype {args.dtype}: is unknown (known: {', '.join(DTYPES)}). Next: leave it out, for the "
            f"type as stored"
        )
    if args.device and args.device not in (here := devices()):
        raise BadInput(
            f"--device {args.device}: is not on this machine (known: {', '.join(here)}). Next: leave it "
            f"out, or --device cpu"
        )
    for part in filter(None, args.backend_args.strip().split(",")):
        key, _, value = part.partition("=")
        if not key.isidentifier() or not value:
            raise BadInput(
                f"--backend_args: '{part}' is not KEY=VALUE. Next: e.g. num_concurrent=8; separate "
                f"several with commas, no spaces"
            )
        if key in OTHER_WEIGHTS:
            raise BadInput(
                f"--backend_args: '{key}' names other weights or code. Next: merge the adapter first, or "
                f"path=DIR"
            )
        if key in ("batch_size", "dtype", "device"):
            raise BadInput(f"--backend_args: '{key}' has a flag of its own. Next: --{key} {value}")


def devices() -> list[str]:
    """The names of this machine's devices."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    return [
        "cpu",
        *(
            [kind.type, *(f"{kind.type}:{i}" for i in range(torch.accelerator.device_count()))]
            if kind
            else []
        ),
    ]


def device_of(args, entry: Entry) -> str:
    """The device that the model runs on; vLLM has its own choice of GPUs."""
    import torch

    return args.device or ("cuda" if entry.backend == "vllm" or torch.cuda.is_available() else "cpu")


def parse_tasks(text: str, own=()) -> list[str]:
    """The tasks that `text` names; `own` are those of the rows beyond the twelve (own_tasks.py)."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    groups = GROUPS | {"stock": stock} if (stock := [t for t in own if t.startswith("stock_")]) else GROUPS
    tasks = list(dict.fromkeys(task for name in names for task in groups.get(name, [name])))
    for task in tasks:
        if task not in (*KNOWN, *own):
            raise BadInput(f"--tasks: unknown task '{task}' (known: {', '.join((*KNOWN, *own, *GROUPS))})")
    if not tasks:
        raise BadInput(f"--tasks: names no task (known: {', '.join((*KNOWN, *GROUPS))})")
    return tasks


def with_rows(args, tasks: list[str]) -> list[str]:
    """`tasks` without those that only a group names and that have no rows, which are printed. BadInput if
    none is left."""
    named = {name.strip() for name in args.tasks.split(",")}
    absent = [task for task in tasks if task not in named and not rows_file(args, task).is_file()]
    if absent == tasks:
        raise BadInput(
            f"{args.rows}: has rows of none of the {len(tasks)} tasks of --tasks {args.tasks}. "
            f"Next: python -m data_prep.build_tasks --raw RAW --tasks all --out {args.rows}"
        )
    if absent:
        left = f"{len(tasks) - len(absent)} of {len(tasks)} tasks"
        print(
            f"--tasks {args.tasks}: {left}; left out, as {args.rows} has no rows of them: "
            f"{', '.join(absent)}",
            flush=True,
        )
    return [task for task in tasks if task not in absent]


def rows_file(args, task: str, split: str = "test") -> Path:
    return args.rows / rows_name(task) / f"{split}.jsonl"


def read_rows(args, task: str) -> list[dict]:
    """The checked test rows of a task, at most --limit."""
    name = rows_name(task)
    made_by = f"Next: python -m data_prep.build_tasks --raw RAW --tasks {name} --out {args.rows}"
    if task == CASES:
        made_by = f"Next: python -m data_prep.build_cases --source cases=FILE --out {args.rows}"
    path, train, rows = rows_file(args, task), rows_file(args, task, "train"), []
    if not path.is_file():
        raise BadInput(f"{path}: no such file. {made_by}")
    if args.num_fewshot and not train.is_file():
        raise BadInput(
            f"{train}: no such file, and examples are its rows. Next: --num_fewshot 0, or the publisher's "
            f"training file in RAW and build_tasks again"
        )
    described = (TASKS / f"{task}.yaml").read_text(encoding="utf-8") if task in KNOWN else ""
    texts = "include: _likelihood.yaml" in described or own_tasks.twin(args.rows, task) == "_likelihood"
    wanted = "options" if texts else "choices"  # of a twin
    check_listed(path)
    for number, row in read_jsonl(path):
        check_row(row, f"{path}: line {number}")
        if "prompt" not in row or row["scoring"] == "none":
            raise BadInput(f"{path}: line {number}: not a row with 'prompt' and a scoring. {made_by}")
        if task.endswith("_ll") and wanted not in row:
            raise BadInput(
                f"{path}: line {number}: no '{wanted}', so {task} cannot be asked of it. {made_by}"
            )
        rows.append(row)
    if not rows:
        raise BadInput(f"{path}: no rows. {made_by}")
    return rows[: args.limit]


def read_shots(args, task: str) -> list[dict]:
    """The training rows among which examples are chosen; none without --num_fewshot."""
    if not args.num_fewshot:
        return []
    from evaluation.tasks.mibe import FEWSHOT_POOL

    path = rows_file(args, task, "train")
    check_listed(path)
    return [
        check_row(row, f"{path}: line {number}")
        for number, row in itertools.islice(read_jsonl(path), FEWSHOT_POOL)
    ]


def template_facts(args, entry: Entry) -> dict:
    """{"name", "sha256"} of the prompt wrapper: none, the entry's, the tokenizer's own, or unseen, in a
    server."""
    if entry.backend == "chat":
        return {"name": "the server's", "sha256": None}
    if not PRESETS[args.preset]["chat_template"]:
        return {"name": "none", "sha256": None}
    if entry.chat_template:
        return {"name": entry.name, "sha256": hashlib.sha256(entry.chat_template.encode()).hexdigest()}
    if not entry.path:
        raise BadInput(
            f"--model {args.model}: without a tokenizer there is no chat template. Next: "
            f"path=TOKENIZER_DIR, or --preset paper"
        )
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(entry.path, trust_remote_code=False).chat_template
    if not text:
        raise BadInput(
            f"{entry.path}: its tokenizer has no chat template. Next: --preset paper, or recipes/sft.py to "
            f"make a chat model of it"
        )
    facts = {"name": "chat_template", "sha256": hashlib.sha256(str(text).encode()).hexdigest()}
    # a template that writes the date (Llama 3's) gives another prompt each day
    return facts | ({"date": time.strftime("%Y-%m-%d")} if "strftime_now" in str(text) else {})


def keep_on_site(allow_list: Path | None, entry: Entry, rows) -> list[dict]:
    """If a row is credentialed, close this process to everything beyond this machine but the entry's server
    where the allow list opens it. Returns the entries of the allow list that were needed; BadInput if the
    server, or one that it relays to, is not in it. A model of such data closes it too: it may say what it has
    read."""
    terms = {row["license"] for row in rows if row["access"] == "credentialed"}
    terms |= {f"what {entry.name} was trained under"} if entry.access == "credentialed" else set()
    if not terms:
        return []
    allowed = egress.load_allow_list(allow_list, BadInput)

    def refuse(said):
        return BadInput(
            f"--model {entry.name}: is at {egress.host_of(entry.behind)}, and {entry.base_url} is taken "
            f"for a relay to it; {said}, or --model server "
            "for a model that is on this machine"
        )

    reached = egress.require_allowed(entry.base_url, allowed, terms, BadInput) if entry.on_server else None
    behind = egress.require_allowed(entry.behind, allowed, terms, refuse) if entry.behind else None
    egress.block_egress(
        terms, BadInput, [reached] if reached else []
    )  # what is behind a relay is not reached by this process
    return [opened for opened in (reached, behind) if opened]


def check_server(args, entry: Entry, rows: dict) -> dict:
    """What the server lists of the model. BadInput if it cannot be asked these rows."""
    from evaluation.models import server

    likelihood = [task for task in rows if task.endswith("_ll")]
    if likelihood and (entry.backend == "chat" or not entry.path):
        raise BadInput(
            f"{likelihood[0]}: likelihoods need the completions endpoint and a tokenizer. Next: "
            f"backend=completions path=TOKENIZER_DIR, "
            f"or --tasks without {', '.join(likelihood)}"
        )
    listed = server.look(entry)
    entry.context = min(filter(None, (entry.context, listed.get("max_model_len"))), default=None)
    if not entry.context:
        raise BadInput(f"--model {args.model}: the length of its context is not known. Next: context=TOKENS")
    return listed


def task_key(origin: dict, args, task: str) -> str:
    """What the outputs of a task depend on: model, settings, rows, and the task's files."""
    inputs = [rows_file(args, task), *([rows_file(args, task, "train")] if args.num_fewshot else [])]
    inputs += [*TASKS.glob(f"{task}.yaml"), TASKS / "mibe.py", *sorted(TASKS.glob("_*.yaml"))]
    return hashlib.sha256(
        json.dumps([origin, [sha256(path) for path in inputs]], sort_keys=True).encode()
    ).hexdigest()


def machine() -> dict:
    """{"machine": a line, "hardware": the same in parts}."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    hardware = {
        "device": "cuda" if gpus else "cpu",
        "accelerator": gpus or None,
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
    }
    return {
        "machine": ", ".join(gpus) or f"{hardware['cpu']} CPU, {hardware['cores']} cores",
        "hardware": hardware,
    }


# ---------------------------------------------------------------- the harness
def load_model(args, entry: Entry):
    """The model as the harness knows it."""
    from lm_eval.utils import simple_parse_args_string

    more = simple_parse_args_string(args.backend_args)
    if entry.on_server:
        from evaluation.models import server

        if unknown := set(more) - set(server.ARGUMENTS):
            raise BadInput(
                f"--backend_args: unknown '{sorted(unknown)[0]}' for a server (known: "
                f"{', '.join(server.ARGUMENTS)})"
            )
        return (server.Chat if entry.backend == "chat" else server.Completions)(entry, **more)
    # an absolute path can never be taken for the name of a model on the Hub
    common = {
        "pretrained": str(entry.path.resolve()),
        "dtype": args.dtype,
        "batch_size": args.batch_size,
        "trust_remote_code": False,
    }
    if entry.backend == "vllm":
        if not importlib.util.find_spec("vllm"):
            raise BadInput(
                "backend=vllm: vllm is not installed here. Next: an environment of requirements-vllm.txt, or "
                "backend=hf"
            )
        from lm_eval.models.vllm_causallms import VLLM

        lm = VLLM(**common, **more)
        lm.hf_chat_template = entry.chat_template or lm.hf_chat_template
    else:
        from lm_eval.models.huggingface import HFLM

        # in bfloat16 the likelihoods of two answers are often equal, and the first of them would win
        given = {"softmax_dtype": "float32", "max_length": positions(entry.path)} | more
        lm = HFLM(**common, device=device_of(args, entry), **given)
    if entry.chat_template:
        lm.tokenizer.chat_template = entry.chat_template
    return lm


def weights_dtype(lm) -> str | None:
    """The type of the weights that were loaded, as "bfloat16"; None where the backend does not say."""
    dtype = getattr(getattr(lm, "model", None), "dtype", None)
    return str(dtype).removeprefix("torch.") if dtype is not None else None


def answer(
    args, entry: Entry, settings: dict, identity: str, todo: dict[str, list[dict]], lm=None
) -> tuple[dict, dict]:
    """({task: rows with output}, {task: facts for run.json}). `lm`: the model, if it is loaded already."""
    os.environ.setdefault(
        "HF_HUB_OFFLINE", "1"
    )  # model and rows are local: nothing has to be asked of the Hub
    from lm_eval.tasks import (
        TaskManager,
    )  # imported here: it takes seconds, and a mistake in the arguments should not

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = lm or load_model(args, entry)
    chat = settings["chat_template"]
    generation = {"max_gen_toks": settings["max_new_tokens"]} if settings["max_new_tokens"] else {}
    names = {f"mibe_{task}": task for task in todo}
    metadata = {
        "rows": str(args.rows.resolve()),
        "option_prefix": option_prefix(lm.tokenizer) if chat and entry.backend != "chat" else None,
    }
    own = own_tasks.write(args.out.parent / ".tasks", args.rows, [t for t in todo if t not in KNOWN])
    manager = TaskManager(include_path=[str(TASKS), str(own)], include_defaults=False, metadata=metadata)

    # every prompt as the model will see it, to count what does not fit: the harness would cut it from the
    # left
    facts, fitting, askers, loaded = {}, {}, {}, manager.load(list(names))["tasks"]
    for name, task in loaded.items():
        task.set_config("num_fewshot", args.num_fewshot)
        task.process_results = (
            lambda row, outputs: {}
        )  # scored later, from the outputs: a metric must not cost a generation
        if task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", generation, update=True)
        template = {"apply_chat_template": True, "chat_template": lm.apply_chat_template} if chat else {}
        try:
            task.build_all_requests(limit=args.limit, fewshot_as_multiturn=entry.turns == "many", **template)
        except AssertionError as error:
            raise BadInput(
                f"{rows_file(args, names[name], 'train')}: --num_fewshot {args.num_fewshot}: {error}"
            ) from error
        facts[names[name]], fitting[name] = look_at_prompts(
            args, entry, lm, task, names[name], todo[names[name]]
        )
        facts[names[name]] |= {
            "weights_dtype": weights_dtype(lm),
            "template": settings["template"],
            "shots": {
                "number": args.num_fewshot,
                "ids": task.dataset["train"]["id"][: args.num_fewshot] if args.num_fewshot else [],
            },
        }
        for instance in task.instances:
            askers.setdefault(instance.args[0], set()).add((name, instance.doc_id))

    cached = Responses(lm, args.out.parent / ".responses", identity, settings)
    try:
        outputs = {}
        while asked := [name for name in names if fitting[name]]:
            outputs, failed = ask(args, cached, {name: loaded[name] for name in asked}, fitting, chat, entry)
            if not failed:
                break
            set_aside(args, failed, askers, facts, fitting, names, todo, len(cached.known))
    finally:
        cached.close()
    made = {}
    for name, task in names.items():
        likelihood = task.endswith("_ll")
        texts = {
            sample["doc_id"]: output_of(sample, todo[task][sample["doc_id"]], task)
            for sample in outputs.get(name, [])
        }
        if not likelihood:
            texts = {i: facts[task]["opened_by_prompt"] + text for i, text in texts.items()}
        made[task] = [
            {**row, "output": texts.get(i, [] if likelihood else ""), "model_access": entry.access}
            for i, row in enumerate(todo[task])
        ]
        if sorted(texts) != fitting[name]:
            raise BadInput(
                f"{task}: the harness answered {len(texts)} of {len(fitting[name])} rows. Next: run the "
                f"same command again"
            )
    return made, facts


def ask(args, cached, tasks: dict, fitting: dict, chat: bool, entry: Entry) -> tuple[dict, dict]:
    """({task name: samples}, {}), or ({}, {request: reason}) if a server left requests unanswered."""
    import lm_eval

    def run():
        return lm_eval.evaluate(
            lm=cached,
            task_dict={"tasks": tasks, "groups": {}},
            apply_chat_template=chat,
            fewshot_as_multiturn=entry.turns == "many",
            bootstrap_iters=0,
            log_samples=True,
            samples={name: fitting[name] for name in tasks},
        )["samples"]

    if not entry.on_server:
        return run(), {}
    from evaluation.models import server

    try:
        return run(), {}
    except server.Failed as error:
        return {}, error.requests
    except server.Gone as error:
        raise BadInput(
            f"{entry.base_url}: stopped answering ({error}); {len(cached.known)} answers are kept. Next: "
            f"{server.advice(str(error))}"
        ) from error


def set_aside(
    args, failed: dict, askers: dict, facts: dict, fitting: dict, names: dict, todo: dict, kept: int
) -> None:
    """Take the rows of failed requests out of `fitting` and note them in `facts`, or BadInput unless that is
    allowed."""
    for request, reason in failed.items():
        for name, number in askers[request]:
            task = names[name]
            row = todo[task][number]["id"]
            if not args.allow_failed:
                from evaluation.models import server

                raise BadInput(
                    f"{task}: {len(failed)} requests failed, the first for row {row} ({reason}); {kept} "
                    f"answers are kept. Next: {server.advice(reason)}, or --allow_failed to score these "
                    f"rows as wrong"
                )
            if number in fitting[name]:
                fitting[name].remove(number)
                facts[task]["failed"][row] = reason
                facts[task]["n_failed"] += 1


def look_at_prompts(args, entry: Entry, lm, task, name: str, rows: list[dict]) -> tuple[dict, list[int]]:
    """(facts for run.json, places of the rows whose prompt fits into the context). Where there is no
    tokenizer to count with, a prompt fits for certain if it has no more bytes than there is room for tokens;
    the others are asked too, and counted as uncounted."""
    likelihood = name.endswith("_ll")
    decoding = {"loglikelihood": True} if likelihood else dict(task.config.generation_kwargs)
    new = 0 if likelihood else decoding["max_gen_toks"]
    context = min(filter(None, (lm.max_length, entry.context)))
    count = (
        lm.count
        if entry.on_server
        else lambda prompt, continuation: len(lm.tok_encode(prompt + continuation))
    )
    lengths, prompts, uncounted = [0] * len(rows), {}, set()
    for instance in task.instances:
        prompt, continuation = instance.args if likelihood else (instance.args[0], "")
        prompts.setdefault(instance.doc_id, prompt if isinstance(prompt, str) else prompt.prompt)
        length = count(prompt, continuation)
        if length is not None:
            lengths[instance.doc_id] = max(lengths[instance.doc_id], length)
        elif len(prompts[instance.doc_id].encode()) + new > context:
            uncounted.add(instance.doc_id)
    if sorted(prompts) != list(range(len(rows))):
        raise BadInput(
            f"{name}: the harness built {len(prompts)} prompts for {len(rows)} rows. Next: check "
            f"{rows_file(args, name)}"
        )
    fitting = [i for i, length in enumerate(lengths) if length + new <= context]
    overlong = [rows[i]["id"] for i, length in enumerate(lengths) if length + new > context]
    said = f"{len(overlong)} of {len(rows)} prompts (up to {max(lengths)} tokens) do not fit into {context} "
    said += f"with {new} new ones"
    if len(overlong) > OVERLONG * len(rows) and not args.allow_overlong:
        raise BadInput(
            f"{name}: {said}. Next: {'fewer shots' if likelihood else 'a smaller --max_new_tokens'}, or "
            f"--allow_overlong to count these rows as wrong"
        )
    tokens = (
        f"prompts of {min(lengths)} to {max(lengths)} tokens"
        if max(lengths)
        else "prompts not counted, there is no tokenizer"
    )
    notes = [f"{len(rows)} rows", tokens] + (
        [f"{len(uncounted)} may be too long for {context}: the server decides"] if uncounted else []
    )
    print(f"{name}: {', '.join(notes)}" + (f"; {said}" if overlong else ""), flush=True)
    return {
        "n": len(rows),
        "n_overlong": len(overlong),
        "overlong": overlong,
        "n_uncounted": len(uncounted),
        "n_failed": 0,
        "failed": {},
        "max_new_tokens": new,
        "decoding": decoding,
        "context": context,
        "longest_prompt_tokens": max(lengths) or None,
        "opened_by_prompt": m[0] if (m := REASONING_OPEN.search(prompts[0])) else "",
        "first_prompt": prompts[0],
        "first_prompt_sha256": hashlib.sha256(prompts[0].encode()).hexdigest(),
        "prompts_sha256": hashlib.sha256(
            json.dumps([prompts[i] for i in sorted(prompts)]).encode()
        ).hexdigest(),
        "rows": str(rows_file(args, name)),
        "rows_sha256": sha256(rows_file(args, name)),
        "access": strictest(row["access"] for row in [*rows, *read_shots(args, name)]),
    }, fitting


def option_prefix(tokenizer) -> str:
    """What the chat template puts between the prompt and the assistant's words: LLaMA-2's a blank, others
    nothing."""
    user, mark = {"role": "user", "content": "question"}, "answer"
    prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([user, {"role": "assistant", "content": mark}], tokenize=False)
    return (
        whole[len(prompt) :].split(mark)[0]
        if whole.startswith(prompt) and mark in whole[len(prompt) :]
        else ""
    )


def output_of(sample: dict, row: dict, task: str):
    """The output of one logged sample of the harness, in the form that score.py reads."""
    if not task.endswith("_ll"):
        return sample["resps"][0][0]
    return [
        [float(response[0][0]), len(text.encode())]
        for response, text in zip(sample["resps"], answers(row, task), strict=True)
    ]


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput, network=asks_server(sys.argv[1:]))
    main()
