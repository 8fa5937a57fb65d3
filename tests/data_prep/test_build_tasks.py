"""The builder of the task rows: splits, leaks, rows of the Hub, manifest, and the list of what is ready.
Invented fixtures."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from data_prep import benchmarks, build_tasks, tasks_status
from data_prep.build_tasks import near_duplicates, sketch

MTSAMPLES = ",description,medical_specialty,sample_name,transcription,keywords\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_lines(path, records):
    write(path, "".join(json.dumps(record) + "\n" for record in records))


def run(raw, out, *flags):
    build_tasks.main(["--raw", str(raw), "--out", str(out), *flags])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def medqa(question="Which organ pumps blood?"):
    options = {"A": "Liver", "B": "Heart", "C": "Spleen", "D": "Skin", "E": "Lung"}
    return {
        "question": question,
        "answer": "Heart",
        "options": options,
        "answer_idx": "B",
        "meta_info": "step1",
    }


def mednli(label, number=1, premise=None):
    premise = premise or f"Premise {number}."
    return {
        "pairID": f"pair-{number}",
        "sentence1": premise,
        "sentence2": "Hypothesis.",
        "gold_label": label,
        "sentence1_parse": "x",
    }


# ---------------------------------------------------------------- the builder
def test_build_writes_rows_and_manifest(tmp_path, capsys):
    write_lines(
        tmp_path / "raw/mednli/mli_train_v1.jsonl",
        [mednli("neutral", 1), mednli("entailment", 2), mednli("neutral", 3)],
    )
    write_lines(tmp_path / "raw/mednli/mli_test_v1.jsonl", [mednli("neutral", 2)])
    write_lines(tmp_path / "raw/medqa/US/test.jsonl", [medqa()])
    run(tmp_path / "raw", tmp_path / "out", "--tasks", "all")
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["mednli", "medqa"]
    assert sorted(path.name for path in (out / "mednli").iterdir()) == [
        "manifest.json",
        "test.jsonl",
        "train.jsonl",
    ]
    assert [row["id"] for row in lines(out / "mednli/train.jsonl")] == [
        "mednli:train:pair-1",
        "mednli:train:pair-3",
    ]
    manifest = json.loads((out / "mednli/manifest.json").read_text())
    assert (
        manifest["access"] == "credentialed"
        and manifest["dropped"]["mednli"]["train prompt is also in the test"]["count"] == 1
    )
    assert len(manifest["prompt"]["sha256"]) == 64 and manifest["inputs"][0]["n_files"] == 2
    assert [(entry["path"], entry["records"]) for entry in manifest["outputs"]] == [
        ("train.jsonl", 2),
        ("test.jsonl", 1),
    ]
    printed = capsys.readouterr().out
    assert (
        "mednli: train 2 of 11,232 (-11,230), validation 0 of 1,422 (-1,422), test 1 of 1,395 (-1,394)"
        in printed
    )
    assert "no raw folder for: bionli, ddi" in printed and "    difference: The published split" in printed


def test_rebuilding_a_task_leaves_the_others_and_survives_a_failure(tmp_path):
    write_lines(tmp_path / "raw/mednli/mli_test_v1.jsonl", [mednli("neutral")])
    write_lines(tmp_path / "raw/medqa/US/test.jsonl", [medqa()])
    run(tmp_path / "raw", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    write(tmp_path / "raw/medqa/US/test.jsonl", json.dumps(medqa()) + '\n{"question": "cut he')
    with pytest.raises(SystemExit, match="error: .*test.jsonl: line 2 is not JSON"):
        run(tmp_path / "raw", tmp_path / "out", "--tasks", "medqa")
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    run(tmp_path / "raw", tmp_path / "out", "--tasks", "mednli")
    assert before == {
        path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }  # same in, same bytes out


def test_build_refuses_an_id_that_stands_twice(tmp_path):
    write_lines(tmp_path / "raw/mednli/mli_test_v1.jsonl", [mednli("neutral"), mednli("neutral")])
    with pytest.raises(SystemExit, match="mednli:test:pair-1: this id is there twice"):
        run(tmp_path / "raw", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--tasks", "medqa,nosuch"], "'nosuch' is no task. Known: bionli"),
        (["--tasks", ","], "Known: bionli"),
        (["--tasks", "ddi"], "ddi: no such folder. Next"),
        (["--tasks", "medmcqa"], "neither train.json nor dev.json"),
        (["--tasks", "mednli"], "line 1: field 'gold_label' is missing"),
        (["--tasks", "medqa"], "test.jsonl: the file is empty"),
        (["--tasks", "mtsamples"], "no row could be made"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, flags, message):
    raw = tmp_path / "raw"
    (raw / "medmcqa").mkdir(parents=True)
    write_lines(raw / "mednli/mli_test_v1.jsonl", [{"pairID": "1", "sentence1": "a", "sentence2": "b"}])
    write(raw / "medqa/US/test.jsonl", "")
    write(raw / "mtsamples/mtsamples.csv", MTSAMPLES)
    with pytest.raises(SystemExit) as caught:
        run(raw, tmp_path / "out", *flags)
    assert (
        str(caught.value).startswith("error: ")
        and message in str(caught.value)
        and "\n" not in str(caught.value)
    )
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_raw_folder_without_tasks(tmp_path):
    with pytest.raises(SystemExit, match="no such folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(SystemExit, match="no folder is named like a task"):
        run(tmp_path, tmp_path / "out")


# ---------------------------------------------------------------- leaks
def test_rows_with_one_prompt_and_two_answers_are_counted(tmp_path, capsys):
    body = "".join(
        f"{2 * i + k},x, {name},x,Text {i}.,x\n"
        for i in range(60)
        for k, name in enumerate(("Surgery", "Urology"))
    )
    write(tmp_path / "mtsamples/mtsamples.csv", MTSAMPLES + body)
    run(tmp_path, tmp_path / "out")
    assert "same prompt, other completion: 60" in capsys.readouterr().out
    assert manifest(tmp_path / "out/mtsamples")["same_prompt_other_completion"] == 60


@pytest.mark.guarantee("Corpus", "No test row is among the training rows of a benchmark.")
def test_no_prompt_of_the_test_is_left_to_take_few_shot_examples_from(tmp_path):
    write_lines(tmp_path / "raw/medqa/US/train.jsonl", [medqa("Shared question?"), medqa("Own question?")])
    write_lines(tmp_path / "raw/medqa/US/dev.jsonl", [medqa("Shared question?")])
    write_lines(tmp_path / "raw/medqa/US/test.jsonl", [medqa("Shared question?"), medqa("Test question?")])
    run(tmp_path / "raw", tmp_path / "out")
    out = tmp_path / "out/medqa"
    assert [row["question"] for row in lines(out / "train.jsonl")] == ["Own question?"]
    assert not (out / "validation.jsonl").exists()
    test = {row["prompt"] for row in lines(out / "test.jsonl")}
    assert not test & {row["prompt"] for row in lines(out / "train.jsonl")}
    drops = manifest(out)["dropped"]["medqa"]
    assert {reason: entry["count"] for reason, entry in drops.items()} == {
        "train prompt is also in the test": 1,
        "validation prompt is also in the test": 1,
    }


def test_texts_much_like_one_of_the_test_are_reported_and_kept(tmp_path, capsys):
    text = " ".join(f"word{i}" for i in range(100))
    train = [mednli("neutral", 1, text + " today"), mednli("neutral", 2, " ".join(reversed(text.split())))]
    write_lines(tmp_path / "raw/mednli/mli_train_v1.jsonl", train)
    write_lines(
        tmp_path / "raw/mednli/mli_test_v1.jsonl",
        [mednli("neutral", 3, text), mednli("neutral", 4, "Other words.")],
    )
    run(tmp_path / "raw", tmp_path / "out")
    out = tmp_path / "out/mednli"
    assert len(lines(out / "train.jsonl")) == 2
    assert manifest(out)["near_duplicates"] == {"train": {"count": 1, "first": "mednli:train:pair-1"}}
    assert "much like a test text: train 1\n" in capsys.readouterr().out


def test_sketch_tells_texts_apart():
    one = " ".join(f"w{i}" for i in range(300))
    changed = one.replace("w150", "x")
    other = " ".join(f"v{i}" for i in range(300))
    assert sketch("too short to be compared with anything") == ()
    assert near_duplicates(
        [sketch(one)], [("train", "a", sketch(changed)), ("train", "b", sketch(other)), ("train", "c", ())]
    ) == {"train": {"count": 1, "first": "a"}}


# ---------------------------------------------------------------- rows of the Hub
def hub_row(number, answer="B", **changes):
    choices = list("ABCDE")
    row = {
        "id": f"medqa{number}",
        "query": f"As published. Question {number}?\nAnswer:",
        "answer": answer,
        "choices": choices,
    }
    return row | {"gold": choices.index(answer) if answer in choices else 0, "text": "x"} | changes


def test_hub_rows_keep_their_prompt(tmp_path):
    folder = tmp_path / "raw/medqa"
    (folder / "hub").mkdir(parents=True)
    bad = [hub_row(3, "F"), hub_row(4, gold=0), hub_row(5, query=" ")]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([hub_row(1), hub_row(2, "E"), *bad]),
        folder / "hub/test-00000-of-00001.parquet",
    )
    write_lines(folder / "hub/valid.jsonl", [hub_row(9) | {"choices": None}])
    write_lines(folder / "US/test.jsonl", [medqa()])  # not read: one set, one kind of prompt
    run(tmp_path / "raw", tmp_path / "out")
    rows = lines(tmp_path / "out/medqa/test.jsonl")
    assert [(row["id"], row["completion"]) for row in rows] == [
        ("medqa:hub:test-00000-of-00001:1:medqa1", "B"),
        ("medqa:hub:test-00000-of-00001:2:medqa2", "E"),
    ]
    assert rows[0]["prompt"] == "As published. Question 1?\nAnswer:\n" and rows[0]["choices"] == list("ABCDE")
    assert lines(tmp_path / "out/medqa/validation.jsonl")[0]["choices"] == list("ABCDE")  # those of the set
    found = manifest(tmp_path / "out/medqa")
    assert found["prompt"] == {"path": "hub: the query of each record"} and found["inputs"][0]["n_files"] == 2
    assert {reason: entry["count"] for reason, entry in found["dropped"]["medqa"].items()} == {
        "answer is not among the choices": 1,
        "gold points at another choice than the answer": 1,
        "no query or no answer": 1,
    }


def test_hub_copy_with_the_test_in_every_split_trains_on_nothing(tmp_path):
    for name in ("train", "valid", "test"):
        write_lines(tmp_path / f"raw/medqa/hub/{name}.jsonl", [hub_row(1), hub_row(2)])
    run(tmp_path / "raw", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/medqa").iterdir()) == ["manifest.json", "test.jsonl"]
    assert (
        manifest(tmp_path / "out/medqa")["dropped"]["medqa"]["train prompt is also in the test"]["count"] == 2
    )


def test_hub_copy_of_mtsamples_loses_the_train_rows_of_the_test(tmp_path, capsys):
    def record(number, specialty):
        return {"id": f"m{number}", "query": f"INPUT: Transcription {number}.\nOUTPUT:", "answer": specialty}

    # Table 3's counts (4,999 of 4,999 public rows in train, 999 in test) say that the test is in the train;
    # once under another specialty
    train = [record(1, "Surgery"), record(2, "Urology"), record(3, "Letters"), record(3, "Letters")]
    write_lines(tmp_path / "raw/mtsamples/hub/train.jsonl", train)
    write_lines(tmp_path / "raw/mtsamples/hub/test.jsonl", [record(1, "Surgery"), record(2, "Surgery")])
    run(tmp_path / "raw", tmp_path / "out")
    out = tmp_path / "out/mtsamples"
    assert [row["prompt"] for row in lines(out / "train.jsonl")] == ["INPUT: Transcription 3.\nOUTPUT:\n"] * 2
    drops = manifest(out)["dropped"]["mtsamples"]["train prompt is also in the test"]
    assert drops["count"] == 2 and "train prompt is also in the test" in capsys.readouterr().out


@pytest.mark.parametrize("name", benchmarks.NAMES)
def test_hub_rows_of_every_set(tmp_path, name):
    module = benchmarks.load(name)
    answer = module.COMMON["choices"][0] if module.SCORING in ("choice", "labels") else "the answer"
    write_lines(
        tmp_path / f"raw/{name}/hub/{name}_test.jsonl",
        [{"query": "A prompt\n", "answer": answer, "id": f"{name}0"}],
    )
    run(tmp_path / "raw", tmp_path / "out", "--tasks", name)
    [row] = lines(tmp_path / f"out/{name}/test.jsonl")
    assert row["prompt"] == "A prompt\n" and row["completion"] == answer and row["scoring"] == module.SCORING


@pytest.mark.parametrize(
    "files, message",
    [
        ({"data.jsonl": "{}\n"}, "data.jsonl: the name must contain one of train"),
        ({"train_test.jsonl": "{}\n"}, "train_test.jsonl: the name must contain one of train"),
        ({"test.parquet": "PAR1 cut he"}, "test.parquet: not whole Parquet"),
        ({"readme.txt": "x"}, "hub: no *.parquet and no *.jsonl"),
        ({"test.jsonl": "[1]\n"}, "line 1 is no JSON object"),
    ],
)
def test_broken_hub_folder(tmp_path, files, message):
    for name, text in files.items():
        write(tmp_path / f"raw/medqa/hub/{name}", text)
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "raw", tmp_path / "out")
    assert message in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------- what is ready
def test_status_says_what_to_do_next(tmp_path, capsys):
    raw, rows = tmp_path / "raw", tmp_path / "tasks"
    write_lines(raw / "medqa/US/test.jsonl", [medqa()])
    write_lines(raw / "mednli/mli_test_v1.jsonl", [mednli("neutral")])
    write(raw / "medmcqa/readme.txt", "x")
    run(raw, rows, "--tasks", "medqa")
    capsys.readouterr()
    tasks_status.main(["--raw", str(raw), "--rows", str(rows)])
    printed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert sorted(printed) == sorted(benchmarks.NAMES)
    assert "ready             test 1 rows. Next: python -m evaluation.generate" in printed["medqa"]
    assert (
        f"ready             raw files in {raw / 'mednli'}. Next: python -m data_prep.build_tasks --raw "
        f"{raw} --tasks mednli" in printed["mednli"]
    )
    assert (
        "missing           " in printed["medmcqa"] and "neither train.json nor dev.json" in printed["medmcqa"]
    )
    assert (
        "needs credential  no folder" in printed["emrqa"]
        and benchmarks.load("emrqa").PAGE in printed["emrqa"]
    )
    assert (
        "missing           no folder" in printed["ddi"]
        and "https://github.com/isegura/DDICorpus" in printed["ddi"]
    )


def test_status_without_any_folder(tmp_path, capsys):
    tasks_status.main(["--raw", str(tmp_path / "nowhere"), "--rows", str(tmp_path / "none")])
    states = [line[13:30].strip() for line in capsys.readouterr().out.splitlines()]
    credential = sum(benchmarks.load(name).ACCESS == "credentialed" for name in benchmarks.NAMES)
    assert (
        states.count("needs credential") == credential >= 4
        and states.count("missing") == len(benchmarks.NAMES) - credential >= 8
    )


def test_train_shares_no_prompt_with_validation(tmp_path):
    write_lines(tmp_path / "raw/medqa/US/test.jsonl", [medqa("Which organ filters blood?")])
    write_lines(tmp_path / "raw/medqa/US/dev.jsonl", [medqa("Which organ pumps blood?")])
    write_lines(tmp_path / "raw/medqa/US/train.jsonl", [medqa("Which organ pumps blood?"), medqa("Which?")])
    run(tmp_path / "raw", tmp_path / "out")
    assert [row["question"] for row in lines(tmp_path / "out/medqa/train.jsonl")] == ["Which?"]
    assert (
        manifest(tmp_path / "out/medqa")["dropped"]["medqa"]["train prompt is also in the validation"][
            "count"
        ]
        == 1
    )


def test_all_builds_what_can_be_built_and_lists_the_rest(tmp_path, capsys):
    write(tmp_path / "raw/hoc/test.tsv", "other\tcolumns\n")
    write_lines(tmp_path / "raw/medqa/US/test.jsonl", [medqa()])
    write(tmp_path / "raw/mtsamples/mtsamples.csv", MTSAMPLES + "0,a")
    with pytest.raises(SystemExit, match="2 of 3 tasks not built: .*hoc/test.tsv.*; .*mtsamples.csv"):
        run(tmp_path / "raw", tmp_path / "out")
    assert len(lines(tmp_path / "out/medqa/test.jsonl")) == 1 and "hoc: not built" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="hoc/test.tsv: the columns"):
        run(tmp_path / "raw", tmp_path / "out", "--tasks", "hoc,medqa")


def test_hub_labels_outside_the_choices_are_counted(tmp_path):
    answers = ["inducing angiogenesis, resisting cell death", "Inducing angiogenesis", "none"]
    answers += ["inducing angiogenesis; resisting cell death"]
    records = [{"query": f"Text {i}.", "answer": answer} for i, answer in enumerate(answers)]
    write_lines(tmp_path / "raw/hoc/hub/test.jsonl", records)
    run(tmp_path / "raw", tmp_path / "out")
    assert [row["completion"] for row in lines(tmp_path / "out/hoc/test.jsonl")] == answers[3:]
    assert manifest(tmp_path / "out/hoc")["dropped"]["hoc"]["answer is not among the choices"]["count"] == 3


def test_hub_records_with_other_fields_are_named(tmp_path):
    write_lines(tmp_path / "raw/mtsamples/hub/test.jsonl", [{"medical_specialty": "x", "transcription": "y"}])
    with pytest.raises(SystemExit, match="'query' is missing .found: medical_specialty, transcription"):
        run(tmp_path / "raw", tmp_path / "out")


@pytest.mark.guarantee("Files", "A full disk is one sentence and loses nothing.")
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    write_lines(tmp_path / "raw/medqa/US/test.jsonl", [medqa()])

    def full(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_tasks, "describe", full)
    with pytest.raises(
        SystemExit, match="error: No space left on device. Next: free space, then the same command"
    ):
        run(tmp_path / "raw", tmp_path / "tasks")
    assert not list((tmp_path / "tasks").iterdir())
