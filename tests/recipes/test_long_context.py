"""Longer context: shifted sparse attention shows no token what it must not see, positions are rescaled by the
YAML alone and stay rescaled in whatever is made of the run, and what cannot work is refused first."""

import copy
import importlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers.masking_utils import AttentionMaskInterface

from tests.lab import PRETRAIN, ROOT, SFT, recipe, run_json
from tests.recipes.test_packing import CPU, LLAMA, QWEN

LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LONGER = {"max_position_embeddings": 64, "rope_parameters": YARN}


@pytest.fixture(scope="module")
def lab(lab):
    """The lab's base model with 16 positions; its blocks have 32 tokens."""
    shutil.copytree(lab / "base", lab / "sixteen")
    config = json.loads((lab / "sixteen/config.json").read_text()) | {"max_position_embeddings": 16}
    (lab / "sixteen/config.json").write_text(json.dumps(config))
    return lab


@pytest.fixture
def guard(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    names = ("attention", "checks")
    return SimpleNamespace(
        **{key: value for name in names for key, value in vars(importlib.import_module(name)).items()}
    )


# ---------------------------------------------------------------- shifted sparse attention
def visible(heads, length, documents):
    """[heads, length, length]: what each head of shifted sparse attention may see, by its definition."""
    group, places = -(-length // 4), torch.arange(length)
    of_document = torch.repeat_interleave(torch.arange(len(documents)), torch.tensor(documents))
    masks = []
    for head in range(heads):
        shift = 0 if head < (heads + 1) // 2 else group - group // 2  # the first shifted group has group // 2
        number = (places + shift) // group
        same = (number[:, None] == number) & (of_document[:, None] == of_document)
        masks.append(same & (places[:, None] >= places))
    return torch.stack(masks)


@pytest.mark.parametrize("length", [32, 30, 5])
@pytest.mark.parametrize(("heads", "keys"), [(4, 4), (4, 2), (4, 1), (6, 3), (3, 3)])
@pytest.mark.parametrize("rows", ["whole", "documents", "padded"])
def test_each_head_sees_its_group_and_nothing_else(guard, rows, heads, keys, length):
    """Outputs and gradients equal dense attention under the mask of the definition: grouped queries, lengths
    that four does not divide, packed documents, padded rows."""
    torch.manual_seed(0)
    shapes = [(2, n, length, 8) for n in (heads, keys, keys)]
    q, k, v = (torch.randn(shape, requires_grad=True, dtype=torch.float64) for shape in shapes)
    documents = [length // 3, length - length // 3] if rows == "documents" else [length]
    given, used = {"attention_mask": None}, torch.ones(length, dtype=torch.bool)
    if rows == "documents":
        ends = torch.tensor([0, *documents, *documents]).cumsum(0).int()
        given |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": max(documents)}
    if rows == "padded":
        used[length - length // 4 :] = False
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        given["attention_mask"] = (causal & used).expand(2, 1, length, length)
    module = SimpleNamespace(training=True, num_key_value_groups=heads // keys)
    ours, _ = guard.shifted_sparse(module, q, k, v, scaling=0.3, **given)

    mask = visible(heads, length, documents)
    expected = scaled_dot_product_attention(q, k, v, mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    assert torch.allclose(ours[:, used], expected[:, used], atol=1e-12)
    for mine, right in zip(*(torch.autograd.grad(x[:, used].square().sum(), (q, k, v)) for x in (ours, expected)),
                           strict=True):  # fmt: skip
        assert torch.allclose(mine, right, atol=1e-12)


def wrapped(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """S2-Attn as it is commonly copied: half of the heads rolled by half a group, the ends joined."""
    group = query.shape[2] // 4
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    outputs = []
    for half, shift in zip(zip(*(x.chunk(2, dim=1) for x in (query, key, value)), strict=True), (0, group // 2),
                           strict=True):  # fmt: skip
        q, k, v = (x.roll(-shift, 2).unflatten(2, (4, group)).transpose(1, 2) for x in half)
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        outputs.append(out.transpose(1, 2).flatten(2, 3).roll(shift, 2))
    return torch.cat(outputs, dim=1).transpose(1, 2), None


def gradient_on_the_future(backend, config):
    """(of the logits of the first half on the second half, of the last token on the first group)."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=backend).train()
    seen = torch.randn(1, 32, config.hidden_size, requires_grad=True)
    logits = model(inputs_embeds=seen, use_cache=False).logits
    (future,) = torch.autograd.grad(logits[0, :16].square().sum(), seen, retain_graph=True)
    (past,) = torch.autograd.grad(logits[0, 15].square().sum(), seen)
    return future[0, 16:].abs().max().item(), past[0, :8].abs().max().item()


@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=["llama", "qwen3"])
@pytest.mark.guarantee("Long context", "Shifted sparse attention sees no later token and no other document.")
def test_nothing_comes_from_the_future_and_groups_are_linked(guard, config):
    """The probe finds the leak of the published wrap-around, and none here; half-shifted groups let a token
    see the group before its own."""
    AttentionInterface.register("wrapped", wrapped)
    AttentionMaskInterface.register("wrapped", lambda *args, **kwargs: None)
    leak, _ = gradient_on_the_future("wrapped", config)
    future, past = gradient_on_the_future("shifted_sparse", config)
    assert leak > 1e-6 and future == 0.0 and past > 0
    for flat in (False, True):
        guard.check_isolation(config, "shifted_sparse", CPU, flat)


def test_evaluation_and_generation_see_everything(guard):
    ids = torch.randint(4, 64, (2, 24))
    mask = torch.tensor([[0] * 4 + [1] * 20, [1] * 24])
    models = []
    for backend in ("shifted_sparse", "sdpa"):
        torch.manual_seed(0)
        models.append(
            AutoModelForCausalLM.from_config(copy.deepcopy(LLAMA), attn_implementation=backend).eval()
        )
    sparse, full = (model(input_ids=ids, attention_mask=mask).logits for model in models)
    assert torch.equal(sparse, full)
    settings = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(*(model.generate(ids, **settings) for model in models))
    sparse, full = (model.train()(input_ids=ids).logits for model in models)
    assert torch.allclose(sparse[:, :3], full[:, :3], atol=1e-6), (
        "within the first half group: full attention"
    )
    assert (sparse - full)[:, 6:].abs().amax(-1).gt(1e-7).all(), "beyond it: not"


# ---------------------------------------------------------------- positions
def test_a_yaml_extends_the_model_and_the_saved_config_says_so(lab):
    """Longer blocks than the model has positions; what is saved carries the scaling into everything that
    reads it, and a model trained further from it needs no key."""
    config = {**PRETRAIN, "from_scratch": False, "model_name_or_path": "sixteen", "max_steps": 1}
    config |= {"model_init_kwargs": LONGER, "output_dir": "longer", "attn_implementation": "shifted_sparse"}
    assert recipe(lab, "pretrain", config) is None
    saved = AutoConfig.from_pretrained(lab / "longer")
    assert saved.max_position_embeddings == 64 and saved.rope_parameters == YARN
    model = AutoModelForCausalLM.from_pretrained(lab / "longer")
    plain = AutoModelForCausalLM.from_config(LlamaConfig.from_pretrained(lab / "sixteen"))
    assert not torch.equal(model.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)
    again = {
        **config,
        "model_name_or_path": "longer",
        "model_init_kwargs": None,
        "output_dir": "longer_again",
    }
    assert recipe(lab, "pretrain", again) is None


def test_an_adapter_keeps_its_positions_through_the_merge(lab):
    """LoRA with trainable embeddings and norms on sparse attention, and the merged model of it."""
    lora = {"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    lora["modules_to_save"] = ["embed_tokens", "input_layernorm", "post_attention_layernorm", "norm"]
    config = {**PRETRAIN, "from_scratch": False, "model_name_or_path": "sixteen", "max_steps": 2}
    config |= {"model_init_kwargs": LONGER, "attn_implementation": "shifted_sparse"}
    assert recipe(lab, "pretrain", {**config, "lora": lora, "output_dir": "long_adapter"}) is None
    chat = {
        **SFT,
        "model_name_or_path": "sixteen",
        "output_dir": "long_chat",
        "max_steps": 1,
        "packing": True,
    }
    chat |= {"max_length": 64, "model_init_kwargs": LONGER, "attn_implementation": "shifted_sparse"}
    assert recipe(lab, "sft", chat) is None
    before = AutoModelForCausalLM.from_pretrained(lab / "sixteen").state_dict()
    for adapter in ("long_adapter", "long_chat"):
        merged = f"{adapter}_merged"
        assert recipe(lab, "merge_adapter", {"adapter": adapter, "output_dir": merged}) is None
        assert run_json(lab / merged)["parity"]["max_logit_difference"] < 1e-3
        assert AutoConfig.from_pretrained(lab / merged).rope_parameters == YARN
    after = AutoModelForCausalLM.from_pretrained(lab / "long_adapter_merged").state_dict()
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {*lora["target_modules"], *lora["modules_to_save"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (None, "texts of 32 tokens, but sixteen has 16 positions"),
        ({"max_position_embeddings": 64}, "texts of 64 tokens, but sixteen has 64 positions"),
        ({"rope_parameters": LINEAR}, "texts of 32 tokens, but sixteen has 16 positions"),
        (LONGER | {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, "without rope_theta"),
        (LONGER | {"rope_parameters": YARN | {"factor": 1.5}}, "factor 1.5 do not reach 64 tokens"),
        (LONGER | {"rope_parameters": LINEAR | {"rope_type": "yarn"}}, "without original_max_position"),
        (LONGER | {"rope_parameters": YARN | {"rope_type": "llama3"}}, "type llama3 without low_freq_factor"),
        (LONGER | {"rope_parameters": YARN | {"rope_type": "yarm"}}, "type yarm; there are default, linear"),
        (
            LONGER | {"rope_parameters": LINEAR | {"rope_type": "dynamic"}},
            "leave max_position_embeddings out",
        ),
    ],
)
@pytest.mark.guarantee(
    "Long context", "Texts longer than the model's positions are refused, with the lines to add."
)
def test_positions_that_do_not_fit_are_refused(lab, changes, said):
    config = {**PRETRAIN, "from_scratch": False, "model_name_or_path": "sixteen", "max_steps": 1}
    refused = recipe(lab, "pretrain", {**config, "model_init_kwargs": changes, "output_dir": "never"})
    assert said in refused and not (lab / "never").exists()
    if "lines in the YAML" in refused:  # they are YAML, and they are enough
        import yaml

        lines = yaml.safe_load(refused.split("in the YAML:")[1])
        assert lines["model_init_kwargs"]["rope_parameters"]["rope_theta"] == 10000.0
        name = f"advised_{abs(hash(said))}"
        assert recipe(lab, "pretrain", {**config, **lines, "output_dir": name}) is None


def test_llama3_scaling_is_in_the_saved_config(lab):
    llama3 = YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = {**PRETRAIN, "from_scratch": False, "model_name_or_path": "sixteen", "max_steps": 1}
    config |= {"model_init_kwargs": LONGER | {"rope_parameters": llama3}, "output_dir": "llama3"}
    assert recipe(lab, "pretrain", config) is None
    saved = AutoConfig.from_pretrained(lab / "llama3")
    assert saved.rope_parameters == llama3 and saved.max_position_embeddings == 64


def test_dynamic_scaling_and_the_limit_of_the_tokenizer(lab):
    dynamic = {"rope_parameters": LINEAR | {"rope_type": "dynamic"}}
    config = {**PRETRAIN, "from_scratch": False, "model_name_or_path": "sixteen", "max_steps": 1}
    dynamic = {**config, "model_init_kwargs": dynamic, "output_dir": "dynamic"}
    assert recipe(lab, "pretrain", dynamic) is None
    shutil.copytree(lab / "base", lab / "short_tokenizer")
    file = lab / "short_tokenizer/tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 16}))
    said = recipe(lab, "pretrain", {**config, "model_name_or_path": "short_tokenizer", "output_dir": "never"})
    assert "model_max_length 16, texts have 32 tokens. Next: model_max_length 32" in said


@pytest.mark.parametrize(
    ("kind", "size", "given", "said"),
    [
        (
            "CP",
            2,
            {"packing": "packing"},
            "context parallelism .cp_size 2. drops the mask.*Next: packing false",
        ),
        ("SP", 2, {"packing": "document_masking"}, "Ulysses .sp_size 2. drops.*Next: document_masking false"),
        (
            "CP",
            2,
            {"attn_implementation": "shifted_sparse"},
            "works with sdpa, attn_implementation is shifted",
        ),
        ("SP", 3, {}, "sp_size 3 does not divide 4 heads"),
        ("CP", 2, {"length": 66}, "needs lengths that 4 divides, not 66. Next: 64"),
    ],
)
def test_what_sequence_parallelism_would_train_wrongly_is_refused(
    guard, monkeypatch, kind, size, given, said
):
    given = {"attn_implementation": "sdpa", "length": 64} | given
    guard.check_sequence_ranks(LLAMA, **given)
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    monkeypatch.setenv(f"PARALLELISM_CONFIG_{kind}_SIZE", str(size))
    assert guard.sequence_ranks() == size
    with pytest.raises(guard.Refused, match=said):
        guard.check_sequence_ranks(LLAMA, **given)
