"""Next sentences, from our own PMC documents: the beginning of a paragraph is the prompt, the sentence that
follows it the answer.

Origin    DOCUMENTS/pmc, made by build_documents from PubMed Central (data_prep/sources/pmc.py). License per
          article, public.
Raw       *.jsonl.gz of documents with meta.blocks
Paper     20,000 (Table 2, CC BY). How its rows were made is not stated; these are ours.
Rows      one for each article: of its paragraphs with at least three sentences one, and in it a sentence from
          the second on, both by the hash of the id. A sentence ends at . ! or ? before a blank and a capital
          letter, which cuts after some abbreviations too.
Left out  and counted: articles whose license is unknown or allows no changes, and those without such a
          paragraph
"""

import re

from data_prep.benchmarks import fraction
from data_prep.instructions import _pmc_documents, common, join

LICENSE = "per article"
ACCESS = "public"
FOLDER, FROM_DOCUMENTS = "pmc", True
INSTRUCTION = "Write the sentence that follows in this text of a medical article."
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
files = _pmc_documents.files


def read(folder, drops):
    for article in _pmc_documents.read("pmc_next_sentence", folder, drops):
        paragraphs = [sentences for block in article.body if len(sentences := SENTENCE_END.split(block)) >= 3]
        if not paragraphs:
            drops.add("pmc_next_sentence", "no paragraph of three sentences", article.where)
            continue
        sentences = paragraphs[int(fraction(f"{article.id}:paragraph") * len(paragraphs))]
        place = 1 + int(fraction(f"{article.id}:sentence") * (len(sentences) - 1))
        yield {
            "id": f"pmc_next_sentence:{article.id}",
            "group": article.id,
            **common("pmc_next_sentence", article.license, article.access),
            "prompt": join(INSTRUCTION, " ".join(sentences[:place])),
            "completion": sentences[place],
        }
