"""Merge a LoRA adapter into its base model, and prove that the merged model computes the same.

Reads   `adapter`: the output_dir of recipes/sft.py (or finetune_task.py) with use_peft, and the base model that its adapter_config.json names.
Writes  output_dir: the merged model in safetensors with tokenizer and chat template, and run.json with the parity check: the largest difference of
        the logits of adapter and merged model, as reloaded from disk, on `prompts`, and the share of places where both pick the same token.

    python recipes/merge_adapter.py --config recipes/configs/demo_chat_merge.yaml

The base is loaded in full precision (`dtype`), also for QLoRA: merging into 4-bit weights rounds the adapter away.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from run_guard import Refused, check_weights, close_run, open_run, start
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import TrlParser


@dataclass
class MergeArguments:
    adapter: str = field(metadata={"help": "Folder of the trained adapter."})
    output_dir: str = field(metadata={"help": "Folder of the merged model."})
    dtype: str = field(
        default="float32", metadata={"help": "Type in which base and adapter are added and saved."}
    )
    max_difference: float = field(
        default=1e-3, metadata={"help": "Largest difference of a logit that passes; a bf16 merge needs more."}
    )
    prompts: list[str] = field(
        default_factory=lambda: [
            "The patient was given",
            "Question: What is the first-line treatment?",
            "A 54-year-old woman comes to the clinic with",
        ],
        metadata={"help": "Texts of the parity check."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Replace output_dir if it holds a different run."}
    )


def main(args):
    # Data: the adapter and the base it was trained on
    if not Path(args.adapter, "adapter_config.json").is_file():
        raise Refused(
            f"{args.adapter}: no adapter_config.json here. Next: recipes/sft.py with use_peft: true, or use the model as it is"
        )
    check_weights(args.adapter)
    base_name = PeftConfig.from_pretrained(args.adapter).base_model_name_or_path
    check_weights(base_name)
    if not Path(base_name, "config.json").is_file() and Path(base_name).exists():
        raise Refused(
            f"{base_name}: the base of {args.adapter} is no model any more (no config.json). Next: train the base again"
        )
    weights = [
        path for path in (Path(base_name, "run.json"), Path(base_name, "config.json")) if path.is_file()
    ][:1]
    trained = (
        json.loads(Path(args.adapter, "run.json").read_text())
        if Path(args.adapter, "run.json").is_file()
        else {}
    )
    trained_on, revision = (
        trained.get("inputs", {}),
        trained.get("arguments", {}).get("model_revision") or "main",
    )
    for path in weights:
        if trained_on and hashlib.sha256(path.read_bytes()).hexdigest() not in trained_on.values():
            raise Refused(
                f"{base_name} has changed since {args.adapter} was trained on it. Next: train the adapter again, or bring that base back"
            )
    run = open_run(
        __file__, [Path(args.adapter, "adapter_config.json"), *weights], args.adapter, args.overwrite, args
    )
    if run["status"] == "complete":
        return print(f"{args.output_dir}: already complete, nothing to do")

    # Model
    tokenizer = AutoTokenizer.from_pretrained(args.adapter)
    dtype = getattr(torch, args.dtype)
    base = AutoModelForCausalLM.from_pretrained(
        base_name, revision=revision, dtype=dtype, trust_remote_code=False
    )
    model = PeftModel.from_pretrained(base, args.adapter).eval()
    batches = [tokenizer(prompt, return_tensors="pt").input_ids for prompt in args.prompts]
    with torch.no_grad():
        before = [model(input_ids).logits.float() for input_ids in batches]

    # Merge into a folder of its own, until it is proven
    unproven = Path(args.output_dir, "unproven")
    merged = model.merge_and_unload(safe_merge=True)  # refuses NaN
    if run["access"] != "public":
        merged.config.access = run["access"]
    merged.save_pretrained(unproven)
    tokenizer.save_pretrained(unproven)

    # Verify what lies on disk
    reloaded = AutoModelForCausalLM.from_pretrained(unproven, dtype=dtype).eval()
    with torch.no_grad():
        after = [reloaded(input_ids).logits.float() for input_ids in batches]
    difference = max((a - b).abs().max().item() for a, b in zip(after, before, strict=True))
    agreement = (
        torch.cat([(a.argmax(-1) == b.argmax(-1)).flatten() for a, b in zip(after, before, strict=True)])
        .float()
        .mean()
        .item()
    )
    if not difference <= args.max_difference:
        raise Refused(
            f"merged and adapter logits differ by {difference:.2e}, more than max_difference {args.max_difference:.0e}. Next: dtype float32"
        )
    for file in unproven.iterdir():
        os.replace(file, Path(args.output_dir, file.name))
    unproven.rmdir()
    close_run(
        run,
        parity={"max_logit_difference": difference, "same_token": agreement, "prompts": len(args.prompts)},
    )
    print(
        f"wrote {args.output_dir}: largest logit difference {difference:.1e}, same token at {100 * agreement:.1f} % of places"
    )


def make_parser():
    return TrlParser(MergeArguments, allow_abbrev=False)


if __name__ == "__main__":
    start(main, make_parser())
