"""The prompt wrapper of a model: one rule, so that evaluation, chat and servers ask the same token ids."""

from data_prep.files import read_json
from data_prep.schema import BadInput


def open_tokenizer(entry):
    """The tokenizer of a registry.Entry with the wrapper that the entry gives, else its own. BadInput without
    any."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(entry.path, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(
            f"{entry.path}: its tokenizer cannot be read ({' '.join(str(error).split())[:100]}). Next: put "
            f"its base's tokenizer.json and tokenizer_config.json there"
        ) from error
    tokenizer.chat_template = entry.chat_template or tokenizer.chat_template
    if not tokenizer.chat_template:
        raise BadInput(
            f"{entry.path}: its tokenizer has no chat template, so how to ask it is not known. Next: "
            f"chat_template=FILE, or recipes/sft.py to make a chat model of it"
        )
    return tokenizer


def encode(tokenizer, text: str) -> list[int]:
    """Token ids of a prompt as the harness's local backend has them: BOS once, whether the wrapper writes it
    or the tokenizer adds it."""
    bos = tokenizer.bos_token
    return tokenizer(text, add_special_tokens=not (bos and text.startswith(bos))).input_ids


def prompt_ids(tokenizer, messages: list[dict], turns: str = "many") -> list[int]:
    """Token ids of a conversation, up to where the answer begins. `turns`: of the entry; where it is "one",
    the last question is asked alone. BadInput where the wrapper leaves a part out."""
    import jinja2

    system = [turn["content"] for turn in messages if turn["role"] == "system"]
    if system and turns == "one":
        raise BadInput("the model's wrapper has no place for a system prompt. Next: leave --system out")
    asked = messages[-1:] if turns == "one" else messages
    try:
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateError as error:
        raise BadInput(
            f"the model's wrapper refuses this conversation ({error}). Next: /reset"
            + (", or leave --system out" if system else "")
        ) from error
    if any(words.strip() not in text for words in system):
        raise BadInput("the model's wrapper drops the system prompt. Next: leave --system out")
    if messages[-1]["content"].strip() not in text:
        raise BadInput("the model's wrapper drops the question. Next: chat_template=FILE")
    return encode(tokenizer, text)


def served_template(tokenizer, entry) -> str | None:
    """The wrapper to hand to a server, which reads its text as tokens and adds none; None where it finds the
    right one in the model's folder. SentencePiece begins a text with a blank, and not what follows a BOS, so
    the blank is written where evaluation has one. BadInput where no wrapper gives evaluation's ids."""
    own, asked = tokenizer.get_chat_template(), [{"role": "user", "content": "Which 12?"}]
    for before in ("", "{{ bos_token }}", "{{ bos_token + ' ' }}"):
        given = {"chat_template": before + own, "add_generation_prompt": True}
        served = tokenizer.apply_chat_template(asked, tokenize=False, **given)
        if tokenizer(served, add_special_tokens=False).input_ids == prompt_ids(tokenizer, asked):
            return before + own if before or entry.chat_template else None
    raise BadInput(
        f"{entry.path}: no server gives its wrapper the token ids of evaluation. Next: chat_template=FILE"
    )


def blank_after_special(tokenizer) -> bool:
    """Whether this tokenizer of SentencePiece's kind begins the words after a special token with a blank, as
    llama.cpp does by default. True for other kinds, whose words have none."""
    special = tokenizer.bos_token or tokenizer.eos_token
    alone, after = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a", f"{special}a"))
    return special is None or after[1:] == alone


def stops(folder) -> set[int]:
    """The EOS at which a server stops: of generation_config.json, or without that file of config.json."""
    files = [folder / name for name in ("generation_config.json", "config.json")]
    given = next((read_json(file).get("eos_token_id") for file in files if file.is_file()), None)
    return set(given if isinstance(given, list) else [given]) - {None}
