"""From raw files to task rows. The fixtures are invented, in the publishers' formats; the last tests read
real files if they are there."""

import collections
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_prep import benchmarks
from data_prep.benchmarks import ddi, i2b2, mimic_cxr, mtsamples
from data_prep.manifest import Drops
from data_prep.schema import SCORINGS, BadInput, check_row

SHARED = Path(__file__).resolve().parents[3] / "shared"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_lines(path, records):
    write(path, "".join(json.dumps(record) + "\n" for record in records))


def read(name, raw):
    """Rows and drops of a task, each row checked."""
    drops = Drops()
    rows = [check_row(row, row["id"]) for row in benchmarks.load(name).read(raw / name, drops)]
    return rows, {reason: entry["count"] for reason, entry in drops.as_dict().get(name, {}).items()}


# ---------------------------------------------------------------- every task
@pytest.mark.parametrize("name", benchmarks.NAMES)
def test_module_has_what_the_builder_reads(name):
    module = benchmarks.load(name)
    assert (
        module.SCORING in SCORINGS and module.ACCESS in ("public", "gated", "credentialed") and module.LICENSE
    )
    assert (
        set(module.EXPECTED) == {"train", "validation", "test"}
        and module.PAGE.startswith("https://")
        and module.DIFFERENCE.endswith(".")
    )
    assert ("choices" in module.COMMON) == (module.SCORING in ("choice", "labels", "entities"))
    assert "\nOrigin " in module.__doc__ and "\nRaw " in module.__doc__
    assert re.search(r"(Answer:|OUTPUT:|Output Text:)\n\Z", benchmarks.prompt_file(name).read_text())


def test_a_file_in_the_folder_is_a_set():
    files = {path.stem for path in Path(benchmarks.__file__).parent.glob("[a-z]*.py")}
    assert (
        files == set(benchmarks.NAMES) == {path.stem for path in benchmarks.PROMPTS.glob("*.txt")}
        and len(files) >= 12
    )


def test_expected_rows_are_those_of_table_3():
    path = SHARED / "paper" / "tables.json"
    if not path.is_file():
        pytest.skip("no tables.json here")
    names = {"mtsample": "mtsamples", "pubmed": "pubmed_summ"}
    for entry in json.loads(path.read_text())["table3_benchmark"]:
        name = names.get(entry["dataset"], entry["dataset"])
        want = {"train": entry["train"], "validation": entry["valid"], "test": entry["test"]}
        assert want == benchmarks.load(name).EXPECTED, name


def test_prompt_without_its_placeholder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "PROMPTS", tmp_path)
    write(tmp_path / "medqa.txt", "Question: {question}\nAnswer:\n")
    with pytest.raises(BadInput, match="options"):
        benchmarks.read_prompt("medqa", "question", "options")
    write(tmp_path / "medqa.txt", 'Reply as {"answer": "A"}. {question}\nAnswer:\n')
    with pytest.raises(BadInput, match="brace"):
        benchmarks.read_prompt("medqa", "question")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 13085339\n"
FILE = {
    "bionli": "test.csv",
    "ddi": "DDICorpus/Test/DrugBank/d1.xml",
    "emrqa": "data.json",
    "hoc": "test.tsv",
    "i2b2": "test/txt/r.txt",
    "longhealth": "benchmark_v5.json",
    "medmcqa": "dev.json",
    "medqa": "US/test.jsonl",
    "mednli": "mli_test_v1.jsonl",
    "mimic_cxr": "files/p10/p10000001/s50000001.txt",
    "mtsamples": "mtsamples.csv",
    "pubmed_summ": "test.txt",
    "pubmedqa": "ori_pqal.json",
}


@pytest.mark.parametrize(
    "path", [*FILE.items(), *((name, "hub/test.parquet") for name in ("medqa", "pubmed_summ"))], ids="-".join
)
def test_pointer_of_git_lfs_is_refused(tmp_path, path):
    name, file = path
    write(tmp_path / name / file, POINTER)
    if name == "pubmedqa":
        write(tmp_path / name / "test_ground_truth.json", POINTER)
    if name == "i2b2":
        write(tmp_path / name / "test/concept/r.con", POINTER)
    with pytest.raises(BadInput, match=f"{Path(file).name}: this is a Git-LFS pointer"):
        list(benchmarks.read(name, tmp_path / name, Drops()))


# ---------------------------------------------------------------- question answering
def test_longhealth_row(tmp_path):
    """The texts of a record in the order of their numbers; an answer that is no option, or two, is dropped."""
    options = {f"answer_{letter}": f"Option {letter}" for letter in "abcde"}
    questions = [
        {"No": 0, "question": "Which {drug}? ", "correct": "Option b", **options},
        {"No": 1, "question": "Which?", "correct": "Option f", **options},
        {"No": 2, "question": "Which?", "correct": "Option a", **options, "answer_c": "Option a"},
    ]
    record = {"text_10": "Third.", "text_2": "Second.", "text_1": "First."}
    content = {"patient_01": {"texts": record, "questions": questions}}
    write(tmp_path / "longhealth/benchmark_v5.json", json.dumps(content))
    [row], dropped = read("longhealth", tmp_path)
    assert (row["id"], row["split"], row["completion"]) == ("longhealth:patient_01:0", "test", "B")
    assert (
        "Record: First.\n\nSecond.\n\nThird.\nQuestion: Which {drug}?\nOptions: A. Option a\n"
        in row["prompt"]
    )
    assert dropped == {"the answer is not exactly one option": 2}
    with pytest.raises(BadInput, match="no benchmark_v5.json. Next: take it from"):
        list(benchmarks.load("longhealth").files(tmp_path))


def medqa(question="Which organ pumps blood?", letter="B", **changes):
    options = {"A": "Liver", "B": "Heart", "C": "Spleen", "D": "Skin", "E": "Lung"}
    return {
        "question": question,
        "answer": options.get(letter, ""),
        "options": options,
        "answer_idx": letter,
        "meta_info": "step1",
        **changes,
    }


def test_medqa_row(tmp_path):
    write_lines(
        tmp_path / "medqa/US/dev.jsonl",
        [medqa(question="First line.\nWhich organ {pumps} blo\u043ed at 37\u2103? ")],
    )
    [row], _ = read("medqa", tmp_path)
    assert (row["id"], row["split"], row["completion"]) == ("medqa:dev:1", "validation", "B")
    assert row["question"] == "First line.\nWhich organ {pumps} blo\u043ed at 37\u2103?"
    assert row["options"][1] == "Heart" and row["choices"] == list("ABCDE")
    assert "A. Liver\nB. Heart\n" in row["prompt"] and row["prompt"].endswith("E. Lung\nAnswer:\n")


def test_medqa_never_guesses_a_letter(tmp_path):
    write_lines(tmp_path / "medqa/US/test.jsonl", [medqa(letter="F"), medqa(answer="Liver"), medqa()])
    rows, dropped = read("medqa", tmp_path)
    assert [row["id"] for row in rows] == ["medqa:test:3"]
    assert dropped == {"answer letter is not an option": 1, "answer letter and answer text disagree": 1}


def test_medqa_with_four_options_is_refused(tmp_path):
    write_lines(
        tmp_path / "medqa/US/test.jsonl",
        [medqa(options={"A": "Liver", "B": "Heart", "C": "Spleen", "D": "Skin"})],
    )
    with pytest.raises(BadInput, match="test.jsonl: line 1.*4_options"):
        read("medqa", tmp_path)


def test_medqa_keeps_characters_that_look_alike_and_quotes(tmp_path):
    # two signs for micro: neither is made the other
    odd = 'Dose in \u00b5g or \u03bcg at 37\u2103, 98\u2109, said "now"'
    write_lines(tmp_path / "medqa/US/test.jsonl", [medqa(question=odd), medqa(question='Ends in a quote"')])
    rows, _ = read("medqa", tmp_path)
    assert [row["question"] for row in rows] == [odd, 'Ends in a quote"']  # no "?" is added
    assert f"Question: {odd}\nOptions: A. Liver\n" in rows[0]["prompt"]


def test_medqa_in_the_shape_of_bigbio_is_refused(tmp_path):
    options = [{"key": letter, "value": letter.lower()} for letter in "ABCDE"]
    write_lines(tmp_path / "medqa/US/test.jsonl", [medqa(), medqa(options=options)])
    with pytest.raises(BadInput, match="test.jsonl: line 2: field 'options' must be dict, found list"):
        read("medqa", tmp_path)


def medmcqa(number, cop, **changes):
    record = {
        "id": f"item-{number}",
        "question": f"Question {number}:",
        "cop": cop,
        "choice_type": "single",
        "exp": None,
    }
    return record | {"opa": "one", "opb": "two", "opc": "three", "opd": "four"} | changes


def test_medmcqa_counts_cop_from_one(tmp_path):
    write_lines(
        tmp_path / "medmcqa/dev.json",
        [medmcqa(1, 1), medmcqa(2, 4), medmcqa(3, 5), medmcqa(4, None), medmcqa(5, "2"), medmcqa(6, -1)],
    )
    rows, dropped = read("medmcqa", tmp_path)
    assert [(row["id"], row["split"], row["completion"]) for row in rows] == [
        ("medmcqa:item-1", "test", "A"),
        ("medmcqa:item-2", "test", "D"),
    ]
    assert dropped == {"cop is missing or not 1 to 4": 4}


def test_medmcqa_keeps_odd_texts(tmp_path):
    multi = medmcqa(2, 2, choice_type="multi", topic_name=None, exp="Ans. b")
    write_lines(
        tmp_path / "medmcqa/dev.json", [medmcqa(1, 3, question="Which\nof\tthese \u2013", opa="four"), multi]
    )
    [row, other], dropped = read("medmcqa", tmp_path)
    assert row["question"] == "Which\nof\tthese \u2013" and row["options"] == [
        "four",
        "two",
        "three",
        "four",
    ]  # no "?" is added
    assert (
        other["question"] == "Question 2:" and "Question: Question 2:\nOptions: A. one\n" in other["prompt"]
    )  # and no ":?" made
    assert (
        other["completion"] == "B" and "Ans. b" not in other["prompt"] and not dropped
    )  # "multi" has one answer; exp tells it


def test_medmcqa_export_that_counts_from_zero_is_refused(tmp_path):
    write_lines(tmp_path / "medmcqa/dev.json", [medmcqa(1, 3), medmcqa(2, 0)])
    with pytest.raises(BadInput, match="line 2.*counts from 1"):
        read("medmcqa", tmp_path)


def test_medmcqa_validation_is_a_tenth_and_does_not_hang_on_the_other_rows(tmp_path):
    records = [medmcqa(number, 1 + number % 4) for number in range(2000)]
    write_lines(tmp_path / "medmcqa/train.json", records)
    split = {row["id"]: row["split"] for row in read("medmcqa", tmp_path)[0]}
    assert 150 < list(split.values()).count("validation") < 250
    write_lines(tmp_path / "medmcqa/train.json", records[::-7])
    assert all(split[row["id"]] == row["split"] for row in read("medmcqa", tmp_path)[0])


def pubmedqa(label, contexts=("Background here.", "Results here.")):
    return {
        "QUESTION": "Does it help?",
        "CONTEXTS": list(contexts),
        "LABELS": [],
        "final_decision": label,
        "YEAR": None,
    }


def test_pubmedqa_test_is_the_official_list(tmp_path):
    write(
        tmp_path / "pubmedqa/ori_pqal.json",
        json.dumps({"11": pubmedqa("yes"), "12": pubmedqa("maybe"), "13": pubmedqa("unsure")}),
    )
    write(tmp_path / "pubmedqa/test_ground_truth.json", json.dumps({"12": "maybe"}))
    rows, dropped = read("pubmedqa", tmp_path)
    assert [(row["id"], row["split"], row["completion"]) for row in rows] == [
        ("pubmedqa:11", "train", "yes"),
        ("pubmedqa:12", "test", "maybe"),
    ]
    assert "CONTEXT: Background here.\nResults here.\nOUTPUT:\n" in rows[0]["prompt"]
    assert dropped == {"label is not yes, no or maybe": 1}


def test_pubmedqa_trains_on_the_artificial_part_if_it_is_there(tmp_path):
    write(tmp_path / "pubmedqa/ori_pqal.json", json.dumps({"11": pubmedqa("yes"), "12": pubmedqa("no")}))
    write(tmp_path / "pubmedqa/test_ground_truth.json", json.dumps({"12": "no"}))
    write(
        tmp_path / "pubmedqa/ori_pqaa.json",
        json.dumps({str(n): pubmedqa("yes", [f"Text {n}."]) for n in range(12, 212)}),
    )
    rows, dropped = read("pubmedqa", tmp_path)
    counts = collections.Counter(row["split"] for row in rows)
    assert (
        counts["test"] == 1
        and counts["train"] + counts["validation"] == 199
        and 8 < counts["validation"] < 40
    )
    assert dropped == {
        "PQA-L outside the test, not used beside PQA-A": 1,
        "PQA-A question that is also in PQA-L": 1,
    }


def test_pubmedqa_with_two_opinions_on_a_label_is_refused(tmp_path):
    write(tmp_path / "pubmedqa/ori_pqal.json", json.dumps({"12": pubmedqa("no")}))
    write(tmp_path / "pubmedqa/test_ground_truth.json", json.dumps({"12": "yes"}))
    with pytest.raises(BadInput, match="PMID 12"):
        read("pubmedqa", tmp_path)


def test_pubmedqa_label_is_the_final_decision_and_all_contexts_are_read(tmp_path):
    guesses = {
        "reasoning_required_pred": "no",
        "reasoning_free_pred": "maybe",
        "LONG_ANSWER": "It surely helps.",
        "YEAR": "2011",
    }
    record = pubmedqa("yes", [f"Part {n} of nine." for n in range(9)]) | guesses
    write(tmp_path / "pubmedqa/ori_pqal.json", json.dumps({"12": record}))
    write(tmp_path / "pubmedqa/test_ground_truth.json", json.dumps({"12": "yes"}))
    [row], _ = read("pubmedqa", tmp_path)
    assert row["completion"] == "yes" and "surely" not in row["prompt"]
    assert "\n".join(f"Part {n} of nine." for n in range(9)) in row["prompt"]


def test_pubmedqa_contexts_as_python_text_are_refused(tmp_path):
    write(
        tmp_path / "pubmedqa/ori_pqal.json",
        json.dumps({"12": pubmedqa("yes") | {"CONTEXTS": "['Background.', 'Results.']"}}),
    )
    write(tmp_path / "pubmedqa/test_ground_truth.json", json.dumps({"12": "yes"}))
    with pytest.raises(BadInput, match="PMID 12: field 'CONTEXTS' must be list, found str"):
        read("pubmedqa", tmp_path)


def emrqa_answer(text, kind="single"):
    return {
        "text": text,
        "evidence": text,
        "answer_start": [1, 2],
        "evidence_start": 1,
        "answer_entity_type": kind,
    }


def emrqa(note_id, context, *questions):
    qas = [{"id": [], "question": paraphrases, "answers": answers} for paraphrases, answers in questions]
    return {"note_id": note_id, "context": context, "qas": qas}


def test_emrqa_rows_and_drops(tmp_path):
    note = emrqa(
        "n1",
        ["Takes plarazor 20 mg\n", "daily for rodex .\n"],
        (
            ["What is the dose?", "How much?", "What is the dose?"],
            [emrqa_answer("20 mg daily"), emrqa_answer("plarazor")],
        ),
        (["Why?"], [emrqa_answer("", "empty")]),
        (["Which drugs?", "Drugs?"], [emrqa_answer(["plarazor", "20 mg"], "complex")]),
        (["Where?"], [emrqa_answer("at home")]),
    )
    again = emrqa("n2", "Seen for rodex .", (["What for?"], [emrqa_answer("at home"), emrqa_answer("rodex")]))
    paragraphs = [
        {"title": "medication", "paragraphs": [note]},
        {"title": "relations", "paragraphs": [again]},
    ]
    write(tmp_path / "emrqa/data.json", json.dumps({"data": paragraphs}))
    rows, dropped = read("emrqa", tmp_path)
    assert [row["completion"] for row in rows] == ["20 mg daily", "20 mg daily", "rodex"]
    assert len({row["id"] for row in rows}) == 3 and rows[2]["id"].startswith("emrqa:relations:")
    assert (
        "Context: Takes plarazor 20 mg\ndaily for rodex .\nQuestion: How much?\nAnswer:\n"
        in rows[1]["prompt"]
    )
    reasons = {
        "further answer of the same question": 1,
        "empty answer": 1,
        "complex answer": 2,
        "answer is not in the note": 1,
    }
    assert dropped == reasons


def test_emrqa_answer_without_evidence_and_id_of_templates(tmp_path):
    question = {
        "id": [[["Is he a smoker?", "Is he a |status|?"]], "Status(x)"],
        "question": ["Is he a smoker?"],
    }
    note = {
        "note_id": 7,
        "context": "Never smoked .",
        "qas": [question | {"answers": [{"text": "Never smoked"}]}],
    }
    write(tmp_path / "emrqa/data.json", json.dumps({"data": [{"title": "smoking", "paragraphs": [note]}]}))
    [row], dropped = read("emrqa", tmp_path)
    assert row["completion"] == "Never smoked" and row["id"] == "emrqa:smoking:1:7:1:1" and not dropped


def test_emrqa_keeps_a_note_in_one_split(tmp_path):
    notes = [
        emrqa(f"n{i % 30}", f"Note {i} has rodex .", (["What?"], [emrqa_answer("rodex")])) for i in range(90)
    ]
    write(tmp_path / "emrqa/data.json", json.dumps({"data": [{"title": "medication", "paragraphs": notes}]}))
    splits = collections.defaultdict(set)
    for row in read("emrqa", tmp_path)[0]:
        splits[row["id"].split(":")[3]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert set().union(*splits.values()) == {"train", "validation", "test"}


# ---------------------------------------------------------------- entities
def concept(words, line, first, last, kind, end_line=None):
    return f'c="{words}" {line}:{first} {end_line or line}:{last}||t="{kind}"\n'


def i2b2_record(raw, text, concepts, part="test", name="record-1"):
    write(raw / f"i2b2/{part}/txt/{name}.txt", text)
    write(raw / f"i2b2/{part}/concept/{name}.con", concepts)


def test_i2b2_marks_and_keeps_the_text(tmp_path):
    text = 'Admission Date :\r\nHe has Chest Pain & gets "asa | b" < 5 mg .\r\n\r\n indented fever today\n'
    concepts = (
        concept("chest pain", 2, 2, 3, "problem")
        + concept('"asa | b"', 2, 6, 8, "treatment")
        + concept("fever", 4, 2, 2, "problem")
    )
    i2b2_record(tmp_path, text, concepts)
    rows, dropped = read("i2b2", tmp_path)
    assert [row["completion"] for row in rows] == [
        "Admission Date :",
        'He has <span class="problem">Chest Pain</span> & gets '
        '<span class="treatment">"asa | b"</span> < 5 mg .',
        'indented <span class="problem">fever</span> today',
    ]
    assert [row["id"] for row in rows] == [
        "i2b2:test:record-1:1",
        "i2b2:test:record-1:2",
        "i2b2:test:record-1:4",
    ]
    for row in rows:
        assert row["prompt"].endswith(f"Input Text: {i2b2.TAG.sub('', row['completion'])}\nOutput Text:\n")
    assert dropped == {"blank line": 1}


@pytest.mark.parametrize("line", ["one  two fever", " one two fever", "\tone two fever"])
@pytest.mark.parametrize("token", [2, 3])
def test_i2b2_counts_blanks_as_the_words_say(line, token):
    marked, _ = i2b2.mark(line, [("FEVER", token, token, "problem")])
    possible = {("one  two fever", 2), ("one  two fever", 3), (" one two fever", 3), ("\tone two fever", 3)}
    assert (marked is not None) == ((line, token) in possible)
    assert marked is None or marked == line.replace("fever", '<span class="problem">fever</span>')


def test_i2b2_drops_a_line_it_cannot_mark_whole(tmp_path):
    text = "no fever here\nacute renal\nfailure noted\nchest pain today\n"
    text += 'old <span class="test">mark</span>\nclean line\n'
    concepts = (
        concept("cough", 1, 1, 1, "problem")
        + concept("acute renal failure", 2, 0, 0, "problem", end_line=3)
        + concept("chest pain", 4, 0, 1, "problem")
        + concept("pain today", 4, 1, 2, "problem")
    )
    i2b2_record(tmp_path, text, concepts)
    rows, dropped = read("i2b2", tmp_path)
    assert [row["completion"] for row in rows] == ["clean line"]
    assert dropped == {
        "concept does not read as its offsets": 1,
        "concept over several lines": 2,
        "overlapping concepts": 1,
        "line has a span tag already": 1,
    }


def test_i2b2_splits_by_record_and_accepts_a_record_without_concepts(tmp_path):
    for number in range(60):
        i2b2_record(tmp_path, "a line\nanother line\n", "", part="train", name=f"record-{number}")
    splits = collections.defaultdict(set)
    for row in read("i2b2", tmp_path)[0]:
        splits[row["id"].split(":")[2]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values()) and set().union(*splits.values()) == {
        "train",
        "validation",
    }


@pytest.mark.parametrize(
    "con, message",
    [
        ('c="fever" 1:0 1:0||t="occurrence"\n', "record-1.con: line 1"),
        ("fever 1:0\n", "record-1.con: line 1"),
        (concept("fever", 9, 0, 0, "problem"), "points at line 9"),
    ],
)
def test_i2b2_broken_concept_file(tmp_path, con, message):
    i2b2_record(tmp_path, "fever\n", con)
    with pytest.raises(BadInput, match=message):
        read("i2b2", tmp_path)


def test_i2b2_reads_concepts_alone(tmp_path):
    i2b2_record(tmp_path, "fever today\n", concept("fever", 1, 0, 0, "problem"))
    write(tmp_path / "i2b2/test/ast/record-1.ast", 'c="fever" 1:0 1:0||t="problem"||a="absent"\n')
    write(tmp_path / "i2b2/test/rel/record-1.rel", 'c="x" 1:0 1:0||r="TrAP"||c="fever" 1:0 1:0\n')
    [row], _ = read("i2b2", tmp_path)
    assert row["completion"] == '<span class="problem">fever</span> today'


def test_i2b2_text_without_concept_file(tmp_path):
    write(tmp_path / "i2b2/train/txt/record-1.txt", "fever\n")
    with pytest.raises(BadInput, match="record-1.con: no such file"):
        read("i2b2", tmp_path)


# ---------------------------------------------------------------- relations
DDI = """<document id="D.d1">
<sentence id="D.d1.s0" text="Aspirin may &lt; raise warfarin or heparin.">
<entity id="e0" charOffset="0-6" type="brand" text="Aspirin"/>
<entity id="e1" charOffset="20-27" type="drug" text="warfarin"/>
<entity id="e2" charOffset="32-38" type="drug" text="heparin"/>
<pair id="D.d1.s0.p0" e1="e0" e2="e1" ddi="true" type="effect"/>
<pair id="D.d1.s0.p1" e1="e0" e2="e2" ddi="true"/>
<pair id="D.d1.s0.p2" e1="e1" e2="e2" ddi="false"/></sentence>
<sentence id="D.d1.s1" text="">
<entity id="e0" charOffset="0-6" text="x"/><entity id="e1" charOffset="0-6" text="x"/>
<pair id="D.d1.s1.p0" e1="e0" e2="e1" ddi="false"/></sentence>
<sentence id="D.d1.s2" text="Use beta or alpha blockers.">
<entity id="e0" charOffset="4-7;18-25" type="group" text="beta blockers"/>
<entity id="e1" charOffset="12-25" type="group" text="alpha blockers"/>
<entity id="e2" charOffset="4-8" type="group" text="beta"/>
<pair id="D.d1.s2.p0" e1="e0" e2="e1" ddi="false"/>
<pair id="D.d1.s2.p1" e1="e1" e2="e2" ddi="false"/></sentence>
</document>"""


def test_ddi_pairs(tmp_path):
    write(tmp_path / "ddi/DDICorpus/Test/Test for DDI Extraction task/DrugBank/d1.xml", DDI)
    write(tmp_path / "ddi/DDICorpus/Test/Test for DrugNER task/DrugBank/d1.xml", DDI)
    for hidden in (
        ".DS_Store",
        "Test for DDI Extraction task/DrugBank/.DS_Store",
        "Test for DDI Extraction task/DrugBank/._d1.xml",
    ):
        write(tmp_path / "ddi/DDICorpus/Test" / hidden, "x")
    rows, dropped = read("ddi", tmp_path)
    texts = [re.search(r"INPUT: (.*)\nOUTPUT:\n\Z", row["prompt"])[1] for row in rows]
    assert [
        (row["id"], row["split"], row["completion"], text) for row, text in zip(rows, texts, strict=True)
    ] == [
        ("ddi:D.d1.s0.p0", "test", "DDI-effect", "@DRUG$ may < raise @DRUG$ or heparin."),
        ("ddi:D.d1.s0.p2", "test", "DDI-false", "Aspirin may < raise @DRUG$ or @DRUG$."),
        ("ddi:D.d1.s2.p0", "test", "DDI-false", "Use @DRUG-DRUG$."),
    ]
    assert dropped == {
        "interaction without a type": 1,
        "sentence without text": 1,
        "offsets do not show the drug": 1,
    }


def test_ddi_drugs_in_each_other():
    assert ddi.mark("give sodium valproate now", (5, 21), (12, 21)) == "give @DRUG-DRUG$ now"
    assert ddi.mark("give zinc or iron now", (13, 17), (5, 9)) == "give @DRUG$ or @DRUG$ now"


def test_ddi_tables_of_blue(tmp_path):
    rows = ['i1\tShe said "no @DRUG$ with\u0085@DRUG$\tDDI-int', "i2\t@DRUG$ and @DRUG$\tDDI-None"]
    write(tmp_path / "ddi/dev.tsv", "\r\n".join(["index\tsentence\tlabel", *rows]) + "\r\n")
    write(
        tmp_path / "ddi/DDICorpus/Train/DrugBank/d1.xml", DDI
    )  # not read: another cut of the same documents
    rows, dropped = read("ddi", tmp_path)
    assert [(row["id"], row["split"], row["completion"]) for row in rows] == [
        ("ddi:i1", "validation", "DDI-int")
    ]
    assert 'INPUT: She said "no @DRUG$ with\u0085@DRUG$\n' in rows[0]["prompt"]
    assert dropped == {"interaction without a type": 1}


def test_ddi_table_keeps_rows_that_stand_twice_and_drugs_in_one(tmp_path):
    rows = ["DrugDDI.d1.s0.p0\t@DRUG$ and @DRUG$\tDDI-false", "DDI.d2.s0.p0\t@DRUG$ and @DRUG$\tDDI-false"]
    write(
        tmp_path / "ddi/test.tsv",
        "\r\n".join(["index\tsentence\tlabel", *rows, "DDI.d3.s0.p0\tUse @DRUG-DRUG$.\tDDI-int"]) + "\r\n",
    )
    rows, dropped = read("ddi", tmp_path)
    assert [(row["id"], row["completion"]) for row in rows] == [
        ("ddi:DrugDDI.d1.s0.p0", "DDI-false"),
        ("ddi:DDI.d2.s0.p0", "DDI-false"),
        ("ddi:DDI.d3.s0.p0", "DDI-int"),
    ]
    assert (
        rows[0]["prompt"] == rows[1]["prompt"]
        and "INPUT: Use @DRUG-DRUG$.\n" in rows[2]["prompt"]
        and not dropped
    )


def test_ddi_cut_xml(tmp_path):
    write(tmp_path / "ddi/DDICorpus/Train/DrugBank/d1.xml", DDI[:300])
    with pytest.raises(BadInput, match="d1.xml: not whole XML"):
        read("ddi", tmp_path)


# ---------------------------------------------------------------- classification
HEADER = ",description,medical_specialty,sample_name,transcription,keywords\n"


def transcription(index, specialty, text, keywords="word"):
    return f'{index},About it., {specialty}, A name ,"{text}",{keywords}\n'


def test_mtsamples_with_and_without_header(tmp_path):
    body = transcription(
        0, "Urology", 'SUBJECTIVE:, He said ""fine"".\nNext line,PLAN:, Rest.'
    ) + transcription(1, "Letters", "Dear colleague.", "")
    write(tmp_path / "mtsamples/mtsamples.csv", body)
    bare, _ = read("mtsamples", tmp_path)
    write(tmp_path / "mtsamples/mtsamples.csv", (HEADER + body).replace("\n", "\r\n"))
    headed, _ = read("mtsamples", tmp_path)
    assert [(row["id"], row["completion"]) for row in bare] == [
        ("mtsamples:0", "Urology"),
        ("mtsamples:1", "Letters"),
    ]
    assert [row["completion"] for row in headed] == ["Urology", "Letters"] and headed[1] == bare[1]
    assert (
        'SUBJECTIVE:, He said "fine".\nNext line,PLAN:, Rest.\n' in bare[0]["prompt"]
    )  # the sections run together: left as they are
    assert len(mtsamples.SPECIALTIES) == len(set(mtsamples.SPECIALTIES)) == 40
    assert all(specialty in bare[0]["prompt"] for specialty in mtsamples.SPECIALTIES)


def test_mtsamples_drops_and_keeps_a_text_on_one_side(tmp_path):
    body = "".join(
        transcription(2 * i, "Surgery", f"Text {i}.") + transcription(2 * i + 1, "Urology", f"Text {i}.")
        for i in range(60)
    )
    body += (
        transcription(900, "Surgery", "Text 3.")
        + transcription(901, "Surgery", " ")
        + transcription(902, "Alchemy", "Text.")
    )
    write(tmp_path / "mtsamples/mtsamples.csv", body)
    rows, dropped = read("mtsamples", tmp_path)
    assert dropped == {"exact duplicate": 1, "empty transcription": 1, "specialty is not one of the 40": 1}
    splits = collections.defaultdict(set)
    for row in rows:
        splits[row["prompt"]].add(row["split"])
    assert len(rows) == 120 and all(len(found) == 1 for found in splits.values())
    assert set().union(*splits.values()) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    "text, message",
    [
        (
            HEADER + transcription(0, "Urology", "Text.") + "1,About it., Urology, A name ,Text cut he",
            "record 3 has 5 columns",
        ),
        (HEADER + '1,About it., Urology, A name ,"Text cut he', "not valid CSV"),
        ("description,medical_specialty\nx,y\n", "the columns are"),
    ],
)
def test_mtsamples_cut_or_other_file(tmp_path, text, message):
    write(tmp_path / "mtsamples/mtsamples.csv", text)
    with pytest.raises(BadInput, match=message):
        read("mtsamples", tmp_path)


def hoc(raw, pmid, text, labels):
    write(raw / f"hoc/text/{pmid}.txt", text)
    write(raw / f"hoc/labels/{pmid}.txt", labels)


def test_hoc_original_files(tmp_path):
    paths = (
        "< <Sustaining proliferative signaling--Cell cycle-- ANDEvading growth "
        "suppressors--<Sustaining proliferative signaling--< NULL"
    )
    hoc(tmp_path, 11, "First sentence .\nSecond < third .\n", paths)
    hoc(tmp_path, 12, "No hallmark .\n", "< < NULL<")
    hoc(tmp_path, 13, "No hallmark either .\n", "")
    hoc(tmp_path, 14, "Another one .\n", "<Growing taller--")
    rows, dropped = read("hoc", tmp_path)
    assert [(row["id"], row["completion"]) for row in rows] == [
        ("hoc:11", "evading growth suppressors; sustaining proliferative signaling")
    ]
    assert (
        rows[0]["prompt"].endswith("INPUT: First sentence . Second < third .\nOUTPUT:\n")
        and len(rows[0]["choices"]) == 10
    )
    assert all(label in rows[0]["prompt"] for label in rows[0]["choices"])
    assert dropped == {"no hallmark": 2, "label is not one of the ten": 1}


def test_hoc_splits_by_pmid(tmp_path):
    for pmid in range(60):
        hoc(tmp_path, pmid, "Text .", "<Resisting cell death--")
    splits = {row["id"]: row["split"] for row in read("hoc", tmp_path)[0]}
    assert set(splits.values()) == {"train", "validation", "test"}
    (tmp_path / "hoc/text/7.txt").unlink()
    assert all(splits[row["id"]] == row["split"] for row in read("hoc", tmp_path)[0])
    (tmp_path / "hoc/labels/8.txt").unlink()
    with pytest.raises(BadInput, match="8.txt: no such file"):
        read("hoc", tmp_path)


def test_hoc_tables_of_blue(tmp_path):
    body = (
        'pmid\ttext\tlabels\n11\t"He said ""p &lt; 0.05"" twice"\tresisting cell death;cellular energetics\n'
    )
    body += "12\tWith\u0085a control\tinducing angiogenesis\n"
    write(tmp_path / "hoc/test.tsv", body + "13\tNothing\t\n")
    hoc(tmp_path, 14, "Not read beside the tables .", "<Resisting cell death--")
    rows, dropped = read("hoc", tmp_path)
    assert [(row["id"], row["split"], row["completion"]) for row in rows] == [
        ("hoc:11", "test", "cellular energetics; resisting cell death"),
        ("hoc:12", "test", "inducing angiogenesis"),
    ]
    assert 'INPUT: He said "p &lt; 0.05" twice\n' in rows[0]["prompt"] and dropped == {"no hallmark": 1}
    assert (
        "INPUT: With a control\nOUTPUT:" in rows[1]["prompt"]
    )  # U+0085 is white space, not the end of the row
    for other in (
        "index\tsentence\tlabel\n",
        "A sentence .\tempty\n\nAnother .\tresisting cell death\n\n",
    ):  # the latter is BioGPT's
        write(tmp_path / "hoc/test.tsv", other)
        with pytest.raises(BadInput, match="test.tsv: the columns are"):
            read("hoc", tmp_path)


# ---------------------------------------------------------------- summaries
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with fever: rule out pneumonia

 FINDINGS: 

 The lungs are clear.
 No effusion at 12:30.

 IMPRESSION:  No acute
 process.
"""


def test_mimic_cxr_sections():
    want = {"findings": "The lungs are clear. No effusion at 12:30.", "impression": "No acute process."}
    assert mimic_cxr.sections(REPORT) == want
    assert mimic_cxr.sections("IMPRESSION: wet read\n" + REPORT)["impression"] == "No acute process."
    assert (
        mimic_cxr.sections(" FINDINGS AND IMPRESSION: clear.\n")
        == mimic_cxr.sections("A report without headers.\n")
        == {}
    )
    assert mimic_cxr.sections(" FINDINGS:\n IMPRESSION: clear.\n") == {"findings": "", "impression": "clear."}


def report(raw, subject, study, text=REPORT):
    write(raw / f"mimic_cxr/files/p{str(subject)[:2]}/p{subject}/s{study}.txt", text)


def test_mimic_cxr_rows_and_drops(tmp_path):
    report(tmp_path, 10000001, 50000001)
    report(tmp_path, 10000001, 50000002, REPORT.replace("FINDINGS", "REPORT"))
    report(tmp_path, 10000002, 50000003, " IMPRESSION:\n")
    report(tmp_path, 10000002, 50000004, "")
    rows, dropped = read("mimic_cxr", tmp_path)
    assert [(row["id"], row["completion"]) for row in rows] == [("mimic_cxr:s50000001", "No acute process.")]
    assert rows[0]["prompt"].endswith("INPUT: The lungs are clear. No effusion at 12:30.\nOUTPUT:\n")
    assert dropped == {"no findings": 1, "no findings and impression": 2}


def test_mimic_cxr_splits_by_subject_or_officially(tmp_path):
    for number in range(120):
        report(tmp_path, 10000000 + number // 3, 50000000 + number)
    splits = collections.defaultdict(set)
    for row, number in zip(read("mimic_cxr", tmp_path)[0], range(120), strict=True):
        splits[number // 3].add(row["split"])
    assert all(len(found) == 1 for found in splits.values()) and set().union(*splits.values()) == {
        "train",
        "validation",
        "test",
    }

    table = "dicom_id,study_id,subject_id,split\n" + "".join(
        f"d{n},{50000000 + n},1,{'validate' if n else 'test'}\n" for n in range(119)
    )
    write(tmp_path / "mimic_cxr/mimic-cxr-2.0.0-split.csv", table)
    rows, dropped = read("mimic_cxr", tmp_path)
    assert collections.Counter(row["split"] for row in rows) == {"test": 1, "validation": 118}
    assert dropped == {"study is not in the split file": 1}


def article(number, text, abstract):
    return {
        "article_id": f"PMC{number}",
        "article_text": text,
        "abstract_text": abstract,
        "labels": None,
        "sections": [["other"]],
    }


def test_pubmed_summ(tmp_path):
    records = [article(1, ["one . ", "", "two ."], ["<S> a short . </S>", "<S>  </S>", "<S> summary . </S>"])]
    records += [article(2, ["", " "], ["<S> a . </S>"]), article(3, ["text ."], ["<S>  </S>"])]
    write_lines(tmp_path / "pubmed_summ/val.txt", records)
    rows, dropped = read("pubmed_summ", tmp_path)
    assert [(row["id"], row["split"], row["completion"]) for row in rows] == [
        ("pubmed_summ:validation:1:PMC1", "validation", "a short . summary .")
    ]
    assert rows[0]["prompt"].endswith("INPUT: one .\ntwo .\nOUTPUT:\n")
    assert dropped == {"no article text": 1, "no abstract": 1}


def test_pubmed_summ_reads_the_text_not_its_sections_and_every_sentence(tmp_path):
    record = article(1, ["the text ."], [f"<S> sentence {n} . </S>" for n in range(8)]) | {
        "sections": [["another text ."]]
    }
    write_lines(tmp_path / "pubmed_summ/test.txt", [record])
    [row], _ = read("pubmed_summ", tmp_path)
    assert row["prompt"].endswith("INPUT: the text .\nOUTPUT:\n") and "another" not in row["prompt"]
    assert row["completion"] == " ".join(
        f"sentence {n} ." for n in range(8)
    )  # eight, though the template asks for six


def test_pubmed_summ_other_shape(tmp_path):
    write_lines(
        tmp_path / "pubmed_summ/test.txt",
        [{"article_id": "PMC1", "article_text": "text", "abstract_text": []}],
    )
    with pytest.raises(BadInput, match="test.txt: line 1: field 'article_text' must be list"):
        read("pubmed_summ", tmp_path)


# ---------------------------------------------------------------- inference
def mednli(label, number=1):
    return {
        "pairID": f"pair-{number}",
        "sentence1": f"Premise {number}.",
        "sentence2": "Hypothesis.",
        "gold_label": label,
        "sentence1_parse": "x",
    }


def test_mednli(tmp_path):
    write_lines(tmp_path / "mednli/mli_dev_v1.jsonl", [mednli("neutral"), mednli("-", 2)])
    rows, dropped = read("mednli", tmp_path)
    assert [(row["id"], row["split"], row["completion"]) for row in rows] == [
        ("mednli:dev:pair-1", "validation", "neutral")
    ]
    assert rows[0]["prompt"].endswith("INPUT: [PRE] Premise 1. [HYP] Hypothesis.\nOUTPUT:\n")
    assert dropped == {"label is not one of the three": 1}


BIONLI = "index,pmid,supp_set,conclusion,label_cat\n"


def test_bionli_is_binary(tmp_path):
    body = '0,11,"A <re> raises <er> B, <el> C <le>.",A raises B.,pos\n'
    body += "1,11,A raises B.,B raises A.,SRE\n2,11,Text.,Text.,generation_nd_SEN\n"
    body += "3,11,Text.,Text.,SET\n4,11,Text.,Text.,\n5,11,,Text.,pos\n"
    write(tmp_path / "bionli/test.csv", BIONLI + body)
    rows, dropped = read("bionli", tmp_path)
    assert [row["completion"] for row in rows] == ["entailment", "contradiction", "contradiction"]
    assert rows[0]["choices"] == ["entailment", "contradiction"] and "neutral" not in rows[0]["prompt"]
    assert rows[0]["prompt"].endswith(
        "INPUT: [PRE] A <re> raises <er> B, <el> C <le>. [HYP] A raises B.\nOUTPUT:\n"
    )
    assert dropped == {"label_cat holds SET": 1, "no label": 1, "no premise or no conclusion": 1}


def test_bionli_keeps_a_repeated_context_and_refuses_other_columns(tmp_path):
    write(tmp_path / "bionli/test.csv", BIONLI + "0,11,Text.,Yes.,pos\n0,11,Text.,Yes.,LPR\n")
    rows, _ = read("bionli", tmp_path)
    assert len({row["id"] for row in rows}) == 2
    write(tmp_path / "bionli/test.csv", "premise,hypothesis,label\n")
    with pytest.raises(BadInput, match="column 'PMID' is missing"):
        read("bionli", tmp_path)


# ---------------------------------------------------------------- real public files
REAL = {
    "pubmedqa": ("ori_pqal.json", {"yes": 276, "no": 169, "maybe": 55}),
    "medqa": ("US/test.jsonl", {"A": 273, "B": 277, "C": 252, "D": 269, "E": 202}),
    "medmcqa": ("dev.json", {"A": 1348, "B": 1085, "C": 925, "D": 825}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_read_whole(name):
    path, want = REAL[name]
    if not (SHARED / "data" / name / path).is_file():
        pytest.skip(f"no {path} here")
    rows, dropped = read(name, SHARED / "data")
    test = [row for row in rows if row["split"] == "test"]
    assert collections.Counter(row["completion"] for row in test) == want
    assert len(test) == benchmarks.load(name).EXPECTED["test"] == len({row["id"] for row in test})
    assert not dropped


def real(path):
    """A file of shared/data, or the test is skipped."""
    if not (SHARED / "data" / path).is_file():
        pytest.skip(f"no {path} here")
    return SHARED / "data" / path


def real_lines(path):
    return [json.loads(line) for line in real(path).read_text(encoding="utf-8").split("\n") if line]


def test_real_medmcqa_counts_from_one_and_keeps_its_oddities():
    raw = real_lines("medmcqa/dev.json")
    rows, _ = read("medmcqa", SHARED / "data")
    told = [
        re.match(r"Ans(?:wer)?\s*[-:.]?\s*(?:is)?\s*\W*([a-d])\b", record["exp"] or "", re.IGNORECASE)
        for record in raw
    ]
    told = [(match[1].upper(), row["completion"]) for match, row in zip(told, rows, strict=True) if match]
    assert len(told) == 1076 and all(said == label for said, label in told)
    assert collections.Counter(record["choice_type"] for record in raw) == {"single": 2816, "multi": 1367}
    assert [sum(record[field] is None for record in raw) for field in ("exp", "topic_name")] == [1977, 3760]
    questions = [row["question"] for row in rows]
    assert [sum(mark in text for text in questions) for mark in "\n\t"] == [124, 14]
    assert [sum(text.endswith(mark) for text in questions) for mark in "\u2013:"] == [119, 1657]
    assert sum(len(set(row["options"])) < 4 for row in rows) == 21


def test_real_medqa_keeps_its_oddities_and_refuses_four_options(tmp_path):
    raw, four = (
        real_lines("medqa/US/test.jsonl"),
        real_lines("medqa/US/4_options/phrases_no_exclude_test.jsonl"),
    )
    rows, _ = read("medqa", SHARED / "data")
    assert [row["question"] for row in rows] == [record["question"].strip() for record in raw]
    asked = [record["question"] for record in raw]
    assert (
        sum("\n" in text for text in asked),
        sum(text.count("\n") for text in asked),
        sum(text.endswith(" ") for text in asked),
    ) == (206, 2082, 4)
    questions = [row["question"] for row in rows]
    assert (sum(not text.isascii() for text in questions), sum(text.endswith('"') for text in questions)) == (
        645,
        69,
    )
    assert all(any(mark in text for text in questions) for mark in "\u00b5\u03bc\u2103\u2109")
    assert collections.Counter(record["meta_info"] for record in raw) == {"step1": 679, "step2&3": 594}
    assert all(
        (one["question"], one["answer"]) == (other["question"], other["answer"])
        for one, other in zip(raw, four, strict=True)
    )
    assert collections.Counter(record["answer_idx"] for record in four) == {
        "A": 353,
        "B": 309,
        "C": 346,
        "D": 265,
    }
    write_lines(tmp_path / "medqa/US/test.jsonl", four)
    with pytest.raises(BadInput, match="line 1.*4_options"):
        read("medqa", tmp_path)


def test_real_pubmedqa_labels_and_contexts():
    raw = json.loads(real("pubmedqa/ori_pqal.json").read_text(encoding="utf-8"))
    rows, _ = read("pubmedqa", SHARED / "data")
    assert collections.Counter(row["completion"] for row in rows) == {"yes": 552, "no": 338, "maybe": 110}
    assert collections.Counter(row["split"] for row in rows) == {"test": 500, "train": 500}
    sizes = collections.Counter(len(record["CONTEXTS"]) for record in raw.values())
    assert (sum(record["YEAR"] is None for record in raw.values()), sizes[3], max(sizes)) == (58, 720, 9)
    for row in rows:
        record = raw[row["id"].removeprefix("pubmedqa:")]
        context = "\n".join(text.strip() for text in record["CONTEXTS"])
        assert (
            row["prompt"].endswith(f"CONTEXT: {context}\nOUTPUT:\n")
            and row["completion"] == record["final_decision"]
        )


def test_arxiv_files_are_not_taken_for_pubmed(tmp_path):
    record = {"article_id": "astro-ph0001", "article_text": ["a b ."], "abstract_text": ["<S> a . </S>"]}
    write(tmp_path / "pubmed_summ/test.txt", json.dumps(record) + "\n")
    with pytest.raises(
        BadInput, match="line 1: article_id 'astro-ph0001' is no PMCID, as in the arXiv files"
    ):
        read("pubmed_summ", tmp_path)


def test_mtsamples_without_indices(tmp_path):
    body = transcription("", "Urology", "A kidney.") + transcription("", "Surgery", "A knee.")
    write(tmp_path / "mtsamples/mtsamples.csv", HEADER + body)
    assert [row["id"] for row in read("mtsamples", tmp_path)[0]] == ["mtsamples:record2", "mtsamples:record3"]


def test_ddi_marks_the_whole_span_of_a_mention_in_parts(tmp_path):
    text = '<document id="D.d9"><sentence id="s" text="Zinc beta or salts raise iron.">'
    text += '<entity id="a" charOffset="5-8;13-17" text="beta salts"/>'
    text += '<entity id="b" charOffset="25-28" text="iron"/>'
    text += '<pair id="D.d9.s0.p0" e1="a" e2="b" ddi="false"/></sentence></document>'
    write(tmp_path / "ddi/DDICorpus/Test/DrugBank/d9.xml", text)
    [row], _ = read("ddi", tmp_path)
    assert "INPUT: Zinc @DRUG$ raise @DRUG$.\n" in row["prompt"]


def test_medmcqa_of_the_hub_counts_from_zero(tmp_path):
    def record(name, cop):
        options = {f"op{letter}": f"text {letter}" for letter in "abcd"}
        return {"id": name, "question": f"Question {name}?", **options, "cop": cop}

    for part, records in (("train", [record("t", 3)]), ("validation", [record("v", 0), record("w", -1)])):
        path = tmp_path / f"medmcqa/{part}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    rows, dropped = read("medmcqa", tmp_path)
    assert [(row["id"], row["completion"]) for row in rows] == [("medmcqa:t", "D"), ("medmcqa:v", "A")]
    assert rows[0]["split"] != "test" == rows[1]["split"] and dropped == {"cop is missing or not 1 to 4": 1}


def test_prompts_in_the_words_of_the_release_page_alone(monkeypatch):
    fields = {name: benchmarks._fields(benchmarks.prompt_file(name).read_text()) for name in benchmarks.NAMES}
    ours = {name: benchmarks._template(name)[1] for name in benchmarks.NAMES}
    assert [name for name in benchmarks.NAMES if ours[name]] == [
        "ddi",
        "hoc",
        "i2b2",
        "medmcqa",
        "medqa",
        "mtsamples",
    ]
    whole = {name: benchmarks.read_prompt(name, *fields[name]) for name in benchmarks.NAMES}
    monkeypatch.setattr(benchmarks, "RELEASE_WORDS", True)
    for name in set(benchmarks.NAMES) - {"longhealth"}:  # which the release page does not have
        bare = benchmarks.read_prompt(name, *fields[name])
        assert len(bare) == len(whole[name]) - len(ours[name]) and not bare.count(ours[name] or "Reply with")
    assert benchmarks.read_prompt("ddi", "labels", "text") == (
        "Predict relationships between two drug entities within a sentence. Identify types of drug-drug "
        "interactions.\nINPUT: {text}\nOUTPUT:\n"
    )
    monkeypatch.setattr(benchmarks, "prompt_file", lambda name: benchmarks.PROMPTS / "mednli.txt")
    with pytest.raises(BadInput, match="ours.yaml: ddi: is not in "):
        benchmarks.read_prompt("ddi", "premise", "hypothesis")
