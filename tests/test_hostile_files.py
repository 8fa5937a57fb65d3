"""Files made to harm the one who reads them. Each ends in one sentence that names the file, or is counted as
a bad record: nothing is executed, fetched, written elsewhere, held in memory without a bound, or waited
for."""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
import torch
import zstandard

from data_prep import benchmarks, build_documents, clean_documents, files, instructions
from data_prep.build_instructions import read_plan
from data_prep.corpus import executors
from data_prep.corpus.tokenize import DocumentTokenizer
from data_prep.instructions import medicationqa
from data_prep.manifest import Drops
from data_prep.schema import BadInput, check_document, check_row
from data_prep.sources import SOURCES, mimic_cxr, pile_pubmed, plain, pmc, pubmed, redpajama, sidecar
from evaluation.models import registry
from evaluation.scoring import run_outputs
from tests.data_prep.test_sources import article_set, citation, jats, put
from tests.tiny_model import make_model, rows_of

CARD = "domain: clinical\nlicense: ours\naccess: gated\n"


def bad_of(drops: Drops) -> dict:
    """{reason: count} of the records that should not have been there."""
    return {
        reason: entry["count"]
        for reasons in drops.as_dict().values()
        for reason, entry in reasons.items()
        if entry.get("bad")
    }


# ---------------------------------------------------------------- every reader, with every kind of rubbish
DEEP = b"[" * 100_000
LAUGHS = b"<!DOCTYPE x [<!ENTITY a 'lol'>" + b"".join(
    b"<!ENTITY %c '%s'>" % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(10)
) + b"]><x y='&k;'>&k;</x>"  # fmt: skip
RUBBISH = {
    "nul bytes": b"\0" * 1000,
    "not utf-8": b'{"text": "caf\xe9 \xff\xfe", "\x80": 1}\n"\xff"\n',
    "deep json": DEEP,
    "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a huge integer": b'{"data": ' + b"9" * 5000 + b', "text": "t"}',
    "nan": b'[NaN, Infinity, {"text": NaN, "conversations": NaN, "data": -Infinity}]',
    "scalars": b'"text"\n1\nnull\n[]\n{}\n',
    "null fields": b'{"id": null, "text": null, "data": null, "question": null, "instruction": null, '
    b'"conversations": [null], "query": 1}\n',
    "billion laughs": LAUGHS,
    "deep xml": b"<article>" * 5000,
    "an open quote": b'index,sentence,label\n1,"open\n' * 3,
    "one comma per byte": b"," * 100_000,
    "gzip magic": gzip.compress(b"{}")[:12],
    "zip magic": b"PK\x03\x04" + b"\0" * 100,
    "parquet magic": b"PAR1" + b"\xff" * 100 + b"PAR1",
    "python": b"!!python/object/apply:os.system [touch pwned]",
}
RAW = {  # reader -> the files it reads, all with the same content
    "pubmed": ["a.xml", "b.xml.gz"], "pmc": ["a.nxml", "b.nxml.gz", "c.tar.gz", "d.tar"], "mimic_iii": ["NOTEEVENTS.csv", "x/NOTEEVENTS.csv.gz"],
    "mimic_iv_note": ["discharge.csv", "radiology.csv.gz"], "mimic_cxr": ["files/p10/p1/s12345678.txt", "mimic-cxr-reports.zip"],
    "redpajama": ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst"], "pile_pubmed": ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst"],
    "guidelines": ["a.jsonl"], "plain": ["a.jsonl", "b.parquet"],
    "notes": ["a.csv", "b.tsv.gz", "c.jsonl", "d.parquet", "e.xlsx", "f.sqlite", "g.duckdb", "h.txt"],
}  # fmt: skip
RAW_TASKS = {
    "bionli": ["test.csv"], "ddi": ["test.tsv"], "emrqa": ["data.json"], "hoc": ["test.tsv"], "i2b2": ["train/txt/a.txt", "train/concept/a.con"],
    "longhealth": ["benchmark_v5.json"],
    "medmcqa": ["train.json"], "mednli": ["mli_test_v1.jsonl"], "medqa": ["US/test.jsonl"], "mtsamples": ["mtsamples.csv"],
    "mimic_cxr": ["mimic-cxr-2.0.0-split.csv", "files/p1/p1/s1.txt"], "pubmed_summ": ["test.txt"], "pubmedqa": ["ori_pqal.json", "test_ground_truth.json"],
}  # fmt: skip
OTHER_FORMS = [
    ("ddi", ["DDICorpus/Train/a.xml"]),
    ("hoc", ["text/1.txt", "labels/1.txt"]),
    ("medqa", ["hub/test.jsonl"]),
    ("hoc", ["hub/test.parquet"]),
]
RAW_INSTRUCTIONS = {
    "alpaca": ["alpaca_data.json"], "dolly": ["databricks-dolly-15k.jsonl"], "flashcards": ["medical_meadow_wikidoc_medical_flashcards.json"],
    "guidelineqa": ["a.jsonl"], "healthcaremagic": ["a.json"], "icliniq": ["a.json"], "liveqa": ["TREC-2017-LiveQA-Medical-Train-1.xml"],
    "medical_o1": ["medical_o1_verifiable_problem.json"],
    "medicationqa": ["MedInfo2019-QA-Medications.xlsx"], "medinstruct": ["MedInstruct-52k.json"], "mediqa2019": ["MEDIQA2019-Task3-QA-TrainingSet1.xml"],
    "mimic_classification": ["mimic_iii/NOTEEVENTS.csv"], "mimic_mortality": ["ADMISSIONS.csv", "PATIENTS.csv"],
    "mimic_qa": ["mimic_iv_note/discharge.csv"], "mimic_summarization": ["mimic_iii/NOTEEVENTS.csv"],
    "pmc_keywords": ["a.jsonl"], "pmc_next_sentence": ["a.jsonl.gz"], "pmc_summarization": ["a.jsonl"], "pubmed_causal": ["pubmed_causal_language_use.csv"],
    "sharegpt": ["a.json"], "umls_relation": ["UMLS_train.jsonl"], "wikidoc_patient": ["a.json"],
}  # fmt: skip


def compressed(name: str, content: bytes) -> bytes:
    return (
        gzip.compress(content)
        if name.endswith(".gz")
        else zstandard.compress(content)
        if name.endswith(".zst")
        else content
    )


def whole(read, sentences):
    """Run a reader to its end; what it may raise is one BadInput that names a file of the test."""
    try:
        return list(read())
    except BadInput as error:
        sentences.append(str(error))
        return []


def test_every_reader_is_here():
    assert {*RAW, "hub"} == set(SOURCES)  # hub reads a source.yaml, see below
    assert set(RAW_TASKS) >= set(benchmarks.NAMES) - {"diagnosis"} and set(RAW_INSTRUCTIONS) >= set(
        instructions.NAMES
    )


@pytest.mark.parametrize("source", RAW)
@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_in_a_source_is_counted_or_refused(tmp_path, monkeypatch, source, kind):
    monkeypatch.chdir(tmp_path)
    if source in ("plain", "notes"):
        put(tmp_path / "raw/source.yaml", CARD + "\nkind: notes" * (source == "notes"))
    module, bare = SOURCES[source], RUBBISH[kind]
    for name in RAW[source]:
        for content in (bare, compressed(name, bare)):
            file, drops, sentences = tmp_path / "raw" / name, Drops(), []
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            scans = (
                [
                    found
                    for found in whole(lambda file=file: [module.scan(file)], sentences)
                    if hasattr(module, "scan")
                ]
                if hasattr(module, "scan")
                else []
            )
            told = module.first_pass([file], scans)[0] if scans else None
            documents = whole(
                lambda file=file, told=told: module.read(file, drops, *([told] if told else [])), sentences
            )  # noqa: B023
            assert all(str(file) in sentence and "\n" not in sentence for sentence in sentences)
            assert (
                documents or sentences or drops.as_dict() or not bare.strip(b"\0")
            )  # a tar of nothing but zeros is empty
            for document in documents:
                json.dumps(check_document(document, "here"), allow_nan=False).encode()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(("package", "name", "paths"), [
    *((benchmarks, name, paths) for name, paths in [*RAW_TASKS.items(), *OTHER_FORMS]), *((instructions, name, paths) for name, paths in RAW_INSTRUCTIONS.items())
])  # fmt: skip
def test_rubbish_in_a_benchmark_or_instruction_file_is_counted_or_refused(tmp_path, package, name, paths):
    for number, bare in enumerate(RUBBISH.values()):
        folder, drops, sentences = tmp_path / str(number), Drops(), []
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(compressed(path, bare))
        read = (
            (lambda: benchmarks.read(name, folder, drops))
            if package is benchmarks
            else (lambda: package.load(name).read(folder, drops))
        )  # noqa: B023
        rows = whole(read, sentences)
        assert all(str(folder) in sentence for sentence in sentences)
        assert (
            [check_row(row, "here") for row in rows]
            or sentences
            or drops.as_dict()
            or set(bare) <= set(b"\0[]{},")
        ), list(RUBBISH)[number]


# ---------------------------------------------------------------- bombs, under a limit of memory
BLOCK, TIMES = 1 << 24, 20  # 20 times 16 MiB, and a MB on the disk


def bombs(folder: Path) -> None:
    def repeated(block, before=b""):
        return gzip.compress(before) + gzip.compress(block, 1) * TIMES, zstandard.compress(
            before
        ) + zstandard.compress(block) * TIMES

    line, zst = repeated(b"a" * BLOCK, b'{"text": "')
    put(folder / "redpajama/line.jsonl.zst", zst)
    (folder / "redpajama/line.jsonl.gz").write_bytes(line)
    (folder / "redpajama/blanks.jsonl.gz").write_bytes(repeated((b" " * (BLOCK - 1)) + b"\n")[0])
    (folder / "pubmed").mkdir()
    (folder / "pubmed/record.xml.gz").write_bytes(
        repeated(b"<a/>" * (BLOCK // 4), b"<PubmedArticleSet><PubmedArticle><MedlineCitation>")[0]
    )
    (folder / "pmc").mkdir()
    (folder / "pmc/article.nxml.gz").write_bytes(repeated(b"<p></p>" * (BLOCK // 7), b"<article>")[0])
    for name, size, kind in (
        ("member", BLOCK * TIMES, tarfile.REGTYPE),
        ("name", BLOCK * TIMES, tarfile.GNUTYPE_LONGNAME),
        ("pax", 1 << 40, tarfile.XHDTYPE),
    ):
        header = tarfile.TarInfo("a.nxml")
        header.size, header.type = size, kind
        (folder / f"pmc/{name}.tar.gz").write_bytes(
            repeated(b"\0" * BLOCK, header.tobuf(tarfile.GNU_FORMAT))[0]
        )
    head = ("ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CATEGORY,DESCRIPTION,ISERROR,TEXT\n" + '1,"').encode()
    for name, block in (
        ("quote", b"a" * BLOCK),
        ("fields", (b"a" * 200 + b'\n","') * (BLOCK // 204)),
        ("lines", (b"a" * 200 + b"\n") * (BLOCK // 201)),
    ):
        (folder / "mimic_iii" / name).mkdir(parents=True)
        (folder / "mimic_iii" / name / "NOTEEVENTS.csv.gz").write_bytes(repeated(block, head)[0])
    (folder / "mimic_cxr/a").mkdir(parents=True)
    with zipfile.ZipFile(folder / "mimic_cxr/a/mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("files/p10/p1/s12345678.txt", b"a" * 5 * BLOCK)
    text = pyarrow.DictionaryArray.from_arrays(
        np.zeros(200, np.int32), ["a" * BLOCK]
    )  # one text, of which 200 are 3 GB
    put(folder / "plain/source.yaml", CARD)
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), folder / "plain/a.parquet", store_schema=False)


CHILD = """
import json, re, resource, sys
from pathlib import Path
from types import SimpleNamespace
from data_prep.schema import BadInput
from data_prep.manifest import Drops
from data_prep.sources import SOURCES
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
folder = Path(sys.argv[1])
for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "source.yaml"):
    source, drops, count, said = file.relative_to(folder).parts[0], Drops(), 0, None
    try:
        for document in SOURCES[source].read(file, drops):
            count += 1
    except BadInput as error:
        said = str(error)
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    print(json.dumps([str(file.relative_to(folder)), count, said, [drops.as_dict(), peak >> 10]]), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="measures memory as Linux tells it")
@pytest.mark.guarantee("Hostile files", "Compressed bombs are refused in little memory.")
def test_bombs_are_defused_in_little_memory(tmp_path):
    bombs(tmp_path)
    assert (
        sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 32 << 20
    )  # what lies there, of more than 6 GB
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    found = {
        name: (count, said, drops, peak)
        for name, count, said, (drops, peak) in map(json.loads, child.stdout.splitlines())
    }
    peaks = {name: peak for name, (_, _, _, peak) in found.items()}
    assert max(peaks.values()) < 2000, peaks  # MiB: an XML tree of 32 MiB of tags is the largest
    sentences = {
        "redpajama/line.jsonl.gz": "more than any text expands to", "redpajama/line.jsonl.zst": "more than any text expands to", "redpajama/blanks.jsonl.gz": "more than any text expands to",
        "pubmed/record.xml.gz": "without the end of a record", "pmc/article.nxml.gz": "larger than", "pmc/member.tar.gz": "more than any text expands to",
        "pmc/name.tar.gz": "a header of", "pmc/pax.tar.gz": "a header of", "mimic_iii/quote/NOTEEVENTS.csv.gz": "record 1 .*longer than",
        "mimic_iii/fields/NOTEEVENTS.csv.gz": "record 1 .*longer than", "mimic_iii/lines/NOTEEVENTS.csv.gz": "record 1 .*longer than",
        "mimic_cxr/a/mimic-cxr-reports.zip": None, "plain/a.parquet": None,
    }  # fmt: skip
    assert set(found) == set(sentences)
    for name, sentence in sentences.items():
        if sentence:
            with pytest.raises(BadInput, match=sentence):
                raise BadInput(found[name][1] or "nothing was said")
    assert (
        "larger than" in str(found["mimic_cxr/a/mimic-cxr-reports.zip"][2])
        and found["mimic_cxr/a/mimic-cxr-reports.zip"][0] == 0
    )
    assert found["plain/a.parquet"][0] == 200  # honest, one text at a time


def test_a_record_that_is_too_long_is_counted_and_the_next_one_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST", 1000)
    file, drops = (
        put(tmp_path / "a.jsonl", json.dumps({"text": "a" * 2000}) + '\n{"text": "good"}\n'),
        Drops(),
    )
    assert [document["text"] for document in redpajama.read(file, drops)] == ["good"] and bad_of(drops) == {
        "not JSON": 1
    }


def test_a_large_file_of_honest_text_is_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ALWAYS", 1 << 16)
    words = np.random.default_rng(0).integers(0, 1000, (2000, 60))
    content = "".join(json.dumps({"text": " ".join(map(str, row))}) + "\n" for row in words)
    assert len(content) > 4 * (1 << 16)
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        (tmp_path / name).write_bytes(compressed(name, content.encode()))
        assert len(list(redpajama.read(tmp_path / name, Drops()))) == 2000


def test_a_spreadsheet_that_claims_every_cell_is_read_by_what_it_holds(tmp_path):
    book = openpyxl.Workbook()
    for row, values in enumerate([medicationqa.COLUMNS, ("What is it?", "x", "y", "A drug.", "", "")], 1):
        for column, value in enumerate(values, 1):
            book.active.cell(row, column, value)
    book.active.cell(1, 16384, "far right")
    book.save(tmp_path / "MedInfo2019-QA-Medications.xlsx")
    [row] = medicationqa.read(tmp_path, Drops())
    assert row["completion"] == "A drug."


# ---------------------------------------------------------------- JSON and text
def test_what_only_python_reads_is_counted_as_bad(tmp_path):
    lines = [b'{"text": "a", "meta": {"x": NaN}}', b'{"text": "b", "meta": {"x": -Infinity}}', b'{"text": "c", "meta": {"x": ' + b"9" * 5000 + b"}}",
             b'{"text": "d", "meta": ' + b"[" * 500 + b"]" * 500 + b"}", b'{"text": "e", "meta": {"x": '
                                                                         b'1e999}}']  # fmt: skip
    file, drops = put(tmp_path / "a.jsonl", b"\n".join(lines)), Drops()
    documents = list(redpajama.read(file, drops))
    assert bad_of(drops) == {"not JSON": 5} and not documents
    for nested in ("[" * 200_000, "[" * 300 + "]" * 300, "9" * 5000, '{"pile_set_name": NaN}'):
        record = json.dumps({"text": "t", "meta": nested}) + "\n"
        kept = list(redpajama.read(put(tmp_path / "b.jsonl", record), Drops()))
        assert kept[0]["meta"]["meta"] == nested  # the string that it is
        assert not list(pile_pubmed.read(tmp_path / "b.jsonl", Drops()))


def test_numbers_of_thousands_of_digits_are_no_years_versions_or_pmids(tmp_path):
    huge, large = "9" * 5000, "9" * 15
    for digits in (huge, large):
        file = put(
            tmp_path / "a.xml", article_set(citation(digits), citation("7", version=digits), deleted=[digits])
        )
        scan = json.loads(json.dumps(pubmed.scan(file)))
        [told] = pubmed.first_pass([file], [scan])
        assert [document["id"] for document in pubmed.read(file, Drops(), told)] == ["pubmed:7"]
        article = (
            jats()
            .replace("<year>2012</year>", f"<year>{digits}</year>")
            .replace(">9</article-id>", f">{digits}</article-id>")
        )
        [document] = pmc.read(put(tmp_path / "a.nxml", article), Drops())
        assert document["meta"]["year"] is None and clean_documents.minhash.pmid(document) is None


# ---------------------------------------------------------------- XML
@pytest.mark.parametrize(("read", "name", "form"), [
    (SOURCES["pubmed"].read, "a.xml", article_set(citation(abstract="<AbstractText>one &file; &b; "
                                                                    "two</AbstractText>")).partition(">")[2]),
    (SOURCES["pmc"].read, "a.nxml", jats("<p>one &file; &b; two</p>").partition(">")[2]),
    (lambda file, drops: instructions.load("liveqa").read(file.parent, drops), "LiveQA-Medical-Train-1.xml",
     "<x><NLM-QUESTION><MESSAGE>one &file; &b; two</MESSAGE><ANSWER>one &file; "
     "&b;</ANSWER></NLM-QUESTION></x>"),
    (lambda file, drops: instructions.load("mediqa2019").read(file.parent, drops), "Task3-QA-Training.xml",
     '<x><Question><QuestionText>one &file; &b;</QuestionText><AnswerList><Answer '
     'ReferenceScore="4"><AnswerText>&file; &b; two</AnswerText>'
     "</Answer></AnswerList></Question></x>"),
    (lambda file, drops: benchmarks.load("ddi").read(file.parents[2], drops), "DDICorpus/Train/a.xml",
     '<x><sentence text="one, two"><entity id="1" charOffset="0-2" text="one"/><entity id="2" '
     'charOffset="5-7" text="two"/>'
     '<pair id="p" e1="1" e2="2" ddi="false"/>&file; &b;</sentence></x>'),
], ids=["pubmed", "pmc", "liveqa", "mediqa2019", "ddi"])  # fmt: skip
@pytest.mark.guarantee("Hostile files", "Entities and external DTDs are neither fetched nor expanded.")
def test_entities_and_dtds_are_neither_fetched_nor_expanded(tmp_path, read, name, form):
    secret = put(tmp_path / "secret.txt", "SECRET")
    entities = f'<!ENTITY % all SYSTEM "http://192.0.2.1/x"> %all; <!ENTITY file SYSTEM "{secret.as_uri()}"><!ENTITY a "boom"><!ENTITY b "&a;&a;&a;">'
    file = put(tmp_path / "raw" / name, f'<!DOCTYPE x SYSTEM "http://192.0.2.1/none.dtd" [{entities}]>{form}')
    said = []
    [record] = whole(lambda: read(file, Drops()), said)
    assert not said and "SECRET" not in str(record) and "boom" not in str(record) and "one" in str(record)


@pytest.mark.parametrize(
    "body",
    [
        "<!--x-->a",
        "&x;a",
        "<?x?>a",
        '<xref ref-type="bibr">1</xref> a',
        "<sup>2</sup>1",
        " ,",
        "<italic>a</italic> ",
    ],
    ids=repr,
)
def test_an_article_of_one_repeated_thing_is_read_in_time(tmp_path, body):
    times = 100_000
    file = put(tmp_path / "a.nxml", jats("<p>Begun (" + body * times + "</p>"))
    began = time.process_time()
    [document] = pmc.read(file, Drops())
    assert document["text"].startswith("The title") and time.process_time() - began < 10


def test_deep_xml_is_counted(tmp_path):
    drops = Drops()
    assert (
        not list(
            pmc.read(put(tmp_path / "a.nxml", jats("<sec>" * 1500 + "<p>x</p>" + "</sec>" * 1500)), drops)
        )
        and sum(bad_of(drops).values()) == 1
    )


# ---------------------------------------------------------------- archives
@pytest.mark.guarantee("Hostile files", "Members of archives are never written.")
def test_members_of_a_tar_are_never_written_and_what_is_no_file_is_counted(tmp_path):
    kinds = {
        "link": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "pipe": tarfile.FIFOTYPE,
        "device": tarfile.CHRTYPE,
    }
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for number, name in enumerate(
            ["../../evil.nxml", str(tmp_path / "evil.nxml"), "a/../../evil.nxml", "good.nxml"]
        ):
            content = jats(pmcid=f'<article-id pub-id-type="pmc">{number}</article-id>').encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, kind in kinds.items():
            member = tarfile.TarInfo(f"{name}.nxml")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    before, drops = sorted(tmp_path.parent.rglob("*")), Drops()
    documents = list(pmc.read(tmp_path / "a.tar.gz", drops))
    assert [document["id"] for document in documents] == [f"pmc:PMC{number}" for number in range(4)]
    assert (
        bad_of(drops) == {"member of an archive that is no file": 4}
        and sorted(tmp_path.parent.rglob("*")) == before
    )


def test_a_tar_with_a_damaged_header_in_its_middle_does_not_end_there(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.nxml", "b.nxml"):
            member = tarfile.TarInfo(name)
            member.size = len(jats())
            archive.addfile(member, io.BytesIO(jats().encode()))
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(
        content.replace(b"b.nxml", b"c.nxml", 1)
    )  # its checksum is that of the other name
    with pytest.raises(BadInput, match="a.tar: cannot be read to its end .*damaged header"):
        list(pmc.read(tmp_path / "a.tar", Drops()))


def test_members_of_a_zip_are_never_written(tmp_path):
    file = tmp_path / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../p1/s12345678.txt", "a report")
        archive.writestr("/files/p10/p2/s12345679.txt", "another")
    before = sorted(tmp_path.parent.rglob("*"))
    assert [document["id"] for document in mimic_cxr.read(file, Drops())] == [
        "mimic_cxr:s12345678",
        "mimic_cxr:s12345679",
    ]
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize(("offset", "value"), [(6, 1), (8, 99)], ids=["encrypted", "unknown compression"])
def test_a_zip_that_cannot_be_unpacked_is_named(tmp_path, offset, value):
    file = tmp_path / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("files/p10/p1/s12345678.txt", "a report")
    content = bytearray(file.read_bytes())
    for start, shift in ((content.index(b"PK\x03\x04"), 0), (content.index(b"PK\x01\x02"), 2)):
        struct.pack_into("<H", content, start + offset + shift, value)
    file.write_bytes(content)
    with pytest.raises(BadInput, match="mimic-cxr-reports.zip: cannot be read to its end"):
        list(mimic_cxr.read(file, Drops()))


# ---------------------------------------------------------------- pipes, links
def test_a_pipe_is_no_input_and_nobody_waits_for_it(tmp_path):
    (tmp_path / "raw").mkdir()
    os.mkfifo(tmp_path / "raw" / "a.jsonl")
    for path in (tmp_path / "raw" / "a.jsonl", Path("/dev/zero")):
        with pytest.raises(BadInput, match="no such file"):
            files.read_json(path)
    with pytest.raises(BadInput, match="no file of source"):
        redpajama.files(tmp_path / "raw")


def test_linked_inputs_are_read_and_circles_are_not_followed(tmp_path):
    put(tmp_path / "disk" / "a.jsonl", '{"text": "good"}\n')
    (tmp_path / "raw").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "self.jsonl").symlink_to(tmp_path / "disk" / "self.jsonl")
    put(tmp_path / "other_disk" / "b.jsonl", '{"text": "also good"}\n')
    for name in ("linked", "linked_again"):
        (tmp_path / "disk" / name).symlink_to(tmp_path / "other_disk")
    raw = tmp_path / "raw"
    assert redpajama.files(raw) == [raw / "a.jsonl", raw / "linked" / "b.jsonl"]
    (tmp_path / "other_disk" / "circle").symlink_to(tmp_path / "disk")
    with pytest.raises(BadInput, match="linked.*/circle: this link leads back"):
        redpajama.files(raw)


@pytest.mark.guarantee("Hostile files", "Outputs do not follow planted links.")
def test_outputs_do_not_follow_planted_links(tmp_path):
    put(tmp_path / "raw" / "a.jsonl", '{"text": "good"}\n')
    foreign = put(tmp_path / "foreign" / "thesis.txt", "years of work")
    for name in ("out", ".new.partial"):
        (tmp_path / name).symlink_to(foreign.parent)
    for name, said in (
        ("out", "holds files and no manifest.json"),
        ("new", "a link, which no build of ours left there"),
    ):
        with pytest.raises(BadInput, match=said):
            build_documents.build([("redpajama", tmp_path / "raw")], tmp_path / name)
        with pytest.raises(BadInput, match=said), files.whole_folder(tmp_path / name):
            pass
    (tmp_path / "rows.jsonl").symlink_to(foreign)
    files.write_jsonl(tmp_path / "rows.jsonl", [{"id": "1"}])
    assert foreign.read_text() == "years of work" and sorted(foreign.parent.iterdir()) == [foreign]


def test_an_output_on_another_disk_stays_there(tmp_path):
    put(tmp_path / "raw" / "a.jsonl", '{"text": "good"}\n')
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    for text in ("good", "better"):
        put(tmp_path / "raw" / "a.jsonl", json.dumps({"text": text}) + "\n")
        build_documents.build([("redpajama", tmp_path / "raw")], tmp_path / "out")
        assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "out" / "manifest.json").is_file()


# ---------------------------------------------------------------- YAML
LOADERS = {
    "sidecar": sidecar.read_sidecar, "cleaning plan": clean_documents.read_plan, "instruction plan": read_plan, "cluster": executors.read_cluster,
    "models": lambda path: registry.families([path]),
}  # fmt: skip
YAMLS = {
    "a python object": "!!python/object/apply:os.system ['touch pwned']",
    "laughs": "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "a huge integer": f"domain: {'9' * 5000}",
    "deep": "[" * 1500,
    "a date that is none": "domain: 2024-99-99",
    "not utf-8": b"domain: caf\xe9",
    "nul": b"domain: \0",
    "a list": "- a",
    "a number": "1",
    "large": "a: " + "b" * (1 << 21),
    "strange keys": "{[a]: 1}",
    "models that are none": "models: {a: [], 1: {}, b: 3}",
}  # fmt: skip


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", YAMLS)
def test_hostile_yaml_is_one_sentence(tmp_path, monkeypatch, loader, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="a.yaml: [^\n]+$"):
        LOADERS[loader](put(tmp_path / "a.yaml", YAMLS[kind]))
    assert not (tmp_path / "pwned").exists()


# ---------------------------------------------------------------- Parquet and numpy
def test_damaged_parquet_is_one_sentence(tmp_path):
    put(tmp_path / "source.yaml", CARD)
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"text": [f"text {i}" for i in range(1000)]}), file, compression="zstd"
    )
    whole_file, rng = file.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole_file)
        for place in rng.integers(4, len(content) - 8, 8):
            content[place] = rng.integers(256)
        file.write_bytes(content)
        sentences = []
        whole(lambda: plain.read(file, Drops()), sentences)
        assert all("a.parquet: " in sentence for sentence in sentences)


# ---------------------------------------------------------------- models
class Trap:
    """A pickle that leaves a file when it is loaded as Python loads one."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def guard():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "recipes")
        import checks

        yield checks


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "model")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth", "model.pt"]
)
@pytest.mark.guarantee("Hostile files", "Weights that are pickles are refused before they are opened.")
def test_weights_that_are_pickles_are_refused_before_they_are_opened(tmp_path, guard, model, name):
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Trap(tmp_path / "pwned")))
    with pytest.raises(BadInput, match="only safetensors are read. Next: python -c"):
        registry.read_entry(str(model))
    with pytest.raises(guard.Refused, match="only safetensors are read. Next: python -c"):
        guard.check_model(str(model), 16)
    assert not (tmp_path / "pwned").exists()


def test_pickles_beside_safetensors_are_not_opened(tmp_path, guard, model):
    (model / "training_args.bin").write_bytes(pickle.dumps(Trap(tmp_path / "pwned")))
    (model / "optimizer.pt").write_bytes(pickle.dumps(Trap(tmp_path / "pwned")))
    assert (
        guard.check_model(str(model), 16)[0].model_type == "llama"
        and registry.read_entry(str(model)).path == model
    )
    assert not (tmp_path / "pwned").exists()


@pytest.mark.guarantee("Hostile files", "Code of a model, and code in an optimizer's file, is not run.")
def test_code_of_a_model_is_not_run(tmp_path, guard, model):
    code = f"import os\nos.mkdir({str(tmp_path / 'pwned')!r})\nclass X: pass\n"
    for file, key, value in (
        ("config.json", {"AutoConfig": "evil.X", "AutoModelForCausalLM": "evil.X"}, "evil"),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.X", "evil.X"]}, "Evil"),
    ):
        (model / "evil.py").write_text(code)
        before = (model / file).read_text()
        settings = json.loads(before) | {
            "auto_map": key,
            "model_type" if file == "config.json" else "tokenizer_class": value,
        }
        (model / file).write_text(json.dumps(settings))
        with pytest.raises(guard.Refused, match=f"{model}: "):
            guard.check_model(str(model), 16)
        try:
            DocumentTokenizer(str(model))
        except BadInput as error:
            assert str(model) in str(error)
        (model / file).write_text(before)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"model_type": ' + b"9" * 5000 + b"}",
        b"\xff",
        b'{"model_type": []}',
    ],
)
def test_a_config_that_is_none_is_one_sentence(guard, model, content):
    (model / "config.json").write_bytes(content)
    with pytest.raises((guard.Refused, OSError), match=r"config|JSON|model"):
        guard.check_model(str(model), 16)


def test_a_checkpoint_with_code_in_its_optimizer_is_not_resumed(tmp_path):
    from transformers import Trainer, TrainingArguments

    trainer = Trainer(
        torch.nn.Linear(1, 1), TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none")
    )
    trainer.create_optimizer_and_scheduler(1)
    for name in ("optimizer.pt", "scheduler.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "pwned")))
    (tmp_path / "rng_state.pth").write_bytes(pickle.dumps(Trap(tmp_path / "pwned")))
    for load in (trainer._load_optimizer_and_scheduler, trainer._load_rng_state):
        with pytest.raises(pickle.UnpicklingError):
            load(str(tmp_path))
    assert not (tmp_path / "pwned").exists()


def test_an_adapter_that_is_a_pickle_is_not_merged(tmp_path, guard, model):
    import merge_adapter
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    get_peft_model(
        AutoModelForCausalLM.from_pretrained(model), LoraConfig(task_type="CAUSAL_LM")
    ).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "pwned")))
    arguments = merge_adapter.MergeArguments(
        adapter=str(tmp_path / "adapter"), output_dir=str(tmp_path / "merged")
    )
    with pytest.raises(guard.Refused, match="only safetensors are read"):
        merge_adapter.main(arguments)
    assert not (tmp_path / "pwned").exists() and not (tmp_path / "merged").exists()


SAID = b"quillfever"  # what a row may say, and an error about it may not
ROWS = [
    DEEP, b"\xff", b"9" * 5000, b"[]", b"1", b'"text"', b'{"messages": [{}]', b'{"prompt": 1}', b"\0", b'{"prompt": "%s \xe9"}' % SAID,
    b'{"prompt": "%s", "completion": 3}' % SAID, b'{"messages": "%s"}' % SAID, b'{"messages": [{"role": '
                                                                               b'"user", "content": '
                                                                               b'["%s"]}]}' % SAID,
    b'{"prompt": {"%s": 1}, "completion": "%s"}' % (SAID, SAID),
]  # fmt: skip


@pytest.mark.parametrize("line", ROWS, ids=lambda line: repr(line[:20]))
def test_rows_that_are_none_are_one_sentence(tmp_path, guard, line):
    import sft

    path = put(tmp_path / "train.jsonl", line + b"\n")
    for chat in (True, False):
        with pytest.raises(guard.Refused, match="train.jsonl: line 1 is not a row") as error:
            sft.read_rows(path, chat)
        assert SAID.decode() not in str(error.value)


def test_blocks_that_are_cut_or_hold_a_pickle_are_one_sentence(tmp_path, guard):
    import pretrain

    outputs = [{"path": "blocks.arrow", "split": "train", "domain": "general"}]
    facts = {"domains": ["general"], "outputs": outputs, "block_length": 4, "order": {}, "tokenizer": {}}
    manifest, order = json.dumps(facts).encode(), np.arange(4)
    trap = io.BytesIO()
    np.save(trap, np.array([Trap(tmp_path / "pwned")], dtype=object), allow_pickle=True)
    numbers = io.BytesIO()
    np.save(numbers, order)
    hostile = (
        (manifest, trap.getvalue(), b""),
        (manifest, numbers.getvalue()[:20], b""),
        (manifest, numbers.getvalue(), b"ARROW1 cut"),
        (manifest, numbers.getvalue(), b""),
        (b"[]", numbers.getvalue(), b""),
        (b"{}", numbers.getvalue(), b""),
        (json.dumps(facts | {"block_length": "long"}).encode(), numbers.getvalue(), b""),
        (b"\xff", numbers.getvalue(), b""),
        (DEEP, b"", b""),
    )
    run = SimpleNamespace(blocks=str(tmp_path), global_batch_tokens=4)
    for given in hostile:
        for name, content in zip(("manifest.json", "order.npy", "blocks.arrow"), given, strict=True):
            (tmp_path / name).write_bytes(content)
        with pytest.raises(guard.Refused, match=f"^{tmp_path}.* Next: "):
            pretrain.load_data((run, None))
    assert not (tmp_path / "pwned").exists()


# ---------------------------------------------------------------- logged outputs
GOOD = rows_of("medqa", "choice", [("Which?", "A")], choices=["A", "B"])[0] | {"output": "A"}
HUGE = 10**400


@pytest.mark.parametrize("change", [
    {"choices": 5}, {"choices": "AB"}, {"choices": [1, 2]}, {"choices": {"A": 1}}, {"options": 3}, {"options": [None]}, {"output": [[HUGE, 1], [1, 1]]},
    {"output": [[0.5, HUGE], [0.5, 1]]}, {"output": [["a", 1], [1, 1]]}, {"output": [[float("nan"), 1], [1, 1]]}, {"output": {}}, {"id": 5}, {"access": []},
    {"completion": 3}, {"scoring": {}}, {"task": ["x"]}, {"choices": ["A", ""]},
], ids=str)  # fmt: skip
def test_hostile_outputs_are_one_sentence(tmp_path, change):
    path = put(tmp_path / "medqa.jsonl", json.dumps(GOOD | change) + "\n")
    with pytest.raises(BadInput, match="medqa.jsonl: line 1: "):
        run_outputs.read_rows(path)


@pytest.mark.parametrize(
    "content", ["[]", "1", '{"settings": [], "tasks": 3}', '{"tasks": {"medqa": []}}', '{"settings": null}']
)
def test_a_hostile_record_of_a_run_is_one_sentence_or_no_facts(tmp_path, content):
    path = put(tmp_path / "medqa.jsonl", json.dumps(GOOD) + "\n")
    put(tmp_path / "run.json", content)
    try:
        assert (
            run_outputs.read_facts(tmp_path, "medqa", path, run_outputs.read_rows(path))["template"] is None
        )
    except BadInput as error:
        assert str(error).startswith(f"{tmp_path / 'run.json'}: ")


def test_hostile_samples_of_the_harness_are_one_sentence(tmp_path):
    for sample in (
        {"doc": 1},
        {"doc": GOOD, "resps": [[[HUGE]], [[1]]]},
        {"doc": GOOD, "resps": {}},
        {"doc": GOOD, "resps": [[[[], 1]]] * 2},
    ):
        path = put(tmp_path / "samples_mibe_medqa_2024.jsonl", json.dumps(sample) + "\n")
        with pytest.raises(BadInput, match="samples_mibe_medqa_2024.jsonl: line 1"):
            run_outputs.read_rows(path)
    put(path, json.dumps({"doc": GOOD, "resps": [["A"]], "arguments": [1]}) + "\n")
    for content in ('{"config": [], "n-shot": 2}', "[]"):
        put(tmp_path / "results_2024.json", content)
        facts = whole(
            lambda: [run_outputs.read_facts(tmp_path, "medqa", path, run_outputs.read_rows(path))], said := []
        )
        assert said or facts[0]["shots"] == {"number": None, "ids": None}
