"""emrQA: open questions about a clinical note, answered by a passage of the note. (Pampari et al. 2018)

Origin    n2c2 portal (portal.dbmi.hms.harvard.edu), generated from the i2b2 challenge notes by
          github.com/panushri25/emrQA. License n2c2 data use agreement, credentialed.
Raw       data.json {"data": [{title, paragraphs: [{note_id, context (text, or a list of lines), qas:
          [{question: [paraphrases], answers: [{text, evidence, answer_start, evidence_start,
          answer_entity_type single | empty | complex}]}]}]}]}
Rows      one for each paraphrase of a question; the completion is the `text` of its first answer that occurs
          in the note
Splits    by the hash of note_id, in the proportions of Table 3 (68 / 17 / 15 %), so no note is on two sides,
          whatever its title. The paper's own split is not published.
Table 3   122,326 / 30,581 / 26,804
Left out  and counted, in paraphrases: questions whose answers are empty, complex (several parts: `text` is a
          list) or not in the note. Counted as well: further answers of a question that has several right
          ones, since a row has one completion.
Oddities  the release page's format line names no question ("Context: {text} Answer:"); a "Question:" line is
          added. An answer is compared with the note blind to line breaks, as the notes are wrapped by hand.
"""

from pathlib import Path

from data_prep.benchmarks import fraction, pick, read_prompt, texts
from data_prep.files import read_json
from data_prep.schema import BadInput

LICENSE = "n2c2 Data Use Agreement"
ACCESS = "credentialed"
PAGE = "https://portal.dbmi.hms.harvard.edu"
SCORING = "span"
EXPECTED = {"train": 122326, "validation": 30581, "test": 26804}
DIFFERENCE = (
    "The paper's split is not published: ours is by note, and answers that are empty, complex "
    "or not in the note are left out."
)
TEST_SHARE, VALIDATION_SHARE = 0.15, 0.17
COMMON = {"task": "emrqa", "source": "emrqa", "scoring": SCORING, "license": LICENSE, "access": ACCESS}


def files(folder: Path) -> list[Path]:
    path = folder / "data.json"
    if not path.is_file():
        raise BadInput(f"{path}: no such file. Next: request emrQA at portal.dbmi.hms.harvard.edu")
    return [path]


def read(folder: Path, drops):
    template = read_prompt("emrqa", "context", "question")
    [path] = files(folder)
    [titles] = pick(read_json(path), str(path), data=list)
    for title_number, entry in enumerate(titles, 1):
        title, notes = pick(entry, f"{path}: title {title_number}", title=str, paragraphs=list)
        for note_number, note in enumerate(notes, 1):
            where = f"{path}: {title}, note {note_number}"
            note_id, context, questions = pick(note, where, note_id=object, context=object, qas=list)
            if not isinstance(note_id, str | int) or note_id == "":
                raise BadInput(f"{where}: field 'note_id' must name the note, as its split depends on it")
            context = _text(context, where)
            flat = " ".join(context.split())
            place = fraction(str(note_id))
            split = (
                "test"
                if place < TEST_SHARE
                else "validation"
                if place < TEST_SHARE + VALIDATION_SHARE
                else "train"
            )
            for number, question in enumerate(questions, 1):
                here = f"{where}, question {number}"
                paraphrases, answers = pick(question, here, question=list, answers=list)
                paraphrases = [text for text in dict.fromkeys(texts(paraphrases, here, "question")) if text]
                answer, reason = _first_answer(answers, flat, here, drops)
                for variant, text in enumerate(paraphrases, 1):
                    if answer is None:
                        drops.add("emrqa", reason, here)
                        continue
                    yield {
                        "id": f"emrqa:{title}:{note_number}:{note_id}:{number}:{variant}",
                        "split": split,
                        **COMMON,
                        "prompt": template.format(context=context, question=text),
                        "completion": answer,
                    }


def _text(context, where: str) -> str:
    """The note as one text. Some builds ship it as a list of lines, with or without their line ends."""
    if isinstance(context, list) and all(isinstance(line, str) for line in context):
        context = "\n".join(line.rstrip("\r\n") for line in context)
    if not isinstance(context, str) or not context.strip():
        raise BadInput(f"{where}: field 'context' must be text or a list of lines, and not empty")
    return context.strip()


def _first_answer(answers: list, flat: str, where: str, drops) -> tuple[str | None, str]:
    """The first single answer that occurs in the note (`flat`: the note with single blanks), or None and the
    reason."""
    found, reason = [], "no answer"
    for answer in answers:
        [text] = pick(answer, where, text=object)
        if isinstance(text, list):
            reason = "complex answer"
        elif not isinstance(text, str) or not text.strip():
            reason = "empty answer"
        elif " ".join(text.split()) not in flat:
            reason = "answer is not in the note"
        else:
            found.append(" ".join(text.split()))
    for _ in set(found) - set(found[:1]):
        drops.add("emrqa", "further answer of the same question", where)
    return (found[0], "") if found else (None, reason)
