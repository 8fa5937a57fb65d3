"""The models named in evaluation/models: their facts, their prompts, and a run of each on a tiny stand-in of
its architecture."""

import json
from types import SimpleNamespace

import pytest
import yaml

from data_prep.corpus.tokenize import adds_bos
from data_prep.schema import BadInput
from evaluation import generate
from evaluation.models import wrapper
from evaluation.models.registry import FOLDER, families, positions, read_entry
from tests import tokenizer_families
from tests.fake_openai import FakeServer
from tests.tiny_model import make_model, make_tokenizer, read_jsonl, rows_of, write_rows

ENTRIES = families(sorted(FOLDER.glob("*.yaml")))
NAMED = {  # in the paper
    "llama-2-7b",
    "llama-2-13b",
    "llama-2-70b",
    "llama-2-7b-chat",
    "llama-2-13b-chat",
    "llama-2-70b-chat",
    "pmc-llama-13b",
    "pmc-llama-13b-chat",
    "meditron-7b",
    "meditron-70b",
    "medalpaca-7b",
    "medalpaca-13b",
    "chatdoctor",
    "alpacare-13b",
    "clinical-llama-7b",
    "gatortrongpt-5b",
    "gatortrongpt-20b",
    "me-llama-13b",
    "me-llama-70b",
    "me-llama-13b-chat",
    "me-llama-70b-chat",
    "gpt-3.5-turbo-0301",
    "gpt-4-0314",
}
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n"
ASKED = {  # the exact prompt for the row "Is it so?\n"
    "llama-2": "<s>[INST] Is it so? [/INST]",
    "pmc-llama": f"{ALPACA}Is it so?\n\n### Response:",
    "alpacare": f"{ALPACA}Is it so?\n\n### Response:",
    "medalpaca": "Below is an instruction that describes a task, paired with an input that provides "
    "further context. Write a response that "
    "appropriately completes the request.\n\n### Instruction:\nIs it so?\n\n### Input:\n\n\n### Response:\n",
    "chatdoctor": "If you are a doctor, please answer the medical questions based on the patient's "
    "description. \n\nChatDoctor: I am "
    "ChatDoctor, what medical questions do you have?\n\nPatient: Is it so?\n\nChatDoctor: ",
    "me-llama": "Human: \nIs it so?\n\nAssistant: \n",
    "llama-3.1": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: "
    "December 2023\nToday Date: 26 Jul "
    "2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nIs it "
    "so?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen3": "<|im_start|>user\nIs it so?\n<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "medgemma": "<bos><start_of_turn>user\nIs it so?<end_of_turn>\n<start_of_turn>model\n",
    "gpt": '[{"role": "user", "content": "Is it so?\\n"}]',
}
TWO_TURNS = {  # with one example before it
    "llama-2": "<s>[INST] Or so? [/INST] no </s><s>[INST] Is it so? [/INST]",
    "chatdoctor": "\n\nPatient: Or so?\n\nChatDoctor: no\n\nPatient: Is it so?\n\nChatDoctor: ",
    # its wrapper has no second turn: all in the one question
    "me-llama": "Human: \nOr so?\nno\n\nIs it so?\n\nAssistant: \n",
    "alpacare": "### Instruction:\nOr so?\nno\n\nIs it so?\n\n### Response:",
}
WITH_SYSTEM = {  # "Be brief." before "Is it so?"
    "llama-2-13b-chat": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nIs it so? [/INST]",
    "llama-3.1-8b-instruct": ASKED["llama-3.1"].replace("2024\n\n", "2024\n\nBe brief."),
    "medgemma-27b-text-it": ASKED["medgemma"].replace("Is it", "Be brief.\n\nIs it"),
    "qwen3-8b": "<|im_start|>system\nBe brief.<|im_end|>\n" + ASKED["qwen3"],
}
TOKENIZERS = {
    "llama-3.1": ("<|begin_of_text|>", "<|eot_id|>", True),
    "med-llama3": ("<|begin_of_text|>", "<|eot_id|>", True),
    "qwen3": ("<|im_start|>", "<|im_end|>", False),
    "medgemma": ("<bos>", "<end_of_turn>", True),
}


def family_of(name, of=ASKED):
    return next((family for family in of if name.startswith(family)), None)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    labels = {"choices": ["yes", "no"]}
    write_rows(folder / "rows", "pubmedqa", rows_of("pubmedqa", "choice", [("Is it so?", "yes")], **labels))
    write_rows(
        folder / "rows",
        "pubmedqa",
        rows_of("pubmedqa", "choice", [("Or so?", "no")], "train", **labels),
        "train",
    )
    made = {}

    def stand_in(name):
        key = (ENTRIES[name]["architecture"], family_of(name, TOKENIZERS))
        if key not in made:
            tokenizer = make_tokenizer(*TOKENIZERS.get(key[1], ()))
            made[key] = make_model(
                folder / f"model{len(made)}",
                architecture=key[0],
                tokenizer=tokenizer,
                template=False,
                positions=512,
            )
        return made[key]

    return folder, stand_in


def test_dynamic_scaling_reaches_beyond_the_positions_of_the_config(tmp_path):
    dynamic = {"rope_theta": 1e4, "factor": 2.0}
    for config, reached in (
        ({"model_type": "llama"}, 64),
        ({"model_type": "llama", "rope_parameters": dynamic | {"rope_type": "linear"}}, 64),
        ({"model_type": "llama", "rope_parameters": dynamic | {"rope_type": "dynamic"}}, 128),
        ({"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 128),  # before 5.0
        ({"model_type": "gpt2", "n_positions": 32}, 32),
    ):
        config = {"max_position_embeddings": 64} | config if config["model_type"] == "llama" else config
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert positions(tmp_path) == reached


def test_each_family_takes_a_system_prompt_in_its_own_format(world):
    _, stand_in = world
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it so?\n"}]
    for name, wanted in WITH_SYSTEM.items():
        entry = read_entry(name, [f"path={stand_in(name)}"])
        tokenizer = wrapper.open_tokenizer(entry)
        assert tokenizer.decode(wrapper.prompt_ids(tokenizer, turns, entry.turns)) == wanted
    tokenizer = wrapper.open_tokenizer(read_entry("chatdoctor", [f"path={stand_in('chatdoctor')}"]))
    with pytest.raises(BadInput, match="ChatDoctor has no system prompt.*or leave --system out"):
        wrapper.prompt_ids(tokenizer, turns)
    for name in ("llama-2-13b-chat", "medgemma-27b-text-it"):
        tokenizer = wrapper.open_tokenizer(read_entry(name, [f"path={stand_in(name)}"]))
        with pytest.raises(BadInput, match="a system prompt comes first"):
            wrapper.prompt_ids(tokenizer, [turns[1], turns[0], turns[1]])


def run(world, name, *more, tasks="pubmedqa", changes=(), preset=None):
    folder, _ = world
    out = folder / "eval" / name
    preset = preset or ("chat" if ENTRIES[name].get("chat") else "paper")
    paths = ["--rows", folder / "rows", "--tasks", tasks, "--preset", preset, "--out", out]
    generate.main([str(a) for a in ["--model", name, *changes, *paths, "--max_new_tokens", 4, *more]])
    facts = json.loads((out / "run.json").read_text())
    return facts, facts["tasks"][tasks.split(",")[0]], read_jsonl(out / f"{tasks.split(',')[0]}.jsonl")


def test_every_model_of_the_article_is_there_with_facts_and_where_they_are_from():
    assert set(ENTRIES) > NAMED
    for path in FOLDER.glob("*.yaml"):
        family = yaml.safe_load(path.read_text())
        facts = {key for model in family["models"].values() for key in {**family, **model}} - {
            "models",
            "sources",
            "page",
            "chat",
        }
        assert facts == set(family["sources"]), path.name
        assert all(
            source == "recalled" or source.startswith("https://") for source in family["sources"].values()
        ), path.name
    for name, facts in ENTRIES.items():
        assert facts["context"] >= 2048 and facts["size"] and facts["license"] and facts["access"], name
        assert facts.get("hub") or facts.get("page") or facts.get("backend") == "chat", name
        assert bool(facts.get("chat_template")) == bool(
            facts.get("chat") and facts.get("backend") != "chat"
        ), name


@pytest.mark.parametrize("name", [name for name, facts in ENTRIES.items() if facts.get("backend") != "chat"])
def test_each_model_runs_on_a_stand_in_with_its_exact_prompt(world, name):
    path = world[1](name)
    facts, task, rows = run(world, name, changes=[f"path={path}"], tasks="pubmedqa,pubmedqa_ll")
    assert task["first_prompt"] == (ASKED[family_of(name)] if ENTRIES[name].get("chat") else "Is it so?\n")
    assert (
        isinstance(rows[0]["output"], str)
        and len(read_jsonl(world[0] / "eval" / name / "pubmedqa_ll.jsonl")[0]["output"]) == 2
    )
    assert facts["name"] == name and facts["access"] == (
        "credentialed" if ENTRIES[name]["access"] == "credentialed" else "gated"
    )
    assert task["template"]["name"] == (name if ENTRIES[name].get("chat") else "none")
    assert task["context"] == 512  # of the stand-in: never more than the model has


@pytest.mark.parametrize("name", ["llama-2-7b-chat", "chatdoctor", "me-llama-13b-chat", "alpacare-13b"])
def test_examples_are_turns_where_the_wrapper_has_turns(world, name):
    _, task, _ = run(world, name, "--num_fewshot", 1, changes=[f"path={world[1](name)}"])
    assert task["first_prompt"].endswith(TWO_TURNS[family_of(name)]) and task["shots"]["ids"] == [
        "pubmedqa:train:0"
    ]


@pytest.mark.parametrize("name", ["gpt-3.5-turbo-0301", "gpt-4-0314"])
def test_the_commercial_models_are_asked_through_their_endpoint(world, name):
    with FakeServer(model=name) as fake:
        fake.reply = lambda prompt: "yes"
        facts, task, rows = run(world, name, changes=[f"base_url={fake.url('chat')}"])
        assert fake.requests[0][1]["model"] == name
    assert (
        rows[0]["output"] == "yes"
        and task["first_prompt"] == ASKED["gpt"]
        and facts["server"]["served"] == name
    )
    assert read_entry(name).base_url == "https://api.openai.com/v1/chat/completions"


@pytest.mark.parametrize("family", tokenizer_families.FAMILIES)
def test_prompts_begin_as_packed_blocks_do(family):
    """The wrapper and the harness's local backend give BOS where data_prep.corpus.tokenize does."""
    from lm_eval.models.huggingface import HFLM

    tokenizer = tokenizer_families.FAMILIES[family]()
    asked = wrapper.encode(tokenizer, "The heart is normal.")
    prefix = tokenizer.bos_token_id or tokenizer.eos_token_id
    backend = SimpleNamespace(tokenizer=tokenizer, add_bos_token=None, prefix_token_id=prefix)
    assert asked == HFLM.tok_encode(backend, "The heart is normal.")
    assert adds_bos(tokenizer) == (family in tokenizer_families.ADDS_BOS)
    assert (asked[0] == tokenizer.bos_token_id) == adds_bos(tokenizer)


def test_every_wrapper_has_bos_once(world):
    from transformers import AutoTokenizer

    for name in ("llama-2-7b-chat", "llama-3.1-8b-instruct", "medgemma-27b-text-it", "medalpaca-7b"):
        tokenizer = AutoTokenizer.from_pretrained(world[1](name))
        with FakeServer(model="m") as fake:
            changes = [
                "backend=completions",
                f"base_url={fake.url('completions')}",
                "served=m",
                f"path={world[1](name)}",
            ]
            run(world, name, changes=changes)
            [ids] = fake.requests[0][1]["prompt"]
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id, name


def test_what_a_name_lacks_is_said_with_the_next_command(world, tmp_path):
    for name, changes, message in (
        (
            "llama-2-7b",
            [],
            "meta-llama/Llama-2-7b-hf is not on this machine. Next: hf download meta-llama/Llama-2-7b-hf, "
            "or path=DIR",
        ),
        (
            "me-llama-70b",
            [],
            "not on the Hub. Next: fetch them .https://physionet.org/content/me-llama/1.0.0/., then path=DIR",
        ),
        ("llama-2-7b", ["context=many"], "context must be a number of tokens, found 'many'"),
        ("llama-2-7b", ["chat_template=none.jinja"], "none.jinja: no such file"),
        ("no-such-model", [], "no model here, and no name of evaluation/models .known: alpacare-13b, "),
        (
            str(FOLDER / "meditron.yaml"),
            [],
            "has 2 models. Next: --model .*meditron.yaml:NAME, of meditron-7b, meditron-70b",
        ),
        (f"{FOLDER / 'meditron.yaml'}:x", [], "has no model 'x'"),
        (str(tmp_path / "mine.yaml"), [], "mine.yaml: no such file. Next: copy one of evaluation/models"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(world, "llama-2-7b", "--model", name, changes=changes)


def test_no_one_lowers_the_class_of_a_card(world):
    path = f"path={world[1]('llama-2-7b')}"
    assert read_entry("me-llama-13b", [path, "access=public"]).access == "credentialed"
    assert read_entry("qwen3-8b", [path, "access=credentialed"]).access == "credentialed"
    with pytest.raises(BadInput, match="access 'open' is unknown"):
        read_entry("qwen3-8b", [path, "access=open"])


def test_a_file_of_your_own_works_with_and_without_the_name(world, tmp_path):
    mine = tmp_path / "mine.yaml"
    template = "{{ 'Q ' + messages[0]['content'] | trim + ' A' }}"
    mine.write_text(
        yaml.safe_dump(
            {"access": "public", "context": 64, "chat_template": template, "models": {"mine": {"chat": True}}}
        )
    )
    for model in (str(mine), f"{mine}:mine"):
        entry = read_entry(model, [f"path={world[1]('llama-2-7b')}"])
        assert (
            entry.name == "mine" and entry.chat_template == template and entry.access == "gated"
        )  # that of the weights' own run.json
    mine.write_text(yaml.safe_dump({"models": {"mine": {"colour": "red"}}}))
    with pytest.raises(SystemExit, match="mine: unknown key 'colour'"):
        run(world, "llama-2-7b", "--model", str(mine))
