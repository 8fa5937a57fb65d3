"""decontamination.py: the share of planted copies that it finds, by kind of copy, and that it finds nothing
where nothing was planted.

pytest tests/data_prep/test_decontamination.py -s -k recall       prints the table
"""

import json
import random
import re
import textwrap
from pathlib import Path

import pytest

from data_prep import benchmarks as tasks
from data_prep import build_tasks, egress
from data_prep.corpus.decontamination import Index, cut, load, make_decontaminator
from data_prep.corpus.evaluation_items import Item, document_ids, id_blocklist, item_name, read_items
from data_prep.demo import sources
from data_prep.manifest import Drops
from data_prep.schema import BadInput
from data_prep.sources import SOURCES

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
SYLLABLES = [
    a + b
    for a in ("b", "d", "f", "k", "l", "m", "n", "p", "r", "s", "t", "v")
    for b in ("a", "e", "i", "o", "u")
]
VOCABULARY = ["the", "of", "and", "a", "in", "with", "to", "was", "is", "for"] * 40
VOCABULARY += ["".join(random.Random(i).choices(SYLLABLES, k=2 + i % 3)) for i in range(1600)]
PER_KIND = 100


def words(numbers: random.Random, count: int) -> list[str]:
    return numbers.choices(VOCABULARY, k=count)


def sentences(numbers: random.Random, count: int) -> str:
    """`count` words in sentences of 8 to 20, with capitals, commas and numbers."""
    text = []
    while count > 0:
        part = words(numbers, min(count, numbers.randint(8, 20)))
        count -= len(part)
        part[len(part) // 2] += ","
        part[-1] = f"{numbers.randint(2, 99)}.{numbers.randint(0, 9)}"
        text.append(" ".join(part).capitalize() + ".")
    return " ".join(text)


def match(index: Index, text: str) -> list[tuple[str, str, float]]:
    """(task, item, coverage) of what the text holds."""
    return [found[:3] for found in index.find(text)]


# ---------------------------------------------------------------- recall
def edited(text: str, share: float, numbers: random.Random) -> str:
    """Of `share` of the words one third is replaced, one third left out and one third followed by another
    word."""
    changed = []
    for word in text.split(" "):
        if numbers.random() < share:
            changed += numbers.choice(([numbers.choice(VOCABULARY)], [], [word, numbers.choice(VOCABULARY)]))
        else:
            changed.append(word)
    return " ".join(changed)


def shuffled(texts: list[str], numbers: random.Random) -> str:
    """The question, then its options in another order with other labels."""
    options = numbers.sample(texts[1:], len(texts) - 1)
    return "\n".join(
        [texts[0], *(f"({label}) {option}" for label, option in zip("pqrstuvwxyz", options, strict=False))]
    )


COPIES = {
    "verbatim": lambda texts, numbers: "\n".join(texts),
    "case, no punctuation": lambda texts, numbers: re.sub(r"[^\w\s.]|\.(?!\d)", "", " ".join(texts).upper()),
    "re-wrapped at 40": lambda texts, numbers: "\n".join(textwrap.fill(text, 40) for text in texts),
    "markdown": lambda texts, numbers: "> **" + "**\n> * ".join(texts).replace(". ", ".\n>\n> _") + "_\n---",
    "options shuffled": shuffled,
    "first half only": lambda texts, numbers: texts[0][: len(texts[0]) // 2],
    "5 % of words edited": lambda texts, numbers: edited("\n".join(texts), 0.05, numbers),
    "10 % of words edited": lambda texts, numbers: edited("\n".join(texts), 0.10, numbers),
    "20 % of words edited": lambda texts, numbers: edited("\n".join(texts), 0.20, numbers),
}
ITEMS = {  # kind -> the texts of one item
    "abstract, 220 words": lambda numbers: [sentences(numbers, 220)],
    "vignette, 110 words": lambda numbers: [sentences(numbers, 110)],
    "question, 14 words": lambda numbers: [
        " ".join(words(numbers, 14)).capitalize() + "?",
        *(" ".join(words(numbers, 3)) for _ in range(4)),
    ],
}
# A little under what was measured: the share of PER_KIND copies that is found, each in a document of some
# 6,000 characters.
FLOORS = {
    "verbatim": (1.0, 1.0, 1.0),
    "case, no punctuation": (1.0, 1.0, 1.0),
    "re-wrapped at 40": (1.0, 1.0, 1.0),
    "markdown": (1.0, 1.0, 1.0),
    "options shuffled": (1.0, 1.0, 1.0),
    "first half only": (1.0, 1.0, 0.0),  # half of a short question has no run of eight words that counts
    "5 % of words edited": (0.97, 0.95, 0.60),
    "10 % of words edited": (0.75, 0.70, 0.38),
}  # 20 % edited is printed, too: 1, 11 and 20 % were found. A paraphrase is out of reach of runs of words.


def recall(items: list[Item]) -> dict[str, tuple[float, ...]]:
    """{kind of copy: the share found, for each task of the items}; no document may match an item that was not
    planted in it."""
    index, tasks, shares = Index(items), list(dict.fromkeys(item.task for item in items)), {}
    for kind, copy in COPIES.items():
        found = dict.fromkeys(tasks, 0)
        for item in items:
            numbers = random.Random(f"{kind}-{item.id}")
            before, after = sentences(numbers, 450), sentences(numbers, 450)
            matches = match(index, f"{before}\n{copy(list(item.texts), numbers)}\n{after}")
            assert {match[1] for match in matches} <= {item.id}, "an item was found that was not planted"
            found[item.task] += bool(matches)
        shares[kind] = tuple(found[task] / sum(item.task == task for item in items) for task in tasks)
    return shares


def show(title: str, tasks, shares: dict) -> None:
    print(f"\n{title}\n{'':22}" + "".join(f"{task:>22}" for task in tasks))
    for kind, values in shares.items():
        print(f"{kind:22}" + "".join(f"{value:>22.0%}" for value in values))


@pytest.mark.guarantee("Corpus", "Decontamination's recall is measured on planted copies.")
def test_recall_of_planted_copies():
    items = [
        Item(task, f"{task} {i}", tuple(make(random.Random(f"{task}{i}"))))
        for task, make in ITEMS.items()
        for i in range(PER_KIND)
    ]
    shares = recall(items)
    show(f"share of {PER_KIND} planted copies that is found", ITEMS, shares)
    for kind, floors in FLOORS.items():
        assert all(share >= floor for share, floor in zip(shares[kind], floors, strict=True)), (
            kind,
            shares[kind],
            floors,
        )


def test_recall_on_real_questions(tmp_path):
    """The same on the real items that are here, among all of which each copy must be told."""
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here")
    for task in ("pubmedqa", "medqa", "medmcqa"):
        build_tasks.build(task, REAL, tmp_path)
    items = read_items(tmp_path, ["test"])
    index = Index(items)
    assert {task: sum(item.task == task for item in items) for task in ("pubmedqa", "medqa", "medmcqa")} == {
        "pubmedqa": 500,
        "medqa": 1273,
        "medmcqa": 4183,
    }
    short = [entry for entry in index.unmatched if entry[0] == "medmcqa"]
    assert index.unmatched == short and 1500 < len(short) < 1700, (
        "questions of fewer than ten words, each of them listed"
    )
    matchable = [item for item in items if (item.task, item.id, "too few words") not in set(short)]
    for kind in ("verbatim", "re-wrapped at 40", "markdown", "options shuffled"):
        for item in random.Random(0).sample(matchable, 50):
            numbers = random.Random(item.id)
            text = f"{sentences(numbers, 300)}\n{COPIES[kind](list(item.texts), numbers)}\n{sentences(numbers, 300)}"
            assert item.id in [name for _, name, _ in match(index, text)], (kind, item.id)
    unrelated = [
        document
        for source in ("pubmed", "pmc")
        for file in SOURCES[source].files(REAL / source)
        for document in SOURCES[source].read(file, Drops())
    ]
    assert len(unrelated) > 200 and not any(match(index, document["text"]) for document in unrelated)


# ---------------------------------------------------------------- the invented world, with all twelve sets
@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    sources.main(["--full", "--out", str(folder / "raw")])
    for task in tasks.NAMES:
        build_tasks.build(task, folder / "raw", folder / "rows")
    return folder


def test_every_set_has_items_and_the_ids_that_its_rows_state(world):
    facts = make_decontaminator({"splits": ["test"]}, world / "rows").facts()
    assert set(facts["items"]) == set(tasks.NAMES) and facts["missing"] == []
    assert set(facts["ids"]) == {"pubmedqa", "hoc", "bionli", "pubmed_summ", "mimic_cxr"}
    blocked = id_blocklist(world / "rows", ["test"])
    assert {kind for kind, _ in blocked} == {"pmid", "pmcid", "cxr_study"}
    for task, expected in facts["ids"].items():
        ids = {name for (_, name), row in blocked.items() if row[0] == task}
        assert len(ids) == expected and all(name.lstrip("s").isdecimal() for name in ids)
    assert set(id_blocklist(world / "rows")) > set(blocked), "the validation rows are looked for by default"


def test_documents_that_have_nothing_to_do_with_the_sets_stay(world):
    decontaminator = make_decontaminator({}, world / "rows")
    for source in ("redpajama", "mimic_iii"):
        documents = [
            document
            for file in SOURCES[source].files(world / "raw" / source)
            for document in SOURCES[source].read(file, Drops())
        ]
        assert len(documents) > 100
        for document in documents:
            assert decontaminator(document) == (document, [])


def test_a_report_of_the_test_goes_by_its_study_and_its_copy_by_its_words(world):
    decontaminator = make_decontaminator({"splits": ["test"]}, world / "rows")
    row = next(json.loads(line) for line in (world / "rows/mimic_cxr/test.jsonl").open())
    [file] = (world / "raw/mimic_cxr").rglob(f"{row['id'].partition(':')[2]}.txt")
    text = file.read_text()
    item = item_name(row, "mimic_cxr", row["id"])
    left, records = decontaminator(document(text, "mimic_cxr", row["id"]))
    assert left is None
    assert records == [
        {
            "source": "mimic_cxr",
            "id": row["id"],
            "task": "mimic_cxr",
            "item": item,
            "by": "cxr_study",
            "action": "drop",
        }
    ]
    left, records = decontaminator(document(text, "mimic_iv_note", "mimic_iv_note:1-RR-1"))
    assert left is None and item in [record["item"] for record in records]
    assert {record["by"] for record in records} == {"words"} and {record["action"] for record in records} == {
        "drop"
    }


# ---------------------------------------------------------------- items
def put(rows: Path, task: str, *prompts: dict, split="test") -> Path:
    """Rows of a task, each {"id", "prompt"} and whatever else it needs."""
    path = rows / task / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    common = {"task": task, "split": split, "scoring": "choice", "completion": "yes"}
    path.write_text("".join(json.dumps(common | row) + "\n" for row in prompts))
    return rows


def document(text, source="redpajama", name=None, **meta) -> dict:
    return {
        "id": name or f"{source}:1",
        "text": text,
        "source": source,
        "domain": "general",
        "license": "l",
        "access": "public",
        "meta": meta,
    }


def test_the_lines_of_a_note_are_one_item_and_the_wording_of_the_prompt_is_none(tmp_path):
    lines = [sentences(random.Random(i), 9) for i in range(30)]
    prompt = (tasks.PROMPTS / "i2b2.txt").read_text()
    put(
        tmp_path,
        "i2b2",
        *(
            {"id": f"i2b2:test:note-{i // 10}:{i}", "prompt": prompt.replace("{text}", line)}
            for i, line in enumerate(lines)
        ),
    )
    items = read_items(tmp_path)
    assert [(item.id, item.texts) for item in items] == [
        (f"i2b2:test:note-{n}:{10 * n}", tuple(lines[10 * n : 10 * n + 10])) for n in range(3)
    ]
    index = Index(items)
    assert match(index, "  \n".join(lines[10:20])) == [("i2b2", "i2b2:test:note-1:10", 1.0)]
    assert match(index, lines[3]) == [] and match(index, prompt) == []


def test_a_context_of_many_questions_counts_once(tmp_path):
    note, prompt = sentences(random.Random(1), 300), (tasks.PROMPTS / "emrqa.txt").read_text()
    put(tmp_path, "emrqa", *(
        {"id": f"emrqa:relations:1:n7:{i}:1", "prompt": prompt.replace("{context}", note).replace("{question}", f"What of {i}?")}
        for i in range(40)
    ))  # fmt: skip
    [item] = read_items(tmp_path)
    assert item == ("emrqa", "emrqa:relations:1:n7:0:1", (note,))
    assert match(Index([item]), note)[0][2] == 1.0


def test_what_a_task_wrote_into_a_text_is_no_part_of_it(tmp_path):
    text = sentences(random.Random(2), 120)
    drugs = text.split()[60], text.split()[90]
    masked = text.replace(drugs[0], "@DRUG$").replace(drugs[1], "@DRUG$")
    put(
        tmp_path,
        "ddi",
        {
            "id": "ddi:DDI-MedLine.d1.s0.p0",
            "prompt": (tasks.PROMPTS / "ddi.txt").read_text().format(labels="a, b", text=masked),
        },
    )
    marked = " ".join(f"<re> {word} <er>" if i % 5 == 0 else word for i, word in enumerate(text.split()))
    template = (tasks.PROMPTS / "bionli.txt").read_text()
    put(
        tmp_path,
        "bionli",
        *(
            {"id": f"bionli:test:{i}:77", "prompt": template.format(premise=marked, hypothesis=f"So {i}.")}
            for i in (1, 2)
        ),
    )
    index = Index(read_items(tmp_path))
    found = {task: share for task, _, share in match(index, text)}
    assert found["bionli"] > 0.95 and found["ddi"] > 0.95
    assert [item[:2] for item in index.items if item[0] == "bionli"] == [("bionli", "bionli:test:1:77")]


def test_rows_with_prompts_of_their_own_lose_the_lines_they_share(tmp_path):
    questions = [sentences(random.Random(i), 60) for i in range(5)]
    wording = sentences(random.Random("wording"), 60)
    put(
        tmp_path,
        "medmcqa",
        *(
            {"id": f"medmcqa:hub:{i}", "prompt": f"{wording}\nQUESTION: {q}\nAnswer now:\n"}
            for i, q in enumerate(questions)
        ),
    )
    index = Index(read_items(tmp_path))
    assert match(index, wording) == [] and [name for _, name, _ in match(index, questions[3])] == [
        "medmcqa:hub:3"
    ]


def test_phrases_of_many_items_do_not_count_and_what_is_left_without_runs_is_listed():
    phrase = sentences(random.Random("phrase"), 40)
    items = [Item("t", str(i), (f"{phrase} {sentences(random.Random(i), 40)}",)) for i in range(12)]
    items += [Item("t", "phrase only", (phrase,)), Item("t", "short", ("What is the dose?", "10 mg"))]
    index = Index(items)
    assert set(index.unmatched) == {
        ("t", "short", "too few words"),
        ("t", "phrase only", "shared wording only"),
    }
    assert match(index, phrase) == [] and len(match(Index(items[:10]), phrase)) == 10
    assert [name for _, name, _ in match(index, items[7].texts[0])] == ["7"]


def test_summaries_are_looked_for_by_both_their_texts(tmp_path):
    article, abstract = sentences(random.Random(1), 2000), sentences(random.Random(2), 150)
    prompt = (tasks.PROMPTS / "pubmed_summ.txt").read_text().format(text=article)
    put(
        tmp_path,
        "pubmed_summ",
        {"id": "pubmed_summ:test:1:PMC31", "prompt": prompt, "completion": abstract, "scoring": "summary"},
    )
    index = Index(read_items(tmp_path), coverage=0.05)
    assert match(index, abstract) and match(index, article[3000:9000])
    assert id_blocklist(tmp_path) == {("pmcid", "31"): ("pubmed_summ", "pubmed_summ:test:1:PMC31")}


# ---------------------------------------------------------------- ids
def test_ids_of_documents():
    assert document_ids(document("", "pubmed", "pubmed:12")) == [("pmid", "12")]
    assert document_ids(document("", "pmc", "pmc:PMC9", pmid="7")) == [("pmcid", "9"), ("pmid", "7")]
    assert document_ids(document("", "mimic_cxr", "mimic_cxr:s50000001")) == [("cxr_study", "s50000001")]
    assert document_ids(document("", "plain", "plain:ours:1", pmid=5)) == [("pmid", "5")]
    assert document_ids(document("", "redpajama", "redpajama:12")) == []


def test_an_article_goes_by_the_pmid_of_its_abstract_and_an_abstract_by_the_list_of_pairs(tmp_path):
    put(tmp_path / "rows", "pubmedqa", {"id": "pubmedqa:7", "prompt": "INPUT: a\n"})
    put(tmp_path / "rows", "pubmed_summ", {"id": "pubmed_summ:test:1:PMC31", "prompt": "a\n"})
    put(tmp_path / "rows", "hoc", {"id": "hoc:99", "prompt": "a\n"}, split="train")
    (tmp_path / "PMC-ids.csv").write_text("Journal Title,PMCID,PMID\nJ,PMC31,300\nJ,PMC32,7\nJ,PMC33,\n")
    decontaminator = make_decontaminator({"ngrams": False}, tmp_path / "rows")

    def removed(source, name, **meta):
        return [
            (record["item"], record["by"])
            for record in decontaminator(document("x", source, name, **meta))[1]
        ]

    assert removed("pubmed", "pubmed:7") == [("pubmedqa:7", "pmid")]
    assert removed("pmc", "pmc:PMC5", pmid="7") == [("pubmedqa:7", "pmid")]
    assert removed("pmc", "pmc:PMC31") == [("pubmed_summ:test:1:PMC31", "pmcid")]
    assert (
        removed("pubmed", "pubmed:300") == removed("pubmed", "pubmed:99") == removed("pmc", "pmc:PMC32") == []
    )
    decontaminator = make_decontaminator(
        {"ngrams": False, "pmc_ids": str(tmp_path / "PMC-ids.csv")}, tmp_path / "rows"
    )
    assert removed("pubmed", "pubmed:300") == [("pubmed_summ:test:1:PMC31", "pmid")]
    assert removed("pmc", "pmc:PMC32") == [("pubmedqa:7", "pmcid")]


# ---------------------------------------------------------------- what is done about it
ITEM = Item("medqa", "medqa:test:1", (sentences(random.Random("item"), 100),))


def planted(copies=1) -> tuple[str, list[str]]:
    """A long document with copies of ITEM, and the parts between them."""
    parts = [sentences(random.Random(f"part {i}"), 500) for i in range(copies + 1)]
    return f"\n{ITEM.texts[0]}\n".join(parts), parts


@pytest.fixture
def rows(tmp_path):
    return put(
        tmp_path, "medqa", {"id": ITEM.id, "prompt": "?\n", "question": ITEM.texts[0], "options": ["a", "b"]}
    )


@pytest.mark.parametrize("copies", [1, 2])
def test_of_a_long_document_only_the_passage_goes(rows, copies):
    text, parts = planted(copies)
    before = document(text)
    left, records = make_decontaminator({}, rows)(before)
    assert records == [
        {
            "source": "redpajama",
            "id": "redpajama:1",
            "task": "medqa",
            "item": ITEM.id,
            "by": "words",
            "coverage": 1.0,
            "action": "cut",
        }
    ]
    assert before["text"] == text and match(Index([ITEM], coverage=0.01, min_hits=1), left["text"]) == []
    assert (
        left["text"].startswith(parts[0][:-210])
        and left["text"].endswith(parts[-1][210:])
        and left["text"].count("\n\n") == copies
    )
    assert len(text) - len(left["text"]) < copies * (len(ITEM.texts[0]) + 2 * 200 + 10)


def test_a_document_of_which_little_would_be_left_goes_whole_and_so_does_that_of_other_sources(rows):
    decontaminator = make_decontaminator({}, rows)
    for given in (
        document(f"Some words. {ITEM.texts[0]} And more."),
        document(planted()[0], "mimic_iii"),
        document(planted()[0], "pubmed"),
    ):
        left, [record] = decontaminator(given)
        assert left is None and record["action"] == "drop"


def test_a_report_removes_nothing(rows):
    for given in (document(planted()[0]), document(planted()[0], "mimic_iii")):
        left, [record] = make_decontaminator({"report_only": True}, rows)(given)
        assert left is given and record["action"] == "report"
    assert make_decontaminator({"ngrams": False}, rows)(given) == (given, [])


def test_sets_without_rows_are_named(rows):
    assert make_decontaminator({}, rows).facts()["missing"] == [
        name for name in tasks.NAMES if name != "medqa"
    ]
    assert make_decontaminator({"coverage": 0.3}, rows).facts()["settings"]["coverage"] == {"default": 0.3}


def test_a_row_without_words_is_listed():
    assert Index([Item("t", "empty", ()), Item("t", "signs", ("?!",))]).unmatched == [
        ("t", name, "too few words") for name in ("empty", "signs")
    ]


def test_an_article_with_counted_blocks_loses_whole_blocks():
    blocks = [
        f"{name} {sentences(random.Random(name), 60)}"
        for name in ("title", "abstract", "one", "two", "three", "four")
    ]
    text = "\n\n".join(blocks)
    start = text.index("two ")
    article = document(
        text,
        "pmc",
        "pmc:PMC1",
        blocks={"title": 1, "abstract": 1, "further_abstracts": 0, "body": 4},
        pmid="3",
    )
    left = cut(article, [(start + 50, start + 90)], 10)
    assert left["text"] == "\n\n".join([*blocks[:3], *blocks[4:]])
    assert (
        left["meta"]
        == {"blocks": {"title": 1, "abstract": 1, "further_abstracts": 0, "body": 3}, "pmid": "3"}
        and article["meta"]["blocks"]["body"] == 4
    )
    assert cut(article, [(start - 5, start + 90)], 10)["meta"]["blocks"]["body"] == 2
    assert cut(article, [(0, start + 90)], 10) is None


def test_thresholds_by_task(rows):
    text = " ".join(ITEM.texts[0].split()[:50])
    assert [0.35 < share < 0.5 for *_, share in match(Index(read_items(rows)), text)] == [True]
    assert match(Index(read_items(rows), coverage={"default": 0.2, "medqa": 0.5}), text) == []


def test_cases_are_looked_for_too(rows, tmp_path):
    cases = tmp_path / "nejm.jsonl"
    cases.write_text(
        json.dumps({"id": "case 3", "text": sentences(random.Random("case"), 200), "diagnosis": "x"}) + "\n"
    )
    decontaminator = make_decontaminator({"cases": [str(cases)]}, rows)
    _, [record] = decontaminator(document(sentences(random.Random("case"), 200)))
    assert (record["task"], record["item"]) == ("nejm", "case 3")
    cases.write_text('{"id": 3}\n')
    with pytest.raises(BadInput, match="nejm.jsonl: line 1 must be an object that holds the text of a case"):
        make_decontaminator({"cases": [str(cases)]}, rows)


def test_credentialed_rows_and_cases_close_the_process_and_are_named_without_their_id(tmp_path):
    held = {"access": "credentialed", "license": "agreement 7"}
    rows = put(
        tmp_path / "rows",
        "mednli",
        {"id": "mednli:patient-4711", "prompt": f"{sentences(random.Random(1), 60)}\n", **held},
    )
    put(
        rows,
        "mimic_cxr",
        {"id": "mimic_cxr:s50000001", "prompt": "Few.\n", **held | {"license": "agreement 8"}},
    )
    (tmp_path / "ours.jsonl").write_text(
        json.dumps({"id": "patient 4712", "text": sentences(random.Random(2), 60), **held, "license": None})
    )
    assert not egress.agreements()
    id_blocklist(rows)
    assert egress.agreements() == ["agreement 8"]
    egress._blocked = None
    decontaminator = make_decontaminator({"cases": [str(tmp_path / "ours.jsonl")]}, rows)
    assert egress.agreements() == ["agreement 7", "agreement 8", "not stated"]
    for given in (document(sentences(random.Random(1), 60)), document(sentences(random.Random(2), 60)), document("x", "mimic_cxr", "mimic_cxr:s50000001")):  # fmt: skip
        [record] = decontaminator(given)[1]
        assert re.fullmatch(rf"{record['task']}:sha256:[0-9a-f]{{12}}", record["item"])
    told = json.dumps(
        [decontaminator.index.unmatched, decontaminator.index.items, list(decontaminator.blocked.values())]
    )
    assert "4711" not in told and "4712" not in told and "s50000001" not in told and "too few words" in told


REAL_CASES = (
    Path(__file__).resolve().parents[3] / "shared" / "data" / "case_diagnosis" / "agentclinic_medqa.jsonl"
)


@pytest.mark.skipif(not REAL_CASES.is_file(), reason="no real diagnosis cases beside the repository")
def test_real_cases_are_looked_for(rows):
    cases = [
        json.loads(line)["OSCE_Examination"]["Patient_Actor"]["History"]
        for line in REAL_CASES.read_text().splitlines()
    ]
    decontaminator = make_decontaminator({"cases": [str(REAL_CASES)]}, rows)
    found = [
        decontaminator(document("Before it. " + case + " After it.", source="redpajama"))[1] for case in cases
    ]
    long = [records for case, records in zip(cases, found, strict=True) if len(case.split()) >= 26]
    assert len(cases) == 107 and len(long) > 90 and sum(bool(records) for records in long) > 0.9 * len(long)
    assert {record["task"] for records in found for record in records} == {"agentclinic_medqa"}


def test_what_is_saved_decides_the_same(rows, tmp_path):
    made = make_decontaminator(
        {"coverage": {"default": 0.3}, "margin": 50}, put(rows, "hoc", {"id": "hoc:5", "prompt": "Text\n"})
    )
    made.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    for given in (
        document(planted(2)[0]),
        document("x", "pubmed", "pubmed:5"),
        document(planted()[0], "mimic_iii"),
        document("Other."),
    ):
        assert loaded(given) == made(given)
    assert loaded.facts() == made.facts()
    assert not [path for path in (tmp_path / "saved").iterdir() if path.suffix not in (".npy", ".json")]


def test_bad_input_is_named(rows, tmp_path):
    with pytest.raises(BadInput, match="unknown key 'threshold'"):
        make_decontaminator({"threshold": 0.2}, rows)
    for coverage in ({"medqua": 0.2}, {"medqa": "half"}, {"default": 20}, 0):
        with pytest.raises(
            BadInput,
            match="decontamination: coverage: (.*must be|unknown task 'medqua' .known: default, bionli)",
        ):
            make_decontaminator({"coverage": coverage}, rows)
    with pytest.raises(BadInput, match="no <task>/{test}.jsonl. Next: python -m data_prep.build_tasks"):
        make_decontaminator({"splits": ["test"]}, tmp_path / "nothing")


def test_a_gold_summary_goes_by_itself_and_a_short_one_does_not(tmp_path):
    numbers = random.Random(3)
    abstract, stock = sentences(numbers, 150), "No acute process. " * 5
    for i, summary in enumerate((abstract, stock)):
        prompt = f"Summarize.\n\n{sentences(numbers, 4000)}\n"
        row = {
            "id": f"pubmed_summ:test:{i}:PMC{i}",
            "prompt": prompt,
            "completion": summary,
            "scoring": "summary",
        }
        row |= {"task": "pubmed_summ", "access": "public", "license": "CC0"}
        with (tmp_path / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    rows = tmp_path / "rows" / "pubmed_summ" / "test.jsonl"
    rows.parent.mkdir(parents=True)
    (tmp_path / "rows.jsonl").rename(rows)
    document = {"id": "pubmed:1", "source": "pubmed", "text": abstract, "meta": {}}
    left, records = make_decontaminator({}, tmp_path / "rows")(document)
    assert left is None and [record["item"] for record in records] == ["pubmed_summ:test:0:PMC0"]
    assert (
        make_decontaminator({}, tmp_path / "rows")(document | {"text": f"Chest film. {stock}"})[0] is not None
    )
