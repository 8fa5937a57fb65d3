"""Each fault that costs weeks is made on purpose and found by its own check and no other; right runs pass.

Faults are made in rows, templates, tokenizers and copied recipes, as users make them.
"""

import contextlib
import csv
import importlib
import importlib.util
import json
import os
import runpy
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
import yaml
from transformers import AttentionInterface, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from data_prep import build_blocks
from data_prep.demo import backbone
from data_prep.files import write_jsonl
from recipes.tools import preflight
from tests import tokenizer_families as tokenizers
from tests.data_prep.test_blocks import MIXTURE, write_documents
from tests.lab import PRETRAIN, ROOT, SFT, TASK
from tests.tiny_model import make_tokenizer

CONFIGS = {"pretrain": {**PRETRAIN, "output_dir": "base"}, "sft": {**SFT, "model_name_or_path": "model"}}
CONFIGS["task"] = {**TASK, "model_name_or_path": "model"}
PACKED = {"packing": True, "attn_implementation": "sdpa"}
TEMPLATE = (ROOT / "recipes/chat_template.jinja").read_text(encoding="utf-8")
OPEN = "{%- generation -%}{{- ' ' + message"
BLANK_BEFORE = TEMPLATE.replace(OPEN, "{{- ' ' -}}{%- generation -%}{{- message")  # as LLaMA-2's own format
TRL = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
TALK = [{"role": "user", "content": "Is the liver painful?"}, {"role": "assistant", "content": "It is."}]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """backbone (no weights), model (with weights), blocks, rows (the last one has two answers), task_rows."""
    root = tmp_path_factory.mktemp("preflight")
    write_documents(root / "documents")
    documents = ["--documents", str(root / "documents")]
    backbone.main([*documents, "--out", str(root / "backbone"), "--vocab_size", "400"])
    (root / "mixture.yaml").write_text(yaml.safe_dump(MIXTURE))
    arguments = {"tokenizer": "backbone", "mixture": "mixture.yaml", "out": "blocks"}
    build_blocks.main([*documents, *(f"--{name}={root / path}" for name, path in arguments.items())])
    shutil.copytree(root / "backbone", root / "model")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(root / "model")).save_pretrained(root / "model")
    common = {"task": "t", "scoring": "none", "source": "s", "license": "CC0", "access": "gated"}
    answers = [
        {"prompt": f"Is fever {i} given?\n", "completion": "yes" if i % 2 else "no"} for i in range(40)
    ]
    for folder, more in (("rows", [{"id": "talk", "messages": TALK * 2}]), ("task_rows", [])):
        for split in ("train", "validation"):
            rows = [{"id": f"{split}{i}", **row} for i, row in enumerate(answers)] + more
            write_jsonl(root / folder / f"{split}.jsonl", [{"split": split, **common, **row} for row in rows])
        (root / folder / "manifest.json").write_text(json.dumps({"access": "gated", "licenses": ["CC0"]}))
    return root


@pytest.fixture
def inspect(lab, monkeypatch):
    """inspect(stage, changes of its YAML, *arguments): the report, and the lines for a person."""
    monkeypatch.chdir(lab)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(stage, changes=None, *arguments):
        Path("run.yaml").write_text(yaml.safe_dump({**CONFIGS[stage], **(changes or {})}))
        return preflight.inspect(
            *preflight.make_parser().parse_known_args(["--config", "run.yaml", *arguments])
        )

    return call


def said(report):
    return "\n".join(
        f"{check}: {what} Next: {change} Where: {where}"
        for (check, what, change), where in report.failures.items()
    )


def assert_only(report, check, *texts):
    assert report.failed() == [check], said(report)
    for text in texts:
        assert text in said(report)


def copy_of(name, *edits, after=""):
    """Arguments for a copy of recipes/NAME.py with texts replaced and code added `after` make_trainer."""
    text = (ROOT / f"recipes/{name}.py").read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    folder = Path(f"copies/{len(list(Path('copies').glob('*')))}")
    folder.mkdir(parents=True)
    main = 'if __name__ == "__main__":'
    (folder / f"my_{name}.py").write_text(text.replace(main, f"{after}\n\n{main}"), encoding="utf-8")
    return "--recipe", str(folder / f"my_{name}.py")


def after_trainer(code):
    """Code that changes the trainer that make_trainer gives."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    return (
        f"stock = make_trainer\n\n\ndef make_trainer(args, data, model=None):\n"
        f"    trainer = stock(args, data, model)\n{lines}"
        "    return trainer\n"
    )


# ---------------------------------------------------------------- what is right
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("pretrain", {}),
        ("pretrain", {"document_masking": False}),
        ("sft", {}),
        ("sft", PACKED),
        ("sft", {"padding_free": True, "max_length": None}),
        ("sft", {**PACKED, "packing_strategy": "wrapped", "max_length": 24}),
        ("sft", {**PACKED, "packing_strategy": "bfd_split", "max_length": 24}),
        ("sft", {"assistant_only_loss": False}),
        ("sft", {**PACKED, "dtype": "bfloat16", "learning_rate": 1e-5}),
        ("task", {}),
        ("task", {**PACKED, "use_peft": True, "lora_target_modules": "all-linear"}),
    ],
)
def test_what_is_right_passes(inspect, stage, changes):
    report, shown = inspect(stage, changes)
    assert report.failed() == [], said(report)
    assert set(report.notes) == set(preflight.WHY) and all(report.notes.values()), "every check has run"
    assert len([line for line in shown if not line.startswith(" ")]) == 3
    assert not Path(CONFIGS[stage]["output_dir"]).exists(), "nothing is written"
    texts = "".join(shown)
    if stage == "pretrain":
        masked = changes.get("document_masking", True)
        assert "</s>⟧" in texts and ("⟦<s>" in texts) != masked, (
            "masked, no document predicts its own beginning"
        )
    elif changes.get("assistant_only_loss", True):
        assert "no</s>⟧" in texts and "⟦Is fever" not in texts


def test_the_shipped_yamls_of_the_demo_pass(lab, inspect, tmp_path, monkeypatch):
    """On small data in the places that they name; the inferred recipe is the one they name in their head."""
    monkeypatch.chdir(tmp_path)
    links = {
        "data/demo/backbone_config": "backbone",
        "data/demo/blocks_general": "blocks",
        "data/demo/blocks": "blocks",
        "outputs/demo/backbone": "model",
        "outputs/demo/foundation": "model",
        "data/demo/instructions": "rows",
        "data/demo/tasks/i2b2": "task_rows",
    }
    for link, target in links.items():
        Path(link).parent.mkdir(parents=True, exist_ok=True)
        Path(link).symlink_to(lab / target)
    Path("recipes").symlink_to(ROOT / "recipes")
    for name in ("demo_backbone", "demo_foundation", "demo_chat", "demo_backbone_chat", "demo_task"):
        path = Path(f"recipes/configs/{name}.yaml")
        assert f"recipes/{preflight.infer_recipe(path)}.py" in path.read_text(encoding="utf-8")
        report, _ = preflight.inspect(*preflight.make_parser().parse_known_args(["--config", str(path)]))
        assert report.failed() == [], said(report)


# ---------------------------------------------------------------- formats of real models
CHATML = (  # SmolLM2's: BOS is the turn marker, and a default system turn comes first
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)


def trl_template(name):
    return (TRL / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.fixture
def family(lab, tmp_path):
    """family(tokenizer, template, ...): changes of the YAML for a model with this tokenizer and format."""

    def make(tokenizer, template, architecture="Llama", eos=None, added=(), **changes):
        if added:
            tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "family")
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = getattr(transformers, f"{architecture}Config")(vocab_size=len(tokenizer), **sizes)
        config.save_pretrained(tmp_path / "family")
        if eos:
            ids = tokenizer.convert_tokens_to_ids(eos)
            GenerationConfig(eos_token_id=ids).save_pretrained(tmp_path / "family")
        model = {
            "model_name_or_path": str(tmp_path / "family"),
            "chat_template_path": None,
            "max_length": 1024,
        }
        return model | {"pad_token": "<pad>" if "<pad>" in tokenizer.get_vocab() else None} | changes

    return make


def llama3(eos="<|eot_id|>"):
    tokenizer = tokenizers.llama3()
    tokenizer.eos_token = eos
    return tokenizer


HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<pad>")
QWEN = {"added": (), "pad_token": "<|endoftext|>", "architecture": "Qwen3"}
SMOLLM = {"pad_token": "<|endoftext|>"}
GEMMA = {
    "architecture": "Gemma",
    "eos": ["<eos>", "<end_of_turn>"],
    "added": ("<start_of_turn>", "<end_of_turn>"),
}
FORMATS = {
    "LLaMA-2, ours": (tokenizers.llama2, TEMPLATE, {"pad_token": "<unk>"}),
    "LLaMA-2, its own": (tokenizers.llama2, BLANK_BEFORE, {"pad_token": "<unk>"}),
    "Llama-3": (llama3, trl_template("llama3_training"), {"added": HEADERS}),
    "Llama-3, stock template": (llama3, trl_template("llama3"), {"added": HEADERS}),
    "Llama-3, EOS in generation_config": (
        lambda: llama3("<|end_of_text|>"),
        trl_template("llama3_training"),
        {"added": HEADERS, "eos": ["<|end_of_text|>", "<|eot_id|>"]},
    ),
    "SmolLM2": (tokenizers.smollm2, CHATML, SMOLLM),
    "Qwen2.5": (tokenizers.qwen3, trl_template("qwen2_5_training"), QWEN),
    "Qwen3": (tokenizers.qwen3, trl_template("qwen3_training"), QWEN),
    "Qwen3, stock template": (tokenizers.qwen3, trl_template("qwen3"), QWEN | {"rows": "single"}),
    "Qwen3, thinking": (tokenizers.qwen3, trl_template("qwen3_training"), QWEN | {"rows": "thinking"}),
    "Qwen3, no thinking": (tokenizers.qwen3, trl_template("qwen3_training"), QWEN | {"rows": "no_thinking"}),
    "Qwen3, tools": (tokenizers.qwen3, trl_template("qwen3_training"), QWEN | {"rows": "tools"}),
    "Gemma": (tokenizers.gemma, trl_template("gemma_training"), GEMMA),
    "Gemma, stock template": (tokenizers.gemma, trl_template("gemma"), GEMMA),
    "Mistral": (tokenizers.llama2, MISTRAL, {"pad_token": "<unk>", "architecture": "Mistral"}),
    "ChatML on a tokenizer without BOS": (tokenizers.qwen3, CHATML, QWEN),
    "GPT-NeoX": (tokenizers.gpt_neox, MISTRAL.replace("bos_token", "''"), {"pad_token": "<|padding|>"}),
}


@pytest.fixture
def format_rows(lab):
    tools = {"name": "look", "description": "d", "parameters": {"type": "object", "properties": {}}}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "look", "arguments": {}}}],
    }
    found = [TALK[0], call, {"role": "tool", "content": "It is."}, TALK[1]]
    thought = [TALK[0], {"role": "assistant", "content": "<think>\nThe liver.\n</think>\n\nIt is."}]
    write_rows(lab, "single", {"messages": TALK}, {"messages": TALK})
    write_rows(lab, "thinking", {"messages": thought}, {"messages": TALK})
    write_rows(
        lab, "no_thinking", *[{"messages": TALK, "chat_template_kwargs": {"enable_thinking": False}}] * 2
    )
    write_rows(lab, "tools", *[{"messages": found, "tools": [{"type": "function", "function": tools}]}] * 2)


def write_rows(lab, name, *rows, access="gated"):
    rows = [{"id": f"train{i}", "access": access, **row} for i, row in enumerate(rows)]
    for split in ("train", "validation"):
        write_jsonl(lab / name / f"{split}.jsonl", rows)
    (lab / name / "manifest.json").write_text(json.dumps({"access": access}))
    return {"rows": name}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_real_models_pass(inspect, family, format_rows, name):
    tokenizer, template, changes = FORMATS[name]
    report, _ = inspect("sft", family(tokenizer(), template, **changes))
    assert report.failed() == [], said(report)
    blank = "a blank that is not trained" in report.notes["prompt"]
    assert blank == (template == BLANK_BEFORE) or name.startswith("LLaMA-2"), report.notes["prompt"]


@pytest.mark.parametrize("name", tokenizers.FAMILIES)
def test_prompts_without_a_template_begin_as_each_tokenizer_begins_them(inspect, family, name):
    changes = family(tokenizers.FAMILIES[name](), None)
    changes["pad_token"] = {
        "llama2": "<unk>",
        "llama3": "<|eot_id|>",
        "gpt_neox": "<|padding|>",
        "gemma": "<pad>",
    }.get(name, "<|endoftext|>")
    report, _ = inspect("task", {k: v for k, v in changes.items() if k != "chat_template_path"})
    assert report.failed() == [], said(report)
    assert ("begins a text with BOS" in report.notes["bos"]) == (name in tokenizers.ADDS_BOS)


def test_turns_of_qwen3_that_are_prompted_without_their_thinking(inspect, family):
    """TRL trains several turns on its own variant of the stock template: the file to name is told."""
    changes = family(tokenizers.qwen3(), trl_template("qwen3"), **QWEN)
    assert_only(inspect("sft", changes)[0], "prompt", f"chat_template_path {TRL}/qwen3_training.jinja")
    report, _ = inspect("sft", {**changes, "chat_template_path": f"{TRL}/qwen3_training.jinja"})
    assert report.failed() == [], said(report)


def test_an_answer_ends_in_a_token_at_which_generation_stops(inspect, family):
    """A base model that takes over a chat format: the YAML names the token that ends its turns."""
    changes = family(llama3("<|end_of_text|>"), trl_template("llama3_training"), added=HEADERS)
    report, _ = inspect("sft", changes)
    assert_only(report, "eos", "an answer does not end in a supervised EOS", "or eos_token in the YAML")
    report, _ = inspect("sft", {**changes, "eos_token": "<|eot_id|>"})
    assert report.failed() == [], said(report)


# ---------------------------------------------------------------- what is wrong in a template or tokenizer
def test_padding_with_eos(inspect):
    report, _ = inspect("sft", {"pad_token": "</s>"})
    assert_only(report, "padding", "no pad token distinct from EOS", "pad_token '<unk>' in the YAML")


END = "+ eos_token -}}{%- endgeneration -%}"


@pytest.mark.parametrize(
    ("check", "old", "new", "found"),
    [
        ("eos", " + eos_token", "", "row train0 (rows/train.jsonl line 1), token 22: ' [/INST] no' | ''"),
        ("eos", " + eos_token", " + (eos_token if message['content'] == 'no' else '')", "row train1 (rows"),
        ("eos", END, "-}}{%- endgeneration -%}{{- eos_token -}}", "does not end in a supervised EOS"),
        ("eos", "' ' + message", "' ' + eos_token + message", "EOS stands inside an answer"),
        ("bos", "(bos_token or '')", "bos_token + bos_token", "BOS stands twice"),
        ("bos", "(bos_token or '')", "''", "a row does not begin with BOS"),
        ("bos", "{%- generation -%}", "{{- bos_token -}}{%- generation -%}", "BOS stands inside a text"),
        (
            "prompt",
            "set system = ''",
            "set system = 'Be brief. ' if add_generation_prompt else ''",
            "for generate",
        ),
        ("prompt", "{%- generation -%}", "{{- ' Answer:' -}}{%- generation -%}", "'l? [/INST]' | ' Answer:"),
        (
            "prompt",
            "{%- generation -%}",
            "{{- '\n' -}}{%- generation -%}",
            "is not what comes before the answer",
        ),
    ],
)
@pytest.mark.guarantee(
    "Before a run",
    "Misplaced EOS, BOS and padding, and templates that differ between training, generate, evaluation and a "
    "server, stop a launch.",
)
def test_a_template_gone_wrong(inspect, check, old, new, found):
    assert old in TEMPLATE
    Path("wrong.jinja").write_text(TEMPLATE.replace(old, new))
    assert_only(inspect("sft", {"chat_template_path": "wrong.jinja"})[0], check, found)


def test_a_template_that_renders_bos_for_every_message(inspect, family):
    template = trl_template("llama3_training")
    first = "{%- if loop.index0 == 0 %}{{- bos_token }}{%- endif %}"
    assert first in template
    report, _ = inspect("sft", family(llama3(), template.replace(first, "{{- bos_token }}"), added=HEADERS))
    assert "bos" in report.failed() and "BOS stands more often than turns of the user" in said(report)


@pytest.mark.parametrize("source", ["path", "chat_template.jinja", "tokenizer_config.json"])
def test_a_template_without_generation_marks_is_named_with_its_file(inspect, family, source, tmp_path):
    bare = TEMPLATE.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    changes = family(tokenizers.llama2(), bare, pad_token="<unk>")
    file = tmp_path / "family/chat_template.jinja"
    if source == "path":
        file = file.rename(tmp_path / "bare.jinja")
        changes["chat_template_path"] = str(file)
    elif source == "tokenizer_config.json":
        config = json.loads(file.with_name(source).read_text())
        file.with_name(source).write_text(json.dumps(config | {"chat_template": bare}))
        file.unlink()
        file = file.with_name(source)
    report, _ = inspect("sft", changes)
    assert_only(report, "inputs", f"the chat template in {file} has no {{% generation %}} marks", "enclose")


def test_a_template_that_refuses_a_role_names_the_row(inspect, lab, family):
    system = [{"role": "system", "content": "Be brief."}, *TALK]
    rows = with_rows(lab, "system", {"messages": system})
    report, _ = inspect("sft", family(tokenizers.gemma(), trl_template("gemma_training"), **GEMMA, **rows))
    assert_only(
        report,
        "inputs",
        "the chat template refuses a row: System role not supported",
        "row added0 (system/train.jsonl line 42): system, user, assistant",
        "a system text can begin the first question",
    )
    assert not inspect("sft", rows)[0].failed(), "ours has a system turn"


def test_the_tokenizer_that_is_saved_renders_otherwise(inspect):
    """What evaluation and a server load is the saved tokenizer: here one that has kept another template."""
    other = trl_template("llama3_training")
    recipe = copy_of("sft", after=after_trainer(f"trainer.processing_class.chat_template = {other!r}"))
    report, _ = inspect("sft", {}, *recipe)
    assert_only(report, "prompt", "the prompt for a server", "the prompt for generate", "token 0: ")


def test_a_prompt_that_does_not_end_where_a_token_ends(inspect, lab):
    rows = [{"prompt": "Is it the patient's li", "completion": "ver"}] * 2
    report, _ = inspect("task", write_rows(lab, "joined", *rows))
    assert_only(report, "prompt", "the prompt for evaluation is not what comes before the answer")


def test_evaluation_asks_as_the_harness_does():
    from lm_eval.models.huggingface import HFLM

    for tokens in ({}, {"adds_bos": False}, {"bos": None, "eos": "<|im_end|>", "adds_bos": False}):
        tokenizer = make_tokenizer(**tokens)
        prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        harness = SimpleNamespace(
            tokenizer=tokenizer, backend="causal", add_bos_token=None, prefix_token_id=prefix
        )
        for text in ("Which drug?", "<s>[INST] Which drug? [/INST]", "<|im_start|>user"):
            ids = preflight.evaluation_ids(tokenizer, text)
            batch = HFLM.tok_batch_encode(harness, [text])[0][0].tolist()
            assert ids == batch == HFLM.tok_encode(harness, text)


# ---------------------------------------------------------------- what is wrong in the data
def with_rows(lab, name, *rows):
    shutil.copytree(lab / "rows", lab / name, dirs_exist_ok=True)
    added = [json.dumps({"id": f"added{i}", "access": "gated", **row}) + "\n" for i, row in enumerate(rows)]
    with (lab / name / "train.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(added)
    return {"rows": name}


def test_a_row_that_nobody_answers(inspect, lab):
    changes = with_rows(lab, "silent", {"messages": TALK[:1]}, {"messages": TALK})
    where = "row added0 (silent/train.jsonl line 42): user"
    assert_only(inspect("sft", changes)[0], "labels", "a row has no supervised token", where)


@pytest.mark.parametrize(
    ("check", "row", "where"),
    [
        ("bos", {"prompt": "What is <s> in HTML?", "completion": "struck out"}, "line 42), user"),
        ("eos", {"prompt": "What?", "completion": "Take aspirin</s> then ibuprofen"}, "line 42), assistant"),
        ("inputs", {"prompt": "What?", "completion": "An <unk> cause"}, "line 42), assistant"),
    ],
)
def test_special_tokens_in_the_text_of_a_row(inspect, lab, check, row, where):
    changes = with_rows(lab, f"odd_{check}", row)
    assert_only(
        inspect("sft", changes)[0],
        check,
        "would be read as a control token",
        f"row added0 (odd_{check}",
        where,
    )


def test_a_format_written_into_every_prompt_is_not_a_stray_token(inspect, lab):
    rows = [{"prompt": f"<unk>case {i}<unk>\n", "completion": "yes</s>"} for i in range(4)]
    report, _ = inspect("task", write_rows(lab, "format", *rows))
    assert not report.failed(), said(report)
    report, _ = inspect("task", write_rows(lab, "stray", *rows, {"prompt": "case\n", "completion": "no"}))
    assert_only(report, "inputs", "<unk> in the text of a row", "row train0", "prompt")


@pytest.mark.parametrize("role", ["tool", "system"])
def test_a_turn_of_another_role_that_would_be_trained(inspect, lab, role):
    """Our template refuses it by name; a template that marks it as generation is refused."""
    talk = [TALK[0], {"role": role, "content": "yes"}, TALK[1]]
    changes = with_rows(lab, f"turn_{role}", {"messages": talk})
    report, _ = inspect("sft", changes)
    assert_only(report, "inputs", "turns of user and assistant", f"line 42): user, {role}, assistant")
    Path("marks.jinja").write_text(TEMPLATE.replace("elif message['role'] == 'assistant'", "elif true"))
    report, _ = inspect("sft", {**changes, "chat_template_path": "marks.jinja"})
    assert "labels" in report.failed(), said(report)
    assert f"a turn of {role} is trained as the assistant's words" in said(report)


def test_too_many_rows_are_cut(inspect, lab):
    long = {"prompt": "Is the liver painful? " * 30, "completion": "yes"}
    changes = with_rows(lab, "long", long)
    report, _ = inspect("sft", changes)
    what = "2.38 % of the rows are longer than max_length 128, 1 of them have no answer left"
    assert_only(report, "truncation", what, "row added0")
    assert not inspect("sft", changes, "--max_truncated", "0.03")[0].failed()
    needed = said(report).split("Next: max_length ")[1].split(",")[0]
    assert not inspect("sft", {**changes, "max_length": int(needed)})[0].failed()
    assert_only(inspect("sft", {**changes, **PACKED})[0], "truncation")
    split = inspect("sft", {**changes, **PACKED, "packing_strategy": "bfd_split"})[0]
    assert not split.failed() and "packing splits them" in split.notes["truncation"]


def test_the_first_and_the_last_row_are_among_a_sample(inspect, lab):
    changes = with_rows(lab, "last", {"messages": TALK[:1]})
    report, _ = inspect("sft", changes, "--sample", "5")
    assert_only(report, "labels", "row added0")
    assert report.notes["inputs"] == "4 of 42 rows"
    assert preflight.spread(10, 4).tolist() == [0, 3, 6, 9] and preflight.spread(3, 99).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("check", "change", "found"),
    [
        ("bos", "np.where(ids == 1, 5, ids)", "a document does not begin with BOS"),
        ("bos", "np.where(np.roll(ids, 1) == 1, 1, ids)", "BOS stands twice"),
        ("eos", "np.where(ids == 2, 5, ids)", "a document does not end in EOS"),
        ("eos", "np.where(np.roll(ids, 1) == 1, 2, ids)", "EOS stands inside a document"),
        ("vocabulary", "np.where(ids == ids[3], 999, ids)", "an id has no row in the embedding of 400"),
    ],
)
def test_blocks_gone_wrong(inspect, check, change, found):
    item = "return self.rows[int(i if self.order is None else self.order[i])]"
    row = item.replace("return", "row =")
    code = (
        f"{row}\n        ids = np.asarray(row['input_ids'])\n        return row | {{'input_ids': {change}}}"
    )
    report, _ = inspect("pretrain", {}, *copy_of("pretrain", (item, code)))
    assert_only(report, check, found, "block ", "of train/")


@pytest.mark.guarantee("Before a run", "Blocks of another tokenizer stop a launch.")
def test_blocks_of_another_tokenizer(inspect, lab):
    backbone.main(["--documents", str(lab / "documents"), "--out", str(lab / "other"), "--vocab_size", "420"])
    report, _ = inspect("pretrain", {"model_name_or_path": "other"})
    what = "the tokenizer of other is not the one that made blocks"
    assert_only(report, "vocabulary", what, "data_prep.build_blocks --tokenizer other")
    config = json.loads((lab / "other" / "tokenizer_config.json").read_text())
    shutil.copy(lab / "backbone" / "tokenizer.json", lab / "other")
    (lab / "other" / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<unk>"}))
    report, _ = inspect("pretrain", {"model_name_or_path": "other"})
    assert "vocabulary" in report.failed() and "eos is 2 in the blocks, 0 in the tokenizer" in said(report)


def test_ids_beyond_the_embedding(inspect, lab):
    shutil.copytree(lab / "backbone", lab / "small", dirs_exist_ok=True)
    LlamaConfig.from_pretrained(lab / "backbone", vocab_size=300).save_pretrained(lab / "small")
    report, _ = inspect("sft", {"model_name_or_path": "small"})
    size = "the tokenizer has 400 tokens, the embedding 300 rows"
    assert_only(report, "vocabulary", "an id has no row in the embedding of 300", size)
    config = LlamaConfig.from_pretrained(lab / "backbone", vocab_size=390)
    LlamaForCausalLM(config).save_pretrained(lab / "small")
    LlamaConfig.from_pretrained(lab / "backbone").save_pretrained(lab / "small")
    report, _ = inspect("sft", {"model_name_or_path": "small"})
    assert_only(report, "vocabulary", "model.embed_tokens.weight has 390 rows, config.json says 400")


# ---------------------------------------------------------------- what is wrong in a batch
def blind(module, query, key, value, attention_mask, **kwargs):
    return sdpa_attention_forward(module, query, key, value, None, is_causal=True)


@pytest.mark.parametrize(("stage", "changes"), [("pretrain", {}), ("sft", PACKED), ("task", PACKED)])
@pytest.mark.guarantee("Before a run", "Attention that leaks between packed documents stops a launch.")
def test_attention_that_leaks(inspect, stage, changes):
    AttentionInterface.register("blind", blind)
    report, _ = inspect(stage, {**changes, "attn_implementation": "blind"})
    assert_only(report, "packing", "blind lets packed documents see each other")


LOSE_A_BOUND = (
    "bounds = batch['cu_seq_lens_q']; batch['cu_seq_lens_q'] = bounds.__class__([*bounds[:1], *bounds[2:]])"
)


@pytest.mark.parametrize(
    ("stage", "changes", "fault", "check", "found"),
    [
        ("sft", {}, "batch['labels'][:, -1] = 5", "padding", "a pad position has a label"),
        ("task", {}, "batch['labels'][:, 1] = 5", "labels", "a batch has other ids or labels than its row"),
        ("pretrain", {}, LOSE_A_BOUND, "packing", "a bound is not where a document begins"),
        ("sft", PACKED, "batch['position_ids'] += 1", "packing", "positions do not begin anew"),
    ],
)
def test_a_collator_gone_wrong(inspect, stage, changes, fault, check, found):
    wrap = (
        "plain = trainer.data_collator\n"
        f"def faulty(rows):\n    batch = plain(rows)\n    {fault}\n    return batch\n"
    )
    recipe = copy_of(
        "pretrain" if stage == "pretrain" else "sft",
        after=after_trainer(f"{wrap}trainer.data_collator = faulty"),
    )
    report, _ = inspect(stage, changes, *recipe)
    assert check in report.failed() and set(report.failed()) <= {check, "labels"}, said(report)
    assert found in said(report)


def test_documents_that_are_no_rows(inspect):
    """Packing that cuts in the wrong places: bounds agree with seq_lengths, documents are no rows."""
    shift = (
        "def shift(row):\n    a, b, *more = row['seq_lengths']\n"
        "    return {'seq_lengths': [a + 1, b - 1, *more]}\n"
        "if 'seq_lengths' in trainer.train_dataset.column_names:\n"
        "    trainer.train_dataset = trainer.train_dataset.map(shift)"
    )
    report, _ = inspect("sft", PACKED, *copy_of("sft", after=after_trainer(shift)))
    assert "packing" in report.failed() and "what stands between two bounds is no row" in said(report)


# ---------------------------------------------------------------- what is wrong in settings and machine
@pytest.mark.parametrize(
    ("model", "origin"),
    [("backbone", "none stored here, random as at initialisation"), ("model", "weights: 24 stored tensors")],
)
@pytest.mark.guarantee("Before a run", "A learning rate that 16-bit weights lose stops a launch.")
def test_a_learning_rate_that_16_bits_lose(inspect, model, origin):
    low = {"model_name_or_path": model, "dtype": "bfloat16", "learning_rate": 8e-6, "from_scratch": False}
    report, _ = inspect("pretrain", low)
    assert_only(report, "precision", "% of the torch.bfloat16 weights would move", "dtype float32")
    assert origin in report.notes["precision"]
    assert not inspect("pretrain", {**low, "learning_rate": 1e-3})[0].failed()
    rounded = {"optim": "adamw_torch_8bit", "optim_args": "bf16_stochastic_round=True"}
    assert not inspect("pretrain", {**low, **rounded})[0].failed()


def test_a_full_disk(inspect, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4_000_000))
    report, _ = inspect("sft", {"use_peft": False})
    assert_only(
        report, "disk", "adapter: 4 checkpoints and the model need", "0.004 GB are free", "save_total_limit 1"
    )
    assert not inspect("sft", {"lora_r": 1})[0].failed(), "an adapter is small"


@pytest.mark.parametrize("access", ["gated", "credentialed"])
def test_a_tracker_that_sends_data_away(inspect, lab, access):
    shutil.copytree(lab / "rows", lab / access, dirs_exist_ok=True)
    (lab / access / "manifest.json").write_text(json.dumps({"access": access, "licenses": ["Agreement 7"]}))
    changes = {"rows": access, "report_to": ["wandb"]}
    report, _ = inspect("sft", changes)
    assert report.failed() == ["launch"] and "wandb would send data away" in said(report)
    allowed, _ = inspect("sft", {**changes, "allow_upload": True})
    if access == "gated":
        assert not allowed.failed()
    else:
        assert_only(allowed, "launch", "credentialed text is not sent to")


def as_credentialed(lab, name):
    rows = (lab / "rows" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(row) | {"access": "credentialed"} for row in rows]
    shutil.copytree(lab / "rows", lab / name, dirs_exist_ok=True)
    write_jsonl(lab / name / "train.jsonl", rows)
    return rows


@pytest.mark.guarantee("Before a run", "Preflight prints no text of credentialed rows.")
def test_texts_of_credentialed_rows_are_not_shown(inspect, lab):
    rows = as_credentialed(lab, "closed")
    Path("endless.jinja").write_text(TEMPLATE.replace(" + eos_token", ""))
    raises = "{{- raise_exception(message['content']) if message['content'] | length == 2 -}}"
    Path("quoting.jinja").write_text(TEMPLATE.replace("{%- generation -%}", raises + "{%- generation -%}"))
    for template in (CONFIGS["sft"]["chat_template_path"], "endless.jinja", "quoting.jinja"):
        report, shown = inspect("sft", {"rows": "closed", "chat_template_path": template})
        everything = said(report) + "".join(shown)
        assert "fever" not in everything and "liver" not in everything and "ids [" not in everything
        assert "row train" in everything and "Supervised are tokens 2" in everything
        assert "refuses a row: no" not in everything and bool(report.failed()) == ("jinja" in template[:15])
    _, shown = inspect("sft", {"rows": "closed"}, "--show_texts")
    assert "Is fever 0 given?" in "".join(shown)
    write_jsonl(lab / "closed" / "train.jsonl", [*rows, {**rows[0], "id": "open", "access": "public"}])
    (lab / "closed" / "manifest.json").write_text(json.dumps({"access": "credentialed"}))
    _, shown = inspect("sft", {"rows": "closed"})
    assert shown[0].startswith("row open") and len(shown) == 2, "what may be shown comes first"


@pytest.mark.parametrize(
    "manifest",
    [
        {"access": "credentialed"},
        {"inputs": [{"access": "credentialed"}]},
        {"access": "secret"},
        {"access": "public", "inputs": [{"access": "credentialed"}]},
    ],
)
def test_rows_that_say_less_than_their_manifest_are_not_shown(inspect, lab, manifest):
    shutil.copytree(lab / "task_rows", lab / "understated", dirs_exist_ok=True)
    (lab / "understated" / "manifest.json").write_text(json.dumps(manifest))
    report, shown = inspect("task", {"rows": "understated"})
    assert shown and "fever" not in said(report) + "".join(shown)


def test_an_error_of_a_library_quotes_no_credentialed_row(inspect, lab):
    shutil.copytree(lab / "task_rows", lab / "quoted", dirs_exist_ok=True)
    (lab / "quoted" / "manifest.json").write_text(json.dumps({"access": "credentialed"}))
    recipe = copy_of("sft", after="def load_data(args):\n    raise ValueError('Is fever 0 given?')\n")
    report, shown = inspect("task", {"rows": "quoted"}, *recipe)
    assert_only(
        report, "inputs", "ValueError: (its message may quote a credentialed record", "my_sft.py line"
    )
    assert "fever" not in said(report) + "".join(shown)


def test_the_machine_of_an_accelerate_file(inspect, lab):
    """Judged from here: its ranks divide the step, and DeepSpeed (float32 copies) saves small steps."""
    shutil.copytree(ROOT / "accelerate_configs", lab / "accelerate_configs", dirs_exist_ok=True)
    low = {"model_name_or_path": "model", "dtype": "bfloat16", "learning_rate": 8e-6, "from_scratch": False}
    machine = ("--accelerate", "accelerate_configs/zero3_8gpu.yaml")
    report, _ = inspect("pretrain", {**low, "global_batch_tokens": 512}, *machine)
    assert not report.failed(), said(report)
    assert report.notes["launch"].startswith("ranks: 8 (accelerate_configs/zero3_8gpu.yaml, judged from here")
    assert_only(inspect("pretrain", low)[0], "precision")
    report, _ = inspect("pretrain", {**low, "global_batch_tokens": 128}, *machine)
    assert_only(report, "inputs", "128 is not a multiple of 512, one forward pass on all ranks")
    (lab / "accelerate_configs" / "zero3.json").write_text(json.dumps({"zero_optimisation": {"stage": 3}}))
    report, _ = inspect("pretrain", {**low, "global_batch_tokens": 512}, *machine)
    assert_only(report, "launch", "DeepSpeed does not know zero_optimisation")


@pytest.mark.parametrize(
    ("stage", "changes", "found"),
    [
        ("sft", {"rows": "nowhere"}, "nowhere/train.jsonl"),
        ("sft", {"model_name_or_path": "a/b/c"}, "a/b/c: no config.json here"),
        ("sft", {"chat_template_path": None}, "the tokenizer has no chat template"),
        ("sft", {"lora_target_modules": ["nothing"]}, "Target modules nothing not found"),
        ("sft", {"global_batch_size": 3, "world_size": 1, "max_length": 9999}, "has 2048 positions"),
    ],
)
def test_inputs_that_the_recipe_would_refuse(inspect, stage, changes, found):
    report, _ = inspect(stage, changes)
    assert "inputs" in report.failed() and found in said(report), said(report)


# ---------------------------------------------------------------- copies that somebody changed
CSV = """
def load_data(args):
    with open(args[0].rows, encoding="utf-8") as file:
        rows = [{"prompt": row["q"] + "\\n", "completion": row["a"]} for row in csv.DictReader(file)]
    return {"train": Dataset.from_list(rows[:-1]), "validation": Dataset.from_list(rows[-1:])}
"""


def test_a_copy_that_reads_a_csv(inspect, lab):
    for name, answer in (("cases", "yes"), ("bad_cases", "y</s>es")):
        with (lab / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["q", "a"], *[[f"Is it {i}?", answer] for i in range(6)]])
    recipe = copy_of("sft", ("import json\n", "import csv\nimport json\n"), after=CSV)
    report, shown = inspect("task", {"rows": "cases.csv", "access": "public"}, *recipe)
    assert not report.failed() and shown[0].startswith("train row 1 of cases.csv"), said(report)
    assert_only(inspect("task", {"rows": "cases.csv"}, *recipe)[0], "launch", "access: public, gated")
    report, _ = inspect("task", {"rows": "bad_cases.csv", "access": "public"}, *recipe)
    assert_only(report, "eos", "train row 1 of bad_cases.csv, completion")


def test_copies_with_other_trainers_are_checked_or_told(inspect):
    line = next(
        line for line in (ROOT / "recipes/sft.py").read_text().splitlines() if line.startswith("from trl")
    )
    imports = (
        line,
        "import trl as library\nfrom trl import *  # noqa: F403\nfrom trl import get_quantization_config",
    )
    subclass = "class Mine(SFTTrainer):\n    pass\n\n\nclass Other(SFTTrainer):\n    pass\n"
    classes = ("    return SFTTrainer(", "    return Mine(")
    renamed = copy_of("sft", (imports[0], f"{imports[0]}\n\n{subclass}"), classes)
    broken = Path("broken.jinja")
    broken.write_text(TEMPLATE.replace(" + eos_token", ""))
    assert not inspect("sft", {}, *renamed)[0].failed()
    assert_only(inspect("sft", {"chat_template_path": "broken.jinja"}, *renamed)[0], "eos")

    pair = copy_of("sft", after=after_trainer("return trainer, trainer"))
    assert_only(inspect("sft", {}, *pair)[0], "inputs", "my_sft.py returns a tuple, not one Trainer")
    wrong = copy_of("sft", after=after_trainer("raise KeyError('text')"))
    assert_only(inspect("sft", {}, *wrong)[0], "inputs", "KeyError: 'text', my_sft.py line")

    plain = after_trainer(
        "import transformers as hf\nreturn hf.Trainer(model=model, args=args[1], train_dataset=data['train'])"
    )
    report, _ = inspect("sft", {}, *copy_of("sft", after=plain))
    assert not report.failed() and report.notes["labels"].startswith("not checked: Trainer prepares messages")


def test_files_that_are_no_recipe_are_told(inspect):
    Path("nothing.py").write_text("def make_parser():\n    pass\n")
    Path("crash.py").write_text("\nimport no_such_module\n")
    crash = "ModuleNotFoundError: No module named 'no_such_module', crash.py line 2"
    cases = {
        "nothing.py": r"has no load_data\(\), make_trainer\(\)",
        "gone.py": "no recipe here",
        "crash.py": crash,
    }
    for file, found in cases.items():
        with pytest.raises(preflight.Failed, match=found):
            inspect("sft", {}, "--recipe", file)


# ---------------------------------------------------------------- what a person sees
def test_what_a_person_sees(lab, inspect, capsys):
    Path("seen.yaml").write_text(yaml.safe_dump({**CONFIGS["sft"], "pad_token": "</s>"}))
    arguments = ["--config", "seen.yaml", "--color", "always", "--max_length", "20"]
    with pytest.raises(preflight.Failed, match="seen.yaml: truncation, padding failed. Next: "):
        preflight.main(*preflight.make_parser().parse_known_args(arguments))
    lines = capsys.readouterr().out.splitlines()
    assert "    <s>[INST] Is fever 0 given? [/INST]\033[32m no</s>\033[0m" in lines, (
        "green is what is learned"
    )
    what = "100 % of the rows are longer than max_length 20, 41 of them have no answer left"
    start = lines.index(f"truncation FAILED: {what}")
    words = [line.split()[0] for line in lines[start + 1 : start + 7]]
    assert words == ["where", "row", "row", "and", "why", "change"]
    table = {line.split()[0]: line.split()[1] for line in lines[-len(preflight.WHY) :]}
    assert list(table) == list(preflight.WHY)
    assert [name for name in table if table[name] == "FAILED"] == ["truncation", "padding"]


def test_it_runs_as_a_module_on_a_copy_elsewhere(lab, inspect, tmp_path, monkeypatch, capsys):
    """As `python -m recipes.tools.preflight --config ... --recipe elsewhere/my_sft.py`."""
    config = CONFIGS["sft"] | {key: str(lab / CONFIGS["sft"][key]) for key in ("model_name_or_path", "rows")}
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "recipes/sft.py", "my_sft.py")
    Path("run.yaml").write_text(yaml.safe_dump(config))
    for more, expected in (
        ([], None),
        (["--max_length", "20"], "truncation failed. Next: "),
        (["--learning_ratte", "1"], "learning_ratte"),
    ):
        monkeypatch.setattr(
            sys, "argv", ["preflight", "--config", "run.yaml", "--recipe", "my_sft.py", *more]
        )
        with pytest.raises(SystemExit) if expected else contextlib.nullcontext() as stopped:
            runpy.run_path(str(ROOT / "recipes/tools/preflight.py"), run_name="__main__")
        printed = capsys.readouterr().out
        assert expected in str(stopped.value) if expected else "disk        ok" in printed


# ---------------------------------------------------------------- ranks
@pytest.mark.guarantee("Before a run", "Ranks that see other versions or files are named.")
def test_ranks_that_differ_are_named():
    alike = {"torch": "2.13.0", "rows/train.jsonl": "aa"}
    report = preflight.Report()
    preflight.compare_ranks([alike, alike, alike], report)
    assert not report.failed() and report.notes["ranks"] == "2 versions and files of 3 ranks"
    preflight.compare_ranks([alike, alike | {"torch": "2.12.0"}, {"torch": "2.13.0"}], report)
    where = ("rank 1: 2.12.0, rank 0: 2.13.0", "rank 2: missing, rank 0: aa")
    assert_only(report, "ranks", "torch differs", *where)


@pytest.mark.parametrize("alike", [True, False])
def test_two_ranks(lab, tmp_path, alike):
    """Two processes that talk: rank 1 on a copy of the files, in which a template may be another."""
    from accelerate.state import AcceleratorState, PartialState

    shutil.copytree(lab, tmp_path / "lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Path(lab, "two.jinja").write_text(TEMPLATE)
    Path(tmp_path, "lab", "two.jinja").write_text(TEMPLATE if alike else TEMPLATE + " ")
    config = {**CONFIGS["sft"], "chat_template_path": "two.jinja", "global_batch_size": 4}
    children = []
    for rank, folder in enumerate((lab, tmp_path / "lab")):
        if (child := os.fork()) == 0:
            code = 3
            with contextlib.suppress(BaseException), open(tmp_path / f"rank{rank}", "w") as file:
                os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
                sys.stdout = sys.stderr = file
                PartialState._reset_state(), AcceleratorState._reset_state()
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                torch.set_num_threads(1)  # the others were not forked with it
                os.chdir(folder)
                Path("two.yaml").write_text(yaml.safe_dump(config))
                arguments = ["--config", "two.yaml", "--world_size", "2"]
                try:
                    preflight.main(*preflight.make_parser().parse_known_args(arguments))
                    code = 0
                except preflight.Failed as error:
                    print(error)
                    code = 1
                file.flush()
            os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in (0, 1))
    assert codes == ([0, 0] if alike else [1, 1]), first + second
    if alike:
        assert "versions and files of 2 ranks" in first and "ranks: 2 (cpu)" in first
        assert "verdict" not in second
    else:
        assert "ranks FAILED: two.jinja differs" in first and "rank 1: " in first
        assert "two.yaml: ranks failed" in second


# ---------------------------------------------------------------- DPO and GRPO
ALIGNED = {"model_name_or_path": "chat", "output_dir": "aligned", "use_cpu": True, "bf16": False}
ALIGNED |= {"report_to": "none", "gradient_checkpointing": False}
CONFIGS["dpo"] = {**ALIGNED, "rows": "pairs", "beta": 0.1, "max_length": 128}
CONFIGS["grpo"] = {**ALIGNED, "rows": "choice", "num_generations": 8, "beta": 0.01, "rewards": ["answer"]}


@pytest.fixture(scope="module")
def aligned(lab):
    shutil.copytree(lab / "model", lab / "chat")
    (lab / "chat/chat_template.jinja").write_text(TEMPLATE)
    pair = {"prompt": "Fever?\n", "chosen": "rest", "rejected": "salt"}
    row = {"prompt": "Fever?\nA. rest\nB. salt\nAnswer:\n", "completion": "A", "scoring": "choice"}
    for folder, lines in (("pairs", pair), ("choice", row | {"choices": ["A", "B"]})):
        common = {"source": "s", "license": "CC0", "access": "gated"}
        for split in ("train", "validation"):
            rows = [{"id": f"{split}{i}", "split": split, **common, **lines} for i in range(10)]
            write_jsonl(lab / folder / f"{split}.jsonl", rows)
        (lab / folder / "manifest.json").write_text(json.dumps({"access": "gated"}))
    return lab


def test_dpo_and_grpo_are_known_by_the_keys_of_their_yaml(aligned, inspect):
    report, _ = inspect("dpo")
    assert not report.failed(), said(report)
    assert (
        report.notes["eos"].startswith("20 answers in 20 rows") and "10 of 10 rows" in report.notes["labels"]
    )
    assert "prompts" in report.notes["prompt"]
    report, _ = inspect("grpo")
    assert not report.failed(), said(report)
    assert report.notes["labels"] == "10 of 10 rows: right answers earn 1, deceits 0"


def test_what_fails_of_pairs_and_of_rewards(aligned, inspect):
    Path("endless").mkdir(exist_ok=True)
    shutil.copytree("chat", "endless", dirs_exist_ok=True)
    Path("endless/chat_template.jinja").write_text(TEMPLATE.replace("+ eos_token", "+ '.'"))
    report, _ = inspect("dpo", {"model_name_or_path": "endless"})
    assert "eos" in report.failed()
    write_jsonl(
        Path("open/train.jsonl"), [{"id": "x", "prompt": "?\n", "completion": "y", "scoring": "none"}]
    )
    shutil.copy("open/train.jsonl", "open/validation.jsonl")
    report, _ = inspect("grpo", {"rows": "open", "access": "gated"})
    assert_only(report, "labels", "row x: scoring 'none' has no answer that can be verified")
    report, _ = inspect("grpo", {"use_vllm": True})
    assert_only(report, "inputs", "use_vllm: TRL 1.16.0 takes vLLM 0.22 to 0.31")


def test_a_missing_file_is_named_only_if_a_setting_is_its_place():
    """A library may have taken the text of a record for a file name."""
    located = preflight.located
    missing = FileNotFoundError(2, "No such file or directory", "rows/train.jsonl")
    assert "rows/train.jsonl" in located(missing, Path("sft.py"), True, ["./rows", "no", None])
    text = FileNotFoundError(2, "No such file or directory", "no acute distress")
    assert "distress" not in located(text, Path("sft.py"), True, ["rows", "no", None])
