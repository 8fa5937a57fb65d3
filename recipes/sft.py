r"""Supervised fine-tuning on the stock SFTTrainer: LoRA, QLoRA or full, loss on the answers only.

Instruction tuning on conversations, if the YAML has chat_template_path or assistant_only_loss (paper: Methods,
"instruction fine-tuning"); else one benchmark task on prompts and completions as they are ("Supervised Learning").

Reads   rows: a folder with train.jsonl, validation.jsonl and manifest.json (data_prep.build_instructions, build_tasks)
Writes  output_dir: adapter or model (safetensors), tokenizer, checkpoint-*/, trainer_state.json, run.json

    accelerate launch --config_file accelerate_configs/single_gpu.yaml \
        recipes/sft.py --config recipes/configs/sft_13b_qlora.yaml

The same command resumes an interrupted run. LoRA: use_peft. QLoRA: use_peft and load_in_4bit. Full: neither.
The modules beside it are safeguards: copy them along, or delete every line that uses one.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import attention  # noqa: F401  registers torch_varlen
from callbacks import GracefulStop, LossGuard, Throughput
from checks import Refused, check_answers, check_launch, check_sft_model, check_trainer, one_sentence_errors
from datasets import Dataset
from run_record import RunArguments, open_run, reason
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config, get_quantization_config


@dataclass(kw_only=True)
class SftArguments(RunArguments):
    rows: str = field(metadata={"help": "Folder with train.jsonl, validation.jsonl and manifest.json."})
    global_batch_size: int | None = field(
        default=None, metadata={"help": "Rows per step over all ranks; sets accumulation."}
    )


def load_data(args):
    """{"train", "validation"}: datasets of {"messages"}, or of {"prompt", "completion"}."""
    run, training, _ = args
    chat = bool(training.chat_template_path or training.assistant_only_loss)
    return {split: read_rows(Path(run.rows, f"{split}.jsonl"), chat) for split in ("train", "validation")}


def make_trainer(args, data, model=None):
    """`model`: in place of the weights of model_name_or_path."""
    run, training, named = args
    loading = {
        "revision": named.model_revision,
        "dtype": named.dtype,
        "attn_implementation": named.attn_implementation,
    }
    training.model_init_kwargs = loading | (training.model_init_kwargs or {})
    return SFTTrainer(
        model=model or named.model_name_or_path,
        args=training,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        peft_config=get_peft_config(named),
        quantization_config=get_quantization_config(named),
        callbacks=[Throughput(run.peak_tflops), LossGuard(run.max_loss_jump), GracefulStop()],
    )


def main(args):
    run, training, model = args
    if run.global_batch_size:
        set_accumulation(training, run.global_batch_size)
    check_launch(run, training)
    check_sft_model(model, training)
    record = open_run(__file__, args, model.model_name_or_path, run.rows)
    if record.complete:
        return print(f"{training.output_dir}: already complete, nothing to do")

    data = load_data(args)
    trainer = make_trainer(args, data)
    check_trainer(trainer)
    check_answers(trainer)
    record.attach(trainer)

    trainer.train(resume_from_checkpoint=record.resume(training))
    metrics = trainer.evaluate()

    if trainer.is_fsdp_enabled:  # one model, where checkpoints are shards
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    trainer.save_state()
    record.close(trainer, metrics, rows={"given": len(data["train"]), "kept": len(trainer.train_dataset)})


def set_accumulation(training, rows):
    """Split a step of `rows` among the ranks, in the largest micro-batch up to per_device_train_batch_size (memory)."""
    share, rest = divmod(rows, training.world_size)
    if rest or not share:
        raise Refused(
            f"global_batch_size {rows} among {training.world_size} ranks. Next: a multiple of the ranks"
        )
    sizes = range(1, training.per_device_train_batch_size + 1)
    training.per_device_train_batch_size = max(size for size in sizes if share % size == 0)
    training.gradient_accumulation_steps = share // training.per_device_train_batch_size


def read_rows(path, chat):
    """Rows of a JSON Lines file, in memory: credentialed text must not land in a cache."""
    rows = []
    for number, line in enumerate(path.open("rb"), 1):
        try:
            row = json.loads(line)
            if chat:
                row["messages"] = [check_turn(turn) for turn in row.get("messages") or as_turns(row)]
                rows.append(
                    {key: row[key] for key in ("messages", "tools", "chat_template_kwargs") if key in row}
                )
            else:
                rows.append({key: as_text(row[key]) for key in ("prompt", "completion")})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Refused(f"{path}: line {number} is not a row ({reason(error)})") from error
    return Dataset.from_list(rows)


def as_turns(row):
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]


def check_turn(turn):
    if not turn.get("tool_calls"):
        as_text(turn["content"])
    return turn


def as_text(value):
    if not isinstance(value, str):
        raise TypeError
    return value


def make_parser():
    return TrlParser((SftArguments, SFTConfig, ModelConfig), allow_abbrev=False)


if __name__ == "__main__":
    parser = make_parser()
    one_sentence_errors(parser)
    main(parser.parse_args_and_config())
