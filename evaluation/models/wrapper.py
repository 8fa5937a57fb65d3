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
            f"the model's wrapper refuses this conversation ({error}). Next: /reset, or "
            f"{'leave --system out' if system else 'chat_template=FILE'}"
        ) from error
    if any(words.strip() not in text for words in system):
        raise BadInput("the model's wrapper drops the system prompt. Next: leave --system out")
    if messages[-1]["content"].strip() not in text:
        raise BadInput("the model's wrapper drops the question. Next: chat_template=FILE")
    return encode(tokenizer, text)


def served_template(tokenizer, entry) -> str | None:
    """The chat template to pass to a server, which tokenizes the rendered text without adding special
    tokens; None if the one in the model's folder is right. SentencePiece adds a prefix space to a text but
    not to what follows a BOS, so the space is written where evaluation has one. BadInput if no template
    gives evaluation's token ids."""
    asked = [{"role": "user", "content": "Which 12?"}]
    own, wanted = tokenizer.get_chat_template(), prompt_ids(tokenizer, asked)
    for before in ("", "{{ bos_token }}", "{{ bos_token + ' ' }}") if tokenizer.bos_token else ("",):
        given = {"chat_template": before + own, "add_generation_prompt": True}
        served = tokenizer.apply_chat_template(asked, tokenize=False, **given)
        if tokenizer(served, add_special_tokens=False).input_ids == wanted:
            return before + own if before or entry.chat_template else None
    raise BadInput(
        f"{entry.path}: on a server its template gives other token ids than in evaluation. Next: "
        f"chat_template=FILE"
    )


def drops_prefix_space(tokenizer) -> bool:
    """Whether this is a SentencePiece tokenizer that adds no prefix space after a special token; llama.cpp
    adds one by default."""
    special = tokenizer.bos_token or tokenizer.eos_token
    if special is None or not any(token.startswith("\u2581") for token in tokenizer.get_vocab()):
        return False
    after = tokenizer(f"{special}a", add_special_tokens=False).input_ids[1]
    return not tokenizer.convert_ids_to_tokens(after).startswith("\u2581")


def stops(folder) -> set[int]:
    """The EOS at which a server stops: of generation_config.json, or without that file of config.json."""
    files = [folder / name for name in ("generation_config.json", "config.json")]
    given = next((read_json(file).get("eos_token_id") for file in files if file.is_file()), None)
    return set(given if isinstance(given, list) else [given]) - {None}
