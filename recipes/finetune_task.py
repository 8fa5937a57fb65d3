"""Fine-tuning for one benchmark task (article: Methods, "Supervised Learning"): 5 epochs below 10,000 training rows, else 3; the best checkpoint by validation.

Reads   the folder of `model_name_or_path` (a foundation model), and `rows`: a folder of one task with train.jsonl, validation.jsonl and manifest.json
        (data_prep/build_tasks.py). Prompts are trained as they stand, without a chat template, loss on the completion only.
Writes  output_dir: the model (or the adapter) in safetensors with its tokenizer, checkpoint-*/, run.json, trainer_state.json, ledger.jsonl.

One core, one GPU and the article's machine differ by the accelerate file and the YAML alone:
    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/finetune_task.py --config recipes/configs/demo_task.yaml
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
class TaskConfig(SFTConfig):
    packing: str = field(
        default="none",
        metadata={"help": "none; isolated: examples joined to max_length, unseen by each other."},
    )
    num_train_epochs: float | None = field(
        default=None, metadata={"help": "Unset: the article's rule, 5 below 10,000 training rows, else 3."}
    )


def main(run_args, training_args, model_args):
    # Data
    check_launch(run_args, training_args)
    data = {split: Dataset.from_list(read_rows(run_args.rows, split)) for split in ("train", "validation")}
    if training_args.num_train_epochs is None:
        training_args.num_train_epochs = article_epochs(len(data["train"]))
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
    trainer = TaskTrainer(
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
        best = {
            "best_checkpoint": trainer.state.best_model_checkpoint,
            "best_metric": trainer.state.best_metric,
        }
        close_run(run, **seen, **best, rows=trainer.rows, ledger=trainer.audit(), metrics=metrics)


# ---------------------------------------------------------------- rows
def article_epochs(rows):
    """Methods, "Supervised Learning": 5 epochs with fewer than 10,000 training samples, else 3."""
    return 5 if rows < 10_000 else 3


def read_rows(folder, split):
    """Prompt and completion of the rows of FOLDER/SPLIT.jsonl; Refused names the line that is no row (the contract: data_prep/schema.py)."""
    path, rows = Path(folder, f"{split}.jsonl"), []
    if not path.is_file():
        raise Refused(f"{path}: no such file. Next: python -m data_prep.build_tasks --out {folder} --help")
    for number, line in enumerate(path.open("rb"), 1):
        try:
            row = json.loads(line)
            rows.append({"prompt": text(row, "prompt"), "completion": text(row, "completion")})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Refused(f"{path}: line {number} is no row ({reason(error)})") from error
    if not rows:
        raise Refused(f"{path}: no rows")
    return rows


class TaskTrainer(Answers, SFTTrainer):
    """SFTTrainer, watched."""


def make_parser():
    return TrlParser((RunArguments, TaskConfig, ModelConfig), allow_abbrev=False)


if __name__ == "__main__":
    start(main, make_parser())
