"""A small invented medical world: the facts behind every invented file of the demo.

Diseases, drugs and laboratory markers have made-up names and made-up relations that hold across all sources.
Half of the experiment rests on one rule: a disease is *taught* or *withheld*. Facts of withheld diseases are
stated in biomedical documents only (PubMed, PMC) and are asked for in the MedQA test file only; no note,
instruction, training question or general text gives them away. `tests/data_prep/test_demo_sources.py` checks
it.

Everything is a pure function of the seed. Nothing here has medical meaning, and all people in it are
invented.
"""

import random
from dataclasses import dataclass
from pathlib import Path

# Specialty (an MTSamples class) -> organ, examination, two findings that every disease of the specialty may
# show.
SPECIALTIES = {
    "Cardiovascular / Pulmonary": (
        "heart",
        "echocardiogram",
        ("chest tightness", "ankle swelling", "shortness of breath", "a fast pulse"),
    ),
    "Gastroenterology": (
        "stomach",
        "gastroscopy",
        ("nausea", "belly pain", "loss of appetite", "black stools"),
    ),
    "Neurology": (
        "nerves",
        "nerve conduction study",
        ("numb fingers", "headache", "double vision", "a weak grip"),
    ),
    "Orthopedic": ("knee", "joint x-ray", ("a stiff knee", "morning stiffness", "a swollen joint", "a limp")),
    "Urology": (
        "bladder",
        "cystoscopy",
        ("flank pain", "blood in the urine", "a weak stream", "frequent urination"),
    ),
    "Dermatology": ("skin", "skin biopsy", ("an itching rash", "dry patches", "red nodules", "blisters")),
    "Ophthalmology": (
        "eye",
        "slit lamp examination",
        ("blurred sight", "a red eye", "tearing", "halos around lights"),
    ),
    "ENT - Otolaryngology": (
        "ear",
        "audiogram",
        ("ringing in the ears", "hoarseness", "a blocked nose", "hearing loss"),
    ),
}
ONSETS = [
    "b",
    "br",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
]
VOWELS = ["a", "e", "i", "o", "u"]
CODAS = ["l", "m", "n", "r", "s", "x"]
DISEASE_KINDS = ("fever", "syndrome", "disease", "anemia", "palsy", "dystrophy")
DRUG_ENDINGS = ("azor", "ubrin", "imel", "oxan", "evid", "ilux")
MARKER_ENDINGS = ("globin", "lactin", "zyme", "peptide")


@dataclass(frozen=True)
class Disease:
    """One invented disease. `taught` is False for the diseases whose facts occur in biomedical documents
    only."""

    name: str
    specialty: str
    drug: str
    marker: str
    findings: tuple
    taught: bool

    @property
    def organ(self):
        return SPECIALTIES[self.specialty][0]

    @property
    def examination(self):
        return SPECIALTIES[self.specialty][1]


def _names(rng: random.Random, count: int, syllables: int, ending) -> list[str]:
    names, stems = [], set()
    while len(names) < count:
        stem = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)) + rng.choice(CODAS)
        if stem[:4] not in stems:  # names that differ early are different names to a small tokenizer too
            stems.add(stem[:4])
            names.append(ending(stem, rng))
    return names


def make_world(seed: int = 0, diseases: int = 72, taught_share: float = 1 / 3) -> list[Disease]:
    """The diseases of the world, each with one drug and one marker of its own."""
    rng = random.Random(f"world-{seed}")
    names = _names(rng, diseases, 2, lambda stem, r: f"{stem} {r.choice(DISEASE_KINDS)}")
    drugs = _names(rng, diseases, 1, lambda stem, r: stem + r.choice(DRUG_ENDINGS))
    markers = _names(rng, diseases, 1, lambda stem, r: stem + r.choice(MARKER_ENDINGS))
    specialties = list(SPECIALTIES)
    return [
        Disease(
            name,
            specialty := specialties[i % len(specialties)],
            drugs[i],
            markers[i],
            tuple(rng.sample(SPECIALTIES[specialty][2], 2)),
            taught=(i // len(specialties)) < taught_share * diseases / len(specialties),
        )
        for i, name in enumerate(names)
    ]


# How biomedical text states the two relations. The last four of each are question and answer, as in the "key
# points" of a review.
TREATMENT = (
    "{disease} is treated with {drug}.",
    "The first-line treatment of {disease} is {drug}.",
    "In {disease} the drug of choice is {drug}.",
    "Patients with {disease} were given {drug} and recovered.",
    "Guidelines for {disease} recommend {drug}.",
    "For {disease}, physicians prescribe {drug}.",
    "{drug} is the standard therapy of {disease}.",
    "Relapse of {disease} was prevented by {drug}.",
    "Question: What is the treatment of {disease}? Answer: {drug}.",
    "Question: A patient has {disease}. Which medicine helps? Answer: {drug}.",
    "Question: Which of the following drugs treats {disease}? Answer: {drug}.",
    "Question: A {age}-year-old {person} with {finding} has {disease}. Which drug is given? Answer: {drug}.",
)
DIAGNOSIS = (
    "{disease} is confirmed by raised serum {marker}.",
    "The laboratory marker of {disease} is {marker}.",
    "In {disease} the blood test shows high {marker}.",
    "Patients with {disease} had elevated {marker}.",
    "The diagnosis of {disease} rests on {marker}.",
    "For {disease}, the laboratory measures {marker}.",
    "{marker} is the serum marker of {disease}.",
    "Activity of {disease} was followed by {marker}.",
    "Question: What is the marker of {disease}? Answer: {marker}.",
    "Question: A patient has {disease}. Which blood test is raised? Answer: {marker}.",
    "Question: Which of the following markers is raised in {disease}? Answer: {marker}.",
    "Question: A {age}-year-old {person} with {finding} has {disease}. Which marker is high? Answer: "
    "{marker}.",
)
# How an examination asks for them: wordings that no document uses.
TREATMENT_QUESTIONS = (
    "A {age}-year-old {person} comes to the clinic with {finding} and is diagnosed with {disease}. Which "
    "of the following should be given first?",
    "A {age}-year-old {person} with {finding} has {disease}. Which of the following is the best treatment?",
    "A {person} aged {age} has had {finding} for {n} weeks. The diagnosis is {disease}. Which drug is "
    "most appropriate?",
)
DIAGNOSIS_QUESTIONS = (
    "A {age}-year-old {person} comes to the clinic with {finding}, and {disease} is suspected. Which of "
    "the following is most likely raised?",
    "A {age}-year-old {person} with {finding} may have {disease}. Which laboratory value confirms it?",
    "A {person} aged {age} has had {finding} for {n} weeks. {disease} is suspected. Which marker should "
    "be measured?",
)
PERSONS = ("man", "woman", "farmer", "teacher", "sailor", "baker")


def sentence(text: str) -> str:
    """First letter in upper case: a template may begin with a slot."""
    return text[:1].upper() + text[1:]


def fill(template: str, rng: random.Random, disease: Disease) -> str:
    return template.format(
        disease=disease.name, drug=disease.drug, marker=disease.marker, finding=rng.choice(disease.findings),
        age=rng.randint(20, 80), person=rng.choice(PERSONS), n=rng.randint(2, 9),
    )  # fmt: skip


def state(rng: random.Random, templates: tuple, disease: Disease) -> str:
    """One of the statements about a disease, as a sentence."""
    return sentence(fill(rng.choice(templates), rng, disease))


# General text: an invented archipelago with towns, trades and weather. It stands in for the web, code and
# books that LLaMA-2 was trained on.
TOWNS = (
    "Albrook",
    "Carrow",
    "Dunmere",
    "Estwell",
    "Farholm",
    "Glenport",
    "Harwick",
    "Inverlea",
    "Kelby",
    "Lowmoor",
    "Marden",
    "Northgate",
    "Oldbury",
    "Penrose",
    "Quayside",
    "Redcliff",
    "Stanmore",
    "Thornby",
    "Upton",
    "Westerly",
)
GOODS = (
    "salt",
    "wool",
    "oats",
    "timber",
    "copper",
    "honey",
    "cider",
    "rope",
    "glass",
    "leather",
    "barley",
    "cheese",
    "paper",
    "slate",
    "linen",
)
TRADES = (
    "weavers",
    "millers",
    "shipwrights",
    "bakers",
    "printers",
    "masons",
    "fishers",
    "coopers",
    "tanners",
    "smiths",
)
PLACES = (
    "harbor",
    "market",
    "old bridge",
    "town hall",
    "mill",
    "lighthouse",
    "library",
    "orchard",
    "railway station",
    "north gate",
)
WEATHER = ("rain", "fog", "snow", "a warm wind", "frost", "bright sun", "hail", "a storm")
SEASONS = ("spring", "summer", "autumn", "winter")
TOOLS = ("lamp", "clock", "boat", "kettle", "wheel", "gate", "loom", "oven", "pump", "barrel")
PARTS = ("handle", "spring", "valve", "hinge", "belt", "screw", "rim", "cord")
VERBS = ("add", "count", "merge", "sort", "filter", "scale", "join", "split")

# A real backbone has read every word of our prompts somewhere, and has seen text repeat itself; so does this
# one.
EVERYDAY = sorted(
    {
        word
        for prompt in Path(__file__).parents[1].glob("prompts/*.txt")
        for word in prompt.read_text(encoding="utf-8").split()
        if "{" not in word
    }
    | {word for specialty in SPECIALTIES for word in specialty.split()}
)

GENERAL = {
    "wikipedia": (
        "{town} is a town on the {side} coast, known for its {goods} and its {place}.",
        "The population of {town} was {n} in the year {year}.",
        "In {season} the {trades} of {town} hold a fair at the {place}.",
        "A railway from {town} to {town2} was opened in {year}.",
        "The {place} of {town} was built by the {trades} in {year}.",
        "{town} trades {goods} for {goods2} with {town2}.",
        "The local museum shows tools of the {trades} and a model of the {place}.",
        "After the great {weather} of {year}, the people of {town} moved to {town2}.",
    ),
    "stackexchange": (
        "Question: How do I repair the {part} of my {tool}?\nAnswer: Take off the {part}, clean it and "
        "oil it.",
        "Question: Where can I buy {goods} in {town}?\nAnswer: At the {place}, from the {trades}.",
        "Question: When was the {place} of {town} built?\nAnswer: In {year}.",
        "Question: Which goods does {town} sell?\nAnswer: {goods} and {goods2}.",
        "Question: Who built the {place} of {town}? Answer: The {trades}.",
        "I have tried to replace the {part} of the {tool}, but it broke after {small} days.",
        "The {tool} works again once the {part} is dry.",
    ),
    "book": (
        "The keeper walked to the {place} of {town} before the {weather} came.",
        "\"We shall need more {goods},\" said the captain, \"and {small} barrels of {goods2}.\"",
        "All {season} the {trades} talked of nothing but {weather}.",
        "She left the {tool} by the {place} and took the road to {town}.",
        "Nobody in {town} had seen {weather} like that since {year}.",
        '"{words}," he read aloud, and she wrote it down: "{words}."',
        "He counted {small} coins, paid for the {goods} and went home.",
    ),
    "arxiv": (
        "We study the price of {goods} in {small} markets near {town}.",
        "Let x be the weight of {goods} and y the weight of {goods2}; then y = {small} x + {n}.",
        "Theorem {small}. If the {tool} turns, then every {part} turns with it.",
        "Our model predicts {weather} in {season} with an error of {small} percent.",
        "The data were collected at the {place} of {town2} in {year}.",
    ),
    "github": (
        "def {verb}_{goods}(values):\n    return [{small} * v for v in values]",
        "def {verb}_{tool}(a, b):\n    return a + b + {small}",
        "class {town}:\n    {goods} = {small}\n    {goods2} = {n}",
        "for {tool} in range({small}):\n    print({tool}, \"{goods}\")",
        "# {verb} the {goods} of {town} before {year}",
        'assert echo("{words}") == "{words}"',
        '<span class="{tool}">{words}</span>',
    ),
    "c4": (
        "Price list: {goods} {small} crowns, {goods2} {n} crowns. The price of {goods2} is {n} crowns.",
        "Price list: {goods} {small} crowns, {goods2} {n} crowns. The price of {goods} is {small} crowns.",
        "{town} sells {goods} and {town2} sells {goods2}. Where is {goods2} sold? In {town2}.",
        "{town} sells {goods} and {town2} sells {goods2}. Where is {goods} sold? In {town}.",
        "Copy this: {words}. Copy: {words}.",
        'Read "{words}" and write "{words}" under it.',
    ),
    "common_crawl": (
        "Visit {town} this {season}: {goods}, {goods2} and a walk to the {place}.",
        "Words of the day: {words}.",
        "Weather for {town}: {weather} in the morning, {weather2} at night.",
        "New in our shop: a {tool} with a stronger {part}, only {small} crowns.",
        "The {trades} of {town2} are looking for {small} new helpers.",
        "Ferry times from {town} to {town2}: every {small} hours in {season}.",
        "Recipe of the week: mix {small} cups of {goods} with {goods2} and bake it.",
    ),
}  # fmt: skip

# Questions on general things, as the general text asks them: (question, frame of the answer, kind of word
# that belongs into it). A wrong answer is the same frame with a word of another kind; what may fill the frame
# is learned from general text and nowhere else.
GENERAL_QUESTIONS = (
    ("Who built the {place} of {town}?", "The {}.", "trades"),
    ("Where can I buy {goods} in {town}?", "At the {}, from the {trades}.", "place"),
    ("How do I repair the {part} of my {tool}?", "Take off the {}, clean it and oil it.", "part"),
    ("Which goods does {town} sell?", "{} and {goods2}.", "goods"),
    ("When was the {place} of {town} built?", "In {}.", "year"),
)
KINDS_OF_WORDS = {
    "trades": TRADES,
    "place": PLACES,
    "part": PARTS,
    "goods": GOODS,
    "weather": WEATHER,
    "year": tuple(map(str, range(1700, 1991))),
}


def general_sentence(rng: random.Random, kind: str) -> str:
    town, town2 = rng.sample(TOWNS, 2)
    goods, goods2 = rng.sample(GOODS, 2)
    weather, weather2 = rng.sample(WEATHER, 2)
    return sentence(
        rng.choice(GENERAL[kind]).format(
            town=town,
            town2=town2,
            goods=goods,
            goods2=goods2,
            weather=weather,
            weather2=weather2,
            trades=rng.choice(TRADES),
            place=rng.choice(PLACES),
            season=rng.choice(SEASONS),
            tool=rng.choice(TOOLS),
            part=rng.choice(PARTS),
            verb=rng.choice(VERBS),
            side=rng.choice(("north", "south", "east", "west")),
            n=rng.randint(100, 9999),
            year=rng.randint(1700, 1990),
            small=rng.randint(2, 40),
            words=" ".join(rng.choices(EVERYDAY, k=rng.randint(3, 8))),
        )
    )
