"""Know before you pay: memory, time, network, disk and cost of a run from its YAML, an accelerate file and
the name of a GPU. Nothing is loaded or run.

    python -m recipes.tools.plan --config recipes/configs/pretrain_70b.yaml --accelerate
    accelerate_configs/zero3_160gpu.yaml --gpu a100-80

Reads   the YAML of a recipe, the accelerate file with its DeepSpeed JSON, the size of the data where it is
        built already, and config.json of the model: of a folder, of KNOWN below, or of the Hub; for a model
        that is still to be made, of what the YAML beside it that makes it starts from. Any --key value more
        replaces that key of the YAML or of the accelerate file, as when the recipe is launched.
Writes  nothing but a table (--json: the same as JSON). Everything in it is planned, not measured.

Formulas. A model of N weights (M of them in matrix products, A trained ones if the rest is frozen), L layers,
width d, queries q, keys k and MLP f wide, vocabulary V; a micro-batch of t tokens in rows of s; G GPUs. Bytes
unless said otherwise.
  states       a trained weight, its gradient and its optimizer take, with AdamW: DeepSpeed 2 + 4 + 12, FSDP2
               or one GPU with float32 masters 4 + 4 + 8, bf16 weights 2 + 2 + 4; 8-bit AdamW 2.03 for its two
               moments. ZeRO-1 divides the optimizer by G, ZeRO-2 gradients too, ZeRO-3 and FSDP weights too
               (arXiv:1910.02054). A frozen weight: 2, in NF4 0.516 (arXiv:2305.14314). DDP holds the
               gradients twice (its buckets). FSDP reduces after each micro-batch, which the recipes ask of
               it; left to accelerate it would hold 2 N of unsharded gradients.
  activations  a layer keeps, a token, 16 d + 4 q + 4 k + 8 f (bf16 weights, transformers' modules, sdpa or
               flash attention); 26 d in place of 16 d under autocast; 18 d + 2 q under LoRA, and 5 d + q + f
               of dropout masks; with norms on queries and keys 6 (q + k) more. Checkpointed, it keeps its
               input: 2 d, under autocast 4 d. Read off torch's saved tensors; tests/recipes/test_plan.py
               measures them again with the versions pinned here.
  loss, layer  the larger of: the loss, 12 V t (none in sft, whose head is fused), with the bf16 copies of the
               weights under autocast, 2 M; and one checkpointed layer while it is recomputed, what it keeps +
               2 f t.
  gathered     ZeRO-3, FSDP: weights of two layers and of the head, gradients of one, in bf16. ZeRO-1 and 2:
               gradients of a layer and two buckets, 4 d^2.
  FLOPs        a token: 6 M + 12 L q s (convention "PaLM", arXiv:2204.02311, the recipes' own), 6 M + 6 L q s
               ("causal"), 6 N ("6N"); 4 M + 6 A where weights are frozen. Recomputing adds 2 M + 4 L q s to
               what runs, not to what counts.
  time         what runs / (G x peak x REACHED), REACHED being the mean of published runs
               (tests/golden/published_throughput.yaml).
  network      ZeRO-3: 2 gathers of 2 N and a scatter of 2 N a micro-batch; ZeRO-2: a scatter a micro-batch
               and a gather a step; DDP: an all-reduce a step. Over the links of a node and over those between
               the nodes, each at 80 % of its line rate
               (https://github.com/stas00/ml-engineering/blob/master/network/README.md); the slower one
               counts. Latency is left out.
  DPO          a pair is two rows, its prompt with either answer; log-probabilities are fused, as in sft. With
               an adapter no reference is held, else 2 N more (4 N in float32), divided as weights are; it
               runs forward, 2 M + 4 L q s a token.
  GRPO         rows are prompts with max_completion_length; the same reference, if beta is not 0. Generation
               of a GPU's completions of a step, all at once: caches of 4 L k a token, logits of 12 V a
               completion; its time is a pass over the weights (2 N / memory bandwidth) a token, at least
               30 ms (a guess for transformers' generate, and not in ACCURACY).
  long rows    where n GPUs share a row (cp_size, sp_size) each has t / n tokens, beside them the keys and
               values of the whole row, 4 k s, and a second copy of queries and outputs, 4 q t / n; G / n
               micro-batches run at once. A layer exchanges 4 (q + k) t / n three times. shifted_sparse
               attends to 15/64 of s x s. Offloaded checkpoints take no memory of the GPU.
  disk         a checkpoint: weights and optimizer as trained, one more than save_total_limit; blocks: 2 or 4
               a token; text: 3.4 a token.
"""

import argparse
import contextlib
import itertools
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from recipes.hardware import DEVICES, matmul_flops

PLANNED = "planned, not measured"
ACCURACY = (
    "hours are within 15 % of 24 published runs of tuned code, 6 % on average (each left out of the mean "
    "it is held against), and within 15 % of 4 more, "
    "LoRA and Hugging Face's own code among them. Bytes of activations are within 3 % on tiny models. "
    "Memory as a whole was held against one published "
    "run, 70B with LoRA on 8 GPUs: 9 % above it. Nothing was run on a GPU for this"
)

# Share of the peak that published runs reach: (card, recomputing activations)
REACHED = {("a100", True): 0.704, ("a100", False): 0.614, ("h100", True): 0.536, ("h100", False): 0.411}
GENERATE = 0.03  # seconds a token that transformers' generate takes at least: a guess, nothing was measured
# config.json of https://huggingface.co/<name>, as far as sizes go: gated or offline, they can be planned with
SIZES = ["model_type", "vocab_size", "num_hidden_layers", "hidden_size", "intermediate_size"]
SIZES += ["num_attention_heads", "num_key_value_heads", "head_dim"]
KNOWN = {
    "meta-llama/Llama-2-7b-hf": ("llama", 32000, 32, 4096, 11008, 32, 32, 128),
    "meta-llama/Llama-2-13b-hf": ("llama", 32000, 40, 5120, 13824, 40, 40, 128),
    "meta-llama/Llama-2-70b-hf": ("llama", 32000, 80, 8192, 28672, 64, 8, 128),
    "meta-llama/Meta-Llama-3-8B": ("llama", 128256, 32, 4096, 14336, 32, 8, 128),
    "meta-llama/Llama-3.1-8B": ("llama", 128256, 32, 4096, 14336, 32, 8, 128),
    "Qwen/Qwen3-8B-Base": ("qwen3", 151936, 36, 4096, 12288, 32, 8, 128),
}
# Where the data is not built yet; the mean length of the paper's rows is an estimate
EXTENSION = (
    1_000_000_000  # tokens of a run on longer blocks than the paper's: data_prep/mixtures/extend_*.yaml
)
ARTICLE = {"tokens": 129_000_000_000, "length": 4096, "rows": 214_595, "row_tokens": 299}


class Refused(Exception):
    """An input that cannot be planned with; the message says what to do next."""


# ---------------------------------------------------------------- formulas
@dataclass(frozen=True)
class Run:
    """One run on one machine, in the symbols of the docstring."""

    model: str
    params: int  # N
    matmul: int  # M
    layers: int  # L
    width: int  # d
    queries: int  # q
    length: int  # s, tokens of a row
    gpu: str
    keys: int = 0  # k
    mlp: int = 0  # f
    vocab: int = 0  # V
    layer: int = 0  # weights of one layer
    qk_norm: bool = False
    adapter: int = 0  # A; 0: all weights are trained
    dropout: bool = False  # in the adapter
    four_bit: float = 0  # bytes of a frozen 4-bit weight; 0: not quantised
    masters: bool = True  # weights are loaded in float32
    moments: float | None = None  # bytes of a weight's two moments; None: AdamW in the type of the weight
    gradient: int = 4  # bytes in which DeepSpeed sums gradients
    fused_loss: bool = False
    reference: bool = False  # runs forward on each row: DPO, GRPO with beta
    sampled: int = 0  # tokens of a completion that is generated; GRPO
    checkpointing: bool = True
    offload: bool = False  # of checkpointed activations, to the memory of the machine
    sparse: bool = False  # shifted_sparse attention
    heads: int = 0
    shared: int = 1  # GPUs that share a row
    micro: int = 1  # rows of a micro-batch
    rows: int = 1  # rows of an optimizer step, all GPUs together
    computed: float = 0  # tokens of an average row with its padding; 0: length
    steps: int = 1
    tokens: float = 0  # of the whole run, without padding
    gpus: int = 1
    nodes: int = 1
    network: float = 0  # Gb/s of a node
    engine: str = "single"  # single, ddp, deepspeed, fsdp
    stage: int = 0  # of ZeRO; FSDP is 3
    checkpoints: int = 1  # that lie on the disk at once
    mfu: float = 0  # stated, convention PaLM; 0: REACHED decides
    assumed: tuple = ()

    @property
    def accumulation(self):
        return self.rows // (self.gpus // self.shared * self.micro)

    @property
    def autocast(self):
        return self.masters and not self.adapter and self.engine in ("single", "ddp")


def activation_bytes(r):
    """Bytes a token, kept for the backward pass: (by a layer, by a checkpointed layer, by what comes after
    the layers)."""
    heads = 4 * r.queries + 4 * r.keys + (4 if r.adapter else 6) * (r.queries + r.keys) * r.qk_norm
    if r.adapter:
        own, entry, end = 18 * r.width + 2 * r.queries + (5 * r.width + r.queries + r.mlp) * r.dropout, 2, 4
    else:
        own, entry, end = (26 * r.width, 4, 10) if r.autocast else (16 * r.width, 2, 8)
    return own + heads + 8 * r.mlp, entry * r.width, end * r.width


def state_bytes(r):
    """(weight, gradient, optimizer): bytes of one trained weight before any sharding."""
    if r.engine == "deepspeed":
        return 2, r.gradient, 4 + (8 if r.moments is None else r.moments)
    weight = 4 if r.masters or r.adapter or r.engine == "fsdp" else 2
    return weight, weight, 2 * weight if r.moments is None else r.moments


def memory(r):
    """{part: bytes} of one GPU at its fullest moment."""
    tokens = r.micro * r.length // r.shared
    trained, (weight, gradient, optimizer) = r.adapter or r.params, state_bytes(r)
    share = {stage: r.gpus if r.stage >= stage else 1 for stage in (1, 2, 3)}

    # The frozen base; bitsandbytes leaves the head as it is, and its 4-bit weights are not sharded
    quantised = r.matmul - r.vocab * r.width if r.four_bit else 0
    others = (r.params - quantised) * (4 if r.masters and r.engine != "deepspeed" else 2) / share[3]
    frozen = quantised * r.four_bit + others if r.adapter else 0

    # The loss and a layer that is recomputed are not there at the same moment: the larger counts
    kept, entry, end = activation_bytes(r)
    loss = (0 if r.fused_loss else 12 * r.vocab * tokens) + (2 * r.matmul if r.autocast else 0)
    again = (kept + 2 * r.mlp) * tokens if r.checkpointing else 0

    # What is whole for a moment
    gathered = 2 * r.width * r.mlp if r.four_bit else 0
    if r.stage == 3 and r.gpus > 1:
        gathered += 2 * ((2 if r.adapter else 3) * r.layer + r.vocab * r.width)
    elif r.stage and r.gpus > 1:
        gathered += 2 * r.layer + 4 * r.width**2

    held = r.reference and not r.adapter
    sampling = rows_sampled(r) * (4 * r.layers * r.keys * r.length + 12 * r.vocab) if r.sampled else 0
    if r.shared > 1:
        gathered += 4 * r.keys * r.micro * r.length + 4 * r.queries * tokens

    parts = {
        "frozen weights": frozen,
        "reference": held * r.params * (4 if r.masters and r.engine != "deepspeed" else 2) / share[3],
        "trained weights": weight * trained / share[3],
        "gradients": gradient * trained / share[2] * (2 if r.engine == "ddp" else 1),
        "optimizer": optimizer * trained / share[1],
        "activations": tokens * (r.layers * (entry * (not r.offload) if r.checkpointing else kept) + end),
        "logits and loss": loss,
        "a layer beyond the loss": max(0, again - loss),
        "gathered, buckets": gathered,
        "generation beyond them": max(0, sampling - tokens * r.layers * (entry if r.checkpointing else kept)),
    }
    return parts | {"CUDA 1 GB, fragments 4 %": 1e9 + 0.04 * sum(parts.values())}


def rows_sampled(r):
    """Completions that a GPU generates at once: those of its share of a step."""
    return r.rows / r.gpus


def total(r):
    return sum(memory(r).values())


def fits(r):
    return total(r) <= DEVICES[r.gpu].memory_gib * 2**30


def flops(r):
    """Of one token: what counts as the model's in each convention, and what the hardware does, recomputing
    included."""
    shape = {"trained": r.adapter or r.matmul, "frozen": r.matmul if r.adapter else 0}
    shape |= {"layers": r.layers, "queries": r.queries}
    palm, attention = matmul_flops(1, r.length, **shape), r.layers * r.queries * r.length
    again = (2 * r.matmul + 4 * attention) * (r.checkpointing + r.reference)
    again -= (12 + 4 * r.checkpointing) * attention * 49 / 64 * r.sparse
    return {
        "PaLM": palm,
        "causal": matmul_flops(1, r.length, causal=True, **shape),
        "6N": (4 if r.adapter else 6) * r.params,
        "hardware": palm + again,
    }


def communication(r):
    """Of an optimizer step: (bytes that reach one GPU, seconds, Gb that enter one node)."""
    if r.gpus == 1:
        return 0, 0, 0
    trained = r.adapter or r.params
    if r.stage == 3:
        volume = (4 * (0 if r.four_bit else r.params) + 2 * trained) * r.accumulation
    elif r.stage == 2:
        volume = 2 * trained * (r.accumulation + 1)
    else:
        volume = (r.gradient + 2 if r.stage else 2 * state_bytes(r)[1]) * trained
    if r.shared > 1:
        part = r.micro * r.length // r.shared
        volume += 3 * r.layers * 4 * (r.queries + r.keys) * part * r.accumulation
    here = r.gpus // r.nodes
    inside = volume * (here - 1) / here / (0.8e9 * DEVICES[r.gpu].link)
    enters = 8e-9 * volume * (r.nodes - 1) / r.nodes
    return volume, max(inside, enters / (0.8 * r.network)), enters


def timing(r):
    """Seconds of a step and hours of the run: [the network hidden behind the computing, nothing of it
    hidden]."""
    gpu, work = DEVICES[r.gpu], flops(r)
    tokens, peak = r.rows * (r.computed or r.length), r.gpus * gpu.tflops * 1e12
    volume, exchange, enters = communication(r)
    if r.mfu:
        compute = tokens * work["PaLM"] / (peak * r.mfu)
        step = [compute, compute]
    else:
        compute = tokens * work["hardware"] / (peak * REACHED[gpu.calibrated_on, r.checkpointing])
        step = [max(compute, exchange), compute + exchange]
    once = max(2 * r.params / (gpu.bandwidth * 1e9), GENERATE)  # seconds of a token of all completions
    generation = r.sampled * once
    step = [seconds + generation for seconds in step]
    hours = [r.steps * seconds / 3600 for seconds in step]
    return {
        "compute_seconds": compute,
        "generation_seconds": generation,
        "network_seconds": exchange,
        "network_bytes": volume,
        "network_is_limit_below_gbit": enters / 0.8 / compute,
        "limit": "network" if exchange > compute else "computing",
        "step_seconds": step,
        "hours": hours,
        "gpu_hours": [r.gpus * h for h in hours],
        "tokens_per_second": tokens / step[0],
        "mfu": {name: tokens * work[name] / (peak * step[0]) for name in ("PaLM", "causal", "6N")},
    }


def disk(r):
    """{what: bytes}: the checkpoints that lie there at once, the final model and, in pretraining, the
    data."""
    weight, _, optimizer = state_bytes(r)
    one, model = (weight + optimizer) * (r.adapter or r.params), weight * (r.adapter or r.params)
    data = (
        {}
        if r.fused_loss
        else {"packed blocks": (2 if r.vocab <= 2**16 else 4) * r.tokens, "their text": 3.4 * r.tokens}
    )
    return {"one checkpoint": one, "checkpoints and model": r.checkpoints * one + model, **data}


def nearest(r):
    """([changes], run) that fits: without more GPUs if it can be, without quantisation if it can be, then by
    the fewest changes and the least lost time."""
    lora = (
        16 * r.layers * (7 * r.width + 2 * r.queries + 2 * r.keys + 3 * r.mlp)
    )  # rank 16 on the seven matrices of each layer
    for gpus in [r.gpus * 2**i for i in range(11) if r.gpus * 2**i <= max(r.gpus, 1024)]:
        stages = {r.stage, *(stage for stage in (2, 3) if gpus > 1 and stage > r.stage)}
        bits, found = {r.four_bit, 0.516 if r.fused_loss and not r.four_bit else r.four_bit}, []
        for stage, four_bit, saved in itertools.product(stages, bits, {r.checkpointing, True}):
            for micro in (size for size in range(1, r.micro + 1) if r.rows % (gpus // r.shared * size) == 0):
                engine = (
                    "deepspeed"
                    if stage != r.stage
                    else "ddp"
                    if gpus > 1 and r.engine == "single"
                    else r.engine
                )
                nodes = max(r.nodes, gpus // max(8, r.gpus // r.nodes))
                other = replace(
                    r, gpus=gpus, nodes=nodes, engine=engine, stage=stage, checkpointing=saved, micro=micro
                )
                if four_bit != r.four_bit:
                    other = replace(other, four_bit=four_bit, adapter=r.adapter or lora, masters=False)
                if not fits(other):
                    continue
                changes = {
                    f"{gpus} GPUs": gpus != r.gpus,
                    f"per_device_train_batch_size {micro}": micro != r.micro,
                    "activation_checkpointing true": saved != r.checkpointing,
                    f"ZeRO-{stage}": stage != r.stage,
                    "QLoRA (load_in_4bit, use_peft)": four_bit != r.four_bit,
                }
                changes = [change for change, made in changes.items() if made]
                found.append(((four_bit != r.four_bit, len(changes), saved, stage, -micro), changes, other))
        if found:
            return min(found, key=lambda each: each[0])[1:]
    return ["nothing up to 1,024 GPUs; shorter rows or a smaller model"], None


# ---------------------------------------------------------------- reading the run
def read(path):
    """A YAML or JSON file of keys."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(
            f"{path}: no such file. Next: check the path; it starts at the current folder"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Refused(f"{path}: cannot be read: {' '.join(str(error).split())}. Next: correct it") from error
    if not isinstance(found, dict):
        raise Refused(
            f"{path}: no keys in it. Next: a file of recipes/configs or accelerate_configs shows the form"
        )
    return found


def find_base(config, name, seen=()):
    """The model whose shape `name` has: itself, or what the YAML beside `config` that will write it starts
    from."""
    if not Path(name, "config.json").is_file() and name not in KNOWN:
        for path in sorted(set(Path(config).parent.glob("*.yaml")) - set(seen)):
            with contextlib.suppress(Refused):  # some other file
                made = read(path)
                start = made.get("model_name_or_path") or made.get("adapter")  # merge_adapter.py
                if made.get("output_dir") == name and start:
                    return find_base(config, start, (*seen, path))
    return name


def read_shape(name, targets=(), rank=0, saved=()):
    """The model's symbols: weights counted on the meta device, an adapter's from the matrices that it is put
    on and the modules trained beside it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        if name in KNOWN:
            config = AutoConfig.for_model(
                **dict(zip(SIZES, KNOWN[name], strict=True)), tie_word_embeddings=False
            )
        else:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise Refused(
            f"{name}: no model here or on the Hub. Next: --model_name_or_path, a folder or "
            f"{' or '.join(KNOWN)}"
        ) from error
    c, weights = config.get_text_config(), dict(model.named_parameters())
    linear = {
        path: module.weight for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    if not any(path.endswith("gate_proj") for path in linear) or any("expert" in path for path in weights):
        raise Refused(
            f"{name}: no layers like LLaMA's, which the formulas are for. Next: a LLaMA, Mistral or Qwen "
            f"model without experts"
        )
    chosen = [
        w
        for path, w in linear.items()
        if path.split(".")[-1] in targets or (targets == "all-linear" and "lm_head" not in path)
    ]
    beside = [w for path, w in weights.items() if path.split(".")[-2] in saved]
    head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return {
        "model": name,
        "params": model.num_parameters(),
        "matmul": sum(w.numel() for w in linear.values()),
        "layers": c.num_hidden_layers,
        "layer": sum(w.numel() for path, w in weights.items() if ".layers." in path) // c.num_hidden_layers,
        "width": c.hidden_size,
        "queries": c.num_attention_heads * head,
        "keys": c.num_key_value_heads * head,
        "mlp": c.intermediate_size,
        "vocab": c.vocab_size,
        "heads": c.num_attention_heads,
        "qk_norm": any(path.endswith("q_norm.weight") for path in weights),
        "adapter": rank * sum(sum(w.shape) for w in chosen) + sum(w.numel() for w in beside),
    }


def read_machine(path, changed):
    """The accelerate file's symbols."""
    given = read(path) | changed
    if "distributed_type" not in given:
        raise Refused(
            f"{path}: no accelerate file (distributed_type is missing). Next: one of "
            f"accelerate_configs/*.yaml"
        )
    nodes, gpus, kind = (
        given.get("num_machines", 1),
        given.get("num_processes", 1),
        given.get("distributed_type", "NO"),
    )
    if gpus < 1 or nodes < 1 or gpus % nodes:
        raise Refused(
            f"{path}: {gpus} processes on {nodes} machines. Next: num_processes a multiple of num_machines"
        )
    machine = {"gpus": gpus, "nodes": nodes, "engine": "ddp" if gpus > 1 else "single"}
    split = given.get("parallelism_config") or {}
    for key in ("cp_size", "sp_size"):  # also as an argument: --sp_size 4
        machine[key] = changed.get(key, split.get(f"parallelism_config_{key}", 1))
    if kind == "DEEPSPEED":
        path = given["deepspeed_config"]["deepspeed_config_file"]
        engine = read(path)
        summed = engine.get("data_types", {}).get("grad_accum_dtype", "bf16")
        machine |= {
            "engine": "deepspeed",
            "stage": engine["zero_optimization"]["stage"],
            "gradient": 4 if summed == "fp32" else 2,
        }
        moved = [key for key in engine["zero_optimization"] if key.startswith("offload")]
    elif kind == "FSDP":
        machine |= {"engine": "fsdp", "stage": 3}
        usual = {"fsdp_offload_params": False, "fsdp_reshard_after_forward": True}
        moved = [key for key in usual if given["fsdp_config"].get(key, usual[key]) != usual[key]]
    else:
        moved = [] if kind in ("NO", "MULTI_GPU") else ["distributed_type"]
    if moved:
        raise Refused(
            f"{path}: {moved[0]} as it is there cannot be planned with. Next: a file of accelerate_configs"
        )
    return machine


def stage_of(keys):
    """The recipe that a YAML with these keys is for."""
    if "blocks" in keys:
        return "pretrain"
    own = {
        "grpo": {"num_generations", "max_completion_length", "rewards"},
        "dpo": {"beta", "precompute_ref_log_probs", "conversation"},
    }
    return next((stage for stage, names in own.items() if names & set(keys)), "sft")


def texts_of(row, stage):
    """The texts of a row that are trained on, prompt and all: of a pair there are two."""
    if "messages" in row:
        return ["".join(turn["content"] for turn in row["messages"])]
    answers = {"dpo": ("chosen", "rejected"), "grpo": ()}.get(stage, ("completion",))
    return [row["prompt"] + row[answer] for answer in answers] or [row["prompt"]]


def read_rows(folder, args, chat, stage="sft"):
    """([tokens of each training row], what is assumed): from the rows' bytes or, where they are not built
    yet, drawn around a mean."""
    path = Path(folder, "train.jsonl")
    if path.is_file() and not args.rows:
        tokens = []
        for number, line in enumerate(path.open("rb"), 1):
            try:
                row = json.loads(line)
                tokens += [len(text.encode()) / 3.4 for text in texts_of(row, stage)]
            except (ValueError, KeyError, TypeError) as error:  # the error may quote the row
                raise Refused(
                    f"{path}: line {number} is no row ({type(error).__name__}). Next: build it again, or "
                    f"--rows N"
                ) from error
        return np.array(tokens), f"a token of {path} is 3.4 bytes"
    if not args.rows and not chat:
        raise Refused(
            f"{path}: no such file, so the length of the run is not known. Next: build it, or --rows 10178 "
            f"--row_tokens 300"
        )
    count, mean = args.rows or ARTICLE["rows"], args.row_tokens or ARTICLE["row_tokens"]
    spread = 0.98  # of the logarithm: with a mean of 299 the median is 185, and 95 % are below 930
    drawn = np.random.default_rng(0).lognormal(math.log(mean) - spread**2 / 2, spread, count)
    source = "given" if args.rows else f"the paper; {folder} is not built"
    return drawn, f"{count:,} rows of {mean:g} tokens ({source}; --rows, --row_tokens)"


def read_blocks(folder, args, positions):
    """(tokens of a block, tokens of all, [what is assumed]). positions: that the YAML gives to the model."""
    order = Path(folder, "order.npy")
    if order.is_file() and not (args.tokens or args.length):
        length = read(order.with_name("manifest.json"))["block_length"]
        return length, len(np.load(order, mmap_mode="r")) * length, []
    length = args.length or positions or ARTICLE["length"]
    usual, whose = (ARTICLE["tokens"], "the paper") if length == ARTICLE["length"] else (EXTENSION, "ours")
    source = "given" if args.tokens else f"{whose}; {folder} is not built"
    tokens = args.tokens or usual
    noted = [f"{tokens / 1e9:g}B tokens in blocks of {length:,} ({source}; --tokens, --length)"]
    if length > 8192:
        noted.append("attention is counted over the whole square, of which causal kernels compute half")
    return length, tokens, noted


PACKING = ("document_masking", "packing", "padding_free")
NUMBERS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "global_batch_tokens",
    "global_batch_size",
    "max_length",
    "max_steps",
    "num_train_epochs",
    "save_steps",
    "save_total_limit",
    "lora_r",
    "lora_dropout",
    "max_completion_length",
    "num_generations",
    "beta",
)


def read_run(path, args, changed):
    """The YAML, its model and its machine as a Run. Refused where the recipe would not start on that machine
    either."""
    given = read(path)
    known = {*given, *(read(args.accelerate) if args.accelerate else ()), "max_steps", "cp_size", "sp_size"}
    if unknown := changed.keys() - known:
        raise Refused(
            f"--{min(unknown)} is in neither {path} nor {args.accelerate}. Next: python -m "
            f"recipes.tools.plan --help"
        )
    given |= changed
    for key in NUMBERS:
        if not isinstance(given.get(key, 1), int | float | None):
            raise Refused(f"{path}: {key} is '{given[key]}', no number. Next: correct it")
    pretraining, stage = "blocks" in given, stage_of(given)
    if not pretraining and "rows" not in given:
        raise Refused(f"{path}: neither blocks nor rows, so nothing is trained. Next: a YAML of a recipe")
    if not given.get("bf16", not pretraining):
        raise Refused(f"{path}: bf16 is false; only the speed of bf16 is known. Next: --bf16 true")
    machine = read_machine(args.accelerate, changed) if args.accelerate else {}
    gpus, base = machine.get("gpus", 1), find_base(path, given["model_name_or_path"])
    lora = given.get("lora") or {key[5:]: value for key, value in given.items() if key.startswith("lora_")}
    adapter = (
        lora.get("target_modules", ["q_proj", "v_proj"]),
        lora.get("r", 16),
        lora.get("modules_to_save") or (),
    )
    shape = read_shape(base, *(adapter if given.get("use_peft") or given.get("lora") else ()))
    ring, ulysses = machine.pop("cp_size", 1), machine.pop("sp_size", 1)
    shared, packing = ring * ulysses, next((key for key in PACKING if given.get(key)), None)
    if shared > 1 and (packing or gpus % shared or shape["heads"] % ulysses):
        wrong, change = (
            (f"drop the mask between packed documents ({packing})", f"--{packing} false")
            if packing
            else (f"do not divide {gpus} GPUs and {shape['heads']} heads", "another size")
        )
        raise Refused(f"{path}: cp_size {ring}, sp_size {ulysses} {wrong}. Next: {change}")
    if shape["params"] < 1e9 and not args.mfu:
        raise Refused(
            f"{path}: {shape['params'] / 1e9:.2g}B weights: there is no measurement of a model below 1B to "
            f"plan its "
            "speed from. Next: --mfu 0.1, a guess of your own"
        )
    assumed = [f"{given['model_name_or_path']} will have the shape of {base}"] * (
        base != given["model_name_or_path"]
    )

    # Rows of a step, as the recipes split them
    limit = given.get("per_device_train_batch_size", 8)
    if pretraining:
        positions = (given.get("model_init_kwargs") or {}).get("max_position_embeddings")
        length, tokens, noted = read_blocks(given["blocks"], args, positions)
        assumed += noted
        key, unit, wanted, sampled = "global_batch_tokens", length, given["global_batch_tokens"], 0
    else:
        length, key, unit = args.length or given.get("max_length", 1024), "global_batch_size", 1
        sampled = given.get("max_completion_length", 256) if stage == "grpo" else 0
        wanted = given.get("global_batch_size")
        wanted = wanted or limit * given.get("gradient_accumulation_steps", 1) * gpus // shared
    per_pass = gpus // shared * limit * unit
    if wanted % per_pass:
        near = " or ".join(str(n * per_pass) for n in (wanted // per_pass, wanted // per_pass + 1) if n)
        each = "GPUs" if shared == 1 else "groups of GPUs"
        raise Refused(
            f"{path}: {key} {wanted} is not a multiple of {per_pass} ({gpus // shared} {each} x "
            f"micro-batch {limit} x {unit}). "
            f"Next: --{key} {near}, or other GPUs"
        )
    rows, computed, micro = wanted // unit, length, limit

    # Steps, as Trainer counts them
    beta = given.get("beta", 0)
    epochs = given.get("num_train_epochs", 3)
    if pretraining:
        per_epoch = tokens // length // rows
        tokens = per_epoch * wanted * epochs
    else:
        built = Path(given["rows"], "train.jsonl").is_file()
        if stage in ("dpo", "grpo") and not built and not args.rows:
            args = argparse.Namespace(**vars(args) | {"rows": 10_178, "row_tokens": args.row_tokens or 300})
            assumed.append(f"{given['rows']} is not built: as many rows as MedQA trains on")
        lengths, noted = read_rows(given["rows"], args, given.get("assistant_only_loss"), stage)
        if stage == "grpo":  # as many completions of each prompt, each taken to be as long as it may
            length = math.ceil(np.quantile(lengths, 0.999)) + sampled
            lengths = np.repeat(lengths, given.get("num_generations", 8)) + sampled
        assumed, lengths = [*assumed, noted], np.minimum(lengths, length)
        count, tokens = len(lengths), lengths.sum() * epochs
        if stage == "dpo":  # two rows a pair
            lengths = lengths if built else np.repeat(lengths, 2)
            count, tokens, rows, micro = len(lengths), lengths.sum() * epochs, 2 * rows, 2 * micro
        if given.get("packing"):
            count = math.ceil(lengths.sum() / length)
        else:
            batches = np.resize(
                np.random.default_rng(0).permutation(lengths), (math.ceil(count / micro), micro)
            )
            computed = batches.max(1).mean()
        per_epoch = math.ceil(count / rows)
    steps = math.ceil(epochs * per_epoch)
    if not steps:
        raise Refused(
            f"{path}: the blocks do not fill a step of {key} {wanted}. Next: a smaller {key}, or more blocks"
        )
    if given.get("max_steps", -1) > 0:
        steps, tokens = given["max_steps"], tokens * given["max_steps"] / steps

    optimizer, every, most = (
        given.get("optim", "adamw_torch_fused"),
        given.get("save_steps", 500),
        given.get("save_total_limit"),
    )
    assumed += [f"{optimizer} takes the memory of AdamW"] * ("adamw" not in optimizer)
    if machine.get("nodes", 1) > 1 and not args.network:
        assumed.append(
            f"{DEVICES[args.gpu].network:,} Gb/s a node, usual for nodes of {args.gpu} (--network)"
        )
    if (like := DEVICES[args.gpu].calibrated_on) not in args.gpu:
        assumed.append(f"{args.gpu} reaches the share of its peak that published runs reach on {like}")
    saves = {"no": 0, "steps": 1 / every if every < 1 else steps / every}.get(
        given.get("save_strategy", "steps"), epochs
    )
    return Run(
        **shape,
        **machine,
        gpu=args.gpu,
        shared=shared,
        sparse=given.get("attn_implementation") == "shifted_sparse",
        offload=bool((given.get("activation_checkpointing_kwargs") or {}).get("offload")),
        length=length,
        micro=micro,
        rows=rows,
        computed=float(computed),
        steps=steps,
        tokens=float(tokens),
        dropout=given.get("lora_dropout", 0.05) > 0,
        fused_loss=not pretraining,
        reference=stage == "dpo"
        and not given.get("precompute_ref_log_probs")
        or stage == "grpo"
        and beta > 0,
        sampled=sampled,
        mfu=args.mfu or 0,
        assumed=tuple(assumed),
        four_bit=(0.516 if given.get("use_bnb_nested_quant") else 0.5625) * bool(given.get("load_in_4bit")),
        masters=given.get("dtype", "float32" if pretraining else "bfloat16") == "float32",
        moments=2.03 if "8bit" in optimizer else 1.06 if "4bit" in optimizer else None,
        checkpointing=bool(
            given.get("activation_checkpointing", given.get("gradient_checkpointing", not pretraining))
        ),
        checkpoints=min(math.ceil(saves), (most or math.inf) + 1),
        network=args.network or DEVICES[args.gpu].network,
    )


# ---------------------------------------------------------------- the table
SHARDING = {
    "not sharded": (0, "ddp"),
    "ZeRO-1": (1, "deepspeed"),
    "ZeRO-2": (2, "deepspeed"),
    "ZeRO-3": (3, "deepspeed"),
}


def plan(r, price=None):
    """All that is known of a run, for the table and for --json."""
    change, changed = (None, None) if fits(r) else nearest(r)
    found = {
        "basis": PLANNED,
        "model": r.model,
        "parameters": r.params,
        "trained": r.adapter or r.params,
        "gpu": r.gpu,
        "gpus": r.gpus,
        "memory": memory(r),
        "memory_total": total(r),
        "memory_of_gpu": DEVICES[r.gpu].memory_gib * 2**30,
        "fits": fits(r),
        "nearest_change": change,
        "memory_then": changed and total(changed),
        "other_checkpointing": memory(replace(r, checkpointing=not r.checkpointing))["activations"],
        "sharding": {
            name: total(replace(r, stage=stage, engine=engine)) for name, (stage, engine) in SHARDING.items()
        }
        if r.gpus > 1
        else {},
        "tokens": r.tokens,
        "steps": r.steps,
        "global_batch_size": r.rows,
        "row_tokens": r.length,
        "micro_batch": r.micro,
        "accumulation": r.accumulation,
        "flops": r.steps * r.rows * (r.computed or r.length) * flops(r)["PaLM"],
        **timing(r),
        "disk": disk(r),
        "assumed": r.assumed,
        "accuracy": ACCURACY,
    }
    return found | ({"cost": [price * hours for hours in found["gpu_hours"]]} if price else {})


def table(r, found):
    """The plan as text. GB are 1e9 bytes."""
    lines, gb = [f"{PLANNED}: computed from the files named; GB are 1e9 bytes"], "{:10,.1f}".format

    def say(label, *text):
        lines.append(f"{label:<26}{''.join(text)}")

    def span(values):
        least, most = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values)
        return least if least == most else f"{least} to {most}"

    kind = {"single": "one process", "ddp": "DDP", "fsdp": "FSDP2", "deepspeed": f"DeepSpeed ZeRO-{r.stage}"}[
        r.engine
    ]
    say(
        "model",
        f"{r.model}: {r.params:,} parameters, {found['trained']:,} trained",
        ", base in 4 bits" * bool(r.four_bit),
    )
    say(
        "machine",
        f"{r.gpus} x {r.gpu}, {kind}",
        f", {r.nodes} nodes with {r.network:,g} Gb/s each" * (r.nodes > 1),
        f"; {r.shared} share each row" * (r.shared > 1),
    )

    lines.append("\nmemory of one GPU, GB")
    other, how = gb(found["other_checkpointing"] / 1e9).strip(), "without" if r.checkpointing else "with"
    beside = f"   ({other} {how} checkpointing)"
    for part, size in found["memory"].items():
        if size:
            say(f"  {part}", gb(size / 1e9), beside * (part == "activations"))
    then = f" (then {found['memory_then'] / 1e9:.1f})" if found["memory_then"] else ""
    verdict = (
        "fits"
        if found["fits"]
        else f"DOES NOT FIT. Nearest change that fits: {' and '.join(found['nearest_change'] or [])}{then}"
    )
    say("  together", gb(found["memory_total"] / 1e9), f" of {found['memory_of_gpu'] / 1e9:.1f}: {verdict}")
    for name, size in found["sharding"].items():
        say(f"    {name}", gb(size / 1e9), "   fits" if size <= found["memory_of_gpu"] else "   does not fit")

    lines.append("\nrun")
    split = f"{r.gpus // r.shared} {'GPUs' if r.shared == 1 else 'groups of GPUs'} x {r.accumulation} "
    split += f"micro-batches x {r.micro} rows x {r.length:,}"
    say("  steps", f"{r.steps:,} of {r.rows * r.length:,} tokens = {split}")
    say(
        "  tokens",
        f"{r.tokens:,.0f}",
        f"; a row with its padding has {r.computed:,.0f}" * (r.computed < r.length),
    )
    say(
        "  FLOPs",
        f"{found['flops']:.3g} (PaLM)",
        "; recomputing the activations is not counted" * r.checkpointing,
    )
    hidden = (
        " at the MFU stated"
        if r.mfu
        else ", the network hidden behind computing to not hidden" * (r.gpus > 1)
    )
    say("  hours", f"{span(found['hours'])}, {span(found['gpu_hours'])} GPU-hours", hidden)
    if found["generation_seconds"]:
        seconds = found["generation_seconds"], found["step_seconds"][0]
        say("  generation", f"{seconds[0]:,.1f} of {seconds[1]:,.1f} s of a step, {r.sampled} tokens at most")
    say("  MFU", ", ".join(f"{100 * share:.1f} % {name}" for name, share in found["mfu"].items()))
    say(
        "  tokens per second",
        f"{found['tokens_per_second']:,.0f}, {found['tokens_per_second'] / r.gpus:,.0f} on each GPU",
    )
    if r.gpus > 1:
        sent, network = found["network_bytes"] / 1e9, found["network_seconds"]
        computing = found["compute_seconds"]
        times = f"{sent:,.0f} GB to each GPU in {network:,.1f} s, {computing:,.1f} s of computing"
        ratio = f" a step: {found['network_seconds'] / found['compute_seconds']:.2f}"
        say(
            "  network",
            times,
            ratio,
            f"; the limit below {found['network_is_limit_below_gbit']:,.0f} Gb/s a node" * (r.nodes > 1),
        )
    if "cost" in found:
        say("  cost", f"{span(found['cost'])} at the price given for a GPU-hour")

    lines.append("\ndisk, GB")
    for what, size in found["disk"].items():
        say(f"  {what}", gb(size / 1e9), f"   ({r.checkpoints} at once)" * what.startswith("checkpoints"))
    return "\n".join([*lines, "", *(f"assumed: {each}" for each in r.assumed), f"accuracy: {ACCURACY}"])


def make_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, metavar="YAML", help="of recipes/configs or yours")
    parser.add_argument("--accelerate", required=True, metavar="YAML", help="of accelerate_configs or yours")
    parser.add_argument("--gpu", required=True, help=", ".join(DEVICES))
    parser.add_argument("--network", type=float, help="Gb/s of a node, all its network cards together")
    parser.add_argument("--tokens", type=float, help="of the corpus, where the blocks are not built")
    parser.add_argument("--length", type=int, help="tokens of a block or row, in place of the YAML's")
    parser.add_argument("--rows", type=int, help="of the training set, where it is not built")
    parser.add_argument("--row_tokens", type=float, help="mean tokens of such a row")
    parser.add_argument(
        "--mfu",
        type=float,
        help="plan with this MFU (convention PaLM, 0 to 1) instead of that of published runs",
    )
    parser.add_argument("--hours", type=float, help="say which MFU a run of so many hours has reached")
    parser.add_argument("--price", type=float, help="of a GPU-hour, in any currency")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    return parser


def main(args, more):
    if args.gpu == "cpu":
        raise Refused("a CPU has no plan: there is no published run to take its speed from. Next: make bench")
    if args.gpu not in DEVICES:
        raise Refused(f"--gpu {args.gpu} is not known. Next: one of {', '.join(DEVICES)}")
    if len(more) % 2 or not all(key.startswith("--") for key in more[::2]):
        raise Refused(f"'{' '.join(more)}' is no --key value. Next: python -m recipes.tools.plan --help")
    changed = {key[2:]: yaml.safe_load(value) for key, value in zip(more[::2], more[1::2], strict=True)}
    try:
        run = read_run(args.config, args, changed)
    except (KeyError, TypeError) as error:
        files = f"{args.config}, {args.accelerate}"
        raise Refused(
            f"{files}: {type(error).__name__} {error}. Next: correct the key; recipes/configs shows the form"
        ) from error
    if args.hours:
        run = replace(run, mfu=timing(replace(run, mfu=1))["hours"][0] / args.hours)
    found = plan(run, args.price)
    print(json.dumps(found, indent=1) if args.json else table(run, found))


if __name__ == "__main__":
    try:
        main(*make_parser().parse_known_args())
    except Refused as error:
        sys.exit(f"error: {error}")
