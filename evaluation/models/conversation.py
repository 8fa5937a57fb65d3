"""A model of this machine that is asked in conversations, as evaluation's chat preset asks it."""

import threading

from data_prep.schema import BadInput
from evaluation.generate import device_of
from evaluation.models import wrapper
from evaluation.models.registry import positions


class Chat:
    """A registry.Entry opened. args: dtype and device as evaluation.generate has them; system (text or None),
    max_new_tokens (of one answer), temperature (0: greedy)."""

    def __init__(self, entry, args):
        from transformers import AutoModelForCausalLM, logging

        logging.set_verbosity_error()
        self.entry, self.args, self.tokenizer = entry, args, wrapper.open_tokenizer(entry)
        model = AutoModelForCausalLM.from_pretrained(
            entry.path.resolve(), dtype=args.dtype, trust_remote_code=False
        )
        self.model = model.to(device_of(args, entry)).eval()
        stops = model.generation_config.eos_token_id
        self.stops = {*(stops if isinstance(stops, list) else [stops]), self.tokenizer.eos_token_id} - {None}
        self.context = min(filter(None, (entry.context, positions(entry.path))), default=None)
        self.system = [{"role": "system", "content": args.system}] if args.system else []
        self.prompt([{"role": "user", "content": "?"}])  # a system prompt that does not fit is refused now

    def prompt(self, messages: list[dict]) -> list[int]:
        """Token ids of the conversation, which leave room for an answer; else BadInput."""
        ids = wrapper.prompt_ids(self.tokenizer, self.system + messages, self.entry.turns)
        if self.context and len(ids) >= self.context:
            raise BadInput(
                f"the conversation has {len(ids)} tokens, and the model's context {self.context}. Next: "
                f"/reset, or a shorter question"
            )
        return ids

    def answer(self, ids: list[int], stop: threading.Event):
        """The answer to a prompt, in pieces of text as they come, until its end or until `stop` is set."""
        import torch
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failed = []
        room = self.context - len(ids) if self.context else self.args.max_new_tokens
        sampled = {"temperature": self.args.temperature} if self.args.temperature else {}
        prompt = torch.tensor([ids], device=self.model.device)

        def stopped(ids, scores, **_):
            return torch.full((len(ids),), stop.is_set(), device=ids.device)

        def generate():
            try:
                self.model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=min(self.args.max_new_tokens, room),
                    do_sample=bool(sampled),
                    eos_token_id=sorted(self.stops) or None,
                    pad_token_id=self.tokenizer.pad_token_id,
                    stopping_criteria=StoppingCriteriaList([stopped]),
                    streamer=streamer,
                    **sampled,
                )
            except BaseException as error:  # of this thread; raised below, in the caller's
                failed.append(error)
                streamer.end()

        worker = threading.Thread(target=generate, daemon=True)
        worker.start()
        try:
            yield from streamer
        finally:
            stop.set()
            worker.join()
        if failed:
            raise failed[0]
