"""GuidelineQA: questions and answers that a model wrote about clinical guidelines.

Origin    made by the authors of the paper and not published. The guidelines are those of Meditron
          (epfl-llm/guidelines on the Hugging Face Hub), whose licenses differ by publisher; "Common Crawl
          (other)" by Table 2. Public.
Raw       *.jsonl, one {response} a line, where response is "Question: ...\\nAnswer: ...": the shape that the
          paper's released code reads. Make your own: ask a model for one question and answer on each
          `clean_text` of the guidelines you may use.
Paper     2,000 (Table 2)
Left out  and counted: responses that are not one question and one answer, as the pairing would be a guess;
          exact duplicates
"""

import re
from pathlib import Path

from data_prep.files import read_jsonl
from data_prep.instructions import check_text, common, join
from data_prep.schema import BadInput

LICENSE = "per guideline"
ACCESS = "public"
RESPONSE = re.compile(r"\s*Question:\s*(?P<question>.+?)\s*\n\s*Answer:\s*(?P<answer>.+?)\s*", re.DOTALL)
COMMON = common("guidelineqa", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.jsonl"))
    if not found:
        raise BadInput(
            f"{folder}: no *.jsonl. Next: the set is not published; the card in "
            "data_prep/instructions/guidelineqa.py says how to make one"
        )
    return found


def read(folder: Path, drops):
    seen = set()
    for path in files(folder):
        for number, record in read_jsonl(path):
            where = f"{path}: line {number}"
            check_text(record, where, "response")
            match = RESPONSE.fullmatch(record["response"])
            if (
                not match
                or len(re.findall(r"^\s*(?:Question|Answer):", record["response"], re.MULTILINE)) != 2
            ):
                drops.add("guidelineqa", "response is not one question and one answer", where)
            elif match.groups() in seen:
                drops.add("guidelineqa", "exact duplicate", where)
            else:
                seen.add(match.groups())
                row_id = f"guidelineqa:{path.stem}:{number}"
                yield {
                    "id": row_id,
                    **COMMON,
                    "prompt": join(match["question"]),
                    "completion": match["answer"],
                }
