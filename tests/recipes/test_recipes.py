"""The recipes, run whole from a copy in another folder: train, stop, resume, merge, refuse."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from data_prep.demo import backbone
from tests.data_prep.test_blocks import MIXTURE
from tests.lab import PRETRAIN, ROOT, SAFEGUARDS, SFT, TASK, ledger, losses, recipe, run_json, weights

SFT_SCALE = 32 / SFT["lora_r"]  # trl's default lora_alpha


def test_pretrain_writes_a_model_and_a_complete_record(lab):
    record = run_json(lab / "base")
    assert (
        record["status"] == "complete"
        and record["access"] == "gated"
        and record["arguments"]["global_batch_tokens"] == 128
    )
    assert (
        record["metrics"]["eval_general_loss"] > 0
        and record["peak_memory_bytes"] > 1e7
        and record["steps"] == len(losses(lab / "base"))
    )
    assert losses(lab / "base")[-1] < losses(lab / "base")[0]
    validation = json.loads((lab / "base" / "validation.json").read_text())
    for domain, blocks in validation.items():
        mean = sum(blocks["nll"]) / sum(blocks["tokens"])
        assert record["metrics"][f"eval_{domain}_loss"] == pytest.approx(mean), "weighted by tokens"
    assert AutoModelForCausalLM.from_pretrained(lab / "base").config.vocab_size == len(
        AutoTokenizer.from_pretrained(lab / "base")
    )


@pytest.mark.guarantee("Training", "Validation loss does not change with the batch size.")
def test_validation_loss_does_not_change_with_the_batch_size(lab):
    for size in (1, 7):
        recipe(
            lab,
            "pretrain",
            {
                **PRETRAIN,
                "output_dir": f"batch{size}",
                "per_device_eval_batch_size": size,
                "max_steps": 1,
                "save_strategy": "no",
            },
        )
    one, seven = (run_json(lab / f"batch{size}")["metrics"] for size in (1, 7))
    for domain in MIXTURE["ratio"]:
        assert one[f"eval_{domain}_loss"] == pytest.approx(seven[f"eval_{domain}_loss"], rel=1e-5)
        assert one[f"eval_{domain}_tokens"] == seven[f"eval_{domain}_tokens"]


@pytest.mark.guarantee("Training", "Reported validation losses are those of each document alone.")
def test_validation_is_of_documents_that_do_not_see_each_other(lab):
    """The losses that a run reports, against those of each document alone."""
    model, held_out = (
        LlamaForCausalLM.from_pretrained(lab / "base").eval(),
        json.loads((lab / "base" / "validation.json").read_text()),
    )
    manifest = json.loads((lab / "blocks" / "manifest.json").read_text())
    for domain, found in held_out.items():
        nll, tokens = [], []
        for file in (
            o["path"] for o in manifest["outputs"] if (o["split"], o["domain"]) == ("validation", domain)
        ):
            for block in datasets.Dataset.from_file(str(lab / "blocks" / file)):
                parts = torch.tensor(block["input_ids"][: sum(block["seq_lengths"])]).split(
                    block["seq_lengths"]
                )
                alone = [(part[None], len(part) - 1) for part in parts if len(part) > 1]
                with torch.no_grad():
                    nll.append(sum(float(model(ids, labels=ids).loss) * count for ids, count in alone))
                tokens.append(sum(count for _, count in alone))
        assert found["tokens"] == tokens and found["nll"] == pytest.approx(nll, rel=1e-4), domain


def test_a_complete_run_is_left_alone(lab, capsys):
    before = (lab / "base" / "model.safetensors").stat().st_mtime_ns
    assert recipe(lab, "pretrain", PRETRAIN) is None
    assert (
        "already complete" in capsys.readouterr().out
        and (lab / "base" / "model.safetensors").stat().st_mtime_ns == before
    )


def test_micro_batches_do_not_change_the_step(lab):
    """Memory decides micro-batch and accumulation; the blocks of a step and its loss stay. Blocks that do not
    fill a step are left over."""
    accumulation, blocks = {}, json.loads((lab / "blocks" / "manifest.json").read_text())["order"]["blocks"]
    assert blocks % 6
    for size in (1, 3, 6):
        config = {
            **PRETRAIN,
            "global_batch_tokens": 6 * 32,
            "per_device_train_batch_size": size,
            "output_dir": f"size{size}",
        }
        assert recipe(lab, "pretrain", config) is None
        record = run_json(lab / f"size{size}")
        accumulation[size] = record["arguments"]["gradient_accumulation_steps"]
        assert (record["steps"], record["left_over_blocks"]) == divmod(blocks, 6)
        assert record["ledger"]["blocks"] == blocks // 6 * 6
    assert accumulation == {1: 6, 3: 2, 6: 1}
    assert ledger(lab / "size1") == ledger(lab / "size3") == ledger(lab / "size6")
    for size in (3, 6):
        assert losses(lab / f"size{size}") == pytest.approx(losses(lab / "size1"), abs=1e-4)


class Reached(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "step", "ranks", "micro_batch", "accumulation"),
    [
        ("pretrain", 10_485_760, 160, 1, 16),  # the paper: 16 x 160 x 4,096
        ("pretrain", 10_485_760, 8, 1, 320),
        ("pretrain", 10_485_760, 8, 5, 64),
        ("pretrain", 10_485_760, 8, 6, "10420224 or 10616832"),
        ("pretrain", 4096, 8, 1, "32768"),
        ("sft", 32, 8, 2, 2),
        ("sft", 32, 8, 3, "24 or 48"),
        ("sft", 32, 1, 32, 1),
    ],
)
def test_accumulation_follows_from_step_ranks_and_micro_batch(
    monkeypatch, name, step, ranks, micro_batch, accumulation
):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    module = importlib.import_module(name)

    def reached(*args):
        raise Reached

    monkeypatch.setattr(module.checks, "check_launch", reached)
    monkeypatch.setattr(
        importlib.import_module("pretrain"), "read_manifest", lambda _: {"block_length": 4096}
    )
    run = SimpleNamespace(global_batch_tokens=step, global_batch_size=step, blocks="")
    training = SimpleNamespace(world_size=ranks, per_device_train_batch_size=micro_batch)
    args = (run, training) if name == "pretrain" else (run, training, None)
    if isinstance(accumulation, str):
        with pytest.raises(module.checks.Refused, match=f"Next: global_batch_\\w+ {accumulation}$"):
            module.main(args)
    else:
        with pytest.raises(Reached):
            module.main(args)
        assert training.gradient_accumulation_steps == accumulation


def test_sft_then_merge(lab):
    assert recipe(lab, "sft", SFT) is None
    record = run_json(lab / "adapter")
    assert record["tokens_seen"] > 100 and run_json(lab / "base")["tokens_seen"] > 1000
    assert (
        record["status"] == "complete"
        and record["access"] == "gated"
        and losses(lab / "adapter")[-1] < losses(lab / "adapter")[0]
    )
    assert not (lab / "adapter" / "model.safetensors").exists()
    assert recipe(lab, "merge_adapter", {"adapter": "adapter", "output_dir": "chat"}) is None
    parity = run_json(lab / "chat")["parity"]
    assert (
        parity["max_logit_difference"] < 1e-4
        and parity["same_token"] == 1
        and not (lab / "chat" / ".unproven").exists()
    )
    base, chat = (AutoModelForCausalLM.from_pretrained(lab / name).state_dict() for name in ("base", "chat"))
    moved = [key for key in base if not torch.equal(base[key], chat[key])]
    assert moved and all("q_proj" in key or "v_proj" in key for key in moved)
    tokenizer = AutoTokenizer.from_pretrained(lab / "chat")
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}] * 2
    rendered = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ids, trained = (
        rendered["input_ids"],
        [i for i, m in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if m],
    )
    assert (
        ids.count(tokenizer.bos_token_id) == 2
        and trained.count(tokenizer.eos_token_id) == ids.count(tokenizer.eos_token_id) == 2
    )
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    assert ids[: len(prompt)] == prompt, "generation starts from the very tokens of training"


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_a_disk_that_fills_while_weights_are_saved_is_one_sentence(lab, monkeypatch, kind):
    def save(*args, **kwargs):
        if kind == "torch":
            torch.save(torch.zeros(100_000), "/dev/full")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    assert recipe(lab, "sft", SFT) is None
    merge = {"adapter": "adapter", "output_dir": f"full_{kind}"}
    with monkeypatch.context() as patch:
        patch.setattr(transformers.PreTrainedModel, "save_pretrained", save)
        said = recipe(lab, "merge_adapter", merge)
    assert "no space left on the disk. Next: free space, then the same command again" in said
    assert recipe(lab, "merge_adapter", merge) is None


def eos_of(folder):
    config, generation = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "generation_config")
    )
    return config["eos_token_id"], generation["eos_token_id"]


@pytest.mark.guarantee(
    "Merging", "A merged model stops at the EOS of its tokenizer, and at those of its base."
)
def test_a_merged_model_stops_where_its_tokenizer_does(lab):
    config = {**SFT, "eos_token": "<unk>", "pad_token": "<pad>", "output_dir": "other_eos", "max_steps": 1}
    assert recipe(lab, "sft", config) is None
    assert recipe(lab, "merge_adapter", {"adapter": "other_eos", "output_dir": "other_eos_merged"}) is None
    tokenizer = AutoTokenizer.from_pretrained(lab / "other_eos_merged")
    base = AutoTokenizer.from_pretrained(lab / "base").eos_token_id
    assert tokenizer.eos_token == "<unk>"
    assert eos_of(lab / "other_eos_merged") == (tokenizer.eos_token_id, [tokenizer.eos_token_id, base])


@pytest.mark.guarantee(
    "Merging", "An adapter is merged onto the weights that it was trained on, or not at all."
)
def test_a_base_that_is_another_one_is_refused(lab):
    shutil.copytree(
        lab / "base", lab / "downloaded", ignore=shutil.ignore_patterns("run.json", "checkpoint-*")
    )
    config = {**SFT, "model_name_or_path": "downloaded", "output_dir": "on_downloaded", "max_steps": 3}
    assert recipe(lab, "sft", config) is None
    merge = {"adapter": "on_downloaded", "output_dir": "on_downloaded_merged"}
    model = AutoModelForCausalLM.from_pretrained(lab / "downloaded")
    model.model.layers[0].mlp.up_proj.weight.data += 0.01
    model.save_pretrained(lab / "downloaded")
    assert "downloaded has other weights than on_downloaded was trained on" in recipe(
        lab, "merge_adapter", merge
    )
    (lab / "elsewhere").mkdir()
    said = recipe(lab / "elsewhere", "merge_adapter", {**merge, "adapter": str(lab / "on_downloaded")})
    assert "downloaded: the base of" in said and "is not here, relative to" in said
    assert "holds another run (differs in base)" in recipe(lab, "sft", {**config, "max_steps": 3})


def test_a_base_that_moved_on_the_hub_is_the_commit_that_was_trained_on(lab, monkeypatch):
    """refs/main moves between training and merging: the adapter is merged onto the commit of its run.json."""
    hub = lab / "hub" / "models--lab--tiny"
    for commit, scale in (("a" * 40, 1.0), ("b" * 40, 1.5)):
        model = AutoModelForCausalLM.from_pretrained(lab / "base")
        model.model.norm.weight.data *= scale
        model.save_pretrained(hub / "snapshots" / commit)
        AutoTokenizer.from_pretrained(lab / "base").save_pretrained(hub / "snapshots" / commit)
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(lab / "hub"))
    config = {**SFT, "model_name_or_path": "lab/tiny", "output_dir": "from_hub", "max_steps": 1}
    assert recipe(lab, "sft", config) is None
    assert run_json(lab / "from_hub")["base"]["revision"] == "a" * 40
    (hub / "refs" / "main").write_text("b" * 40)
    assert recipe(lab, "merge_adapter", {"adapter": "from_hub", "output_dir": "from_hub_merged"}) is None
    base, merged = weights(hub / "snapshots" / ("a" * 40)), weights(lab / "from_hub_merged")
    assert torch.equal(base["model.norm.weight"], merged["model.norm.weight"])


def test_peft_loads_an_adapter_of_ours_without_a_warning(lab, recwarn):
    assert recipe(lab, "sft", {**SFT, "output_dir": "quiet", "max_steps": 1}) is None
    recwarn.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(lab)  # where its base is
        AutoPeftModelForCausalLM.from_pretrained("quiet")
    assert not [w for w in recwarn if "keyword arguments" in str(w.message)]
    assert json.loads((lab / "quiet" / "access.json").read_text()) == {"access": "gated"}


def test_qlora_then_merge_into_the_unquantised_base(lab):
    config = {
        **SFT,
        "model_name_or_path": "even",
        "load_in_4bit": True,
        "use_bnb_nested_quant": True,
        "dtype": "bfloat16",
        "output_dir": "qlora",
    }
    assert recipe(lab, "sft", config) is None
    assert losses(lab / "qlora")[-1] < losses(lab / "qlora")[0]
    assert recipe(lab, "merge_adapter", {"adapter": "qlora", "output_dir": "qlora_merged"}) is None
    assert run_json(lab / "qlora_merged")["parity"]["max_logit_difference"] < 1e-4
    base, merged, adapter = weights(lab / "even"), weights(lab / "qlora_merged"), weights(lab / "qlora")
    for key in base:
        down, up = (
            adapter.get(f"base_model.model.{key.removesuffix('.weight')}.lora_{side}.weight") for side in "AB"
        )
        change = 0 if up is None else SFT_SCALE * up.float() @ down.float()
        assert torch.allclose(merged[key], base[key] + change, atol=1e-6), key


def test_full_instruction_tuning_on_packed_rows(lab):
    config = {
        **SFT,
        "use_peft": False,
        "packing": True,
        "attn_implementation": "torch_varlen",
        "learning_rate": 1e-3,
        "output_dir": "full",
    }
    for key in ("lora_r", "lora_target_modules"):
        del config[key]
    assert recipe(lab, "sft", config) is None
    record = run_json(lab / "full")
    assert (
        losses(lab / "full")[-1] < losses(lab / "full")[0] and (lab / "full" / "model.safetensors").is_file()
    )
    assert record["rows"]["given"] == 17 and record["rows"]["kept"] < 12, (
        "17 conversations in a few packed rows"
    )


def test_a_changed_row_or_template_is_another_run(lab):
    shutil.copytree(lab / "rows", lab / "rows_copy")
    differs = {"template.jinja": "chat template", "rows_copy/train.jsonl": "data"}
    shutil.copy(ROOT / "recipes/chat_template.jinja", lab / "template.jinja")
    config = {
        **SFT,
        "rows": "rows_copy",
        "chat_template_path": "template.jinja",
        "output_dir": "templated",
        "max_steps": 1,
    }
    assert recipe(lab, "sft", config) is None and recipe(lab, "sft", config) is None
    for name in ("template.jinja", "rows_copy/train.jsonl"):
        before = (lab / name).read_text()
        (lab / name).write_text(
            before + "\n"
            if name.endswith("jinja")
            else before + before.splitlines()[0].replace("train0", "more") + "\n"
        )
        said = recipe(lab, "sft", config)
        assert said and f"differs in {differs[name]}" in said
        (lab / name).write_text(before)


def test_a_linked_folder_on_another_disk_is_written_to(lab):
    (lab / "large_disk").mkdir()
    (lab / "linked").symlink_to(lab / "large_disk")
    assert recipe(lab, "sft", {**SFT, "output_dir": "linked", "max_steps": 1}) is None
    assert (lab / "linked").is_symlink() and run_json(lab / "large_disk")["status"] == "complete"


def test_overwriting_removes_nothing_for_a_run_that_is_refused(lab):
    config = {**SFT, "rows": "rows_whole", "output_dir": "kept", "max_steps": 1}
    shutil.copytree(lab / "rows", lab / "rows_whole")
    assert recipe(lab, "sft", config) is None
    (lab / "rows_whole" / "manifest.json").write_text("{}")
    assert "access is missing" in recipe(lab, "sft", config, "--overwrite", "true")
    assert (
        run_json(lab / "kept")["status"] == "complete"
        and (lab / "kept" / "adapter_model.safetensors").is_file()
    )


def test_task_fine_tuning_keeps_the_best_checkpoint(lab):
    assert recipe(lab, "sft", TASK) is None
    record = run_json(lab / "task")
    assert record["status"] == "complete" and record["best_checkpoint"]
    assert record["best_metric"] == pytest.approx(record["metrics"]["eval_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "config", "arguments", "said"),
    [
        ("pretrain", {**PRETRAIN, "learning_ratte": 1}, (), "learning_ratte"),
        ("pretrain", PRETRAIN, ("--learning_rat", "3"), "learning_rat"),
        (
            "pretrain",
            {**PRETRAIN, "blocks": "documents", "output_dir": "new"},
            (),
            "no packed blocks. Next: python -m data_prep.build_blocks",
        ),
        (
            "pretrain",
            {**PRETRAIN, "global_batch_tokens": 100, "output_dir": "new"},
            (),
            "global_batch_tokens 100 is not a multiple of 64, one forward pass on all ranks. Next: ",
        ),
        ("pretrain", {**PRETRAIN, "learning_rate": 5e-4}, (), "holds another run (differs in learning_rate)"),
        (
            "pretrain",
            {**PRETRAIN, "document_masking": "isolate", "output_dir": "new"},
            (),
            "document_masking",
        ),
        ("sft", {**SFT, "rows": "nowhere", "output_dir": "new"}, (), "nowhere"),
        ("sft", {**SFT, "rows": "bad_rows", "output_dir": "new"}, (), "train.jsonl: line 2 is not a row"),
        (
            "sft",
            {**SFT, "rows": "half", "output_dir": "new"},
            (),
            "half/validation.jsonl is not there. Next:",
        ),
        (
            "sft",
            {**SFT, "model_name_or_path": "no/such/model", "output_dir": "new"},
            (),
            "no/such/model: no config.json here",
        ),
        (
            "pretrain",
            {**PRETRAIN, "model_name_or_path": "documents", "output_dir": "new"},
            (),
            "documents: no config.json here",
        ),
        (
            "sft",
            {**TASK, "model_name_or_path": "no_such/model", "output_dir": "new"},
            (),
            "no_such/model: We couldn't connect",
        ),
        (
            "sft",
            {**SFT, "model_name_or_path": "rows/nope", "output_dir": "new"},
            (),
            "rows/nope: no config.json here",
        ),
        (
            "sft",
            {**SFT, "chat_template_path": "no.jinja", "output_dir": "new"},
            (),
            "no.jinja: no such template",
        ),
        ("sft", {**SFT, "lora_target_modules": ["q_prj"], "output_dir": "new"}, (), "q_prj"),
        ("sft", {**SFT, "learning_rate": "fast", "output_dir": "new"}, (), "invalid float value: 'fast'"),
        ("sft", {**PRETRAIN, "output_dir": "new"}, (), "sft_new.yaml"),
        ("sft", {**SFT, "output_dir": "new"}, ("--config", "bad.yaml"), "bad.yaml"),
        ("merge_adapter", {"adapter": "base", "output_dir": "new"}, (), "adapter_config.json"),
        (
            "sft",
            {**SFT, "model_name_or_path": "cut", "output_dir": "new"},
            (),
            "cut/model.safetensors: cut or damaged (5,000 bytes). Next: copy, download or train it again",
        ),
    ],
)
def test_wrong_input_is_one_sentence_before_the_first_step(lab, name, config, arguments, said):
    shutil.copytree(lab / "rows", lab / "bad_rows", dirs_exist_ok=True)
    (lab / "bad_rows" / "train.jsonl").write_text(
        '{"id": "a", "prompt": "p\\n", "completion": "c", "access": "public"}\n'
        '{"id": "a", "prompt": "p\\n", "access": "public"}\n'
    )
    (lab / "bad.yaml").write_text("rows: [")
    shutil.copytree(lab / "rows", lab / "half", dirs_exist_ok=True)
    (lab / "half" / "validation.jsonl").unlink()
    shutil.copytree(lab / "base", lab / "cut", dirs_exist_ok=True)
    os.truncate(lab / "cut" / "model.safetensors", 5000)
    stopped = recipe(lab, name, config, *arguments)
    assert stopped and stopped.startswith("error: ") and said in stopped and len(stopped) < 800
    assert not (lab / "new" / "checkpoint-1").exists()
    shutil.rmtree(lab / "new", ignore_errors=True)


def test_blocks_of_another_tokenizer_are_refused(lab):
    backbone.main(["--documents", str(lab / "documents"), "--out", str(lab / "other"), "--vocab_size", "380"])
    said = recipe(lab, "pretrain", {**PRETRAIN, "model_name_or_path": "other", "output_dir": "new"})
    assert said and "is not the one that made blocks" in said and not (lab / "new").exists()


# ---------------------------------------------------------------- the files themselves
PRIVATE = re.compile(
    r"(?:self|super\(\)|trainer|model|tokenizer|training|args|state|control)\._[a-z]|def _(?!open\b|_)[a-z]"
)


@pytest.mark.guarantee(
    "Recipes", "No private method of a library is overridden or called in a recipe or beside it."
)
def test_no_private_method_of_a_library():
    """But for private *attributes*: two of a config that is the probe's own copy (checks.check_isolation), and
    the metrics of one evaluation step, which TRL hands out nowhere else (alignment_callbacks)."""
    for path in (ROOT / "recipes").glob("*.py"):
        if path.name != "egress.py" and not path.is_symlink():
            found = PRIVATE.findall(path.read_text().replace("trainer._metrics", "metrics"))
            assert found == [], f"{path.name}: {found}"
        assert "unittest" not in path.read_text(), path.name


def test_recipes_are_pages():
    limits = {"sft.py": 110, "pretrain.py": 210, "merge_adapter.py": 110}
    for name, limit in limits.items():
        assert len((ROOT / "recipes" / name).read_text().splitlines()) <= limit, name


def test_what_is_beside_a_recipe_imports_nothing_of_the_repository():
    for path in (ROOT / "recipes" / name for name in (*limits_of_copies(), *SAFEGUARDS)):
        assert not re.findall(
            r"^\s*(?:from|import) (recipes|data_prep|evaluation|tests)\b", path.read_text(), re.M
        )
    assert (ROOT / "data_prep" / "egress.py").readlink() == Path("../recipes/egress.py")


def limits_of_copies():
    return ("sft.py", "pretrain.py", "merge_adapter.py")


def test_accelerate_launch_reports_our_sentence_alone(lab):
    """What the Makefile runs: the launcher adds no traceback of its own to a refusal."""
    command = [
        Path(sys.executable).parent / "accelerate",
        "launch",
        "-q",
        "--config_file",
        ROOT / "accelerate_configs/cpu.yaml",
        ROOT / "recipes/pretrain.py",
    ]
    done = subprocess.run([*command, "--config", "nothing.yaml"], cwd=lab, capture_output=True, text=True)
    assert done.returncode != 0 and "nothing.yaml" in done.stderr and "Traceback" not in done.stderr
