"""What did training cost in general ability? A base and one or more tuned models on general tasks, item by
item.

    python -m evaluation.forgetting --base outputs/demo/backbone \\
        --tuned outputs/demo/foundation outputs/demo/chat --data data/demo/raw/general_questions \\
        --tasks mmlu_answers --gate evaluation/gates/demo.yaml --out outputs/forgetting
    python -m evaluation.forgetting --plan evaluation/plans/forgetting.yaml --out outputs/forgetting

The second prints the published changes beside ours.

Reads   the models (evaluation/models/registry.py): folders, names of evaluation/models, my_models.yaml:NAME
        the tasks' data, from DATA or else from the Hub (tasks/general.py: the harness's own definitions, and
        DATA's layout)
        validation.json and trainer_state.json of models that recipes/pretrain.py made, and of --runs; with
        --blocks, a folder of build_blocks, perplexity is measured on its held-out blocks, of any model
Writes  OUT/forgetting.json, forgetting.md   for each task and model: accuracy, the difference to the base
                              with its 95 % interval, p-value and McNemar's exact test; the mean over tasks;
                              perplexity ratios; tasks that were not asked, and why; the verdict of the gate
                              (scoring/gate.py)
        OUT/curves/           perplexity over training (reporting/curves.py), where a run logged it
        OUT/<model>/<task>.jsonl, run.json   every item: its hash, target, the model's output, its scores
        OUT/.responses        every response as it comes, by model fingerprint: a killed run resumes
        With --plan all this in OUT/<base>/, and OUT/forgetting.md with the published changes beside ours

A credentialed model closes the process before anything is asked (data_prep/egress.py): the tasks' data then
come from DATA or from the Hub's local cache. Intervals are paired bootstraps over items, within each task;
the mean over tasks weighs tasks equally. Prompts are raw, the same for every model; with --chat_template a
model that has one is asked in it. Where the gate says "failed" the command ends with a sentence and status 1.
"""

import argparse
import hashlib
import importlib.metadata
import itertools
import json
import logging
import os
import sys
import time
from pathlib import Path

import numpy as np

from data_prep import egress
from data_prep.files import (
    check_folder,
    check_out,
    one_sentence,
    read_json,
    read_jsonl,
    replaced,
    whole_folder,
    write_jsonl,
)
from data_prep.manifest import read_manifest
from data_prep.schema import BadInput, load, strictest
from evaluation import block_losses, generate
from evaluation.models.registry import Entry, asks_server, fingerprint, read_entry
from evaluation.models.response_cache import Responses
from evaluation.reporting import config, forgetting_page, tables
from evaluation.reporting import curves as perplexity_curves
from evaluation.reporting.curves import read_optional
from evaluation.reporting.intervals import difference_with_width, with_width
from evaluation.scoring import compare, gate, metrics
from evaluation.tasks import general

PACKAGES = ("lm_eval", "torch", "transformers", "datasets", "numpy")
SEED = 1234  # of the choice of examples: the harness's own
BLOCKS = 200  # held-out blocks of each domain, for --blocks


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--base", help="model before training: a folder, or a name of evaluation/models")
    add("--tuned", nargs="+", help="models after it, each compared with the base")
    add("--plan", type=Path, help="YAML of several comparisons, instead of --base and --tuned")
    add("--out", type=Path, required=True)
    add("--tasks", help=f"comma-separated, of {', '.join(general.TASKS)}; default: general, the first seven")
    add("--data", type=Path, help="folder of the tasks' files (tasks/general.py); default: the Hub")
    add("--runs", type=Path, nargs="*", default=[], help="more pretraining runs, for the curves")
    add("--blocks", type=Path, help="folder of build_blocks: measure perplexity on its held-out blocks")
    add("--gate", type=Path, help="YAML of limits, as evaluation/gates/default.yaml")
    add("--max_general_drop", type=float, help="accuracy, 0.02 is two points; instead of the gate's")
    add("--max_general_perplexity_ratio", type=float, help="tuned over base; instead of the gate's")
    add("--limit", type=int, help="the first N items of each set of questions only; the gate then warns")
    add("--num_fewshot", type=int, help="examples in the prompt, instead of each task's own")
    add("--chat_template", action="store_true", help="ask models that have a chat template in it")
    add("--allow_overlong", action="store_true", help="let the harness cut long prompts from the left")
    add("--batch_size", default="16", help="auto[:N]: as many as fit")
    add("--device", help="default: cuda if there is one, else cpu")
    add("--dtype", default="auto", help="type of the weights; auto: as stored")
    add("--backend_args", default="", help="more arguments of the harness's backend, as parallelize=True")
    return parser


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if bool(args.plan) == bool(args.base and args.tuned):
        parser.error("give --base and --tuned, or --plan")
    with one_sentence():
        results = measure_plan(args) if args.plan else [measure(args)]
    findings = [f for result in results for one in result["tuned"] for f in one["gate"]]
    if failed := [finding["sentence"] for finding in findings if finding["level"] == "failed"]:
        more = f" (and {len(failed) - 1} more)" if failed[1:] else ""
        sys.exit(
            f"gate failed: {failed[0]}{more}. Next: more general data and another training, or another limit"
        )


def measure_plan(args) -> list[dict]:
    """Every comparison of a plan in OUT/<base>, and the summary in OUT/forgetting.md."""
    plan, results = load(args.plan, config.ForgettingPlan, example="evaluation/plans/forgetting.yaml"), []
    published = {record["model"]: record for record in read_json(tables.PAPER)["forgetting"]["records"]}
    for one in plan.comparisons:
        given = vars(args) | {"base": one.base, "tuned": [tuned.model for tuned in one.tuned]}
        given |= {
            "out": args.out / Path(one.base).name,
            "tasks": args.tasks or plan.tasks,
            "gate": args.gate or plan.gate,
        }
        notes = [published.get(tuned.published) for tuned in one.tuned]
        results.append(measure(argparse.Namespace(**given), notes))
    text = forgetting_page.summary(results)
    replaced(args.out / "forgetting.md", lambda path: path.write_text(text, encoding="utf-8"))
    print(f"{text}wrote {args.out / 'forgetting.md'}", flush=True)
    return results


def measure(args, published: list[dict | None] = ()) -> dict:
    """Ask every model, write OUT, and return what forgetting.json says. `published`: the paper's record of
    each tuned model."""
    started = time.time()
    generate.check_numbers(args)
    generate.check_backend(args)
    check_folder(args.out)
    entries = read_entries(args)
    blocks = (
        read_manifest(args.blocks, made_by="python -m data_prep.build_blocks -h") if args.blocks else None
    )
    of_blocks = [{"access": blocks["access"], "license": f"the data of {args.blocks}"}] if blocks else []
    for entry in entries.values():
        generate.keep_on_site(None, entry, of_blocks)
    limits = gate.read_limits(
        args.gate, {name: getattr(args, name) for name in gate.NUMBERS}, list(entries)[1:]
    )
    curves = read_curves([*args.runs, *(entry.path for entry in entries.values())], args.runs)
    fingerprints = {name: fingerprint(entry) for name, entry in entries.items()}
    if args.data:  # everything is local: nothing has to be asked of the Hub
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    loaded, asked, not_asked = load_tasks(args)
    if absent := [task for task in limits["tasks"] if task not in asked]:
        raise BadInput(
            f"{args.gate}: wants {', '.join(absent)}, which cannot be asked here. Next: --data with their "
            f"files, or a gate whose tasks are {', '.join(asked)}"
        )
    answers = {
        name: ask_model(args, name, entry, fingerprints[name], loaded, asked)
        for name, entry in entries.items()
    }
    measured = {
        name: perplexity_of(args, entry, fingerprints[name], blocks)
        for name, entry in entries.items()
        if blocks
    }
    base, *tuned = (described_model(entries, fingerprints, answers, asked, name) for name in entries)
    for one, record in itertools.zip_longest(tuned, published):
        one |= differences_to(answers[base["name"]], answers[one["name"]], asked)
        one["perplexity"] = (
            ratios_of(measured[one["name"]], measured[base["name"]])
            if blocks
            else perplexity_ratios(entries[one["name"]].path, entries[base["name"]].path)
        )
        one["published"] = record
    metric = {task: facts["metric"] for task, facts in asked.items()}
    access = [entry.access for entry in entries.values()] + [curve["access"] for curve in curves]
    access += [blocks["access"]] if blocks else []
    result = {
        "stage": "forgetting",
        "access": strictest(access),
        "base": base,
        "tuned": tuned,
        "asked": asked,
        "not_asked": not_asked,
        "at_chance": [task for task in asked if at_chance(answers[base["name"]][task], metric[task])],
        "limit": args.limit,
        "chat_template": args.chat_template,
        "blocks": str(args.blocks) if blocks else None,
        **generate.machine(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "seconds": round(time.time() - started, 1),
        "curves": curves,
    }
    for one in tuned:
        one["gate"] = gate.findings(limits, one, result)
    result["gate"] = {"limits": limits, "verdict": gate.verdict(limits, tuned)}
    write(args.out, result)
    return result


def described_model(entries: dict, fingerprints: dict, answers: dict, asked: dict, name: str) -> dict:
    """{"name", "model", "access", "fingerprint", "tasks": its accuracies}."""
    entry = entries[name]
    facts = {"model": str(entry.path), "access": entry.access, "fingerprint": fingerprints[name]}
    return {"name": name, **facts, "tasks": levels(answers[name], asked)}


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
                f"{model}: two models are called '{name}'. Next: give one its own name in a YAML like those "
                "of evaluation/models"
            )
        entries[name] = entry
    return entries


def load_tasks(args) -> tuple[dict, dict, dict]:
    """({task: {name of the harness: its task}}, {task: what was found}, {task: why it cannot be asked})."""
    names = [name.strip() for name in (args.tasks or "general").split(",") if name.strip()]
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
        print(f"{name}: {forgetting_page.format_task(asked[name])}", flush=True)
    if not loaded:
        first, why = next(iter(not_asked.items()), ("--tasks", "names none"))
        raise BadInput(
            f"no task can be asked, {first}: {why}. Next: --data DIR, laid out as "
            "evaluation/tasks/general.py says"
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
    settings |= {
        key: getattr(args, key) for key in ("limit", "dtype", "batch_size", "device", "backend_args")
    }
    keys = {
        task: hashlib.sha256(
            json.dumps([identity, settings, asked[task]["shots"], asked[task]["data_sha256"]]).encode()
        ).hexdigest()
        for task in loaded
    }
    origin = {"fingerprint": identity, "settings": settings, "access": entry.access}
    check_out(folder, "run.json")
    old = read_optional(folder / "run.json")
    same = {key: old.get(key) for key in origin} == origin
    kept = {
        task: facts
        for task, facts in old.get("tasks", {}).items()
        if same and keys.get(task) in (None, facts["key"])
    }
    todo = {task: loaded[task] for task in loaded if task not in kept}
    made, facts = answer(args, entry, identity, settings, todo) if todo else ({}, {})
    items = {task: [row for _, row in read_jsonl(folder / f"{task}.jsonl")] for task in kept} | made
    if made:
        tasks = kept | {task: {"key": keys[task], **facts[task]} for task in made}
        run = {
            "stage": "forgetting",
            "model": str(entry.path),
            **origin,
            "egress": egress.wall(),
            "tasks": tasks,
        }
        write_items(folder, run, items)
    states = (f"{task} {'asked' if task in made else 'already done'}" for task in loaded)
    print(f"{name}: {', '.join(states)}", flush=True)
    return {task: items[task] for task in loaded}


def write_items(folder: Path, run: dict, items: dict) -> None:
    with whole_folder(folder, mark="run.json") as partial:
        if run["access"] == "credentialed":  # outputs of such a model
            partial.chmod(0o700)
        for task, rows in items.items():
            write_jsonl(partial / f"{task}.jsonl", [row | {"model_access": run["access"]} for row in rows])
        (partial / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def has_template(entry: Entry) -> bool:
    from transformers import AutoTokenizer

    return bool(
        entry.chat_template
        or AutoTokenizer.from_pretrained(entry.path, trust_remote_code=False).chat_template
    )


def answer(args, entry: Entry, identity: str, settings: dict, todo: dict) -> tuple[dict, dict]:
    """({task: items}, {task: facts for run.json}), asked through the harness."""
    import lm_eval

    lm, facts = generate.load_model(args, entry), {}
    several_turns = settings["chat_template"] and entry.turns == "many"
    for task, asked in todo.items():
        facts[task] = check_prompts(args, lm, task, asked, settings["chat_template"], several_turns)
    cached = Responses(lm, args.out / ".responses", identity, settings)
    try:
        made = {}
        for task, asked in todo.items():
            seed_examples(asked)
            samples = lm_eval.evaluate(
                lm=cached,
                task_dict={"tasks": asked, "groups": {}},
                limit=args.limit,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=settings["chat_template"],
                fewshot_as_multiturn=several_turns,
            )["samples"]
            made[task] = [item for name in asked for item in items_of(name, samples[name])]
    finally:
        cached.close()
    return made, facts


def seed_examples(tasks: dict) -> None:
    """The examples that `lm_eval run` would choose, whatever was built before."""
    for one in tasks.values():
        one.set_fewshot_seed(SEED)


def check_prompts(args, lm, task: str, asked: dict, chat: bool, several_turns: bool) -> dict:
    """Facts of the prompts as the model will see them. BadInput if more than a few do not fit: the harness
    would cut them from the left."""
    template = {"apply_chat_template": True, "chat_template": lm.apply_chat_template} if chat else {}
    lengths, room, first = [], 0, None
    seed_examples(asked)
    for one in asked.values():
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
            f"{task}: {long} of {len(lengths)} prompts (up to {max(lengths)} tokens) do not fit into the "
            f"model's {lm.max_length} with {room} new ones. "
            "Next: a smaller --num_fewshot, or --allow_overlong to have them cut from the left"
        )
    return {
        "n_overlong": long,
        "longest_prompt_tokens": max(lengths),
        "max_new_tokens": room,
        "first_prompt": first,
    }


def items_of(name: str, samples: list[dict]) -> list[dict]:
    """One row for each item of a set, with the metrics of every filter, from the samples that the harness
    logs for each filter."""
    items = {}
    for sample in samples:
        item = items.setdefault(
            sample["doc_id"],
            {
                "id": f"{name}:{sample['doc_id']}",
                "doc_hash": sample["doc_hash"],
                "prompt_hash": sample["prompt_hash"],
                "target": sample["target"],
                "output": [response[0] for response in sample["resps"]],
                "score": {},
            },
        )
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
    measured = metrics.estimate(float(finish(counts.sum(0), len(rows))), metrics.draws(counts, finish))
    return with_width(measured, len(rows))


def at_chance(rows: list[dict], metric: str) -> bool:
    """Whether a model answers no better than by chance, as far as these items tell: a random option where
    there are options, else nothing right."""
    if any(row["score"][metric] not in (0, 1) for row in rows):
        return False  # TruthfulQA's share of probability has no such level
    by_chance = np.mean([1 / len(row["output"]) if len(row["output"]) > 1 else 0 for row in rows])
    return level(rows, metric)["low"] <= by_chance


def differences_to(base: dict, tuned: dict, asked: dict) -> dict:
    """{"differences": {task: tuned minus base}, "mean": the mean of these}, each with its interval."""
    found, drawn = {}, []
    for number, (task, facts) in enumerate(asked.items()):
        metric = facts["metric"]
        (counts, _), (base_counts, _) = (metrics.mean_of(rows[task], metric) for rows in (tuned, base))
        difference, draws = metrics.paired(counts, base_counts, mean_difference, seed=number)
        found[task] = described(difference, draws, len(counts))
        if all(row["score"][metric] in (0, 1) for row in (*tuned[task], *base[task])):
            found[task]["mcnemar"] = compare.mcnemar(tuned[task], base[task], metric)
        drawn.append(draws)
    mean = float(np.mean([entry["difference"] for entry in found.values()]))
    return {
        "differences": found,
        "mean": described(mean, np.mean(drawn, axis=0), min(map(len, base.values()))),
    }


def mean_difference(total, base_total, n):
    return (total[..., 0] - base_total[..., 0]) / n


def described(difference: float, draws: np.ndarray, n: int) -> dict:
    low, high = difference_with_width(difference, *metrics.interval(draws), n)
    return {"difference": difference, "low": low, "high": high, "p": metrics.p_value(draws)}


def perplexity_of(args, entry: Entry, identity: str, blocks: dict) -> dict:
    """{domain: {"nll", "tokens"}} of a model on the held-out blocks of --blocks, kept in OUT/.perplexity."""
    key = {"model": identity, "blocks": [o["sha256"] for o in blocks["outputs"]], "dtype": args.dtype}
    file = args.out / ".perplexity" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    if not file.is_file():
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(entry.path, dtype=args.dtype, trust_remote_code=False)
        model.eval().to(generate.device_of(args, entry))
        found = block_losses.of_domains(model, args.blocks, blocks, BLOCKS)
        file.parent.mkdir(parents=True, exist_ok=True)
        replaced(file, lambda path: path.write_text(json.dumps(found), encoding="utf-8"))
    return read_json(file)


def ratios_of(new: dict, old: dict) -> dict:
    """{domain: ratio of perplexities, new over old}, with 95 % intervals over blocks."""
    ratios = {}
    for domain in sorted(set(new) & set(old)):
        ratio, draws = metrics.ratio_of_perplexities(new[domain], old[domain])
        low, high = metrics.interval(draws)
        ratios[domain] = {"ratio": ratio, "low": low, "high": high, "blocks": len(new[domain]["tokens"])}
    return ratios


def perplexity_ratios(tuned: Path, base: Path) -> dict:
    """{domain: ratio of perplexities, tuned over base} on the blocks that both runs were validated on; {}
    where one was not."""
    files = [folder / "validation.json" for folder in (tuned, base)]
    if not all(file.is_file() for file in files):
        return {}
    new, old = map(read_json, files)
    shared = {domain for domain in new if perplexity_curves.same_blocks(tuned, base, domain)}
    return ratios_of({domain: new[domain] for domain in shared}, old)


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
    replaced(out / "forgetting.md", lambda path: path.write_text(text, encoding="utf-8"))
    replaced(
        out / "forgetting.json",
        lambda path: path.write_text(
            json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        ),
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
