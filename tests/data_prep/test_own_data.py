"""Notes, instruction rows and benchmarks of a site's own, from a table to rows without a Python file.
Invented records."""

import csv
import io
import json
import sqlite3
import subprocess

import duckdb
import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from data_prep import build_blocks, build_documents, build_instructions, build_tasks, describe, tasks_status
from data_prep.corpus import evaluation_items
from data_prep.schema import BadInput
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


def test_instruction_rows_of_a_table(tmp_path, capsys):
    records = [
        {"Instruction": f"Question {i}?", "Response": f"Answer {i}.", "system": "Be brief." if i == 0 else "",
         "patient_id": f"p{i % 4}"}
        for i in range(40)
    ]  # fmt: skip
    write_table(tmp_path / "raw/our_rows/rows.csv", [*records, records[1], records[2] | {"Response": " "}])
    describe.main([str(tmp_path / "raw/our_rows"), "--kind", "instructions", "--access", "gated"])
    flags = ["--sources", "our_rows", "--validation", "0.3"]
    places = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    build_instructions.main([*places, *flags[:2]])
    assert "no rows for validation, as each group" in capsys.readouterr().out
    build_instructions.main([*places, *flags])
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


GERMAN = [
    {
        "Befund-ID": f"b{i}",
        "Patienten-ID": f"p{i // 2}",
        "Datum": f"{i + 1:02d}.03.2021",
        "Befundtext": f"Müde, {i}.",
    }
    for i in range(4)
]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252", "utf-16"])
def test_german_headers_are_guessed_and_the_next_command_works(tmp_path, encoding):
    file = put(tmp_path / "raw/german.csv", delimited(GERMAN, ";").encode(encoding))
    if encoding != "utf-8-sig":
        with pytest.raises(SystemExit) as refused:
            describe.main([str(file), "--access", "public"])
        command = str(refused.value).partition("Next: ")[2].partition(" (or here")[0]
        subprocess.run(command, shell=True, check=True)
    describe.main([str(file), "--access", "public"])
    document = documents(tmp_path / "raw", tmp_path / "out")["notes:german:b3"]
    assert document["text"] == "Müde, 3."
    assert document["meta"] == {"collection": "german", "date": "04.03.2021", "patient": "p1"}


def test_the_encoding_of_a_site_is_said_once(tmp_path):
    for name in ("p1/a.txt", "p1/b.txt", "p2/a.txt"):
        put(tmp_path / "raw" / name, f"Müde in {name}.".encode("cp1252"))
    flags = ["--access", "public", "--encoding", "cp1252", "--patient", "folder"]
    describe.main([str(tmp_path / "raw"), *flags])
    found = documents(tmp_path / "raw", tmp_path / "out")
    assert found["notes:raw:p1/b.txt"]["text"] == "Müde in p1/b.txt."
    assert [document["meta"]["patient"] for document in found.values()] == ["p1", "p1", "p2"]


def test_no_fault_of_a_table_of_notes(tmp_path, capsys):
    """Empty notes, a note without an id, a blank line and a column that is no id."""
    put(tmp_path / "raw/a.csv", "id,patient,note\nx,1,One.\n,1,Two.\n\ny,2,\n")
    put(tmp_path / "raw/b.csv", "id,patient,note\nz,1,Four.\n")
    put(tmp_path / "texts/a.txt", "")
    put(tmp_path / "texts/b.txt", "A note.")
    for folder in ("raw", "texts"):
        describe.main([str(tmp_path / folder), "--access", "public"])
    found = documents(tmp_path / "raw", tmp_path / "out")
    assert [document["text"] for document in found.values()] == ["One.", "Two.", "Four."]
    assert len(documents(tmp_path / "texts", tmp_path / "out2")) == 1
    said = capsys.readouterr().out
    assert "dropped: empty text 1; repaired: no id: the hash of the text instead 1" in said
    assert "one patient may be on both sides of a split. Say --patient folder" in said
    put(tmp_path / "visits/a.csv", "id,note\n7,One.\n7,Two.\n")
    assert "id" not in describe.describe(
        describe.make_parser().parse_args([str(tmp_path / "visits"), "--access", "public"])
    )


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.csv", "4711,A note,p1\n4712,Another,p2\n", "first line looks like a record"),
        ("a.csv", "id,text,text\n1,a,b\n", "two columns are called 'text'. Next: rename one"),
        ("a.csv", "id,text\n1,a,b\n", "record 1 has 3 columns, the header has 2. Next: put double quotes"),
        ("a.csv", 'id,text\n1,"a\n', "not valid CSV .*Next: close its double quotes"),
        ("a.jsonl", '{"text": "a"}\n{"text\n', "line 2 is not JSON .*Next: correct or remove that line"),
        (
            "a.json",
            '{"data": [{"text": "a"}]}',
            "one JSON object, not a list of records. Next: save the list",
        ),
        ("a.sqlite", "no database", "cannot be queried .*Next: correct --table or --query"),
        ("a.docx", "PK", "holds .docx, which is not read. Next: save it as .txt, .xlsx or CSV"),
        ("a.xlsx", "PK", "not a whole .xlsx file.*Next: save it again as .xlsx or CSV"),
        ("a.txt", "id\ttext\tdate\n1\ta\t2020\n", "a table, not a note. Next: mv .*a.txt .*a.csv"),
        ("a.txt", "../ward_a/1.txt", "a link to ../ward_a/1.txt that was copied as text"),
        ("ward_a", "/srv/notes/ward_a", "a link to /srv/notes/ward_a that was copied as text"),
    ],
)
def test_what_a_site_may_meet_is_one_sentence_with_the_next_step(tmp_path, name, content, said):
    put(tmp_path / "raw" / name, content)
    with pytest.raises(SystemExit, match=said):
        describe.main([str(tmp_path / "raw"), "--access", "credentialed"])
    assert not (tmp_path / "raw" / tables.NAME).exists()


def test_a_workbook_of_several_sheets_and_notes_beside_a_table_are_asked_about(tmp_path):
    book = openpyxl.Workbook()
    book.create_sheet("empty")
    for sheet, records in ((book.active, GERMAN), (book.create_sheet("Befunde"), NOTES)):
        for cells in ([*records[0]], *(list(record.values()) for record in records)):
            sheet.append(cells)
    (tmp_path / "raw").mkdir()
    book.save(tmp_path / "raw/a.xlsx")
    with pytest.raises(SystemExit, match="'table' must be one of its sheets: Sheet, Befunde. Next: --table"):
        describe.main([str(tmp_path / "raw"), "--access", "public"])
    with pytest.raises(SystemExit, match="'table' must be one of its sheets: Sheet, empty, Befunde"):
        describe.main([str(tmp_path / "raw"), "--access", "public", "--table", "Bfunde"])
    describe.main([str(tmp_path / "raw"), "--access", "public", "--table", "Befunde"])
    assert len(documents(tmp_path / "raw", tmp_path / "out")) == 6
    for name in "12":
        put(tmp_path / f"raw/{name}.txt", "A note.")
    asked = "which are the notes, 2 .txt files or .*a.xlsx"
    with pytest.raises(SystemExit, match=asked):
        describe.main([str(tmp_path / "raw"), "--access", "public", "--again"])
    with pytest.raises(BadInput, match=asked):
        documents(tmp_path / "raw", tmp_path / "out")


def test_a_link_that_arrived_as_text_is_not_a_folder_without_files(tmp_path):
    put(tmp_path / "raw/baseline", "../elsewhere/baseline")
    put(tmp_path / "raw/a.xml", "<PubmedArticleSet/>")
    with pytest.raises(SystemExit, match="baseline: a link to ../elsewhere/baseline that was copied as text"):
        build_documents.main(["--source", f"pubmed={tmp_path / 'raw'}", "--out", str(tmp_path / "out")])


ORGANS = ["heart", "liver", "skin"]


@pytest.mark.parametrize(
    "record, gold",
    [
        ({"Option_1": "heart", "Option_2": "liver", "Option_3": "skin", "answer_idx": [0, 1, 2]}, "ABC"),
        ({"Antwort A": "heart", "Antwort B": "liver", "Antwort C": "", "Lösung": "aB2"}, "ABB"),
        ({"choices": ORGANS, "answer": [0, 1, 2]}, "ABC"),
        ({"options": dict(zip("ABC", ORGANS, strict=True)), "answer": ["C", "liver", "a"]}, "CBA"),
        (
            {"options": [{"key": "A", "value": "heart"}, {"key": "B", "value": "skin"}], "answer": "ABA"},
            "ABA",
        ),
    ],
)
def test_options_and_answers_as_tables_have_them(tmp_path, record, gold):
    answer = list(record)[-1]
    records = [{"question": f"Question {i}?"} | record | {answer: record[answer][i]} for i in range(3)]
    write_table(tmp_path / "raw/exam/e.jsonl", records)
    describe.main([str(tmp_path / "raw/exam"), "--kind", "choice", "--access", "public"])
    build_tasks.main(["--raw", str(tmp_path / "raw"), "--tasks", "exam", "--out", str(tmp_path / "rows")])
    rows = _lines(tmp_path / "rows/exam/test.jsonl")
    assert "".join(row["completion"] for row in rows) == gold
    assert all(len(row["options"]) == len(row["choices"]) for row in rows)


def test_answers_that_cannot_be_read_as_meant_are_not_guessed(tmp_path, capsys):
    records = [{"question": "How many?", "A": "0", "B": "1", "C": "2", "answer": answer} for answer in "A2"]
    folder = tmp_path / "raw/exam"
    write_table(folder / "e.csv", records)
    describe.main([str(folder), "--kind", "choice", "--access", "public"])
    flags = ["--raw", str(tmp_path / "raw"), "--tasks", "exam", "--out", str(tmp_path / "rows")]
    build_tasks.main(flags)
    assert "answer is the number of one option and the text of another 1" in capsys.readouterr().out
    write_table(folder / "e.csv", [record | {"A": "none", "answer": 0} for record in records])
    with pytest.raises(SystemExit, match="answer 0, where the first option is 1. Next: numbered_from: 0"):
        build_tasks.main(flags)


def test_labels_joined_by_commas_and_sets_that_are_named(tmp_path):
    records = [{"text": f"{i}", "label": label} for i, label in enumerate(["a,b", "b", "c, a", "c"])]
    write_table(tmp_path / "raw/tags/t.csv", records)
    write_table(tmp_path / "raw/my tags/t.csv", records)
    flags = ["--kind", "labels", "--access", "public"]
    describe.main([str(tmp_path / "raw/tags"), *flags])
    build_tasks.main(["--raw", str(tmp_path / "raw"), "--tasks", "tags", "--out", str(tmp_path / "rows")])
    found = [row["completion"] for row in _lines(tmp_path / "rows/tags/test.jsonl")]
    assert found == ["a; b", "b", "a; c", "c"]
    with pytest.raises(SystemExit, match="my tags: the set will have this name. Next: mv it"):
        describe.main([str(tmp_path / "raw/my tags"), *flags])
    with pytest.raises(SystemExit, match="which column is the answer. Next: --answer COLUMN, one of text, x"):
        write_table(tmp_path / "raw/odd/t.csv", [{"text": "a", "x": "b"}])
        describe.main([str(tmp_path / "raw/odd"), *flags])


def test_an_id_that_is_there_twice_names_the_row(tmp_path):
    records = [{"id": "a", "prompt": f"Q{i}", "answer": "A"} for i in range(2)]
    put(tmp_path / "raw/qa" / tables.NAME, "kind: instructions\nlicense: ours\naccess: public\nid: id\n"
        "prompt: prompt\nanswer: answer\n")  # fmt: skip
    write_table(tmp_path / "raw/qa/q.json", records)
    put(tmp_path / "raw/qa/q.json", json.dumps(records))
    with pytest.raises(SystemExit, match="q.json: record 2: column 'id': this value is there twice. Next"):
        build_instructions.main(
            ["--raw", str(tmp_path / "raw"), "--sources", "qa", "--out", str(tmp_path / "out")]
        )
