"""Summaries of articles, from our own PMC documents: the text of an article is the prompt, its abstract the
answer.

Origin    DOCUMENTS/pmc, made by build_documents from PubMed Central (data_prep/sources/pmc.py). License per
          article, public.
Raw       *.jsonl.gz of documents with meta.blocks
Paper     10,000 (Table 2, CC BY). How its rows were made is not stated; these are ours.
Rows      the first 2,000 words of the body, the paragraphs kept; the abstract on one line
Left out  and counted: articles whose license is unknown or allows no changes, without abstract, or with an
          abstract of under 5 words
Caution   the articles of the evaluation set pubmed_summ are PMC articles too: build_instructions leaves those
          out by their PMCID.
"""

from data_prep.instructions import _pmc_documents, common, join

LICENSE = "per article"
ACCESS = "public"
FOLDER, FROM_DOCUMENTS = "pmc", True
INSTRUCTION = "Summarize the text of a medical article."
MAX_WORDS = 2000
files = _pmc_documents.files


def read(folder, drops):
    for article in _pmc_documents.read("pmc_summarization", folder, drops):
        if len(article.abstract.split()) < 5:
            drops.add("pmc_summarization", "no abstract", article.where)
            continue
        text, left = [], MAX_WORDS
        for block in article.body:
            words = block.split(" ")
            text.append(" ".join(words[:left]))
            left -= len(words)
            if left <= 0:
                break
        yield {
            "id": f"pmc_summarization:{article.id}",
            "group": article.id,
            **common("pmc_summarization", article.license, article.access),
            "prompt": join(INSTRUCTION, "\n".join(text)),
            "completion": article.abstract,
        }
