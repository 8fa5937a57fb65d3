"""Merge a LoRA adapter into its base model, and prove that the merged model computes the same.

Reads   adapter: the output_dir of recipes/sft.py with use_peft; the base model that it was trained on
Writes  output_dir: the merged model (safetensors) in the type of its base, tokenizer, chat template, and run.json with
        the parity: largest difference of the logits of adapter and merged model on `prompts`, in float32

    python recipes/merge_adapter.py --config recipes/configs/demo_chat_merge.yaml

Merging happens in float32, also for QLoRA: added to 4-bit weights, the adapter would be rounded away.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from checks import Refused, one_sentence_errors
from peft import PeftConfig, PeftModel
from run_record import RunArguments, check_base, open_run
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import TrlParser


@dataclass(kw_only=True)
class MergeArguments(RunArguments):
    adapter: str = field(metadata={"help": "Folder of the trained adapter."})
    output_dir: str = field(metadata={"help": "Folder of the merged model."})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "Saved type; auto: the base's.",
            "choices": ["auto", "float32", "bfloat16", "float16"],
        },
    )
    max_difference: float = field(
        default=1e-3, metadata={"help": "Largest difference of a logit, in float32."}
    )
    prompts: list[str] = field(
        default_factory=lambda: ["The patient was given", "Question: What is the first-line treatment?"],
        metadata={"help": "Texts of the parity check."},
    )


def main(args):
    named = PeftConfig.from_pretrained(args.adapter)
    base, revision = named.base_model_name_or_path, named.revision
    base, revision = check_base(args.adapter, base, revision)
    record = open_run(__file__, (args,), args.adapter, Path(args.adapter, "adapter_config.json"), base=base)
    if record.complete:
        return print(f"{args.output_dir}: already complete, nothing to do")

    # Merge in float32
    source = {"revision": revision, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(args.adapter, trust_remote_code=False)
    stored = AutoConfig.from_pretrained(base, **source).dtype or torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **source)
    model = PeftModel.from_pretrained(model, args.adapter).eval()
    before = logits(model, tokenizer, args.prompts)
    merged = model.merge_and_unload(safe_merge=True)  # refuses NaN
    difference = max(
        (a - b).abs().max().item()
        for a, b in zip(logits(merged, tokenizer, args.prompts), before, strict=True)
    )
    if not difference <= args.max_difference:
        raise Refused(
            f"merged and adapter logits differ by {difference:.2e}, more than max_difference {args.max_difference:.0e}"
        )

    # Save, into a folder of its own until what is on disk is proven
    merged.to(stored if args.dtype == "auto" else getattr(torch, args.dtype))
    stop_where_the_tokenizer_does(merged, tokenizer)
    record.mark(merged.config)
    unproven = Path(args.output_dir, ".unproven")
    merged.save_pretrained(unproven)
    tokenizer.save_pretrained(unproven)
    reloaded = AutoModelForCausalLM.from_pretrained(
        unproven, dtype="auto", trust_remote_code=False
    ).state_dict()
    changed = [
        name for name, weight in merged.state_dict().items() if not torch.equal(weight, reloaded[name])
    ]
    if changed:
        raise Refused(
            f"{unproven}: {len(changed)} tensors are not as they were saved, the first is {changed[0]}"
        )
    rounded = logits(merged.float(), tokenizer, args.prompts)
    same = (
        torch.cat([(a.argmax(-1) == b.argmax(-1)).flatten() for a, b in zip(rounded, before, strict=True)])
        .float()
        .mean()
    )
    for file in unproven.iterdir():
        os.replace(file, Path(args.output_dir, file.name))
    unproven.rmdir()
    record.finish(
        parity={"max_logit_difference": difference, "same_token": same.item(), "prompts": len(args.prompts)}
    )
    print(
        f"wrote {args.output_dir}: largest logit difference {difference:.1e}, same token at {100 * same:.1f} % of positions"
    )


@torch.no_grad()
def logits(model, tokenizer, prompts):
    """[[1, tokens, vocabulary] float32] of each prompt."""
    return [model(tokenizer(prompt, return_tensors="pt").input_ids).logits.float() for prompt in prompts]


def stop_where_the_tokenizer_does(model, tokenizer):
    """EOS and padding of config and generation_config are the tokenizer's; EOS ids that the base also stops at stay."""
    known = model.generation_config.eos_token_id
    known = [known] if isinstance(known, int) else known or []
    model.generation_config.eos_token_id = list(dict.fromkeys([tokenizer.eos_token_id, *known]))
    model.config.get_text_config().eos_token_id = tokenizer.eos_token_id
    for config in (model.config.get_text_config(), model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id


def make_parser():
    return TrlParser(MergeArguments, allow_abbrev=False)


if __name__ == "__main__":
    parser = make_parser()
    one_sentence_errors(parser)
    main(*parser.parse_args_and_config())
