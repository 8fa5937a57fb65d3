"""Speed of the recipes on a CPU: how much of a bare PyTorch loop's speed each keeps, and what packing gives
on rows of the instruction set's lengths.

    python -m recipes.tools.bench --documents data/demo/documents --out outputs/bench

Reads   a folder of data_prep/build_documents.py, for real text; the demo's will do.
Writes  OUT/bench.json and, printed as well, OUT/bench.md. With --results RESULTS.md a row is added there.

Bare loop. A recipe trains as it always does. After each of its optimizer steps the inputs that its model was
given go through a twin of the model in a bare loop: forward, backward, clip, AdamW. The two take turns step
by step, so a slow moment of the machine hits both; a recipe's step counts everything from step to step:
reading, collating, logging, its ledger. That both end at the same loss is part of the output. Stock trainer:
the same run with the recipe's callbacks removed, in turns with a bare loop of its own.

Packing. The lengths are drawn from the log-normal distribution with the median (185) and 95th percentile (930
tokens) estimated for the paper's 214k rows; its mean is 299. The paper's own rows are not public as a
set. Packed rows against padded batches of 8, TRL's default, in tokens that are not padding.

Longer context. Forward and backward passes of one attention layer with shifted_sparse and with sdpa, in
turns, at a small width: seconds, and FLOPs counted from the shapes of what it computes (4 length^2 width of a
square, forward).

Nothing here is a recipe: this file may import its siblings. The GPU's counterpart is -m
recipes.tools.bench_gpu."""

import argparse
import copy
import importlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch
import transformers
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback

from recipes.tools.preflight import load_recipe

ROOT = Path(__file__).resolve().parents[2]
pretrain, sft = (load_recipe(ROOT / "recipes" / name) for name in ("pretrain.py", "sft.py"))
attention, callbacks, hardware = (
    importlib.import_module(name) for name in ("attention", "callbacks", "hardware")
)

VOCABULARY = 1024  # so that the output layer has 3 or 4 % of the weights: 2 % in a 7B, a quarter in a toy
SHAPE = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
BLOCK = 256  # tokens of a block of pretraining
MEDIAN, P95 = 185, 930  # tokens of an instruction row
LONGEST = 2048  # tokens of a packed row
CONTEXTS = (4096, 8192, 16384, 32768)  # tokens of a row, for attention alone
HEADS, HEAD_DIM = 2, 16  # of that layer
WARM_UP = 2  # steps that are not counted


class Enough(Exception):
    """The last step that counts is done: leave the recipe before it evaluates and saves."""


class Clock(TrainerCallback):
    """Times a recipe from one optimizer step to the next, wall and CPU, and leaves it after `steps` of them
    beyond the warm-up.

    `beside`, if there is one, is told the model before training and, after each step while the clock stands,
    what the model was given for it: one dict of inputs per micro-batch. Tokens are those of documents:
    cu_seq_lens or attention_mask say how many."""

    def __init__(self, steps, beside=None):
        self.steps, self.beside = steps, beside
        self.windows, self.inputs, self.given, self.mark = [], [], 0, None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if self.beside:
            self.beside.begin(model, args)
        model.register_forward_pre_hook(self.saw, with_kwargs=True)

    def saw(self, module, positional, given):
        mask = given.get("attention_mask")
        self.given += int(given["input_ids"].numel() if mask is None else mask.sum())
        if self.beside:
            self.inputs.append(given)

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        """The first micro-batch of a step: all of the step before is done, its log and its ledger too."""
        if self.mark:
            wall, cpu, tokens = (now - then for now, then in zip(self.now(state), self.mark, strict=True))
            self.windows.append({"seconds": wall, "cpu_seconds": cpu, "tokens": tokens})
            if self.beside:
                self.beside.step(self.inputs, self.learning_rate, state.log_history[-1].get("loss"))
            if len(self.windows) == WARM_UP + self.steps:
                raise Enough
        self.learning_rate = optimizer.param_groups[0]["lr"]
        self.inputs.clear()
        self.mark = self.now(state)

    def now(self, state):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time(), self.given


class BareLoop:
    """Forward, backward, clip, AdamW on a twin of a recipe's model, with the inputs that the recipe's model
    was given."""

    def __init__(self):
        self.windows, self.differences = [], []

    def begin(self, model, args):
        self.model, self.args = copy.deepcopy(model), args
        for module in self.model.modules():
            vars(module).pop(
                "forward", None
            )  # TRL's and accelerate's wrappers: they would call the recipe's own model
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        betas = (args.adam_beta1, args.adam_beta2)
        self.optimizer = torch.optim.AdamW(
            trained, betas=betas, eps=args.adam_epsilon, weight_decay=args.weight_decay, fused=True
        )

    def step(self, inputs, learning_rate, logged_loss):
        began = time.perf_counter(), time.process_time()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        losses = []
        for batch in inputs:
            loss = self.model(
                **{name: value for name, value in batch.items() if name != "fused_lm_head"}
            ).loss
            loss.backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(
            [w for group in self.optimizer.param_groups for w in group["params"]], self.args.max_grad_norm
        )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.windows.append(
            {"seconds": time.perf_counter() - began[0], "cpu_seconds": time.process_time() - began[1]}
        )
        self.differences.append(abs(torch.stack(losses).sum().item() - logged_loss))


def watched(clock, trainer):
    """Train with the clock among the callbacks; its windows without the warm-up."""
    trainer.add_callback(clock)
    try:
        trainer.train()
    except Enough:
        return clock.windows[WARM_UP:]
    raise SystemExit(
        f"error: the training ended after {len(clock.windows)} steps. Next: fewer --steps, or more "
        f"--documents"
    )


def timed(recipe, config, clock, stock=False):
    """Train by a recipe (its module) with a YAML's keys until the clock has enough; its callbacks are
    included unless `stock`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.yaml")
        path.write_text(yaml.safe_dump({**config, "output_dir": str(Path(folder, "out"))}))
        args = recipe.make_parser().parse_args_and_config(["--config", str(path)])
        trainer = recipe.make_trainer(args, recipe.load_data(args))
        if stock:
            for callback in (callbacks.Throughput, callbacks.LossGuard, callbacks.GracefulStop):
                trainer.remove_callback(callback)
        elif recipe is pretrain:
            trainer.add_callback(recipe.Ledger())
        return watched(clock, trainer)


# ---------------------------------------------------------------- what is trained
COMMON = {
    "attn_implementation": "sdpa",
    "dtype": "float32",
    "learning_rate": 3e-4,
    "weight_decay": 1e-5,
    "max_grad_norm": 1.0,
    "warmup_steps": 0.05,
    "logging_steps": 1,
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}
ROWS = {
    "activation_checkpointing": False,
    "num_train_epochs": 100,
    "chat_template_path": str(ROOT / "recipes/chat_template.jinja"),
    "assistant_only_loss": True,
}


def recipes(folder):
    """{name: (recipe, keys of its YAML)}: 2,048 tokens or so a step."""
    base = {**COMMON, "model_name_or_path": str(folder / "model")}
    lora = {
        "use_peft": True,
        "lora_r": 16,
        "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }
    rows = {"rows": str(folder / "rows"), "max_length": 512}
    masked = {"blocks": str(folder / "blocks"), "document_masking": True, "global_batch_tokens": 8 * BLOCK}
    task = {"completion_only_loss": True, "activation_checkpointing": False, "num_train_epochs": 100}
    return {
        "pretrain, document masking": (
            pretrain,
            base | masked | {"per_device_train_batch_size": 8, "num_train_epochs": 100},
        ),
        "sft, LoRA, packed": (
            sft,
            base | ROWS | lora | rows | {"packing": True, "per_device_train_batch_size": 4},
        ),
        "sft, a task, all weights, padded": (sft, base | task | rows | {"per_device_train_batch_size": 8}),
    }


def packings(folder):
    """The same rows packed and padded: {name: (recipe, keys)}, 4,096 tokens of packed rows or 8 padded rows a
    step."""
    base = {
        **COMMON,
        **ROWS,
        "model_name_or_path": str(folder / "model"),
        "rows": str(folder / "rows"),
        "max_length": LONGEST,
        "use_peft": False,
    }
    packed = {"packing": True, "attn_implementation": "torch_varlen", "per_device_train_batch_size": 2}
    return {"packed": (sft, base | packed), "padded": (sft, base | {"per_device_train_batch_size": 8})}


def prepare(documents, folder, rows):
    """FOLDER/{model, blocks, rows} from the text of DOCUMENTS: weights, blocks and rows of one tokenizer."""
    data_prep("demo.backbone", documents=documents, out=folder / "model", vocab_size=VOCABULARY)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", trust_remote_code=False)
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPE,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    write_blocks(documents, folder / "model", folder / "blocks", BLOCK)
    write_rows(folder / "rows", rows, LONGEST, folder / "blocks", tokenizer)


def data_prep(stage, **arguments):
    """Run a stage of data_prep in a process of its own, as a user does."""
    given = [
        str(part)
        for key, value in arguments.items()
        for part in (f"--{key}", Path(value).resolve() if isinstance(value, Path) else value)
    ]
    subprocess.run([sys.executable, "-m", f"data_prep.{stage}", *given], cwd=ROOT, check=True)


def write_blocks(documents, tokenizer, out, length):
    """All documents once, in blocks of `length` tokens."""
    mixture = out.with_name("mixture.yaml")
    mixture.write_text(
        f"block_length: {length}\ntokens: one_pass\nratio: as_found\nfill: best_fit\nvalidation_share: "
        f"0.02\nseed: 0\n"
    )
    data_prep("build_blocks", documents=documents, tokenizer=tokenizer, mixture=mixture, out=out)


def blocks_of(folder):
    """The training blocks of a folder, in their order."""
    manifest = pretrain.read_manifest(folder)
    order = np.load(Path(folder, "order.npy"), mmap_mode="r")
    return pretrain.PackedBlocks(Path(folder), manifest, "train", order=order)


def write_rows(out, count, longest, blocks, tokenizer):
    packed = blocks_of(blocks)
    stream = np.concatenate([packed[i]["input_ids"] for i in range(min(len(packed), 1000))])
    stream = stream[~np.isin(stream, tokenizer.all_special_ids)]
    out.mkdir(parents=True)
    for split, number in (("train", count), ("validation", 8)):
        rows = invented_rows(split, number, longest, stream, tokenizer)
        (out / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (out / "manifest.json").write_text(json.dumps({"access": "public"}) + "\n")


def invented_rows(split, count, longest, stream, tokenizer):
    """Rows of the instruction set's lengths (see above) cut from a stream of tokens; the second half of each
    is its answer."""
    drawn = np.random.default_rng(len(split)).lognormal(
        math.log(MEDIAN), math.log(P95 / MEDIAN) / 1.645, count
    )
    for number, length in enumerate(
        drawn.clip(16, longest - 32).astype(int)
    ):  # 32 tokens for the chat format
        piece = np.take(stream, range(number * 997, number * 997 + length), mode="wrap")
        prompt, completion = tokenizer.decode(piece[: length // 2]), tokenizer.decode(piece[length // 2 :])
        yield {
            "id": f"{split}{number}",
            "task": "bench",
            "split": split,
            "prompt": prompt.strip() + "\n",
            "completion": completion.strip() or "yes",
            "scoring": "none",
            "source": "bench",
            "license": "CC0",
            "access": "public",
        }


# ---------------------------------------------------------------- measure and report
def measure(folder, steps, repeats):
    found = {"recipes": [], "packing": {}}
    for name, (recipe, keys) in recipes(folder).items():
        bare, beside_stock = BareLoop(), BareLoop()
        windows = timed(recipe, keys, Clock(steps, bare))
        stock_windows = timed(recipe, keys, Clock(steps, beside_stock), stock=True)
        row = {
            "recipe": name,
            "steps": steps,
            "tokens_per_second": speed(windows),
            "largest_loss_difference": max(bare.differences),
        }
        for clock in ("seconds", "cpu_seconds"):
            row[f"ratio_{clock}"] = of_bare(windows, bare, clock)
            row[f"stock_ratio_{clock}"] = of_bare(stock_windows, beside_stock, clock)
        found["recipes"].append(row)
    runs = {name: [] for name in packings(folder)}
    for _ in range(repeats):
        for name, (recipe, keys) in packings(folder).items():
            runs[name] += timed(recipe, keys, Clock(steps))
    found["packing"] = {
        name: {"tokens_per_second": speed(windows), "tokens_per_cpu_second": speed(windows, "cpu_seconds")}
        for name, windows in runs.items()
    }
    for unit in ("tokens_per_second", "tokens_per_cpu_second"):
        found["packing"][f"ratio_{unit}"] = (
            found["packing"]["packed"][unit] / found["packing"]["padded"][unit]
        )
    return found


def of_bare(windows, bare, clock):
    """Median share of the bare loop's speed, step by step."""
    pairs = zip(windows, bare.windows[WARM_UP:], strict=True)
    return median(theirs[clock] / ours[clock] for ours, theirs in pairs)


def attention_cost(lengths, repeats):
    """[{"length", "seconds", "full_seconds", "flops", "full_flops"}]: medians of a forward and a backward
    pass, and FLOPs of the forward pass."""
    module, found = SimpleNamespace(training=True, num_key_value_groups=1, is_causal=True), []
    exact = attention.scaled_dot_product_attention
    for length in lengths:
        torch.manual_seed(0)
        given = [torch.randn(1, HEADS, length, HEAD_DIM, requires_grad=True) for _ in range(3)]
        seconds, flops = {"": [], "full_": []}, 0

        def counted(query, *rest, **kwargs):
            nonlocal flops
            flops += 4 * query.shape[-3] * query.shape[-2] ** 2 * query.shape[-1]
            return exact(query, *rest, **kwargs)

        for _ in range(repeats):
            for name, attend in (("", attention.shifted_sparse), ("full_", attention.sdpa_attention_forward)):
                flops, attention.scaled_dot_product_attention = 0 if not name else flops, counted
                began = time.perf_counter()
                attend(module, *given, None)[0].sum().backward()
                seconds[name].append(time.perf_counter() - began)
        attention.scaled_dot_product_attention = exact
        row = {f"{name}seconds": median(times) for name, times in seconds.items()}
        found.append(
            {"length": length, "flops": flops, "full_flops": 4 * HEADS * HEAD_DIM * length**2, **row}
        )
    return found


def speed(windows, clock="seconds"):
    """Tokens that are not padding a second, over all windows: their sizes differ where rows are padded."""
    return sum(w["tokens"] for w in windows) / sum(w[clock] for w in windows)


def machine():
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = re.search(r"^model name\s*: (.*)", described, re.M)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": commit,
    }


def markdown(found):
    lines = [
        "| recipe | tokens/s | of a bare loop, wall | CPU time | the stock trainer's, wall | CPU time | "
        "largest difference of the loss |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['recipe']} | {r['tokens_per_second']:,.0f} | {r['ratio_seconds']:.3f} | "
        f"{r['ratio_cpu_seconds']:.3f} | {r['stock_ratio_seconds']:.3f} | "
        f"{r['stock_ratio_cpu_seconds']:.3f} | {r['largest_loss_difference']:.1e} |"
        for r in found["recipes"]
    ]
    packing = found["packing"]
    lines += [
        f"| packed rows against padded batches of 8 | {packing['packed']['tokens_per_second']:,.0f} "
        f"against {packing['padded']['tokens_per_second']:,.0f} "
        f"| {packing['ratio_tokens_per_second']:.2f} times | {packing['ratio_tokens_per_cpu_second']:.2f} "
        f"times | | | |"
    ]
    lines += [
        "",
        "| tokens | shifted_sparse, s | sdpa, s | of its time | of its FLOPs |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['length']:,} | {r['seconds']:.3f} | {r['full_seconds']:.3f} | "
        f"{r['seconds'] / r['full_seconds']:.3f} | {r['flops'] / r['full_flops']:.3f} |"
        for r in found.get("attention", ())
    ]
    return "\n".join(lines) + "\n"


def results_row(found):
    """One row of RESULTS.md: run, commit, machine, time, peak memory, outcome."""
    m, packing = found["machine"], found["packing"]
    ratios = ", ".join(
        f"{r['recipe']} {r['ratio_cpu_seconds']:.3f} (stock trainer {r['stock_ratio_cpu_seconds']:.3f})"
        for r in found["recipes"]
    )
    return (
        f"| `make bench` | {m['commit']} | {m['cpu']}, {m['cores']} cores, {m['threads']} threads | "
        f"{found['seconds'] / 60:.0f} min | | of a bare loop's speed (CPU time): "
        f"{ratios}; packed against padded {packing['ratio_tokens_per_second']:.2f} times the real "
        f"tokens/s; {found['parameters'] / 1e6:.1f}M weights |\n"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--documents", type=Path, required=True, help="folder of data_prep/build_documents.py"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps that count, of each recipe")
    parser.add_argument("--repeats", type=int, default=2, help="times that packed and padded take turns")
    parser.add_argument("--rows", type=int, default=1000, help="instruction rows to draw")
    parser.add_argument("--results", type=Path, help="RESULTS.md, to which a row is added")
    args = parser.parse_args(argv)
    if not (args.documents / "manifest.json").is_file():
        sys.exit(
            f"error: {args.documents} holds no documents. Next: make bench, or python -m "
            f"data_prep.build_documents --help"
        )
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        prepare(args.documents, Path(folder), args.rows)
        parameters = LlamaForCausalLM.from_pretrained(Path(folder, "model")).num_parameters()
        found = {
            "machine": machine(),
            "parameters": parameters,
            **measure(Path(folder), args.steps, args.repeats),
            "attention": attention_cost(CONTEXTS, 1 + args.repeats),
        }
    found["seconds"] = round(time.time() - began, 1)
    write(args.out / "bench.json", json.dumps(found, indent=1) + "\n")
    write(args.out / "bench.md", markdown(found))
    if args.results:
        write(args.results, args.results.read_text() + results_row(found))
    print(markdown(found))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"error: {error}. Next: the same command again, with room on the disk")
