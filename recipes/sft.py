"""Instruction tuning (article: Methods, "Me-LLaMA chat models - instruction fine-tuning Me-LLaMA"): LoRA, QLoRA or full, loss on the answers only.

Reads   the folder of `model_name_or_path`, and `rows`: a folder with train.jsonl, validation.jsonl and manifest.json (data_prep/build_instructions.py).
Writes  output_dir: the adapter (or the model) in safetensors, the tokenizer with the chat template, checkpoint-*/, run.json, trainer_state.json,
        ledger.jsonl.

One core, one GPU and the article's machine differ by the accelerate file and the YAML alone:
    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/sft.py --config recipes/configs/demo_chat.yaml
LoRA: use_peft. QLoRA: use_peft and load_in_4bit. Full: neither. An adapter is made into a model by recipes/merge_adapter.py.
Killed? The same command goes on from the last checkpoint.
What is not of this stage, such as the ledger, the guard and run.json, is in run_guard.py, which is copied along.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from run_guard import (
    Answers,
    LaunchArguments,
    Refused,
    check_choice,
    check_isolation,
    check_launch,
    check_model,
    close_run,
    last_checkpoint,
    open_run,
    reason,
    set_pad_token,
    split_step,
    start,
    text,
)
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config, get_quantization_config


@dataclass(kw_only=True)
class RunArguments(LaunchArguments):
    rows: str = field(metadata={"help": "Folder with train.jsonl, validation.jsonl and manifest.json."})
    rows_per_step: int | None = field(
        default=None, metadata={"help": "Rows, packed or not, of a step over all ranks."}
    )


@dataclass
class ChatConfig(SFTConfig):
    packing: str = field(
        default="",
        metadata={"help": "none; isolated: conversations joined to max_length, unseen by each other."},
    )


def main(run_args, training_args, model_args):
    # Data: every row becomes a conversation, so that one template renders them all
    check_launch(run_args, training_args)
    data = {
        split: Dataset.from_list(read_conversations(run_args.rows, split))
        for split in ("train", "validation")
    }
    config, tokenizer = check_model(
        model_args.model_name_or_path, training_args.max_length, model_args.model_revision
    )
    set_pad_token(tokenizer, training_args.pad_token)
    check_choice("dtype", model_args.dtype, "float32", "bfloat16")
    check_choice("packing", training_args.packing, "isolated", "none")
    if training_args.packing == "isolated":
        check_isolation(config, model_args.attn_implementation, training_args)
    run_args.rows_per_step = split_step("rows_per_step", run_args.rows_per_step, 1, training_args)
    reads = [Path(run_args.rows, name) for name in ("manifest.json", "train.jsonl", "validation.jsonl")]
    template = training_args.chat_template_path
    if template and (
        Path(template).is_file() or template.endswith(".jinja")
    ):  # else the folder of a tokenizer
        reads.append(Path(template))
    with training_args.main_process_first(local=False):
        run = open_run(
            __file__,
            reads,
            model_args.model_name_or_path,
            run_args.overwrite,
            run_args,
            model_args,
            training_args,
        )
    if run["status"] == "complete":
        return print(f"{training_args.output_dir}: already complete, nothing to do")
    checkpoint = last_checkpoint(training_args)

    # Model: TRL loads it, with these settings
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision, "dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation,
    }  # fmt: skip

    # Train
    training_args.packing, training_args.eval_packing = training_args.packing == "isolated", False
    trainer = ChatTrainer(
        model=model_args.model_name_or_path, args=training_args, train_dataset=data["train"], eval_dataset=data["validation"],
        processing_class=tokenizer, quantization_config=get_quantization_config(model_args), peft_config=get_peft_config(model_args),
        run=run, watch=run_args,
    )  # fmt: skip
    result = trainer.train(resume_from_checkpoint=checkpoint)
    metrics = {**result.metrics, **trainer.evaluate()}

    # Save
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        seen = {"steps": trainer.state.global_step, "tokens_seen": trainer.state.num_input_tokens_seen}
        close_run(run, **seen, rows=trainer.rows, ledger=trainer.audit(), metrics=metrics)


# ---------------------------------------------------------------- rows
def read_conversations(folder, split):
    """[{"messages"}] of the rows of FOLDER/SPLIT.jsonl; Refused names the line that is no row (the contract: data_prep/schema.py)."""
    path, conversations = Path(folder, f"{split}.jsonl"), []
    if not path.is_file():
        raise Refused(
            f"{path}: no such file. Next: python -m data_prep.build_instructions --out {folder} --help"
        )
    for number, line in enumerate(path.open("rb"), 1):
        try:
            row = json.loads(line)
            if "messages" not in row:
                row["messages"] = [
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row["completion"]},
                ]
            conversations.append(
                {
                    "messages": [
                        {key: text(turn, key) for key in ("role", "content", *turn)}
                        for turn in row["messages"]
                    ]
                }
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Refused(f"{path}: line {number} is no row ({reason(error)})") from error
    if not conversations:
        raise Refused(f"{path}: no rows")
    return conversations


class ChatTrainer(Answers, SFTTrainer):
    """SFTTrainer, watched."""


def make_parser():
    return TrlParser((RunArguments, ChatConfig, ModelConfig), allow_abbrev=False)


if __name__ == "__main__":
    start(main, make_parser())
