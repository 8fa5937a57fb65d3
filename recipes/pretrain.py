"""Continual pretraining on packed blocks (article: Methods, "Me-LLaMA base models - continual pretraining LLaMA2").

Reads   the folder of `model_name_or_path` (weights and tokenizer), and `blocks`, made by data_prep/build_blocks.py with the same tokenizer.
Writes  output_dir: the model in safetensors with its tokenizer, checkpoint-*/ to resume from, run.json, trainer_state.json, and
        validation.json: {domain: {"nll": [nats of each held-out block], "tokens": [predicted tokens of each]}}.

One core, one GPU and the article's machine differ by the accelerate file and the YAML alone:
    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/pretrain.py --config recipes/configs/demo_foundation.yaml

Killed? The same command goes on from the last checkpoint. The training order is the manifest's, so the place to resume is one integer.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed
from trl import TrlParser


@dataclass
class PretrainArguments:
    model_name_or_path: str = field(metadata={"help": "Folder or Hub name of the model to go on training, with its tokenizer."})
    blocks: str = field(metadata={"help": "Folder made by data_prep/build_blocks.py."})
    packing: str = field(metadata={"help": "isolated: a document sees itself only; concat: a block is one text, as LLaMA-2 was trained."})
    tokens_per_step: int = field(metadata={"help": "Tokens of one optimizer step over all ranks; gradient accumulation follows from it."})
    from_scratch: bool = field(default=False, metadata={"help": "Random weights in the shape of the folder's config.json."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "Attention backend of transformers."})
    dtype: str = field(default="float32", metadata={"help": "Type of the weights as loaded."})
    overwrite: bool = field(default=False, metadata={"help": "Replace output_dir if it holds a different run."})


def main(script_args, training_args):
    # Data: blocks in the order of the manifest, one validation set per domain, and the tokenizer that made them
    check_model(script_args.model_name_or_path)
    blocks = Path(script_args.blocks)
    if not (blocks / "order.npy").is_file():
        raise Refused(f"{blocks} holds no packed blocks. Next: python -m data_prep.build_blocks --out {blocks} --help")
    manifest = json.loads((blocks / "manifest.json").read_text())
    length = manifest["block_length"]
    train_dataset = PackedBlocks(blocks, manifest, "train", order=np.load(blocks / "order.npy", mmap_mode="r"))
    eval_dataset = {domain: PackedBlocks(blocks, manifest, "validation", domain) for domain in manifest["domains"]}
    eval_dataset = {domain: dataset for domain, dataset in eval_dataset.items() if len(dataset)}

    tokenizer = AutoTokenizer.from_pretrained(script_args.model_name_or_path)
    if tokenizer_hash(tokenizer) != manifest["tokenizer"]["sha256"]:
        raise Refused(
            f"the tokenizer of {script_args.model_name_or_path} is not the one that made {blocks}. "
            f"Next: python -m data_prep.build_blocks --tokenizer {script_args.model_name_or_path} ..."
        )
    if script_args.packing not in ("isolated", "concat"):
        raise Refused(f"packing is '{script_args.packing}', must be isolated or concat. Next: see recipes/pretrain.py --help")
    micro_step = training_args.per_device_train_batch_size * training_args.world_size * length
    if script_args.tokens_per_step % micro_step:
        raise Refused(
            f"tokens_per_step {script_args.tokens_per_step} is no multiple of {micro_step} = per_device_train_batch_size "
            f"{training_args.per_device_train_batch_size} x {training_args.world_size} ranks x {length} tokens. Next: change one of them"
        )
    training_args.gradient_accumulation_steps = script_args.tokens_per_step // micro_step
    training_args.train_sampling_strategy = "sequential"  # the order is the mixture: it was shuffled when it was made
    training_args.remove_unused_columns = False  # the collator reads seq_lengths
    with training_args.main_process_first():
        run = open_run([blocks / "manifest.json"], script_args.model_name_or_path, script_args.overwrite, script_args, training_args)
    if run["status"] == "complete":
        return print(f"{training_args.output_dir}: already complete, nothing to do")

    # Model
    set_seed(training_args.seed)
    settings = {"attn_implementation": script_args.attn_implementation, "dtype": getattr(torch, script_args.dtype)}
    if script_args.from_scratch:
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(script_args.model_name_or_path), **settings)
    else:
        model = AutoModelForCausalLM.from_pretrained(script_args.model_name_or_path, **settings)

    # Train
    trainer = PretrainTrainer(
        model=model, args=training_args, train_dataset=train_dataset, eval_dataset=eval_dataset, processing_class=tokenizer,
        data_collator=BlockCollator(isolated=script_args.packing == "isolated"),
    )  # fmt: skip
    result = trainer.train(resume_from_checkpoint=last_checkpoint(training_args.output_dir))
    metrics = {**result.metrics, **trainer.evaluate()}

    # Save
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        Path(training_args.output_dir, "validation.json").write_text(json.dumps(trainer.validation) + "\n")
        places = min(trainer.state.global_step * script_args.tokens_per_step, len(train_dataset) * length)
        tokens_seen = round(manifest["order"]["tokens"] * places / (len(train_dataset) * length))  # without the unused ends of blocks
        close_run(run, steps=trainer.state.global_step, tokens_seen=tokens_seen, metrics=metrics)


# ---------------------------------------------------------------- data
class PackedBlocks(torch.utils.data.Dataset):
    """Blocks of one split, memory-mapped: item i is {"input_ids": [length] int, "seq_lengths": tokens of each document in it}.

    `order` maps the i-th place of training to a row; without it the rows of `domain` come as they lie.
    """

    def __init__(self, folder, manifest, split, domain=None, order=None):
        files = [o["path"] for o in manifest["outputs"] if o["split"] == split and domain in (None, o["domain"])]
        parts = [datasets.Dataset.from_file(str(folder / file)) for file in files]
        self.rows = datasets.concatenate_datasets(parts).with_format("numpy") if parts else []
        self.order = order

    def __len__(self):
        return len(self.rows if self.order is None else self.order)

    def __getitem__(self, i):
        return self.rows[int(i if self.order is None else self.order[i])]


class BlockCollator:
    """Blocks -> input_ids, labels [batch, length]. Isolated documents get position_ids that restart and cu_seq_lens for variable-length kernels;
    no attention_mask is given, because with one transformers would let documents attend to each other."""

    def __init__(self, isolated):
        self.isolated = isolated

    def __call__(self, blocks):
        input_ids = torch.from_numpy(np.stack([block["input_ids"] for block in blocks]).astype(np.int64))
        labels, (rows, length) = input_ids.clone(), input_ids.shape
        position_ids = torch.arange(length).repeat(rows, 1)
        starts = []
        for row, block in enumerate(blocks):
            ends = np.cumsum(block["seq_lengths"]).tolist()
            labels[row, ends[-1] :] = -100  # the unused end of a block
            for start in [0, *ends]:
                if self.isolated and start < length:
                    starts.append(row * length + start)
                    labels[row, start] = -100  # the first token of a document is not predicted from the one before
                    position_ids[row, start:] = torch.arange(length - start)
        batch = {"input_ids": input_ids, "labels": labels}
        if self.isolated:
            cumulative = torch.tensor([*starts, rows * length], dtype=torch.int32)
            longest = int(cumulative.diff().max())
            batch |= {
                "position_ids": position_ids,
                "cu_seq_lens_q": cumulative,
                "cu_seq_lens_k": cumulative,
                "max_length_q": longest,
                "max_length_k": longest,
            }
        return batch


class PretrainTrainer(Trainer):
    """Trainer whose validation loss is weighted by tokens and kept block by block in `validation`: the stock mean over batches changes with the
    batch size."""

    validation = {}

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        loss, logits, _ = super().prediction_step(model, inputs, False, ignore_keys)
        labels = inputs["labels"][:, 1:].to(logits.device)
        nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2).float(), labels, ignore_index=-100, reduction="none").sum(1)
        rows = torch.stack([nll.double(), (labels != -100).sum(1).double()], 1)
        self._rows.append(self.accelerator.gather_for_metrics(rows).cpu())  # without the rows that accelerate repeats to even out the ranks
        return loss, None, None

    def evaluation_loop(self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"):
        self._rows = []
        output = super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
        rows = torch.cat(self._rows)
        nll, tokens = rows.sum(0).tolist()
        for name, value in (("loss", nll / tokens), ("perplexity", math.exp(nll / tokens)), ("tokens", int(tokens))):
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        self.validation[metric_key_prefix.removeprefix("eval_")] = {"nll": rows[:, 0].tolist(), "tokens": rows[:, 1].int().tolist()}
        return output


def tokenizer_hash(tokenizer):
    """As in data_prep/build_blocks.py."""
    engine = tokenizer.backend_tokenizer
    engine.no_truncation()
    engine.no_padding()
    return hashlib.sha256(engine.to_str().encode()).hexdigest()


# ---------------------------------------------------------------- run record: locked copy, the same in every recipe (a test compares them)
class Refused(Exception):
    """An input or setting that this recipe will not work with; the message says what to do next."""


def check_model(model):
    """Refused unless `model` is the folder of a model, or may be a name on the Hub."""
    if not Path(model, "config.json").is_file() and (Path(model).exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model)):
        raise Refused(f"{model}: no model here (no config.json). Next: check model_name_or_path; a path starts at the current folder")


def open_run(reads, model, overwrite, *parts):
    """Begin OUTPUT_DIR/run.json, or return the record of this same run found there: "running", to be resumed, or "complete". The run is known by
    its arguments (`parts`, dataclasses), the files in `reads`, the run.json or config.json of a local `model`, and this script."""
    reads = [*reads, *[path for path in (Path(model, "run.json"), Path(model, "config.json")) if path.is_file()][:1]]
    if missing := [path for path in reads if not path.is_file()]:
        raise Refused(f"{missing[0]}: no such file. Next: check the paths of the YAML; they start at the current folder")
    given = {key: value for part in parts for key, value in (part.to_dict() if hasattr(part, "to_dict") else vars(part)).items()}
    arguments = {k: v for k, v in json.loads(json.dumps(given, default=str)).items() if k not in ("overwrite", "local_rank")}
    inputs = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in reads}
    inputs[Path(__file__).name] = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    folder = Path(arguments["output_dir"])
    if (folder / "run.json").is_file():
        old = json.loads((folder / "run.json").read_text())
        changed = [k for k in arguments if arguments[k] != old["arguments"].get(k)] + [
            k for k in inputs if inputs[k] != old["inputs"].get(k)
        ]
        if not changed:
            return old
        if not overwrite:
            raise Refused(f"{folder} holds another run (differs in {', '.join(changed)}). Next: another output_dir, or --overwrite true")
        shutil.rmtree(folder)
    elif folder.is_dir() and any(folder.iterdir()):
        raise Refused(f"{folder} holds files and no run.json: not a run of these recipes. Next: another output_dir")
    access = [json.loads(path.read_text()).get("access", "public") for path in reads if path.suffix == ".json"]
    git = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    record = {
        "status": "running", "stage": Path(__file__).stem, "access": max(access, key=("public", "gated", "credentialed").index, default="public"),
        "started": time.time(), "ranks": int(os.environ.get("WORLD_SIZE", 1)),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which("git") else "",
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate", "datasets")},
        "arguments": arguments, "inputs": inputs,
    }  # fmt: skip
    return write_run(record)


def close_run(record, **facts):
    """Add what the run took and what it gave; only now is it complete. A resumed run's seconds count the time it was down."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )  # bytes on macOS, KiB elsewhere
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident
    return write_run(
        {**record, "status": "complete", "seconds": round(time.time() - record["started"], 1), "peak_memory_bytes": peak, **facts}
    )


def write_run(record):
    folder = Path(record["arguments"]["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".run.json.partial").write_text(json.dumps(record, indent=1) + "\n")
    os.replace(folder / ".run.json.partial", folder / "run.json")
    return record


def last_checkpoint(folder):
    """The newest whole checkpoint, or None. trainer_state.json is written last: a checkpoint without it was cut short."""
    whole = [path.parent for path in Path(folder).glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def start(main, parser):
    """Parse the YAML and the command line and run `main`; what is wrong with them is one sentence, not a traceback."""
    try:
        parsed = parser.parse_args_and_config()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {' '.join(sys.argv[1:])}: {error}")
    try:
        main(*parsed)
    except Refused as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a model or file that transformers cannot find or open
        sys.exit(f"error: {' '.join(sys.argv[1:])}: {' '.join(str(error).split())}")


# ---------------------------------------------------------------- end of locked copy


def make_parser():
    return TrlParser((PretrainArguments, TrainingArguments), allow_abbrev=False)


if __name__ == "__main__":
    start(main, make_parser())
