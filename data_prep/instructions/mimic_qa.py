"""Questions about discharge summaries of MIMIC, answered by a section of the note.

Origin    MIMIC-III NOTEEVENTS and MIMIC-IV-Note discharge (data_prep/sources). PhysioNet Credentialed Health
          Data License 1.5.0, credentialed.
Raw       RAW/mimic_iii/NOTEEVENTS.csv[.gz] and RAW/mimic_iv_note/discharge.csv[.gz], whichever is there
Paper     a part of 30,000 clinical rows (Table 2). How they were made is not stated; these are ours.
Rows      one for each note: of the questions below whose section has 1 to 150 words, one by the hash of the
          id. The prompt holds the first 1,500 words of the note; the answer is the section itself, white
          space folded.
Left out  and counted: notes that are no discharge summary, and those without such a section in their first
          1,500 words
Caution   the notes of emrQA, i2b2 and MedNLI come from MIMIC too: build_instructions leaves out what covers
          their evaluation rows.
"""

from data_prep.benchmarks import fraction
from data_prep.instructions import _discharge_summaries, common, join

LICENSE, ACCESS = _discharge_summaries.LICENSE, _discharge_summaries.ACCESS
FOLDER = "."
MAX_WORDS, MAX_ANSWER = 1500, 150
QUESTIONS = {
    "chief complaint": "What was the chief complaint?",
    "allergies": "Which allergies does the patient have?",
    "major surgical or invasive procedure": "Which major surgical or invasive procedures were done?",
    "past medical history": "What is the past medical history of the patient?",
    "discharge medications": "Which medications was the patient discharged with?",
    "discharge diagnosis": "What is the discharge diagnosis?",
    "discharge condition": "In what condition was the patient discharged?",
}
INSTRUCTION = "Answer the question from the discharge summary, in its own words."
COMMON = common("mimic_qa", LICENSE, ACCESS)
files = _discharge_summaries.files


def read(raw, drops):
    for note_id, patient, text, sections, where in _discharge_summaries.read("mimic_qa", raw, drops):
        note = _discharge_summaries.first_words(text, MAX_WORDS)
        answers = {
            name: sections[name][2]
            for name in QUESTIONS
            if name in sections and sections[name][1] <= len(note)
        }
        answers = {name: answer for name, answer in answers.items() if 1 <= len(answer.split()) <= MAX_ANSWER}
        if not answers:
            drops.add("mimic_qa", "no section to ask for", where)
            continue
        name = list(answers)[int(fraction(note_id) * len(answers))]
        prompt = join(INSTRUCTION, note, f"Question: {QUESTIONS[name]}")
        yield {
            "id": f"mimic_qa:{note_id}",
            "group": patient,
            **COMMON,
            "prompt": prompt,
            "completion": answers[name],
        }
