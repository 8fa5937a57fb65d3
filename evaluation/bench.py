"""How long generation takes through this path, against the least it could take on the same prompts, in one
run.

    python -m evaluation.bench --out outputs/bench/evaluation

Measured, on one loaded model and the same prompts, greedy, in turns so that a busy machine is busy for all:
    generate    evaluation.generate: prompts built and counted, the harness, the response cache (empty each
                time), outputs taken back
    bare        a hand-written loop, the floor: prompts sorted by length, batches of --batch_size,
                model.generate, decoded
    harness     lm-evaluation-harness by itself at its default batch size, 1

Reads   MODEL (a folder), or without --model a LLaMA with random weights, made here
Writes  OUT/bench.json, OUT/bench.md: seconds of each turn, their medians, and the ratios to the bare loop.
        The outputs of all three are compared: a shortcut that changed them would be no comparison.
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

from data_prep.files import one_sentence, whole_folder, write_jsonl
from data_prep.schema import check_row
from evaluation import generate
from evaluation.models.registry import fingerprint, read_entry

AIM = 1.10  # generate may take this many times the bare loop
TASK = "emrqa"  # any generated task: its rows are ours
WORDS = (10, 300)  # of a prompt
TEXT = "the patient was given a dose of zorimel and then seen in the clinic for cough fever pain"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="as evaluation.generate has it; default: random weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=192)
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--hidden_size", type=int, default=256, help="of the random model")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    args = parser.parse_args(argv)
    with one_sentence():
        bench(args)


def bench(args) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        made = make_rows(scratch / "rows", args.prompts)
        entry = read_entry(args.model or str(make_model(scratch / "model", args.hidden_size)))
        generate.keep_on_site(None, entry, made)
        more = [
            "--max_new_tokens",
            args.new_tokens,
            "--batch_size",
            args.batch_size,
            *(["--device", args.device] if args.device else []),
        ]
        command = [
            "--model",
            entry.path,
            "--rows",
            scratch / "rows",
            "--tasks",
            TASK,
            "--preset",
            "paper",
            "--out",
            scratch / "out",
            *more,
        ]
        options = generate.make_parser().parse_intermixed_args([str(part) for part in command])
        lm = generate.load_model(options, entry)
        identity = fingerprint(entry)
        settings = {
            "chat_template": False,
            "template": {"name": "none", "sha256": None},
            "max_new_tokens": args.new_tokens,
            "backend": entry.backend,
            "dtype": options.dtype,
            "batch_size": options.batch_size,
            "device": generate.device_of(options, entry),
            "backend_args": options.backend_args,
        }

        def through_generate():
            for path in scratch.glob(".responses/*"):
                path.unlink()
            rows, _ = generate.answer(options, entry, settings, identity, {TASK: made}, lm)
            return [row["output"] for row in rows[TASK]]

        def harness_alone():
            from lm_eval.api.instance import Instance

            lm.batch_size_per_gpu = 1
            arguments = {"until": [], "do_sample": False, "max_gen_toks": args.new_tokens}
            requests = [
                Instance("generate_until", {}, (row["prompt"], dict(arguments)), i)
                for i, row in enumerate(made)
            ]
            try:
                return lm.generate_until(requests, disable_tqdm=True)
            finally:
                lm.batch_size_per_gpu = args.batch_size

        ways = {"generate": through_generate, "bare": lambda: bare(lm, made, args), "harness": harness_alone}
        seconds, outputs = {name: [] for name in ways}, {}
        for way in ways.values():  # once without the clock: imports, caches, clocks of the processor
            way()
        for turn in range(args.turns):
            for name in list(ways)[turn % 3 :] + list(ways)[: turn % 3]:
                started = time.perf_counter()
                outputs[name] = ways[name]()
                seconds[name].append(round(time.perf_counter() - started, 3))
    result = report(args, lm, seconds, outputs)
    with whole_folder(args.out, mark="bench.json") as folder:
        (folder / "bench.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (folder / "bench.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result) + f"wrote {args.out}", flush=True)
    return result


def bare(lm, rows: list[dict], args) -> list[str]:
    """The least that generation can cost: sorted, batched, padded on the left, decoded up to EOS."""
    import torch

    tokenizer, model = lm.tokenizer, lm.model
    ids = [tokenizer(row["prompt"])["input_ids"] for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -len(ids[i]))
    texts = [""] * len(rows)
    for start in range(0, len(order), args.batch_size):
        batch = order[start : start + args.batch_size]
        padded = tokenizer.pad(
            {"input_ids": [ids[i] for i in batch]}, padding_side="left", return_tensors="pt"
        ).to(lm.device)
        with torch.inference_mode():
            made = model.generate(
                **padded, max_new_tokens=args.new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        for i, new in zip(batch, made[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
            end = new.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in new else len(new)
            texts[i] = tokenizer.decode(new[:end])
    return texts


# ---------------------------------------------------------------- prompts and model, the same every time
def make_rows(folder: Path, number: int) -> list[dict]:
    draw, vocabulary, rows = random.Random(0), TEXT.split(), []
    for i in range(number):
        prompt = " ".join(draw.choices(vocabulary, k=draw.randint(*WORDS)))
        facts = {
            "id": f"bench:{i}",
            "task": TASK,
            "split": "test",
            "scoring": "span",
            "source": "bench",
            "license": "invented",
        }
        rows.append(
            check_row(
                {**facts, "access": "public", "prompt": f"{prompt}\n", "completion": "cough"},
                f"bench row {i}",
            )
        )
    write_jsonl(folder / TASK / "test.jsonl", rows)
    return rows


def make_model(folder: Path, hidden_size: int) -> Path:
    """A LLaMA with random weights and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer, engine.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    engine.train_from_iterator([TEXT], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=engine, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ---------------------------------------------------------------- the result
def report(args, lm, seconds: dict, outputs: dict) -> dict:
    import torch

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    same = {
        name: sum(a == b for a, b in zip(outputs[name], outputs["bare"], strict=True))
        for name in ("generate", "harness")
    }
    return {
        "model": args.model or f"random LLaMA, {lm.model.num_parameters():,} parameters",
        "device": str(lm.device),
        "machine": f"{generate.machine()['machine']}, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "prompts": args.prompts,
        "words": WORDS,
        "new_tokens": args.new_tokens,
        "batch_size": args.batch_size,
        "seconds": seconds,
        "median_seconds": medians,
        "ratio_to_bare": {name: round(value / medians["bare"], 3) for name, value in medians.items()},
        "same_outputs_as_bare": same,
        "aim": AIM,
        "aim_met": medians["generate"] <= AIM * medians["bare"],
    }


def markdown(result: dict) -> str:
    rows = [
        f"| {name} | {result['median_seconds'][name]:.2f} | {result['ratio_to_bare'][name]:.2f} | "
        f"{result['same_outputs_as_bare'].get(name, result['prompts'])} of {result['prompts']} |"
        for name in result["seconds"]
    ]
    verdict = "met" if result["aim_met"] else "missed"
    about = f"{result['prompts']} prompts of {WORDS[0]} to {WORDS[1]} words, "
    about += f"{result['new_tokens']} new tokens, batches of {result['batch_size']}; "
    about += f"{result['model']}; {result['machine']}; medians of {len(result['seconds']['bare'])} turns."
    table = "\n".join(
        [
            "| way | seconds | of the bare loop | outputs as the bare loop's |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    )
    return f"{about}\n\n{table}\n\nAim: generate at most {result['aim']:.2f} of the bare loop: {verdict}.\n"


if __name__ == "__main__":
    main()
