"""From raw instruction sources to the instruction set. Invented fixtures; the last test reads a real public
file if it is there."""

import collections
import gzip
import json
from pathlib import Path

import pytest

from data_prep import benchmarks, build_instructions, build_tasks, instructions
from data_prep.benchmarks import hoc
from data_prep.corpus.evaluation_items import item_name
from data_prep.manifest import Drops
from data_prep.schema import BadInput, check_row

SHARED = Path(__file__).resolve().parents[3] / "shared"
ALPACA, DOLLY = "alpaca/alpaca_data.json", "dolly/databricks-dolly-15k.jsonl"
FLASHCARDS = "flashcards/medical_meadow_wikidoc_medical_flashcards.json"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_array(path, records):
    write(path, json.dumps(records))


def alpaca(instruction, text, output):
    return {"instruction": instruction, "input": text, "output": output}


def read(name, raw):
    drops = Drops()
    rows = list(instructions.read(name, raw / name, drops))
    for row in rows:
        row.pop("group", None)
        check_row(row, row["id"])
    return rows, {reason: entry["count"] for reason, entry in drops.as_dict().get(name, {}).items()}


def run(raw, out, *flags):
    build_instructions.main(["--raw", str(raw), "--out", str(out), *flags])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------- sources
def test_alpaca_reads_pseudo_empty_inputs_as_none(tmp_path):
    records = [
        alpaca("Name a color.", text, " Red.")
        for text in ("", "<noinput>", "No input", "Noinput", "<No Input>")
    ]
    records += [
        alpaca("Sum up.", "No input was given to the pump.", "It idled."),
        alpaca("Sum up.", "Text.", " "),
    ]
    write_array(tmp_path / ALPACA, records)
    rows, dropped = read("alpaca", tmp_path)
    assert [row["prompt"] for row in rows] == ["Name a color.\n"] * 5 + [
        "Sum up.\n\nNo input was given to the pump.\n"
    ]
    assert (
        rows[0]["completion"] == "Red." and rows[0]["id"] == "alpaca:1" and rows[0]["task"] == "instruction"
    )
    assert dropped == {"empty output": 1}


def test_alpaca_decodes_escapes(tmp_path):
    write(
        tmp_path / ALPACA,
        r'[{"instruction": "Caf\u00e9 \u2192 \ud83d\ude00?", "input": "", "output": "\u00bd"}]',
    )
    [row], _ = read("alpaca", tmp_path)
    assert (row["prompt"], row["completion"]) == ("Caf\u00e9 \u2192 \U0001f600?\n", "\u00bd")


def test_dolly_removes_citation_marks(tmp_path):
    record = {
        "instruction": "When was it built?",
        "context": "It[42] was built in 1900.[3][note]",
        "response": "1900 [sic]",
        "category": "closed_qa",
    }
    write(
        tmp_path / DOLLY,
        json.dumps(record) + "\n" + json.dumps(record | {"context": "", "response": ""}) + "\n",
    )
    rows, dropped = read("dolly", tmp_path)
    assert [(row["prompt"], row["completion"]) for row in rows] == [
        ("When was it built?\n\nIt was built in 1900.[note]\n", "1900 [sic]")
    ]
    assert dropped == {"empty response": 1} and "closed_qa" not in json.dumps(rows)


def test_flashcards_drops_exact_duplicates(tmp_path):
    ask = "Answer this question truthfully"
    cards = [
        alpaca(ask, "What is rodex?", "A disease."),
        alpaca(ask, "What is rodex?", "A disease."),
        alpaca(ask, "What is rodex?", "A palsy."),
    ]
    write_array(tmp_path / FLASHCARDS, [*cards, alpaca(ask, "", "Nothing.")])
    rows, dropped = read("flashcards", tmp_path)
    assert [row["completion"] for row in rows] == ["A disease.", "A palsy."]
    assert rows[0]["prompt"] == "Answer this question truthfully\n\nWhat is rodex?\n"
    assert dropped == {"exact duplicate": 1, "empty question or answer": 1}


def chat(*turns):
    return [{"from": speaker, "value": text} for speaker, text in turns]


@pytest.mark.parametrize(
    "turns, roles, reason",
    [
        ([("human", "a"), ("gpt", "b")], "ua", ""),
        (
            [
                ("system", "s"),
                ("human", "a"),
                ("gpt", "b"),
                ("human", "c"),
                ("gpt", "d"),
                ("human", "thanks"),
            ],
            "suaua",
            "",
        ),
        (
            [("human", "a"), ("gpt", "b"), ("bot", "")],
            "ua",
            "",
        ),  # what follows the last answer is cut, so it cannot spoil the rest
        ([("gpt", "b"), ("human", "a"), ("gpt", "b")], None, "does not start with the human"),
        ([("human", "a"), ("human", "b"), ("gpt", "c")], None, "human and gpt do not take turns"),
        ([("human", "a"), ("gpt", "b"), ("gpt", "c")], None, "human and gpt do not take turns"),
        ([("human", "a"), ("system", "s"), ("gpt", "c")], None, "human and gpt do not take turns"),
        ([("human", "a"), ("bard", "b"), ("human", "a"), ("gpt", "b")], None, "unknown speaker"),
        ([("human", " "), ("gpt", "b")], None, "empty turn"),
        ([("human", "a")], None, "no answer"),
        ([], None, "no answer"),
    ],
)
def test_sharegpt_conversations(tmp_path, turns, roles, reason):
    write_array(tmp_path / "sharegpt/part.json", [{"id": "x_0", "conversations": chat(*turns)}])
    rows, dropped = read("sharegpt", tmp_path)
    assert ["".join(m["role"][0] for m in row["messages"]) for row in rows] == ([roles] if roles else [])
    assert dropped == ({reason: 1} if reason else {})
    assert not rows or rows[0]["id"] == "sharegpt:part:1:x_0"


# ---------------------------------------------------------------- the builder
@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    write_array(folder / ALPACA, [alpaca(f"Add 1 to {i}.", "", str(i + 1)) for i in range(100)])
    write_array(
        folder / FLASHCARDS,
        [alpaca("Answer this question truthfully", f"Card {i}?", f"Answer {i}.") for i in range(40)],
    )
    write_array(
        folder / "sharegpt/a.json",
        [{"id": f"{i}", "conversations": chat(("human", f"Hello {i}"), ("gpt", "Hi."))} for i in range(20)],
    )
    return folder


@pytest.fixture
def task_rows(tmp_path):
    def question(i):
        options = {letter: f"option {letter} {i}" for letter in "ABCDE"}
        return {
            "question": f"Add 1 to {i}.",
            "answer": options["C"],
            "options": options,
            "answer_idx": "C",
            "meta_info": "step1",
        }

    for name, numbers in (("train", range(200, 230)), ("dev", (7,)), ("test", (8, 9))):
        write(
            tmp_path / f"task_raw/medqa/US/{name}.jsonl",
            "".join(json.dumps(question(i)) + "\n" for i in numbers),
        )
    nli = {"pairID": "1", "sentence1": "Premise.", "sentence2": "Hypothesis.", "gold_label": "neutral"}
    for name in ("train", "test"):
        write(tmp_path / f"task_raw/mednli/mli_{name}_v1.jsonl", json.dumps(nli | {"sentence1": name}) + "\n")
    build_tasks.main(["--raw", str(tmp_path / "task_raw"), "--out", str(tmp_path / "tasks")])
    return tmp_path / "tasks"


def test_sizes_validation_and_manifest(tmp_path, raw, capsys):
    run(
        raw,
        tmp_path / "out",
        "--sources",
        "alpaca,sharegpt,flashcards",
        "--size",
        "alpaca=20",
        "flashcards=500",
        "--validation",
        "0.1",
    )
    train, validation = lines(tmp_path / "out/train.jsonl"), lines(tmp_path / "out/validation.jsonl")
    assert collections.Counter(row["source"] for row in train) == {
        "alpaca": 18,
        "sharegpt": 18,
        "flashcards": 36,
    }
    assert collections.Counter(row["source"] for row in validation) == {
        "alpaca": 2,
        "sharegpt": 2,
        "flashcards": 4,
    }
    assert {row["split"] for row in train} == {"train"} and {row["split"] for row in validation} == {
        "validation"
    }
    assert not {row["id"] for row in train} & {row["id"] for row in validation}
    assert [row["source"] for row in train] != sorted(
        row["source"] for row in train
    )  # mixed, not source after source
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["access"] == "public" and manifest["licenses"] == [
        "Apache-2.0",
        "CC-BY-NC-4.0",
        "GPL-3.0",
    ]
    assert manifest["sources"]["flashcards"] == {"wanted": 500, "available": 40, "taken": 40, "validation": 4}
    assert "flashcards: wanted 500, available 40, taken 40 (4 for validation)" in capsys.readouterr().out


def test_sampling_hangs_on_seed_and_ids_alone(tmp_path, raw):
    def taken(*flags):
        run(raw, tmp_path / "out", "--sources", "alpaca,flashcards", *flags)
        return (tmp_path / "out/train.jsonl").read_bytes()

    def ids(data):
        return {json.loads(line)["id"] for line in data.splitlines()}

    twenty = taken("--size", "alpaca=20", "--validation", "0")
    assert (
        twenty == taken("--size", "alpaca=20", "--validation", "0")
        and not (tmp_path / "out/validation.jsonl").exists()
    )
    assert ids(twenty) < ids(taken("--size", "alpaca=50", "--validation", "0"))
    assert ids(twenty) != ids(taken("--size", "alpaca=20", "--validation", "0", "--seed", "1"))


def test_duplicates_across_sources_are_removed(tmp_path, raw):
    repeated = {"instruction": "Add 1 to 3.", "context": "", "response": "4", "category": "x"}
    write(raw / DOLLY, json.dumps(repeated) + "\n" + json.dumps(repeated | {"response": "four"}) + "\n")
    run(raw, tmp_path / "out", "--sources", "alpaca,dolly", "--validation", "0")
    assert [row["completion"] for row in lines(tmp_path / "out/train.jsonl") if row["source"] == "dolly"] == [
        "four"
    ]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["dropped"]["dolly"]["duplicate of an earlier row"]["count"] == 1


def test_only_train_rows_of_named_tasks_enter(tmp_path, raw, task_rows):
    run(
        raw,
        tmp_path / "out",
        "--sources",
        "flashcards",
        "--task_rows",
        str(task_rows),
        "--task_names",
        "medqa",
        "--size",
        "medqa=10",
    )
    rows = lines(tmp_path / "out/train.jsonl") + lines(tmp_path / "out/validation.jsonl")
    added = [row for row in rows if row["task"] != "instruction"]
    assert len(added) == 10 and all(row["id"].startswith("medqa:train:") for row in added)
    assert added[0]["scoring"] == "choice" and added[0]["choices"] == list("ABCDE")
    run(raw, tmp_path / "out", "--sources", "flashcards", "--task_rows", str(task_rows))
    assert {row["task"] for row in lines(tmp_path / "out/train.jsonl")} == {"instruction"}


def test_credentialed_task_makes_the_set_credentialed(tmp_path, raw, task_rows):
    run(
        raw,
        tmp_path / "out",
        "--sources",
        "flashcards",
        "--task_rows",
        str(task_rows),
        "--task_names",
        "mednli",
    )
    assert json.loads((tmp_path / "out/manifest.json").read_text())["access"] == "credentialed"


def leaks(manifest):
    return {
        entry["id"]: (entry["evaluation_row"], entry["how"])
        for entry in manifest["decontamination"]["removed"]
    }


def test_evaluation_prompts_are_kept_out(tmp_path, raw, task_rows, capsys):
    first = lines(task_rows / "mednli/test.jsonl")[0]
    turns = chat(("human", "Hello"), ("gpt", "Hi."), ("human", first["prompt"].upper()), ("gpt", "neutral"))
    write_array(raw / "sharegpt/b.json", [{"id": "leak", "conversations": turns}])
    run(
        raw,
        tmp_path / "out",
        "--sources",
        "alpaca,sharegpt",
        "--task_rows",
        str(task_rows),
        "--validation",
        "0",
    )
    rows = lines(tmp_path / "out/train.jsonl")
    assert not any("leak" in row["id"] for row in rows)
    assert {row["prompt"] for row in rows if "prompt" in row}.isdisjoint(
        {"Add 1 to 7.\n", "Add 1 to 8.\n", "Add 1 to 9.\n"}
    )
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    reason = build_instructions.HeldOut.REASON
    assert (
        manifest["dropped"]["alpaca"][reason]["count"] == 3
        and manifest["dropped"]["sharegpt"][reason]["count"] == 1
    )
    assert leaks(manifest) == {
        "alpaca:8": ("medqa:dev:1", "exact"),
        "alpaca:9": ("medqa:test:1", "exact"),
        "alpaca:10": ("medqa:test:2", "exact"),
        "sharegpt:b:1:leak": (item_name(first, "mednli", "mednli:test:1"), "exact"),
    }
    assert "mednli:test:1" not in json.dumps(manifest["decontamination"]), (
        "the set is public, the ids of a credentialed set are not"
    )
    assert len(manifest["held_out"]) == 3 and "0.5 of the 13-word runs" in manifest["decontamination"]["rule"]
    assert "4 rows that give an evaluation row away left out" in capsys.readouterr().out


def numbered(word, count):
    return " ".join(f"{word}{i}" for i in range(count))


@pytest.fixture
def summaries(tmp_path):
    """Test rows of pubmed_summ: two long articles with abstracts of 30 words."""
    records = [
        {
            "article_id": f"PMC{i}",
            "article_text": [numbered(f"body{i}x", 200)],
            "abstract_text": [f"<S> {numbered(f'abstract{i}x', 30)} </S>"],
        }
        for i in (1, 2)
    ]
    write(
        tmp_path / "task_raw/pubmed_summ/test.txt", "".join(json.dumps(record) + "\n" for record in records)
    )
    build_tasks.main(["--raw", str(tmp_path / "task_raw"), "--out", str(tmp_path / "tasks")])
    return tmp_path / "tasks"


@pytest.mark.parametrize(
    "instruction, output, how",
    [
        ("Sum up: " + numbered("body1x", 120) + " and other words", "Short.", "covered 0.5"),
        ("Sum up: " + numbered("body1x", 200).upper().replace(" ", ",\n"), "Short.", "covered 0.9"),
        ("Sum up.", "Well: " + numbered("abstract1x", 30) + " and so on.", "covered 1.00"),
        ("Sum up.", numbered("abstract1x", 30).upper(), "exact"),
        ("Sum up: " + numbered("body1x", 90), "Short.", None),  # less than half
        (
            "Sum up: " + " ".join(reversed(numbered("body1x", 200).split())),
            "Short.",
            None,
        ),  # no run of 13 words
        (
            "Summarize a biomedical literature piece in six sentences.",
            "Short.",
            None,
        ),  # the instruction is no text
    ],
)
def test_rows_that_cover_a_text_of_the_evaluation_are_kept_out(tmp_path, summaries, instruction, output, how):
    write_array(
        tmp_path / "raw" / ALPACA, [alpaca("Name a color.", "", "Red."), alpaca(instruction, "", output)]
    )
    run(
        tmp_path / "raw",
        tmp_path / "out",
        "--sources",
        "alpaca",
        "--task_rows",
        str(summaries),
        "--validation",
        "0",
    )
    found = leaks(json.loads((tmp_path / "out/manifest.json").read_text()))
    assert list(found) == (["alpaca:2"] if how else [])
    if how:
        assert found["alpaca:2"][0] == "pubmed_summ:test:1:PMC1" and found["alpaca:2"][1].startswith(how)


def held_out(tmp_path, task, *rows):
    """HeldOut of test rows of one task, each {"id", "prompt"}."""
    common = {
        "task": task,
        "split": "test",
        "scoring": "summary",
        "completion": "x",
        "source": task,
        "license": "l",
        "access": "public",
    }
    write(tmp_path / "held" / task / "test.jsonl", "".join(json.dumps(common | row) + "\n" for row in rows))
    return build_instructions.HeldOut(tmp_path / "held")


QUESTION = "What does the note say of visit {}?"


@pytest.mark.parametrize(
    "template",
    [benchmarks.prompt_file("emrqa").read_text(), "TASK: find it.\nNOTE: {context}\nASKED: {question}\n"],
)
@pytest.mark.parametrize("questions", [1, 3])
def test_a_text_that_all_rows_of_a_file_share_is_no_instruction(tmp_path, template, questions):
    note = numbered("note", 100)
    rows = [
        {"id": f"emrqa:{i}", "prompt": template.format(context=note, question=QUESTION.format(i))}
        for i in range(questions)
    ]
    found = held_out(tmp_path, "emrqa", *rows).find(
        {"id": "a:1", "prompt": f"Sum up: {note}\n", "completion": "Short."}
    )
    assert found and found[0] == "emrqa:0" and found[1].startswith("covered")


def test_the_instruction_of_a_template_is_no_text(tmp_path):
    template = benchmarks.prompt_file("i2b2").read_text()
    text = numbered("word", 20)
    held = held_out(tmp_path, "i2b2", {"id": "i2b2:1", "prompt": template.format(text=text)})
    assert (
        held.find({"id": "a:1", "prompt": template.format(text="Another line."), "completion": "x"}) is None
    )
    assert held.find({"id": "a:2", "prompt": f"{text}\n", "completion": "x"})[0] == "i2b2:1"


def test_the_evaluation_row_that_is_named_does_not_hang_on_the_order_of_hashes(tmp_path):
    body = [numbered(f"part{i}x", 40) for i in range(3)]
    texts = {"b": f"{body[0]} {body[1]}", "a": f"{body[0]} {body[1]}", "c": f"{body[0]} {body[1]} {body[2]}"}
    template = benchmarks.prompt_file("mtsamples").read_text()
    held = held_out(tmp_path, "mtsamples", *({"id": name, "prompt": template.format(specialties="A, B", text=text)} for name, text in texts.items()))  # fmt: skip
    row = {"id": "r", "prompt": f"{body[0]} {body[1]}\n", "completion": "x"}
    for _ in range(2):
        held.holders = {gram: items[::-1] for gram, items in held.holders.items()}
        assert held.find(row)[0] == "a", "covered most, and of those the lowest id"


def test_articles_of_the_evaluation_are_kept_out_by_their_number(tmp_path, summaries):
    def document(number):
        text = "\n\n".join(
            ["A title.", "An abstract of five words.", f"One of {number}. Two is here. Three is here."]
        )
        meta = {"blocks": {"title": 1, "abstract": 1, "further_abstracts": 0, "body": 1}, "keywords": ["one"]}
        fields = {"source": "pmc", "domain": "biomedical", "license": "CC BY", "access": "public"}
        return {"id": f"pmc:PMC{number}", "text": text, **fields, "meta": meta}

    (tmp_path / "raw").mkdir()
    write(
        tmp_path / "documents/pmc/a.jsonl", "".join(json.dumps(document(number)) + "\n" for number in (2, 22))
    )
    flags = [
        "--sources",
        "pmc_next_sentence",
        "--documents",
        str(tmp_path / "documents"),
        "--task_rows",
        str(summaries),
        "--validation",
        "0",
    ]
    run(tmp_path / "raw", tmp_path / "out", *flags)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert leaks(manifest) == {"pmc_next_sentence:pmc:PMC2": ("pubmed_summ:test:2:PMC2", "article")}
    assert manifest["row_licenses"] == {"CC BY": 1}


def test_a_sampled_source_is_full_although_leaks_were_left_out(tmp_path, raw, task_rows):
    def ids(size):
        run(
            raw,
            tmp_path / "out",
            "--sources",
            "alpaca",
            "--size",
            f"alpaca={size}",
            "--task_rows",
            str(task_rows),
            "--validation",
            "0",
        )
        return {row["id"] for row in lines(tmp_path / "out/train.jsonl")}

    assert len(ids(97)) == 97 and len(ids(98)) == 97  # three of a hundred are test questions
    assert len(ids(40)) == 40 and ids(40) < ids(97)


# ---------------------------------------------------------------- the plan
def test_plan_with_a_missing_source(tmp_path, raw, capsys):
    write(
        tmp_path / "plan.yaml", "sources: {alpaca: 10, dolly: 5, flashcards: 100}\nvalidation: 0.1\nseed: 1\n"
    )
    with pytest.raises(SystemExit, match="dolly: no such folder"):
        run(raw, tmp_path / "out", "--plan", str(tmp_path / "plan.yaml"))
    run(raw, tmp_path / "out", "--plan", str(tmp_path / "plan.yaml"), "--skip_missing", "--size", "alpaca=20")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["sources"]["alpaca"] == {"wanted": 20, "available": 100, "taken": 20, "validation": 2}
    assert (
        manifest["sources"]["dolly"]["taken"] == 0
        and "no such folder" in manifest["sources"]["dolly"]["missing"]
    )
    assert manifest["arguments"]["plan"]["seed"] == 1
    printed = capsys.readouterr().out
    assert (
        "dolly: wanted 5, available 0, taken 0: " in printed
        and "train 54, validation 6, of 125 wanted" in printed
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("sources: {alpaca: 10\n", "plan.yaml: not YAML"),
        ("sources: []\n", "plan.yaml: sources: must be a mapping of source to number of rows, found []"),
        ("sources: {nosuch: 10}\n", "plan.yaml: sources: 'nosuch' is unknown. Known: alpaca"),
        ("sources: {alpaca: -1}\n", "sources: alpaca: must be greater than or equal to 0, found -1"),
        ("sources: {alpaca: many}\n", "sources: alpaca: must be a valid integer, found 'many'"),
        ("sources: {alpaca: 1}\nepochs: 3\n", "unknown key 'epochs' (known: sources, validation, seed)"),
        ("sources: {alpaca: 1}\nseed: one\n", "seed: must be a whole number, found 'one'"),
    ],
)
def test_broken_plan(tmp_path, raw, text, message):
    write(tmp_path / "plan.yaml", text)
    with pytest.raises(SystemExit) as caught:
        run(raw, tmp_path / "out", "--plan", str(tmp_path / "plan.yaml"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_plan_of_the_article():
    sizes = build_instructions.read_plan(Path(instructions.__file__).parent / "paper.yaml")["sources"]
    assert set(sizes) <= set(instructions.NAMES) and len(sizes) == 21
    assert sum(sizes[name] for name in ("alpaca", "dolly", "sharegpt")) == 20_000
    assert sizes["healthcaremagic"] + sizes["icliniq"] == 20_000
    assert sum(size for name, size in sizes.items() if name.startswith("mimic_")) == 30_000
    assert sum(sizes.values()) == 219_484  # what Table 2 adds up to; the article's text says 214,595


def test_task_file_with_a_test_row_is_refused(tmp_path, raw, task_rows):
    write(task_rows / "medqa/train.jsonl", (task_rows / "medqa/test.jsonl").read_text())
    (task_rows / "medqa/manifest.json").unlink()
    with pytest.raises(SystemExit, match="row of split 'test', which must not be trained on"):
        run(
            raw,
            tmp_path / "out",
            "--sources",
            "alpaca",
            "--task_rows",
            str(task_rows),
            "--task_names",
            "medqa",
        )


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--sources", "alpaca,nosuch"], "--sources: 'nosuch' is unknown. Known: alpaca"),
        (["--sources", ""], "no source is named"),
        ([], "neither --sources nor --plan. Known sources: alpaca"),
        (["--sources", "pmc_keywords"], "pmc_keywords is made of our own documents. Next: --documents"),
        (["--sources", "dolly"], "databricks-dolly-15k.jsonl: this is a Git-LFS pointer"),
        (["--sources", "sharegpt"], "bad.json: record 1: field 'conversations'"),
        (["--sources", "flashcards"], "record 2: field 'output' must be text"),
        (["--sources", "alpaca", "--size", "alpaca=many"], "--size: 'alpaca=many' must be NAME=ROWS"),
        (["--sources", "alpaca", "--size", "dolly=3"], "--size: 'dolly=3' must be NAME=ROWS"),
        (["--sources", "alpaca", "--size", "alpaca=0"], "no row is left"),
        (["--sources", "alpaca", "--validation", "1"], "--validation: 1.0"),
        (["--sources", "alpaca", "--task_names", "medqa"], "--task_names needs --task_rows"),
        (["--sources", "alpaca", "--task_rows", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, raw, flags, message):
    write(raw / DOLLY, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 13085339\n")
    write_array(raw / FLASHCARDS, [alpaca("a", "b", "c"), {"instruction": "a", "input": "b"}])
    write_array(raw / "sharegpt/bad.json", [{"id": "1", "text": "no turns"}])
    (raw / "sharegpt/a.json").unlink()
    with pytest.raises(SystemExit) as caught:
        run(raw, tmp_path / "out", *flags)
    assert (
        str(caught.value).startswith("error: ")
        and message in str(caught.value)
        and "\n" not in str(caught.value)
    )
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_missing_and_damaged_files(tmp_path, raw):
    with pytest.raises(SystemExit, match="dolly: no such folder. Next"):
        run(raw, tmp_path / "out", "--sources", "dolly")
    write(raw / ALPACA, '[{"instruction": "a", "inp')
    with pytest.raises(SystemExit, match="alpaca_data.json: not JSON"):
        run(raw, tmp_path / "out", "--sources", "alpaca")
    (raw / ALPACA).write_bytes(gzip.compress(b"[]"))
    with pytest.raises(SystemExit, match="alpaca_data.json: "):
        run(raw, tmp_path / "out", "--sources", "alpaca")


# ---------------------------------------------------------------- a real public file
def test_real_sharegpt_file_reads_whole():
    if not (SHARED / "data/sharegpt/dummy_conversation.json").is_file():
        pytest.skip("no dummy_conversation.json here")
    rows, dropped = read("sharegpt", SHARED / "data")
    assert collections.Counter(len(row["messages"]) for row in rows) == {2: 167, 4: 166, 6: 167}
    assert not dropped


@pytest.mark.parametrize(
    "text",
    [
        '"<noinput>"',
        "[noinput]",
        "(No input)",
        "No input required.",
        "N/A",
        "No_Input",
        "no input is needed",
        "None",
        "NaN",
    ],
)
def test_inputs_that_say_there_is_none(text):
    assert instructions.no_input(text)
    assert not instructions.no_input("Na") and not instructions.no_input("No input was given to the pump.")


def test_text_escaped_or_decoded_twice_is_repaired_and_counted(tmp_path):
    records = [
        alpaca("Say &quot;yes&quot; in a caf\u00c3\u00a9.", "", "p &amp;gt; 5 &amp;deg;C"),
        alpaca("Show <b>&lt;</b>.", "", "x"),
    ]
    write_array(tmp_path / ALPACA, records)
    run(tmp_path, tmp_path / "out", "--sources", "alpaca", "--validation", "0")
    rows = {row["id"]: row for row in lines(tmp_path / "out/train.jsonl")}
    assert (rows["alpaca:1"]["prompt"], rows["alpaca:1"]["completion"]) == (
        'Say "yes" in a caf\u00e9.\n',
        "p > 5 \u00b0C",
    )
    assert rows["alpaca:2"]["prompt"] == "Show <b>&lt;</b>.\n"
    facts = json.loads((tmp_path / "out/manifest.json").read_text())
    assert facts["repaired"]["alpaca"][instructions.REPAIRED]["count"] == 1


def test_validation_shares_no_prompt_with_train(tmp_path):
    records = [alpaca(f"Question {i // 4}?", "", f"Answer {i}.") for i in range(80)]
    write_array(tmp_path / ALPACA, records)
    more = [{"instruction": f"question {i}?", "context": "", "response": "Yes."} for i in range(30)]
    write(tmp_path / DOLLY, "".join(json.dumps(record) + "\n" for record in more))
    run(tmp_path, tmp_path / "out", "--sources", "alpaca,dolly", "--validation", "0.2")
    train, validation = (
        {row["prompt"].casefold() for row in lines(tmp_path / f"out/{split}.jsonl")}
        for split in ("train", "validation")
    )
    assert len(validation) >= 6 and not train & validation


def test_chatgpt_answers_are_not_taken_for_healthcaremagic(tmp_path):
    records = [
        {"instruction": "x", "input": f"Doctor, I have {i}.", "output": f"Test {i}."} for i in range(25)
    ]
    for name in ("HealthCareMagic-100k.json", "chatdoctor5k.json"):
        write_array(tmp_path / name / name, records[: 25 if name[0] == "H" else 2])
        with pytest.raises(BadInput, match="GenMedGPT-5k, written by ChatGPT"):
            list(instructions.read("healthcaremagic", tmp_path / name, Drops()))


# ---------------------------------------------------------------- row files that are not those of their manifest
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "change", [lambda lines: lines[:1], lambda lines: lines * 2, lambda lines: lines[::-1]]
)
@pytest.mark.guarantee("Files", "An output that was replaced, cut or edited after its build is noticed.")
def test_a_row_file_that_was_cut_at_a_line_end_or_doubled_is_noticed(tmp_path, raw, task_rows, split, change):
    path = task_rows / f"medqa/{split}.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    flags = ["--sources", "alpaca", "--task_rows", str(task_rows), "--task_names", "medqa"]
    with pytest.raises(SystemExit, match=f"medqa/{split}.jsonl: not the file that its manifest lists"):
        run(raw, tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_rows_that_share_labels_alone_give_nothing_away(tmp_path):
    labels = ", ".join(hoc.LABELS[:6])  # more than 13 words
    assert len(labels.split()) >= build_instructions.HeldOut.N

    def row(i, split):
        card = {"task": "hoc", "scoring": "labels", "source": "hoc", "license": "MIT", "access": "public"}
        text = {"prompt": f"Text {i} of its own.\n", "completion": labels, "choices": list(hoc.LABELS)}
        return json.dumps({"id": f"hoc:{i}", "split": split} | card | text) + "\n"

    for i, split in enumerate(("train", "test")):
        write(tmp_path / f"tasks/hoc/{split}.jsonl", row(i, split))
    run(
        tmp_path,
        tmp_path / "out",
        "--sources",
        "",
        "--task_rows",
        str(tmp_path / "tasks"),
        "--task_names",
        "hoc",
    )
    assert [row["id"] for row in lines(tmp_path / "out/train.jsonl")] == ["hoc:0"]


def test_a_full_disk_is_one_sentence(tmp_path, raw, monkeypatch):
    def full(path, records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_instructions, "write_jsonl", full)
    with pytest.raises(
        SystemExit, match="error: No space left on device. Next: free space, then the same command"
    ):
        run(raw, tmp_path / "out", "--sources", "alpaca")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
