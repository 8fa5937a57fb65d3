"""Packed documents do not see each other, on every attention backend; a backend that lets them is refused
whatever it is called."""

import importlib
import inspect
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen3Config
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tests.lab import PRETRAIN, ROOT, SFT, recipe

CPU = torch.device("cpu")
BACKENDS = ["eager", "sdpa", "torch_varlen", "fa2_stand_in", "fa3_stand_in"]
LLAMA = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
QWEN = Qwen3Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)


@pytest.fixture
def guard(monkeypatch):
    """The names of the modules beside the recipes."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    names = ("attention", "callbacks", "checks", "hardware", "pretrain", "run_record")
    return SimpleNamespace(
        **{key: value for name in names for key, value in vars(importlib.import_module(name)).items()}
    )


def dense(query, key, value, causal, scale):
    """[batch, length, heads, head_dim]"""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return scaled_dot_product_attention(
        query, key, value, is_causal=causal, scale=scale, enable_gqa=True
    ).transpose(1, 2)


def flash_attn_func(
    q,
    k,
    v,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    deterministic=False,
):
    return dense(q, k, v, causal, softmax_scale)


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
                           window_size=(-1, -1), softcap=0.0, deterministic=False, block_table=None):  # fmt: skip
    parts = (x.split(cu_seqlens_q.diff().tolist()) for x in (q, k, v))
    return torch.cat(
        [
            dense(*(x[None] for x in document), causal, softmax_scale)[0]
            for document in zip(*parts, strict=True)
        ]
    )


@pytest.fixture(autouse=True)
def flash_stand_in(monkeypatch):
    """transformers' own flash-attention path, which finds the documents' bounds, on a CPU: only the two
    kernels are replaced. 2 and 3 share it."""
    known = set(inspect.signature(flash_attn_varlen_func).parameters)

    class Supported(dict):
        def __missing__(self, name):
            return flash._hf_api_to_flash_mapping.get(name, name) in known

    def imported(implementation, attention_wrapper=None, allow_all_kernels=False):
        def process(*args, **kwargs):
            return flash._process_flash_attention_kwargs(*args, supports_mapping=Supported(), **kwargs)  # noqa: E731

        return (flash_attn_func, flash_attn_varlen_func, None, flash._pad_input, flash._unpad_input), (
            process,
            process,
        )

    monkeypatch.setattr(flash, "lazy_import_flash_attention", imported)
    for version in (2, 3):
        AttentionInterface.register(f"fa{version}_stand_in", flash_attention_forward)
        AttentionMaskInterface.register(
            f"fa{version}_stand_in", ALL_MASK_ATTENTION_FUNCTIONS[f"flash_attention_{version}"]
        )


def model_on(backend, config=LLAMA):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=backend).eval()


def logits(model, batch):
    with torch.no_grad():
        return model(
            **{key: value for key, value in batch.items() if key != "labels"}, use_cache=False
        ).logits


@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=["llama", "qwen3"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_changing_a_document_changes_no_other(guard, backend, config):
    model, rng = model_on(backend, config), np.random.default_rng(0)
    row = {"input_ids": rng.integers(4, 64, 32), "seq_lengths": [10, 20]}  # two unused places at the end
    changed = {**row, "input_ids": np.concatenate([rng.integers(4, 64, 10), row["input_ids"][10:]])}
    alone = {"input_ids": row["input_ids"][10:30], "seq_lengths": [20]}
    for isolated in (True, False):
        before, after = (logits(model, guard.Collator(isolated)([each, row])) for each in (row, changed))
        moved, first_moved = (
            (before - after)[0, 10:30].abs().max().item(),
            (before - after)[0, :10].abs().max().item(),
        )
        assert first_moved > 1e-2 and torch.allclose(before[1], after[1], atol=1e-6), (
            "the other row stays as it is"
        )
        assert (moved < 1e-6) if isolated else (moved > 1e-3), (isolated, moved)
        single = logits(model, guard.Collator(False)([alone]))[0]
        assert torch.allclose(before[0, 10:30], single, atol=1e-5) == isolated, (
            "an isolated document is as if it were alone"
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_conversations_have_the_loss_and_gradient_of_padded_ones(guard, backend):
    """TRL's own collator on our backends: flat rows with cu_seq_lens against padded rows."""
    rng = np.random.default_rng(1)
    rows = []
    for length in (5, 12, 7, 9):
        ids = rng.integers(4, 64, length)
        labels = np.where(np.arange(length) < length // 2, -100, ids)
        rows.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
    joined = {key: sum((row[key] for row in rows), []) for key in ("input_ids", "labels")} | {
        "seq_lengths": [5, 12, 7, 9]
    }
    results = []
    for packed, batch in ((False, rows), (True, [joined])):
        model = model_on(backend).train()
        batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=packed)(batch)
        loss = model(**batch, use_cache=False, num_items_in_batch=1).loss
        loss.backward()
        results.append((loss.item(), model.model.layers[0].self_attn.k_proj.weight.grad))
    (padded, gradient), (packed, same_gradient) = results
    assert packed == pytest.approx(padded, rel=1e-5) and torch.allclose(gradient, same_gradient, atol=1e-4)


def test_torch_varlen_calls_the_kernel_as_torch_defines_it(guard, monkeypatch):
    """On CUDA the same call goes to varlen_attn: what is passed fits its signature, and says causal and
    grouped."""
    calls, by_document = [], guard.attend_by_document
    monkeypatch.setattr(
        sys.modules["attention"],
        "attend_by_document",
        lambda *args, **kwargs: calls.append((args, kwargs)) or by_document(*args, **kwargs),
    )
    AttentionInterface.register("torch_varlen", guard.torch_varlen)
    logits(
        model_on("torch_varlen"),
        guard.Collator(True)([{"input_ids": np.arange(4, 20), "seq_lengths": [6, 10]}]),
    )
    given = inspect.signature(varlen_attn).bind(*calls[0][0], **calls[0][1]).arguments
    assert given["window_size"] == (-1, 0) and given["enable_gqa"] and given["max_q"] == given["max_k"] == 10
    assert (
        given["cu_seq_q"].tolist() == given["cu_seq_k"].tolist() == [0, 6, 16]
        and given["cu_seq_q"].dtype == torch.int32
    )
    assert given["query"].shape == (16, 4, 8) and given["key"].shape == given["value"].shape == (16, 2, 8)


def test_torch_varlen_without_packing_is_sdpa(guard):
    """Padded prompts and generation, as in evaluation."""
    varlen, sdpa = model_on("torch_varlen"), model_on("sdpa")
    ids = torch.randint(4, 64, (2, 8))
    inputs = {"input_ids": ids, "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])}
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(varlen.generate(**inputs, **settings), sdpa.generate(**inputs, **settings))
    with pytest.raises(ValueError, match="no attention dropout, sliding window or soft cap"):
        logits(
            model_on("torch_varlen", MistralConfig(**LLAMA.to_dict() | {"sliding_window": 4})),
            guard.Collator(True)([{"input_ids": np.arange(9), "seq_lengths": [9]}]),
        )


# ---------------------------------------------------------------- the probe at the start of a run
def blind(module, query, key, value, attention_mask, **kwargs):
    """A backend that heeds neither mask nor cu_seq_lens."""
    return sdpa_attention_forward(
        module, query, key, value, None, is_causal=True, scaling=kwargs.get("scaling")
    )


def dense_fa(module, query, key, value, attention_mask, **kwargs):
    """A flash backend whose model does not hand on cu_seq_lens: bounds are guessed, rightly for one row
    alone."""
    return flash_attention_forward(module, query, key, value, attention_mask, scaling=kwargs.get("scaling"))


def without_mask(module, *args, **kwargs):
    """Right by itself, but registered for attention only: transformers then makes no mask."""
    return sdpa_attention_forward(module, *args, **kwargs)


@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=["llama", "qwen3"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_probe_passes_what_isolates(guard, backend, config):
    state = torch.random.get_rng_state()
    [guard.check_isolation(config, backend, CPU, flat) for flat in (False, True)]
    assert torch.equal(state, torch.random.get_rng_state()), (
        "the run's random numbers are as without the probe"
    )


@pytest.mark.parametrize("backend", [blind, dense_fa, without_mask])
def test_the_probe_refuses_what_leaks(guard, backend):
    AttentionInterface.register(backend.__name__, backend)
    if backend is dense_fa:
        AttentionMaskInterface.register(backend.__name__, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    with pytest.raises(guard.Refused, match=f"{backend.__name__} lets packed documents see each other"):
        guard.check_isolation(LLAMA, backend.__name__, CPU, flat=False)


@pytest.mark.parametrize("backend", ["flash_attention_2", "flash_atention"])
def test_the_probe_refuses_what_does_not_run(guard, backend):
    """One is not installed here, the other is misspelt."""
    with pytest.raises(
        guard.Refused, match=f"attn_implementation {backend} does not run here.*Next: torch_varlen or sdpa"
    ):
        guard.check_isolation(LLAMA, backend, CPU, flat=False)


def test_a_run_on_a_leaking_backend_stops_before_the_first_step(lab):
    AttentionInterface.register("blind", blind)
    for name, config in (("pretrain", PRETRAIN), ("sft", {**SFT, "packing": True})):
        said = recipe(lab, name, {**config, "attn_implementation": "blind", "output_dir": "leaking"})
        assert (
            said and "blind lets packed documents see each other" in said and not (lab / "leaking").exists()
        )
    assert (
        recipe(
            lab,
            "pretrain",
            {
                **PRETRAIN,
                "attn_implementation": "blind",
                "document_masking": False,
                "max_steps": 1,
                "output_dir": "concat",
            },
        )
        is None
    )
