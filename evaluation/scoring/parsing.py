"""The strict reading of an output: the label, labels or entities that the text gives as its answer. In doubt,
none.

    parse_choice("The answer is not A but C.", ["A", "B", "C"])  ->  ("C", "mention")

Every function is pure and works on text alone. PARSER_VERSION is written to every score file: raise it with
any change that can alter how an output is read. tests/golden/answers.jsonl holds hand-labeled outputs of each
kind.
"""

import functools
import os
import re
import unicodedata

PARSER_VERSION = "2.2"

# ---------------------------------------------------------------- what of an output is the answer
END = re.compile(r"</s>|<\|(?:im_end|eot_id|end|endoftext|end_of_text)\|>")
# lines that open another example in the output of a base model: the prompts' own headings and the usual
# instruction formats
NEXT_PROMPT = re.compile(
    r"(?:^|\n)[ \t]*(?:INPUT:|Input:|Input Text:|\[PRE\]|\[INST\]|<s>|<\|\w+\|>|#+ *(?:Instruction|Input"
    r"|Human|User)\b|(?:Human|User):)"
)
NEXT_QUESTION = re.compile(NEXT_PROMPT.pattern + r"|(?:^|\n)[ \t]*(?:Question|Context|Q)\s*\d*:")


def answer_part(text: str, next_example: re.Pattern = NEXT_PROMPT) -> str:
    """`text` without reasoning in <think> tags (one that was cut short leaves nothing), and without what
    follows the end of the answer: an end token, or the beginning of another example."""
    text = re.split(r"(?i)</(?:think|thinking|reasoning)>", text)[-1]
    text = re.split(r"(?i)<(?:think|thinking|reasoning)>", text)[0]
    text = END.split(text)[0].strip()
    closed = [re.split(r"(?i)<answer>", part, maxsplit=1) for part in re.split(r"(?i)</answer>", text)[:-1]]
    text = next((parts[1].strip() for parts in reversed(closed) if len(parts) == 2), text)
    return next_example.split(text, maxsplit=1)[0].strip()


# ---------------------------------------------------------------- choice: one label out of the row's choices
OPEN, CLOSE = r"[\s\"'`*_(\[{<$]{0,8}", r"[\s\"'`*_)\]}>$]{0,8}"  # marks before and after a label
QUOTES = r"[\"'`*_(\[]{0,4}$"  # marks between what is looked at and the label after it
STOP = r"(?=[\s\"'`*_]{0,8}(?:[.,;:!?)\]}>$\n]|$))"  # nothing but marks up to the end of a phrase
CUE = (  # "The correct answer choice (letter)"
    r"(?<!wrong )(?<!incorrect )\b(?:answers?|diagnosis|choice|option|label|class|category|specialty|domain"
    r"|relationship|relation|conclusion"
    r"|prediction|output|response|decision)\b(?: (?:choice|option|letter|label))?(?: "
    r"?\([^()\n]{0,20}\))?[\"'`*_)\]]{0,4}\s{0,4}"
)
VERB = (  # "is most likely the"
    r"(?:(?:\b(?:is|was|are|(?:would|should|must|will|could|may|might)(?: most likely| probably)? be"
    r"|(?:seems|appears) to be)\b"
    r"|:|=>?|->|-(?=\s))\s{0,4}){1,4}"
    r"(?:(?i:clearly|most likely|likely|probably|definitely|therefore|option|choice|label|letter|category"
    r"|answer|best described as)\b:?\s{0,4}"
    r"|(?:an?|the)\s){0,4}"
)
PICK = (  # "I would go with option"
    r"\b(?:ans|choose|pick|select|go with|going with|opt for|therefore|thus|hence"
    r"|so)\b[.,:]?\s{1,4}(?:option|choice|letter|answer|it is)?\s{0,4}"
)
SUBJECT = (  # where a sentence about a label begins
    r"(?:^|(?<=[.!?:;,\n(\[*\"])|\b(?i:option|choice|letter|answer|so|thus|hence|therefore|that|think"
    r"|believe|only|while|because))" + OPEN
)
IS_RIGHT = (  # "is the correct"
    CLOSE
    + r"\s?(?:is|would be|seems|appears to be)\s(?:(?:the|clearly|therefore|single|also|most likely to be"
    r"|most likely the)\s){0,4}"
    r"(?:correct|right|best|true|most appropriate|most likely|final answer|answer)\b"
)
# Context before a label: `before` holds the last characters of the text up to it.
CONCLUDES = re.compile(
    r"(?i)\b(?:final|finally|therefore|thus|hence|so|conclusion|conclude|summary|overall)\b[^.\n]{0,40}$"
)
DOUBTS = re.compile(
    r"(?i)(?:\b(?:not|cannot|never|(?<!no )doubt|unlikely|whether|if|unless|disagree)\b"
    r"|n't\b)[^.,;:!?\n]{0,30}$"
)
HEDGES = re.compile(r"(?i)\b(?:(?<!no )doubt|unlikely|whether|if|unless)\b[^.,;:!?\n]{0,30}$")
NEGATES = re.compile(
    r"(?i)(?:\b(?:not|cannot|never|neither|nor|non|rather than|instead of|except|excludes?|excluding"
    r"|rules? out|ruling out|ruled out"
    r"|eliminates?|without|(?:incorrect|wrong) (?:answers?|options?|choices?|labels?|one) (?:is|are))|n't)\s"
    r"(?:(?:be|a|an|the|option|choice|label|letter|choose|select|pick|necessarily|really|simply|one "
    r"of)\s){0,4}" + QUOTES
)
NO = re.compile(r"(?i)\bno\s(?:(?:a|an|real|direct|clear)\s){0,2}" + QUOTES)
SHOWS = re.compile(r"(?i)\b(?:option|choice|letter|answers?)\s{0,2}" + QUOTES)
IS = re.compile(r"(?i)(?:\b(?:is|be)|\b(?:it|that)'s)\s{0,2}" + QUOTES)
BUT = re.compile(r"(?i)\bbut\s" + QUOTES)
INTRODUCES = re.compile(
    r"(?i)(?:\b(?:is|as|to|under|be|of|into|with|specialty|category|domain)|:)\s(?:(?:an?|the)\s)?" + QUOTES
)
ATTACHES = re.compile(  # "vitamin", of "vitamin C"
    r"(?:\b(?!(?i:and|or|but|is|be|not|nor|than|of|with|option|choice|letter|answers?)\b)[^\W\d]{2,}|\d)[ "
    r",]?\s{0,2}$"
)
# Context after a label.
IS_DENIED = re.compile(
    r"(?i)[\"'`*_)\]]{0,4}(?:\s(?:is|was|are|can be|could be|would be|should be|seems|appears)\s?(?:also\s)?"
    r"(?:not\b|n't\b|incorrect|wrong|unlikely|false\b|excluded|ruled out|eliminated|never\b|less likely"
    r"|least likely)"
    r"|\s(?:isn't|cannot|can't)\b|\snot\s{0,2}(?:[.,;!]|$))"
)
IS_PREFERRED = re.compile(r"(?i)[\"'`*_)\]]{0,4},?\s(?:rather than|and not|instead of)\b")
NAMES_IT = re.compile(r"(?i)[\"'`*_)\]]{0,4}\s(?:specialty|category|domain|department|class|label)\b")
# What makes a capital letter a word of medicine: "E. coli", "B cell", "D dimer".
COMPOUND = (
    r"(?:\.? (?i:coli|diff|difficile|perfringens|botulinum|tetani|albicans|jejuni|pneumoniae|trachomatis"
    r"|psittaci|burgdorferi|fragilis|cereus"
    r"|anthracis|histolytica|diphtheriae|henselae|melitensis|pertussis|duodenale|braziliense|lumbricoides"
    r"|faecalis|granulosus|neoformans"
    r"|immitis|dermatitidis|fumigatus|latum|medinensis)\b"
    r"| (?i:cells?|dimers?|reactive|peptides?|lymphocytes?|virus|section|waves?|blockers?|fibers?|antigens?"
    r"|fib)\b)"
)
# What makes A the article: "A beta blocker", but not "option A followed by", "A because".
ARTICLE = (
    r"(?<=A)(?<!ption A)(?<!hoice A)(?<!etter A)"
    r" (?!(?:because|since|as|is|for|due|based|given|and|or|but|in|with|which|that|not|rather)\b)[a-z0-9]"
)
# a small "a", but not the article at which an output was cut: "the answer is a"
LOWER_A = r"(?:(?:(?<=[:=(\[\"'*`])|(?<=[:=] )|(?<![\s\S]))a|a(?=[.)\]}\"'*`]))"
# "no difference" is no "no"
NO_ITSELF = r"no(?!\.?\s?\d|\s(?!(?:because|since|as|but|and|or|the|it|this|that|there)\b)\w)"
SEVERAL = object()  # an answer that is joined to another: "C or D"


def parse_choice(text: str, choices: list[str], options: list[str] = ()) -> tuple[str | None, str]:
    """(the one label of `choices` that `text` gives as its answer, the rule that found it), or (None, why
    not): "empty", "no label", or "two labels" if a rule finds several. The first rule that finds any decides:

      exact     the text, or its first line, is a label; further lines that are another one make it two
      text      the text, its first line, or what follows "Answer:" is the text of one of `options`, which are
                in the order of `choices`
      cue       a label right after "the answer is", "Diagnosis:" and the like in the first line; the same
                line again with another label makes it two
      boxed     LaTeX's \\boxed{}
      cue       ... in a conclusion ("Therefore, ...", "Final answer: ..."), else anywhere
      pick      "I choose B", "so C."
      correct   "Option C is correct"
      leading   the text begins with a label and a mark ("C. Acute pancreatitis", "no, because"), and is not a
                list of the options
      bracket   a label alone in brackets, quotes or bold
      last      the last line is a label
      mention   whole words: one label is mentioned at all, those after "not" and the like aside
      words     only one option is named by its text, and it opens the answer or follows "diagnosis is", "next
                step:" and the like

    Labels are matched whole, blind to case and to the marks between their words, and longest first:
    "Neurosurgery" is never "Surgery". A label of one letter is stricter: upper case unless it is the whole
    answer, and a mere mention counts only as "option D", "is D." and the like.
    """
    text = _plain(answer_part(text, NEXT_QUESTION))
    if not text:
        return None, "empty"
    labels = _labels(tuple(choices))
    first_line, last_line = text.partition("\n")[0], text.rpartition("\n")[2]
    for rule, answers in (
        ("exact", lambda: [labels.alone(text), *labels.listed(text)]),
        ("text", lambda: _option_text(text, first_line, choices, options)),
        ("cue", lambda: labels.after_first_cue(text)),
        ("boxed", lambda: labels.find(labels.boxed, text)),
        ("cue", lambda: labels.after_cue(text)),
        ("pick", lambda: labels.find(labels.picked, text, DOUBTS)),
        ("correct", lambda: labels.find(labels.right, text, DOUBTS)),
        ("leading", lambda: labels.leading(text)),
        ("bracket", lambda: labels.find(labels.bracketed, text)),
        ("last", lambda: [labels.alone(last_line)]),
        ("mention", lambda: labels.mentioned(text)),
        ("words", lambda: _in_option_words(text, tuple(choices), tuple(options))),
    ):
        if found := set(answers()) - {None}:
            return (found.pop(), rule) if len(found) == 1 else (None, "two labels")
    return None, "no label"


SIGNS = {
    sign: plain
    for signs, plain in (
        ("“”„«»", '"'),
        ("‘’‚", "'"),
        ("【「『", "["),
        ("】」』", "]"),
        ("–—", " - "),
        ("‐‑", "-"),
    )
    for sign in signs
}
SIGNS = str.maketrans(SIGNS | {"。": ".", "、": ",", "\r": "\n"})


def _plain(text):
    """One writing of what has several: full-width forms, quotes, dashes, brackets, LaTeX around a word, runs
    of blanks or of one mark."""
    text = unicodedata.normalize("NFKC", text).translate(SIGNS)
    text = re.sub(
        r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}|\\([()\[\]])",
        lambda match: match[1] or match[2] or "",
        text,
    )
    text = re.sub(r"答案(?:是|为|為)?:?", "Answer: ", text)
    text = re.sub(r"(?<!\w)N/A(?!\w)", "none", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r"([^\w ])\1{3,}", r"\1\1\1", re.sub(r"\n(?: ?\n)+", "\n\n", text)).strip()


def _before(text, place):
    return text[max(0, place - 80) : place]


@functools.lru_cache(64)
def _labels(choices):
    return _Labels(choices)


class _Labels:
    """One list of labels: the patterns that find them, and the label that a match means."""

    def __init__(self, choices):
        self.letters = all(len(choice) == 1 for choice in choices)
        self.names = {_key(choice): choice for choice in choices}
        self.aliases = _aliases(choices) | self.names
        if self.letters:
            upper, lower = re.escape("".join(choices).upper()), re.escape("".join(choices).lower())
            whole = rf"[{upper}](?![\w-]|['&+]\w)(?!{ARTICLE})(?!{COMPOUND})"
            named = rf"{whole}|(?:[{lower}](?<!a)|{LOWER_A})(?![\w-]){STOP}"
        else:
            longer = [
                key
                for key in self.aliases
                if key not in self.names and any(f" {name} " in f" {key} " for name in self.names)
            ]
            whole, named = _any_of([*self.names, *longer]), _any_of(self.aliases)
        joint = (
            r"(?:[\"'`*_)\]]{0,4}\s?(?:,|;|\||/|&|\"|\band\b|\bor\b)){0,3}\s?"
            r"(?:(?:option|choice|possibly|perhaps|even|also)\s){0,2}"
        )
        start, more = r"(?<![\w&+-])", rf"(?P<more>(?:{joint}[\"'`*_(\[]{{0,4}}(?:{named})){{0,20}})"
        self.part = re.compile(f"{start}(?:{named})")
        self.whole = re.compile(f"{start}(?:{whole})")
        label = f"(?P<label>{start}(?:{named})){more}"
        # a part of a label, and a small letter, name it after a cue only
        full = f"(?P<label>{start}(?:{whole})){more}"
        self.cue = re.compile(f"(?i:{CUE}){VERB}{OPEN}{label}")
        self.boxed = re.compile(rf"\\boxed\s?\{{{OPEN}{label}(?=\s?[.:}})])")
        self.picked = re.compile(f"(?i:{PICK}){OPEN}{full}{STOP}")
        self.right = re.compile(f"{SUBJECT}{full}(?={IS_RIGHT})")
        self.bracketed = re.compile(rf"(?:[(\[{{`\"]|\*\*?|__?|(?<!\w)')\s?{full}\s?[)\]}}*_`\"']")
        first = label if self.letters else full
        self.first = re.compile(
            rf"{OPEN}(?i:(?:option|choice|answer|letter)\s)?{first}{CLOSE}(?:[.:,;)\]!?]|(?<=\s)(?:-\s|\()"
            rf"|\n|$)"
        )
        item = (
            (r"(?:^|[\s*(\[])", r"[.:)\]]")
            if self.letters
            else (rf"(?:^|\n){OPEN}", rf"{CLOSE}(?:[.:;]|\n|$)")
        )
        self.item = re.compile(f"{item[0]}(?P<label>{start}(?:{whole})){item[1]}")

    def alone(self, text):
        """The label that `text` is, whatever marks surround it."""
        bare = text.strip(" \t\n\"'`*_()[]{}<>$.:,;!?#-")
        bare = re.sub(r"(?i)^(?:option|choice|letter)\s[\"'`*_(\[]{0,4}(?=\w$)", "", bare)
        return self.aliases.get(_key(bare)) if "\n" not in bare else None

    def listed(self, text):
        """The labels that are lines of their own; none unless the first line is one."""
        found = [self.alone(line) for line in text.split("\n")]
        return found if found[0] else []

    def after_first_cue(self, text):
        """What follows a cue in the first line, and in lines that differ from it by their label alone."""
        first, *lines = text.split("\n")
        alike = [line for line in lines if self.part.sub("", line) == self.part.sub("", first)]
        found = self.after_cue(first)
        return found + [answer for line in alike for answer in self.after_cue(line)] if found else found

    def find(self, pattern, text, doubts=None):
        """What the matches of a pattern give as the answer, those aside that are denied or doubted."""
        return [answer for match in pattern.finditer(text) for answer in self._answers(match, text, doubts)]

    def after_cue(self, text):
        """What follows a cue in a conclusion; otherwise what follows any cue."""
        concluded = [
            match
            for match in self.cue.finditer(text)
            if CONCLUDES.search(_before(text, match.start("label")))
        ]
        answers = [answer for match in concluded for answer in self._answers(match, text, DOUBTS)]
        return answers or self.find(self.cue, text, DOUBTS)

    def _answers(self, match, text, doubts=None):
        if IS_DENIED.match(text, match.end("label")) or NEGATES.search(_before(text, match.start("label"))):
            return []
        if doubts and doubts.search(_before(text, match.start())):
            return []
        label = self.aliases[_key(match["label"])]
        if not match["more"]:
            return [label]
        joined = [self.aliases[_key(m[0])] for m in self.part.finditer(text, *match.span("more"))]
        repeated = set(joined) == {label} and len(re.findall("[,;|/&]", match["more"])) >= len(joined)
        return [label] if repeated else [label, SEVERAL]  # "Yes, yes, yes." is one label, "C C C" a loop

    def leading(self, text):
        """The label with which the text begins; none if the first label with a mark is followed by the
        second: that is the question's list."""
        begin = self.first.match(text)
        if not begin or text.startswith("{"):
            return []
        listed = [self.aliases[_key(match["label"])] for match in self.item.finditer(text)]
        return self._answers(begin, text) if listed[:2] != list(self.names.values())[:2] else []

    def mentioned(self, text):
        """The labels that are mentioned and not denied, if one of them is said to be the answer."""
        found, introduced, denied = set(), False, False
        for match in self.whole.finditer(text):
            answer, before = self.aliases[_key(match[0])], _before(text, match.start())
            if (
                NEGATES.search(before)
                or IS_DENIED.match(text, match.end())
                or ("no" not in self.names and NO.search(before))
            ):
                denied = True
                continue
            if HEDGES.search(before):
                return []
            shown = True
            if self.letters:
                said = IS.search(before)
                if said and DOUBTS.search(before):
                    return []
                shown = (
                    SHOWS.search(before)
                    or (said and STOPS.match(text, match.end()))
                    or IS_PREFERRED.match(text, match.end())
                )
                shown = shown or (denied and BUT.search(before))
                if not shown and ATTACHES.search(before):
                    continue  # "vitamin C"
            elif (
                answer[0].isupper() and answer[1:2].islower()
            ):  # an ordinary word, as Surgery: said of the text, not in it
                shown = match[0][0].isupper() and (
                    INTRODUCES.search(before) or NAMES_IT.match(text, match.end())
                )
            found.add(answer)
            introduced = introduced or bool(shown)
        return found if introduced else []


STOPS = re.compile(STOP)


def _any_of(keys):
    """A pattern of these labels, longest first, with any mark between their words."""
    between = r"(?:(?:[^\w\n]|_){1,3}(?:and(?:[^\w\n]|_))?)"
    patterns = [between.join(map(re.escape, key.split())) for key in sorted(keys, key=len, reverse=True)]
    return (
        "(?i:" + "|".join(NO_ITSELF if pattern == "no" else pattern for pattern in patterns) + r")(?![\w-])"
    )


def _key(text):
    """What two writings of one label have in common: their words, "and" aside."""
    return (
        " ".join(word for word in re.findall(r"[^\W_]+", text.casefold()) if word != "and") or text.casefold()
    )


def _aliases(choices):
    """{key: label} of what names a label without being the whole of it: "effect" where all begin with "DDI-",
    "Psychiatry" for "Psychiatry / Psychology". What would name two labels names none."""
    prefix = os.path.commonprefix(choices)
    found = {}
    for choice in choices:
        parts = {part for part in re.split(r"\s+-\s+|\s*/\s*", choice) if part != choice}
        parts |= {choice[len(prefix) :]} if prefix.endswith("-") else set()
        for part in parts:
            found.setdefault(_key(part), set()).add(choice)
    return {key: labels.pop() for key, labels in found.items() if len(labels) == 1}


def _option_text(text, first_line, choices, options):
    by_text = {}
    for choice, option in zip(choices, options, strict=False):
        for written in (option, f"{choice} {option}"):
            by_text.setdefault(_bare(written), []).append(choice)
    cued = (
        [
            match["rest"]
            for match in re.finditer(f"(?i:{CUE}){VERB}{OPEN}(?P<rest>[^\n]+)", first_line)
            if not DOUBTS.search(_before(first_line, match.start()))
        ]
        if options
        else []
    )
    return [choice for part in (text, first_line, *cued) for choice in by_text.get(_bare(part), [])]


OPTION_CUE = re.compile(  # "The most likely diagnosis in this patient is"
    r"(?i)\b(?:answers?|diagnosis|choice|option|step|cause|etiology|treatment|therapy|management|mechanism"
    r"|explanation"
    r"|intervention|test|drug|medication|agent|organism|pathogen|finding|complication|condition|disease"
    r"|disorder)"
    r"(?: (?!not\b|never\b|family|mother|father|brother|sister|son\b|daughter|previous"
    r"|prior)[\w']{1,20}){0,6}[\"'`*_]{0,4}\s?(?::|=|\b(?:is|was|would be|should be))[\"'`*_]{0,4}\s?"
    r"(?:(?:(?:most )?likely|probably|clearly|therefore|an?|the)\s){0,3}" + QUOTES
)
OPTION_ENDS = re.compile(  # the phrase ends with the option, or a reason follows
    r"[\"'`*_]{0,4}(?:[.;!?\n]|\s?\(|$|,?\s(?:because|since|as|given|due to|based on)\b)"
)
OPTION_DOUBTED = re.compile(
    r"(?i)\b(?:not?|never|nor|neither|cannot|unlikely|less likely|least likely|rul\w{1,4} out|exclud\w{1,5}"
    r"|except|incorrect"
    r"|wrong|doubt\w{0,4}|whether|if|unless|could|may|might|possibl[ey]|differential|versus|vs|instead"
    r"|rather)\b|n't\b"
)


def _in_option_words(text: str, choices: tuple[str, ...], options: tuple[str, ...]) -> set[str]:
    """The one choice whose option text `text` gives as its answer; empty if it names several options, or none
    as the answer."""
    pattern, by_words = _option_pattern(choices, options)
    if pattern is None or text.startswith("{"):
        return set()
    found = {}
    for match in pattern.finditer(text):
        found.setdefault(by_words[_option_words(match[0])], []).append(match)
    if len(found) != 1:
        return set()
    [(choice, mentions)] = found.items()
    answered = False
    for match in mentions:
        before = re.split(r"[.!?\n]", _before(text, match.start()))[-1]
        after = re.split(r"[.!?\n]", text[match.end() : match.end() + 80])[0]
        if IS_DENIED.match(text, match.end()) or NEGATES.search(_before(text, match.start())):
            return set()
        if OPTION_TAKEN_BACK.match(text, match.end(), match.end() + 100):
            return set()
        first = re.fullmatch(OPEN, text[: match.start()][:9]) and match.start() < 9
        said = (first or OPTION_CUE.search(before)) and OPTION_ENDS.match(text, match.end())
        answered |= bool(said) and not OPTION_DOUBTED.search(before) and not OPTION_AFTER.search(after)
    return {choice} if answered else set()


OPTION_TAKEN_BACK = re.compile(  # a question, or the next words deny it: better unread than read wrongly
    r"(?is)[\"'`*_]{0,4}\s?(?:\?|.*?\b(?:no|not|never|false|wrong|incorrect|however|but|although|though)\b|.*?n't\b)"
)
OPTION_AFTER = re.compile(
    r"(?i)\b(?:unlikely|less likely|least likely|rul\w{1,4} out|exclud\w{1,5}|incorrect|wrong|not the|is "
    r"not|cannot|or|versus|vs)\b|n't\b"
)


@functools.lru_cache(256)
def _option_pattern(choices, options):
    """(pattern that finds the options in a text, longest first; {words: choice}); None where two options have
    the same words."""
    by_words = {_option_words(option): choice for choice, option in zip(choices, options, strict=False)}
    if not options or len(by_words) < min(len(choices), len(options)):
        return None, {}
    named = sorted((words for words in by_words if re.search(r"[^\W\d_]{3}", words)), key=len, reverse=True)
    forms = (r"[\W_]{1,3}".join(map(re.escape, words.split())) for words in named)
    return (re.compile(rf"(?i)(?<![\w-])(?:{'|'.join(forms)})(?![\w-])") if named else None), by_words


def _option_words(text):
    return " ".join(re.findall(r"[^\W_]+", _bare(text)))


def _bare(text):
    return re.sub(r"^(?:an?|the) ", "", " ".join(_plain(text).casefold().strip(" \"'`*_()[]{}.:,;!").split()))


# ---------------------------------------------------------------- labels: any number of the row's choices
DENIES = re.compile(
    r"(?i)\b(?:not|no|none|except|excluding|excluded|without|absent|unrelated|neither|nor|rather than)\b"
    r"|n't\b"
)


def parse_labels(text: str, choices: list[str]) -> list[str] | None:
    """The labels listed in `text`, in the order of `choices`; None if it lists none, or all of them as the
    prompt does.

    A line that denies nothing gives the labels that are named in it, or the one before its colon if that is a
    label ("a: because of b"). A line that denies anything ("a, but not b") gives its items that are a label
    and nothing else: case, hyphens, numbering and quotes aside. Only the first paragraph with a label is
    read: a base model continues with further examples."""
    names = {_key(choice): choice for choice in choices}
    for paragraph in re.split(r"\n\s*\n", _plain(answer_part(text, NEXT_QUESTION))):
        found = {
            names[key] for line in paragraph.splitlines() for key in _named_in(line, names, tuple(choices))
        }
        if found:
            return (
                [choice for choice in choices if choice in found]
                if len(found) < max(len(choices), 2)
                else None
            )
    return None


def _named_in(line, names, choices):
    lead, colon, rest = line.partition(":")
    if DENIES.search(lead) and colon or DENIES.match(rest.strip()):
        return set()  # "Not related: a; b", "a: no"
    if _item(lead) in names:
        return {_item(lead)}
    if not DENIES.search(line):
        return {_key(match[0]) for match in _labels(choices).whole.finditer(line)}
    return {_item(item) for item in re.split(r"[;,|]", rest if colon else line)} & set(names)


def _item(text):
    return _key(re.sub(r"^\s*(?:\d+[.)]|[-*•])\s*", "", text))


# ---------------------------------------------------------------- span: words that are compared as SQuAD does
def span_tokens(text: str) -> list[str]:
    """Lower-case words without punctuation and articles. A point or comma between digits stays: 5.0 mg is not
    50 mg."""
    text = re.sub(r"[^\w\s]|_", lambda m: m[0] if _between_digits(m) else " ", text.lower())
    return [word for word in text.split() if word not in ("a", "an", "the")]


def _between_digits(match):
    before, after = (
        match.string[match.start() - 1 : match.start()],
        match.string[match.end() : match.end() + 1],
    )
    return match[0] in ".," and before.isdigit() and after.isdigit()


# ---------------------------------------------------------------- entities: <span class="problem">chest
# pain</span> in the sentence
TAG = re.compile(
    r"<span\s{1,9}class\s{0,9}=\s{0,9}[\"']?\s{0,9}([^\"'<>]{0,99}?)\s{0,9}[\"']?\s{0,9}>|(</span\s{0,9}>)",
    re.IGNORECASE,
)


def parse_entities(text: str) -> tuple[list[str], list[tuple[str, int, int]]]:
    """The words of `text` without its span tags, and its entities (class in lower case, first word, word
    after the last). Any other tag is text. A span that is never closed is not an entity, and takes no text
    with it; of nested spans each is one."""
    words, entities, opened, place = [], [], [], 0
    for tag in TAG.finditer(text):
        words += _words(text[place : tag.start()])
        place = tag.end()
        if tag[2] is None:
            opened.append((tag[1].lower(), len(words)))
        elif opened:
            kind, start = opened.pop()
            if len(words) > start:
                entities.append((kind, start, len(words)))
    return words + _words(text[place:]), entities


def _words(text):
    return re.findall(r"\w+|[^\w\s]", text.casefold())


# ---------------------------------------------------------------- numbers, and dates, of a calculation
FIGURE = r"[-\u2212]?(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:\.\d{1,15})?(?![\d/])"
RESULT = re.compile(
    r"(?i)\b(?:answer|result|value|score|total|risk|rate)\b[^\d\n.-]{0,60}?(?:\bis|:|=|\u2248)[^\w\n.-]{0,9}"
    rf"({FIGURE})"
)
DATE = re.compile(r"(?<!\d)(\d{1,2})/(\d{1,2})/(\d{4})(?!\d)")
WEEKS = re.compile(r"(?i)(?<!\d)(\d{1,2})['\"]?\s?weeks?\W{1,6}(?:and\s)?['\"]?(\d)['\"]?\s?days?")


def parse_number(text: str, dated: bool = False) -> float | list[int] | None:
    """The number that `text` gives: the last one said to be the answer or result, else the one it begins
    with, else the only one in it. `dated`: the day as [month, day, year], or [weeks, days]. None if there is
    none, if it is denied or joined to another, or if there are several and none is said to be the answer."""
    text = answer_part(text, NEXT_QUESTION)
    if dated:
        found = {m.groups(): m.start() for pattern in (DATE, WEEKS) for m in pattern.finditer(text)}
        denied = any(NEGATES.search(_before(text, place)) for place in found.values())
        return [int(part) for part in next(iter(found))] if len(found) == 1 and not denied else None
    said = RESULT.findall(text)
    first = re.match(rf"[\s\"'`*_$({{\[]{{0,9}}({FIGURE})", text)
    every = {m[0]: m.start() for m in re.finditer(rf"(?<![\w./-]){FIGURE}", text)}
    if first and re.match(rf"[^\n.]{{0,9}}?\s(?:or|and|to)\s{FIGURE}", text[first.end() :]):
        return None
    if not said and not first and any(NEGATES.search(_before(text, place)) for place in every.values()):
        return None
    found = said[-1] if said else first[1] if first else next(iter(every)) if len(every) == 1 else None
    return float(found.replace(",", "").replace("\u2212", "-")) if found else None
