"""Direct preference optimization on the stock DPOTrainer: full, LoRA (use_peft) or QLoRA (and load_in_4bit).

Moves a chat model towards the better of two answers, and keeps it near the model that it was (beta). The
paper names feedback from people as a next step and states no value.

Reads   rows: a folder of data_prep.build_preferences; model_name_or_path, a chat model
Writes  output_dir: adapter or model (safetensors), tokenizer, checkpoint-*/, trainer_state.json, run.json

    accelerate launch --config_file accelerate_configs/single_gpu.yaml \
        recipes/dpo.py --config recipes/configs/dpo_llama31_8b_lora.yaml

The same command resumes. The modules beside it are safeguards: copy them, or take their uses out.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import alignment_checks
import attention  # noqa: F401  registers torch_varlen
import checks
from alignment_callbacks import ReferenceKL, StartsAtReference
from callbacks import GracefulStop, LossGuard, Throughput
from datasets import Dataset
from run_record import RunArguments, open_run, reason
from transformers.hf_argparser import HfArg
from trl import DPOConfig, DPOTrainer, ModelConfig, TrlParser, get_peft_config, get_quantization_config


@dataclass(kw_only=True)
class DpoArguments(RunArguments):
    rows: str = HfArg(help="Folder with train.jsonl, validation.jsonl and manifest.json.")
    conversation: bool = HfArg(default=True, help="Wrap pairs in the model's chat template; false: raw text.")
    global_batch_size: int | None = HfArg(default=None, help="Pairs per step; sets the accumulation.")


def load_data(args):
    """{"train", "validation"}: datasets of {"prompt", "chosen", "rejected"}, texts or conversations."""
    run, splits = args[0], ("train", "validation")
    return {split: read_pairs(Path(run.rows, f"{split}.jsonl"), run.conversation) for split in splits}


def make_trainer(args, data, model=None):
    """`model`: in place of the weights of model_name_or_path."""
    run, training, named = args
    loading = {"revision": named.model_revision, "attn_implementation": named.attn_implementation}
    training.model_init_kwargs = loading | {"dtype": named.dtype} | (training.model_init_kwargs or {})
    return DPOTrainer(
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
        training.gradient_accumulation_steps = run.global_batch_size // per_pass
        checks.check_batch("global_batch_size", run.global_batch_size, per_pass)
    checks.check_launch(run, training)
    alignment_checks.check_dpo(run, training, model)
    record = open_run(__file__, args, model.model_name_or_path, run.rows)
    if record.complete:
        return print(f"{training.output_dir}: already complete, nothing to do")
    data = load_data(args)
    trainer = make_trainer(args, data)
    checks.check_trainer(trainer)
    counts = alignment_checks.check_pairs(trainer, given=len(data["train"]))
    trainer.add_callback(StartsAtReference(trainer))
    trainer.add_callback(ReferenceKL(trainer))
    record.attach(trainer)

    trainer.train(resume_from_checkpoint=record.resume(training))
    metrics = trainer.evaluate()
    if trainer.is_fsdp_enabled:  # one model, where checkpoints are shards
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    trainer.save_state()
    record.close(trainer, metrics, rows=counts)


def read_pairs(path, conversation):
    """Pairs of a JSON Lines file, in memory: credentialed text must not land in a cache."""
    roles, pairs = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}, []
    checks.check_file(path)
    for number, line in enumerate(path.open("rb"), 1):
        try:
            pair = json.loads(line)
            pairs.append({key: pair[key] for key in roles})
            alignment_checks.check_pair(pairs[-1], path, number)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise checks.Refused(f"{path}: line {number} is not a pair ({reason(error)})") from error
        if conversation:
            pairs[-1] = {k: [{"role": roles[k], "content": text}] for k, text in pairs[-1].items()}
    return Dataset.from_list(pairs)


def make_parser():
    return TrlParser((DpoArguments, DPOConfig, ModelConfig), allow_abbrev=False)


if __name__ == "__main__":
    parser = make_parser()
    checks.begin(parser)
    main(parser.parse_args_and_config())
