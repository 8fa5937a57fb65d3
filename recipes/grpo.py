"""Group relative policy optimization on the stock GRPOTrainer, with rewards that can be verified.

A chat model answers each question several times; answers that earn more than the mean of their group become
likelier. The paper names reinforcement learning as a next step and states no value.

Reads   rows: a folder of data_prep.build_tasks, as DATA/tasks/medqa, or of build_instructions whose rows can
        be verified (rewards.VERIFIABLE); model_name_or_path, a chat model
Writes  output_dir: adapter or model (safetensors), tokenizer, checkpoint-*/, trainer_state.json, run.json,
        completions/rank*.jsonl: every completion with what it earned, of the owner alone if credentialed

    accelerate launch --config_file accelerate_configs/single_gpu.yaml \
        recipes/grpo.py --config recipes/configs/grpo_llama31_8b_lora.yaml

The same command resumes. The modules beside it are safeguards, but for rewards.py and parsing.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import attention  # noqa: F401  registers torch_varlen
import checks
import reward_checks
import rewards
from alignment_callbacks import Completions, GroupVariance, SamplerGap, SecondMeasure
from callbacks import GracefulStop, LossGuard, Throughput
from datasets import Dataset
from run_record import RunArguments, open_run, reason
from transformers.hf_argparser import HfArg
from trl import GRPOConfig, GRPOTrainer, ModelConfig, TrlParser, get_peft_config, get_quantization_config


@dataclass(kw_only=True)
class GrpoArguments(RunArguments):
    rows: str = HfArg(help="Folder with train.jsonl, validation.jsonl and manifest.json.")
    conversation: bool = HfArg(default=True, help="Wrap prompts in the model's chat template.")
    global_batch_size: int | None = HfArg(default=None, help="Completions per step; sets the accumulation.")
    rewards: list[str] = HfArg(default_factory=lambda: ["answer"], help="Names, see rewards.py.")
    reward_file: str | None = HfArg(default=None, help="Python file with rewards of your own.")
    judge_url: str | None = HfArg(default=None, help="Its server, as http://localhost:8000/v1")
    judge_model: str | None = HfArg(default=None, help="Name of the model there.")
    stop_without_variance: int = HfArg(default=20, help="Steps in which no group differs that end the run.")
    second_measure_steps: int = HfArg(default=50, help="Steps between measures that no reward saw; 0: none.")


def load_data(args):
    """{"train", "validation"}: datasets of {"prompt", "id", "scoring", "answer", "choices", ...}."""
    run, *_ = args
    paths = {split: Path(run.rows, f"{split}.jsonl") for split in ("train", "validation")}
    return {split: read_rows(path, run.conversation) for split, path in paths.items()}


def make_trainer(args, data, model=None):
    """`model`: in place of the weights of model_name_or_path."""
    run, training, named = args
    loading = {"revision": named.model_revision, "attn_implementation": named.attn_implementation}
    training.model_init_kwargs = loading | {"dtype": named.dtype} | (training.model_init_kwargs or {})
    return GRPOTrainer(
        model=model or named.model_name_or_path,
        reward_funcs=rewards.reward_functions(run, training),
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
        if training.steps_per_generation == training.gradient_accumulation_steps:
            training.steps_per_generation = run.global_batch_size // per_pass
            training.generation_batch_size = run.global_batch_size
        training.gradient_accumulation_steps = run.global_batch_size // per_pass
        checks.check_batch("global_batch_size", run.global_batch_size, per_pass)
    checks.check_launch(run, training)
    reward_checks.check_grpo(run, training, model)
    record = open_run(__file__, args, model.model_name_or_path, run.rows)
    if record.complete:
        return print(f"{training.output_dir}: already complete, nothing to do")
    data = load_data(args)
    trainer = make_trainer(args, data)
    checks.check_trainer(trainer)
    reward_checks.check_rewards(trainer)
    trainer.add_callback(Completions(trainer))
    trainer.add_callback(GroupVariance(run.stop_without_variance))
    trainer.add_callback(SamplerGap(trainer, run.second_measure_steps))
    trainer.add_callback(SecondMeasure(trainer, run.second_measure_steps))
    record.attach(trainer)

    trainer.train(resume_from_checkpoint=record.resume(training))
    metrics = trainer.evaluate()
    if trainer.is_fsdp_enabled:  # one model, where checkpoints are shards
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    trainer.save_state()
    record.close(trainer, metrics, rows={"given": len(data["train"])}, rewards=rewards.VERSIONS)


def read_rows(path, conversation):
    """Rows of a JSON Lines file, in memory: credentialed text must not land in a cache. TRL keeps the name
    `completion` for what the model wrote, so the right answer is `answer`."""
    kept, rows = ("id", "scoring", "choices", "options", "limits", "question"), []
    checks.check_file(path)
    for number, line in enumerate(path.open("rb"), 1):
        try:
            row = json.loads(line)
            rows.append({"prompt": row["prompt"], "asked": row["prompt"], "answer": row["completion"]})
            rows[-1] |= {key: row.get(key) for key in kept}
            checks.check_texts(row)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise checks.Refused(f"{path}: line {number} is not a row to verify ({reason(error)})") from error
        if conversation:
            rows[-1]["prompt"] = [{"role": "user", "content": row["prompt"]}]
    return Dataset.from_list(rows)


def make_parser():
    return TrlParser((GrpoArguments, GRPOConfig, ModelConfig), allow_abbrev=False)


if __name__ == "__main__":
    parser = make_parser()
    checks.begin(parser)
    main(parser.parse_args_and_config())
