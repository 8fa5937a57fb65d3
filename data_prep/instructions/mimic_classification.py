"""Which service of the hospital wrote a discharge summary of MIMIC?

Origin    MIMIC-III NOTEEVENTS and MIMIC-IV-Note discharge (data_prep/sources). PhysioNet Credentialed Health
          Data License 1.5.0, credentialed.
Raw       RAW/mimic_iii/NOTEEVENTS.csv[.gz] and RAW/mimic_iv_note/discharge.csv[.gz], whichever is there
Paper     a part of 30,000 clinical rows (Table 2). How they were made is not stated; these are ours.
Rows      the label is the line "Service:" of the note, in upper case; the prompt is the first 1,500 words of
          the note without that line
Left out  and counted: notes that are no discharge summary, those without that line, and those whose line is
          empty, has more than four words or a mark of de-identification: a service is not guessed from it
"""

from data_prep.instructions import _discharge_summaries, common, join

LICENSE, ACCESS = _discharge_summaries.LICENSE, _discharge_summaries.ACCESS
FOLDER = "."
MAX_WORDS = 1500
INSTRUCTION = "Which hospital service wrote this discharge summary? Reply with its name."
COMMON = common("mimic_classification", LICENSE, ACCESS)
files = _discharge_summaries.files


def read(raw, drops):
    for note_id, patient, text, sections, where in _discharge_summaries.read(
        "mimic_classification", raw, drops
    ):
        if "service" not in sections:
            drops.add("mimic_classification", "no service", where)
            continue
        start, end, label = sections["service"]
        line, _, rest = text[start:end].partition("\n")
        if rest.strip():  # what follows below the line is no part of the name
            label = " ".join(line.partition(":")[2].split())
        if not 1 <= len(label.replace(" / ", "/").split()) <= 4 or _discharge_summaries.MARK.search(label):
            drops.add("mimic_classification", "service is empty, long or de-identified", where)
            continue
        note = _discharge_summaries.first_words(f"{text[:start]}{rest}\n{text[end:]}", MAX_WORDS)
        yield {
            "id": f"mimic_classification:{note_id}",
            "group": patient,
            **COMMON,
            "prompt": join(INSTRUCTION, note),
            "completion": label.upper(),
        }
