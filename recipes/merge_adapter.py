"""Merge a LoRA adapter into its base model, and prove that the merged model computes the same.

Reads   `adapter`: the output_dir of recipes/sft.py (or finetune_task.py) with use_peft, and the base model that its adapter_config.json names.
Writes  output_dir: the merged model in safetensors with tokenizer and chat template, and run.json with the parity check: the largest difference of
        the logits of adapter and merged model, as reloaded from disk, on `prompts`, and the share of places where both pick the same token.

    python recipes/merge_adapter.py --config recipes/configs/demo_chat_merge.yaml

The base is loaded in full precision (`dtype`), also for QLoRA: merging into 4-bit weights rounds the adapter away.
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
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import TrlParser


@dataclass
class MergeArguments:
    adapter: str = field(metadata={"help": "Folder of the trained adapter."})
    output_dir: str = field(metadata={"help": "Folder of the merged model."})
    dtype: str = field(default="float32", metadata={"help": "Type in which base and adapter are added and saved."})
    max_difference: float = field(default=1e-3, metadata={"help": "Largest difference of a logit that passes; a bf16 merge needs more."})
    prompts: list[str] = field(
        default_factory=lambda: [
            "The patient was given",
            "Question: What is the first-line treatment?",
            "A 54-year-old woman comes to the clinic with",
        ],
        metadata={"help": "Texts of the parity check."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace output_dir if it holds a different run."})


def main(args):
    # Data: the adapter and the base it was trained on
    if not Path(args.adapter, "adapter_config.json").is_file():
        raise Refused(f"{args.adapter}: no adapter_config.json here. Next: recipes/sft.py with use_peft: true, or use the model as it is")
    base_name = PeftConfig.from_pretrained(args.adapter).base_model_name_or_path
    check_model(base_name)
    weights = [path for path in (Path(base_name, "run.json"), Path(base_name, "config.json")) if path.is_file()][:1]
    trained_on = json.loads(Path(args.adapter, "run.json").read_text())["inputs"] if Path(args.adapter, "run.json").is_file() else {}
    for path in weights:
        if trained_on and hashlib.sha256(path.read_bytes()).hexdigest() not in trained_on.values():
            raise Refused(
                f"{base_name} has changed since {args.adapter} was trained on it. Next: train the adapter again, or bring that base back"
            )
    run = open_run([Path(args.adapter, "adapter_config.json"), *weights], args.adapter, args.overwrite, args)
    if run["status"] == "complete":
        return print(f"{args.output_dir}: already complete, nothing to do")

    # Model
    tokenizer = AutoTokenizer.from_pretrained(args.adapter)
    dtype = getattr(torch, args.dtype)
    base = AutoModelForCausalLM.from_pretrained(base_name, dtype=dtype)
    model = PeftModel.from_pretrained(base, args.adapter).eval()
    batches = [tokenizer(prompt, return_tensors="pt").input_ids for prompt in args.prompts]
    with torch.no_grad():
        before = [model(input_ids).logits.float() for input_ids in batches]

    # Merge into a folder of its own, until it is proven
    unproven = Path(args.output_dir, "unproven")
    merged = model.merge_and_unload(safe_merge=True)  # refuses NaN
    merged.save_pretrained(unproven)
    tokenizer.save_pretrained(unproven)

    # Verify what lies on disk
    reloaded = AutoModelForCausalLM.from_pretrained(unproven, dtype=dtype).eval()
    with torch.no_grad():
        after = [reloaded(input_ids).logits.float() for input_ids in batches]
    difference = max((a - b).abs().max().item() for a, b in zip(after, before, strict=True))
    agreement = torch.cat([(a.argmax(-1) == b.argmax(-1)).flatten() for a, b in zip(after, before, strict=True)]).float().mean().item()
    if not difference <= args.max_difference:
        raise Refused(
            f"merged and adapter logits differ by {difference:.2e}, more than max_difference {args.max_difference:.0e}. Next: dtype float32"
        )
    for file in unproven.iterdir():
        os.replace(file, Path(args.output_dir, file.name))
    unproven.rmdir()
    close_run(run, parity={"max_logit_difference": difference, "same_token": agreement, "prompts": len(args.prompts)})
    print(f"wrote {args.output_dir}: largest logit difference {difference:.1e}, same token at {100 * agreement:.1f} % of places")


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
    return TrlParser(MergeArguments, allow_abbrev=False)


if __name__ == "__main__":
    start(main, make_parser())
