"""The remaining instruction sources, each from an invented file in its publisher's format, oddities included;
the last tests read real files."""

import collections
import csv
import io
import json
from pathlib import Path

import openpyxl
import pytest

from data_prep import instructions
from data_prep.instructions import _discharge_summaries, icliniq
from data_prep.manifest import Drops
from data_prep.schema import ACCESS, BadInput, check_row
from data_prep.sources import pmc

SHARED = Path(__file__).resolve().parents[3] / "shared"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def write_table(path, columns, *rows):
    out = io.StringIO()
    csv.writer(out).writerows([columns.split(), *rows])
    write(path, out.getvalue())


def read(name, folder):
    """Rows and drops of a source, each row checked."""
    drops = Drops()
    rows = list(instructions.read(name, folder, drops))
    for row in rows:
        row.pop("group", None)
        check_row(row, row["id"])
    assert len({row["id"] for row in rows}) == len(rows) and {row["source"] for row in rows} <= {name}
    return rows, {reason: entry["count"] for reason, entry in drops.as_dict().get(name, {}).items()}


def pairs(rows):
    return [(row["prompt"], row["completion"]) for row in rows]


@pytest.mark.parametrize("name", instructions.NAMES)
def test_module_has_what_the_builder_reads(name, tmp_path):
    module = instructions.load(name)
    assert module.LICENSE and module.ACCESS in ACCESS
    assert "\nOrigin " in module.__doc__ and "\nRaw " in module.__doc__
    with pytest.raises(BadInput, match="Next: "):
        module.files(tmp_path)


def test_a_file_in_the_folder_is_a_source():
    assert {path.stem for path in Path(instructions.__file__).parent.glob("[a-z]*.py")} == set(
        instructions.NAMES
    )


# ---------------------------------------------------------------- doctors and patients
def qa(question, answer, instruction="Answer as a doctor."):
    return {"instruction": instruction, "input": question, "output": answer}


@pytest.mark.parametrize("name", ["healthcaremagic", "wikidoc_patient"])
def test_question_and_answer_arrays(tmp_path, name):
    records = [
        qa("What is rodex?", " A palsy.\nIt passes. "),
        qa("What is rodex?", " A palsy.\nIt passes. "),
        qa("What is rodex?", "A fever."),
    ]
    records += [qa("", "Nothing."), qa("What?", " ")]
    write(
        tmp_path / "file.json", json.dumps(records, indent=1).replace("\n", "\r\n")
    )  # CR LF in the layout, not in the texts
    rows, dropped = read(name, tmp_path)
    assert pairs(rows) == [
        ("Answer as a doctor.\n\nWhat is rodex?\n", "A palsy.\nIt passes."),
        ("Answer as a doctor.\n\nWhat is rodex?\n", "A fever."),
    ]
    assert dropped == {"exact duplicate": 1, "empty question or answer": 2}
    write(tmp_path / "file.json", json.dumps([{"question": "x"}]))
    with pytest.raises(BadInput, match="file.json: record 1: field 'instruction' must be text"):
        read(name, tmp_path)


def test_healthcaremagic_repairs_what_was_decoded_twice(tmp_path):
    damaged = "I\u00e2\u20ac\u2122m 30 \ufffd"  # what U+FFFD was is not guessed
    write(
        tmp_path / "file.json", json.dumps([qa(damaged, "Rest."), qa(damaged, "Drink.")], ensure_ascii=False)
    )
    rows, dropped = read("healthcaremagic", tmp_path)
    assert (
        pairs(rows)
        == [("Answer as a doctor.\n\nI\u2019m 30 \ufffd\n", answer) for answer in ("Rest.", "Drink.")]
        and not dropped
    )


def test_icliniq_takes_the_answer_of_the_doctor(tmp_path):
    record = {
        "input": "My knee hurts.",
        "answer_icliniq": "Rest it.",
        "answer_chatgpt": "As a model",
        "answer_chatdoctor": "Hello",
    }
    write(tmp_path / "a.json", json.dumps([record, record, record | {"answer_icliniq": " "}]))
    rows, dropped = read("icliniq", tmp_path)
    assert pairs(rows) == [(f"{icliniq.INSTRUCTION}\n\nMy knee hurts.\n", "Rest it.")]
    assert dropped == {"exact duplicate": 1, "empty question or answer": 1}
    write(tmp_path / "a.json", json.dumps([qa("My knee hurts.", "An answer of GPT-4.", "")]))
    with pytest.raises(BadInput, match="record 1: field 'answer_icliniq'"):
        read("icliniq", tmp_path)


def test_medinstruct_reads_no_input_and_drops_the_next_task(tmp_path):
    records = [qa(text, "Red.", "Name a color.") for text in ("<noinput>", "<No Input>.", "")]
    records += [
        qa("<noinput> 2. Type: summary", "Red.", "Name it."),
        qa("", "Red.\n3. Type: chat", "Name it."),
        qa("x", "", "Name it."),
    ]
    write(tmp_path / "MedInstruct-52k.json", json.dumps(records))
    write(tmp_path / "MedInstruct-test.jsonl", json.dumps({"instruction": "Not read."}) + "\n")
    rows, dropped = read("medinstruct", tmp_path)
    assert pairs(rows) == [("Name a color.\n", "Red.")] * 3
    assert dropped == {"runs on into the generator's next task": 2, "empty instruction or output": 1}


# ---------------------------------------------------------------- question answering
def mediqa(*scores, root="Any-Name"):
    answers = ""
    for number, score in enumerate(scores, 1):
        graded = f'ReferenceRank="1" ReferenceScore="{score}"' if score else ""
        text = f"<AnswerURL>x</AnswerURL><AnswerText>Answer {number}, it&apos;s\n long.</AnswerText>"
        answers += f'<Answer AID="1_Answer{number}" SystemRank="{number}" {graded}>{text}</Answer>'
    question = (
        '<Question QID="1"><QuestionText>What  helps?</QuestionText><AnswerList>'
        f"{answers}</AnswerList></Question>"
    )
    return f'<?xml version="1.0"?><{root}>{question}</{root}>'


def test_mediqa_takes_the_right_answers(tmp_path):
    write(tmp_path / "MEDIQA_Task3_QA/MEDIQA2019-Task3-QA-ValidationSet.xml", mediqa(4, 1, 3, 2, None))
    write(tmp_path / "MEDIQA_Task3_QA/MEDIQA2019-Task3-QA-TestSet-wLabels.xml", mediqa(4))
    write(tmp_path / "MEDIQA_Task2_RQE/MEDIQA2019-Task2-RQE-TrainingSet.xml", "<pairs/>")
    rows, dropped = read("mediqa2019", tmp_path)
    assert pairs(rows) == [
        ("What helps?\n", "Answer 1, it's long."),
        ("What helps?\n", "Answer 3, it's long."),
    ]
    assert dropped == {"ReferenceScore below 3": 2, "no ReferenceScore of 1 to 4": 1}


def test_mediqa_reads_the_second_version_only(tmp_path):
    write(tmp_path / "MEDIQA2019-Task3-QA-TrainingSet1-LiveQAMed.xml", mediqa(4, 4))
    write(tmp_path / "MEDIQA2019-Task3-QA-TrainingSet1-LiveQAMed-V2.xml", mediqa(4, root="Other"))
    assert len(read("mediqa2019", tmp_path)[0]) == 1
    write(tmp_path / "MEDIQA2019-Task3-QA-TrainingSet1-LiveQAMed-V2.xml", mediqa(4)[:-9])
    with pytest.raises(BadInput, match="V2.xml: not whole XML"):
        read("mediqa2019", tmp_path)


COLUMNS = ["Question", "Focus (Drug)", "Question Type", "Answer", "Section Title", "URL"]


def workbook(path, *rows):
    book = openpyxl.Workbook()
    book.active.title = "DrugQA"
    for row in rows:
        book.active.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def test_medicationqa(tmp_path):
    path = tmp_path / "MedInfo2019-QA-Medications.xlsx"
    first = ["what is rodex\u009d for", "rodex", "Usage", " For pain.\nTake one. ", None, "x"]
    second = ["what is rodex for", "rodex", "Usage", "For fever.", "Uses", "x"]
    workbook(path, COLUMNS, first, first, second, ["how?", "rodex", "Usage", None, "Uses", "x"], [None] * 6)
    rows, dropped = read("medicationqa", tmp_path)
    assert pairs(rows) == [
        ("what is rodex for\n", "For pain.\nTake one."),
        ("what is rodex for\n", "For fever."),
    ]
    assert dropped == {"exact duplicate": 1, "empty question or answer": 1}
    workbook(path, ["Question", "Answer"], ["a", "b"])
    with pytest.raises(BadInput, match="the columns are"):
        read("medicationqa", tmp_path)
    write(path, "not a spreadsheet")
    with pytest.raises(BadInput, match="not a whole .xlsx file"):
        read("medicationqa", tmp_path)


def liveqa(attribute, subject, message, *answers):
    answers = "".join(
        f"<SUB-QUESTION><ANNOTATIONS/><ANSWERS><ANSWER>{answer}</ANSWER></ANSWERS></SUB-QUESTION>"
        for answer in answers
    )
    return (
        "<NLM-QUESTION "
        f"{attribute}><SUBJECT>{subject}</SUBJECT><MESSAGE>{message}</MESSAGE><SUB-QUESTIONS>"
        f"{answers}</SUB-QUESTIONS></NLM-QUESTION>"
    )


def test_liveqa_both_training_files(tmp_path):
    one = liveqa('questionid="Q1"', "a subject", "What\nhelps?", "Rest.", "Tea &amp; rest.", " ") + liveqa(
        'questionid="Q2"', "", "", "Lost."
    )
    two = liveqa('qid="1.0"', "Rodex in the family", "", "See a doctor.")
    write(tmp_path / "TrainingDatasets/TREC-2017-LiveQA-Medical-Train-1.xml", f"<x>{one}</x>")
    text = f'<?xml version="1.0" encoding="UTF-8"?>\r\n<x>\r\n{two}\r\n</x>\r\n'
    write(tmp_path / "TrainingDatasets/TREC-2017-LiveQA-Medical-Train-2.xml", b"\xef\xbb\xbf" + text.encode())
    write(tmp_path / "TestDataset/TREC-2017-LiveQA-Medical-Test.xml", "<not read")
    rows, dropped = read("liveqa", tmp_path)
    assert pairs(rows) == [
        ("What helps?\n", "Rest."),
        ("What helps?\n", "Tea & rest."),
        ("Rodex in the family\n", "See a doctor."),
    ]
    assert [row["id"].split(":")[3] for row in rows] == ["Q1", "Q1", "1.0"]
    assert dropped == {"empty answer": 1, "empty question": 1}


def test_liveqa_reads_every_answer_of_a_sub_question(tmp_path):
    text = liveqa('questionid="Q1"', "", "What helps?", "Rest.</ANSWER><ANSWER>Tea.", "Sleep.")
    write(tmp_path / "TREC-2017-LiveQA-Medical-Train-1.xml", f"<x>{text}</x>")
    write(
        tmp_path / "TREC-2017-LiveQA-Medical-Test-Questions-w-summaries.xml",
        "<ReferenceAnswers><RefAnswer/></ReferenceAnswers>",
    )
    rows, _ = read("liveqa", tmp_path)
    assert pairs(rows) == [("What helps?\n", answer) for answer in ("Rest.", "Tea.", "Sleep.")]


def test_guidelineqa(tmp_path):
    responses = [
        "Question: What helps?\nAnswer: Rest.\nAnd tea.",
        "  Question: Why?\n\n  Answer: Because. ",
        "Question: What helps?\nAnswer: Rest.\nAnd tea.",
        "I cannot.",
        "Question: One?\nAnswer: One.\nQuestion: Two?\nAnswer: Two.",
    ]
    write(tmp_path / "a.jsonl", "".join(json.dumps({"response": text}) + "\n" for text in responses))
    rows, dropped = read("guidelineqa", tmp_path)
    assert pairs(rows) == [("What helps?\n", "Rest.\nAnd tea."), ("Why?\n", "Because.")]
    assert dropped == {"exact duplicate": 1, "response is not one question and one answer": 2}


# ---------------------------------------------------------------- relations
def test_pubmed_causal(tmp_path):
    lines = [
        "sentence,label",
        '"A, it is said, causes B. ",1',
        "A is linked to B.,3",
        "A is linked to B.,0",
        "Other.,4",
        " ,0",
    ]
    write(tmp_path / "pubmed_causal_language_use.csv", "\n".join(lines) + "\n")
    rows, dropped = read("pubmed_causal", tmp_path)
    assert [row["completion"] for row in rows] == ["direct causal", "correlational"]
    assert rows[0]["prompt"].endswith("\n\nA, it is said, causes B.\n")
    assert dropped == {"repeated sentence": 1, "label is not 0 to 3": 1, "empty sentence": 1}


def test_umls_relation_gives_all_labels_of_a_question(tmp_path):
    question = "what is the relationship between rodex and knee ?"
    lines = [
        (question, "location_of"),
        ("what is the relationship between a and b ?", "isa"),
        (question, "affects"),
        (question, "affects"),
    ]
    write(
        tmp_path / "UMLS_train.jsonl",
        "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in [*lines, ("x", "")]),
    )
    write(tmp_path / "UMLS_test.jsonl", "not read")
    rows, dropped = read("umls_relation", tmp_path)
    assert [(row["id"], row["completion"]) for row in rows] == [
        ("umls_relation:1", "affects; location_of"),
        ("umls_relation:2", "isa"),
    ]
    assert dropped == {
        "joined to the row of the same question": 1,
        "exact duplicate": 1,
        "empty question or label": 1,
    }


def test_umls_relation_in_the_shape_of_pmc_llama_is_refused(tmp_path):
    write(
        tmp_path / "UMLS_train.jsonl",
        json.dumps(qa("rodex", "A palsy.") | {"source": "umls_relation"}) + "\n",
    )
    with pytest.raises(BadInput, match="UMLS_train.jsonl: line 1: field 'text' must be text"):
        read("umls_relation", tmp_path)


FILE = {
    "alpaca": "alpaca_data.json",
    "dolly": "databricks-dolly-15k.jsonl",
    "flashcards": "medical_meadow_wikidoc_medical_flashcards.json",
    "guidelineqa": "a.jsonl",
    "healthcaremagic": "a.json",
    "icliniq": "a.json",
    "liveqa": "TREC-2017-LiveQA-Medical-Train-1.xml",
    "medicationqa": "MedInfo2019-QA-Medications.xlsx",
    "medinstruct": "MedInstruct-52k.json",
    "mediqa2019": "MEDIQA2019-Task3-QA-ValidationSet.xml",
    "mimic_classification": "mimic_iii/NOTEEVENTS.csv",
    "mimic_mortality": "ADMISSIONS.csv",
    "mimic_qa": "mimic_iv_note/discharge.csv",
    "mimic_summarization": "mimic_iii/NOTEEVENTS.csv",
    "pmc_keywords": "a.jsonl",
    "pmc_next_sentence": "a.jsonl",
    "pmc_summarization": "a.jsonl",
    "pubmed_causal": "pubmed_causal_language_use.csv",
    "sharegpt": "a.json",
    "umls_relation": "UMLS_train.jsonl",
    "wikidoc_patient": "medical_meadow_small.json",
}


@pytest.mark.parametrize("name", FILE)
def test_pointer_of_git_lfs_is_refused(tmp_path, name):
    for file in (FILE[name], *(("PATIENTS.csv", "D_LABITEMS.csv") if name == "mimic_mortality" else ())):
        write(tmp_path / file, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 13085339\n")
    with pytest.raises(BadInput, match="this is a Git-LFS pointer, not the data. Next: git lfs pull"):
        read(name, tmp_path)


# ---------------------------------------------------------------- from our own documents
SENTENCES = "First one here. Second one is p < 0.05 vs. the rest. Third one here. Fourth one here."


def document(number, license="CC BY", **changes):
    parts = {"title": 1, "abstract": 2, "further_abstracts": 1, "body": 3} | changes.pop("blocks", {})
    blocks = [
        "A title",
        "Background",
        "An abstract of six words.",
        "For the lay reader",
        "Results",
        SENTENCES,
        "w " * 3000 + "end",
    ]
    blocks = blocks[:1] + blocks[1 : 1 + parts["abstract"]] + blocks[3:]
    meta = {"blocks": parts, "keywords": ["rodex", "knee; pain"]} | changes
    fields = {"source": "pmc", "domain": "biomedical", "license": license, "access": "public", "meta": meta}
    return {"id": f"pmc:PMC{number}", "text": "\n\n".join(blocks), **fields}


def write_documents(folder, *documents):
    write(folder / "pmc_00000.jsonl", "".join(json.dumps(one) + "\n" for one in documents))


def test_pmc_rows(tmp_path):
    write_documents(
        tmp_path, document(1), document(2, "unknown"), document(3, "CC BY-ND"), document(4, "CC BY-NC")
    )
    licence = {"license is unknown or allows no changes": 2}
    rows, dropped = read("pmc_summarization", tmp_path)
    assert dropped == licence and [row["license"] for row in rows] == ["CC BY", "CC BY-NC"]
    assert (
        rows[0]["completion"] == "Background An abstract of six words."
        and "lay reader" not in rows[0]["prompt"]
    )
    assert rows[0]["prompt"].startswith(
        f"Summarize the text of a medical article.\n\nResults\n{SENTENCES}\nw w w"
    )
    assert len(rows[0]["prompt"].split()) == 7 + 2000 and "end" not in rows[0]["prompt"]

    rows, dropped = read("pmc_keywords", tmp_path)
    assert dropped == licence and rows[0]["completion"] == "rodex; knee; pain"
    assert (
        rows[0]["prompt"]
        == "List the key words of this medical article.\n\nA title\n\nBackground An abstract of six words.\n"
    )

    rows, dropped = read("pmc_next_sentence", tmp_path)
    assert dropped == licence and len({row["completion"] for row in rows}) >= 1
    for row in rows:
        before = row["prompt"].split("\n\n")[1].strip()
        assert f"{before} {row['completion']}" in SENTENCES and row["completion"].endswith(".")


def test_pmc_rows_of_articles_without_parts(tmp_path):
    bare = document(1, blocks={"abstract": 0}, keywords=[])
    bare["text"] = bare["text"].replace(SENTENCES, "One sentence.")
    write_documents(tmp_path, bare, document(2))
    assert read("pmc_summarization", tmp_path)[1] == {"no abstract": 1}
    assert read("pmc_keywords", tmp_path)[1] == {"no key words": 1}
    assert read("pmc_next_sentence", tmp_path)[1] == {"no paragraph of three sentences": 1}
    old = document(3)
    del old["meta"]["blocks"]
    write_documents(tmp_path, old)
    with pytest.raises(
        BadInput,
        match="line 1: meta has no 'blocks' or 'keywords'. Next: python -m data_prep.build_documents",
    ):
        read("pmc_keywords", tmp_path)


# ---------------------------------------------------------------- MIMIC
NOTE = """Admission Date:  [**2150-1-1**]     Discharge Date:  [**2150-1-3**]

Sex:  F
Service: MEDICINE

Chief Complaint:
Fever

Brief Hospital Course:
Neuro: She was given rodazor and
improved within two days.

Discharge Diagnosis:
Rodex fever

Followup Instructions:
None
"""
NOTEEVENTS = "ROW_ID SUBJECT_ID HADM_ID CHARTDATE CHARTTIME STORETIME CATEGORY DESCRIPTION CGID ISERROR TEXT"


def note(number, text=NOTE, category="Discharge summary ", description="Report", error=""):
    return [number, 1, 2, "2150-01-01", "", "", category, description, "", error, text]


def notes(raw, *rows):
    write_table(raw / "mimic_iii/NOTEEVENTS.csv", NOTEEVENTS, *rows)


def test_discharge_summary_sections():
    found = {name: text for name, (_, _, text) in _discharge_summaries.sections(NOTE).items()}
    assert found["brief hospital course"] == "Neuro: She was given rodazor and improved within two days."
    assert found["discharge diagnosis"] == "Rodex fever" and found["service"] == "MEDICINE"
    twice = _discharge_summaries.sections("Service: A\nSex: F\nSERVICE: B\n")
    assert twice["service"][2] == "A"
    assert (
        _discharge_summaries.first_words("a b\nc  d", 3) == "a b\nc"
        and _discharge_summaries.last_words("a b\nc  d", 3) == "b\nc  d"
    )
    assert _discharge_summaries.first_words("a b", 3) == "a b" == _discharge_summaries.last_words("a b", 3)


def test_mimic_rows_from_notes(tmp_path):
    others = [note(2, category="Nursing"), note(3, description="Addendum"), note(4, error="1")]
    notes(tmp_path, note(1), *others)
    header = "note_id subject_id hadm_id note_type note_seq charttime storetime text"
    write_table(
        tmp_path / "mimic_iv_note/discharge.csv",
        header,
        ["9-DS-1", 9, 8, "DS", 1, "2180-01-01", "", NOTE.replace("\n", "\r\n")],
    )
    left_out = {"not a discharge summary": 2, "marked as an error (ISERROR)": 1}

    rows, dropped = read("mimic_qa", tmp_path)
    assert dropped == left_out and [row["id"] for row in rows] == [
        "mimic_qa:mimic_iii:1",
        "mimic_qa:mimic_iv_note:9-DS-1",
    ]
    for row in rows:
        assert row["access"] == "credentialed" and row["completion"] in ("Fever", "Rodex fever")
        asked = "chief complaint" if row["completion"] == "Fever" else "discharge diagnosis"
        assert (
            row["prompt"].endswith("?\n")
            and asked in row["prompt"].rpartition("Question:")[2]
            and NOTE.strip() in row["prompt"]
        )

    rows, dropped = read("mimic_summarization", tmp_path)
    assert dropped == left_out and {row["completion"] for row in rows} == {
        "Neuro: She was given rodazor and improved within two days."
    }
    assert rows[0]["prompt"].endswith("Chief Complaint:\nFever\n") and "rodazor" not in rows[0]["prompt"]

    rows, dropped = read("mimic_classification", tmp_path)
    assert dropped == left_out and {row["completion"] for row in rows} == {"MEDICINE"}
    assert (
        "MEDICINE" not in rows[0]["prompt"]
        and "Service" not in rows[0]["prompt"]
        and "Fever" in rows[0]["prompt"]
    )


def test_mimic_notes_that_give_no_row(tmp_path):
    notes(
        tmp_path,
        note(1, NOTE.replace("MEDICINE", "[**Hospital Unit 1**]")),
        note(2, NOTE.replace("Service: MEDICINE", "")),
        note(3, NOTE.replace("MEDICINE", "")),
        note(4, NOTE.replace("MEDICINE", "medicine\nA line below")),
    )
    rows, dropped = read("mimic_classification", tmp_path)
    assert [row["completion"] for row in rows] == ["MEDICINE"] and "A line below" in rows[0]["prompt"]
    assert dropped == {"service is empty, long or de-identified": 2, "no service": 1}

    late = "word " * 1600 + "\n" + NOTE
    notes(
        tmp_path,
        note(1, late),
        note(2, "No heading at all."),
        note(3, "Brief Hospital Course:\nShe was given rodazor and improved."),
    )
    assert read("mimic_qa", tmp_path) == ([], {"no section to ask for": 3})
    rows, dropped = read("mimic_summarization", tmp_path)
    assert (
        dropped == {"no hospital course": 1, "nothing before the hospital course": 1}
        and len(rows[0]["prompt"].split()) == 13 + 1500
    )


ADMISSIONS = (
    "ROW_ID SUBJECT_ID HADM_ID ADMITTIME DISCHTIME DEATHTIME ADMISSION_TYPE ADMISSION_LOCATION "
    "DISCHARGE_LOCATION DIAGNOSIS HOSPITAL_EXPIRE_FLAG"
)


def admission(subject, number, flag, time="2150-03-01 08:00:00"):
    return [
        1,
        subject,
        number,
        time,
        "2150-03-05 08:00:00",
        "2150-03-05",
        "EMERGENCY",
        "CLINIC REFERRAL",
        "DEAD/EXPIRED",
        "RODEX FEVER",
        flag,
    ]


def test_mimic_mortality_knows_the_first_day_only(tmp_path):
    rows = [
        admission(1, 10, 1),
        admission(2, 20, 0),
        admission(3, 30, 0),
        admission(1, 11, ""),
        admission(2, 21, 0, "soon"),
    ]
    write_table(tmp_path / "ADMISSIONS.csv", ADMISSIONS, *rows)
    write_table(
        tmp_path / "PATIENTS.csv",
        "SUBJECT_ID GENDER DOB",
        [1, "F", "2100-03-02 00:00:00"],
        [2, "M", "1850-01-01 00:00:00"],
    )
    write_table(tmp_path / "D_LABITEMS.csv", "ITEMID LABEL", [7, "Rodzyme"], [8, "Knelactin"])
    events = [
        [10, 7, "2150-03-01 09:00:00", "12.5", "mg/dL", "abnormal"],
        [10, 7, "2150-03-01 20:00:00", "99", "mg/dL", "abnormal"],  # the first value of a test counts
        [10, 8, "2150-03-01 09:00:00", "5", "mg/dL", ""],
        [10, 8, "2150-03-02 09:00:00", "6", "mg/dL", "abnormal"],  # the second day
        ["", 7, "2150-03-01 09:00:00", "7", "mg/dL", "abnormal"],
    ]
    write_table(tmp_path / "LABEVENTS.csv", "HADM_ID ITEMID CHARTTIME VALUE VALUEUOM FLAG", *events)
    found, dropped = read("mimic_mortality", tmp_path)
    assert [(row["id"], row["completion"]) for row in found] == [
        ("mimic_mortality:10", "yes"),
        ("mimic_mortality:20", "no"),
    ]
    facts = (
        "Age: 49\nSex: F\nAdmission type: EMERGENCY\nAdmitted from: CLINIC REFERRAL\nDiagnosis at "
        "admission: RODEX FEVER\n"
    )
    assert found[0]["prompt"].endswith(f"\n\n{facts}Abnormal laboratory values: Rodzyme 12.5 mg/dL\n")
    assert (
        "Age: over 89\n" in found[1]["prompt"]
        and "DEAD" not in found[0]["prompt"]
        and "2150" not in found[0]["prompt"]
    )
    assert dropped == {
        "HOSPITAL_EXPIRE_FLAG is not 0 or 1": 1,
        "SUBJECT_ID is not in PATIENTS": 1,
        "ADMITTIME or DOB cannot be read": 1,
    }
    (tmp_path / "LABEVENTS.csv").unlink()
    assert "laboratory" not in read("mimic_mortality", tmp_path)[0][0]["prompt"]


# ---------------------------------------------------------------- real public files
def test_real_mediqa_validation_set_reads_whole():
    if not (SHARED / "data/mediqa2019").is_dir():
        pytest.skip("no MEDIQA file here")
    rows, dropped = read("mediqa2019", SHARED / "data/mediqa2019")
    assert len(rows) + sum(dropped.values()) == 234 and dropped == {"ReferenceScore below 3": 140}
    assert len({row["prompt"] for row in rows}) == 25


def test_real_medicationqa_reads_whole():
    if not (SHARED / "data/medicationqa").is_dir():
        pytest.skip("no MedicationQA file here")
    rows, dropped = read("medicationqa", SHARED / "data/medicationqa")
    assert len(rows) == 689 and dropped == {"exact duplicate": 1}
    counts = collections.Counter(row["prompt"] for row in rows)
    assert len(rows) - len(counts) == 38  # 39 of all 690: the exact duplicate was one of them
    assert not any("\u009d" in row["prompt"] for row in rows) and all(
        row["completion"] == row["completion"].strip() for row in rows
    )


def test_real_articles_come_apart_again(tmp_path):
    if not (SHARED / "data/pmc").is_dir():
        pytest.skip("no articles here")
    documents = [one for file in pmc.files(SHARED / "data/pmc") for one in pmc.read(file, Drops())]
    assert sorted(len(one["meta"]["keywords"]) for one in documents) == [0, 0, 0, 9]
    assert all(sum(one["meta"]["blocks"].values()) == len(one["text"].split("\n\n")) for one in documents)
    write_documents(tmp_path, *documents)
    rows, dropped = read("pmc_summarization", tmp_path)
    assert len(rows) == 4 and not dropped
    assert next(row for row in rows if "PMC2599765" in row["id"])["completion"].startswith(
        "Background Polybrominated"
    )
    assert len(read("pmc_next_sentence", tmp_path)[0]) == 4


def test_medical_o1_keeps_answers_that_can_be_compared(tmp_path):
    question, answer = "Open-ended Verifiable Question", "Ground-True Answer"
    records = [{question: "Which vitamin?", answer: " Vitamin C "}] * 2
    records += [{question: "Why?", answer: "word " * 13}, {question: "How?", answer: "one\ntwo"}]
    records += [{question: "What?", answer: ""}]
    write(tmp_path / "medical_o1_verifiable_problem.json", json.dumps(records))
    rows, dropped = read("medical_o1", tmp_path)
    asked = "Answer the question. Reply with the answer alone, in a few words.\n\nWhich vitamin?\n"
    assert pairs(rows) == [(asked, "Vitamin C")] and rows[0]["scoring"] == "span"
    assert dropped == {
        "answer of more than 12 words or one line": 2,
        "empty question or answer": 1,
        "exact duplicate": 1,
    }
    write(tmp_path / "medical_o1_verifiable_problem.json", '[{"Question": "?"}]')
    with pytest.raises(BadInput, match="record 1: field 'Open-ended Verifiable Question' must be text"):
        read("medical_o1", tmp_path)
