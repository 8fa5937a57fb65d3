"""ShareGPT: conversations with ChatGPT that its users shared; several turns each. (used for Vicuna, Zheng et
al. 2023)

Origin    no publisher of its own; copies in the FastChat format, e.g. github.com/lm-sys/FastChat. The paper's
          Table 2 gives Apache-2.0; the terms of the people who wrote the conversations are unknown. Public.
Raw       *.json, each an array of {id, conversations: [{from: human | gpt | system, value}]}
Paper     20,000 of Alpaca, Dolly and ShareGPT together (Table 2)
Rows      `messages` in place of prompt and completion. A conversation is cut after its last answer.
Left out  and counted: conversations that do not start with the human (after a system text, if any), in which
          human and gpt do not take turns, with an unknown speaker or an empty turn before the last answer,
          and those without an answer
"""

from pathlib import Path

from data_prep.instructions import check_text, common, read_array
from data_prep.schema import BadInput

LICENSE = "Apache-2.0"
ACCESS = "public"
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
COMMON = common("sharegpt", LICENSE, ACCESS)


def files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.json"))
    if not found:
        raise BadInput(f"{folder}: no *.json. Next: put a ShareGPT file in the format of FastChat there")
    return found


def read(folder: Path, drops):
    for path in files(folder):
        for number, (where, record) in enumerate(read_array(path), 1):
            if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
                raise BadInput(f"{where}: field 'conversations' must be a list of turns")
            for turn in record["conversations"]:
                check_text(turn, where, "from", "value")
            messages, reason = to_messages(record["conversations"])
            if messages is None:
                drops.add("sharegpt", reason, where)
                continue
            yield {
                "id": f"sharegpt:{path.stem}:{number}:{record.get('id', '')}",
                **COMMON,
                "messages": messages,
            }


def to_messages(turns: list[dict]) -> tuple[list[dict] | None, str]:
    """The turns as [{role, content}] up to the last answer, or None and the reason why they are no
    conversation."""
    last = max((i for i, turn in enumerate(turns) if turn["from"] == "gpt"), default=-1)
    turns = turns[: last + 1]
    if not turns:
        return None, "no answer"
    if any(turn["from"] not in ROLES for turn in turns):
        return None, "unknown speaker"
    if any(not turn["value"].strip() for turn in turns):
        return None, "empty turn"
    spoken = [turn["from"] for turn in turns]
    spoken = spoken[1:] if spoken[0] == "system" else spoken
    if spoken[:1] != ["human"]:
        return None, "does not start with the human"
    if spoken != ["human", "gpt"] * (len(spoken) // 2):
        return None, "human and gpt do not take turns"
    return [{"role": ROLES[turn["from"]], "content": turn["value"].strip()} for turn in turns], ""
