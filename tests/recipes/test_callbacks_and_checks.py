"""What is logged, what stops a run, and what is refused before its first step."""

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM
from trl import ModelConfig, SFTConfig, TrlParser

from tests.lab import PRETRAIN, ROOT, SFT, TASK, copied, ledger, logged, losses, recipe, run_json, weights


@pytest.fixture
def guard(monkeypatch):
    """The names of the modules beside the recipes."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    names = ("attention", "callbacks", "checks", "hardware", "pretrain", "run_record")
    return SimpleNamespace(
        **{key: value for name in names for key, value in vars(importlib.import_module(name)).items()}
    )


# ---------------------------------------------------------------- the log
def test_the_log(lab):
    config = {
        **PRETRAIN,
        "output_dir": "logged",
        "report_to": "tensorboard",
        "peak_tflops": 0.5,
        "logging_steps": 2,
        "max_steps": 6,
        "eval_strategy": "steps",
        "eval_steps": 3,
    }
    assert recipe(lab, "pretrain", config) is None
    for speed, mfu, memory, seen in logged(
        lab / "logged", "tokens_per_second", "mfu", "memory_gb", "tokens_seen"
    ):
        assert speed > 0 and 0 < mfu < 1 and memory > 0.1 and seen > 0
    history = json.loads((lab / "logged" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "eval_general_perplexity" in entry] == [3, 6]
    assert list((lab / "logged" / "runs").rglob("events.out.tfevents*"))


@pytest.mark.guarantee("Uploads", "Trackers write into the run's folder and nowhere else.")
def test_trackers_write_into_the_run_and_nowhere_else(lab):
    """In a process of its own: Trackio takes its folder from the environment when it is first imported."""
    config = {
        **SFT,
        "output_dir": "tracked",
        "report_to": ["trackio", "tensorboard"],
        "max_steps": 1,
        "peak_tflops": 0.5,
        "lora_modules_to_save": ["embed_tokens", "lm_head"],
    }
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *copied(lab, "sft", config)],
        cwd=lab,
        env=kept | {"HOME": str(lab / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list((lab / "tracked" / "trackio").glob("*.db")) and list(
        (lab / "tracked" / "runs").rglob("events.out.tfevents*")
    )
    assert not list((lab / "home").rglob("*trackio*")) and 0 < logged(lab / "tracked", "mfu")[0][0] < 1


def test_model_flops_are_the_formula(guard):
    shape = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(shape)
    layer = 4 * 32 * 32 + 3 * 32 * 64  # norms are not in matrix products
    matrices = 2 * layer + 100 * 32  # the last is lm_head; the embedding table multiplies nothing
    assert guard.model_flops(model, 1000, 64_000) == 1000 * 6 * matrices + 12 * 2 * 32 * 64_000
    for weight in model.parameters():
        weight.requires_grad = False
    model.lm_head.weight.requires_grad = True
    assert guard.model_flops(model, 1000, 0) == 1000 * (4 * (matrices - 3200) + 6 * 3200)


# ---------------------------------------------------------------- the loss guard
def damaged(patch, at, value):
    """The loss that the model computes in the `at`-th micro-step becomes `value`."""
    forward, count = transformers.LlamaForCausalLM.forward, iter(range(1, 10**9))

    def forward_damaged(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        if self.training and output.loss is not None and next(count) == at:  # not the probe of packing
            output.loss = output.loss * 0 + value
        return output

    patch.setattr(transformers.LlamaForCausalLM, "forward", forward_damaged)


@pytest.mark.parametrize(
    ("value", "said"), [(math.nan, "loss nan"), (math.inf, "loss inf"), (40.0, r"loss 4")]
)
@pytest.mark.guarantee(
    "Training",
    "A loss or gradient that is not finite, or a loss spike, stops before the weights take the step.",
)
def test_a_broken_loss_stops_the_run_before_its_step(lab, monkeypatch, value, said):
    name = f"broken_{value}"
    config = {**PRETRAIN, "output_dir": name}
    with monkeypatch.context() as patch:
        damaged(patch, 2 * 13 - 1, value)  # the first half of step 13
        stopped = recipe(lab, "pretrain", config)
    assert stopped and said in stopped and "at step 13; the weights did not take that step" in stopped
    assert run_json(lab / name)["status"] == "running" and len(ledger(lab / name)) == 12
    saved, good = weights(lab / name / "checkpoint-12"), weights(lab / "base" / "checkpoint-12")
    assert all(torch.equal(saved[key], good[key]) for key in good)
    assert recipe(lab, "pretrain", config) is None, "the same command resumes, here without the damage"
    assert losses(lab / name) == losses(lab / "base")


def test_a_loss_of_sft_is_guarded_too(lab, monkeypatch):
    """TRL computes its loss from log-probabilities; the guard reads the model's own."""
    model = importlib.import_module("trl.trainer.utils")
    fused, count = model.FusedCausalLMOutput, iter(range(1, 10**9))

    def damaged_output(*args, loss=None, **kwargs):
        return fused(*args, loss=loss * math.nan if next(count) == 3 else loss, **kwargs)

    monkeypatch.setattr(model, "FusedCausalLMOutput", damaged_output)
    stopped = recipe(lab, "sft", {**SFT, "output_dir": "broken_sft"})
    assert stopped and "loss nan" in stopped and "at step 3" in stopped


def test_a_broken_gradient_stops_the_run(lab, monkeypatch):
    clip, count = torch.nn.utils.clip_grad_norm_, iter(range(1, 100))

    def ruined(parameters, *args, **kwargs):
        parameters = list(parameters)
        if next(count) == 6:
            parameters[0].grad.fill_(math.nan)
        return clip(parameters, *args, **kwargs)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", ruined)
    stopped = recipe(lab, "pretrain", {**PRETRAIN, "output_dir": "gradient"})
    assert stopped and "a gradient is not finite at step 6; the weights did not take that step" in stopped
    assert len(ledger(lab / "gradient")) == 5


@pytest.mark.guarantee("Training", "Damaged weights are never saved.")
def test_damaged_weights_are_never_saved(lab, monkeypatch):
    """Whatever damaged them: the checkpoint before stays, the new one is not begun."""
    step, count = torch.optim.AdamW.step, iter(range(1, 100))

    def ruin(self, *args, **kwargs):
        step(self, *args, **kwargs)
        if next(count) == 8:
            self.param_groups[0]["params"][0].data.fill_(math.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", ruin)
    stopped = recipe(lab, "pretrain", {**PRETRAIN, "output_dir": "ruined", "save_total_limit": 1})
    assert stopped and "the weights are not finite at step 8 and were not saved" in stopped
    assert [path.name for path in (lab / "ruined").glob("checkpoint-*")] == ["checkpoint-4"]
    assert all(weight.isfinite().all() for weight in weights(lab / "ruined" / "checkpoint-4").values())


# ---------------------------------------------------------------- refused before the first step
def refused(lab, name, config, *arguments):
    said = recipe(lab, name, {**config, "output_dir": "refused"}, *arguments)
    assert (
        said
        and said.startswith("error: ")
        and "\n" not in said
        and not (lab / "refused" / "ledger.jsonl").exists()
    )
    shutil.rmtree(lab / "refused", ignore_errors=True)
    return said


@pytest.mark.guarantee("Training", "A launch with other ranks than asked for is refused.")
def test_other_ranks_than_asked_for(lab, monkeypatch):
    assert "1 ranks are running, 2 were asked for. Next: check num_processes" in refused(
        lab, "pretrain", PRETRAIN, "--world_size", "2"
    )
    for name, config in (("sft", SFT), ("sft", TASK)):
        assert "1 ranks are running, 8 were asked for" in refused(lab, name, config, "--world_size", "8")
    assert "1 ranks are running, 0 were asked for" in refused(lab, "sft", SFT, "--world_size", "0")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    sync = '{"gradient_accumulation_kwargs": {"sync_each_batch": true}}'
    assert "sync_each_batch" in refused(lab, "pretrain", PRETRAIN)
    config = {**PRETRAIN, "accelerator_config": json.loads(sync)}
    assert "the accelerate file asks for FSDP, NO is running" in refused(lab, "pretrain", config)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"report_to": ["mlflow"]}, "mlflow would send data away. Next: report_to tensorboard or trackio"),
        ({"push_to_hub": True}, "push_to_hub would send"),
        ({"report_to": ["trackio"], "trackio_space_id": "lab/space"}, "trackio_space_id would send"),
    ],
)
@pytest.mark.guarantee("Uploads", "Nothing is uploaded by default, by setting or by environment variable.")
def test_uploads(lab, config, said):
    assert said in refused(lab, "pretrain", {**PRETRAIN, **config})


def test_deepspeed_in_the_yaml_is_refused(lab):
    """It may name trackers of its own, and only DeepSpeed reads it."""
    said = refused(
        lab,
        "pretrain",
        {**PRETRAIN, "deepspeed": {"zero_optimization": {"stage": 2}, "wandb": {"enabled": True}}},
    )
    assert "has no effect in a YAML. Next: deepspeed_config_file" in said


def test_uploads_by_the_environment(guard, tmp_path, monkeypatch):
    watch = SimpleNamespace(world_size=None, allow_upload=False)

    def arguments(*trackers):
        return transformers.TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to=list(trackers)
        )  # noqa: E731

    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://somewhere")
    with pytest.raises(guard.Refused, match="TRACKIO_SERVER_URL would send"):
        guard.check_launch(watch, arguments("trackio"))
    monkeypatch.delenv("TRACKIO_SERVER_URL")
    with pytest.raises(guard.Refused, match="wandb would send"):
        guard.check_launch(watch, arguments("wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    guard.check_launch(watch, arguments("wandb", "tensorboard"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"zero_optimisation": {"stage": 2}}, "DeepSpeed does not know zero_optimisation. Next"),
        (
            {"zero_optimization": {"stage": 2, "overlap_com": True}},
            "does not know zero_optimization.overlap_com",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "pin": True}}},
            "zero_optimization.offload_optimizer.pin",
        ),
        ({"bf16": {"enable": True}}, "bf16.enable"),
        ({"zero_optimization": {"stage": 7}}, r"zero_optimization.stage .Input should be 0, 1, 2, 3 or 3"),
    ],
)
def test_a_deepspeed_key_that_nobody_reads(guard, tmp_path, change, said):
    shipped = json.loads((ROOT / "accelerate_configs/zero3.json").read_text())
    file = tmp_path / "zero.json"
    file.write_text(json.dumps(shipped))
    guard.check_deepspeed(str(file))
    file.write_text(json.dumps(shipped | change))
    with pytest.raises(guard.Refused, match=f"zero.json: .*{said}"):
        guard.check_deepspeed(str(file))
    with pytest.raises(guard.Refused, match="nowhere.json"):
        guard.check_deepspeed("nowhere.json")


def test_a_lock_of_a_killed_compilation_is_named(guard, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    guard.check_compiler_lock()  # somebody compiles
    os.utime(lock, (0, 0))
    with pytest.raises(guard.Refused, match="lock is older than half an hour.*Next: remove that file"):
        guard.check_compiler_lock()


def test_deepspeed_on_another_number_of_ranks(guard, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint-4"
    folder.mkdir()
    facts = {"step": 4, "ranks": 8, "sha256": guard.hashes(folder)}
    (folder / "complete.json").write_text(json.dumps(facts))
    arguments = SimpleNamespace(output_dir=tmp_path, world_size=4, resume_from_checkpoint=None)
    record = guard.RunRecord({"status": "running"})
    assert record.resume(arguments).endswith("checkpoint-4"), "DDP and FSDP resume on other ranks"
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(guard.Refused, match="DeepSpeed on 8 ranks, 4 are running. Next: launch 8 ranks, or"):
        record.resume(arguments)


def test_a_disk_that_is_too_small(lab, monkeypatch):
    free = SimpleNamespace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    said = refused(lab, "pretrain", PRETRAIN)
    assert "4 checkpoints and the model need" in said and "0.01 GB are free. Next: save_total_limit 1" in said
    assert recipe(lab, "pretrain", {**PRETRAIN, "output_dir": "no_saves", "save_strategy": "no"}) is None
    assert recipe(lab, "sft", {**SFT, "output_dir": "small"}) is None, "an adapter is small"
    free.free = 20_000_000  # enough for weights without their moments
    assert (
        recipe(
            lab, "pretrain", {**PRETRAIN, "output_dir": "only_model", "save_only_model": True, "max_steps": 1}
        )
        is None
    )


def test_a_validation_of_which_nothing_is_supervised(lab):
    """Every answer is cut off: the loss would be of no token at all, at the first evaluation."""
    shutil.copytree(lab / "task_rows", lab / "long_rows")
    row = {"id": "long", "prompt": "fever " * 400 + "\n", "completion": "yes", "access": "gated"}
    (lab / "long_rows" / "validation.jsonl").write_text(json.dumps(row) + "\n")
    said = refused(lab, "sft", {**TASK, "rows": "long_rows"})
    assert "no validation row has a supervised token" in said and "Next: a larger max_length" in said


def test_a_model_that_cannot_learn_these_texts(lab):
    """Too few positions, no EOS, padding that is EOS, answers without EOS."""
    for name, change in (("short", {"max_position_embeddings": 16}), ("no_eos", None), ("no_pad", None)):
        shutil.copytree(lab / "base", lab / name)
        file = lab / name / ("config.json" if change else "tokenizer_config.json")
        content = json.loads(file.read_text())
        content |= (
            change
            or {"no_eos": {"eos_token": None}, "no_pad": {"pad_token": "</s>", "unk_token": None}}[name]
        )
        file.write_text(json.dumps(content))
    assert "texts of 32 tokens, but short has 16 positions" in refused(
        lab, "pretrain", {**PRETRAIN, "model_name_or_path": "short"}
    )
    assert "texts of 128 tokens, but short has 16 positions" in refused(
        lab, "sft", {**SFT, "model_name_or_path": "short"}
    )
    for name, config in (("pretrain", PRETRAIN), ("sft", SFT)):
        assert "the tokenizer of no_eos has no EOS" in refused(
            lab, name, {**config, "model_name_or_path": "no_eos"}
        )
    for name, config in (("sft", SFT), ("sft", TASK)):
        assert "no pad token distinct from EOS. Next: pad_token" in refused(
            lab, name, {**config, "model_name_or_path": "no_pad"}
        )
        assert (
            recipe(
                lab,
                name,
                {
                    **config,
                    "model_name_or_path": "no_pad",
                    "pad_token": "<pad>",
                    "max_steps": 1,
                    "output_dir": f"padded_{config['output_dir']}",
                },
            )
            is None
        )
    (lab / "endless.jinja").write_text(
        (ROOT / "recipes/chat_template.jinja").read_text().replace(" + eos_token", "")
    )
    assert "no answer ends in EOS" in refused(lab, "sft", {**SFT, "chat_template_path": "endless.jinja"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nlearning_rate: 1\nseed: 2\n", "seed is in line 1 and again in line 3. Next: remove one"),
        ("eval_strategy: no\n", "line 1: eval_strategy: YAML reads no as a boolean. Next: 'no' in quotes"),
    ],
)
def test_a_key_that_is_there_twice_and_an_unquoted_no(guard, tmp_path, text, said):
    path, parser = tmp_path / "run.yaml", TrlParser((SFTConfig, ModelConfig))
    path.write_text(text)
    with pytest.raises(guard.Refused, match=said):
        guard.check_keys(path, parser)
    path.write_text("use_cpu: yes\npacking: off\neval_strategy: 'no'\nlora_target_modules: [a, b]\n")
    guard.check_keys(path, parser)
