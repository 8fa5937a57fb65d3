"""Speed of the recipes on a GPU at the size of real models: 7B- and 13B-shaped random weights, 4,096 tokens,
real text.

    python -m recipes.tools.bench_gpu --documents data/demo/documents --out outputs/bench_gpu
    python -m recipes.tools.bench_gpu --documents data/demo/documents --out outputs/bench_gpu_tiny --tiny

Reads   a folder of data_prep/build_documents.py, for real text; the demo's will do. Or your own --blocks,
        with the folder of their --tokenizer.
Writes  OUT/bench_gpu.json after each case and OUT/bench_gpu.md at the end. With --results RESULTS.md a row
        for each shape is added there.

Each case is a process of its own, so one that runs out of memory is a row and not the end. In one run, on one
machine:
    recipe  recipes/pretrain.py or recipes/sft.py as they are, left before they would evaluate and save
    stock   trl's SFTTrainer with its defaults and packing, on the same text and with the same optimizer steps
    bare    a PyTorch loop with the recipe's inputs and optimizer
    matmul  what this GPU reaches on one large bf16 product: the ceiling of all of them
Weights are random and in bf16, for full training with torchao's 8-bit AdamW and stochastic rounding, so that
13B fits one large GPU.

MFU is model FLOPs per second over the maker's dense bf16 peak, in two conventions; recomputed activations
count as nothing. With Nmm the weights of all matrix products, L layers, width d and s tokens that a token's
document has on average:
    causal  6 Nmm + 6 L d s          PaLM  6 Nmm + 12 L d s          LoRA  4 Nmm in place of 6: frozen
            weights have no gradient, attention has no weights
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from torchao.optim import AdamW8bit
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaConfig
from trl import SFTConfig, SFTTrainer

from recipes.tools import bench
from recipes.tools.bench import callbacks, hardware, pretrain, sft

SHAPES = {  # layers, width, width of the MLP, heads, vocabulary
    "7b": (32, 4096, 11008, 32, 32000),
    "13b": (40, 5120, 13824, 40, 32000),
    "tiny": (2, 64, 256, 2, 4096),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BACKENDS = ["sdpa", "torch_varlen", "flash_attention_2", "flash_attention_3", "eager"]


def cases(shape):
    """What is measured of a shape, each case as the arguments of run_case."""
    found = [{"shape": shape, "system": "matmul"}]
    for checkpointing in (False, True):
        common = {
            "shape": shape,
            "stage": "pretrain",
            "packing": "whole blocks",
            "attention": "sdpa",
            "checkpointing": checkpointing,
        }
        found += [{**common, "system": system} for system in ("recipe", "bare", "stock")]
    common = {"shape": shape, "stage": "pretrain", "packing": "masked", "checkpointing": False}
    found += [{**common, "system": "recipe", "attention": backend} for backend in BACKENDS]
    for stage in ("lora", "qlora"):
        common = {"shape": shape, "stage": stage, "packing": "masked", "checkpointing": True}
        found += [{**common, "system": "recipe", "attention": backend} for backend in BACKENDS]
        found.append({**common, "system": "stock", "attention": "sdpa"})
    return found


def name(case):
    saving = "recomputing" if case.get("checkpointing") else ""
    return " ".join(
        filter(
            None,
            (
                case["shape"],
                case.get("stage"),
                case["system"],
                case.get("packing"),
                case.get("attention"),
                saving,
            ),
        )
    )


# ---------------------------------------------------------------- one case, in its own process
def run_case(case, folder, size):
    """{"seconds_per_step", "tokens_per_second", "mfu_causal", "mfu_palm", ...} of a case. `size` is
    {"length", "accumulation", "steps", "tiny"}."""
    if case["system"] == "matmul":
        return {"tflops": matmul(256 if size["tiny"] else 8192)}
    if case["system"] == "weights":
        return write_weights(folder, case["shape"], size["tiny"])
    windows = {"recipe": recipe, "stock": stock, "bare": bare}[case["system"]](case, folder, size)
    tokens_per_second = bench.speed(windows)
    context = mean_context(case, folder, size)
    found = {
        "steps": len(windows),
        "seconds_per_step": median(w["seconds"] for w in windows),
        "tokens_per_second": tokens_per_second,
        "context": context,
    }
    if torch.cuda.is_available() and (peak := hardware.peak_tflops(torch.cuda.get_device_name())):
        for convention in ("causal", "palm"):
            flops = flops_per_token(
                LlamaConfig.from_pretrained(folder / case["shape"]),
                context,
                convention,
                lora=case["stage"] != "pretrain",
            )
            found[f"mfu_{convention}"] = tokens_per_second * flops / (peak * 1e12)
    found["peak_memory_gb"] = callbacks.peak_memory_bytes() / 1e9
    if torch.cuda.is_available():
        found["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
    return found


def recipe(case, folder, size):
    keys = {
        "model_name_or_path": str(folder / case["shape"]),
        "attn_implementation": case["attention"],
        "activation_checkpointing": case["checkpointing"],
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": size["accumulation"],
        "num_train_epochs": 1000,
        "learning_rate": 8e-6,
        "weight_decay": 1e-5,
        "warmup_steps": 0.05,
        "logging_steps": 10,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": size["tiny"],
        "bf16": not size["tiny"],
    }
    if case["stage"] == "pretrain":
        keys |= {
            "blocks": str(folder / "blocks"),
            "global_batch_tokens": size["accumulation"] * size["length"],
            "document_masking": case["packing"] == "masked",
        }
        keys |= (
            {"dtype": "float32"}
            if size["tiny"]
            else {
                "dtype": "bfloat16",
                "optim": "adamw_torch_8bit",
                "optim_args": "bf16_stochastic_round=True",
            }
        )
        return bench.timed(pretrain, keys, bench.Clock(size["steps"]))
    keys |= {
        "rows": str(folder / "rows"),
        "packing": True,
        "pad_token": "<pad>",
        "max_length": size["length"],
        "dtype": "float32" if size["tiny"] else "bfloat16",
        "chat_template_path": bench.ROWS["chat_template_path"],
        "assistant_only_loss": True,
        "use_peft": True,
        "lora_r": 16,
        "lora_target_modules": TARGETS,
        "load_in_4bit": case["stage"] == "qlora",
        "bnb_4bit_quant_type": "nf4",
        "use_bnb_nested_quant": True,
    }
    return bench.timed(sft, keys, bench.Clock(size["steps"]))


def stock(case, folder, size):
    """SFTTrainer as TRL ships it, with packing; the text of the recipe's blocks, or its rows."""
    dtype = torch.float32 if size["tiny"] else torch.bfloat16
    lora, quantization = None, None
    if case["stage"] == "pretrain":
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False)
        data = Dataset.from_dict(
            {"text": [tokenizer.decode(document, skip_special_tokens=True) for document in documents(folder)]}
        )
    else:
        rows = [json.loads(line) for line in (folder / "rows" / "train.jsonl").open()]
        data = Dataset.from_list([{"prompt": row["prompt"], "completion": row["completion"]} for row in rows])
        lora = LoraConfig(r=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    if case["stage"] == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    with tempfile.TemporaryDirectory() as out:
        args = SFTConfig(
            out,
            packing=True,
            max_length=size["length"],
            per_device_train_batch_size=1,
            gradient_accumulation_steps=size["accumulation"],
            activation_checkpointing=case["checkpointing"],
            num_train_epochs=1000,
            learning_rate=8e-6,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=size["tiny"],
            bf16=not size["tiny"],
            model_init_kwargs={"dtype": dtype, "attn_implementation": case["attention"]},
        )
        trainer = {
            "model": str(folder / case["shape"]),
            "train_dataset": data,
            "peft_config": lora,
            "quantization_config": quantization,
        }
        return bench.watched(bench.Clock(size["steps"]), SFTTrainer(args=args, **trainer))


def bare(case, folder, size):
    device = "cpu" if size["tiny"] else "cuda"
    blocks = bench.blocks_of(folder / "blocks")
    collate = pretrain.Collator(case["packing"] == "masked")
    config = LlamaConfig.from_pretrained(folder / case["shape"])
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config,
            attn_implementation=case["attention"],
            dtype=torch.float32 if size["tiny"] else torch.bfloat16,
        )
    model.train()
    if case["checkpointing"]:
        model.gradient_checkpointing_enable()
    settings = {"lr": 8e-6, "weight_decay": 1e-5}
    optimizer = (
        torch.optim.AdamW(model.parameters(), **settings)
        if size["tiny"]
        else AdamW8bit(model.parameters(), bf16_stochastic_round=True, **settings)
    )
    windows, place = [], 0
    for _ in range(bench.WARM_UP + size["steps"]):
        began, tokens = time.perf_counter(), 0
        for _ in range(size["accumulation"]):
            batch = collate([blocks[place % len(blocks)]])
            batch = {
                key: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
                for key, value in batch.items()
            }
            tokens, place = tokens + batch["input_ids"].numel(), place + 1
            (model(**batch, use_cache=False).loss / size["accumulation"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        windows.append({"seconds": time.perf_counter() - began, "tokens": tokens})
    return windows[bench.WARM_UP :]


def matmul(size, times=30):
    """TFLOP/s of a bf16 product of two random matrices."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for count in (5, times):  # the first are for warming up
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
    return 2 * size**3 * times / (time.perf_counter() - began) / 1e12


def matmul_weights(config):
    """Weights of all matrix products of a LLaMA without grouped heads: four of attention, three of the MLP,
    and the head."""
    width = config.hidden_size
    return (
        config.num_hidden_layers * (4 * width**2 + 3 * width * config.intermediate_size)
        + config.vocab_size * width
    )


def flops_per_token(config, context, convention, lora):
    """Without the adapter's own few weights."""
    weights = matmul_weights(config)
    shape = {"trained": 0, "frozen": weights} if lora else {"trained": weights}
    shape |= {"layers": config.num_hidden_layers, "queries": config.hidden_size}
    return hardware.matmul_flops(1, context, **shape, causal=convention == "causal")


def documents(folder, most=2000):
    """The token ids of each document in the first blocks of the training order."""
    blocks = bench.blocks_of(folder / "blocks")
    for i in range(min(len(blocks), most)):
        block = blocks[i]
        yield from np.split(
            block["input_ids"][: block["seq_lengths"].sum()], block["seq_lengths"].cumsum()[:-1]
        )


def mean_context(case, folder, size):
    """Tokens of the document that a token is in, on average: the s of the formulas."""
    if case["packing"] == "whole blocks" and case["system"] != "stock":  # stock TRL keeps documents apart
        return float(size["length"])
    if case["stage"] == "pretrain":
        lengths = np.array([len(document) for document in documents(folder)])
    else:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False)
        lengths = np.array(
            [
                len(tokenizer(row["prompt"] + row["completion"]).input_ids)
                for row in map(json.loads, (folder / "rows" / "train.jsonl").open())
            ]
        )
    return float((lengths**2).sum() / lengths.sum())


# ---------------------------------------------------------------- all cases
def prepare(args, folder, size):
    """FOLDER/{tokenizer, blocks, rows}."""
    if args.blocks:
        shutil.copytree(args.tokenizer, folder / "tokenizer")
        (folder / "blocks").symlink_to(args.blocks.resolve())
    else:
        bench.data_prep(
            "demo.backbone", documents=args.documents, out=folder / "tokenizer", vocab_size=bench.VOCABULARY
        )
        bench.write_blocks(args.documents, folder / "tokenizer", folder / "blocks", size["length"])
    bench.write_rows(
        folder / "rows",
        size["rows"],
        size["length"],
        folder / "blocks",
        AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False),
    )


def write_weights(folder, shape, tiny):
    """FOLDER/SHAPE: random weights with the tokenizer. In a process of its own, so that the GPU's memory is
    free again; {} for run_case."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False)
    layers, width, mlp, heads, vocabulary = SHAPES[shape]
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=mlp,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=max(vocabulary, len(tokenizer)),
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    with torch.device("cpu" if tiny else "cuda"):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder / shape)
    tokenizer.save_pretrained(folder / shape)
    return {}


def outcome(case, folder, size, minutes):
    """The row of a case: what it found, or why it found nothing."""
    command = [
        sys.executable,
        "-m",
        "recipes.tools.bench_gpu",
        "--case",
        json.dumps(case),
        "--folder",
        str(folder),
        "--size",
        json.dumps(size),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        return {**case, "error": f"not done after {minutes} minutes"}
    if done.returncode == 0:
        return {**case, **json.loads(done.stdout.strip().splitlines()[-1])}
    last = (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1]
    return {**case, "error": "out of memory" if "OutOfMemoryError" in done.stderr else last[:300]}


def markdown(found):
    lines = [f"{found['device']}, torch {found['machine']['torch']}, commit {found['machine']['commit']}", ""]
    lines += ["| case | tokens/s | MFU causal | MFU PaLM | peak GB | s/step |", "|---|---|---|---|---|---|"]
    for row in found["cases"]:
        if "error" in row:
            lines.append(f"| {name(row)} | {row['error'].replace('|', '/')} | | | | |")
        elif row["system"] == "weights":
            continue
        elif row["system"] == "matmul":
            lines.append(f"| matmul, bf16 | {row['tflops']:.1f} TFLOP/s | | | | |")
        else:
            mfu = [f"{100 * row[key]:.1f} %" if key in row else "" for key in ("mfu_causal", "mfu_palm")]
            lines.append(
                f"| {name(row)} | {row['tokens_per_second']:,.0f} | {mfu[0]} | {mfu[1]} | "
                f"{row['peak_memory_gb']:.1f} | {row['seconds_per_step']:.2f} |"
            )
    return "\n".join(lines) + "\n"


def results_rows(found):
    """A row of RESULTS.md for each shape: the recipe, without recomputing where that fits, against stock and
    bare in the same setting."""
    speed = {
        (row["shape"], row["checkpointing"], row["system"]): row
        for row in found["cases"]
        if row.get("packing") == "whole blocks" and "tokens_per_second" in row
    }
    for shape in dict.fromkeys(row["shape"] for row in found["cases"]):
        checkpointing = (shape, False, "recipe") not in speed
        if not (ours := speed.get((shape, checkpointing, "recipe"))):
            continue
        others = {system: speed.get((shape, checkpointing, system)) for system in ("bare", "stock")}
        against = [
            f"{ours['tokens_per_second'] / other['tokens_per_second']:.2f} times {system}"
            for system, other in others.items()
            if other
        ]
        mfu = (
            [f"MFU {100 * ours['mfu_causal']:.1f} % causal, {100 * ours['mfu_palm']:.1f} % PaLM"]
            if "mfu_palm" in ours
            else []
        )
        said = "; ".join([f"{ours['tokens_per_second']:,.0f} tokens/s", *mfu, *against])
        kept = "recomputed" if checkpointing else "kept"
        run = f"`make bench-gpu`, pretraining, {shape} shape, activations {kept}"
        minutes, memory = found["seconds"] / 60, ours["peak_memory_gb"]
        cells = [
            run,
            found["machine"]["commit"],
            found["device"],
            f"{minutes:.0f} min",
            f"{memory:.1f} GB",
            said,
        ]
        yield f"| {' | '.join(cells)} |\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=Path, help="folder of data_prep/build_documents.py")
    parser.add_argument(
        "--blocks", type=Path, help="in place of --documents: a folder of data_prep/build_blocks.py"
    )
    parser.add_argument("--tokenizer", type=Path, help="the folder of the tokenizer that made --blocks")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench_gpu"))
    parser.add_argument("--shapes", default="7b,13b", help="of 7b and 13b")
    parser.add_argument("--only", default="", help="regular expression for the names of cases")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps that count")
    parser.add_argument("--minutes", type=float, default=15, help="for a case, at most")
    parser.add_argument("--results", type=Path, help="RESULTS.md, to which a row for each shape is added")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="try all of this on a CPU, with a tiny model: says nothing about speed",
    )
    for internal in ("--case", "--folder", "--size"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.case:
        print(json.dumps(run_case(json.loads(args.case), Path(args.folder), json.loads(args.size))))
        return
    if not args.tiny and not torch.cuda.is_available():
        sys.exit(
            "error: no CUDA device here. Next: run this on a machine that has one, or --tiny to try the "
            "code on a CPU"
        )
    text = args.blocks if args.blocks and args.tokenizer else args.documents
    if not text or not (text / "manifest.json").is_file():
        sys.exit(
            f"error: {text} has no manifest.json. Next: --documents of data_prep.build_documents, or "
            f"--blocks with --tokenizer"
        )
    shapes = ["tiny"] if args.tiny else args.shapes.split(",")
    if unknown := [shape for shape in shapes if shape not in SHAPES]:
        sys.exit(f"error: --shapes {unknown[0]} is not one of {', '.join(SHAPES)}. Next: --shapes 7b,13b")
    size = (
        {"length": 128, "accumulation": 2, "rows": 40}
        if args.tiny
        else {"length": 4096, "accumulation": 4, "rows": 4000}
    )
    size |= {"steps": args.steps, "tiny": args.tiny}
    if args.blocks:
        size["length"] = json.loads((args.blocks / "manifest.json").read_text())["block_length"]
    found = {
        "device": "CPU, tiny" if args.tiny else torch.cuda.get_device_name(),
        "machine": bench.machine(),
        "size": size,
        "cases": [],
    }
    began = time.time()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        prepare(args, Path(folder), size)
        for shape in shapes:
            chosen = [case for case in cases(shape) if re.search(args.only, name(case))]
            for case in [{"shape": shape, "system": "weights"}, *chosen]:
                print(f"{name(case)} ...", flush=True)
                found["cases"].append(outcome(case, Path(folder), size, args.minutes))
                found["seconds"] = round(time.time() - began, 1)
                bench.write(args.out / "bench_gpu.json", json.dumps(found, indent=1) + "\n")
            shutil.rmtree(Path(folder, shape), ignore_errors=True)
    bench.write(args.out / "bench_gpu.md", markdown(found))
    if args.results and not args.tiny:
        bench.write(args.results, args.results.read_text() + "".join(results_rows(found)))
    print(markdown(found))


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"error: {error}. Next: the same command again, with room on the disk")
