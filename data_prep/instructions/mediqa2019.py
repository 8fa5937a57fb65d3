"""MEDIQA 2019, task 3: consumer health questions and answers that a system found, graded by experts. (Ben
Abacha et al. 2019)

Origin    github.com/abachaa/MEDIQA2019, folder MEDIQA_Task3_QA. The repository states no license; CC BY 4.0
          by Table 2. Public.
Raw       MEDIQA2019-Task3-QA-{TrainingSet*,ValidationSet}*.xml: Question@QID > QuestionText, AnswerList >
          Answer@AID, @SystemRank,@ReferenceRank,@ReferenceScore > AnswerURL, AnswerText. 104 questions and
          839 answers, 104 and 862, 25 and 234.
Paper     2,220 (Table 2), which no sum of these files gives
Rows      one for each answer with a ReferenceScore of 3 or 4, "correct" in the task; 1 and 2 are related,
          incomplete or wrong answers
Left out  and counted: answers below 3, answers without a score, and without text. A file of which a -V2 is
          there is not read, nor is the test set: it is the task's own.
Oddities  the root element has another name in each file. Training set 1 holds the test questions of LiveQA
          (liveqa.py reads its train).
"""

from pathlib import Path

from data_prep.instructions import common, join
from data_prep.schema import BadInput
from data_prep.sources.raw_files import walk
from data_prep.sources.xml_text import bare_text, parse

LICENSE = "CC-BY-4.0"
ACCESS = "public"
CORRECT = 3  # ReferenceScore from here on
COMMON = common("mediqa2019", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    found = [path for path in walk(folder) if "Task3-QA" in path.name and path.suffix == ".xml"]
    found = [path for path in found if "TestSet" not in path.name]
    found = [path for path in found if not path.with_name(f"{path.stem}-V2.xml").is_file()]
    if not found:
        raise BadInput(
            f"{folder}: no *Task3-QA-TrainingSet*.xml and no *Task3-QA-ValidationSet.xml. Next: "
            "github.com/abachaa/MEDIQA2019"
        )
    return found


def read(folder: Path, drops):
    for path in files(folder):
        root = parse(path)
        for question in root.iter("Question"):
            text = bare_text(question.find("QuestionText"))
            for answer in question.iterfind("AnswerList/Answer"):
                where = f"{path}: answer {answer.get('AID')}"
                score, reply = answer.get("ReferenceScore", ""), bare_text(answer.find("AnswerText"))
                if score not in ("1", "2", "3", "4"):
                    drops.add("mediqa2019", "no ReferenceScore of 1 to 4", where)
                elif int(score) < CORRECT:
                    drops.add("mediqa2019", "ReferenceScore below 3", where)
                elif not text or not reply:
                    drops.add("mediqa2019", "empty question or answer", where)
                else:
                    row_id = f"mediqa2019:{path.stem}:{question.get('QID')}:{answer.get('AID')}"
                    yield {"id": row_id, **COMMON, "prompt": join(text), "completion": reply}
