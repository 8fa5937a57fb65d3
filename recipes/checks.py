"""Checks before the first step of a run. Recipes and tools/preflight.py call the same functions.

Each raises Refused: one sentence that says what is wrong, and after "Next:" what to change.
"""

import contextlib
import copy
import dataclasses
import errno
import hashlib
import itertools
import json
import math
import os
import pickle
import re
import shutil
import sys
import time
from pathlib import Path

import torch
import yaml
from egress import host_of, is_loopback, isolate, shown
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING


class Refused(Exception):
    """An input or a setting that a recipe does not work with."""


# ---------------------------------------------------------------- launch
def check_launch(run, training):
    """Refuse another number of ranks than asked for, settings without effect, and anything that uploads."""
    ranks, launched = training.world_size, int(os.environ.get("WORLD_SIZE", training.world_size))
    wanted = launched if run.world_size is None else run.world_size
    if not ranks == wanted == launched or ranks < 1:
        raise Refused(
            f"{ranks} ranks are running, {wanted if wanted != ranks else launched} were asked for. "
            "Next: check num_processes and distributed_type of the accelerate file"
        )
    for key, value, reason in without_effect(training):
        raise Refused(f"{key}: {value} {reason}")
    check_deepspeed(os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none"))
    uploads = uploads_of(vars(training))
    if uploads and not run.allow_upload:
        raise Refused(
            f"{', '.join(uploads)} would send data away. Next: report_to tensorboard or trackio (local "
            f"files), "
            "or allow_upload true"
        )
    accumulation = (training.accelerator_config.gradient_accumulation_kwargs or {}).get("sync_each_batch")
    if (
        os.environ.get("ACCELERATE_USE_FSDP") == "true"
        and training.gradient_accumulation_steps > 1
        and not accumulation
    ):
        raise Refused(
            "FSDP2 would keep whole, unreduced 16-bit gradients on every GPU while it accumulates. Next: "
            """--accelerator_config '{"gradient_accumulation_kwargs": {"sync_each_batch": true}}'"""
        )


def check_batch(key, value, per_pass):
    """Refuse a step that the ranks cannot share evenly. per_pass: of one forward pass on all ranks."""
    if value % per_pass or value < per_pass:
        near = " or ".join(str(n * per_pass) for n in (value // per_pass, value // per_pass + 1) if n)
        raise Refused(
            f"{key} {value} is not a multiple of {per_pass}, one forward pass on all ranks. "
            f"Next: {key} {near}"
        )


def sequence_ranks(kind=None):
    """Ranks that share each row: cp_size (context parallelism) times sp_size (Ulysses) of the accelerate
    file, or the one of `kind`."""
    if os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false") != "true":
        return 1
    kinds = [kind] if kind else ["CP", "SP"]
    return math.prod(int(os.environ.get(f"PARALLELISM_CONFIG_{each}_SIZE", 1)) for each in kinds)


def check_sequence_ranks(config, attn_implementation, length, packing=None):
    """Refuse what sequence parallelism would silently train wrongly, or fail on once the model is loaded.
    packing: the key that asks for packed documents to be kept apart."""
    ring, ulysses = sequence_ranks("CP"), sequence_ranks("SP")
    ranks, heads = ring * ulysses, getattr(config, "num_attention_heads", ulysses)
    if ranks == 1:
        return
    name = f"context parallelism (cp_size {ring})" if ring > 1 else f"Ulysses (sp_size {ulysses})"
    wanted = os.environ.get("PARALLELISM_CONFIG_SP_ATTN_IMPLEMENTATION", "sdpa") if ulysses > 1 else "sdpa"
    if packing:
        raise Refused(
            f"{name} drops the mask between packed documents. Next: {packing} false, or an accelerate file "
            "without parallelism_config"
        )
    if attn_implementation != wanted:
        raise Refused(
            f"{name} works with {wanted}, attn_implementation is {attn_implementation}. Next: "
            f"attn_implementation {wanted}"
        )
    if heads % ulysses:
        raise Refused(
            f"sp_size {ulysses} does not divide {heads} heads. Next: sp_size {math.gcd(heads, ulysses)}"
        )
    if length and length % (part := 2 * ring if ring > 1 else ulysses):
        raise Refused(
            f"{name} needs lengths that {part} divides, not {length}. Next: {length // part * part}"
        )


def without_effect(training):
    """(key, value, why) of settings that a parser accepts and these recipes do not honour. Refused by
    name."""
    default = {field.name: field.default for field in training.__dataclass_fields__.values()}
    reasons = {
        "deepspeed": "has no effect in a YAML. Next: deepspeed_config_file in the accelerate file",
        "do_predict": "has no effect: recipes train and evaluate. Next: python -m evaluation.generate",
        "enable_jit_checkpoint": "saves on each rank alone. Next: leave it out, GracefulStop saves on "
        "SIGTERM",
        "auto_find_batch_size": "restarts with another batch. Next: per_device_train_batch_size that fits "
        "(make plan)",
        "local_rank": "is set by the launcher. Next: leave it out",
        "ignore_data_skip": "resumes on rows that were seen already. Next: leave it out",
        "trust_remote_code": "runs code of a model repository. Next: a model that transformers knows",
    }
    for key, why in reasons.items():
        if key in default and getattr(training, key) not in (default[key], None, False):
            yield key, getattr(training, key), why
    grouped = getattr(training, "train_sampling_strategy", "random") in ("group_by_length", "batch_rebalance")
    if grouped and str(getattr(training.save_strategy, "value", training.save_strategy)) in ("steps", "best"):
        why = (
            "with save_strategy steps would resume on other rows (transformers draws its order from the "
            "global "
            "random state). Next: save_strategy epoch, or train_sampling_strategy random"
        )
        yield "train_sampling_strategy", training.train_sampling_strategy, why


UPLOAD_KEYS = (
    "push_to_hub",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "log_completions_hub_repo",
)
UPLOAD_VARIABLES = (
    "TRACKIO_SPACE_ID",
    "TRACKIO_SERVER_URL",
    "TRACKIO_BUCKET_ID",
    "TRACKIO_REGISTRY_BUCKET_ID",
)


def uploads_of(arguments):
    """Trackers, keys and environment variables with which a run of these arguments would send something
    away."""
    local = {"tensorboard", "trackio"} | (
        {"wandb"} if os.environ.get("WANDB_MODE") in ("offline", "disabled") else set()
    )
    trackers = [name for name in arguments.get("report_to") or () if name not in local]
    keys = [key for key in UPLOAD_KEYS if arguments.get(key)]
    judge = arguments.get("judge_url")
    keys += ["judge_url"] if judge and not is_loopback(host_of(judge)) else []
    return trackers + keys + [key for key in UPLOAD_VARIABLES if os.environ.get(key)]


# at the top of its JSON DeepSpeed ignores unknown keys; in these sections its own classes refuse them
DEEPSPEED_KEYS = {
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
    "zero_optimization", "bf16", "fp16", "optimizer", "scheduler", "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer", "steps_per_print", "wall_clock_breakdown", "activation_checkpointing",
    "communication_data_type", "data_types", "prescale_gradients", "gradient_predivide_factor", "checkpoint",
    "flops_profiler", "comms_logger", "tensorboard", "csv_monitor", "aio", "torch_autocast", "compile",
}  # fmt: skip


def check_deepspeed(file):
    if file == "none":
        return
    import pydantic
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
        unknown = [key for key in config if key not in DEEPSPEED_KEYS]
        sections = {
            "zero_optimization": DeepSpeedZeroConfig,
            "bf16": DeepSpeedBF16Config,
            "fp16": DeepSpeedFP16Config,
        }
        for section, known in sections.items():
            try:
                known(**config.get(section, {}))
            except pydantic.ValidationError as error:
                unknown += [
                    f"{'.'.join([section, *map(str, e['loc'])])} ({e['msg']})" for e in error.errors()
                ]
    except (OSError, ValueError, TypeError) as error:
        raise Refused(f"{file}: not a DeepSpeed file: {error}. Next: one of accelerate_configs") from error
    if unknown:
        raise Refused(
            f"{file}: DeepSpeed does not know {', '.join(unknown)}. Next: "
            f"https://www.deepspeed.ai/docs/config-json"
        )
    check_compiler_lock()


def check_compiler_lock():
    """Refuse a start that would wait forever: DeepSpeed compiles its operators once under torch's lock file,
    which outlives a killed compilation."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in (*root.glob("*/lock"), *root.glob("*/*/lock")):
        with contextlib.suppress(FileNotFoundError):  # released meanwhile
            if time.time() - lock.stat().st_mtime > 1800:
                raise Refused(
                    f"{lock} is older than half an hour: a compilation of DeepSpeed's operators was killed, "
                    "and every start waits for it. Next: remove that file"
                )


# ---------------------------------------------------------------- model and tokenizer
def check_weights(folder):
    """Refuse weights of a model or adapter that are pickled or truncated, without reading them."""
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError as error:
            wrong = f"cut or damaged ({path.stat().st_size:,} bytes)"
            raise Refused(f"{path}: {wrong}. Next: copy, download or train it again") from error
    suffixes = {path.suffix for path in Path(folder).glob("*") if path.name != "training_args.bin"}
    if ".safetensors" not in suffixes and suffixes & {".bin", ".pt", ".pth", ".pkl", ".ckpt"}:
        convert = f"AutoModelForCausalLM.from_pretrained('{folder}').save_pretrained('NEW')"
        raise Refused(
            f"{folder}: its weights are pickles, which can run code; only safetensors are read. Next: "
            f'python -c "from transformers import AutoModelForCausalLM; {convert}", which reads tensors only'
        )


def is_hub_name(name):
    """Whether `name` can only be a repository of the Hub: no such path, and no folder that it would lie
    in."""
    path = Path(name)
    return (
        bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)))
        and not path.exists()
        and not (path.parent.name and path.parent.exists())
    )


def check_model(name, length, revision="main", changes=None):
    """(config, tokenizer) of a model folder or Hub name. Refused if there is none, if it has fewer positions
    than `length` after its `changes` (model_init_kwargs), or if nothing could teach it to stop."""
    if not Path(name, "config.json").is_file() and not is_hub_name(name):
        raise Refused(
            f"{name}: no config.json here. Next: check model_name_or_path, relative to the current folder"
        )
    check_weights(name)
    try:
        config, tokenizer = (
            auto.from_pretrained(name, revision=revision, trust_remote_code=False)
            for auto in (AutoConfig, AutoTokenizer)
        )
    except (
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:  # also a model with code of its own
        raise Refused(
            f"{name}: config.json or the tokenizer cannot be read: {error}. Next: a model that "
            f"transformers knows"
        ) from error
    except OSError as error:
        said = str(error).splitlines()[0].rstrip(".")
        raise Refused(
            f"{name}: {said}. Next: check model_name_or_path; train that model first, or hf download it"
        ) from error
    check_positions(name, config.get_text_config(), tokenizer, length, changes or {})
    if tokenizer.eos_token_id is None:
        raise Refused(
            f"the tokenizer of {name} has no EOS: nothing would teach it to stop. Next: eos_token in its "
            f"tokenizer_config.json"
        )
    return config, tokenizer


_ORIGINAL = "original_max_position_embeddings"
ROPE = {  # what transformers reads of each rope_type, besides rope_theta; without it a KeyError ends the run
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", _ORIGINAL),
    "llama3": ("factor", _ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor", _ORIGINAL),
}


def check_positions(name, config, tokenizer, length, changes):
    """Refuse texts longer than the model's positions or than its tokenizer allows, and rope_parameters from
    which transformers would make other positions than meant; says what to write."""
    positions = getattr(config, "max_position_embeddings", None)
    if not positions:
        return
    rope, longest = changes.get("rope_parameters"), changes.get("max_position_embeddings", positions)
    target = max(longest, length or 0)
    theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0)
    yarn = {"rope_type": "yarn", "rope_theta": theta, "factor": float(-(-target // positions))}
    yarn |= {"original_max_position_embeddings": positions}
    yarn = ", ".join(f"{key}: {value}" for key, value in yarn.items())
    lines = (
        "model_init_kwargs: {",
        f"  max_position_embeddings: {target},",
        f"  rope_parameters: {{{yarn}}}}}",
    )
    given = rope if isinstance(rope, dict) else {}
    kind, factor, original = given.get("rope_type", "default"), given.get("factor", 1), given.get(_ORIGINAL)
    wrong = None
    if isinstance(rope, dict) and kind == "dynamic" and longest > positions:
        raise Refused(
            f"rope_parameters of type dynamic scale beyond max_position_embeddings only: {longest} switches "
            f"them off up to there. Next: leave max_position_embeddings out"
        )
    if target > positions and rope is None or length and length > longest and kind != "dynamic":
        wrong = f"texts of {target} tokens, but {name} has {longest} positions"
    elif rope is not None and not (isinstance(rope, dict) and rope.get("rope_theta")):
        wrong = "rope_parameters without rope_theta would take transformers' default, not the model's"
    elif kind not in ROPE:
        wrong = f"rope_parameters of type {kind}; there are {', '.join(ROPE)}"
    elif rope and (missing := [key for key in ROPE[kind] if not rope.get(key)]):
        wrong = f"rope_parameters of type {kind} without {missing[0]}"
    elif rope and kind != "longrope" and factor * (original or positions) < target:
        wrong = f"rope_parameters with factor {factor} do not reach {target} tokens"
    if wrong:
        raise Refused(f"{wrong}. Next: shorter texts, or these lines in the YAML:\n" + "\n".join(lines))
    if length and length > tokenizer.model_max_length:
        raise Refused(
            f"the tokenizer of {name} has model_max_length {tokenizer.model_max_length}, texts have {length} "
            f"tokens. Next: model_max_length {length} in the tokenizer_config.json of a local copy"
        )


def check_sft_model(named, training):
    """check_model for recipes/sft.py, with its padding and packing."""
    length, changes = training.max_length, training.model_init_kwargs
    config, tokenizer = check_model(named.model_name_or_path, length, named.model_revision, changes)
    check_pad_token(tokenizer, training.pad_token)
    packing = "packing" if training.packing else "padding_free" if training.padding_free else None
    check_sequence_ranks(config.get_text_config(), named.attn_implementation or "sdpa", length, packing)
    if (training.packing and training.packing_strategy != "wrapped") or training.padding_free:
        check_isolation(config, named.attn_implementation, training.device, flat=True)
    template = Path(training.chat_template_path or "")
    if template.suffix in (".jinja", ".j2") and not template.is_file():  # TRL would look for it on the Hub
        raise Refused(f"{template}: no such template. Next: check chat_template_path")
    chat = training.assistant_only_loss or training.chat_template_path
    if chat and not (training.chat_template_path or tokenizer.chat_template):
        raise Refused(
            "the tokenizer has no chat template. Next: chat_template_path recipes/chat_template.jinja"
        )


def check_tokenizer(run, tokenizer, manifest):
    """Refuse blocks of another tokenizer: their ids would mean other words."""
    name, engine = run.model_name_or_path, tokenizer.backend_tokenizer
    engine.no_truncation()
    engine.no_padding()
    if hashlib.sha256(engine.to_str().encode()).hexdigest() != manifest["tokenizer"]["sha256"]:
        raise Refused(
            f"the tokenizer of {name} is not the one that made {run.blocks}. "
            f"Next: python -m data_prep.build_blocks --tokenizer {name} ..."
        )


def check_pretraining(run, training, manifest):
    """check_model for recipes/pretrain.py, with the tokenizer and the packing of its blocks."""
    name, length = run.model_name_or_path, manifest["block_length"]
    config, tokenizer = check_model(name, length, run.model_revision, run.model_init_kwargs)
    check_tokenizer(run, tokenizer, manifest)
    packing = "document_masking" if run.document_masking else None
    check_sequence_ranks(config.get_text_config(), run.attn_implementation, length, packing)
    if run.document_masking:
        check_isolation(config, run.attn_implementation, training.device, flat=False)


@contextlib.contextmanager
def reading_blocks(folder):
    """Refuse packed blocks whose manifest, order or Arrow files cannot be read."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError) as error:
        raise Refused(
            f"{folder}: not whole packed blocks ({type(error).__name__}). "
            "Next: python -m data_prep.build_blocks --help"
        ) from error


def check_pad_token(tokenizer, pad_token):
    """Refuse EOS as padding: whoever masks the padding would mask the end of answers too."""
    pad = pad_token or tokenizer.pad_token
    if pad is None or pad == tokenizer.eos_token:
        reserved = tokenizer.unk_token or "a reserved token of its vocabulary"
        raise Refused(
            f"the tokenizer has no pad token distinct from EOS. Next: pad_token '{reserved}' in the YAML"
        )


def check_texts(row):
    """TypeError unless the texts of a row are text: its prompt and completion, or the content of each
    turn."""
    turns = [turn for turn in row.get("messages", ()) if not turn.get("tool_calls")]
    texts = [turn["content"] for turn in turns] if "messages" in row else [row["prompt"], row["completion"]]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError


def stop_tokens(tokenizer, generation_config=None):
    """Ids that end an answer: EOS of the tokenizer and of generation_config.json, which may name several."""
    others = getattr(generation_config, "eos_token_id", None) or []
    return {tokenizer.eos_token_id, *(others if isinstance(others, list) else [others])}


def check_answers(trainer):
    """Refuse training rows of which no answer ends in EOS, and validation rows without a supervised token."""
    stops = stop_tokens(trainer.processing_class, trainer.model.generation_config)
    rows = trainer.train_dataset.select_columns("labels").with_format("numpy")
    if not any(stops & set(row["labels"].tolist()) for row in rows.select(range(min(1000, len(rows))))):
        raise Refused(
            "no answer ends in EOS: nothing would teach the model to stop. Next: eos_token at the end of "
            "the template's answers"
        )
    rows = trainer.eval_dataset.select_columns("labels").with_format("numpy") if trainer.eval_dataset else []
    if trainer.eval_dataset is not None and not any((row["labels"] != -100).any() for row in rows):
        raise Refused(
            "no validation row has a supervised token after cutting at max_length. Next: a larger max_length"
        )


# ---------------------------------------------------------------- packing
def check_isolation(config, attn_implementation, device, flat):
    """Refuse an attention backend that lets packed documents see each other, judged by its gradients on one
    layer of this model's shape with random weights. flat: documents in one row [1, tokens], as TRL packs;
    else rows [2, tokens]."""
    small = copy.deepcopy(config.get_text_config())
    small.update(
        {
            "num_hidden_layers": 1,
            "intermediate_size": 64,
            "vocab_size": 64,
            "pad_token_id": None,
            "attention_dropout": 0.0,
        }
    )
    small.layer_types = (getattr(config, "layer_types", None) or [])[:1] or None
    small._attn_implementation = attn_implementation
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    bounds = torch.arange(0, 49, 12, dtype=torch.int32, device=device)
    shape = (1, 48) if flat else (2, 24)
    batch = {
        "position_ids": torch.arange(12, device=device).repeat(4).view(shape),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
    }
    batch |= {"max_length_q": 12, "max_length_k": 12}
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
            model = MODEL_FOR_CAUSAL_LM_MAPPING[type(small)](small).to(dtype)
            for weight in model.parameters():
                torch.nn.init.normal_(weight, std=0.1)
            seen = torch.randn(*shape, small.hidden_size, dtype=dtype, requires_grad=True)
            logits = model(inputs_embeds=seen, use_cache=False, **batch).logits
            logits[0, 12:24].float().square().sum().backward()  # of the second document
    except (ImportError, ValueError, RuntimeError) as error:
        raise Refused(
            f"attn_implementation {attn_implementation} does not run here: {error}. Next: torch_varlen or "
            f"sdpa"
        ) from error
    across, within = (seen.grad[0, part].abs().max().item() for part in (slice(0, 12), slice(12, 24)))
    if not (within > 0 and across < 1e-3 * within):
        raise Refused(
            f"attn_implementation {attn_implementation} lets packed documents see each other (gradient "
            f"{across:.1e} "
            f"across, {within:.1e} within). Next: torch_varlen or sdpa"
        )


# ---------------------------------------------------------------- precision, disk
def local_part(weight):
    """What this rank holds of a weight, sharded by ZeRO-3 or FSDP2 or whole."""
    weight = getattr(weight, "ds_tensor", weight)
    return weight.to_local() if hasattr(weight, "to_local") else weight


def numel(weight):
    """Of the whole weight, also where it is sharded or holds two 4-bit numbers a byte."""
    return math.prod(
        getattr(getattr(weight, "quant_state", None), "shape", getattr(weight, "ds_shape", weight.shape))
    )


def check_precision(model, training, deepspeed=None):
    """Refuse a learning rate that is lost in the rounding of most 16-bit weights where nothing keeps the
    remainder: no float32 copy (DeepSpeed has one), stochastic rounding or Kahan summation. Looks at up to 1M
    weights of each tensor."""
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" if deepspeed is None else deepspeed
    remedies = ("bf16_stochastic_round=true", "use_kahan_summation=true", "kahan_sum=true")
    kept = any(setting in (training.optim_args or "").lower() for setting in remedies)
    coarse = [
        weight.detach()
        for weight in model.parameters()
        if weight.requires_grad and weight.element_size() == 2
    ]
    if kept or deepspeed or not coarse or not training.learning_rate:
        return
    pieces = [local_part(weight).flatten()[:1_000_000] for weight in coarse]
    moved = sum((piece - training.learning_rate != piece).sum().item() for piece in pieces)
    share = moved / max(1, sum(piece.numel() for piece in pieces))
    if share < 0.5:
        raise Refused(
            f"at learning_rate {training.learning_rate} only {100 * share:.0f} % of the {coarse[0].dtype} "
            f"weights would move. "
            "Next: dtype float32 with bf16 true, or optim adamw_torch_8bit with optim_args "
            "bf16_stochastic_round=True"
        )


def check_disk(model, training, deepspeed=False):
    """Refuse unless the checkpoints fit on the disk: weights, and 8 bytes of AdamW for each trained one (12
    with DeepSpeed's float32 copy), one more than save_total_limit (3 if unset), and the model at the end."""
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    saved = trained if len(trained) < len(weights) else weights  # an adapter is saved alone
    final = sum(numel(weight) * weight.element_size() for weight in saved)
    moments = 0 if training.save_only_model else sum(map(numel, trained)) * (12 if deepspeed else 8)
    folder = Path(training.output_dir).resolve()
    there = len(list(folder.glob("checkpoint-*/complete.json")))
    saves = str(getattr(training.save_strategy, "value", training.save_strategy)) != "no"
    copies = max(0, (training.save_total_limit or 3) + 1 - there) if saves else 0
    needed = copies * (final + moments) + final
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free
    if needed > free:
        raise Refused(
            f"{training.output_dir}: {copies} checkpoints and the model need {needed / 1e9:.3g} GB, "
            f"{free / 1e9:.3g} GB "
            "are free. Next: save_total_limit 1, save_only_model true, or another disk"
        )


def check_trainer(trainer):
    """Precision and disk, and that the engine of the accelerate file is the one that runs."""
    engine = trainer.accelerator.distributed_type.value
    asked = [kind for kind in ("DEEPSPEED", "FSDP") if os.environ.get(f"ACCELERATE_USE_{kind}") == "true"]
    if asked and engine not in asked:
        raise Refused(
            f"the accelerate file asks for {asked[0]}, {engine} is running. "
            f"Next: {'FSDP needs GPUs' if asked[0] == 'FSDP' else 'accelerate launch with that file'}"
        )
    check_precision(trainer.model, trainer.args)
    check_disk(trainer.model, trainer.args, trainer.is_deepspeed_enabled)


# ---------------------------------------------------------------- the command line
LIBRARIES = ("trl", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "jinja2")


def begin(parser):
    """Before arguments are parsed: a run of credentialed data moves into a network namespace, and errors are
    one sentence."""
    isolate(sys.argv[1:], Refused)
    one_sentence_errors(parser)
    for before, value in itertools.pairwise(sys.argv):
        if before == "--config":
            check_keys(value, parser)


def check_keys(path, parser):
    """Refused where the YAML of a run has a key twice, of which the first would be lost silently, or a word
    that YAML reads as true or false where the argument is neither: `eval_strategy: no`."""
    fields = [field for part in parser.dataclass_types for field in dataclasses.fields(part)]
    booleans = {field.name for field in fields if "bool" in str(field.type)}
    with open(path, encoding="utf-8") as file:
        node, lines = yaml.compose(file, yaml.SafeLoader), {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line, word = key.value, key.start_mark.line + 1, value.value
        if name in lines:
            wrong = f"{name} is in line {lines[name]} and again in line {line}. Next: remove one"
            raise Refused(f"{path}: {wrong}")
        if value.tag.endswith(":bool") and name not in booleans:
            wrong = f"{name}: YAML reads {word} as a boolean. Next: '{word}' in quotes"
            raise Refused(f"{path}: line {line}: {wrong}")
        lines[name] = line


def check_file(path):
    if not path.is_file():
        change = "a larger --validation" if path.stem == "validation" else "rows left for training"
        raise Refused(f"{path} is not there. Next: build the rows again, with {change}")


def one_sentence_errors(parser=None):
    """Print what is wrong with arguments, files and settings as one sentence, once for all ranks; anything
    else keeps its traceback. Call it again, without a parser, before credentialed rows are read: messages of
    libraries may quote them from then on."""

    def refuse(message):
        raise Refused(f"{' '.join(sys.argv)}: {message}. Next: --help lists the keys of this recipe")

    def hook(kind, error, trace, otherwise=sys.excepthook):
        full = of_a_full_disk(error)
        if not full and not isinstance(error, known_errors()) and not from_library(error):
            return otherwise(kind, error, trace)
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:
            text, command = str(error) if parser else shown(error), " ".join(sys.argv)
            if full:
                text = f"{command}: no space left on the disk. Next: free space, then the same command again"
            elif not isinstance(error, Refused):
                text = f"{command}: {type(error).__name__}: {text}. Next: check the path or setting"
            print(f"error: {' '.join(text.split())}", file=sys.stderr)

    if parser:
        parser.error = refuse
    sys.excepthook = hook


def of_a_full_disk(error):
    """Whether a write found no space: safetensors and torch.save have kinds of their own for it."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    own = type(error).__name__ in ("SafetensorError", "RuntimeError")
    return own and re.search(r"os error (28|122)\b|inline_container.*unexpected pos", str(error)) is not None


def known_errors():
    kinds = [Refused, OSError, pickle.UnpicklingError]
    with contextlib.suppress(KeyError, AttributeError):
        kinds.append(sys.modules["peft"].PeftError)
    return tuple(kinds)


def from_library(error):
    """A setting that a library refused: ValueError, TypeError or a template's error raised by its own
    code."""
    if not isinstance(error, ValueError | TypeError) and type(error).__module__.partition(".")[0] not in (
        "jinja2",
        "yaml",
    ):
        return False
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    package = (trace.tb_frame.f_globals.get("__name__") or "").partition(".")[0] if trace else ""
    return package in LIBRARIES or type(error).__module__.startswith(("jinja2", "yaml"))
