"""The raw text of `make real`: a few records of large files, unchanged, and general text."""

import gzip

import pytest

from data_prep import real_text
from data_prep.files import read_jsonl
from data_prep.manifest import Drops
from data_prep.sources import plain, pubmed

RECORD = (
    '<PubmedArticle><MedlineCitation><PMID Version="1">{0}</PMID><Article><ArticleTitle>On {0}</ArticleTitle>'
    "<Abstract><AbstractText>Fever in \u03b1-thalassaemia, {0} cases.</AbstractText></Abstract>"
    "<Language>eng</Language></Article></MedlineCitation></PubmedArticle>"
)


@pytest.fixture
def raw(tmp_path):
    for file, numbers in (("pubmed26n0001", range(1, 6)), ("pubmed26n0002", range(6, 9))):
        (tmp_path / "raw/pubmed").mkdir(parents=True, exist_ok=True)
        xml = f"<PubmedArticleSet>{''.join(map(RECORD.format, numbers))}</PubmedArticleSet>"
        (tmp_path / f"raw/pubmed/{file}.xml.gz").write_bytes(gzip.compress(xml.encode()))
    (tmp_path / "raw/pmc").mkdir()
    for number in range(3):
        (tmp_path / f"raw/pmc/PMC{number}.xml").write_text("<article/>")
    return tmp_path / "raw"


def test_the_first_records_and_papers_are_kept_as_they_are(raw, tmp_path):
    flags = ["--raw", str(raw), "--out", str(tmp_path / "out"), "--abstracts", "6", "--papers", "2"]
    for _ in range(2):
        real_text.main(flags)
        whole = [text for file in pubmed.files(raw / "pubmed") for text in pubmed.read(file, Drops())]
        kept = [text for file in pubmed.files(tmp_path / "out/pubmed") for text in pubmed.read(file, Drops())]
        assert len(kept) == 6 and kept == whole[:6] and "\u03b1" in kept[0]["text"]
        assert {path.name for path in (tmp_path / "out/pmc").iterdir()} == {"PMC0.xml", "PMC1.xml"}


def test_a_cut_file_is_named(raw, tmp_path):
    file = raw / "pubmed/pubmed26n0001.xml.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:300]))
    with pytest.raises(SystemExit, match="pubmed26n0001.xml.gz: not whole XML"):
        real_text.main(["--raw", str(raw), "--out", str(tmp_path / "out")])


def test_no_paragraph_of_the_general_text_stands_in_two_documents(raw, tmp_path):
    real_text.main(["--raw", str(raw), "--out", str(tmp_path / "out")])
    (file,) = plain.files(tmp_path / "out/python_manual")
    found = list(plain.read(file, drops := Drops()))
    assert len(found) > 50 and {one["domain"] for one in found} == {"general"}
    texts = [row["text"] for _, row in read_jsonl(file, drops, "plain")]
    paragraphs = [{part.strip() for part in text.split("\n\n")} for text in texts]
    assert sum(map(len, paragraphs)) == len(set.union(*paragraphs))
