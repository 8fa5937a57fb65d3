"""Hospital courses of MIMIC: what a discharge summary says up to its hospital course is the prompt, the
hospital course the answer.

Origin    MIMIC-III NOTEEVENTS and MIMIC-IV-Note discharge (data_prep/sources). PhysioNet Credentialed Health
          Data License 1.5.0, credentialed.
Raw       RAW/mimic_iii/NOTEEVENTS.csv[.gz] and RAW/mimic_iv_note/discharge.csv[.gz], whichever is there
Paper     a part of 30,000 clinical rows (Table 2). How they were made is not stated; these are ours.
          Radiology reports are not used: from findings to impression is the evaluation set mimic_cxr.
Rows      the last 1,500 words before "Brief Hospital Course" (or "Hospital Course"); the section, white space
          folded
Left out  and counted: notes that are no discharge summary, those without that section, with fewer than 5 or
          more than 500 words in it, or with nothing before it
"""

from data_prep.instructions import _discharge_summaries, common, join

LICENSE, ACCESS = _discharge_summaries.LICENSE, _discharge_summaries.ACCESS
FOLDER = "."
MAX_WORDS, MIN_ANSWER, MAX_ANSWER = 1500, 5, 500
INSTRUCTION = "Summarize the hospital course of this patient from the notes of the admission."
COMMON = common("mimic_summarization", LICENSE, ACCESS)
files = _discharge_summaries.files


def read(raw, drops):
    for note_id, patient, text, sections, where in _discharge_summaries.read(
        "mimic_summarization", raw, drops
    ):
        course = sections.get("brief hospital course") or sections.get("hospital course")
        if not course:
            drops.add("mimic_summarization", "no hospital course", where)
            continue
        start, _, answer = course
        if not MIN_ANSWER <= len(answer.split()) <= MAX_ANSWER:
            drops.add("mimic_summarization", "hospital course is too short or too long", where)
        elif not text[:start].strip():
            drops.add("mimic_summarization", "nothing before the hospital course", where)
        else:
            prompt = join(INSTRUCTION, _discharge_summaries.last_words(text[:start], MAX_WORDS))
            yield {
                "id": f"mimic_summarization:{note_id}",
                "group": patient,
                **COMMON,
                "prompt": prompt,
                "completion": answer,
            }
