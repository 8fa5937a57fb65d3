"""PubMed summarization: from the text of an article to its abstract. (Cohan et al. 2018)

Origin    github.com/armancohan/long-summarization. License Apache-2.0 of the repository, public; the texts
          are articles of PMC.
Raw       {train,val,test}.txt, JSON lines despite the name: {article_id "PMC...", article_text [paragraphs],
          abstract_text ["<S> sentence </S>"], labels, section_names, sections}
          The paper's own rows, with their prompts, are on the Hub as Parquet (query, answer, text, id): put
          them into hub/ (_hub.py).
Rows      the prompt is the whole article, some 3,000 words and more; generation counts what does not fit into
          the context. The completion is the abstract, its sentences on one line.
Splits    as published; val is validation. A file that is not there gives no rows.
Table 3   117,108 / 6,631 / 6,658
Left out  and counted: records without article text or without abstract
Oddities  The download holds arxiv/ and pubmed/, with the same file names and fields: a record whose id is no
          PMCID is refused. Texts are tokenized and in lower case. article_text is read, not `sections`: of
          113 rows measured, `sections` has empty strings in 21 and other text in 3. The template asks for six
          sentences; the abstracts have about seven.
"""

from pathlib import Path

from data_prep.benchmarks import pick, read_prompt, texts
from data_prep.files import read_jsonl
from data_prep.schema import BadInput

LICENSE = "Apache-2.0"
ACCESS = "public"
PAGE = "https://github.com/armancohan/long-summarization"
SCORING = "summary"
EXPECTED = {"train": 117108, "validation": 6631, "test": 6658}
DIFFERENCE = (
    "The published files are used but for records without text or abstract; the paper does not "
    "say what it left out."
)
SPLITS = {"train": "train", "val": "validation", "test": "test"}
COMMON = {
    "task": "pubmed_summ",
    "source": "pubmed_summ",
    "scoring": SCORING,
    "license": LICENSE,
    "access": ACCESS,
}


def files(folder: Path) -> list[Path]:
    found = [path for path in (folder / f"{name}.txt" for name in SPLITS) if path.is_file()]
    if not found:
        raise BadInput(
            f"{folder}: none of train.txt, val.txt, test.txt. Next: take the PubMed files from {PAGE}"
        )
    return found


def read(folder: Path, drops):
    template = read_prompt("pubmed_summ", "text")
    for path in files(folder):
        for number, record in read_jsonl(path):
            where = f"{path}: line {number}"
            name, article, abstract = pick(
                record, where, article_id=str, article_text=list, abstract_text=list
            )
            if not name.upper().startswith("PMC"):
                raise BadInput(
                    f"{where}: article_id '{name[:20]}' is no PMCID, as in the arXiv files of the same "
                    "download. "
                    "Next: take the files of its pubmed folder"
                )
            article = "\n".join(text for text in texts(article, where, "article_text") if text)
            sentences = [
                text.removeprefix("<S>").removesuffix("</S>").strip()
                for text in texts(abstract, where, "abstract_text")
            ]
            abstract = " ".join(sentence for sentence in sentences if sentence)
            if not article:
                drops.add("pubmed_summ", "no article text", where)
            elif not abstract:
                drops.add("pubmed_summ", "no abstract", where)
            else:
                prompt = template.format(text=article)
                row_id = f"pubmed_summ:{SPLITS[path.stem]}:{number}:{name}"
                yield {
                    "id": row_id,
                    "split": SPLITS[path.stem],
                    **COMMON,
                    "prompt": prompt,
                    "completion": abstract,
                }
