"""Task files and generation, end to end on a tiny random model and invented rows."""

import ast
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import types

import pytest
import yaml

from data_prep import egress
from data_prep.schema import check_row
from evaluation import bench, generate, score
from evaluation.models import registry
from evaluation.scoring import metrics
from tests.tiny_model import REPO, make_model, read_jsonl, rows_of, write_rows

TASKS = "medqa,medqa_ll,emrqa,i2b2,hoc,mimic_cxr"


def make_rows(folder):
    options = {"choices": ["A", "B"], "question": "Which drug?", "options": ["zorimel", "tavoxan forte"]}
    write_rows(
        folder,
        "medqa",
        rows_of("medqa", "choice", [(f"Question {i}?", "AB"[i % 2]) for i in range(6)], **options),
    )
    examples = [("Question 0?", "A"), ("Another?", "B"), ("A third?", "A")]  # the first is also a test row
    write_rows(folder, "medqa", rows_of("medqa", "choice", examples, "train", **options), "train")
    write_rows(
        folder,
        "emrqa",
        rows_of("emrqa", "span", [("Which dose? [it is {{x}}]", "5.0 mg"), ("Since when?", "[2001]")]),
    )
    types = {"choices": ["problem", "treatment"]}
    write_rows(
        folder,
        "i2b2",
        rows_of("i2b2", "entities", [("Mark: a cough", '<span class="problem">a cough</span>')], **types),
    )
    write_rows(
        folder,
        "hoc",
        rows_of(
            "hoc",
            "labels",
            [("Hallmarks?", "one; two"), ("Hallmarks?", "two")],
            choices=["one", "two", "three"],
        ),
    )
    write_rows(
        folder,
        "mimic_cxr",
        rows_of("mimic_cxr", "summary", [("Findings: clear lungs.", "No acute process.")]),
    )
    labels = {"choices": ["entailment", "neutral"]}
    write_rows(
        folder,
        "mednli",
        rows_of("mednli", "choice", [("So?", "neutral"), ("Or so?", "entailment")], **labels),
    )
    examples = [(f"Example {i}?", "neutral" if i < 8 else "entailment") for i in range(10)]
    write_rows(folder, "mednli", rows_of("mednli", "choice", examples, "train", **labels), "train")


def command(world, out, *more, tasks=TASKS, preset="paper", model="model", changes=()):
    arguments = [
        "--model",
        world / model,
        *changes,
        "--rows",
        world / "rows",
        "--tasks",
        tasks,
        "--preset",
        preset,
        "--out",
        world / out,
    ]
    return [str(a) for a in [*arguments, "--device", "cpu", "--max_new_tokens", 8, *more]]


def tree(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("evaluation")
    torch.set_num_threads(1)  # so small a model is slower on two
    make_rows(folder / "rows")
    make_model(folder / "model")
    generate.main(command(folder, "eval/raw"))
    generate.main(command(folder, "eval/chat", tasks="medqa,medqa_ll,mimic_cxr", preset="chat"))
    score.main([str(folder / "eval" / "raw")])
    return folder


def test_every_task_file_loads_with_the_metrics_of_its_scoring():
    twins = {"pubmedqa_ll", "medqa_ll", "medmcqa_ll", "bionli_ll", "mednli_ll", "ddi_ll", "mtsamples_ll"}
    twins |= {"medqa_letters_ll", "medmcqa_letters_ll"}
    assert set(generate.GROUPS["all_ll"]) == twins and len(generate.GROUPS["all"]) == 12
    for group, names in (("mibe", generate.GROUPS["all"]), ("mibe_ll", twins)):
        listed = yaml.safe_load((generate.TASKS / f"{group}.yaml").read_text())["task"]
        assert sorted(listed) == sorted(f"mibe_{name}" for name in names)
    scorings = {
        "emrqa": "span",
        "i2b2": "entities",
        "hoc": "labels",
        "pubmed_summ": "summary",
        "mimic_cxr": "summary",
    }
    for name in generate.GROUPS["all"]:
        text = (generate.TASKS / f"{name}.yaml").read_text().replace("!function ", "")
        task = yaml.safe_load(text)
        wanted = metrics.NAMES[scorings.get(name, "choice")]
        assert [m["metric"] for m in task["metric_list"]] == [*wanted, "unparsed"]
        assert [m["aggregation"] for m in task["metric_list"]] == [*(f"mibe.{m}" for m in wanted), "mean"]
        assert (
            task["task"] == f"mibe_{name}"
            and task["dataset_kwargs"] == {"name": name}
            and task["generation_kwargs"]["until"] == []
        )


def test_a_row_only_gains_its_output(world):
    for task in TASKS.split(","):
        given = read_jsonl(world / "rows" / task.removesuffix("_ll") / "test.jsonl")
        rows = read_jsonl(world / "eval" / "raw" / f"{task}.jsonl")
        assert [
            {k: v for k, v in row.items() if k not in ("output", "model_access")} for row in rows
        ] == given
        for row in rows:
            check_row(row, "here")
            assert row["model_access"] == "gated"  # that of the model: the rows are public
            assert isinstance(row["output"], list if task.endswith("_ll") else str)
    assert all(len(row["output"]) == 2 for row in read_jsonl(world / "eval" / "raw" / "medqa_ll.jsonl"))


def test_log_likelihoods_are_those_of_the_model(world):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(world / "model"),
        AutoTokenizer.from_pretrained(world / "model"),
    )
    row = read_jsonl(world / "eval" / "raw" / "medqa_ll.jsonl")[0]
    for (nats, size), option in zip(row["output"], row["options"], strict=True):
        before = tokenizer("Question: Which drug? Answer:")["input_ids"]
        ids = tokenizer(f"Question: Which drug? Answer: {option}", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logs = model(ids).logits[0, :-1].log_softmax(-1)
        assert nats == pytest.approx(
            sum(float(logs[i - 1, ids[0, i]]) for i in range(len(before), ids.shape[1])), abs=1e-4
        )
        assert size == len(option.encode())


def test_a_twin_of_labels_asks_for_the_labels_after_the_prompt_of_its_task(world):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    generate.main(command(world, "eval/twin", tasks="mednli_ll"))
    facts = json.loads((world / "eval" / "twin" / "run.json").read_text())["tasks"]["mednli_ll"]
    assert facts["first_prompt"] == "So?\n" and facts["decoding"] == {"loglikelihood": True}
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(world / "model"),
        AutoTokenizer.from_pretrained(world / "model"),
    )
    row = read_jsonl(world / "eval" / "twin" / "mednli_ll.jsonl")[0]
    before = len(
        tokenizer("So?")["input_ids"]
    )  # the harness moves blanks at the end of a prompt to the answer: the same for all labels
    for (nats, size), label in zip(row["output"], row["choices"], strict=True):
        ids = tokenizer(f"So?\n{label}", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logs = model(ids).logits[0, :-1].log_softmax(-1)
        assert nats == pytest.approx(
            sum(float(logs[i - 1, ids[0, i]]) for i in range(before, ids.shape[1])), abs=1e-4
        )
        assert size == len(label)


def test_raw_prompts_and_chat_prompts(world):
    raw, chat = (json.loads((world / "eval" / name / "run.json").read_text()) for name in ("raw", "chat"))
    assert raw["tasks"]["medqa"]["first_prompt"] == "Question 0?\n"
    assert (
        raw["tasks"]["emrqa"]["first_prompt"] == "Which dose? [it is {{x}}]\n"
    )  # no template of the harness touches a row
    assert chat["tasks"]["medqa"]["first_prompt"] == "<s>[INST] Question 0? [/INST]"
    assert chat["tasks"]["medqa_ll"]["first_prompt"] == "<s>[INST] Question: Which drug? Answer: [/INST]"
    assert raw["access"] == chat["access"] == "gated"  # the model's, stricter than the rows'
    assert (
        raw["tasks"]["medqa"]["max_new_tokens"] == 8 and raw["settings"]["stop"] == "EOS" and raw["n"] == 18
    )
    assert raw["tasks"]["medqa"]["decoding"] == {"until": [], "do_sample": False, "max_gen_toks": 8}
    assert raw["tasks"]["medqa"]["template"] == {"name": "none", "sha256": None}
    template = (REPO / "recipes" / "chat_template.jinja").read_bytes()
    assert chat["tasks"]["medqa"]["template"] == {
        "name": "chat_template",
        "sha256": hashlib.sha256(template).hexdigest(),
    }
    outputs = (world / "eval" / "raw" / "medqa.jsonl").read_bytes()
    assert (
        raw["tasks"]["medqa"]["outputs_sha256"] == hashlib.sha256(outputs).hexdigest()
        and raw["hardware"]["cores"] > 0
    )


def test_option_prefix_is_what_the_template_puts_before_an_answer(world):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    assert generate.option_prefix(tokenizer) == " "
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
    assert generate.option_prefix(tokenizer) == ""


def test_a_second_call_does_nothing_and_another_task_is_added(world, capsys):
    before = tree(world / "eval" / "chat")
    generate.main(command(world, "eval/chat", tasks="medqa,mimic_cxr", preset="chat"))
    assert capsys.readouterr().out.splitlines() == ["medqa: already done", "mimic_cxr: already done"]
    assert tree(world / "eval" / "chat") == before
    generate.main(command(world, "eval/chat", tasks="hoc", preset="chat"))
    after = tree(world / "eval" / "chat")
    assert set(after) - set(before) == {"hoc.jsonl"} and all(
        after[name] == before[name] for name in before if name != "run.json"
    )


def test_same_outputs_without_the_response_cache_and_from_it(world, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    first = {
        name: data
        for name, data in tree(world / "eval" / "raw").items()
        if name.count(".") == 1 and name.endswith(".jsonl")
    }
    (world / "copy").mkdir()
    shutil.copytree(world / "eval" / ".responses", world / "copy" / ".responses")
    generate.main(command(world, "alone/raw", "--batch_size", 2))
    assert {
        name: (world / "alone" / "raw" / name).read_bytes() for name in first if name != "medqa_ll.jsonl"
    } == {
        name: data for name, data in first.items() if name != "medqa_ll.jsonl"
    }  # log-likelihoods differ in the last digits between batch sizes

    def refuse(*args, **kwargs):
        raise AssertionError("asked the model although every response is there")

    monkeypatch.setattr(HFLM, "_model_generate", refuse)
    monkeypatch.setattr(HFLM, "_loglikelihood_tokens", refuse)
    generate.main(command(world, "copy/raw"))
    assert {name: (world / "copy" / "raw" / name).read_bytes() for name in first} == first


def test_answers_of_another_type_of_weights_are_not_taken_for_these(world):
    shutil.copytree(world / "eval" / ".responses", world / "other" / ".responses")
    generate.main(command(world, "other/raw", "--dtype", "bfloat16", tasks="medqa"))
    assert len(list((world / "other" / ".responses").iterdir())) == 1 + len(
        list((world / "eval" / ".responses").iterdir())
    )


@pytest.mark.guarantee("Evaluation", "A killed generation resumes where it stopped.")
def test_a_killed_run_goes_on_where_it_was(world, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    asked, generate_batch = [], HFLM._model_generate

    def killed_at_the_third_batch(self, context, *args, **kwargs):
        asked.append(len(context))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return generate_batch(self, context, *args, **kwargs)

    monkeypatch.setattr(HFLM, "_model_generate", killed_at_the_third_batch)
    arguments = command(world, "killed/raw", "--batch_size", 2, tasks="medqa")
    with pytest.raises(KeyboardInterrupt):
        generate.main(arguments)
    assert asked == [2, 2, 2] and not (world / "killed" / "raw").exists()
    [cache] = (world / "killed" / ".responses").iterdir()
    assert len(cache.read_text().splitlines()) == 4
    cache.write_text(cache.read_text()[:-5])  # cut in the middle of a line, as a kill may leave it
    generate.main(arguments)
    assert asked[3:] == [2, 1]
    assert (world / "killed" / "raw" / "medqa.jsonl").read_bytes() == (
        world / "eval" / "raw" / "medqa.jsonl"
    ).read_bytes()
    assert len(cache.read_text().splitlines()) == 7  # the cut line, and the six


@pytest.mark.guarantee("Evaluation", "Another model, server or type of weights never gets cached answers.")
def test_another_model_gets_its_own_answers(world, capsys):
    make_model(world / "other", seed=1)
    generate.main(command(world, "eval/other", tasks="medqa,mimic_cxr", model="other"))
    generate.main(
        command(world, "eval/other", tasks="medqa", model="model")
    )  # the folder now belongs to the first model
    assert "mimic_cxr: dropped" in capsys.readouterr().out
    assert sorted(tree(world / "eval" / "other")) == ["medqa.jsonl", "run.json"]
    assert (world / "eval" / "other" / "medqa.jsonl").read_bytes() == (
        world / "eval" / "raw" / "medqa.jsonl"
    ).read_bytes()


@pytest.mark.guarantee(
    "Credentialed data", "An access class that is missing or unknown is never taken for public."
)
def test_outputs_of_a_model_whose_class_has_changed_are_written_anew(world, capsys):
    out = world / "classes" / "raw"
    for given in (
        "access=gated",
        "access=credentialed",
        "access=public",
    ):  # the last lowers nothing: the model's own run.json says gated
        generate.main(command(world, "classes/raw", tasks="medqa", changes=[given]))
        wanted = "credentialed" if "credentialed" in given else "gated"
        assert {row["model_access"] for row in read_jsonl(out / "medqa.jsonl")} == {wanted}
        assert json.loads((out / "run.json").read_text())["model_access"] == wanted
    assert "already done" not in capsys.readouterr().out
    assert (
        len(list((world / "classes" / ".responses").glob("*"))) == 1
        and len(read_jsonl(next((world / "classes/.responses").iterdir()))) == 6
    )


def test_rows_for_the_harness_that_do_not_say_their_class_close_its_process(tmp_path):
    row = rows_of("emrqa", "span", [("Which dose?", "5.0 mg")])[0]
    (tmp_path / "emrqa").mkdir()
    (tmp_path / "emrqa" / "test.jsonl").write_text(
        json.dumps({key: value for key, value in row.items() if key != "access"}) + "\n"
    )
    load_mibe().load("emrqa", str(tmp_path))
    assert egress.agreements() == ["invented"]


def test_examples_come_from_the_training_rows_and_never_from_the_test(world):
    generate.main(command(world, "eval/few", "--num_fewshot", 2, "--limit", 2, tasks="medqa,medqa_ll"))
    run = json.loads((world / "eval" / "few" / "run.json").read_text())
    trained = {row["id"]: row for row in read_jsonl(world / "rows" / "medqa" / "train.jsonl")}
    shots = [trained[name] for name in run["tasks"]["medqa"]["shots"]["ids"]]
    assert sorted(shot["id"] for shot in shots) == ["medqa:train:1", "medqa:train:2"]  # row 0 is a test row
    examples = "".join(f"{shot['prompt']}{shot['completion']}\n\n" for shot in shots)
    assert run["tasks"]["medqa"]["first_prompt"] == examples + "Question 0?\n"
    drugs = ["AB".index(shot["completion"]) for shot in shots]
    examples = "".join(f"Question: Which drug? Answer: {['zorimel', 'tavoxan forte'][i]}\n\n" for i in drugs)
    assert run["tasks"]["medqa_ll"]["first_prompt"] == examples + "Question: Which drug? Answer:"
    assert run["tasks"]["medqa"]["n"] == 2 == len(read_jsonl(world / "eval" / "few" / "medqa.jsonl"))
    with pytest.raises(SystemExit, match="train.jsonl: --num_fewshot 3: .*2 that are available"):
        generate.main(command(world, "eval/few3", "--num_fewshot", 3, tasks="medqa"))
    assert not (world / "eval" / "few3").exists()
    with pytest.raises(
        SystemExit, match="emrqa/train.jsonl: no such file, .*Next: --num_fewshot 0, or the publisher"
    ):
        generate.main(command(world, "eval/few3", "--num_fewshot", 1, tasks="emrqa"))


def test_examples_are_fixed_and_balanced_over_labels(world):
    mibe = load_mibe()
    rows = read_jsonl(world / "rows" / "mednli" / "train.jsonl")
    chosen = mibe.shots(rows)
    assert len(chosen) == 10 and {row["completion"] for row in chosen[:2]} == {
        row["completion"] for row in chosen[2:4]
    } == {"neutral", "entailment"}
    assert mibe.shots(rows[::-1]) == chosen
    generate.main(command(world, "eval/shots", "--num_fewshot", 4, tasks="mednli", preset="chat"))
    facts = json.loads((world / "eval" / "shots" / "run.json").read_text())["tasks"]["mednli"]
    assert facts["shots"] == {"number": 4, "ids": [row["id"] for row in chosen[:4]]}
    turns = "".join(
        f"<s>[INST] {row['prompt'].strip()} [/INST] {row['completion']}</s>" for row in chosen[:4]
    )
    assert facts["first_prompt"] == turns + "<s>[INST] So? [/INST]"


def load_mibe():
    spec = importlib.util.spec_from_file_location("mibe", generate.TASKS / "mibe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.guarantee("Evaluation", "Over-long prompts are refused or counted, never cut.")
def test_overlong_prompts_are_refused_or_counted_and_never_cut(world, capsys):
    rows = rows_of("emrqa", "span", [("short", "x"), ("long " * 300, "y"), ("short too", "z")])
    write_rows(world / "long", "emrqa", rows)
    arguments = [
        a.replace(str(world / "rows"), str(world / "long"))
        for a in command(world, "eval/long", tasks="emrqa")
    ]
    with pytest.raises(
        SystemExit, match=r"emrqa: 1 of 3 prompts .* do not fit into 256 with 8 new ones.*--allow_overlong"
    ):
        generate.main(arguments)
    assert not (world / "eval" / "long").exists()
    generate.main([*arguments, "--allow_overlong"])
    assert "1 of 3 prompts" in capsys.readouterr().out
    facts = json.loads((world / "eval" / "long" / "run.json").read_text())["tasks"]["emrqa"]
    assert facts["overlong"] == ["emrqa:test:1"] and facts["n_overlong"] == 1
    outputs = [row["output"] for row in read_jsonl(world / "eval" / "long" / "emrqa.jsonl")]
    alone = [
        row["output"]
        for row in read_jsonl(world / "eval" / "long" / "emrqa.jsonl")
        if row["id"] != "emrqa:test:1"
    ]
    assert outputs[1] == "" and alone == [outputs[0], outputs[2]] and all(alone)
    assert score.score_folder(world / "eval" / "long")["emrqa"]["unparsed"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": "medqa,nonsense"}, "unknown task 'nonsense'.*known: bionli"),
        (
            {"tasks": "bionli_ll"},
            "bionli/test.jsonl: no such file. Next: python -m data_prep.build_tasks --raw RAW --tasks bionli",
        ),
        ({"tasks": "mimic_cxr", "model": "nowhere"}, "nowhere: no model here"),
        ({"tasks": "medqa", "preset": "chat", "model": "base"}, "has no chat template. Next: --preset paper"),
        ({"tasks": "medqa", "model": "adapter"}, "an adapter, not a whole model"),
        ({"tasks": "medqa", "model": "empty"}, "no weights here"),
        (
            {"tasks": "medqa", "model": "cut"},
            "cut/model.safetensors: cut or damaged .5,000 bytes.. Next: copy",
        ),
        (
            {"tasks": "emrqa", "changes": ["backend=vllm"]},
            "vllm is not installed here. Next: an environment of requirements-vllm.txt, or backend=hf",
        ),
        (
            {"tasks": "emrqa", "changes": ["backend=tpu"]},
            "backend 'tpu' is unknown .known: hf, vllm, completions, chat",
        ),
        ({"tasks": "emrqa", "changes": ["colour=red"]}, "'colour=red' is not KEY=VALUE with a KEY of path, "),
        (
            {"tasks": "emrqa", "more": ["--limit", "0"]},
            "^error: --limit 0: must be 1 or more. Next: leave it out, or --limit 1$",
        ),
        ({"tasks": "emrqa", "more": ["--limit", "-1"]}, "--limit -1: must be 1 or more"),
        ({"tasks": "emrqa", "more": ["--num_fewshot", "-1"]}, "--num_fewshot -1: must be 0 or more"),
        ({"tasks": "emrqa", "more": ["--max_new_tokens", "0"]}, "--max_new_tokens 0: must be 1 or more"),
        *(
            (
                {"tasks": "nowhere", "more": [f"--{name}", given]},
                f"^error: --{name}.*{said}.* Next: [^\n]*$",
            )  # said before the tasks are read
            for name, given, said in (
                ("batch_size", "many", "many: must be 1 or more, auto or auto:N"),
                ("batch_size", "0", "0: must be 1 or more"),
                ("batch_size", "auto:0", "auto:0: must be"),
                ("dtype", "float99", "float99: is unknown .known: auto, float32, float16, bfloat16."),
                ("device", "cuda:99", "cuda:99: is not on this machine .known: cpu"),
                ("device", "gpu", "gpu: is not on this machine .known: cpu"),
                ("backend_args", "foo", "'foo' is not KEY=VALUE"),
                ("backend_args", "a=1, b=2", "' b=2' is not KEY=VALUE"),
                ("backend_args", "dtype=float16", "'dtype' has a flag of its own"),
            )
        ),
        (
            {"tasks": "emrqa", "more": ["--out", __file__]},
            "test_generate.py: is a file, and the output is a folder. Next: another --out",
        ),
        (
            {"tasks": "emrqa", "more": ["--out", f"{__file__}/run"]},
            "test_generate.py: is a file, and the output is a folder. Next: another --out",
        ),
    ],
)
def test_what_cannot_be_run_is_one_sentence(world, change, message):
    if change.get("model") == "base" and not (world / "base").exists():
        make_model(world / "base", template=False)
    if change.get("model") == "cut":
        shutil.copytree(world / "model", world / "cut")
        os.truncate(world / "cut" / "model.safetensors", 5000)
    (world / "adapter").mkdir(exist_ok=True)
    (world / "adapter" / "adapter_config.json").write_text("{}")
    (world / "empty").mkdir(exist_ok=True)
    (world / "empty" / "config.json").write_text("{}")
    with pytest.raises(SystemExit, match=message) as error:
        generate.main(command(world, "eval/none", *change.pop("more", []), **change))
    assert str(error.value).startswith("error: ") and not (world / "eval" / "none").exists()


def test_a_group_goes_on_with_the_tasks_that_have_rows_and_counts_them(world, tmp_path, capsys):
    shutil.copytree(world / "rows" / "hoc", tmp_path / "hoc")

    def here(tasks):
        return [
            a.replace(str(world / "rows"), str(tmp_path)) for a in command(world, "eval/group", tasks=tasks)
        ]

    for asked, said in (
        (
            "all_ll",
            "has rows of none of the 9 tasks of --tasks all_ll. Next: python -m data_prep.build_tasks "
            "--raw RAW --tasks all",
        ),
        ("all,medqa", "medqa/test.jsonl: no such file"),  # what is named must be there
    ):
        with pytest.raises(SystemExit, match=said):
            generate.main(here(asked))
    capsys.readouterr()
    generate.main(here("all"))
    said = capsys.readouterr().out.splitlines()[0]
    assert (
        said.startswith(f"--tasks all: 1 of 12 tasks; left out, as {tmp_path} has no rows of them: ")
        and said.count(", ") == 11
    )
    assert list(json.loads((world / "eval" / "group" / "run.json").read_text())["tasks"]) == ["hoc"]


def test_the_devices_are_those_of_this_machine(monkeypatch):
    import torch

    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda")
    )
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert generate.devices() == ["cpu", "cuda", "cuda:0", "cuda:1"]


def test_rows_that_lack_a_field_are_named(world, tmp_path):
    row = rows_of("medqa", "choice", [("Q?", "A")], choices=["A", "B"])[0]
    for lacking, tasks, message in (
        (
            {},
            "medqa_ll",
            "test.jsonl: line 1: no 'options', so medqa_ll cannot be asked of it. Next: python -m "
            "data_prep.build_tasks",
        ),
        ({"scoring"}, "medqa", "test.jsonl: line 1: field 'scoring' is missing"),
        ({"completion"}, "medqa", "test.jsonl: line 1: field 'completion' is missing or empty"),
    ):
        (tmp_path / "medqa").mkdir(exist_ok=True)
        kept = {key: value for key, value in row.items() if key not in lacking}
        (tmp_path / "medqa" / "test.jsonl").write_text(json.dumps(kept) + "\n")
        with pytest.raises(SystemExit, match=message):
            generate.main(
                [
                    a.replace(str(world / "rows"), str(tmp_path))
                    for a in command(world, "eval/lacking", tasks=tasks)
                ]
            )


def test_scores_are_deterministic_and_complete(world):
    folder = world / "eval" / "raw"
    before = tree(folder)
    score.main([str(folder)])
    assert tree(folder) == before
    scores = json.loads(before["scores.json"])
    assert sorted(scores) == sorted(TASKS.split(","))
    assert {task: entry["primary"] for task, entry in scores.items()} == {
        "medqa": "accuracy",
        "medqa_ll": "accuracy",
        "emrqa": "word_f1",
        "i2b2": "macro_f1",
        "hoc": "macro_f1",
        "mimic_cxr": "rougeL",
    }
    for task, entry in scores.items():
        rows = read_jsonl(folder / f"{task}.scored.jsonl")
        assert entry["n"] == len(rows) and entry["unparsed"] == sum(row["parsed"] is None for row in rows)
        for name, numbers in entry["metrics"].items():
            assert numbers["value"] == pytest.approx(metrics.value(rows, name))
            assert numbers["low"] <= numbers["high"]


def test_the_harness_prints_the_same_values(world, monkeypatch):
    import lm_eval
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("MIBE_ROWS", str(world / "rows"))
    monkeypatch.chdir(world)
    manager = TaskManager(include_path=str(generate.TASKS), include_defaults=False)
    names = [f"mibe_{task}" for task in TASKS.split(",")]
    model = {"pretrained": str(world / "model"), "device": "cpu"}
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args=model,
        tasks=names,
        task_manager=manager,
        gen_kwargs={"max_gen_toks": 8},
        batch_size=16,
        bootstrap_iters=0,
    )["results"]
    for task, entry in json.loads((world / "eval" / "raw" / "scores.json").read_text()).items():
        for name, numbers in entry["metrics"].items():
            assert results[f"mibe_{task}"][f"{name},none"] == pytest.approx(numbers["value"]), (task, name)


def test_score_names_what_is_wrong(tmp_path):
    with pytest.raises(SystemExit, match="nothing to score"):
        score.main([str(tmp_path)])
    (tmp_path / "medqa.jsonl").write_text('{"id": "1", "scoring": "choice", "completion": "A"}\n')
    with pytest.raises(SystemExit, match="line 1: field 'output' is missing") as error:
        score.main([str(tmp_path)])
    command = str(error.value).partition("Next: python -m evaluation.generate ")[2].split()
    assert (
        generate.make_parser().parse_args([part.replace("PRESET", "chat") for part in command]).out
        == tmp_path
    )
    assert [path.name for path in tmp_path.iterdir()] == ["medqa.jsonl"]


# ---------------------------------------------------------------- speed
def test_the_benchmark_compares_three_ways_that_say_the_same(tmp_path, capsys):
    small = [
        "--prompts",
        "5",
        "--new_tokens",
        "4",
        "--batch_size",
        "2",
        "--turns",
        "1",
        "--hidden_size",
        "32",
        "--device",
        "cpu",
    ]
    bench.main(["--out", str(tmp_path / "bench"), *small])
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert result["same_outputs_as_bare"] == {"generate": 5, "harness": 5}
    assert set(result["seconds"]) == {"generate", "bare", "harness"} and result["ratio_to_bare"]["bare"] == 1
    assert result["aim_met"] == (
        result["median_seconds"]["generate"] <= 1.1 * result["median_seconds"]["bare"]
    )
    assert (tmp_path / "bench" / "bench.md").read_text() in capsys.readouterr().out


def test_an_answer_cut_inside_the_reasoning_that_the_template_opens_is_unparsed(world):
    import transformers

    shutil.copytree(world / "model", world / "thinker")
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "thinker", trust_remote_code=False)
    tokenizer.chat_template = (
        "{{ messages[0]['content'] }}\n{% if add_generation_prompt %}<think>\n{% endif %}"
    )
    tokenizer.save_pretrained(world / "thinker")
    generate.main(command(world, "eval/thinker", tasks="medqa,medqa_ll", preset="chat", model="thinker"))
    outputs = [row["output"] for row in read_jsonl(world / "eval" / "thinker" / "medqa.jsonl")]
    assert all(output.startswith("<think>\n") for output in outputs)
    scores = score.score_folder(world / "eval" / "thinker")
    assert scores["medqa"]["unparsed"] == len(outputs) and scores["medqa_ll"]["unparsed"] == 0


def test_batch_size_type_and_device_are_in_the_record_and_in_the_key_of_the_cache(world):
    record = json.loads((world / "eval" / "raw" / "run.json").read_text())
    assert {name: record["settings"][name] for name in ("batch_size", "dtype", "device")} == {
        "batch_size": "16",
        "dtype": "auto",
        "device": "cpu",
    }
    assert record["tasks"]["medqa"]["weights_dtype"] == "float32"
    for batch_size, caches in (("2", 1), ("3", 2)):
        generate.main(command(world, "batches/raw", "--batch_size", batch_size, tasks="medqa"))
        assert len(list((world / "batches" / ".responses").iterdir())) == caches


@pytest.mark.parametrize("name", ["generate", "score", "judge", "bertscore", "bench"])
def test_help_loads_neither_torch_nor_the_harness(name):
    heavy = ("torch", "transformers", "lm_eval", "datasets", "vllm", "aiohttp", "rouge_score")
    code = f"import runpy, sys; sys.modules |= dict.fromkeys({heavy}); sys.argv = ['x', '--help']; "
    code += f"runpy.run_module('evaluation.{name}', run_name='__main__')"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", cwd=REPO
    )
    assert run.returncode == 0 and "usage:" in run.stdout, run.stderr


def test_no_remote_code_at_any_from_pretrained():
    calls = []
    for path in sorted((REPO / "evaluation").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                refused = any(k.arg == "trust_remote_code" and k.value.value is False for k in node.keywords)
                calls.append((path.name, node.lineno, refused))
    assert calls and all(refused for *_, refused in calls), calls


def test_a_template_that_writes_the_date_is_another_one_each_day(world, monkeypatch):
    import transformers

    args, entry = types.SimpleNamespace(preset="chat", model="m"), registry.Entry("m", path=world / "dated")
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "model", trust_remote_code=False)
    plain = tokenizer.chat_template
    found = []
    for template in (plain, plain + "{{ strftime_now('%d %b %Y') }}"):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(world / "dated")
        for day in ("2026-01-01", "2026-01-02"):
            monkeypatch.setattr(generate.time, "strftime", lambda _, day=day: day)
            found.append(generate.template_facts(args, entry))
    assert found[0] == found[1] != found[2] and found[2] != found[3] and "date" not in found[0]
