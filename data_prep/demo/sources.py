"""Render the invented world into the raw formats of the published sources, so that every stage runs without
credentials or network.

    python -m data_prep.demo.sources --out data/demo/raw

Reads   nothing.
Writes  OUT/<source>/..., one folder per source, laid out and encoded as its publisher ships it (formats: the
        docstrings of data_prep/sources, data_prep/instructions and data_prep/benchmarks), and OUT/README.md.
        The same seed gives the same bytes.

The files are invented from the documented formats alone; no record of any real data set was used. MIMIC-,
i2b2-, emrQA- and MedNLI-shaped files keep the access class of the set they stand in for, so that the guards
of every later stage are exercised too.
"""

import argparse
import csv
import gzip
import io
import json
import random
from pathlib import Path
from xml.sax.saxutils import escape

import zstandard

from data_prep.demo import world
from data_prep.files import one_sentence, outline, whole_folder

ABSTRACTS, ARTICLES, NOTES, REPORTS, GENERAL_DOCUMENTS = 4800, 160, 160, 320, 3500
TASK_ROWS = {"train": 240, "dev": 40, "test": 80}
GENERAL_QUESTIONS = 60  # of each kind
DIFFERENTIALS = 8  # patients of each taught disease
PROMPT = Path(__file__).resolve().parents[1] / "prompts/diagnosis/differential.txt"
DESCRIBED = "kind: instructions\nlicense: invented\naccess: public\nprompt: prompt\nanswer: answer\n"


# ---------------- biomedical: PubMed and PMC
def abstract_sentences(rng, disease):
    """Three to five sentences about one disease: both relations, in wordings drawn anew each time."""
    facts = [world.state(rng, world.TREATMENT, disease), world.state(rng, world.DIAGNOSIS, disease)]
    facts.append(world.state(rng, rng.choice((world.TREATMENT, world.DIAGNOSIS)), disease))
    rng.shuffle(facts)
    setting = world.sentence(
        rng.choice(
            (
                "{disease} affects the {organ} and causes {finding}.",
                "We studied {n} patients with {disease}, a disorder of the {organ}.",
                "{finding} is often the first sign of {disease}.",
            )
        ).format(
            disease=disease.name,
            organ=disease.organ,
            finding=rng.choice(disease.findings),
            n=rng.randint(12, 480),
        )
    )
    return setting, facts


def pubmed_record(rng, pmid, disease, kind="plain"):
    setting, facts = abstract_sentences(rng, disease)
    title = (
        escape(
            world.sentence(
                rng.choice(
                    ("Treatment of {d}", "{d}: a study of {n} patients", "On the diagnosis of {d}")
                ).format(d=disease.name, n=rng.randint(12, 480))
            )
        )
        + "."
    )
    language, types, other = "eng", '<PublicationType UI="D016428">Journal Article</PublicationType>', ""
    abstract = f"<AbstractText>{escape(' '.join([setting, *facts]))}</AbstractText>"
    if kind == "structured":
        abstract = "".join(
            f'<AbstractText Label="{label}" NlmCategory="{label}">{escape(text)}</AbstractText>'
            for label, text in (
                ("BACKGROUND", setting),
                ("RESULTS", " ".join(facts[:-1])),
                ("CONCLUSIONS", facts[-1]),
            )
        )
    elif kind == "markup":
        abstract = (
            f"<AbstractText>{escape(setting)} <i>In vitro</i>, 10<sup>3</sup> cells were counted. "
            f"{escape(' '.join(facts))}</AbstractText>"
        )
    elif kind == "foreign":
        language, title = "fre", f"[{title[:-1]}]."
        other = (
            '<OtherAbstract Language="fre"><AbstractText>Un texte dans une autre '
            "langue.</AbstractText></OtherAbstract>"
        )
    elif kind == "retracted":
        types += '<PublicationType UI="D016441">Retracted Publication</PublicationType>'
    elif kind == "no abstract":
        abstract = ""
    date = (
        f"<Year>{rng.randint(1990, 2023)}</Year>"
        if rng.random() < 0.9
        else f"<MedlineDate>{rng.randint(1990, 2023)} Jan-Feb</MedlineDate>"
    )
    return (
        f'<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM"><PMID Version="1">{pmid}</PMID>'
        f'<Article PubModel="Print"><Journal><JournalIssue CitedMedium="Print"><PubDate>{date}</PubDate>'
        "</JournalIssue>"
        f"<Title>Journal of Invented Medicine</Title></Journal><ArticleTitle>{title}</ArticleTitle>"
        f"{f'<Abstract>{abstract}</Abstract>' if abstract else ''}"
        '<AuthorList CompleteYN="Y"><Author ValidYN="Y"><CollectiveName>Invented Study '
        "Group</CollectiveName></Author></AuthorList>"
        f"<Language>{language}</Language><PublicationTypeList>{types}</PublicationTypeList></Article>"
        '<MeshHeadingList><MeshHeading><DescriptorName UI="D000000" MajorTopicYN="Y">'
        f"{escape(disease.name.title())}</DescriptorName>"
        f"</MeshHeading></MeshHeadingList>{other}</MedlineCitation><PubmedData><PublicationStatus>"
        "ppublish</PublicationStatus><ArticleIdList>"
        f'<ArticleId IdType="pubmed">{pmid}</ArticleId></ArticleIdList></PubmedData></PubmedArticle>'
    )


def write_pubmed(folder, rng, diseases):
    kinds = ("plain", "plain", "plain", "plain", "structured", "structured", "markup")
    records = []
    for i in range(ABSTRACTS):
        kind = {7: "foreign", 19: "retracted", 31: "no abstract"}.get(i % 400) or rng.choice(kinds)
        records.append(pubmed_record(rng, 90000001 + i, diseases[i % len(diseases)], kind))
    for part, start in enumerate((0, ABSTRACTS // 2), 1):
        tail = f'<DeleteCitation><PMID Version="1">{90000001}</PMID></DeleteCitation>' if part == 2 else ""
        text = (
            '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD '
            'PubMedArticle, 1st January 2019//EN" '
            '"https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_190101.dtd">\n<PubmedArticleSet>\n'
            + "\n".join(records[start : start + ABSTRACTS // 2])
            + f"\n{tail}</PubmedArticleSet>\n"
        )
        write_gzip(folder / f"pubmed26n{part:04d}.xml.gz", text)


def write_pmc(folder, rng, diseases):
    for i in range(ARTICLES):
        covered = rng.sample(diseases, 4)
        license = (
            '<license license-type="open-access" '
            'xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>CC BY 4.0</license-p>'
            "</license>"
            if i % 5
            else (
                "<license><license-p>This article is distributed under the Creative Commons "
                "Attribution-NonCommercial License.</license-p></license>"
            )
        )
        sections = []
        for heading, templates in (
            ("Clinical picture", None),
            ("Treatment", world.TREATMENT),
            ("Laboratory findings", world.DIAGNOSIS),
        ):
            paragraphs = []
            for disease in covered:
                if templates:
                    sentences = [world.state(rng, templates, disease) for _ in range(2)]
                else:
                    sentences = [
                        f"{world.sentence(disease.name)} is a disorder of the {disease.organ} and causes "
                        f"{' and '.join(disease.findings)}."
                    ]
                paragraphs.append(
                    f'<p>{escape(" ".join(sentences))} <xref ref-type="bibr" rid="B1">[1]</xref></p>'
                )
            sections.append(f"<sec><title>{heading}</title>{''.join(paragraphs)}</sec>")
        key_points = "".join(
            f"<p>{escape(world.state(rng, templates[-4:], disease))}</p>"
            for disease in covered
            for templates in (world.TREATMENT, world.DIAGNOSIS)
        )
        pmcid = 9900001 + i
        title = f"Four disorders: {', '.join(d.name for d in covered)}"
        dtd = (
            '<!DOCTYPE article PUBLIC "-//NLM//DTD JATS (Z39.96) Journal Archiving and Interchange DTD '
            'v1.0 20120330//EN" "JATS-archivearticle1.dtd">'
            if i % 2
            else (
                '<!DOCTYPE article PUBLIC "-//NLM//DTD Journal Archiving and Interchange DTD v2.3 '
                '20070202//EN" "archivearticle.dtd">'
            )
        )
        (folder / f"PMC{pmcid}.nxml").write_text(
            f'<?xml version="1.0" encoding="utf-8"?>\n{dtd}\n<article '
            'xmlns:xlink="http://www.w3.org/1999/xlink" article-type="review-article"><front>'
            "<article-meta>"
            f'<article-id pub-id-type="pmc">{pmcid}</article-id><article-id pub-id-type="pmid">'
            f"{91000001 + i}</article-id>"
            f"<title-group><article-title>{escape(title)}</article-title></title-group>"
            f"<permissions><copyright-statement>Invented.</copyright-statement>{license}</permissions>"
            f"<abstract><p>{escape(world.state(rng, world.TREATMENT, covered[0]))}</p></abstract>"
            "</article-meta></front>"
            f"<body>{''.join(sections)}<sec><title>Key points</title>{key_points}</sec>"
            '<table-wrap id="T1"><label>Table 1</label><table><tr><td>left out</td></tr></table>'
            "</table-wrap></body>"
            '<back><ref-list><ref id="B1"><mixed-citation>Left out of the text.</mixed-citation></ref>'
            "</ref-list></back></article>\n",
            encoding="utf-8",
        )


# ---------------- clinical: MIMIC-III, MIMIC-IV-Note, MIMIC-CXR
def discharge_text(rng, disease, mark):
    """A discharge summary of somebody with a taught disease; `mark` is the data set's de-identification
    mark."""
    dose = rng.choice((5, 10, 20, 40))
    return (
        f"Admission Date: {mark}   Discharge Date: {mark}\n\nSex: {rng.choice('MF')}\nService: "
        f"{disease.specialty}\n\nChief Complaint:\n{disease.findings[0]}\n\n"
        f"History of Present Illness:\n{mark} is a {rng.randint(20, 80)}-year-old with known "
        f"{disease.name} who came with {disease.findings[0]} and {disease.findings[1]}.\n\n"
        f"Pertinent Results:\nSerum {disease.marker} {rng.randint(2, 9)}.{rng.randint(0, 9)} (raised). "
        f"The {disease.examination} was abnormal.\n\n"
        f"Brief Hospital Course:\nThe patient was started on {disease.drug} {dose} mg daily and improved.\n\n"
        f"Discharge Medications:\n1. {disease.drug} {dose} mg PO daily\n\nDischarge "
        f"Diagnosis:\n{disease.name}\n"
    )


def chest_film(rng):
    """(findings, impression) of an invented chest x-ray; the impression says the one abnormal thing."""
    side, lobe, size = (
        rng.choice(("left", "right")),
        rng.choice(("upper", "lower")),
        rng.choice(("small", "moderate", "large")),
    )
    abnormal, impression = rng.choice(
        (
            (
                f"There is a {size} {side} pleural effusion.",
                f"{world.sentence(size)} {side} pleural effusion.",
            ),
            (
                f"There is an opacity in the {side} {lobe} lobe.",
                f"{world.sentence(side)} {lobe} lobe pneumonia.",
            ),
            (f"A thin line is seen at the {side} apex.", f"{world.sentence(side)} apical pneumothorax."),
            ("The heart is enlarged.", "Enlarged heart."),
            ("The lungs are clear.", "Normal chest."),
        )
    )
    others = rng.sample(
        (
            "The bones are normal.",
            "The film is well centered.",
            "A wire is seen over the chest.",
            "The trachea is in the middle.",
            "The diaphragm is smooth.",
            "There is no free air.",
            f"There are {rng.randint(2, 9)} old clips.",
        ),
        2,
    )
    return " ".join(rng.sample([abnormal, *others], 3)), impression


def write_mimic_iii(folder, rng, taught):
    rows = []
    for i in range(NOTES):
        text = discharge_text(
            rng,
            rng.choice(taught),
            f"[**{rng.randint(2100, 2199)}-{rng.randint(1, 12)}-{rng.randint(1, 28)}**]",
        )
        rows.append(
            [
                i + 1,
                900 + i,
                5000 + i,
                "2150-01-01",
                "",
                "",
                "Discharge summary",
                "Report",
                "",
                "1" if i % 50 == 9 else "",
                text,
            ]
        )
    header = [
        "ROW_ID",
        "SUBJECT_ID",
        "HADM_ID",
        "CHARTDATE",
        "CHARTTIME",
        "STORETIME",
        "CATEGORY",
        "DESCRIPTION",
        "CGID",
        "ISERROR",
        "TEXT",
    ]
    write_csv(folder / "NOTEEVENTS.csv", header, rows)


def write_mimic_iv_note(folder, rng, taught):
    header = ["note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime", "storetime", "text"]
    rows = [
        [
            f"{19000001 + i}-DS-1",
            19000001 + i,
            29000001 + i,
            "DS",
            1,
            "2180-01-01 00:00:00",
            "",
            discharge_text(rng, rng.choice(taught), "___"),
        ]
        for i in range(NOTES)
    ]
    write_csv(folder / "discharge.csv", header, rows)
    rows = []
    for i in range(NOTES):
        findings, impression = chest_film(rng)
        text = (
            "EXAMINATION:  CHEST (PA AND LAT)\n\nINDICATION:  ___ with "
            f"{rng.choice(taught).findings[0]}\n\nFINDINGS: \n\n{findings}\n\nIMPRESSION: "
            f"\n\n{impression}\n"
        )
        rows.append(
            [
                f"{19000001 + i}-RR-1",
                19000001 + i,
                "" if i % 3 else 29000001 + i,
                "RR",
                1,
                "2180-01-01 00:00:00",
                "",
                text,
            ]
        )
    write_csv(folder / "radiology.csv", header, rows)


def write_mimic_cxr(folder, rng, taught):
    splits = []
    for i in range(REPORTS):
        findings, impression = chest_film(rng)
        subject = 19000001 + i // 2
        report = folder / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{59000001 + i}.txt"
        report.parent.mkdir(parents=True, exist_ok=True)
        body = (
            f" \n FINDINGS:\n \n {findings}\n \n IMPRESSION:\n \n {impression}\n"
            if i % 40
            else " \n Portable film, see the other report.\n"
        )
        splits.append(
            [
                f"invented-{i}",
                59000001 + i,
                subject,
                ("test" if subject % 5 == 0 else "validate" if subject % 10 == 1 else "train"),
            ]
        )
        report.write_text(
            "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n "
            f"INDICATION:  ___ with {rng.choice(taught).findings[0]}\n{body}",
            encoding="utf-8",
        )
    write_csv(folder / "mimic-cxr-2.0.0-split.csv", ["dicom_id", "study_id", "subject_id", "split"], splits)


# ---------------- general: RedPajama
def write_redpajama(folder, rng):
    kinds = list(world.GENERAL)
    slices = {kind: [] for kind in kinds}
    for i in range(GENERAL_DOCUMENTS):
        kind = kinds[i % len(kinds)]
        separator = "\n\n" if kind == "github" else " "
        slices[kind].append(
            separator.join(world.general_sentence(rng, kind) for _ in range(rng.randint(5, 14)))
        )
    for kind, texts in slices.items():
        if kind == "common_crawl":  # these files have no "meta": every other top-level key is the metadata
            lines = [
                {
                    "text": t,
                    "pred_label": "__label__wiki",
                    "wiki_prob": 0.5,
                    "source": f"cc/en_middle_{i:04d}",
                }
                for i, t in enumerate(texts)
            ]
        elif kind == "book":  # the Hub exports carry "meta" as a string
            lines = [
                {
                    "text": t,
                    "meta": json.dumps({"short_book_title": f"Invented Book {i}"}),
                    "red_pajama_subset": "book",
                }
                for i, t in enumerate(texts)
            ]
        else:
            lines = [
                {
                    "text": t,
                    "meta": {
                        "source": kind,
                        "timestamp": "",
                        "language": "en",
                        "url": f"invented://{kind}/{i}",
                    },
                }
                for i, t in enumerate(texts)
            ]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        if kind == "common_crawl":
            (folder / kind).mkdir()
            (folder / kind / "en_middle_0000.jsonl.zst").write_bytes(
                zstandard.ZstdCompressor(level=3).compress(data)
            )
        else:
            (folder / f"{kind}.jsonl").write_bytes(data)


# ---------------- instructions: Alpaca, Dolly, ShareGPT, flash cards
def everyday(rng):
    """An everyday instruction that needs nothing but its own text: (instruction, input, answer)."""
    goods, town = rng.sample(world.GOODS, 3), rng.choice(world.TOWNS)
    return rng.choice(
        (
            (
                "Name the town in the sentence.",
                f"The ship brought {goods[0]} to {town} in {rng.choice(world.SEASONS)}.",
                town,
            ),
            ("Copy the list in upper case.", ", ".join(goods), ", ".join(goods).upper()),
            ("Which goods are named first?", f"They sell {goods[0]}, {goods[1]} and {goods[2]}.", goods[0]),
            ("Write the last word of the list.", ", ".join(goods), goods[2]),
            (
                "Say where the fair is held.",
                f"The fair of {town} is held at the {(place := rng.choice(world.PLACES))}.",
                f"At the {place}.",
            ),
        )
    )


def write_alpaca(folder, rng, _):
    rows = []
    for i in range(160):
        instruction, text, answer = everyday(rng)
        if i % 4 == 0:
            instruction, text = f"{instruction} {text}", rng.choice(("", "<noinput>", "No input"))
        rows.append({"instruction": instruction, "input": text, "output": answer})
    write_json(folder / "alpaca_data.json", rows)


def write_dolly(folder, rng, _):
    lines = []
    for _i in range(160):
        instruction, text, answer = everyday(rng)
        lines.append(
            {
                "instruction": instruction,
                "context": text + "[42]",
                "response": answer,
                "category": "closed_qa",
            }
        )
    write_lines(folder / "databricks-dolly-15k.jsonl", lines)


def write_sharegpt(folder, rng, _):
    rows = []
    for i in range(60):
        turns = []
        for _turn in range(rng.randint(1, 3)):
            instruction, text, answer = everyday(rng)
            turns += [{"from": "human", "value": f"{instruction}\n{text}"}, {"from": "gpt", "value": answer}]
        rows.append({"id": f"invented_{i}", "conversations": turns})
    write_json(folder / "sharegpt.json", rows)


def write_flashcards(folder, rng, taught):
    """Every taught fact as a card, in the wordings of the literature and of the examination; the answer comes
    first."""
    rows = []
    for disease in taught:
        for answer, statements, questions in (
            (disease.drug, world.TREATMENT, world.TREATMENT_QUESTIONS),
            (disease.marker, world.DIAGNOSIS, world.DIAGNOSIS_QUESTIONS),
        ):
            asked = [t.removeprefix("Question: ").split(" Answer:")[0] for t in statements[-4:]] + list(
                questions
            )
            for question in asked:
                output = f"{answer}. {world.state(rng, statements[:8], disease)}"
                rows.append(
                    {
                        "instruction": "Answer this question truthfully",
                        "input": world.fill(question, rng, disease),
                        "output": output,
                    }
                )
    write_json(folder / "medical_meadow_wikidoc_medical_flashcards.json", rows)


# ---------------- MIBE: one raw set or more for each of the six kinds
def write_medqa(folder, rng, diseases):
    """Training and dev questions ask for facts of taught diseases; each test question for one fact of a
    withheld disease."""

    def question(disease, relation):
        pool = [
            d for d in diseases if d is not disease and d.taught == disease.taught
        ]  # so that no option was trained on more than the others
        if relation == "drug":
            text, answer, others = (
                world.fill(rng.choice(world.TREATMENT_QUESTIONS), rng, disease),
                disease.drug,
                [d.drug for d in rng.sample(pool, 4)],
            )
        else:
            text, answer, others = (
                world.fill(rng.choice(world.DIAGNOSIS_QUESTIONS), rng, disease),
                disease.marker,
                [d.marker for d in rng.sample(pool, 4)],
            )
        options = rng.sample([answer, *others], 5)
        letters = dict(zip("ABCDE", options, strict=True))
        return {
            "question": text,
            "answer": answer,
            "options": letters,
            "meta_info": rng.choice(("step1", "step2&3")),
            "answer_idx": "ABCDE"[options.index(answer)],
        }

    taught, withheld = [d for d in diseases if d.taught], [d for d in diseases if not d.taught]
    asked = {
        "train": [
            question(rng.choice(taught), rng.choice(("drug", "marker"))) for _ in range(TASK_ROWS["train"])
        ],
        "dev": [
            question(rng.choice(taught), rng.choice(("drug", "marker"))) for _ in range(TASK_ROWS["dev"])
        ],
        "test": [question(disease, relation) for disease in withheld for relation in ("drug", "marker")],
    }
    for split, rows in asked.items():
        write_lines(folder / "US" / f"{split}.jsonl", rows)


def write_general_questions(folder, rng):
    """Four answers to each question, in the layout of MMLU: evaluation.forgetting asks them before and after
    training."""
    lines = []
    for _ in range(GENERAL_QUESTIONS):
        for question, frame, kind in world.GENERAL_QUESTIONS:
            words = {name: rng.choice(choices) for name, choices in world.KINDS_OF_WORDS.items()}
            facts = words | {
                "town": rng.choice(world.TOWNS),
                "tool": rng.choice(world.TOOLS),
                "goods2": rng.choice(world.GOODS),
            }
            others = rng.sample([word for name, word in words.items() if name != kind], 3)
            answers = [frame.format(word, **facts) for word in (words[kind], *others)]
            options = rng.sample(answers, 4)
            lines.append([question.format(**facts), *options, "ABCD"[options.index(answers[0])]])
    (folder / "mmlu" / "test").mkdir(parents=True)
    write_csv(
        folder / "mmlu" / "test" / "miscellaneous_test.csv", lines[0], lines[1:]
    )  # as published: no header


def write_emrqa(folder, rng, taught):
    paragraphs = []
    for i in range(sum(TASK_ROWS.values()) // 2):
        a, b = rng.sample(taught, 2)
        doses = rng.sample((5, 10, 15, 20, 40, 80), 2)
        lines = [
            f"Patient seen for {a.name} .",
            f"Takes {a.drug} {doses[0]} mg daily for {a.name} .",
            f"Takes {b.drug} {doses[1]} mg daily for {b.name} .",
        ]
        context = "\n".join(lines)
        qas = []
        for j, (disease, dose) in enumerate(zip((a, b), doses, strict=True)):
            text = f"{dose} mg"
            questions = [
                f"What is the dose of {disease.drug} ?",
                f"How much {disease.drug} does the patient take ?",
            ]
            answer = {
                "answer_start": [j + 2, lines[j + 1].split().index(str(dose))],
                "text": text,
                "evidence": lines[j + 1],
                "evidence_start": j + 2,
                "answer_entity_type": "single",
            }
            qas.append(
                {
                    "id": [[["What is the dose of |medication| ?", "dose"]], "MedicationEvent"],
                    "question": questions[: 1 + i % 2],
                    "answers": [answer],
                }
            )
        paragraphs.append({"note_id": f"invented_{i:04d}", "context": context, "qas": qas})
    write_json(folder / "data.json", {"data": [{"title": "medication", "paragraphs": paragraphs}]})


def write_i2b2(folder, rng, taught):
    """Records of twelve lines; a concept is (text, line from 1, first and last token from 0)."""
    patterns = (
        ("The {person} was given {treatment} for {problem} .", ("treatment", "problem")),
        ("On day {n} {test} showed {problem} .", ("test", "problem")),
        ("The {person} was started on {treatment} after {test} .", ("treatment", "test")),
        ("The {person} denies {problem} .", ("problem",)),
        ("The family will call in {n} days .", ()),
        ("{problem} improved with {treatment} on day {n} .", ("problem", "treatment")),
    )
    for split, records in (("train", 40), ("test", 7)):
        for i in range(records):
            lines, concepts = [], []
            for number in range(1, 13):
                pattern, slots = rng.choice(patterns)
                disease, person, n = rng.choice(taught), rng.choice(world.PERSONS), rng.randint(2, 30)
                value = {
                    "treatment": disease.drug,
                    "problem": rng.choice((disease.name, *disease.findings)),
                    "test": f"serum {disease.marker}",
                }
                tokens = []
                for word in pattern.split(" "):
                    word = word.format_map(
                        {**{slot: f"{{{slot}}}" for slot in slots}, "person": person, "n": n}
                    )
                    slot = word.strip("{}")
                    if slot in slots:
                        filled = value[slot].split(" ")
                        concepts.append(
                            f'c="{value[slot].lower()}" {number}:{len(tokens)} '
                            f'{number}:{len(tokens) + len(filled) - 1}||t="{slot}"'
                        )
                        tokens += filled
                    else:
                        tokens.append(word)
                lines.append(" ".join(tokens))
            record = f"invented-{split}-{i:03d}"
            for kind, content in (("txt", lines), ("concept", concepts)):
                path = folder / split / kind / f"{record}.{'txt' if kind == 'txt' else 'con'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n".join(content) + "\n", encoding="utf-8")


DDI_PATTERNS = {
    "effect": (
        "{a} may add to the sedation caused by {b}.",
        "Bleeding was seen when {a} was taken with {b}.",
    ),
    "mechanism": ("{a} raises the plasma level of {b}.", "The clearance of {b} is lowered by {a}."),
    "advise": (
        "{a} should not be taken together with {b}.",
        "The dose of {b} should be reduced in patients on {a}.",
    ),
    "int": ("{a} is known to interact with {b}.", "An interaction between {a} and {b} has been reported."),
    None: ("{a} and {b} were studied in two different groups.", "Neither {a} nor {b} was given on that day."),
}


def write_ddi(folder, rng, taught):
    for split, documents in (("Train", 160), ("Test", 40)):
        for i in range(documents):
            source = ("DrugBank", "MedLine")[i % 2]
            ddi_id = f"DDI-{source}.d{i if split == 'Train' else 1000 + i}"
            sentences = []
            for s in range(2):
                kind = rng.choice(list(DDI_PATTERNS))
                a, b = (d.drug for d in rng.sample(taught, 2))
                setting = f"In {rng.randint(12, 480)} patients with {rng.choice(taught).name}, "
                text = world.sentence(setting + rng.choice(DDI_PATTERNS[kind]).format(a=a, b=b))
                entities = sorted((text.lower().index(name), name) for name in (a, b))
                marked = "".join(
                    f'<entity id="{ddi_id}.s{s}.e{e}" charOffset="{start}-{start + len(name) - 1}" '
                    f'type="drug" text="{text[start : start + len(name)]}"/>'
                    for e, (start, name) in enumerate(entities)
                )
                truth = f'ddi="true" type="{kind}"' if kind else 'ddi="false"'
                sentences.append(
                    f'<sentence id="{ddi_id}.s{s}" text="{escape(text)}">{marked}'
                    f'<pair id="{ddi_id}.s{s}.p0" e1="{ddi_id}.s{s}.e0" e2="{ddi_id}.s{s}.e1" {truth}/>'
                    "</sentence>"
                )
            sub = Path("DDICorpus") / split / source
            (folder / sub).mkdir(parents=True, exist_ok=True)
            (folder / sub / f"invented_{i}.xml").write_text(
                f'<?xml version="1.0" encoding="UTF-8"?><document id="{ddi_id}">'
                f"{''.join(sentences)}</document>\n",
                encoding="utf-8",
            )


def write_mtsamples(folder, rng, taught):
    rows = []
    for i in range(360):
        disease = rng.choice(taught)
        text = (
            f"CHIEF COMPLAINT:,  {world.sentence(disease.findings[i % 2])} for {rng.randint(2, 30)} "
            f"days.,PHYSICAL EXAM:,  The {disease.organ} was examined. The {disease.examination} was "
            "done.,"
            f"PLAN:,  Return in {rng.randint(2, 30)} days and repeat the {disease.examination}."
        )
        rows.append(
            [
                i,
                " A visit to the clinic.",
                f" {disease.specialty}",
                f" Consult - {i} ",
                text if i % 90 != 7 else "",
                "",
            ]
        )
    write_csv(
        folder / "mtsamples.csv",
        ["", "description", "medical_specialty", "sample_name", "transcription", "keywords"],
        rows,
    )


def write_mednli(folder, rng, taught):
    findings = sorted({f for d in taught for f in d.findings})
    for split, count in TASK_ROWS.items():
        rows = []
        for i in range(count):
            has, denies, other = rng.sample(findings, 3)
            label, asked = rng.choice((("entailment", has), ("contradiction", denies), ("neutral", other)))
            premise = rng.choice(
                ("The patient reports {a} but denies {b} .", "There is {a} , and there is no {b} .")
            ).format(a=has, b=denies)
            hypothesis = rng.choice(("The patient has {f} .", "{f} is present .")).format(f=asked)
            rows.append(
                {
                    "pairID": f"{split}-{i}",
                    "gold_label": label,
                    "sentence1": premise,
                    "sentence2": world.sentence(hypothesis),
                    "sentence1_parse": "",
                    "sentence2_parse": "",
                    "sentence1_binary_parse": "",
                    "sentence2_binary_parse": "",
                }
            )
        write_lines(folder / f"mli_{split}_v1.jsonl", rows)


def osce(rng, disease) -> dict:
    """An invented patient as AgentClinic lays its cases out. The raised marker tells the disease."""
    first, second, person, age, weeks, level = presentation(rng, disease)
    actor = {
        "Demographics": f"{age}-year-old {person}",
        "History": f"{world.sentence(first)} for {weeks} weeks.",
        "Symptoms": {"Primary_Symptom": first, "Secondary_Symptoms": [second]},
        "Past_Medical_History": "None.",
    }
    tests = {
        "Blood_Tests": {f"Serum_{disease.marker}": level},
        disease.examination.capitalize(): {"Findings": "Abnormal."},
    }
    return {
        "Objective_for_Doctor": f"Find the cause of {first}.",
        "Patient_Actor": actor,
        "Physical_Examination_Findings": {"Vital_Signs": "Normal."},
        "Test_Results": tests,
        "Correct_Diagnosis": world.sentence(disease.name),
    }


def vignette(rng, disease) -> str:
    """The same as a text."""
    first, second, person, age, weeks, level = presentation(rng, disease)
    return (
        f"A {age}-year-old {person} has had {first} and {second} for {weeks} weeks. Examination "
        f"of the {disease.organ} was made, "
        f"and the {disease.examination} was abnormal. Serum {disease.marker} was {level}."
    )


def presentation(rng, disease) -> tuple:
    person, age, weeks = rng.choice(world.PERSONS), rng.randint(20, 80), rng.randint(2, 9)
    return *disease.findings, person, age, weeks, f"{rng.randint(2, 9)}.{rng.randint(0, 9)} (raised)"


def write_case_diagnosis(folder, rng, taught):
    """A case of each taught disease, half of them as AgentClinic lays its cases out and half in our own
    format."""
    examinations, cases = [], []
    for i, disease in enumerate(taught):
        if i % 2:
            examinations.append({"OSCE_Examination": osce(rng, disease)})
            continue
        cases.append(
            {
                "id": f"invented:{i}",
                "text": vignette(rng, disease),
                "final_diagnosis": disease.name,
                "synonyms": ["".join(word[0] for word in disease.name.split()).upper()],
                "access": "public",
                "license": "invented",
                "source": "invented",
            }
        )
    write_lines(folder / "agentclinic_medqa.jsonl", examinations)
    write_lines(folder / "cases.jsonl", cases)


def write_differentials(folder, rng, taught):
    """Instruction rows of the wording of `make diagnose`: other patients with the taught diseases, and five
    diagnoses, the right one first, then the others of its specialty, then any."""
    template, rows = PROMPT.read_text(encoding="utf-8"), []
    for disease in taught:
        near = [d.name for d in taught if d.specialty == disease.specialty and d is not disease]
        for i in range(DIFFERENTIALS):
            far = [d.name for d in taught if d.specialty != disease.specialty]
            names = [disease.name, *near, *rng.sample(far, len(far))][:5]
            parts = osce(rng, disease)
            del parts["Objective_for_Doctor"], parts["Correct_Diagnosis"]
            text = "\n".join(outline(parts.pop("Patient_Actor") | parts)) if i % 2 else vignette(rng, disease)
            listed = "\n".join(f"{n}. {world.sentence(name)}" for n, name in enumerate(names, 1))
            rows.append({"prompt": template.format(case=text), "answer": listed})
    write_lines(folder / "differentials.jsonl", rows)
    (folder / "source.yaml").write_text(DESCRIBED, encoding="utf-8")


# ---------------- encodings
def write_gzip(path, text):
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as out:
        out.write(text.encode())


def write_csv(path, header, rows):
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    path.write_text(out.getvalue(), encoding="utf-8", newline="")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# What each writer needs of the world: every disease, or the taught ones only. Whoever is not given the
# withheld ones cannot tell on them.
EVERYTHING = {"pubmed": write_pubmed, "pmc": write_pmc, "medqa": write_medqa}
TAUGHT_ONLY = {
    "mimic_iii": write_mimic_iii,
    "mimic_iv_note": write_mimic_iv_note,
    "mimic_cxr": write_mimic_cxr,
    "alpaca": write_alpaca,
    "dolly": write_dolly,
    "sharegpt": write_sharegpt,
    "flashcards": write_flashcards,
    "emrqa": write_emrqa,
    "i2b2": write_i2b2,
    "ddi": write_ddi,
    "mtsamples": write_mtsamples,
    "mednli": write_mednli,
    "case_diagnosis": write_case_diagnosis,
    "differentials": write_differentials,
}
NO_MEDICINE = {"redpajama": write_redpajama, "general_questions": write_general_questions}
README = """Invented data. Made by `python -m data_prep.demo.sources`; no medical meaning, no real people.
Folders named after credentialed sets (mimic_*, emrqa, i2b2, mednli) are stand-ins in the documented formats.
"""


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--full",
        action="store_true",
        help="every source and benchmark of the paper, not only those of the demo",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with one_sentence():
        write_sources(args)


def write_sources(args):
    diseases = world.make_world(args.seed)
    taught = [d for d in diseases if d.taught]
    with whole_folder(args.out, mark="README.md") as out:
        for name, write in {**EVERYTHING, **TAUGHT_ONLY, **NO_MEDICINE}.items():
            (out / name).mkdir()
            rng = random.Random(
                f"{name}-{args.seed}"
            )  # one stream per source: changing one leaves the others as they are
            write(
                out / name,
                rng,
                *([diseases] if name in EVERYTHING else [taught] if name in TAUGHT_ONLY else []),
            )
            size = sum(f.stat().st_size for f in (out / name).rglob("*") if f.is_file())
            print(f"{name}: {size / 1e6:.2f} MB of invented files", flush=True)
        if args.full:
            from data_prep.demo.sources_full import write_all  # which draws on this module

            write_all(out, diseases, args.seed)
        (out / "README.md").write_text(README, encoding="utf-8")
    print(
        f"wrote {args.out}: {len(diseases)} invented diseases, {len(taught)} taught and "
        f"{len(diseases) - len(taught)} withheld (seed {args.seed})"
    )


if __name__ == "__main__":
    main()
