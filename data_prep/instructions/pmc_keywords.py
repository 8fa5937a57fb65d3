"""Key words, from our own PMC documents: title and abstract of an article are the prompt, the key words of
its authors the answer.

Origin    DOCUMENTS/pmc, made by build_documents from PubMed Central (data_prep/sources/pmc.py). License per
          article, public.
Raw       *.jsonl.gz of documents with meta.blocks and meta.keywords (the kwd-group elements of the article)
Paper     10,000 (Table 2, CC BY). How its rows were made is not stated; these are ours.
Rows      the key words as the authors wrote them, in their order, separated by "; "
Left out  and counted: articles whose license is unknown or allows no changes, without key words, without
          abstract
"""

from data_prep.instructions import _pmc_documents, common, join

LICENSE = "per article"
ACCESS = "public"
FOLDER, FROM_DOCUMENTS = "pmc", True
INSTRUCTION = "List the key words of this medical article."
files = _pmc_documents.files


def read(folder, drops):
    for article in _pmc_documents.read("pmc_keywords", folder, drops):
        if not article.keywords:
            drops.add("pmc_keywords", "no key words", article.where)
        elif not article.abstract:
            drops.add("pmc_keywords", "no abstract", article.where)
        else:
            yield {
                "id": f"pmc_keywords:{article.id}",
                "group": article.id,
                **common("pmc_keywords", article.license, article.access),
                "prompt": join(INSTRUCTION, article.title, article.abstract),
                "completion": "; ".join(article.keywords),
            }
