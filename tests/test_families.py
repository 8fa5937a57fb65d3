"""The stages that tokenize, on a tiny model with the tokenizer and chat format of each family: blocks,
pretraining, LoRA on conversations, merge, DPO, GRPO, answers of evaluation and chat, forgetting, release."""

import json
import shutil

import datasets
import numpy as np
import pytest
import transformers
import yaml
from transformers import AutoTokenizer, GenerationMixin

from data_prep import build_blocks
from data_prep.corpus.tokenize import adds_bos
from data_prep.files import write_jsonl
from data_prep.manifest import write_manifest
from evaluation import chat, forgetting, generate, score
from evaluation.models.conversation import Chat
from evaluation.models.registry import read_entry
from recipes.release import __main__ as release
from tests import tokenizer_families
from tests.data_prep.test_blocks import MIXTURE
from tests.evaluation.test_forgetting import QUESTIONS, write_csv
from tests.lab import PRETRAIN, SFT, recipe, run_json
from tests.recipes.test_dpo import PLAIN as DPO
from tests.recipes.test_grpo import GRPO
from tests.recipes.test_preflight import FORMATS, GEMMA
from tests.tiny_model import read_jsonl, rows_of, write_rows

FORMAT = {
    "llama2": "LLaMA-2, ours",
    "llama3": "Llama-3",
    "qwen3": "Qwen3",
    "smollm2": "SmolLM2",
    "gemma": "Gemma",
    "gpt_neox": "GPT-NeoX",
}
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512}
PAIRS = [(f"Is fever {i} given?", "AB"[i % 2]) for i in range(4)]


def write_rows_manifest(folder, stage):
    """The manifest of invented rows, as the stage that makes such rows writes it."""
    source = {
        "path": "x",
        "sha256": "0" * 64,
        "records": 4,
        "source": "s",
        "license": "CC0",
        "access": "gated",
    }
    write_manifest(folder, stage=stage, arguments={}, inputs=[source], dropped={}, outputs=[])


@pytest.fixture(scope="module", params=tokenizer_families.FAMILIES)
def chain(request, lab):
    """(folder, name of the family) after data, pretraining, tuning and merge."""
    make, template, changes = FORMATS[FORMAT[request.param]]
    tokenizer, folder = make(), lab / request.param
    tokenizer.add_special_tokens({"additional_special_tokens": list(changes.get("added", ()))})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder / "shape")
    config = getattr(transformers, f"{changes.get('architecture', 'Llama')}Config")
    names = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    config(vocab_size=len(tokenizer), **SIZES, **names).save_pretrained(folder / "shape")
    for name in ("documents", "rows"):
        shutil.copytree(lab / name, folder / name)
    write_rows_manifest(folder / "rows", "build_instructions")
    (folder / "mixture.yaml").write_text(yaml.safe_dump(MIXTURE | {"tokens": 2000}))
    places = {"documents": "documents", "tokenizer": "shape", "mixture": "mixture.yaml", "out": "blocks"}
    build_blocks.main([f"--{name}={folder / path}" for name, path in places.items()])
    pretrain = PRETRAIN | {"model_name_or_path": "shape", "from_scratch": True, "max_steps": 2}
    assert recipe(folder, "pretrain", pretrain) is None
    sft = SFT | {"chat_template_path": None, "pad_token": changes.get("pad_token", "<pad>")}
    sft |= {"max_steps": 2, "max_length": 512, "save_strategy": "no"}
    sft |= {"eos_token": "<end_of_turn>"} if changes is GEMMA else {}
    assert recipe(folder, "sft", sft) is None
    assert recipe(folder, "merge_adapter", {"adapter": "adapter", "output_dir": "chat"}) is None
    return folder, request.param


def test_blocks_begin_as_the_tokenizer_begins_a_text(chain):
    folder, name = chain
    tokenizer = AutoTokenizer.from_pretrained(folder / "shape")
    assert adds_bos(tokenizer) == (name in tokenizer_families.ADDS_BOS)
    files = sorted((folder / "blocks/train").rglob("*.arrow"))
    blocks = datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])
    ids = [token for block in blocks for token in block["input_ids"]]
    begun = ids.count(tokenizer.bos_token_id) if tokenizer.bos_token_id != tokenizer.eos_token_id else 0
    assert ids.count(tokenizer.eos_token_id) > 0, "documents end"
    assert (begun > 0) == (name in tokenizer_families.ADDS_BOS)


def test_the_merged_model_pads_and_stops_as_its_tokenizer(chain):
    folder, _ = chain
    tokenizer = AutoTokenizer.from_pretrained(folder / "chat")
    config = json.loads((folder / "chat/config.json").read_text())
    generation = json.loads((folder / "chat/generation_config.json").read_text())
    stops = np.atleast_1d(generation["eos_token_id"]).tolist()
    assert tokenizer.eos_token_id in stops and tokenizer.pad_token_id not in stops
    assert config["pad_token_id"] == generation["pad_token_id"] == tokenizer.pad_token_id
    assert run_json(folder / "chat")["parity"]["max_logit_difference"] < 1e-3


def test_preferences_answers_and_forgetting(chain, monkeypatch):
    folder, _ = chain
    common = {"source": "s", "license": "CC0", "access": "gated"}
    pairs = [
        {"id": f"p{i}", "prompt": f"{q}\n", "chosen": "yes, it is", "rejected": f"no {i}"} | common
        for i, (q, _) in enumerate(PAIRS)
    ]
    for split in ("train", "validation"):
        write_jsonl(folder / f"pairs/{split}.jsonl", [pair | {"split": split} for pair in pairs])
    (folder / "pairs/manifest.json").write_text(json.dumps({"access": "gated"}))
    assert recipe(folder, "dpo", DPO | {"max_length": 256, "output_dir": "aligned"}) is None

    # what chat asks is what evaluation asks, of the aligned model too
    options = {"choices": ["A", "B"], "question": "Which drug?", "options": ["zorimel", "tavoxan"]}
    write_rows(folder / "tasks", "medqa", rows_of("medqa", "choice", PAIRS, **options))
    asked, real = [], GenerationMixin.generate
    monkeypatch.setattr(
        GenerationMixin,
        "generate",
        lambda self, *a, **k: asked.append(k["input_ids"].tolist()) or real(self, *a, **k),
    )
    for model in ("chat", "aligned"):
        out = folder / "evaluation" / model
        given = ["--model", folder / model, "--rows", folder / "tasks", "--tasks", "medqa,medqa_ll"]
        given += ["--preset", "chat", "--out", out, "--batch_size", 1, "--max_new_tokens", 4, "--limit", 2]
        generate.main([str(value) for value in given])
        assert all(row["output"] is not None for row in read_jsonl(out / "medqa.jsonl"))
        score.main([str(out)])
        evaluated = list(asked)
        asked.clear()
        args = chat.make_parser().parse_intermixed_args(["--model", str(folder / model)])
        talk = Chat(read_entry(args.model, args.changes), args)
        assert [talk.prompt([{"role": "user", "content": f"{PAIRS[0][0]}\n"}])] in evaluated

    write_csv(folder / "general/mmlu/test/anatomy_test.csv", QUESTIONS)
    forgetting.main([f"--base={folder / 'base'}", "--tuned", str(folder / "chat"), "--tasks", "mmlu_answers",
                     "--data", str(folder / "general"), "--blocks", str(folder / "blocks"), "--device", "cpu",
                     "--num_fewshot", "0", "--max_general_drop", "1.0", "--max_general_perplexity_ratio", "9",
                     "--out", str(folder / "forgetting")])  # fmt: skip


def test_grpo_and_release(chain, monkeypatch):
    folder, _ = chain
    common = {"task": "medqa", "scoring": "choice", "source": "s", "license": "CC0", "access": "gated"}
    common |= {"choices": ["A", "B"], "options": ["zorimel", "tavoxan"]}
    rows = [
        {"id": f"c{i}", "prompt": f"{q}\n", "question": q, "completion": a} for i, (q, a) in enumerate(PAIRS)
    ]
    for split in ("train", "validation"):
        write_jsonl(folder / f"choice_rows/{split}.jsonl", [row | common | {"split": split} for row in rows])
    write_rows_manifest(folder / "choice_rows", "build_tasks")
    assert recipe(folder, "grpo", GRPO | {"max_steps": 1, "output_dir": "rewarded"}) is None
    assert any(line["completion"] for line in read_jsonl(folder / "rewarded/completions/rank0.jsonl"))

    monkeypatch.chdir(folder)
    for action in (["build", "--license", "CC-BY-4.0"], ["verify"]):
        release.main(release.make_parser().parse_args([*action, "release", "--run", "rewarded"]))
