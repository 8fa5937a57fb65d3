"""At the paper's learning rates an update is smaller than the rounding of a 16-bit weight: what then moves,
and what is refused."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torchao.optim import AdamW8bit
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from tests.lab import PRETRAIN, ROOT, SFT, recipe, run_json, weights

SHAPE = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4
)


@pytest.fixture
def guard(monkeypatch):
    """The names of the modules beside the recipes."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    names = ("attention", "callbacks", "checks", "hardware", "pretrain", "run_record")
    return SimpleNamespace(
        **{key: value for name in names for key, value in vars(importlib.import_module(name)).items()}
    )


@pytest.fixture(autouse=True)
def eager_optimizer(monkeypatch):
    """torchao compiles its step: a minute for each shape of weight on a CPU, and the same numbers."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def share_moved(dtype, optimizer, learning_rate=1e-5, steps=20, **settings):
    """Share of the weights that `steps` steps of AdamW have changed, counted in the type in which they are
    kept."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(SHAPE).to(dtype)
    before = [weight.detach().clone() for weight in model.parameters()]
    step = optimizer(model.parameters(), lr=learning_rate, weight_decay=1e-5, **settings)
    for _ in range(steps):
        ids = torch.randint(0, 64, (4, 32))
        model(ids, labels=ids).loss.backward()
        step.step()
        step.zero_grad()
    changed = sum(
        (weight != old).sum().item() for weight, old in zip(model.parameters(), before, strict=True)
    )
    return changed / sum(weight.numel() for weight in before)


def test_share_of_weights_that_move():
    kept = share_moved(torch.float32, torch.optim.AdamW)
    rounded = share_moved(torch.bfloat16, torch.optim.AdamW)
    stochastic = share_moved(torch.bfloat16, AdamW8bit, bf16_stochastic_round=True)
    nearest = share_moved(torch.bfloat16, AdamW8bit)
    print(
        f"moved after 20 steps at 1e-5: float32 {kept:.3f}, bf16 {rounded:.3f}, bf16 8-bit {nearest:.3f}, "
        f"with stochastic rounding {stochastic:.3f}"
    )
    assert kept > 0.99 and rounded < 0.2 and nearest < 0.2 and stochastic > 0.5
    assert share_moved(torch.bfloat16, torch.optim.AdamW, learning_rate=1e-3) > 0.9, (
        "the trap is the small step"
    )


def arguments(folder, **changes):
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "learning_rate": 8e-6,
            "optim": "adamw_torch",
            **changes,
        }
    )


@pytest.mark.guarantee("Training", "Steps that would be lost in the rounding of 16-bit weights are refused.")
def test_what_is_refused(guard, tmp_path, monkeypatch):
    model = LlamaForCausalLM(SHAPE).to(torch.bfloat16)
    with pytest.raises(
        guard.Refused,
        match=r"at learning_rate 8e-06 only \d+ % of the torch.bfloat16 weights would move. Next: dtype "
        r"float32",
    ):
        guard.check_precision(model, arguments(tmp_path))
    with pytest.raises(guard.Refused, match="would move"):
        guard.check_precision(model, arguments(tmp_path, optim="adamw_torch_8bit"))
    with pytest.raises(guard.Refused, match="would move"):
        guard.check_precision(
            model, arguments(tmp_path, optim="adamw_torch_8bit", optim_args="bf16_stochastic_round=False")
        )

    guard.check_precision(
        model, arguments(tmp_path, optim="adamw_torch_8bit", optim_args="bf16_stochastic_round=True")
    )
    guard.check_precision(model, arguments(tmp_path, learning_rate=1e-3))
    guard.check_precision(
        model, arguments(tmp_path, learning_rate=0.0)
    )  # the base of a mixture study: nothing is to move
    guard.check_precision(LlamaForCausalLM(SHAPE), arguments(tmp_path, bf16=True))
    adapter = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    assert {weight.dtype for weight in adapter.parameters() if weight.requires_grad} == {torch.float32}
    guard.check_precision(adapter, arguments(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    guard.check_precision(
        LlamaForCausalLM(SHAPE).to(torch.bfloat16), arguments(tmp_path, optim="adamw_torch")
    )


def test_recipes_at_the_papers_learning_rate(lab):
    """Refused before the first step; with stochastic rounding, or with an adapter on a 16-bit or 4-bit base,
    it trains and the weights move."""
    low = {
        **PRETRAIN,
        "model_name_or_path": "base",
        "from_scratch": False,
        "dtype": "bfloat16",
        "learning_rate": 8e-6,
        "save_strategy": "no",
    }
    said = recipe(lab, "pretrain", {**low, "output_dir": "refused"})
    assert said and "would move" in said and not (lab / "refused" / "ledger.jsonl").exists()

    rounded = {
        "optim": "adamw_torch_8bit",
        "optim_args": "bf16_stochastic_round=True",
        "output_dir": "rounded",
    }
    assert recipe(lab, "pretrain", {**low, **rounded}) is None
    start, end = weights(lab / "base"), weights(lab / "rounded")
    assert (
        end["model.norm.weight"].dtype == torch.bfloat16 and run_json(lab / "rounded")["status"] == "complete"
    )
    moved = [
        (end[key] != start[key].to(torch.bfloat16)).float().mean().item()
        for key in start
        if start[key].dim() == 2
    ]
    assert sum(moved) / len(moved) > 0.4

    chat = {**SFT, "dtype": "bfloat16", "learning_rate": 1e-5, "output_dir": "adapter_low"}
    assert recipe(lab, "sft", chat) is None
    adapter = weights(lab / "adapter_low")
    loras = [weight for key, weight in adapter.items() if "lora" in key]
    assert all(weight.dtype == torch.float32 and weight.abs().max() > 0 for weight in loras)
