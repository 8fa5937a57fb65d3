"""Merge a LoRA adapter into its base model, and prove that the merged model computes the same.

Reads   adapter: the output_dir of recipes/sft.py with use_peft; the base model that it was trained on
Writes  output_dir: the merged model (safetensors) in its base's type, tokenizer, chat template, run.json with
        the parity: largest difference of the logits of adapter and merged model on `prompts`, in float32

    python recipes/merge_adapter.py --config recipes/configs/demo_chat_merge.yaml

Merging happens in float32, also for QLoRA: added to 4-bit weights, the adapter would be rounded away.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import checks
import torch
from peft import PeftConfig, PeftModel
from run_record import check_base, open_run, positions_of
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.hf_argparser import HfArg
from trl import TrlParser

PROMPTS = ["The patient was given", "Question: What is the first-line treatment?"]


@dataclass(kw_only=True)
class MergeArguments:
    adapter: str = HfArg(help="Folder of the trained adapter.")
    output_dir: str = HfArg(help="Folder of the merged model.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = HfArg(
        default="auto", help="Of the saved weights."
    )
    max_difference: float = HfArg(default=1e-3, help="Largest difference of a logit, in float32.")
    overwrite: bool = HfArg(default=False, help="Move another run out of output_dir, and begin anew.")
    prompts: list[str] = HfArg(default_factory=lambda: PROMPTS, help="Texts of the parity check.")


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
    positions = positions_of(args.adapter)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **source, **positions)
    model = PeftModel.from_pretrained(model, args.adapter).eval()
    before = logits(model, tokenizer, args.prompts)
    merged = model.merge_and_unload(safe_merge=True)  # refuses NaN
    after = logits(merged, tokenizer, args.prompts)
    difference = max((a - b).abs().max().item() for a, b in zip(after, before, strict=True))
    if not difference <= args.max_difference:
        raise checks.Refused(
            f"merged and adapter logits differ by {difference:.2e}, more than max_difference. "
            f"Next: a larger max_difference than {args.max_difference}, if that is acceptable"
        )

    # Save, into a folder of its own until what is on disk is proven
    merged.to(stored if args.dtype == "auto" else getattr(torch, args.dtype))
    stop_where_the_tokenizer_does(merged, tokenizer)
    record.mark(merged.config)
    unproven = Path(args.output_dir, ".unproven")
    merged.save_pretrained(unproven)
    tokenizer.save_pretrained(unproven)
    reloaded = AutoModelForCausalLM.from_pretrained(unproven, dtype="auto", trust_remote_code=False)
    for name, weight in reloaded.state_dict().items():
        if not torch.equal(weight, merged.state_dict()[name]):
            raise checks.Refused(f"{unproven}: {name} is not as it was saved. Next: check the disk")
    rounded = logits(merged.float(), tokenizer, args.prompts)
    picks = [(a.argmax(-1) == b.argmax(-1)).flatten() for a, b in zip(rounded, before, strict=True)]
    same = torch.cat(picks).float().mean().item()
    for file in unproven.iterdir():
        os.replace(file, Path(args.output_dir, file.name))
    unproven.rmdir()
    parity = {"max_logit_difference": difference, "same_token": same, "prompts": len(args.prompts)}
    record.finish(parity=parity)
    print(f"wrote {args.output_dir}: logits within {difference:.1e}, same token at {100 * same:.1f} %")


@torch.no_grad()
def logits(model, tokenizer, prompts):
    """[[1, tokens, vocabulary] float32] of each prompt."""
    return [model(tokenizer(prompt, return_tensors="pt").input_ids).logits.float() for prompt in prompts]


def stop_where_the_tokenizer_does(model, tokenizer):
    """EOS and padding as the tokenizer has them, in both configs; EOS ids of the base stay."""
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
    checks.begin(parser)
    main(*parser.parse_args_and_config())
