"""Each fault that costs weeks is made on purpose and found by its own check, and by no other; what ships is found to be right."""

import contextlib
import importlib
import json
import os
import runpy
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from transformers import AttentionInterface, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from data_prep import build_blocks
from data_prep.demo import backbone
from data_prep.files import write_jsonl
from tests.data_prep.test_blocks import MIXTURE, write_documents
from tests.lab import PRETRAIN, ROOT, SFT, TASK, copied
from tests.tiny_model import make_tokenizer

CONFIGS = {"pretrain": {**PRETRAIN, "output_dir": "base"}, "sft": {**SFT, "model_name_or_path": "model"}}
CONFIGS["finetune_task"] = {**TASK, "model_name_or_path": "model"}
ISOLATED = {"packing": "isolated", "attn_implementation": "sdpa"}
TEMPLATE = (ROOT / "recipes/chat_template.jinja").read_text()
BLANK_BEFORE = TEMPLATE.replace(
    "{%- generation -%}{{- ' ' + message", "{{- ' ' -}}{%- generation -%}{{- message"
)  # as LLaMA-2's own format
TALK = [{"role": "user", "content": "Is the liver painful?"}, {"role": "assistant", "content": "It is."}]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """backbone (no weights), model (with weights), blocks, rows (the last one has two turns), task_rows."""
    root = tmp_path_factory.mktemp("preflight")
    write_documents(root / "documents")
    backbone.main(
        ["--documents", str(root / "documents"), "--out", str(root / "backbone"), "--vocab_size", "400"]
    )
    (root / "mixture.yaml").write_text(yaml.safe_dump(MIXTURE))
    arguments = {
        "documents": "documents",
        "tokenizer": "backbone",
        "mixture": "mixture.yaml",
        "out": "blocks",
    }
    build_blocks.main([text for name, path in arguments.items() for text in (f"--{name}", str(root / path))])
    shutil.copytree(root / "backbone", root / "model")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(root / "model")).save_pretrained(root / "model")
    common = {"task": "t", "scoring": "none", "source": "s", "license": "CC0"}
    for folder, talks in (("rows", [TALK * 2]), ("task_rows", [])):
        for split in ("train", "validation"):
            rows = [
                {"prompt": f"Is fever {i} given?\n", "completion": "yes" if i % 2 else "no"}
                for i in range(40)
            ]
            rows = [
                {"id": f"{split}{i}", "split": split, "access": "gated", **common, **row}
                for i, row in enumerate(rows)
            ]
            rows += [
                {"id": "talk", "split": split, "access": "gated", **common, "messages": talk}
                for talk in talks
            ]
            write_jsonl(root / folder / f"{split}.jsonl", rows)
        (root / folder / "manifest.json").write_text(json.dumps({"access": "gated", "licenses": ["CC0"]}))
    return root


@pytest.fixture
def preflight(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    return importlib.import_module("preflight")


@pytest.fixture
def inspect(lab, preflight, monkeypatch):
    """inspect(stage, changes of its YAML, *arguments): the report, and the lines for a person."""
    monkeypatch.chdir(lab)

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


# ---------------------------------------------------------------- what is right
@pytest.mark.parametrize(
    ("stage", "changes"),
    [("pretrain", {}), ("pretrain", {"packing": "concat"}), ("sft", {}), ("sft", ISOLATED), ("sft", {"assistant_only_loss": False}),
     ("finetune_task", {}), ("finetune_task", ISOLATED), ("sft", {**ISOLATED, "dtype": "bfloat16", "learning_rate": 1e-5})],
)  # fmt: skip
def test_what_is_right_passes(inspect, preflight, stage, changes):
    report, shown = inspect(stage, changes)
    assert report.failed() == [], said(report)
    assert list(report.looked) and set(report.looked) == set(preflight.WHY), "every check has run"
    assert len([line for line in shown if not line.startswith(" ")]) == 3
    assert not Path(CONFIGS[stage]["output_dir"]).exists(), "nothing is written"
    texts = "".join(shown)
    if stage == "pretrain":
        assert "</s>⟧" in texts and ("⟦<s>" in texts) == (changes.get("packing") == "concat"), (
            "isolated, none predicts its own beginning"
        )
    elif changes.get("assistant_only_loss", True):
        assert "no</s>⟧" in texts and "⟦Is fever" not in texts


def test_the_shipped_yamls_of_the_demo_pass(lab, preflight, tmp_path, monkeypatch):
    """On small data in the places that they name; the inferred recipe is the one that their first lines launch."""
    monkeypatch.chdir(tmp_path)
    places = {"data/demo/backbone_config": "backbone", "data/demo/blocks_general": "blocks", "data/demo/blocks": "blocks", "outputs/demo/backbone": "model",
              "outputs/demo/foundation": "model", "data/demo/instructions": "rows", "data/demo/tasks/i2b2": "task_rows"}  # fmt: skip
    for place, what in places.items():
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).symlink_to(lab / what)
    Path("recipes").symlink_to(ROOT / "recipes")
    for name in ("demo_backbone", "demo_foundation", "demo_chat", "demo_backbone_chat", "demo_task"):
        path = Path(f"recipes/configs/{name}.yaml")
        assert f"recipes/{preflight.infer_stage(path)}.py" in path.read_text()
        report, _ = preflight.inspect(*preflight.make_parser().parse_known_args(["--config", str(path)]))
        assert report.failed() == [], said(report)


LLAMA_3 = (  # the form of Llama-3's own format: a header for each message, <|eot_id|> after it
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ '<bos>' + m.role + '\n\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|eot_id|>' }}{% endgeneration %}{% else %}{{ m.content + '<|eot_id|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<bos>assistant\n\n' }}{% endif %}"
)


def chatml(before, inside):
    """The form of Qwen's: no BOS, a line break after the end of a turn; the one after the role stands before the answer's marks or inside them."""
    end = "m.content + '<|im_end|>\n'"
    return (
        f"{{% for m in messages %}}{{{{ '<|im_start|>' + m.role }}}}{{% if m.role == 'assistant' %}}{{{{ '{before}' }}}}"
        f"{{% generation %}}{{{{ '{inside}' + {end} }}}}{{% endgeneration %}}{{% else %}}{{{{ '\n' + {end} }}}}{{% endif %}}{{% endfor %}}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


@pytest.fixture
def family(lab, tmp_path):
    """family(template, ...): changes of the YAML for a model whose tokenizer has this format."""

    def make(template, **tokens):
        tokenizer = make_tokenizer(**tokens)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "family")
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
        ).save_pretrained(tmp_path / "family")
        return {
            "model_name_or_path": str(tmp_path / "family"),
            "chat_template_path": None,
            "pad_token": "<end_of_turn>",
            "max_length": 512,
        }

    return make


@pytest.mark.parametrize(
    ("template", "tokens"),
    [(LLAMA_3, {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"}), (chatml("\n", ""), {"bos": None, "eos": "<|im_end|>", "adds_bos": False}),
     (chatml("", "\n"), {"bos": None, "eos": "<|im_end|>", "adds_bos": False}), (TEMPLATE, {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"}),
     (BLANK_BEFORE, {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"})],
    ids=["llama 3", "chatml", "chatml with a trained line break", "ours", "llama 2"],
)  # fmt: skip
def test_formats_of_today_pass(inspect, family, template, tokens):
    report, _ = inspect("sft", family(template, **tokens))
    assert report.failed() == [], said(report)
    blank = "before 42 answers a blank that is not trained" in report.looked["prompt"]
    assert blank == (template == BLANK_BEFORE), "this tokenizer joins no blank to a word"


# ---------------------------------------------------------------- what is wrong in a template or tokenizer
def test_padding_with_eos(inspect):
    assert_only(
        inspect("sft", {"pad_token": "</s>"})[0],
        "padding",
        "no token to pad with but EOS",
        "pad_token with a reserved one",
    )


@pytest.mark.parametrize(
    ("check", "old", "new", "found"),
    [
        ("eos", " + eos_token", "", "row train0 (rows/train.jsonl line 1), token 22: ' [/INST] no' | ''"),
        ("eos", " + eos_token", " + (eos_token if message['content'] == 'no' else '')", "row train1 (rows/train.jsonl line 2), token"),
        ("eos", "+ eos_token -}}{%- endgeneration -%}", "-}}{%- endgeneration -%}{{- eos_token -}}", "does not end in a supervised EOS"),
        ("bos", "(bos_token or '')", "bos_token + bos_token", "BOS stands twice"),
        ("bos", "(bos_token or '')", "''", "a row does not begin with BOS"),
        ("bos", "{%- generation -%}", "{{- bos_token -}}{%- generation -%}", "BOS stands inside a text"),
        ("prompt", "set system = ''", "set system = 'Be brief. ' if add_generation_prompt else ''", "the prompt for generate"),
        ("prompt", "{%- generation -%}", "{{- ' Answer:' -}}{%- generation -%}", "'l? [/INST]' | ' Answer:"),
        ("prompt", "{%- generation -%}", "{{- '\n' -}}{%- generation -%}", "is not what stands before the answer in training"),
    ],
)  # fmt: skip
@pytest.mark.guarantee(
    "Before a run",
    "Misplaced EOS, BOS and padding, and templates that differ between training, generate, evaluation and a server, stop a launch.",
)
def test_a_template_gone_wrong(inspect, check, old, new, found):
    assert old in TEMPLATE
    Path("wrong.jinja").write_text(TEMPLATE.replace(old, new))
    report, _ = inspect("sft", {"chat_template_path": "wrong.jinja"})
    assert_only(report, check, found)


def test_a_template_that_renders_bos_for_every_message(inspect, family):
    wrong = LLAMA_3.replace("{% if loop.first %}{{ bos_token }}{% endif %}", "{{ bos_token }}")
    report, _ = inspect("sft", family(wrong, bos="<|begin_of_text|>", eos="<|eot_id|>"))
    assert "BOS stands more often than turns of the user" in said(report) and "bos" in report.failed()


def test_a_tokenizer_that_adds_no_bos_to_examples(inspect, family):
    changes = {
        key: value for key, value in family(None, adds_bos=False).items() if key != "chat_template_path"
    }
    assert_only(
        inspect("finetune_task", changes)[0],
        "bos",
        "a row does not begin with BOS",
        "the prompt for evaluation begins with no BOS",
    )


def test_a_prompt_that_does_not_end_where_a_token_ends(inspect, lab):
    rows = [{"prompt": "Is it the patient's li", "completion": "ver", "id": "a", "access": "public"}] * 2
    for split in ("train", "validation"):
        write_jsonl(lab / "joined" / f"{split}.jsonl", rows)
    (lab / "joined" / "manifest.json").write_text(json.dumps({"access": "public"}))
    assert_only(
        inspect("finetune_task", {"rows": "joined"})[0],
        "prompt",
        "the prompt for evaluation is not what stands before the answer",
    )


def test_the_tokenizer_that_is_saved_renders_otherwise(inspect, preflight, monkeypatch):
    """What evaluation and a server load is the saved tokenizer: here one that has kept the template of its base model."""

    def other(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = LLAMA_3
        return tokenizer

    monkeypatch.setattr(preflight, "AutoTokenizer", SimpleNamespace(from_pretrained=other))
    assert_only(
        inspect("sft")[0], "prompt", "the prompt for a server", "the prompt for generate", "token 0: "
    )


def test_evaluation_asks_as_the_harness_does(preflight):
    from lm_eval.models.huggingface import HFLM

    for tokens in ({}, {"adds_bos": False}, {"bos": None, "eos": "<|im_end|>", "adds_bos": False}):
        tokenizer = make_tokenizer(**tokens)
        prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        harness = SimpleNamespace(
            tokenizer=tokenizer, backend="causal", add_bos_token=None, prefix_token_id=prefix
        )
        for text in ("Which drug?", "<s>[INST] Which drug? [/INST]", "<|im_start|>user"):
            ids = preflight.evaluation_ids(tokenizer, text)
            assert (
                ids == HFLM.tok_batch_encode(harness, [text])[0][0].tolist() == HFLM.tok_encode(harness, text)
            )


# ---------------------------------------------------------------- what is wrong in the data
def with_rows(lab, name, *rows):
    shutil.copytree(lab / "rows", lab / name, dirs_exist_ok=True)
    with (lab / name / "train.jsonl").open("a") as file:
        file.writelines(
            json.dumps({"id": f"added{i}", "access": "gated", **row}) + "\n" for i, row in enumerate(rows)
        )
    return {"rows": name}


def test_a_row_that_nobody_answers(inspect, lab):
    changes = with_rows(lab, "silent", {"messages": TALK[:1]}, {"messages": TALK})
    assert_only(
        inspect("sft", changes)[0],
        "labels",
        "a row has no supervised token",
        "row added0 (silent/train.jsonl line 42)",
    )


def test_bos_in_the_text_of_a_row(inspect, lab):
    changes = with_rows(lab, "odd", {"prompt": "What is <s> in HTML?", "completion": "struck out"})
    assert_only(inspect("sft", changes)[0], "bos", "BOS stands inside a text", "row added0")


def test_too_many_rows_are_cut(inspect, lab):
    long = {"prompt": "Is the liver painful? " * 30, "completion": "yes"}
    changes = with_rows(lab, "long", long)
    report, _ = inspect("sft", changes)
    assert_only(
        report,
        "truncation",
        "2.38 % of the rows are longer than max_length 128, 1 of them have no answer left",
        "row added0",
    )
    assert not inspect("sft", changes, "--max_truncated", "0.03")[0].failed()
    needed = said(report).split("Next: max_length ")[1].split(",")[0]
    assert not inspect("sft", {**changes, "max_length": int(needed)})[0].failed()
    assert_only(inspect("sft", {**changes, **ISOLATED})[0], "truncation")


def test_the_first_and_the_last_row_are_among_a_sample(inspect, lab, preflight):
    changes = with_rows(lab, "last", {"messages": TALK[:1]})
    report, _ = inspect("sft", changes, "--sample", "5")
    assert_only(report, "labels", "row added0")
    assert report.looked["inputs"] == "5 of 42 rows"
    assert preflight.spread(10, 4).tolist() == [0, 3, 6, 9] and preflight.spread(3, 99).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("check", "change", "found"),
    [
        ("bos", lambda ids: np.where(ids == 1, 5, ids), "a document does not begin with BOS"),
        ("bos", lambda ids: np.where(np.roll(ids, 1) == 1, 1, ids), "BOS stands twice"),
        ("eos", lambda ids: np.where(ids == 2, 5, ids), "a document does not end in EOS"),
        ("eos", lambda ids: np.where(np.roll(ids, 1) == 1, 2, ids), "EOS stands inside a document"),
        (
            "vocabulary",
            lambda ids: np.where(ids == ids[3], 999, ids),
            "an id has no row in the embedding of 400",
        ),
    ],
)
def test_blocks_gone_wrong(inspect, monkeypatch, check, change, found):
    pretrain, plain = (
        importlib.import_module("pretrain"),
        importlib.import_module("pretrain").PackedBlocks.__init__,
    )

    def changed(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        self.rows = self.rows.map(
            lambda row: {"input_ids": change(np.asarray(row["input_ids"]))}
        ).with_format("numpy")

    monkeypatch.setattr(pretrain.PackedBlocks, "__init__", changed)
    assert_only(inspect("pretrain")[0], check, found, "block ", "of train/")


@pytest.mark.guarantee("Before a run", "Blocks of another tokenizer stop a launch.")
def test_blocks_of_another_tokenizer(inspect, lab):
    backbone.main(["--documents", str(lab / "documents"), "--out", str(lab / "other"), "--vocab_size", "420"])
    report, _ = inspect("pretrain", {"model_name_or_path": "other"})
    assert_only(
        report,
        "vocabulary",
        "the tokenizer of other is not the one that made blocks",
        "data_prep.build_blocks --tokenizer other",
    )
    config = json.loads((lab / "other" / "tokenizer_config.json").read_text())
    shutil.copy(lab / "backbone" / "tokenizer.json", lab / "other")
    (lab / "other" / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<unk>"}))
    report, _ = inspect("pretrain", {"model_name_or_path": "other"})
    assert "vocabulary" in report.failed() and "eos is 2 in the blocks, 0 in the tokenizer" in said(report)


def test_ids_beyond_the_embedding(inspect, lab):
    shutil.copytree(lab / "backbone", lab / "small", dirs_exist_ok=True)
    LlamaConfig.from_pretrained(lab / "backbone", vocab_size=300).save_pretrained(lab / "small")
    report, _ = inspect("sft", {"model_name_or_path": "small"})
    assert_only(
        report,
        "vocabulary",
        "an id has no row in the embedding of 300",
        "the tokenizer has 400 tokens, the embedding 300 rows",
    )
    LlamaForCausalLM(LlamaConfig.from_pretrained(lab / "backbone", vocab_size=390)).save_pretrained(
        lab / "small"
    )
    LlamaConfig.from_pretrained(lab / "backbone").save_pretrained(lab / "small")
    report, _ = inspect("sft", {"model_name_or_path": "small"})
    assert_only(report, "vocabulary", "model.embed_tokens.weight has 390 rows, config.json says 400")


# ---------------------------------------------------------------- what is wrong in a batch
def blind(module, query, key, value, attention_mask, **kwargs):
    return sdpa_attention_forward(module, query, key, value, None, is_causal=True)


@pytest.mark.parametrize("stage", ["pretrain", "sft", "finetune_task"])
@pytest.mark.guarantee("Before a run", "Attention that leaks between packed documents stops a launch.")
def test_attention_that_leaks(inspect, stage):
    AttentionInterface.register("blind", blind)
    assert_only(
        inspect(stage, {"packing": "isolated", "attn_implementation": "blind"})[0],
        "packing",
        "blind lets packed documents see each other",
    )


def label_padding(batch):
    batch["labels"][:, -1] = batch["input_ids"][:, -1]


def label_a_prompt(batch):
    batch["labels"][:, 1] = batch["input_ids"][:, 1]


def lose_a_bound(batch):
    bounds = batch["cu_seq_lens_q"]
    batch["cu_seq_lens_q"] = batch["cu_seq_lens_k"] = torch.cat([bounds[:1], bounds[2:]])


def count_on(batch):
    batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])


@pytest.mark.parametrize(
    ("stage", "changes", "fault", "check", "found"),
    [
        ("sft", {}, label_padding, "padding", "a pad position has a label"),
        ("finetune_task", {}, label_a_prompt, "labels", "a batch has other ids or labels than its row"),
        ("pretrain", {}, lose_a_bound, "packing", "a bound is not where a document begins"),
        ("sft", ISOLATED, count_on, "packing", "positions do not begin anew with each document"),
    ],
)
def test_a_collator_gone_wrong(inspect, preflight, monkeypatch, stage, changes, fault, check, found):
    plain = preflight.run_guard.Collator.__call__

    def faulty(self, rows):
        batch = plain(self, rows)
        if "row" in rows[0]:
            fault(batch)
        return batch

    monkeypatch.setattr(preflight.run_guard.Collator, "__call__", faulty)
    assert_only(inspect(stage, changes)[0], check, found)


def test_documents_that_are_no_rows(inspect, preflight, monkeypatch):
    """Packing that cuts in the wrong places: the bounds agree with seq_lengths, and the documents are no rows."""
    import trl.trainer.sft_trainer as trl_sft

    plain = trl_sft.pack_dataset

    def shifted(dataset, *args):
        return plain(dataset, *args).map(
            lambda row: {
                "seq_lengths": [row["seq_lengths"][0] + 1, row["seq_lengths"][1] - 1, *row["seq_lengths"][2:]]
            }
        )

    monkeypatch.setattr(trl_sft, "pack_dataset", shifted)
    assert_only(inspect("sft", ISOLATED)[0], "packing", "what stands between two bounds is no row")


# ---------------------------------------------------------------- what is wrong in settings and machine
@pytest.mark.parametrize(
    ("model", "origin"),
    [
        ("backbone", "no weights here, random ones (initializer_range"),
        ("model", "weights: 24 stored tensors"),
    ],
)
@pytest.mark.guarantee("Before a run", "A learning rate that 16-bit weights lose stops a launch.")
def test_a_learning_rate_that_16_bits_lose(inspect, model, origin):
    low = {"model_name_or_path": model, "dtype": "bfloat16", "learning_rate": 8e-6, "from_scratch": False}
    report, _ = inspect("pretrain", low)
    assert_only(report, "precision", "% of the torch.bfloat16 weights would move", "dtype float32")
    assert origin in report.looked["precision"]
    assert not inspect("pretrain", {**low, "learning_rate": 1e-3})[0].failed()
    rounded = {"optim": "adamw_torch_8bit", "optim_args": "bf16_stochastic_round=True"}
    assert not inspect("pretrain", {**low, **rounded})[0].failed()


def test_a_full_disk(inspect, preflight, monkeypatch):
    monkeypatch.setattr(preflight.run_guard.shutil, "disk_usage", lambda _: SimpleNamespace(free=4_000_000))
    report, _ = inspect("sft", {"use_peft": False, "packing": "none"})
    assert_only(report, "disk", "0.004 GB are free", "save_total_limit 1")
    assert not inspect("sft", {"lora_r": 1})[0].failed(), "an adapter is small"


@pytest.mark.parametrize("access", ["gated", "credentialed"])
def test_a_tracker_that_sends_data_away(inspect, lab, access):
    shutil.copytree(lab / "rows", lab / access, dirs_exist_ok=True)
    (lab / access / "manifest.json").write_text(json.dumps({"access": access, "licenses": ["Agreement 7"]}))
    changes = {"rows": access, "report_to": ["wandb"]}
    assert_only(inspect("sft", changes)[0], "launch", "wandb would send data away")
    allowed, _ = inspect("sft", {**changes, "allow_upload": True})
    if access == "gated":
        assert not allowed.failed()
    else:
        assert_only(allowed, "launch", "credentialed text is not sent to")


@pytest.mark.guarantee("Before a run", "Preflight prints no text of credentialed rows.")
def test_texts_of_credentialed_rows_are_not_shown(inspect, lab):
    rows = [json.loads(line) | {"access": "credentialed"} for line in (lab / "rows" / "train.jsonl").open()]
    shutil.copytree(lab / "rows", lab / "closed", dirs_exist_ok=True)
    write_jsonl(lab / "closed" / "train.jsonl", rows)
    Path("endless.jinja").write_text(TEMPLATE.replace(" + eos_token", ""))
    for changes in ({}, {"chat_template_path": "endless.jinja"}):
        report, shown = inspect("sft", {"rows": "closed", **changes})
        everything = said(report) + "".join(shown)
        assert (
            "fever" not in everything
            and "liver" not in everything
            and "row train0" in everything
            and "ids [" not in everything
            and "Supervised are tokens 2" in everything
        )
    _, shown = inspect("sft", {"rows": "closed"}, "--show_texts")
    assert "Is fever 0 given?" in "".join(shown)
    write_jsonl(lab / "closed" / "train.jsonl", [*rows, {**rows[0], "id": "open", "access": "public"}])
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
    report, shown = inspect("finetune_task", {"rows": "understated"})
    assert shown and "fever" not in said(report) + "".join(shown)


def test_an_error_of_a_library_quotes_no_credentialed_row(inspect, lab, preflight, monkeypatch):
    shutil.copytree(lab / "task_rows", lab / "quoted", dirs_exist_ok=True)
    (lab / "quoted" / "manifest.json").write_text(json.dumps({"access": "credentialed"}))
    monkeypatch.setattr(
        preflight, "keeping_whole", lambda kind, found: (_ for _ in ()).throw(ValueError("Is fever 0 given?"))
    )
    report, shown = inspect("finetune_task", {"rows": "quoted"})
    assert_only(report, "inputs", "ValueError: its message may quote a credentialed row")
    assert "fever" not in said(report) + "".join(shown)


def test_the_machine_of_an_accelerate_file(inspect, lab):
    """Judged from here: its ranks divide the step, and DeepSpeed, which keeps float32 copies, saves small steps and writes larger checkpoints."""
    shutil.copytree(ROOT / "accelerate_configs", lab / "accelerate_configs", dirs_exist_ok=True)
    low = {
        **ISOLATED,
        "model_name_or_path": "model",
        "dtype": "bfloat16",
        "learning_rate": 8e-6,
        "tokens_per_step": 512,
        "from_scratch": False,
    }
    machine = ("--accelerate", "accelerate_configs/zero3_8gpu.yaml")
    report, _ = inspect("pretrain", low, *machine)
    assert not report.failed(), said(report)
    assert report.looked["launch"].startswith(
        "ranks: 8 (accelerate_configs/zero3_8gpu.yaml, judged on this cpu)"
    )
    assert_only(inspect("pretrain", low)[0], "precision")
    assert_only(
        inspect("pretrain", {**low, "tokens_per_step": 128}, *machine)[0],
        "inputs",
        "128 is no multiple of 256 = 8 ranks x 32",
    )
    (lab / "accelerate_configs" / "zero3.json").write_text(json.dumps({"zero_optimisation": {"stage": 3}}))
    assert_only(inspect("pretrain", low, *machine)[0], "launch", "DeepSpeed does not know zero_optimisation")


@pytest.mark.parametrize(
    ("stage", "changes", "found"),
    [
        ("sft", {"rows": "nowhere"}, "nowhere/train.jsonl: no such file"),
        ("sft", {"model_name_or_path": "a/b/c"}, "a/b/c: no model here (no config.json)"),
        ("sft", {"chat_template_path": None}, "the tokenizer has no chat template"),
        ("finetune_task", {"packing": "wrapped"}, "packing is 'wrapped', must be isolated or none"),
        ("sft", {"rows_per_step": 0}, "rows_per_step 0 is no multiple"),
    ],
)
def test_inputs_that_the_recipe_would_refuse(inspect, stage, changes, found):
    assert_only(inspect(stage, changes)[0], "inputs", found)


def test_what_a_person_sees(lab, preflight, monkeypatch, capsys):
    monkeypatch.chdir(lab)
    Path("seen.yaml").write_text(yaml.safe_dump({**CONFIGS["sft"], "pad_token": "</s>"}))
    arguments = ["--config", "seen.yaml", "--color", "always", "--max_length", "20"]
    with pytest.raises(preflight.Refused, match="seen.yaml: truncation, padding failed. Next: "):
        preflight.main(*preflight.make_parser().parse_known_args(arguments))
    lines = capsys.readouterr().out.splitlines()
    assert "    <s>[INST] Is fever 0 given? [/INST]\033[32m no</s>\033[0m" in lines, (
        "green is what is learned"
    )
    start = lines.index(
        "truncation FAILED: 100 % of the rows are longer than max_length 20, 41 of them have no answer left"
    )
    assert [line.split()[0] for line in lines[start + 1 : start + 7]] == [
        "where",
        "row",
        "row",
        "and",
        "why",
        "change",
    ]
    table = {line.split()[0]: line.split()[1] for line in lines[-len(preflight.WHY) :]}
    assert list(table) == list(preflight.WHY) and [name for name in table if table[name] == "FAILED"] == [
        "truncation",
        "padding",
    ]


def test_it_runs_from_a_copy(lab, preflight, tmp_path, monkeypatch, capsys):
    """As `python preflight.py --config ... --stage my_sft` beside a recipe that was copied and renamed."""
    config = {
        **CONFIGS["sft"],
        **{key: str(lab / CONFIGS["sft"][key]) for key in ("model_name_or_path", "rows")},
    }
    argv = [*copied(tmp_path, "sft", config), "--stage", "my_sft"]
    shutil.copy(ROOT / "recipes/preflight.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "path", [str(tmp_path), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    )
    for more, expected in (
        ([], None),
        (["--max_length", "20"], "truncation failed. Next: "),
        (["--learning_ratte", "1"], "learning_ratte"),
    ):
        monkeypatch.setattr(sys, "argv", ["preflight.py", *argv[1:], *more])
        with pytest.raises(SystemExit) if expected else contextlib.nullcontext() as stopped:
            runpy.run_path("preflight.py", run_name="__main__")
        said = capsys.readouterr().out
        assert expected in str(stopped.value) if expected else "disk        ok" in said
    monkeypatch.delitem(sys.modules, "my_sft")


# ---------------------------------------------------------------- ranks
@pytest.mark.guarantee("Before a run", "Ranks that see other versions or files are named.")
def test_ranks_that_differ_are_named(preflight):
    alike = {"torch": "2.13.0", "rows/train.jsonl": "aa"}
    report = preflight.Report()
    preflight.compare_ranks([alike, alike, alike], report)
    assert not report.failed() and report.looked["ranks"] == "2 versions and files of 3 ranks"
    preflight.compare_ranks([alike, alike | {"torch": "2.12.0"}, {"torch": "2.13.0"}], report)
    assert_only(
        report, "ranks", "torch differs", "rank 1: 2.12.0, rank 0: 2.13.0", "rank 2: missing, rank 0: aa"
    )


@pytest.mark.parametrize("alike", [True, False])
def test_two_ranks(lab, preflight, monkeypatch, tmp_path, alike):
    """Two processes that talk: rank 1 on a copy of the files, in which a template may be another."""
    from accelerate.state import AcceleratorState, PartialState

    shutil.copytree(lab, tmp_path / "lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Path(lab, "two.jinja").write_text(TEMPLATE)
    Path(tmp_path, "lab", "two.jinja").write_text(TEMPLATE if alike else TEMPLATE + " ")
    children = []
    for rank, folder in enumerate((lab, tmp_path / "lab")):
        if (child := os.fork()) == 0:
            code = 3
            with contextlib.suppress(BaseException), open(tmp_path / f"rank{rank}", "w") as file:
                os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
                sys.stdout = sys.stderr = file
                PartialState._reset_state(), AcceleratorState._reset_state()
                os.environ |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": "2",
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
                torch.set_num_threads(1)  # the others were not forked with it
                os.chdir(folder)
                Path("two.yaml").write_text(
                    yaml.safe_dump({**CONFIGS["sft"], "chat_template_path": "two.jinja", "rows_per_step": 4})
                )
                try:
                    preflight.main(
                        *preflight.make_parser().parse_known_args(
                            ["--config", "two.yaml", "--world_size", "2"]
                        )
                    )
                    code = 0
                except preflight.Refused as error:
                    print(error)
                    code = 1
                file.flush()
            os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in (0, 1))
    assert codes == ([0, 0] if alike else [1, 1]), first + second
    if alike:
        assert (
            "versions and files of 2 ranks" in first and "ranks: 2 (cpu)" in first and "verdict" not in second
        )
    else:
        assert (
            "ranks FAILED: two.jinja differs" in first
            and "rank 1: " in first
            and "two.yaml: ranks failed" in second
        )
