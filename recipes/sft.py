"""Instruction tuning (article: Methods, "Me-LLaMA chat models - instruction fine-tuning Me-LLaMA"): LoRA, QLoRA or full, loss on the answers only.

Reads   the folder of `model_name_or_path`, and `rows`: a folder with train.jsonl, validation.jsonl and manifest.json (data_prep/build_instructions.py).
Writes  output_dir: the adapter (or the model) in safetensors, the tokenizer with the chat template, checkpoint-*/, run.json, trainer_state.json.

One core, one GPU and the article's machine differ by the accelerate file and the YAML alone:
    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/sft.py --config recipes/configs/demo_chat.yaml
An adapter is made into a model by recipes/merge_adapter.py. Killed? The same command goes on from the last checkpoint.
"""

import hashlib
import importlib.metadata
import json
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

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config, get_quantization_config


@dataclass
class RunArguments:
    rows: str = field(metadata={"help": "Folder with train.jsonl, validation.jsonl and manifest.json."})
    overwrite: bool = field(default=False, metadata={"help": "Replace output_dir if it holds a different run."})


def main(run_args, training_args, model_args):
    # Data: every row becomes a conversation, so that one template renders them all
    check_model(model_args.model_name_or_path)
    data = {split: Dataset.from_list(read_conversations(run_args.rows, split)) for split in ("train", "validation")}
    reads = [Path(run_args.rows, name) for name in ("manifest.json", "train.jsonl", "validation.jsonl")]
    if training_args.chat_template_path and Path(training_args.chat_template_path).is_file():
        reads.append(Path(training_args.chat_template_path))
    training_args.include_num_input_tokens_seen = "non_padding"
    with training_args.main_process_first():
        run = open_run(reads, model_args.model_name_or_path, run_args.overwrite, run_args, model_args, training_args)
    if run["status"] == "complete":
        return print(f"{training_args.output_dir}: already complete, nothing to do")

    # Model
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    if tokenizer.pad_token in (None, tokenizer.eos_token):  # LLaMA-2 has none, and padding with EOS would hide the EOS of an answer
        tokenizer.pad_token = tokenizer.unk_token
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision, "dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation,
        "quantization_config": get_quantization_config(model_args),
    }  # fmt: skip

    # Train
    trainer = SFTTrainer(
        model=model_args.model_name_or_path, args=training_args, train_dataset=data["train"], eval_dataset=data["validation"],
        processing_class=tokenizer, peft_config=get_peft_config(model_args),
    )  # fmt: skip
    result = trainer.train(resume_from_checkpoint=last_checkpoint(training_args.output_dir))
    metrics = {**result.metrics, **trainer.evaluate()}

    # Save
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        close_run(run, steps=trainer.state.global_step, tokens_seen=trainer.state.num_input_tokens_seen, metrics=metrics)


# ---------------------------------------------------------------- rows
def read_conversations(folder, split):
    """[{"messages"}] of the rows of FOLDER/SPLIT.jsonl; Refused names the line that is no row (the contract: data_prep/contracts.py)."""
    path, conversations = Path(folder, f"{split}.jsonl"), []
    if not path.is_file():
        raise Refused(f"{path}: no such file. Next: python -m data_prep.build_instructions --out {folder} --help")
    for number, line in enumerate(path.open(encoding="utf-8"), 1):
        try:
            row = json.loads(line)
            if "messages" not in row:
                row["messages"] = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
            conversations.append({"messages": row["messages"]})
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{path}: line {number} is no row: {error!r}") from error
    if not conversations:
        raise Refused(f"{path}: no rows")
    return conversations


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
    return TrlParser((RunArguments, SFTConfig, ModelConfig), allow_abbrev=False)


if __name__ == "__main__":
    start(main, make_parser())
