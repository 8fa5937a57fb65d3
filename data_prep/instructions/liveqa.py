"""LiveQA Medical, TREC 2017: consumer health questions sent to the National Library of Medicine, with
answers. (Ben Abacha et al. 2017)

Origin    github.com/abachaa/LiveQA_MedicalTask_TREC2017. CC BY 4.0 by Table 2. Public, but the author has
          withdrawn the training files (November 2024): use a copy you have, pass none on.
Raw       TREC-2017-LiveQA-Medical-Train-{1,2}.xml: NLM-QUESTION > SUBJECT, MESSAGE, SUB-QUESTIONS >
          SUB-QUESTION > ANNOTATIONS, ANSWERS > ANSWER. 200 questions and 388 answers, 246 and 246.
Paper     634 (Table 2)
Rows      one for each answer; the question is MESSAGE, or SUBJECT where MESSAGE is empty
Left out  and counted: answers without text, questions without a word. The test set is not read.
Oddities  Train-2 begins with a byte-order mark, ends its lines in CR LF and calls the attribute qid, Train-1
          questionid. A question has several sub-questions, and a sub-question several answers. 107 SUBJECTs
          and 2 MESSAGEs are empty. 19 texts hold entities that were escaped twice.
"""

from pathlib import Path

from data_prep.instructions import common, join
from data_prep.schema import BadInput
from data_prep.sources.raw_files import walk
from data_prep.sources.xml_text import bare_text, parse

LICENSE = "CC-BY-4.0"
ACCESS = "public"
COMMON = common("liveqa", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    found = [path for path in walk(folder) if "LiveQA-Medical-Train-" in path.name and path.suffix == ".xml"]
    if not found:
        raise BadInput(
            f"{folder}: no TREC-2017-LiveQA-Medical-Train-1.xml or -2.xml. Next: the author has "
            "withdrawn them, use a copy you have"
        )
    return found


def read(folder: Path, drops):
    for path in files(folder):
        root = parse(path)
        for number, question in enumerate(root.iter("NLM-QUESTION"), 1):
            name = question.get("questionid") or question.get("qid")
            text = bare_text(question.find("MESSAGE")) or bare_text(question.find("SUBJECT"))
            for answer_number, answer in enumerate(question.iter("ANSWER"), 1):
                where = f"{path}: question {name}, answer {answer_number}"
                if not text:
                    drops.add("liveqa", "empty question", where)
                elif not bare_text(answer):
                    drops.add("liveqa", "empty answer", where)
                else:
                    row_id = f"liveqa:{path.stem}:{number}:{name}:{answer_number}"
                    yield {"id": row_id, **COMMON, "prompt": join(text), "completion": bare_text(answer)}
