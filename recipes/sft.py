"""Supervised fine-tuning on the stock SFTTrainer: full, LoRA (use_peft) or QLoRA (and load_in_4bit).

Instruction tuning on conversations if the YAML has chat_template_path or assistant_only_loss (paper: Methods,
"instruction fine-tuning"); else one benchmark task on prompts and completions ("Supervised Learning").

Reads   rows: a folder with train.jsonl, validation.jsonl and manifest.json; model_name_or_path
Writes  output_dir: adapter or model (safetensors), tokenizer, checkpoint-*/, trainer_state.json, run.json

    accelerate launch --config_file accelerate_configs/single_gpu.yaml \
        recipes/sft.py --config recipes/configs/sft_13b_qlora.yaml

The same command resumes. The modules beside it are safeguards: copy them, or take their uses out.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import attention  # noqa: F401  registers torch_varlen, shifted_sparse
import checks
from callbacks import GracefulStop, LossGuard, Throughput
from datasets import Dataset
from run_record import RunArguments, open_run, reason
from transformers.hf_argparser import HfArg
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config, get_quantization_config


@dataclass(kw_only=True)
class SftArguments(RunArguments):
    rows: str = HfArg(help="Folder with train.jsonl, validation.jsonl and manifest.json.")
    global_batch_size: int | None = HfArg(default=None, help="Rows per step; sets the accumulation.")


def load_data(args):
    """{"train", "validation"}: datasets of {"messages"}, or of {"prompt", "completion"}."""
    run, training, _ = args
    chat = training.chat_template_path or training.assistant_only_loss
    return {split: read_rows(Path(run.rows, f"{split}.jsonl"), chat) for split in ("train", "validation")}


def make_trainer(args, data, model=None):
    """`model`: in place of the weights of model_name_or_path."""
    run, training, named = args
    loading = {"revision": named.model_revision, "attn_implementation": named.attn_implementation}
    training.model_init_kwargs = loading | {"dtype": named.dtype} | (training.model_init_kwargs or {})
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
        per_pass = training.per_device_train_batch_size * training.world_size
        per_pass //= checks.sequence_ranks()
        training.gradient_accumulation_steps = run.global_batch_size // per_pass
        checks.check_batch("global_batch_size", run.global_batch_size, per_pass)
    checks.check_launch(run, training)
    checks.check_sft_model(model, training)
    record = open_run(__file__, args, model.model_name_or_path, run.rows)
    if record.complete:
        return print(f"{training.output_dir}: already complete, nothing to do")
    data = load_data(args)
    trainer = make_trainer(args, data)
    checks.check_trainer(trainer)
    checks.check_answers(trainer)
    record.attach(trainer)
    trainer.train(resume_from_checkpoint=record.resume(training))
    metrics = trainer.evaluate()
    if trainer.is_fsdp_enabled:  # one model, where checkpoints are shards
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    trainer.save_state()
    record.close(trainer, metrics, rows={"given": len(data["train"]), "kept": len(trainer.train_dataset)})


def read_rows(path, chat):
    """Rows of a JSON Lines file, in memory: credentialed text must not land in a cache."""
    rows = []
    checks.check_file(path)
    for number, line in enumerate(path.open("rb"), 1):
        try:
            row = json.loads(line)
            rows.append(as_conversation(row) if chat else {key: row[key] for key in ("prompt", "completion")})
            checks.check_texts(rows[-1])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise checks.Refused(f"{path}: line {number} is not a row ({reason(error)})") from error
    return Dataset.from_list(rows)


def as_conversation(row):
    pair = (("user", "prompt"), ("assistant", "completion"))
    turns = row.get("messages") or [{"role": role, "content": row[key]} for role, key in pair]
    return {"messages": turns} | {key: row[key] for key in ("tools", "chat_template_kwargs") if key in row}


def make_parser():
    return TrlParser((SftArguments, SFTConfig, ModelConfig), allow_abbrev=False)


if __name__ == "__main__":
    parser = make_parser()
    checks.begin(parser)
    main(parser.parse_args_and_config())
