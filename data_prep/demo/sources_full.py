"""The invented world in the raw formats of the remaining sources and sets, so that all of them go through
`make demo DEMO=full`.

    python -m data_prep.demo.sources --full --out data/demo/raw

Reads   nothing.
Writes  RAW/<folder>/... for each name of TAUGHT_ONLY and EVERYTHING, beside what make_demo_sources writes:
        five evaluation sets, eleven instruction sources, the structured tables of MIMIC-III (into the folder
        mimic_iii, beside its notes) and articles with key words (into pmc).

As there, the files are invented from the documented formats alone, and the oddities of the formats are in
them: a byte-order mark and CR LF, labels as paths, formatted empty rows. Writers of TAUGHT_ONLY cannot tell
on the other diseases.
"""

import io
import json
import random
import re
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import openpyxl

from data_prep.demo import world
from data_prep.demo.sources import write_csv, write_json, write_lines


# ---------------- evaluation sets
def write_pubmedqa(folder, rng, taught):
    """PQA-L with its official test ids, and PQA-A. Does the drug help? What the abstract says decides: yes,
    no or maybe."""

    def record(label):
        disease, other = rng.sample(taught, 2)
        drug = disease.drug if label == "yes" else other.drug
        result = {
            "yes": f"{world.sentence(drug)} was better than placebo.",
            "no": f"{world.sentence(drug)} was no better than placebo.",
            "maybe": f"The result for {drug} could not be told from chance, and more patients are needed.",
        }[label]
        contexts = [
            f"{rng.randint(12, 480)} patients with {disease.name} took part in the year "
            f"{rng.randint(1990, 2023)}.",
            result,
        ]
        return {
            "QUESTION": f"Does {drug} help in {disease.name}?",
            "CONTEXTS": contexts,
            "LABELS": ["METHODS", "RESULTS"],
            "MESHES": [disease.name.title()],
            "YEAR": rng.choice((None, "2020")),
            "reasoning_required_pred": rng.choice(("yes", "no")),
            "reasoning_free_pred": rng.choice(("yes", "no")),
            "final_decision": label,
            "LONG_ANSWER": result,
        }

    labelled = {str(92000001 + i): record(("yes", "yes", "no", "maybe")[i % 4]) for i in range(48)}
    artificial = {str(92100001 + i): record(("yes", "yes", "no")[i % 3]) for i in range(120)}
    write_json(folder / "ori_pqal.json", labelled)
    write_json(
        folder / "test_ground_truth.json",
        {pmid: r["final_decision"] for pmid, r in labelled.items() if int(pmid) % 2},
    )
    write_json(folder / "ori_pqaa.json", artificial)


def write_medmcqa(folder, rng, taught):
    for name, count in (("train", 90), ("dev", 30)):
        lines = []
        for i in range(count):
            disease, field = rng.choice(taught), rng.choice(("drug", "marker"))
            templates = world.TREATMENT_QUESTIONS if field == "drug" else world.DIAGNOSIS_QUESTIONS
            others = rng.sample([getattr(d, field) for d in taught if d is not disease], 3)
            options = rng.sample([getattr(disease, field), *others], 4)
            record = {
                "id": f"invented-{name}-{i:04d}",
                "question": world.fill(rng.choice(templates), rng, disease),
                "exp": None,
            }
            record |= {f"op{letter}": option for letter, option in zip("abcd", options, strict=True)}
            cop = 1 + options.index(getattr(disease, field))
            lines.append(
                record | {"cop": cop, "choice_type": "single", "subject_name": "Medicine", "topic_name": None}
            )
        write_lines(folder / f"{name}.json", lines)  # JSON lines, whatever the name says


def write_longhealth(folder, rng, taught):
    patients = {}
    for i in range(4):
        chosen, questions = rng.sample(taught, 6), []
        letters = {
            f"text_{n}": f"Letter {n}. {d.name} was treated with {d.drug}." for n, d in enumerate(chosen)
        }
        for number, disease in enumerate(chosen):
            others = rng.sample([d.drug for d in taught if d.drug != disease.drug], 4)
            options = rng.sample([disease.drug, *others], 5)
            question = {"No": number, "question": f"Which drug was given for {disease.name}?"}
            question |= {f"answer_{letter}": option for letter, option in zip("abcde", options, strict=True)}
            questions.append(question | {"correct": disease.drug})
        patients[f"patient_{i + 1:02d}"] = {"texts": letters, "questions": questions}
    write_json(folder / "benchmark_v5.json", patients)


HALLMARKS = {
    "Resisting cell death--Apoptosis--": "{} kept the cells from dying .",
    "Inducing angiogenesis--Deregulating angiogenic mechanisms--": "New vessels grew after {} .",
    "Evading growth suppressors--": "The cells ignored the brake that {} puts on growth .",
    "Cellular energetics--Glycolysis--": "With {} the cells burned more sugar .",
    "Avoiding immune destruction--": "The immune cells no longer saw cells with {} .",
}


def write_hoc(folder, rng, taught):
    for part in ("text", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for i in range(72):
        disease, sentences, fields = rng.choice(taught), [], []
        for label in (
            rng.sample(list(HALLMARKS), rng.randint(1, 2)) if i % 12 else ()
        ):  # each twelfth has no label
            sentences += [
                f"{rng.randint(12, 480)} samples were studied .",
                world.sentence(HALLMARKS[label].format(disease.marker)),
            ]
            fields += ["", f"{label} AND{label}" if i % 5 == 0 else label]
        sentences.append(f"The marker of {disease.name} is discussed in part {i} .")
        fields.append("NULL" if i % 10 == 0 else "")
        (folder / "text" / f"{93000001 + i}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
        (folder / "labels" / f"{93000001 + i}.txt").write_text(
            "".join(f"<{field} " for field in fields), encoding="utf-8"
        )


def write_pubmed_summ(folder, rng, taught):
    number = 9800000
    for name, count in (("train", 60), ("val", 12), ("test", 24)):
        lines = []
        for _ in range(count):
            disease, number = rng.choice(taught), number + 1
            facts = [
                world.state(rng, templates[:8], disease) for templates in (world.TREATMENT, world.DIAGNOSIS)
            ]
            filler = [
                f"in visit {i} the {disease.examination} of patient {rng.randint(100, 999)} was repeated ."
                for i in range(1, 7)
            ]
            text = [
                f"{disease.name} is a disorder of the {disease.organ} .",
                " ".join(filler[:3]),
                facts[0].lower(),
                "",
                " ".join(filler[3:]),
                facts[1].lower(),
            ]
            lines.append({
                "article_id": f"PMC{number}",
                "article_text": text,
                "abstract_text": [f"<S> {fact.lower()} </S>" for fact in facts],
                "labels": None,
                "section_names": ["introduction", "results"],
                "sections": [text[:3], text[3:]],
            })  # fmt: skip
        write_lines(folder / f"{name}.txt", lines)  # JSON lines, whatever the name says


def write_bionli(folder, rng, taught):
    for name, count in (("train_balanced", 60), ("dev_balanced", 20), ("test", 30)):
        rows = []
        for i in range(count):
            disease, other = rng.sample(taught, 2)
            kind = rng.choice(("pos", "pos", "pos", "SRE", "SEN", "swap_number"))
            premise = (
                f"In {rng.randint(12, 480)} patients <re> {disease.drug} <er> lowered <el> "
                f"{disease.marker} <le> within {rng.randint(2, 30)} days ."
            )
            says = {
                "pos": f"{disease.drug} lowers {disease.marker}",
                "SRE": f"{disease.marker} lowers {disease.drug}",
            }
            hypothesis = says.get(kind, f"{other.drug} raises {disease.marker}")
            rows.append([i, 94000001 + i, premise, f"Thus {hypothesis} .", kind])
        rows.append([count, 94000001 + count, "A premise .", "A conclusion .", "SET"])
        write_csv(folder / f"{name}.csv", ["index", "pmid", "supp_set", "conclusion", "label_cat"], rows)


# ---------------- instruction sources
def complaint(rng, disease):
    """(question, answer) of a patient and a doctor."""
    age, days = rng.randint(20, 80), rng.randint(2, 30)
    question = (
        f"I am {age} years old and have had {disease.findings[0]} for {days} days. I was told "
        f"that it is {disease.name}. What can I take?"
    )
    return (
        question,
        f"Thank you for asking. {world.state(rng, world.TREATMENT[:8], disease)} Please see a doctor "
        f"about the {disease.findings[0]}.",
    )


def write_healthcaremagic(folder, rng, taught):
    instruction = (
        "If you are a doctor, please answer the medical questions based on the patient's description."
    )
    records = [complaint(rng, rng.choice(taught)) for _ in range(60)]
    rows = [{"instruction": instruction, "input": question, "output": answer} for question, answer in records]
    text = json.dumps(rows, indent=1).replace("\n", "\r\n")  # the layout has CR LF, the texts have not
    (folder / "HealthCareMagic-100k.json").write_text(text, newline="", encoding="utf-8")


def write_icliniq(folder, rng, taught):
    rows = []
    for _ in range(40):
        question, answer = complaint(rng, rng.choice(taught))
        rows.append(
            {
                "input": question,
                "answer_icliniq": answer,
                "answer_chatgpt": "I am a model.",
                "answer_chatdoctor": "I am another model.",
            }
        )
    write_json(folder / "iCliniq.json", rows)


def write_medinstruct(folder, rng, taught):
    rows = []
    for i in range(60):
        disease = rng.choice(taught)
        if i % 2:
            text, answer = (
                f"A patient has {disease.findings[0]} and {disease.findings[1]}.",
                f"{disease.findings[0]}; {disease.findings[1]}",
            )
            rows.append({"instruction": f"List the findings of report {i}.", "input": text, "output": answer})
        else:
            text = rng.choice(("<noinput>", "", "No input"))
            rows.append(
                {
                    "instruction": f"Name the marker of {disease.name}, in line {i}.",
                    "input": text,
                    "output": disease.marker,
                }
            )
    rows.append(
        {"instruction": "Explain a term.", "input": "<noinput> 2. Type: summary", "output": "Cut off."}
    )
    write_json(folder / "MedInstruct-52k.json", rows)


def write_mediqa2019(folder, rng, taught):
    for part, root, count in (
        ("TrainingSet1-LiveQAMed", "MEDIQA2019-Task3-QA-TrainingSet1", 12),
        ("ValidationSet", "MEDIQA2019-Task3-QA-ValidationSet", 4),
    ):
        questions = []
        for i in range(1, count + 1):
            disease, other = rng.sample(taught, 2)
            answers = "".join(
                f'<Answer AID="{i}_Answer{rank}" SystemRank="{rank}" ReferenceRank="{rank}" '
                f'ReferenceScore="{score}"><AnswerURL>invented://{i}/{rank}</AnswerURL>'
                f"<AnswerText>{escape(world.state(rng, world.TREATMENT[:8], about))} Page "
                f"{i}.</AnswerText></Answer>"
                for rank, (score, about) in enumerate(((4, disease), (3, disease), (2, other), (1, other)), 1)
            )
            questions.append(
                f'<Question QID="{i}"><QuestionText>about {escape(disease.name)}, what helps? ({part} '
                f"{i})</QuestionText><AnswerList>{answers}</AnswerList></Question>"
            )
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{"".join(questions)}</{root}>\n'
        (folder / f"MEDIQA2019-Task3-QA-{part}.xml").write_text(text, encoding="utf-8")


def write_medicationqa(folder, rng, taught):
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.title = "DrugQA"
    sheet.append(["Question", "Focus (Drug)", "Question Type", "Answer", "Section Title", "URL"])
    for i in range(40):
        disease = rng.choice(taught)
        answer = (
            f" {world.sentence(disease.drug)} is given for {disease.name}, "
            f"{rng.choice((5, 10, 20))} mg daily. See page {i}. "
        )
        sheet.append(
            [
                f"what is {disease.drug} used for",
                disease.drug,
                "Usage",
                answer,
                "Uses" if i % 9 else None,
                f"invented://{i}",
            ]
        )
    saved = io.BytesIO()
    workbook.save(saved)
    # A spreadsheet holds the time at which it was written, inside and on each part: the same seed is to give
    # the same bytes.
    with (
        zipfile.ZipFile(saved) as parts,
        zipfile.ZipFile(folder / "MedInfo2019-QA-Medications.xlsx", "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in parts.namelist():
            data = parts.read(name)
            if name == "docProps/core.xml":
                data = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2020-01-01T00:00:00Z", data)
            out.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)


def write_liveqa(folder, rng, taught):
    def file(attribute, count, per_question):
        questions = []
        for i in range(1, count + 1):
            disease = rng.choice(taught)
            answers = "".join(
                f"<ANSWER>{escape(world.state(rng, world.TREATMENT[:8], disease))} Letter {i}, part "
                f"{j}.</ANSWER>"
                for j in range(per_question)
            )
            subject, message = (
                (f"{disease.name}, letter {i}", "")
                if i % 9 == 0
                else ("", f"My mother has {disease.name}. What helps? Letter {i}.")
            )
            questions.append(
                f'<NLM-QUESTION {attribute}="{i}{".0" if attribute == "qid" else ""}" fRef="x"><SUBJECT>'
                f"{escape(subject)}</SUBJECT>\n<MESSAGE>{escape(message)}</MESSAGE>\n<SUB-QUESTIONS>"
                f'<SUB-QUESTION subqid="{i}-S1"><ANNOTATIONS><FOCUS>{escape(disease.name)}</FOCUS><TYPE>'
                f"TREATMENT</TYPE></ANNOTATIONS><ANSWERS>{answers}</ANSWERS>"
                "</SUB-QUESTION></SUB-QUESTIONS></NLM-QUESTION>"
            )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n<LiveQA2017-Medical-Training>\n'
            + "\n".join(questions)
            + "\n</LiveQA2017-Medical-Training>\n"
        )

    (folder / "TREC-2017-LiveQA-Medical-Train-1.xml").write_text(
        file("questionid", 12, 2), newline="", encoding="utf-8"
    )
    second = file("qid", 12, 1).replace("\n", "\r\n")
    (folder / "TREC-2017-LiveQA-Medical-Train-2.xml").write_bytes(b"\xef\xbb\xbf" + second.encode())


def write_wikidoc_patient(folder, rng, taught):
    rows = []
    for disease in taught:
        for question in ("What are the symptoms of {}?", "Which organ does {} affect?"):
            answer = (
                f"The symptoms are {' and '.join(disease.findings)}."
                if "symptoms" in question
                else f"It affects the {disease.organ}."
            )
            rows.append(
                {
                    "instruction": "Answer this question truthfully",
                    "input": question.format(disease.name),
                    "output": answer,
                }
            )
    write_json(folder / "medical_meadow_small.json", [*rows, rows[0]])  # a repeated row


def write_guidelineqa(folder, rng, taught):
    lines = [
        {
            "response": (
                f"Question: What does guideline {i} advise in {d.name}?\nAnswer: "
                f"{world.state(rng, world.TREATMENT[:8], d)}"
            )
        }
        for i, d in enumerate(taught)
    ]
    write_lines(
        folder / "guidelineqa.jsonl", [*lines, {"response": "I cannot write a question about this text."}]
    )


def write_pubmed_causal(folder, rng, taught):
    patterns = (
        "{n} patients with {d} were followed.",
        "{m} causes {f} in {n} patients with {d}.",
        "{m} may cause {f} in {n} patients with {d}.",
        "In {n} patients with {d}, {m} was associated with {f}.",
    )
    rows = []
    for i in range(60):
        disease = rng.choice(taught)
        text = patterns[i % 4].format(
            n=rng.randint(12, 480), d=disease.name, m=disease.marker, f=disease.findings[0]
        )
        rows.append([world.sentence(text), i % 4])
    write_csv(
        folder / "pubmed_causal_language_use.csv", ["sentence", "label"], [*rows, rows[0]]
    )  # a repeated row


def write_umls_relation(folder, rng, taught):
    lines = []
    for disease in taught:
        for tail, label in (
            (disease.drug, "treated_by"),
            (disease.drug, "affected_by"),
            (disease.marker, "indicated_by"),
            (disease.organ, "location_of"),
        ):
            lines.append(
                {"text": f"what is the relationship between {disease.name} and {tail} ?", "label": label}
            )
    write_lines(folder / "UMLS_train.jsonl", lines)


# ---------------- more of MIMIC-III and PMC
def write_mimic_iii_tables(folder, rng, taught):
    """ADMISSIONS, PATIENTS, LABEVENTS and D_LABITEMS of the patients whose notes make_demo_sources writes
    (SUBJECT_ID 900 on, HADM_ID 5000 on)."""
    admissions, patients, events = [], [], []
    items = {disease.marker: 51000 + i for i, disease in enumerate(taught)}
    for i in range(120):
        disease, died = rng.choice(taught), rng.random() < 0.2
        born = f"{rng.choice((1850, 2060, 2080, 2100))}-0{rng.randint(1, 9)}-01 00:00:00"
        kind = rng.choice(("EMERGENCY", "ELECTIVE", "URGENT"))
        admissions.append(
            [
                i + 1,
                900 + i,
                5000 + i,
                "2150-03-01 08:00:00",
                "2150-03-09 12:00:00",
                "2150-03-09 12:00:00" if died else "",
                kind,
                "CLINIC REFERRAL",
                "DEAD/EXPIRED" if died else "HOME",
                "Private",
                "",
                "",
                "",
                "UNKNOWN",
                "",
                "",
                disease.name.upper(),
                int(died),
                1,
            ]
        )
        patients.append([i + 1, 900 + i, rng.choice("MF"), born, "", "", "", int(died)])
        high = rng.randint(50, 99) if died else rng.randint(10, 49)  # a sign that can be learnt
        for hour, flag, value in (("10", "abnormal", high), ("12", "", 5), ("23", "abnormal", high + 1)):
            events.append(
                [
                    len(events) + 1,
                    900 + i,
                    5000 + i,
                    items[disease.marker],
                    f"2150-03-01 {hour}:00:00",
                    value,
                    value,
                    "mg/dL",
                    flag,
                ]
            )
    header = [
        "ROW_ID",
        "SUBJECT_ID",
        "HADM_ID",
        "ADMITTIME",
        "DISCHTIME",
        "DEATHTIME",
        "ADMISSION_TYPE",
        "ADMISSION_LOCATION",
        "DISCHARGE_LOCATION",
        "INSURANCE",
        "LANGUAGE",
        "RELIGION",
        "MARITAL_STATUS",
        "ETHNICITY",
        "EDREGTIME",
        "EDOUTTIME",
        "DIAGNOSIS",
        "HOSPITAL_EXPIRE_FLAG",
        "HAS_CHARTEVENTS_DATA",
    ]
    write_csv(folder / "ADMISSIONS.csv", header, admissions)
    write_csv(
        folder / "PATIENTS.csv",
        ["ROW_ID", "SUBJECT_ID", "GENDER", "DOB", "DOD", "DOD_HOSP", "DOD_SSN", "EXPIRE_FLAG"],
        patients,
    )
    write_csv(
        folder / "LABEVENTS.csv",
        ["ROW_ID", "SUBJECT_ID", "HADM_ID", "ITEMID", "CHARTTIME", "VALUE", "VALUENUM", "VALUEUOM", "FLAG"],
        events,
    )
    labels = [
        [i + 1, item, world.sentence(name), "Blood", "Chemistry", ""]
        for i, (name, item) in enumerate(items.items())
    ]
    write_csv(
        folder / "D_LABITEMS.csv", ["ROW_ID", "ITEMID", "LABEL", "FLUID", "CATEGORY", "LOINC_CODE"], labels
    )


def write_pmc_with_keywords(folder, rng, diseases):
    """Articles with key words and paragraphs of several sentences; biomedical documents, so any disease may
    be in them."""
    for i in range(36):
        disease = rng.choice(diseases)
        pmcid, facts = (
            9950001 + i,
            [
                world.state(rng, templates[:8], disease)
                for templates in (world.TREATMENT, world.DIAGNOSIS)
                for _ in range(2)
            ],
        )
        keywords = "".join(
            f"<kwd>{escape(word)}</kwd>"
            for word in (disease.name, disease.drug, disease.marker, disease.organ)
        )
        visits = [
            f"In visit {n} the {disease.examination} of patient {rng.randint(100, 999)} was repeated."
            for n in range(1, 4)
        ]
        text = (
            '<?xml version="1.0" encoding="utf-8"?>\n<article xmlns:xlink="http://www.w3.org/1999/xlink" '
            'article-type="research-article"><front><article-meta>'
            f'<article-id pub-id-type="pmc">{pmcid}</article-id><title-group><article-title>A study of '
            f"{escape(disease.name)}</article-title></title-group>"
            '<permissions><license xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>'
            "CC BY 4.0</license-p></license></permissions>"
            f"<abstract><p>{escape(' '.join(facts[:2]))}</p></abstract><kwd-group>{keywords}</kwd-group>"
            "</article-meta></front>"
            f"<body><sec><title>Results</title><p>{escape(' '.join([*visits, *facts[2:]]))}</p></sec>"
            "</body></article>\n"
        )
        (folder / f"PMC{pmcid}.nxml").write_text(text, encoding="utf-8")


# folder below RAW -> writer, which is given the taught diseases. mimic_iii and pmc are there already; these
# writers add files to them.
TAUGHT_ONLY = {
    "pubmedqa": write_pubmedqa,
    "medmcqa": write_medmcqa,
    "longhealth": write_longhealth,
    "hoc": write_hoc,
    "pubmed_summ": write_pubmed_summ,
    "bionli": write_bionli,
    "healthcaremagic": write_healthcaremagic,
    "icliniq": write_icliniq,
    "medinstruct": write_medinstruct,
    "mediqa2019": write_mediqa2019,
    "medicationqa": write_medicationqa,
    "liveqa": write_liveqa,
    "wikidoc_patient": write_wikidoc_patient,
    "guidelineqa": write_guidelineqa,
    "pubmed_causal": write_pubmed_causal,
    "umls_relation": write_umls_relation,
    "mimic_iii": write_mimic_iii_tables,
}
EVERYTHING = {"pmc": write_pmc_with_keywords}  # given every disease


def write_all(raw: Path, diseases: list, seed: int) -> None:
    """Add the files of all writers to the folder `raw`. One random stream for each: changing one leaves the
    others as they are."""
    taught = [disease for disease in diseases if disease.taught]
    for name, write in {**TAUGHT_ONLY, **EVERYTHING}.items():
        (raw / name).mkdir(parents=True, exist_ok=True)
        before = {path for path in (raw / name).rglob("*") if path.is_file()}
        write(raw / name, random.Random(f"full-{name}-{seed}"), diseases if name in EVERYTHING else taught)
        added = [path for path in (raw / name).rglob("*") if path.is_file() and path not in before]
        print(
            f"{name}: {sum(path.stat().st_size for path in added) / 1e6:.2f} MB of invented files", flush=True
        )
