"""The readers of the pretraining corpus and build_documents, on invented records in the publishers' formats
and on the real samples."""

import csv
import gzip
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from data_prep import build_documents
from data_prep.files import NOT_UTF8
from data_prep.manifest import Drops
from data_prep.schema import BadInput, check_document
from data_prep.sources import SOURCES, mimic_cxr, mimic_iii, mimic_iv_note, pmc, pubmed, redpajama
from data_prep.sources.raw_files import csv_rows

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(module, file, *first_pass):
    """(documents, {reason: count}) of one raw file; every document is checked."""
    drops = Drops()
    documents = [check_document(document, str(file)) for document in module.read(file, drops, *first_pass)]
    return documents, {
        reason: entry["count"] for reasons in drops.as_dict().values() for reason, entry in reasons.items()
    }


def written(folder: Path) -> list[dict]:
    return [json.loads(line) for file in sorted(folder.rglob("*.jsonl.gz")) for line in gzip.open(file, "rt")]


# --- PubMed ---


def citation(
    pmid="1",
    *,
    version=1,
    title="A title.",
    abstract="<AbstractText>Some text.</AbstractText>",
    language="eng",
    extra="",
    kinds=("Journal Article",),
    date="<Year>2001</Year>",
) -> str:
    pmid = f'<PMID Version="{version}">{pmid}</PMID>' if pmid else ""
    abstract = f"<Abstract>{abstract}</Abstract>" if abstract else ""
    kinds = "".join(f"<PublicationType>{kind}</PublicationType>" for kind in kinds)
    return (
        f"<MedlineCitation>{pmid}<Article><Journal><JournalIssue><PubDate>{date}</PubDate></JournalIssue>"
        "<Title>J</Title></Journal>"
        f"<ArticleTitle>{title}</ArticleTitle>{abstract}<Language>{language}</Language>"
        f"<PublicationTypeList>{kinds}</PublicationTypeList></Article>{extra}</MedlineCitation>"
    )


def article_set(*citations, deleted=()) -> str:
    body = "".join(f"<PubmedArticle>{c}<PubmedData/></PubmedArticle>" for c in citations)
    pmids = "".join(f"<PMID Version='1'>{pmid}</PMID>" for pmid in deleted)
    doctype = (
        '<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD" '
        '"https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_190101.dtd">'
    )
    return (
        f"{doctype}<PubmedArticleSet>"
        f"{body}{f'<DeleteCitation>{pmids}</DeleteCitation>' if pmids else ''}</PubmedArticleSet>"
    )


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz"])
@pytest.mark.parametrize(
    "content",
    [
        article_set(citation("7")),
        f"<MedlineCitationSet>{citation('7')}</MedlineCitationSet>",
        f"<PubmedArticle>{citation('7')}</PubmedArticle>",
        citation("7"),
    ],
    ids=["PubmedArticleSet", "MedlineCitationSet", "PubmedArticle", "MedlineCitation"],
)
def test_pubmed_roots(tmp_path, name, content):
    documents, drops = read(pubmed, put(tmp_path / name, content))
    assert [d["id"] for d in documents] == ["pubmed:7"] and drops == {}
    assert documents[0]["text"] == "A title.\n\nSome text." and documents[0]["meta"]["year"] == 2001


def test_pubmed_text_is_whole(tmp_path):
    abstract = (
        '<AbstractText Label="METHODS" NlmCategory="METHODS">We gave <i>E. coli</i> 10<sup>6</sup> cells, '
        '<mml:math xmlns:mml="http://www.w3.org/1998/Math/MathML">\n <mml:mi>r</mml:mi>\n</mml:math> = '
        "0.9<!-- no -->5.</AbstractText>"
        '<AbstractText Label="RESULTS">H<sub>2</sub>O.</AbstractText><CopyrightInformation>Copyright '
        "X</CopyrightInformation>"
    )
    other = (
        '<OtherAbstract Type="Publisher" Language="fre"><AbstractText>Autre.</AbstractText></OtherAbstract>'
    )
    file = put(
        tmp_path / "a.xml",
        article_set(citation(title="On <i>E. coli</i> growth.", abstract=abstract, extra=other)),
    )
    (document,), _ = read(pubmed, file)
    assert (
        document["text"]
        == "On E. coli growth.\n\nMETHODS: We gave E. coli 10^6 cells, r = 0.95.\nRESULTS: H2O."
    )


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"abstract": ""}, "no abstract"),
        ({"abstract": "<AbstractText> </AbstractText>"}, "no abstract"),
        ({"pmid": ""}, "no PMID"),
        ({"language": "ger", "title": "[Translated title]."}, "not English"),
        ({"kinds": ("Journal Article", "Retracted Publication")}, "retracted, or a retraction notice"),
        ({"kinds": ("Retraction of Publication",)}, "retracted, or a retraction notice"),
    ],
)
def test_pubmed_drops_are_counted(tmp_path, changes, reason):
    documents, drops = read(
        pubmed, put(tmp_path / "a.xml", article_set(citation("2"), citation(**{"pmid": "3", **changes})))
    )
    assert [d["id"] for d in documents] == ["pubmed:2"] and drops == {reason: 1}


def test_pubmed_year_from_medline_date_and_empty_title(tmp_path):
    date = "<MedlineDate>1998 Dec-1999 Jan</MedlineDate>"
    (document,), _ = read(pubmed, put(tmp_path / "a.xml", article_set(citation(title="", date=date))))
    assert document["meta"]["year"] == 1998 and document["text"] == "Some text."


def test_pubmed_deleted_and_replaced_records_across_files(tmp_path):
    raw = tmp_path / "raw"
    old = citation("3", abstract="<AbstractText>Old.</AbstractText>")
    put(
        raw / "pubmed01.xml",
        article_set(citation("1"), citation("2"), old, citation("4", version=2, title="Second version.")),
    )
    new = citation("3", abstract="<AbstractText>New.</AbstractText>")
    retracted = citation("2", kinds=("Retracted Publication",))
    put(
        raw / "pubmed02.xml.gz",
        article_set(new, citation("4", title="First version."), retracted, deleted=["1"]),
    )
    manifest = build_documents.build([("pubmed", raw)], tmp_path / "out")
    texts = {d["id"]: d["text"] for d in written(tmp_path / "out")}
    assert texts == {"pubmed:3": "A title.\n\nNew.", "pubmed:4": "Second version.\n\nSome text."}
    counts = {reason: entry["count"] for reason, entry in manifest["dropped"]["pubmed"].items()}
    assert counts == {
        "deleted by NLM": 1,
        "replaced by a newer record": 3,
        "retracted, or a retraction notice": 1,
    }
    assert [entry["records"] for entry in manifest["inputs"]] == [4, 3]


@pytest.mark.guarantee("Corpus", "XML is neither expanded nor fetched.")
def test_xml_fetches_and_expands_nothing(tmp_path):
    secret = put(tmp_path / "secret.txt", "SECRET")
    entities = f'<!ENTITY file SYSTEM "{secret.as_uri()}"><!ENTITY a "boom"><!ENTITY b "&a;&a;&a;">'
    doctype = f'<!DOCTYPE MedlineCitation SYSTEM "http://192.0.2.1/none.dtd" [{entities}]>'
    text = "<AbstractText>one &file; &b; &alpha; two</AbstractText>"
    (document,), _ = read(pubmed, put(tmp_path / "a.xml", doctype + citation(abstract=text)))
    assert "SECRET" not in document["text"] and "boom" not in document["text"]
    assert document["text"].endswith("\u03b1 two")


def test_pubmed_frees_what_it_has_read(tmp_path):
    file = put(tmp_path / "a.xml", article_set(*(citation(str(n)) for n in range(1, 3000))))
    most = 0
    for _, element in pubmed._records(file):
        most = max(most, len(element.getroottree().getroot()))
    assert most < 300  # the parser reads some 32 kB ahead, about 80 of these records


# --- PubMed Central ---


def jats(
    body="<sec><title>Intro</title><p>Body text.</p></sec>",
    *,
    pmcid='<article-id pub-id-type="pmc">123</article-id>',
    permissions="",
    abstract="<abstract><p>Short.</p></abstract>",
    attributes="",
    back="",
) -> str:
    body = f"<body>{body}</body>" if body is not None else ""
    return (
        '<!DOCTYPE article PUBLIC "-//NLM//DTD JATS v1.0" "JATS-archivearticle1.dtd">'
        '<article xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'xmlns:mml="http://www.w3.org/1998/Math/MathML" {attributes}>'
        f"<front><journal-meta><journal-title>J</journal-title></journal-meta><article-meta>{pmcid}"
        '<article-id pub-id-type="pmid">9</article-id><title-group><article-title>The <italic>'
        "title</italic></article-title></title-group>"
        f"<pub-date><year>2012</year></pub-date>{permissions}{abstract}</article-meta></front>"
        f"{body}{back}</article>"
    )


def pmc_text(tmp_path, body, **more) -> str:
    (document,), _ = read(pmc, put(tmp_path / "a.nxml", jats(body, **more)))
    return document["text"]


def test_pmc_blocks(tmp_path):
    body = (
        "<p>Before<fig><label>Fig 1</label><caption><p>CAPTION</p></caption></fig> after.</p>"
        "<sec><label>1</label><title>Methods</title><p>Let "
        "<inline-formula><mml:math><mml:mi>MATH</mml:mi></mml:math></inline-formula>"
        "be, 10<sup>5</sup> cells, H<sub>2</sub>O"
        "<table-wrap><table><tr><td>CELL</td></tr></table></table-wrap>, see <xref ref-type='fig' "
        "rid='f'>Figure 1</xref>.</p>"
        "<list><list-item><p>Item one</p></list-item><list-item><p>Item two</p></list-item></list>"
        "<disp-formula>FORMULA</disp-formula><ref-list><ref><mixed-citation>REF</mixed-citation></ref>"
        "</ref-list></sec>"
        "<sec><title>Supporting</title><supplementary-material><p>S1</p></supplementary-material></sec>"
        "<sec><title>Acknowledgements</title><p>THANKS</p></sec>"
    )
    back = (
        "<back><ack><p>THANKS</p></ack><fn-group><fn><p>NOTE</p></fn></fn-group><ref-list><ref>"
        "REF</ref></ref-list></back>"
    )
    abstract = (
        "<abstract><sec><title>Aim</title><p>First.</p></sec></abstract><abstract "
        "abstract-type='summary'><p>Second.</p></abstract>"
    )
    assert pmc_text(tmp_path, body, back=back, abstract=abstract).split("\n\n") == [
        "The title", "Aim", "First.", "Second.", "Before after.", "Methods",
        "Let be, 10^5 cells, H2O, see Figure 1.", "Item one", "Item two",
    ]  # fmt: skip


CITE = "<xref ref-type='bibr' rid='r'>{}</xref>".format


@pytest.mark.parametrize(
    "marked, clean",
    [
        (f"Known [{CITE(1)}-{CITE(3)},{CITE(7)}]. Next", "Known. Next"),
        (f"Known {CITE('[1]')}, {CITE('[2]')}&#8211;{CITE('[4]')}. Next", "Known. Next"),
        (f"Known.<sup>{CITE(1)},{CITE(2)}</sup> Next", "Known. Next"),
        (f"Known ({CITE('Hites 2004')}; {CITE('Law et al. 2003')}). Next", "Known. Next"),
        (f"Known (see also {CITE('Hites 2004')}, e.g. {CITE('Law 2003')}). Next", "Known. Next"),
        (f"Known (Figure 1; {CITE(3)}). Next", "Known (Figure 1). Next"),
        (f"{CITE('Hites (2004)')} showed [p = 0.01].", "Hites (2004) showed [p = 0.01]."),
        (f"As Law et al. {CITE('[3]')}. Next [1,12]", "As Law et al. Next [1,12]"),
    ],
)
def test_pmc_citation_marks(tmp_path, marked, clean):
    assert pmc_text(tmp_path, f"<p>{marked}</p>").split("\n\n")[-1] == clean


LICENSED = '<permissions><license {}><license-p>{}</license-p></license></permissions>'.format  # fmt: skip


@pytest.mark.parametrize(
    "permissions, license",
    [
        (LICENSED('xlink:href="http://creativecommons.org/licenses/by/2.0"', "Open Access"), "CC BY"),
        (LICENSED('license-type="CC BY-NC-ND"', ""), "CC BY-NC-ND"),
        (
            LICENSED(
                'license-type="open-access"',
                "distributed under the Creative Commons Attribution License, which permits use",
            ),
            "CC BY",
        ),
        (
            LICENSED(
                "",
                "Creative Commons Attribution Non-Commercial License "
                "(http://creativecommons.org/licenses/by-nc/3.0)",
            ),
            "CC BY-NC",
        ),
        (
            LICENSED("", "the Creative Commons Attribution-Noncommercial-Share Alike 3.0 license"),
            "CC BY-NC-SA",
        ),
        (LICENSED("", "under the Creative Commons CC0 public domain dedication"), "CC0"),
        (
            LICENSED(
                'xlink:href="http://creativecommons.org/licenses/by/4.0/"',
                "The Public Domain Dedication waiver (http://creativecommons.org/publicdomain/zero/1.0/) "
                "applies to the data",
            ),
            "CC BY",
        ),
        (LICENSED('license-type="public-domain"', "lies in the public domain"), "public domain"),
        (LICENSED('license-type="open-access"', "All rights reserved."), "unknown"),
        ("", "unknown"),
        # NLM DTD 2.x: no <permissions>, the words stand in the copyright statement
        (
            "<copyright-statement>X. This is an open-access article under the Creative Commons "
            "Attribution License.</copyright-statement>",
            "CC BY",
        ),
    ],
)
def test_pmc_license(tmp_path, permissions, license):
    (document,), _ = read(pmc, put(tmp_path / "a.nxml", jats(permissions=permissions)))
    assert document["license"] == license


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"body": None}, "no body text"),
        ({"body": "<fig><caption><p>Scan</p></caption></fig>"}, "no body text"),
        ({"pmcid": ""}, "no PMCID"),
        ({"attributes": 'xml:lang="es"'}, "not English"),
    ],
)
def test_pmc_drops_are_counted(tmp_path, changes, reason):
    assert read(pmc, put(tmp_path / "a.nxml", jats(**changes))) == ([], {reason: 1})


@pytest.mark.parametrize("kind, value", [("pmc", "123"), ("pmc", "PMC123"), ("pmcid", "PMC123")])
def test_pmc_ids_of_both_generations(tmp_path, kind, value):
    pmcid = f'<article-id pub-id-type="{kind}">{value}</article-id>'
    (document,), _ = read(pmc, put(tmp_path / "a.nxml", jats(pmcid=pmcid)))
    assert (
        document["id"] == "pmc:PMC123"
        and document["meta"]["pmid"] == "9"
        and document["meta"]["year"] == 2012
    )


# --- MIMIC ---

NOTE_COLUMNS = [
    "ROW_ID",
    "SUBJECT_ID",
    "HADM_ID",
    "CHARTDATE",
    "CHARTTIME",
    "STORETIME",
    "CATEGORY",
    "DESCRIPTION",
    "CGID",
    "ISERROR",
    "TEXT",
]
NOTE = dict.fromkeys(NOTE_COLUMNS, "") | {"ROW_ID": "1", "CATEGORY": "Nursing ", "TEXT": "A note."}
IV_COLUMNS = ["note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime", "storetime", "text"]


def table(columns, rows) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize("name", ["NOTEEVENTS.csv", "NOTEEVENTS.csv.gz"])
def test_mimic_iii(tmp_path, name):
    long_note = 'Line one, "quoted"\n\nline two [**Name**]\r\n' + "word " * 60_000
    rows = [
        NOTE | {"TEXT": long_note},
        NOTE | {"ROW_ID": "2", "ISERROR": "1"},
        NOTE | {"ROW_ID": "3", "TEXT": " \n"},
    ]
    file = put(tmp_path / name, table(NOTE_COLUMNS, rows))
    (document,), drops = read(mimic_iii, file)
    assert (
        document["id"] == "mimic_iii:1"
        and document["text"] == long_note
        and document["meta"]["category"] == "Nursing"
    )
    assert (document["domain"], document["access"]) == ("clinical", "credentialed")
    assert drops == {"marked as an error (ISERROR)": 1, "empty text": 1}


def test_mimic_iv_note_reads_both_tables_and_not_the_details(tmp_path):
    row = dict.fromkeys(IV_COLUMNS, "") | {"note_id": "10-DS-1", "text": "First\nsecond"}
    put(tmp_path / "raw" / "discharge.csv.gz", table(IV_COLUMNS, [row]))
    put(
        tmp_path / "raw" / "radiology.csv",
        table(IV_COLUMNS, [row | {"note_id": "10-RR-1"}, row | {"note_id": "10-RR-2", "text": ""}]),
    )
    put(tmp_path / "raw" / "discharge_detail.csv", "note_id,subject_id,field_name\n")
    found = mimic_iv_note.files(tmp_path / "raw")
    assert [file.name for file in found] == ["discharge.csv.gz", "radiology.csv"]
    assert read(mimic_iv_note, found[0])[0][0]["text"] == "First\nsecond"
    assert read(mimic_iv_note, found[1])[1] == {"empty text": 1}


@pytest.mark.parametrize(
    "content, message",
    [
        (table(["ROW_ID", "TEXT"], [{"ROW_ID": "1", "TEXT": "x"}]), "column 'SUBJECT_ID' is missing"),
        (table(NOTE_COLUMNS, [NOTE]) + "2,3\n", "record 2 .* has 2 columns, the header has 11"),
        (table(NOTE_COLUMNS, [NOTE]) + '2,,,,,,,,,,"cut in the mid', "record 2 .* not valid CSV"),
    ],
    ids=["column", "width", "quote"],
)
def test_mimic_iii_bad_tables(tmp_path, content, message):
    with pytest.raises(BadInput, match=f"NOTEEVENTS.csv: .*{message}"):
        read(mimic_iii, put(tmp_path / "NOTEEVENTS.csv", content))


def test_an_export_without_a_header_is_refused_without_a_word_of_it(tmp_path):
    note = NOTE | {
        "TEXT": "Mr Ward was found with a fever of 39.2, and asks for his wife",
        "CATEGORY": "Nursing",
    }
    file = put(tmp_path / "NOTEEVENTS.csv", table(NOTE_COLUMNS, [note]).partition("\n")[2])
    with pytest.raises(
        BadInput,
        match="'ROW_ID' is missing .the first line has 11 cells and does not look like a header.. Next:",
    ) as refused:
        read(mimic_iii, file)
    assert not any(word in str(refused.value).lower() for word in ("ward", "fever", "nursing"))
    with pytest.raises(BadInput, match="'SUBJECT_ID' is missing .found: row_id, text.. Next:"):
        read(mimic_iii, put(tmp_path / "NOTEEVENTS.csv", "ROW_ID,TEXT\n1,x\n"))


def test_mimic_cxr(tmp_path):
    report = put(
        tmp_path / "files/p10/p10000001/s50000001.txt",
        " FINAL REPORT\n INDICATION:  ___\n\n IMPRESSION: None.\n",
    )
    blank = put(tmp_path / "files/p10/p10000001/s50000002.txt", " \n")
    put(tmp_path / "LICENSE.txt", "no report")
    assert mimic_cxr.files(tmp_path) == [report, blank]
    (document,), _ = read(mimic_cxr, report)
    assert document["id"] == "mimic_cxr:s50000001" and document["meta"] == {"subject_id": "10000001"}
    assert document["text"] == report.read_text()
    assert read(mimic_cxr, blank) == ([], {"empty text": 1})


# --- RedPajama ---


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_redpajama_meta_shapes(tmp_path, ending):
    lines = [
        {"text": "one", "meta": {"arxiv_id": "1"}},
        {"text": "two", "meta": json.dumps({"title": "T"}), "red_pajama_subset": "wikipedia"},
        {"text": "three", "url": "http://a", "language_score": 0.9},
        {"text": " "},
        {"text": "half \ud83d"},
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = put(
        tmp_path / "common_crawl" / f"a{ending}",
        zstandard.compress(content) if ending.endswith("zst") else content,
    )
    documents, drops = read(redpajama, file)
    assert drops == {"empty text": 1, "not valid Unicode": 1}
    where = [{"file": file.name, "line": number} for number in (1, 2, 3)]
    assert [d["meta"] for d in documents] == [
        {"arxiv_id": "1", "slice": "common_crawl"} | where[0],
        {"title": "T", "slice": "wikipedia"} | where[1],
        {"url": "http://a", "language_score": 0.9, "slice": "common_crawl"} | where[2],
    ]
    assert len({d["id"] for d in documents}) == 3 and {d["domain"] for d in documents} == {"general"}


def test_redpajama_id_follows_the_text_and_slice_is_not_guessed(tmp_path):
    line = json.dumps({"text": "same", "meta": {}})
    (first,), _ = read(redpajama, put(tmp_path / "x" / "arxiv_sample.jsonl", line))
    (second,), _ = read(redpajama, put(tmp_path / "y" / "bookings.jsonl", "\n" + line))
    assert first["id"] == second["id"] and (first["meta"]["slice"], second["meta"]["slice"]) == (
        "arxiv",
        "unknown",
    )


# --- build_documents ---


def test_build_documents_of_every_source(tmp_path, capsys):
    raw = tmp_path / "raw"
    put(raw / "pubmed" / "a.xml", article_set(citation()))
    put(raw / "pmc" / "a.nxml", jats(permissions=LICENSED('license-type="CC BY-NC"', "")))
    put(raw / "pmc" / "b.nxml", jats(pmcid='<article-id pub-id-type="pmc">124</article-id>'))
    put(raw / "mimic_iii" / "NOTEEVENTS.csv", table(NOTE_COLUMNS, [NOTE, NOTE]))
    put(
        raw / "mimic_iv_note" / "discharge.csv",
        table(IV_COLUMNS, [dict.fromkeys(IV_COLUMNS, "") | {"note_id": "1", "text": "t"}]),
    )
    put(raw / "mimic_cxr" / "p10" / "p10000001" / "s50000001.txt", "report")
    put(raw / "redpajama" / "arxiv" / "part.jsonl", '{"text": "a"}\n')
    put(raw / "redpajama" / "c4" / "part.jsonl.gz", '{"text": "b"}\n{"text": "a"}\n')
    put(raw / "pile_pubmed" / "00.jsonl", '{"text": "c", "meta": {"pile_set_name": "PubMed Central"}}\n')
    put(raw / "guidelines" / "who.jsonl", '{"id": "g", "source": "who", "title": "T", "clean_text": "d"}\n')
    put(raw / "plain" / "notes.jsonl", '{"text": "e"}\n')
    put(raw / "plain" / "source.yaml", "domain: clinical\nlicense: our own\naccess: gated\n")
    # a dataset of the Hub and your own notes: test_more_sources.py, test_own_data.py
    names = [name for name in SOURCES if name not in ("hub", "notes")]
    arguments = [argument for name in names for argument in ("--source", f"{name}={raw / name}")]

    build_documents.main([*arguments, "--out", str(tmp_path / "one")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == names
    assert "2 records, 1 documents; dropped: duplicate id 1" in lines[2]

    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert (
        manifest["access"] == "credentialed"
        and "PhysioNet Credentialed Health Data License 1.5.0" in manifest["licenses"]
    )
    assert manifest["document_licenses"]["pmc"] == {"CC BY-NC": 1, "unknown": 1}
    assert sorted(
        file.relative_to(tmp_path / "one").as_posix() for file in (tmp_path / "one").rglob("*.jsonl.gz")
    ) == [
        "guidelines/who.jsonl.gz",
        "mimic_cxr/mimic_cxr_00000.jsonl.gz",
        "mimic_iii/NOTEEVENTS.jsonl.gz",
        "mimic_iv_note/discharge.jsonl.gz",
        "pile_pubmed/00.jsonl.gz",
        "plain/notes.jsonl.gz",
        "pmc/pmc_00000.jsonl.gz",
        "pubmed/a.jsonl.gz",
        "redpajama/part.jsonl.gz",
        "redpajama/part_2.jsonl.gz",
    ]
    for entry in manifest["outputs"]:
        lines_in_file = gzip.decompress((tmp_path / "one" / entry["path"]).read_bytes()).splitlines()
        assert (
            len(lines_in_file) == entry["records"]
            and json.loads(lines_in_file[0])["source"] == entry["source"]
        )
    assert sum(entry["records"] for entry in manifest["outputs"]) == len(written(tmp_path / "one")) == 11
    assert sum(entry["records"] for entry in manifest["inputs"]) == 11 + 2
    assert {e["source"]: e["access"] for e in manifest["inputs"]}["plain"] == "gated"
    assert all(re.fullmatch("[0-9a-f]{64}", entry["sha256"]) for entry in manifest["inputs"])

    build_documents.main([*arguments, "--out", str(tmp_path / "two")])
    for file in (tmp_path / "one").rglob("[!.]*.*"):
        assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes(), (
            "same inputs, other bytes"
        )


GOOD_LINE = b'{"text": "a"}\n'


@pytest.mark.parametrize(
    "source, name, content, message",
    [
        ("pubmed", "gone.xml", None, "no such file"),
        ("redpajama", "empty.jsonl", b"", "the file is empty"),
        (
            "redpajama",
            "cut.jsonl.gz",
            gzip.compress(GOOD_LINE * 5000, mtime=0)[:-20],
            "cannot be read to its end",
        ),
        (
            "pubmed",
            "cut.xml.gz",
            gzip.compress(article_set(*[citation()] * 500).encode(), mtime=0)[:-20],
            "cannot be read to its end",
        ),
        ("pubmed", "cut.xml", article_set(citation())[:-30].encode(), "not well-formed XML"),
        ("pubmed", "other.xml", b"<html><p>Not found</p></html>", "root element is 'html'"),
        ("pmc", "other.nxml", b"<html><p>Not found</p></html>", "no <article>"),
        ("pmc", "cut.nxml", jats()[:-30].encode(), "not well-formed XML"),
        ("redpajama", "bad.jsonl", GOOD_LINE + b'{"text": \n', "line 2: not JSON"),
        (
            "redpajama",
            "other.jsonl",
            b'{"content": "a"}\n',
            r"line 1 .found: content.: no object with 'text'",
        ),
        ("redpajama", "lfs.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer"),
        ("mimic_iv_note", "notes.csv", b"note_id,words\n1,a\n", "column 'SUBJECT_ID' is missing"),
        (
            "mimic_iii",
            "NOTEEVENTS.csv.gz",
            gzip.compress(table(NOTE_COLUMNS, [NOTE] * 999).encode(), mtime=0)[:-9],
            "cannot be read to its end",
        ),
        ("mimic_cxr", "report.txt", b"text", "not a report of MIMIC-CXR"),
        ("mimic_iii", "folder", None, "no such file or folder"),
    ],
)
def test_bad_input_names_the_file_and_gives_no_output(tmp_path, capsys, source, name, content, message):
    file, good = tmp_path / "raw" / name, tmp_path / "good.jsonl"
    good.write_bytes(GOOD_LINE)
    if content is not None:
        file.parent.mkdir()
        file.write_bytes(content)
    with pytest.raises(SystemExit, match=f"^error: .*{name}.*{message}") as stop:
        build_documents.main(
            ["--source", f"redpajama={good}", "--source", f"{source}={file}", "--out", str(tmp_path / "out")]
        )
    assert stop.value.code not in (None, 0) and "\n" not in stop.value.code
    assert {path.name for path in tmp_path.iterdir()} <= {"raw", "good.jsonl", ".out.partial"}, (
        "finished parts are kept for the next try"
    )


@pytest.mark.parametrize(
    "given, message",
    [
        ("pubmd=x", "unknown source 'pubmd' \\(known: pubmed, pmc, mimic_iii, "),
        ("pubmed", "expected NAME=PATH"),
        ("pubmed=.", "no file of source 'pubmed' here; looked for \\*.xml, \\*.xml.gz"),
    ],
)
def test_bad_source_arguments(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        build_documents.main(["--source", given, "--out", "out"])
    assert not list(tmp_path.iterdir())


def test_a_source_without_documents_is_an_error(tmp_path):
    file = put(tmp_path / "a.xml", article_set(citation(abstract="")))
    with pytest.raises(BadInput, match="not one document .* no abstract 1"):
        build_documents.build([("pubmed", file)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.guarantee("Files", "An output exists whole or not at all; a failed build keeps the earlier one.")
def test_a_failed_build_keeps_the_earlier_output(tmp_path):
    good, bad = put(tmp_path / "a.jsonl", GOOD_LINE), put(tmp_path / "b.jsonl", "{")
    build_documents.build([("redpajama", good)], tmp_path / "out")
    with pytest.raises(BadInput):
        build_documents.build([("redpajama", good), ("redpajama", bad)], tmp_path / "out")
    assert len(written(tmp_path / "out")) == 1


def test_archives_are_read_as_they_are_shipped(tmp_path):
    raw = tmp_path / "raw"
    (raw / "pmc").mkdir(parents=True)
    with tarfile.open(raw / "pmc" / "oa_comm_xml.PMC000.tar.gz", "w:gz") as archive:
        for name, content in (
            ("PMC000/a.xml", jats()),
            ("PMC000/b.xml", "<html>"),
            ("PMC000/c.xml", jats(pmcid='<article-id pub-id-type="pmc">124</article-id>')),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    (raw / "mimic_cxr").mkdir()
    with zipfile.ZipFile(raw / "mimic_cxr" / "mimic-cxr-reports.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"files/p10/p10000001/s5000000{number}.txt", f" report {number}")
    put(
        raw / "mimic_cxr" / "mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split\nd,50000002,10000001,test\nd,50000001,1,train\n",
    )
    manifest = build_documents.build(
        [(name, raw / name) for name in ("pmc", "mimic_cxr")], tmp_path / "out", max_bad=0.5
    )
    assert {d["id"] for d in written(tmp_path / "out")} == {
        "pmc:PMC123",
        "pmc:PMC124",
        *(f"mimic_cxr:s5000000{n}" for n in (0, 1, 3)),
    }
    assert {d["meta"]["subject_id"] for d in written(tmp_path / "out") if d["source"] == "mimic_cxr"} == {
        "10000001"
    }
    (broken,) = manifest["dropped"]["pmc"].values()
    assert broken["count"] == 1 and broken["bad"] and broken["first"].endswith("PMC000.tar.gz: PMC000/b.xml")
    with (raw / "pmc" / "oa_comm_xml.PMC000.tar.gz").open("r+b") as file:
        file.truncate(300)
    with pytest.raises(BadInput, match="PMC000.tar.gz: cannot be read to its end"):
        build_documents.build([("pmc", raw / "pmc")], tmp_path / "out")


def test_bad_records_are_counted_with_their_place_and_too_many_stop_the_build(tmp_path):
    lines = [b'{"text": "good %d"}' % i for i in range(40)]
    lines[3:3] = [
        b"{broken",
        b'{"text": null}',
        b'["a list"]',
        b'{"text": 7}',
        b'{"text": "caf\xe9"}',
        b'{"text": "\\ud800"}',
        b"",
        b'{"text": " "}',
        b"null",
    ]
    file = put(tmp_path / "raw" / "a.jsonl", b"\xef\xbb\xbf" + b"\n".join(lines))
    put(tmp_path / "raw" / "empty.jsonl", b"")
    manifest = build_documents.build([("redpajama", tmp_path / "raw")], tmp_path / "out", max_bad=0.2)
    dropped = manifest["dropped"]["redpajama"]
    assert {reason: entry["count"] for reason, entry in dropped.items()} == {
        "not JSON": 1,
        "empty text": 2,
        "no object with 'text'": 2,
        "'text' is no string": 1,
        "not valid Unicode": 1,
        "the file is empty": 1,
    }
    assert (
        all(entry["bad"] for entry in dropped.values()) and dropped["not JSON"]["first"] == f"{file}: line 4"
    )
    repaired = manifest["repaired"]["redpajama"]
    assert [(reason, entry["count"], entry["where"]) for reason, entry in repaired.items()] == [
        (NOT_UTF8, 1, [f"{file}: line 8"])
    ]
    documents = written(tmp_path / "out")
    assert (
        len(documents) == 41
        and "caf\ufffd" in {d["text"] for d in documents}
        and "good 0" in {d["text"] for d in documents}
    )
    assert sum(e["records"] for e in manifest["inputs"]) == 41 + 8
    with pytest.raises(
        BadInput,
        match=(
            r"redpajama: 8 of 49 records are bad, more than --max_bad 0.1; the first is .*a.jsonl: "
            r"line 7: 'text' is no string. Next: (mend|correct) them"
        ),
    ):
        build_documents.build([("redpajama", tmp_path / "raw")], tmp_path / "two", max_bad=0.1)


def test_bytes_that_are_not_utf8_in_a_table_are_replaced_and_counted(tmp_path):
    content = table(NOTE_COLUMNS, [NOTE]).encode().replace(b"\r\n", b"\n") + table(
        NOTE_COLUMNS, [NOTE | {"ROW_ID": "9", "TEXT": "caf@"}]
    ).encode().split(b"\n", 1)[1].replace(b"@", b"\xe9")
    drops = Drops()
    documents = list(mimic_iii.read(put(tmp_path / "NOTEEVENTS.csv", content), drops))
    assert documents[-1]["text"] == "caf\ufffd" and drops.repairs.count("mimic_iii") == 1


def test_a_document_of_50_mb_goes_through(tmp_path):
    put(tmp_path / "raw" / "book" / "a.jsonl", json.dumps({"text": "one two three. " * 3_500_000}) + "\n")
    build_documents.build([("redpajama", tmp_path / "raw")], tmp_path / "out")
    (document,) = written(tmp_path / "out")
    assert len(document["text"]) > 50_000_000


# --- the real samples, where they are at hand ---


@pytest.mark.skipif(not (REAL / "pubmed").is_dir(), reason="no real PubMed samples beside the repository")
def test_real_pubmed(tmp_path):
    files = {file.name: file for file in pubmed.files(REAL / "pubmed")}
    newer, older, without_pmid = (
        files[f"pubmedsample{end}.xml.gz"] for end in ("_2019", "18n0001", "_no_pmid_2019")
    )

    documents, drops = read(pubmed, newer)  # 176 records and one DeleteCitation
    assert (
        drops == {"no abstract": 50, "not English": 15, "retracted, or a retraction notice": 4}
        and len(documents) == 107
    )
    assert all(d["meta"]["year"] and "\n\n" in d["text"] for d in documents)
    # 18 of the records have a structured abstract, one of them in Korean
    assert (
        sum(
            bool(re.search(r"\n[A-Z][A-Za-z /,&-]+: .*\n[A-Z][A-Za-z /,&-]+: ", d["text"])) for d in documents
        )
        == 17
    )
    documents, drops = read(pubmed, older)  # 177 records
    assert len(documents) + sum(drops.values()) == 177 and drops["not English"] == 22
    assert read(pubmed, without_pmid) == ([], {"no PMID": 1})

    manifest = build_documents.build([("pubmed", REAL / "pubmed")], tmp_path / "out")
    counts = {reason: entry["count"] for reason, entry in manifest["dropped"]["pubmed"].items()}
    # 169 PMIDs stand in both samples; the newer one deletes 7 of the other 8
    assert (counts["replaced by a newer record"], counts["deleted by NLM"], counts["no PMID"]) == (169, 7, 1)
    assert (
        len(written(tmp_path / "out")) == 108
        and sum(e["records"] for e in manifest["inputs"]) == 177 + 176 + 1
    )


@pytest.mark.skipif(not (REAL / "pmc").is_dir(), reason="no real PMC articles beside the repository")
def test_real_pmc(tmp_path):
    build_documents.build([("pmc", REAL / "pmc")], tmp_path / "out")
    documents = {d["id"]: d for d in written(tmp_path / "out")}
    licenses = {
        "pmc:PMC3166277": "CC BY",
        "pmc:PMC2599765": "public domain",
        "pmc:PMC3585041": "CC BY",
        "pmc:PMC3460867": "CC BY",
    }
    assert {name: d["license"] for name, d in documents.items()} == licenses
    for name, document in documents.items():
        text, blocks = document["text"], document["text"].split("\n\n")
        assert 20_000 < len(text) < 40_000 and 40 < len(blocks) < 80
        assert {"Results", "Discussion"} <= set(blocks), name
        assert not re.search(r"[\x00-\x09\x0b-\x1f]|\(\s*\)|\[\s*\]|\s[.,;]\s|[\[(]\s*[,;]|  ", text), name
        assert all(re.search(r"[.?!:)\]]$", block) for block in blocks if len(block) > 200), name
    # Numbered citations are gone; what is left in brackets is no citation, e.g. degrees of freedom "F[1,12]".
    for name in ("pmc:PMC3585041", "pmc:PMC3460867"):
        assert not re.search(r"\[\d[\d,\s\u2013-]*\]", documents[name]["text"])
    assert not re.search(r"(?<!F)\[\d[\d,\s\u2013-]*\]", documents["pmc:PMC3166277"]["text"])
    # Author-year citations are gone with their brackets; as a word of the sentence a year may stay: "Leino et
    # al. (2005) were".
    assert len(re.findall(r"\([^()]*et al\.[^()]*\)", documents["pmc:PMC2599765"]["text"])) == 0
    assert documents["pmc:PMC3585041"]["text"].count("Author Summary") == 1  # the second of its two abstracts


# --- files that are not what they seem ---


def test_pubmed_files_are_in_the_order_of_their_numbers(tmp_path):
    old, new = (
        citation("3", abstract=f"<AbstractText>{text}</AbstractText>") for text in ("50 mg.", "5 mg.")
    )
    put(tmp_path / "raw/z_baseline/pubmed26n0002.xml", article_set(old))
    put(tmp_path / "raw/2026_updates/pubmed26n1400.xml.gz", article_set(new))
    put(
        tmp_path / "raw/a/pubmed25n9000.xml",
        article_set(citation("3", abstract="<AbstractText>0</AbstractText>")),
    )
    for folders in (["raw"], ["raw/2026_updates", "raw/z_baseline", "raw/a"]):
        sources = [("pubmed", tmp_path / folder) for folder in folders]
        build_documents.build(sources, tmp_path / "out")
        assert [document["text"] for document in written(tmp_path / "out")] == ["A title.\n\n5 mg."]


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"title": "[Not Available]."}, "Some text."),
        (
            {"abstract": "<AbstractText>Cut (ABSTRACT TRUNCATED AT 250 WORDS)</AbstractText>"},
            "A title.\n\nCut",
        ),
        ({"abstract": "<AbstractText>Cut. ABSTRACT TRUNCATED.</AbstractText>"}, "A title.\n\nCut."),
        ({"abstract": '<AbstractText Label="METHODS:">We.</AbstractText>'}, "A title.\n\nMETHODS: We."),
    ],
)
def test_pubmed_marks_that_are_no_text(tmp_path, changes, text):
    documents, _ = read(pubmed, put(tmp_path / "a.xml", article_set(citation(**changes))))
    assert [document["text"] for document in documents] == [text]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"kinds": ("Expression of Concern",)}, "expression of concern"),
        (
            {"extra": '<CommentsCorrectionsList><CommentsCorrections RefType="ExpressionOfConcernIn"/>'
             "</CommentsCorrectionsList>"},
            "expression of concern",
        ),
        ({"title": "WITHDRAWN: A review."}, "withdrawn"),
    ],
)  # fmt: skip
def test_pubmed_records_under_concern(tmp_path, changes, reason):
    assert read(pubmed, put(tmp_path / "a.xml", article_set(citation(**changes)))) == ([], {reason: 1})


@pytest.mark.parametrize(
    "kind, related, title, kept",
    [
        ("research-article", "", "On knees", True),
        ("correction", '<related-article related-article-type="corrected-article"/>', "Correction", True),
        ("research-article", "", "Concerning retraction of the knee: a trial", True),
        ("retraction", "", "On knees", False),
        ("expression-of-concern", "", "On knees", False),
        (
            "research-article",
            '<related-article related-article-type="retraction-forward"/>',
            "On knees",
            False,
        ),
        ("other", '<related-article related-article-type="object-of-concern"/>', "On knees", False),
        ("research-article", "", "WITHDRAWN: On knees", False),
        ("research-article", "", "Retracted Article: On knees", False),
    ],
)
def test_pmc_retractions_and_concerns(tmp_path, kind, related, title, kept):
    front = (
        f'<article-meta><article-id pub-id-type="pmc">5</article-id><title-group><article-title>{title}'
        f"</article-title></title-group>{related}</article-meta>"
    )
    text = f'<article article-type="{kind}"><front>{front}</front><body><p>Text.</p></body></article>'
    documents, drops = read(pmc, put(tmp_path / "a.nxml", text))
    assert (len(documents) == 1) == kept
    assert drops == ({} if kept else {"retracted, withdrawn or under concern, or a notice of it": 1})


@pytest.mark.parametrize(
    "content, said",
    [
        (
            b"a;b;c\n1;2;3\n",
            "the cells of the first line are separated by semicolons.. Next: save it with commas",
        ),
        (b",case_url,case_id\n0,u,1\n", r"found: \(no name\), case_url, case_id"),
        (
            "a,b\n1,caf\xe9\n".encode("cp1252"),
            r"line 2 is not UTF-8 but probably Windows-1252. Next: .*iconv -f CP1252 -t UTF-8",
        ),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16, must be UTF-8. Next: .*iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_a_table_in_another_form_is_named(tmp_path, content, said):
    with pytest.raises(BadInput, match=said):
        list(
            csv_rows(
                put(tmp_path / "a.csv", content), ("a", "b", "text") if b"caf" not in content else ("a",)
            )
        )
