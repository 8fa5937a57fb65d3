"""Notes, instruction rows and benchmarks of a site's own, from a table to rows without a Python file.
Invented records."""

import csv
import io
import json
import sqlite3

import duckdb
import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from data_prep import build_blocks, build_documents, build_instructions, build_tasks, describe, tasks_status
from data_prep.corpus import evaluation_items
from data_prep.sources import tables
from tests.data_prep.test_sources import written

NOTES = [
    {
        "Note ID": f"n{i}",
        "Patient": f"p{i // 3}",
        "Report": f"Invented note {i}; it says nothing.",
        "Date": "2020-01-02",
    }
    for i in range(6)
]


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def delimited(records, separator=","):
    out = io.StringIO()
    writer = csv.DictWriter(out, records[0], delimiter=separator)
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def write_table(path, records):
    """`records` as the table that the name of `path` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(records[0])
    values = [list(record.values()) for record in records]
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for cells in [columns, *values]:
            book.active.append(cells)
        book.save(path)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif path.suffix in (".sqlite", ".duckdb"):
        connection = sqlite3.connect(path) if path.suffix == ".sqlite" else duckdb.connect(str(path))
        names, marks = ", ".join(f'"{name}" VARCHAR' for name in columns), ", ".join("?" * len(columns))
        connection.execute(f"CREATE TABLE notes ({names})")
        connection.executemany(f"INSERT INTO notes VALUES ({marks})", values)
        connection.commit()
        connection.close()
    elif path.suffix == ".jsonl":
        put(path, "".join(json.dumps(record) + "\n" for record in records))
    else:
        put(path, delimited(records, {".tsv": "\t"}.get(path.suffix, ";" if "german" in path.name else ",")))
    return path


def documents(path, out):
    build_documents.build([("notes", path)], out)
    return {document["id"]: document for document in written(out)}


@pytest.mark.parametrize(
    "name", ["a.csv", "a_german.csv", "a.tsv", "a.xlsx", "a.jsonl", "a.parquet", "a.sqlite", "a.duckdb"]
)
def test_notes_of_any_table(tmp_path, capsys, name):
    file = write_table(tmp_path / "raw" / name, NOTES)
    describe.main([str(file), "--access", "gated", "--license", "agreement 7"])
    shown = capsys.readouterr().out
    assert "Report                   text" in shown and "de-identification: unknown" in shown
    assert "Invented note" not in shown, "values are not shown"
    found = documents(file, tmp_path / "out")
    assert len(found) == 6
    document = found[f"notes:{file.stem}:n4"]
    assert document["text"] == NOTES[4]["Report"] and document["access"] == "gated"
    assert document["meta"] == {"collection": file.stem, "date": "2020-01-02", "patient": "p1"}
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["inputs"][0]["deidentified"] == "unknown" and manifest["licenses"] == ["agreement 7"]


def test_notes_of_a_folder_of_texts(tmp_path):
    for name in ("ward_a/1.txt", "ward_b/1.txt"):
        put(tmp_path / "raw" / name, f"A note in {name}.")
    describe.main([str(tmp_path / "raw"), "--access", "public", "--deidentified", "yes"])
    found = documents(tmp_path / "raw", tmp_path / "out")
    assert sorted(found) == ["notes:raw:ward_a/1.txt", "notes:raw:ward_b/1.txt"]


def test_notes_of_a_query(tmp_path):
    file = write_table(tmp_path / "site.duckdb", NOTES)
    query = 'SELECT upper("Report") AS body, "Note ID" AS id FROM notes WHERE "Patient" = \'p1\''
    describe.main([str(file), "--access", "public", "--query", query])
    assert [d["text"] for d in documents(file, tmp_path / "out").values()] == [
        n["Report"].upper() for n in NOTES[3:]
    ]


def test_one_patient_is_in_one_split():
    def split(number, patient):
        document = {"id": f"n{number}", "meta": {"patient": patient}}
        return build_blocks.held_out("notes", build_blocks.person(document), 0.5)

    by_patient = [{split(number, f"p{patient}") for number in range(20)} for patient in range(20)]
    assert all(len(found) == 1 for found in by_patient) and len(set().union(*by_patient)) == 2


@pytest.mark.parametrize(
    "flags, said",
    [
        ([], "--access: who may read this data"),
        (
            ["--access", "public", "--text", "Body"],
            r"no column 'Body' .found: Note ID, Patient, Report, Date",
        ),
        (["--access", "public", "--kind", "instructions"], "needs the columns of --prompt and --answer"),
    ],
)
def test_what_cannot_be_described(tmp_path, flags, said):
    file = write_table(tmp_path / "raw/a.csv", NOTES)
    with pytest.raises(SystemExit, match=said):
        describe.main([str(file), *flags])
    assert not (tmp_path / "raw" / tables.NAME).exists()


def test_a_description_is_needed_and_is_not_replaced_unasked(tmp_path):
    file = write_table(tmp_path / "raw/a.csv", NOTES)
    with pytest.raises(
        SystemExit, match="no source.yaml says what it is. Next: python -m data_prep.describe"
    ):
        build_documents.main(["--source", f"notes={file}", "--out", str(tmp_path / "out")])
    describe.main([str(file), "--access", "gated"])
    with pytest.raises(SystemExit, match="is there already"):
        describe.main([str(file), "--access", "public"])
    path = tmp_path / "raw" / tables.NAME
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    for wrong, said in (
        ({"acess": "public"}, "acess: Extra inputs"),
        ({"access": "open"}, "access: Input should be"),
    ):
        path.write_text(yaml.safe_dump(settings | wrong), encoding="utf-8")
        with pytest.raises(SystemExit, match=said):
            build_documents.main(["--source", f"notes={file}", "--out", str(tmp_path / "out")])
    path.write_text(
        yaml.safe_dump(settings).replace("deidentified: unknown", "deidentified: no"), encoding="utf-8"
    )
    assert tables.read_settings(path, "notes").deidentified == "no", "unquoted no is understood"


def test_instruction_rows_of_a_table(tmp_path):
    records = [
        {"Instruction": f"Question {i}?", "Response": f"Answer {i}.", "system": "Be brief." if i == 0 else "",
         "patient_id": f"p{i % 4}"}
        for i in range(40)
    ]  # fmt: skip
    write_table(tmp_path / "raw/our_rows/rows.csv", [*records, records[1], records[2] | {"Response": " "}])
    describe.main([str(tmp_path / "raw/our_rows"), "--kind", "instructions", "--access", "gated"])
    flags = ["--sources", "our_rows", "--validation", "0.3"]
    build_instructions.main(["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), *flags])
    rows = {split: _lines(tmp_path / f"out/{split}.jsonl") for split in ("train", "validation")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 30, "validation": 10}
    assert len({int(row["id"].rpartition(":")[2]) % 4 for row in rows["validation"]}) == 1, (
        "one patient of four"
    )
    by_id = {row["id"]: row for found in rows.values() for row in found}
    assert [m["role"] for m in by_id["our_rows:rows:1"]["messages"]] == ["system", "user", "assistant"]
    assert (
        by_id["our_rows:rows:2"]["prompt"] == "Question 1?\n"
        and by_id["our_rows:rows:2"]["access"] == "gated"
    )
    dropped = json.loads((tmp_path / "out/manifest.json").read_text())["dropped"]["our_rows"]
    assert {reason: entry["count"] for reason, entry in dropped.items()} == {
        "exact duplicate": 1, "empty prompt or answer": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    "keys", [("from", "value", "human", "gpt"), ("role", "content", "user", "assistant")]
)
def test_conversations_of_a_table(tmp_path, keys):
    speaker, said, asks, answers = keys
    turns = [{speaker: asks, said: "Hello?"}, {speaker: answers, said: "Hello."}]
    records = [{"id": "a", "conversations": turns}, {"id": "b", "conversations": turns[:1]}]
    write_table(tmp_path / "raw/chats/chats.jsonl", records)
    describe.main([str(tmp_path / "raw/chats"), "--kind", "instructions", "--access", "public"])
    flags = ["--sources", "chats", "--validation", "0"]
    build_instructions.main(["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), *flags])
    [row] = _lines(tmp_path / "out/train.jsonl")
    assert row["messages"] == [
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hello."},
    ]


def test_a_multiple_choice_benchmark_of_a_table(tmp_path, capsys):
    records = [
        {"question": f"Invented question {i}?", "A": "liver", "B": "heart", "C": "skin", "answer": answer}
        for i, answer in enumerate(["B", "heart", "2", "(b)", "D", ""])
    ]
    raw, rows = tmp_path / "raw", tmp_path / "tasks"
    write_table(raw / "our_exam/exam.csv", records)
    describe.main([str(raw / "our_exam"), "--kind", "choice", "--access", "gated"])
    tasks_status.main(["--raw", str(raw), "--rows", str(rows)])
    assert "our_exam     ready" in capsys.readouterr().out
    build_tasks.main(["--raw", str(raw), "--out", str(rows)])
    assert (
        "our_exam: train 0, validation 0, test 4; dropped: answer is not among the choices 2"
        in capsys.readouterr().out
    )
    test = _lines(rows / "our_exam/test.jsonl")
    assert {row["completion"] for row in test} == {"B"} and test[0]["options"] == ["liver", "heart", "skin"]
    assert test[0]["prompt"].endswith(
        "Question: Invented question 0?\nOptions:\nA. liver\nB. heart\nC. skin\nAnswer:\n"
    )
    assert {item.task for item in evaluation_items.read_items(rows)} == {"our_exam"}, "kept out of the corpus"
    tasks_status.main(["--raw", str(raw), "--rows", str(rows)])
    assert "our_exam     ready             test 4 rows" in capsys.readouterr().out


def test_a_label_benchmark_of_a_table(tmp_path):
    records = [
        {"text": f"Invented text {i}.", "labels": labels, "split": "dev" if i else "test"}
        for i, labels in enumerate(["Yes", "no; yes", "maybe"])
    ]
    folder = tmp_path / "raw/our_labels"
    write_table(folder / "t.tsv", records)
    put(folder / tables.NAME, "kind: labels\nlicense: ours\naccess: public\nquestion: text\nanswer: labels\n"
        "split: split\nchoices: [yes, no]\n")  # fmt: skip
    build_tasks.main(["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "tasks")])
    [test], [validation] = (
        _lines(tmp_path / f"tasks/our_labels/{split}.jsonl") for split in ("test", "validation")
    )
    assert (test["completion"], validation["completion"], test["choices"]) == (
        "yes",
        "yes; no",
        ["yes", "no"],
    )


def _lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_notes_without_text_are_counted_and_records_may_lack_columns(tmp_path, capsys):
    records = [
        {"id": "a", "text": "A note."},
        {"id": "b", "text": ""},
        {"id": "c", "text": "C.", "date": "2020"},
    ]
    file = write_table(tmp_path / "raw/a.jsonl", records)
    put(tmp_path / "raw/README.txt", "About the export.")
    describe.main([str(file), "--access", "public"])
    found = documents(tmp_path / "raw", tmp_path / "out")
    assert list(found) == ["notes:a:a", "notes:a:c"] and found["notes:a:c"]["meta"]["date"] == "2020"
    shown = capsys.readouterr().out
    assert "1 .txt files beside the tables not read" in shown and "dropped: empty text 1" in shown
    put(file, file.read_text(encoding="utf-8") + "[1]\n")
    with pytest.raises(SystemExit, match="1 of 4 records are bad.*a.jsonl: line 4: no JSON object"):
        build_documents.main(["--source", f"notes={file}", "--out", str(tmp_path / "out2")])
