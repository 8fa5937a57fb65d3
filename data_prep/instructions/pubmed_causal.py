"""Causal language in PubMed: does a sentence of a conclusion state a cause, and how strongly? (Yu et al.
2019)

Origin    github.com/junwang4/causal-language-use-in-science. License GPL-3.0 of the repository (CC BY by
          Table 2), public.
Raw       pubmed_causal_language_use.csv: sentence, label; 3,061 sentences, 0: 1,356, 1: 494, 2: 213, 3: 998
Paper     2,450 (Table 2)
Labels    the authors' code names them 0 none, 1 causal (direct), 2 conditional causal, 3 correlational
Left out  and counted: sentences that repeat (7), whatever their labels; other labels; empty sentences
"""

from pathlib import Path

from data_prep.instructions import common, join
from data_prep.schema import BadInput
from data_prep.sources.raw_files import csv_rows

LICENSE = "GPL-3.0"
ACCESS = "public"
LABELS = {"0": "no relationship", "1": "direct causal", "2": "conditional causal", "3": "correlational"}
INSTRUCTION = (
    "What kind of relationship does the sentence of a medical article state? Reply with one "
    f"of: {', '.join(LABELS.values())}."
)
COMMON = common("pubmed_causal", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    path = folder / "pubmed_causal_language_use.csv"
    if not path.is_file():
        raise BadInput(
            f"{path}: no such file. Next: take it from "
            "github.com/junwang4/causal-language-use-in-science, folder data"
        )
    return [path]


def read(folder: Path, drops):
    [path] = files(folder)
    seen = set()
    for number, row in csv_rows(path, ("sentence", "label")):
        where, sentence, label = f"{path}: record {number}", row["sentence"].strip(), row["label"].strip()
        if not sentence:
            drops.add("pubmed_causal", "empty sentence", where)
        elif label not in LABELS:
            drops.add("pubmed_causal", "label is not 0 to 3", where)
        elif sentence in seen:
            drops.add("pubmed_causal", "repeated sentence", where)
        else:
            seen.add(sentence)
            yield {
                "id": f"pubmed_causal:{number}",
                **COMMON,
                "prompt": join(INSTRUCTION, sentence),
                "completion": LABELS[label],
            }
