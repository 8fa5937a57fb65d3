"""What did training cost in general ability? A base and one or more tuned models on general tasks, item by item.

    python -m evaluation.forgetting --base outputs/demo/backbone --tuned outputs/demo/foundation outputs/demo/chat \
        --data data/demo/raw/general_questions --tasks mmlu_answers --gate evaluation/gates/demo.yaml --out outputs/demo/forgetting
    python -m evaluation.forgetting --base llama-2-13b --tuned outputs/my_13b --gate evaluation/gates/default.yaml --out outputs/forgetting

Reads   the models (model_entry.py: folders, or names of evaluation/models; my_models.yaml:NAME for any other backend or path)
        the tasks' data, from DATA or else from the Hub (general_tasks.py: the harness's own definitions, and the files that DATA may hold)
        validation.json and trainer_state.json of models that recipes/pretrain.py made, and of --runs
Writes  OUT/forgetting.json, OUT/forgetting.md   for each task and model: accuracy, and the difference to the base with a 95 % interval, its p-value
                           and McNemar's exact test; their mean over tasks; perplexity ratios; which tasks were not asked, and why; the gate
        OUT/curves/        perplexity over training (perplexity_curves.py), where a run logged it
        OUT/<model>/<task>.jsonl, run.json   every item: its hash, target, what the model gave, its scores
        OUT/.responses     every response as it comes, by model fingerprint: a killed run goes on where it was, and nothing is asked twice

A model of access class credentialed closes the process before anything is asked (egress.py): the tasks' data then come from DATA, or from what
the Hub's local cache holds.

Intervals are paired bootstraps over items, within each task; the mean over tasks weighs tasks alike. Prompts are raw, for every model the same;
with --chat_template a model that has one is asked in it.

With --gate or a limit the verdict of evaluation/scoring/gate.py stands in forgetting.json too; where it is "failed" the command ends with a sentence and
status 1.
"""

import argparse
import hashlib
import importlib.metadata
import json
import logging
import os
import sys
import time
from pathlib import Path

import numpy as np

from data_prep import egress
from data_prep.files import check_folder, read_json, read_jsonl, replaced, whole_folder, write_jsonl
from data_prep.schema import BadInput, strictest
from evaluation import generate
from evaluation.models.registry import Entry, asks_server, fingerprint, read_entry
from evaluation.models.response_cache import Responses
from evaluation.reporting import curves as perplexity_curves
from evaluation.reporting import forgetting_page
from evaluation.scoring import compare, gate, metrics
from evaluation.tasks import general

SEED = 1234  # of the choice of examples: the harness's own


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--base", required=True, help="model before training: a folder, or a name of evaluation/models"
    )
    parser.add_argument(
        "--tuned", required=True, nargs="+", help="models after it, each compared with the base"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--tasks",
        default="general",
        help=f"comma-separated, of {', '.join(general.TASKS)}; general: the first seven",
    )
    parser.add_argument(
        "--data", type=Path, help="folder of the tasks' files (general_tasks.py); default: the Hub"
    )
    parser.add_argument(
        "--runs", type=Path, nargs="*", default=[], help="more pretraining runs, for the curves"
    )
    parser.add_argument("--gate", type=Path, help="YAML of limits, as evaluation/gates/default.yaml")
    parser.add_argument(
        "--max_general_drop", type=float, help="accuracy, 0.02 is two points; instead of the gate's"
    )
    parser.add_argument(
        "--max_general_perplexity_ratio", type=float, help="tuned over base, instead of the gate's"
    )
    parser.add_argument(
        "--limit", type=int, help="the first N items of each set of questions only; the gate then warns"
    )
    parser.add_argument("--num_fewshot", type=int, help="examples in the prompt, instead of each task's own")
    parser.add_argument(
        "--chat_template", action="store_true", help="ask models that have a chat template in it"
    )
    parser.add_argument(
        "--allow_overlong",
        action="store_true",
        help="let the harness cut prompts that do not fit, from the left",
    )
    parser.add_argument("--batch_size", default="16", help="auto[:N]: as many as fit")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument("--dtype", default="auto", help="type of the weights; auto: as stored")
    parser.add_argument(
        "--backend_args", default="", help="more arguments of the harness's backend, as parallelize=True"
    )
    return parser


def main(argv=None):
    try:
        result = measure(make_parser().parse_args(argv))
    except BadInput as error:
        sys.exit(f"error: {error}")
    if result["gate"]["verdict"] == "failed":
        failed = [
            finding["sentence"]
            for one in result["tuned"]
            for finding in one["gate"]
            if finding["level"] == "failed"
        ]
        sys.exit(
            f"gate failed: {failed[0]}"
            + (f" (and {len(failed) - 1} more)" if failed[1:] else "")
            + ". Next: more general data and another training, or another limit"
        )


def measure(args) -> dict:
    """Ask every model, write OUT, and return what forgetting.json says."""
    started = time.time()
    generate.check_numbers(args)
    generate.check_backend(args)
    check_folder(args.out)
    entries = read_entries(args)
    for entry in entries.values():
        generate.keep_on_site(None, entry, [])
    limits = gate.read_limits(
        args.gate, {name: getattr(args, name) for name in gate.NUMBERS}, list(entries)[1:]
    )
    curves = read_curves([*args.runs, *(entry.path for entry in entries.values())], args.runs)
    fingerprints = {name: fingerprint(entry) for name, entry in entries.items()}
    if args.data:
        os.environ.setdefault(
            "HF_HUB_OFFLINE", "1"
        )  # everything is local: nothing has to be asked of the Hub
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    loaded, asked, not_asked = load_tasks(args)
    if absent := [task for task in limits["tasks"] if task not in asked]:
        raise BadInput(
            f"{args.gate}: wants {', '.join(absent)}, which cannot be asked here. Next: --data with their files, or a gate whose tasks are {', '.join(asked)}"
        )
    answers = {
        name: ask_model(args, name, entry, fingerprints[name], loaded, asked)
        for name, entry in entries.items()
    }
    base, *tuned = entries
    facts = {
        name: {"model": str(e.path), "access": e.access, "fingerprint": fingerprints[name]}
        for name, e in entries.items()
    }
    differences = [differences_to(answers[base], answers[name], asked) for name in tuned]
    result = {
        "stage": "forgetting",
        "access": strictest([entry.access for entry in entries.values()] + [curve["access"] for curve in curves]),
        "base": {"name": base, **facts[base], "tasks": levels(answers[base], asked)},
        "tuned": [
            {"name": name, **facts[name], "tasks": levels(answers[name], asked), **difference,
             "perplexity": perplexity_ratios(entries[name].path, entries[base].path)}
            for name, difference in zip(tuned, differences, strict=True)
        ],
        "asked": asked,
        "not_asked": not_asked,
        "at_chance": [task for task in asked if at_chance(answers[base][task], asked[task]["metric"])],
        "limit": args.limit,
        "chat_template": args.chat_template,
        "gate": {"limits": limits},
        **generate.machine(),
        "versions": {name: importlib.metadata.version(name) for name in ("lm_eval", "torch", "transformers", "datasets", "numpy")},
        "seconds": round(time.time() - started, 1),
        "curves": curves,
    }  # fmt: skip
    for one in result["tuned"]:
        one["gate"] = gate.findings(limits, one, result)
    result["gate"]["verdict"] = gate.verdict(limits, result["tuned"])
    write(args.out, result)
    return result


# ---------------------------------------------------------------- inputs
def read_entries(args) -> dict[str, Entry]:
    """{name: entry} of the base and the tuned models; a checkpoint is called by its run too."""
    entries = {}
    for model in (args.base, *args.tuned):
        entry = read_entry(model)
        if entry.on_server:
            raise BadInput(
                f"{model}: is on a server, whose weights may change unseen. Next: the folder of the weights"
            )
        path = entry.path.resolve()
        name = f"{path.parent.name}-{path.name}" if path.name.startswith("checkpoint-") else entry.name
        if name in entries:
            raise BadInput(
                f"{model}: two models are called '{name}'. Next: give one a name of its own in a YAML as evaluation/models has them"
            )
        entries[name] = entry
    return entries


def load_tasks(args) -> tuple[dict, dict, dict]:
    """({task: {name of the harness: its task}}, {task: what was found}, {task: why it cannot be asked})."""
    names = [name.strip() for name in args.tasks.split(",") if name.strip()]
    wanted = list(
        dict.fromkeys(task for name in names for task in (general.GENERAL if name == "general" else [name]))
    )
    if unknown := [name for name in wanted if name not in general.TASKS]:
        raise BadInput(f"--tasks: unknown task '{unknown[0]}' (known: general, {', '.join(general.TASKS)})")
    loaded, asked, not_asked = {}, {}, {}
    for name in wanted:
        try:
            loaded[name], found = general.load(name, args.data, args.num_fewshot)
        except general.Missing as error:
            if name in names:
                raise BadInput(
                    f"{name}: {error}. Next: add what is missing, or --tasks without {name}"
                ) from error
            not_asked[name] = str(error)
            print(f"{name}: not asked: {error}", flush=True)
            continue
        shots = sorted({one.get_config("num_fewshot") for one in loaded[name].values()})
        fewer = args.num_fewshot is None and shots != [general.TASKS[name].shots]
        sizes = [len(one.eval_docs) for one in loaded[name].values()]
        asked[name] = {
            "definitions": list(loaded[name]),
            "n": sum(min(size, args.limit or size) for size in sizes),
            "metric": general.TASKS[name].metrics[0],
            "shots": shots,
            "note": f"fewer examples than the usual {general.TASKS[name].shots}: no file of them"
            if fewer
            else None,
            "data": found,
            "data_sha256": data_hash(loaded[name]),
        }
        print(f"{name}: {forgetting_page.in_words(asked[name])}", flush=True)
    if not loaded:
        first, why = next(iter(not_asked.items()), ("--tasks", "names none"))
        raise BadInput(
            f"no task can be asked, {first}: {why}. Next: --data DIR, laid out as evaluation/tasks/general.py says"
        )
    return loaded, asked, not_asked


def data_hash(tasks: dict) -> str:
    documents = [
        [name, list(one.eval_docs), list(one.fewshot_docs() or []) if one.get_config("num_fewshot") else []]
        for name, one in tasks.items()
    ]
    return hashlib.sha256(json.dumps(documents, default=str).encode()).hexdigest()


# ---------------------------------------------------------------- a model
def ask_model(
    args, name: str, entry: Entry, identity: str, loaded: dict, asked: dict
) -> dict[str, list[dict]]:
    """{task: items with their scores} of a model, from OUT/<name> where they are there already."""
    folder, chat = args.out / name, args.chat_template and has_template(entry)
    settings = {
        "chat_template": chat,
        "backend": entry.backend,
        "lm_eval": importlib.metadata.version("lm_eval"),
    }
    settings |= {key: getattr(args, key) for key in ("limit", "dtype", "backend_args")}
    keys = {
        task: hashlib.sha256(
            json.dumps([identity, settings, asked[task]["shots"], asked[task]["data_sha256"]]).encode()
        ).hexdigest()
        for task in loaded
    }
    origin = {"fingerprint": identity, "settings": settings}
    old = read_json(folder / "run.json") if (folder / "run.json").is_file() else {"tasks": {}}
    same = {key: old.get(key) for key in (*origin, "access")} == origin | {"access": entry.access}
    kept = {
        task: facts for task, facts in old["tasks"].items() if same and keys.get(task) in (None, facts["key"])
    }
    todo = {task: loaded[task] for task in loaded if task not in kept}
    made, facts = answer(args, entry, identity, settings, todo) if todo else ({}, {})
    items = {task: [row for _, row in read_jsonl(folder / f"{task}.jsonl")] for task in kept} | made
    if made:
        with whole_folder(folder, mark="run.json") as partial:
            if entry.access == "credentialed":
                partial.chmod(0o700)  # what such a model wrote
            for task, rows in items.items():
                write_jsonl(partial / f"{task}.jsonl", [row | {"model_access": entry.access} for row in rows])
            tasks = kept | {task: {"key": keys[task], **facts[task]} for task in made}
            run = {
                "stage": "forgetting",
                "model": str(entry.path),
                "access": entry.access,
                **origin,
                "tasks": tasks,
            }
            (partial / "run.json").write_text(json.dumps(run, indent=1) + "\n")
    print(
        f"{name}: " + ", ".join(f"{task} {'asked' if task in made else 'already done'}" for task in loaded),
        flush=True,
    )
    return {task: items[task] for task in loaded}


def has_template(entry: Entry) -> bool:
    from transformers import AutoTokenizer

    return bool(entry.chat_template or AutoTokenizer.from_pretrained(entry.path).chat_template)


def answer(args, entry: Entry, identity: str, settings: dict, todo: dict) -> tuple[dict, dict]:
    """({task: items}, {task: facts for run.json}), asked through the harness."""
    import lm_eval

    lm, facts = generate.load_model(args, entry), {}
    several_turns = settings["chat_template"] and entry.turns == "many"
    for task, those in todo.items():
        facts[task] = look_at_prompts(args, lm, task, those, settings["chat_template"], several_turns)
    cached = Responses(lm, args.out / ".responses", identity, settings)
    try:
        made = {}
        for task, those in todo.items():
            seeded(those)
            samples = lm_eval.evaluate(
                lm=cached, task_dict={"tasks": those, "groups": {}}, limit=args.limit, bootstrap_iters=0, log_samples=True,
                apply_chat_template=settings["chat_template"], fewshot_as_multiturn=several_turns,
            )["samples"]  # fmt: skip
            made[task] = [item for name in those for item in items_of(name, samples[name])]
    finally:
        cached.close()
    return made, facts


def seeded(tasks: dict) -> None:
    """The examples that `lm_eval run` would choose, whatever was built before."""
    for one in tasks.values():
        one.set_fewshot_seed(SEED)


def look_at_prompts(args, lm, task: str, those: dict, chat: bool, several_turns: bool) -> dict:
    """Facts of the prompts as the model will see them. BadInput if more than a few do not fit: the harness would cut them from the left."""
    template = {"apply_chat_template": True, "chat_template": lm.apply_chat_template} if chat else {}
    lengths, room, first = [], 0, None
    seeded(those)
    for one in those.values():
        one.build_all_requests(limit=args.limit, fewshot_as_multiturn=several_turns, **template)
        texts = {}
        for instance in one.instances:
            prompt, rest = instance.args
            if isinstance(rest, dict):  # how to generate
                room, rest = rest.get("max_gen_toks", lm.max_gen_toks), ""
            texts[instance.doc_id] = max(texts.get(instance.doc_id, ""), prompt + rest, key=len)
            first = first or prompt
        lengths += [len(lm.tok_encode(text)) for text in texts.values()]
    long = sum(length + room > lm.max_length for length in lengths)
    if long > generate.OVERLONG * len(lengths) and not args.allow_overlong:
        raise BadInput(
            f"{task}: {long} of {len(lengths)} prompts (up to {max(lengths)} tokens) do not fit into the model's {lm.max_length} with {room} new ones. "
            "Next: a smaller --num_fewshot, or --allow_overlong to have them cut from the left"
        )
    return {
        "n_overlong": long,
        "longest_prompt_tokens": max(lengths),
        "max_new_tokens": room,
        "first_prompt": first,
    }


def items_of(name: str, samples: list[dict]) -> list[dict]:
    """One row for each item of a set, with the metrics of every filter, from the samples that the harness logs for each filter."""
    items = {}
    for sample in samples:
        item = items.setdefault(sample["doc_id"], {
            "id": f"{name}:{sample['doc_id']}", "doc_hash": sample["doc_hash"], "prompt_hash": sample["prompt_hash"],
            "target": sample["target"], "output": [response[0] for response in sample["resps"]], "score": {},
        })  # fmt: skip
        values = {metric: sample[metric] for metric in sample["metrics"]}
        item["score"] |= {
            f"{metric},{sample['filter']}": float(value)
            for metric, value in values.items()
            if isinstance(value, bool | int | float | np.number)
        }
    return [items[number] for number in sorted(items)]


# ---------------------------------------------------------------- differences
def levels(items: dict, asked: dict) -> dict:
    """{task: {metric: value with its interval}} of one model."""
    return {
        task: {
            metric: level(items[task], metric)
            for metric in general.TASKS[task].metrics
            if metric in items[task][0]["score"]
        }
        for task in asked
    }


def level(rows: list[dict], metric: str) -> dict:
    counts, finish = metrics.mean_of(rows, metric)
    return metrics.estimate(float(finish(counts.sum(0), len(rows))), metrics.draws(counts, finish))


def at_chance(rows: list[dict], metric: str) -> bool:
    """Whether a model answers no better than by lot, as far as these items tell: one of the options where there are some, else nothing right."""
    if any(row["score"][metric] not in (0, 1) for row in rows):
        return False  # TruthfulQA's share of probability has no such level
    by_lot = np.mean([1 / len(row["output"]) if len(row["output"]) > 1 else 0 for row in rows])
    return level(rows, metric)["low"] <= by_lot


def differences_to(base: dict, tuned: dict, asked: dict) -> dict:
    """{"differences": {task: tuned minus base}, "mean": the mean of these}, each with its interval."""
    found, drawn = {}, []
    for number, (task, facts) in enumerate(asked.items()):
        metric = facts["metric"]
        (counts, _), (base_counts, _) = (metrics.mean_of(rows[task], metric) for rows in (tuned, base))
        difference, draws = metrics.paired(counts, base_counts, mean_difference, seed=number)
        found[task] = described(difference, draws)
        if all(row["score"][metric] in (0, 1) for row in (*tuned[task], *base[task])):
            found[task]["mcnemar"] = compare.mcnemar(tuned[task], base[task], metric)
        drawn.append(draws)
    mean = float(np.mean([entry["difference"] for entry in found.values()]))
    return {"differences": found, "mean": described(mean, np.mean(drawn, axis=0))}


def mean_difference(total, base_total, n):
    return (total[..., 0] - base_total[..., 0]) / n


def described(difference: float, draws: np.ndarray) -> dict:
    low, high = metrics.interval(draws)
    return {"difference": difference, "low": low, "high": high, "p": metrics.p_value(draws)}


def perplexity_ratios(tuned: Path, base: Path) -> dict:
    """{domain: ratio of perplexities, tuned over base} on the blocks that both runs were validated on; {} where one was not."""
    files = [folder / "validation.json" for folder in (tuned, base)]
    if not all(file.is_file() for file in files):
        return {}
    new, old = map(read_json, files)
    ratios = {}
    for domain in sorted(set(new) & set(old)):
        if not perplexity_curves.same_blocks(tuned, base, domain):
            continue
        ratio, draws = metrics.ratio_of_perplexities(new[domain], old[domain])
        low, high = metrics.interval(draws)
        ratios[domain] = {"ratio": ratio, "low": low, "high": high, "blocks": len(new[domain]["tokens"])}
    return ratios


# ---------------------------------------------------------------- what is written
def read_curves(runs: list[Path], wanted: list[Path]) -> list[dict]:
    """The curves of the runs that logged any, and of all that are `wanted`."""
    return [
        c
        for run in dict.fromkeys(runs)
        if run in wanted or _logged_perplexity(run)
        for c in perplexity_curves.read_curves(run)
    ]


def write(out: Path, result: dict) -> None:
    if result["curves"]:
        with whole_folder(out / "curves", mark="perplexity.json") as folder:
            perplexity_curves.write(result["curves"], folder)
    text = forgetting_page.markdown(result)
    replaced(out / "forgetting.md", lambda path: path.write_text(text))
    replaced(
        out / "forgetting.json",
        lambda path: path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n"),
    )
    print(f"{text}wrote {out / 'forgetting.json'}", flush=True)


def _logged_perplexity(run: Path) -> bool:
    path = run / "trainer_state.json"
    return path.is_file() and any(
        key.endswith("_perplexity") for entry in read_json(path).get("log_history", []) for key in entry
    )


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput, network=asks_server(sys.argv[1:]))
    main()
