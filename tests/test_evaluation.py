"""Generation, scoring and the report, end to end on a tiny random model and invented rows."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml

from data_prep.contracts import check_row
from evaluation import generate, metrics, report, score

REPO = Path(__file__).resolve().parent.parent
TASKS = "medqa,medqa_ll,emrqa,i2b2,hoc,mimic_cxr"


def rows_of(task, scoring, pairs, split="test", **extra):
    base = {"task": task, "split": split, "scoring": scoring, "source": task, "license": "invented", "access": "public"}
    return [
        {"id": f"{task}:{split}:{i}", **base, "prompt": prompt + "\n", "completion": completion, **extra}
        for i, (prompt, completion) in enumerate(pairs)
    ]


def write_rows(folder, task, rows, split="test"):
    path = folder / task / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(check_row(row, "here")) + "\n" for row in rows))


def make_rows(folder):
    options = {"choices": ["A", "B"], "question": "Which drug?", "options": ["zorimel", "tavoxan forte"]}
    write_rows(folder, "medqa", rows_of("medqa", "choice", [(f"Question {i}?", "AB"[i % 2]) for i in range(6)], **options))
    examples = [("Question 0?", "A"), ("Another?", "B"), ("A third?", "A")]  # the first is also a test row
    write_rows(folder, "medqa", rows_of("medqa", "choice", examples, "train", **options), "train")
    write_rows(folder, "emrqa", rows_of("emrqa", "span", [("Which dose? [it is {{x}}]", "5.0 mg"), ("Since when?", "[2001]")]))
    types = {"choices": ["problem", "treatment"]}
    write_rows(folder, "i2b2", rows_of("i2b2", "entities", [("Mark: a cough", '<span class="problem">a cough</span>')], **types))
    write_rows(
        folder, "hoc", rows_of("hoc", "labels", [("Hallmarks?", "one; two"), ("Hallmarks?", "two")], choices=["one", "two", "three"])
    )
    write_rows(folder, "mimic_cxr", rows_of("mimic_cxr", "summary", [("Findings: clear lungs.", "No acute process.")]))


def make_model(folder, seed=0, positions=256, template=True):
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    engine.train_from_iterator(["Question: which drug? Answer: zorimel"], trainer)
    engine.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=engine, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    if template:
        tokenizer.chat_template = (REPO / "recipes" / "chat_template.jinja").read_text()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=positions, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps({"access": "gated"}))


def command(world, out, *more, tasks=TASKS, preset="paper", model="model"):
    arguments = [
        "--model",
        world / model,
        "--rows",
        world / "rows",
        "--tasks",
        tasks,
        "--preset",
        preset,
        "--out",
        world / out,
        "--device",
        "cpu",
    ]
    return [str(a) for a in [*arguments, "--max_new_tokens", 8, *more]]


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


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
    names = {path.stem for path in generate.TASKS.glob("*.yaml")} - {"_generate", "_likelihood", "mibe"}
    assert len(names) == 14 and sorted(names) == generate.KNOWN
    scorings = {"emrqa": "span", "i2b2": "entities", "hoc": "labels", "pubmed_summ": "summary", "mimic_cxr": "summary"}
    for name in names - {"medqa_ll", "medmcqa_ll"}:
        text = (generate.TASKS / f"{name}.yaml").read_text().replace("!function ", "")
        task = yaml.safe_load(text)
        wanted = metrics.NAMES[scorings.get(name, "choice")]
        assert [m["metric"] for m in task["metric_list"]] == [*wanted, "unparsed"]
        assert [m["aggregation"] for m in task["metric_list"]] == [*(f"mibe.{m}" for m in wanted), "mean"]
        assert task["task"] == f"mibe_{name}" and task["dataset_kwargs"] == {"name": name} and task["generation_kwargs"]["until"] == []


def test_a_row_only_gains_its_output(world):
    for task in TASKS.split(","):
        given = read_jsonl(world / "rows" / task.removesuffix("_ll") / "test.jsonl")
        rows = read_jsonl(world / "eval" / "raw" / f"{task}.jsonl")
        assert [{k: v for k, v in row.items() if k != "output"} for row in rows] == given
        for row in rows:
            check_row(row, "here")
            assert isinstance(row["output"], list if task.endswith("_ll") else str)
    assert all(len(row["output"]) == 2 for row in read_jsonl(world / "eval" / "raw" / "medqa_ll.jsonl"))


def test_log_likelihoods_are_those_of_the_model(world):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(world / "model"), AutoTokenizer.from_pretrained(world / "model")
    row = read_jsonl(world / "eval" / "raw" / "medqa_ll.jsonl")[0]
    for (nats, size), option in zip(row["output"], row["options"], strict=True):
        before = tokenizer("Question: Which drug? Answer:")["input_ids"]
        ids = tokenizer(f"Question: Which drug? Answer: {option}", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logs = model(ids).logits[0, :-1].log_softmax(-1)
        assert nats == pytest.approx(sum(float(logs[i - 1, ids[0, i]]) for i in range(len(before), ids.shape[1])), abs=1e-4)
        assert size == len(option.encode())


def test_raw_prompts_and_chat_prompts(world):
    raw, chat = (json.loads((world / "eval" / name / "run.json").read_text()) for name in ("raw", "chat"))
    assert raw["tasks"]["medqa"]["first_prompt"] == "Question 0?\n"
    assert raw["tasks"]["emrqa"]["first_prompt"] == "Which dose? [it is {{x}}]\n"  # no template of the harness touches a row
    assert chat["tasks"]["medqa"]["first_prompt"] == "<s>[INST] Question 0? [/INST]"
    assert chat["tasks"]["medqa_ll"]["first_prompt"] == "<s>[INST] Question: Which drug? Answer: [/INST]"
    assert raw["access"] == chat["access"] == "gated"  # the model's, stricter than the rows'
    assert raw["tasks"]["medqa"]["max_new_tokens"] == 8 and raw["settings"]["stop"] == "EOS" and raw["n"] == 18


def test_option_prefix_is_what_the_template_puts_before_an_answer(world):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    assert generate.option_prefix(tokenizer) == " "
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
    )
    assert generate.option_prefix(tokenizer) == ""


def test_a_second_call_does_nothing_and_another_task_is_added(world, capsys):
    before = tree(world / "eval" / "chat")
    generate.main(command(world, "eval/chat", tasks="medqa,mimic_cxr", preset="chat"))
    assert capsys.readouterr().out.splitlines() == ["medqa: already done", "mimic_cxr: already done"]
    assert tree(world / "eval" / "chat") == before
    generate.main(command(world, "eval/chat", tasks="hoc", preset="chat"))
    after = tree(world / "eval" / "chat")
    assert set(after) - set(before) == {"hoc.jsonl"} and all(after[name] == before[name] for name in before if name != "run.json")


def test_same_outputs_without_the_response_cache_and_from_it(world, monkeypatch):
    import shutil

    from lm_eval.models.huggingface import HFLM

    first = {name: data for name, data in tree(world / "eval" / "raw").items() if name.count(".") == 1 and name.endswith(".jsonl")}
    (world / "copy").mkdir()
    shutil.copytree(world / "eval" / ".responses", world / "copy" / ".responses")
    generate.main(command(world, "alone/raw", "--batch_size", 2))
    assert {name: (world / "alone" / "raw" / name).read_bytes() for name in first if name != "medqa_ll.jsonl"} == {
        name: data for name, data in first.items() if name != "medqa_ll.jsonl"
    }  # log-likelihoods differ in the last digits between batch sizes

    def refuse(*args, **kwargs):
        raise AssertionError("asked the model although every response is there")

    monkeypatch.setattr(HFLM, "_model_generate", refuse)
    monkeypatch.setattr(HFLM, "_loglikelihood_tokens", refuse)
    generate.main(command(world, "copy/raw"))
    assert {name: (world / "copy" / "raw" / name).read_bytes() for name in first} == first


def test_another_model_gets_its_own_answers(world, capsys):
    make_model(world / "other", seed=1)
    generate.main(command(world, "eval/other", tasks="medqa,mimic_cxr", model="other"))
    generate.main(command(world, "eval/other", tasks="medqa", model="model"))  # the folder now belongs to the first model
    assert "mimic_cxr: dropped" in capsys.readouterr().out
    assert sorted(tree(world / "eval" / "other")) == ["medqa.jsonl", "run.json"]
    assert (world / "eval" / "other" / "medqa.jsonl").read_bytes() == (world / "eval" / "raw" / "medqa.jsonl").read_bytes()


def test_examples_come_from_the_training_rows_and_never_from_the_test(world):
    generate.main(command(world, "eval/few", "--num_fewshot", 2, "--limit", 2, tasks="medqa,medqa_ll"))
    run = json.loads((world / "eval" / "few" / "run.json").read_text())
    assert run["tasks"]["medqa"]["first_prompt"] == "Another?\nB\n\nA third?\nA\n\nQuestion 0?\n"
    shot = "Question: Which drug? Answer: tavoxan forte\n\nQuestion: Which drug? Answer: zorimel\n\n"
    assert run["tasks"]["medqa_ll"]["first_prompt"] == shot + "Question: Which drug? Answer:"
    assert run["tasks"]["medqa"]["n"] == 2 == len(read_jsonl(world / "eval" / "few" / "medqa.jsonl"))
    with pytest.raises(SystemExit, match="train.jsonl: --num_fewshot 3: .*2 that are available"):
        generate.main(command(world, "eval/few3", "--num_fewshot", 3, tasks="medqa"))
    assert not (world / "eval" / "few3").exists()


def test_overlong_prompts_are_refused_or_counted_and_never_cut(world, capsys):
    rows = rows_of("emrqa", "span", [("short", "x"), ("long " * 300, "y"), ("short too", "z")])
    write_rows(world / "long", "emrqa", rows)
    arguments = [a.replace(str(world / "rows"), str(world / "long")) for a in command(world, "eval/long", tasks="emrqa")]
    with pytest.raises(SystemExit, match=r"emrqa: 1 of 3 prompts .* do not fit into 256 with 8 new ones.*--allow_overlong"):
        generate.main(arguments)
    assert not (world / "eval" / "long").exists()
    generate.main([*arguments, "--allow_overlong"])
    assert "1 of 3 prompts" in capsys.readouterr().out
    facts = json.loads((world / "eval" / "long" / "run.json").read_text())["tasks"]["emrqa"]
    assert facts["overlong"] == ["emrqa:test:1"] and facts["n_overlong"] == 1
    outputs = [row["output"] for row in read_jsonl(world / "eval" / "long" / "emrqa.jsonl")]
    alone = [row["output"] for row in read_jsonl(world / "eval" / "long" / "emrqa.jsonl") if row["id"] != "emrqa:test:1"]
    assert outputs[1] == "" and alone == [outputs[0], outputs[2]] and all(alone)
    assert score.score_folder(world / "eval" / "long")["emrqa"]["unparsed"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": "medqa,nonsense"}, "unknown task 'nonsense'.*known: bionli"),
        ({"tasks": "mednli"}, "mednli/test.jsonl: no such file. Next: python -m data_prep.build_tasks --raw RAW --tasks mednli"),
        ({"tasks": "mimic_cxr", "model": "nowhere"}, "nowhere: no model here"),
        ({"tasks": "medqa", "preset": "chat", "model": "base"}, "has no chat template. Next: --preset paper"),
        ({"tasks": "medqa", "model": "adapter"}, "an adapter, not a whole model"),
        ({"tasks": "medqa", "model": "empty"}, "no weights here"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(world, change, message):
    if change.get("model") == "base" and not (world / "base").exists():
        make_model(world / "base", template=False)
    (world / "adapter").mkdir(exist_ok=True)
    (world / "adapter" / "adapter_config.json").write_text("{}")
    (world / "empty").mkdir(exist_ok=True)
    (world / "empty" / "config.json").write_text("{}")
    with pytest.raises(SystemExit, match=message) as error:
        generate.main(command(world, "eval/none", **change))
    assert str(error.value).startswith("error: ") and not (world / "eval" / "none").exists()


def test_scores_are_deterministic_and_complete(world):
    folder = world / "eval" / "raw"
    before = tree(folder)
    score.main([str(folder)])
    assert tree(folder) == before
    scores = json.loads(before["scores.json"])
    assert sorted(scores) == sorted(TASKS.split(","))
    assert {task: entry["primary"] for task, entry in scores.items()} == {
        "medqa": "accuracy", "medqa_ll": "accuracy", "emrqa": "f1", "i2b2": "macro_f1", "hoc": "macro_f1", "mimic_cxr": "rougeL",
    }  # fmt: skip
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
        model="hf", model_args=model, tasks=names, task_manager=manager, gen_kwargs={"max_gen_toks": 8}, batch_size=16, bootstrap_iters=0
    )["results"]
    for task, entry in json.loads((world / "eval" / "raw" / "scores.json").read_text()).items():
        for name, numbers in entry["metrics"].items():
            assert results[f"mibe_{task}"][f"{name},none"] == pytest.approx(numbers["value"]), (task, name)


def test_score_names_what_is_wrong(tmp_path):
    with pytest.raises(SystemExit, match="nothing to score"):
        score.main([str(tmp_path)])
    (tmp_path / "medqa.jsonl").write_text('{"id": "1", "scoring": "choice", "completion": "A"}\n')
    with pytest.raises(SystemExit, match="line 1: field 'output' is missing"):
        score.main([str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["medqa.jsonl"]


# ---------------------------------------------------------------- report, on invented run folders
MODELS = ["backbone", "foundation", "backbone_chat", "chat", "task"]
RIGHT = {"backbone": 10, "foundation": 25, "backbone_chat": 21, "chat": 20, "task": 40}


def invented_runs(folder, ratio=1.0, tokens=(50, 60, 70, 80)):
    """Run and evaluation folders in which model m answers the first RIGHT[m] of 40 rows rightly."""
    for number, name in enumerate(MODELS):
        run, answers = folder / "runs" / name, folder / "eval" / name
        run.mkdir(parents=True)
        answers.mkdir(parents=True)
        facts = {"stage": "pretrain", "access": "public", "seconds": 12.5, "machine": "a <small> machine", "versions": {"torch": "2"}}
        (run / "run.json").write_text(json.dumps(facts))
        history = [{"step": s, "loss": 3 - 0.1 * s, "learning_rate": 1e-3} for s in range(1, 6)]
        history += [{"step": s, f"eval_{d}_loss": 3.2 - 0.1 * s} for s in (2, 5) for d in ("general", "biomedical")]
        (run / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        if number < 2:
            extra = math.log(ratio) if name == "foundation" else 0.0
            nll = [t * (2.0 + 0.01 * i + extra) for i, t in enumerate(tokens)]
            (run / "validation.json").write_text(json.dumps({"general": {"nll": nll, "tokens": list(tokens)}}))
        rows = rows_of("mednli", "choice", [(f"Is {i} <b>so</b>?", "neutral") for i in range(40)], choices=["neutral", "entailment"])
        outputs = ["neutral" if i < RIGHT[name] else "I cannot tell" for i in range(40)]
        (answers / "mednli.jsonl").write_text("".join(json.dumps(row | {"output": o}) + "\n" for row, o in zip(rows, outputs, strict=True)))
        facts = {"settings": {"preset": "chat", "chat_template": True}, "tasks": {"mednli": {"n_overlong": 0, "max_new_tokens": 8}}}
        (answers / "run.json").write_text(json.dumps({"access": "gated", "n": 40, **facts}))
        score.score_folder(answers)


def invented_config(folder, margin=1.1, task="mednli", **changes):
    config = yaml.safe_load((REPO / "evaluation" / "claims" / "demo.yaml").read_text())
    for model in config["models"]:
        model |= {"run": model["name"], "preset": "chat"}
    config["claims"] = [claim for claim in config["claims"] if claim["name"] != "supervised"]
    for claim in config["claims"]:
        claim.update({"tasks": [task], "metric": "accuracy"} if claim["kind"] == "accuracy" else {"margin": margin})
    config.update(changes)
    (folder / "claims.yaml").write_text(yaml.safe_dump(config))


def make_report(folder, *more):
    arguments = ["--config", folder / "claims.yaml", "--evaluation", folder / "eval", "--runs", folder / "runs", "--out", folder / "report"]
    report.main([str(a) for a in [*arguments, *more]])


def test_the_demo_claims_are_those_that_were_agreed():
    claims = report.read_config(REPO / "evaluation" / "claims" / "demo.yaml")["claims"]
    assert [(c["name"], c.get("better", c.get("new")), c.get("worse", c.get("old"))) for c in claims] == [
        ("knowledge", "foundation", "backbone"),
        ("instructions", "chat", "foundation"),
        ("both", "chat", "backbone_chat"),
        ("supervised", "task", "chat"),
        ("forgetting", "foundation", "backbone"),
    ]
    assert {task for c in claims for task in c.get("tasks", [])} <= set(generate.KNOWN)


def test_verdicts_are_printed_as_they_come_out(tmp_path, capsys):
    invented_runs(tmp_path, ratio=1.05)
    invented_config(tmp_path)
    make_report(tmp_path)
    said = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert re.match(r"knowledge +shown +foundation minus backbone: \+0.375", said["knowledge"])
    assert re.match(r"instructions +contradicted +chat minus foundation: -0.125", said["instructions"])
    assert re.match(r"both +not shown +chat minus backbone_chat: -0.025", said["both"])
    assert re.match(r"forgetting +shown +perplexity of foundation over backbone: 1.050", said["forgetting"])
    for page in ("report.md", "report.html"):
        text = (tmp_path / "report" / page).read_text()
        assert "contradicted" in text and "not shown" in text and "0.769" in text and "toy-size" in text
    invented_config(tmp_path, margin=1.02)
    make_report(tmp_path)
    assert "forgetting     contradicted" in capsys.readouterr().out


def test_the_page_loads_nothing_escapes_texts_and_is_the_same_every_time(tmp_path):
    invented_runs(tmp_path)
    invented_config(tmp_path)
    make_report(tmp_path)
    page = (tmp_path / "report" / "report.html").read_text()
    assert not re.search(r"<(script|link|img|iframe|object)\b|@import|url\((?!#)", page)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page)
    assert "Is 0 &lt;b&gt;so&lt;/b&gt;?" in page and "a &lt;small&gt; machine" in page
    assert page.count("<svg") == len(MODELS) and "eval_" not in page and "access: gated" in page
    make_report(tmp_path)
    assert (tmp_path / "report" / "report.html").read_text() == page
    path = tmp_path / "runs" / "chat" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"access": "credentialed"}))
    make_report(tmp_path, "--show_texts")
    assert "Is 0 &lt;b&gt;so&lt;/b&gt;?" in (tmp_path / "report" / "report.html").read_text()
    make_report(tmp_path)
    assert "Is 0" not in (tmp_path / "report" / "report.html").read_text()


def test_models_that_were_asked_differently_are_not_put_in_one_table(tmp_path):
    invented_runs(tmp_path)
    invented_config(tmp_path)
    config = yaml.safe_load((tmp_path / "claims.yaml").read_text())
    config["models"][0]["preset"] = "paper"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    paths = ["--evaluation", tmp_path / "eval", "--runs", tmp_path / "runs", "--out", tmp_path / "report"]
    with pytest.raises(SystemExit, match="was asked with preset chat, .*other.yaml says paper"):
        report.main([str(a) for a in ["--config", tmp_path / "other.yaml", *paths]])
    scores = tmp_path / "eval" / "chat" / "scores.json"
    fewer = json.loads(scores.read_text())
    fewer["mednli"]["n"] = 39
    scores.write_text(json.dumps(fewer))
    with pytest.raises(SystemExit, match="mednli: the models answered different rows .*chat 39"):
        make_report(tmp_path)


def test_what_is_missing_is_named_with_the_command(tmp_path):
    invented_runs(tmp_path)
    invented_config(tmp_path, task="medqa_ll")
    with pytest.raises(SystemExit, match="no scores of medqa_ll. Next: python -m evaluation.generate --model .*foundation.*--preset chat"):
        make_report(tmp_path)
    invented_config(tmp_path)
    (tmp_path / "eval" / "chat" / "scores.json").unlink()
    with pytest.raises(SystemExit, match="Next: python -m evaluation.score .*chat"):
        make_report(tmp_path)
    (tmp_path / "eval" / "chat" / "run.json").unlink()
    with pytest.raises(
        SystemExit, match="chat: no answers of this model. Next: python -m evaluation.generate .* --tasks mednli --preset chat"
    ):
        make_report(tmp_path)
    (tmp_path / "runs" / "chat" / "run.json").unlink()
    with pytest.raises(SystemExit, match="chat/run.json: no such run. Next: make demo"):
        make_report(tmp_path)
    invented_config(tmp_path, claims=[{"kind": "accuracy", "name": "x"}])
    with pytest.raises(SystemExit, match="claim 1: missing or unknown: better, metric"):
        make_report(tmp_path)
    invented_config(tmp_path, models=[{"name": "backbone", "label": "Backbone", "what": "x", "and more": None}])
    with pytest.raises(SystemExit, match="model 1: missing or unknown: and more, preset"):
        make_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_models_that_were_not_validated_on_the_same_blocks_are_not_compared(tmp_path):
    invented_runs(tmp_path)
    path = tmp_path / "runs" / "foundation" / "validation.json"
    path.write_text(json.dumps({"general": {"nll": [100.0], "tokens": [50]}}))
    invented_config(tmp_path)
    with pytest.raises(SystemExit, match="claim 'forgetting': the two models were not validated on the same blocks"):
        make_report(tmp_path)


def test_the_numbers_of_the_article_name_their_table_and_their_conflicts():
    paper = json.loads((REPO / "evaluation" / "paper_tables.json").read_text())
    tables = {name: table for name, table in paper.items() if name.startswith("table")}
    assert len(tables) == 4 and all(table["source"].startswith(f"Table {name[5]}") for name, table in tables.items())
    for table in tables.values():
        for record in table["records"]:
            assert all(note in paper["footnotes"] for note in record.get("footnote", "a").split(", "))
            assert "models" not in table or record["model"] in table["models"]
    i2b2 = [r for t in tables.values() for r in t["records"] if r["dataset"] == "i2b2" and r.get("footnote") == "a"]
    assert [r["value"] for r in i2b2] == [0.166, 0.263]
