"""Make the untrained backbone of the demo: a byte-level BPE tokenizer and the config of a tiny LLaMA. It
stands in for LLaMA-2's folder.

    python -m data_prep.demo.backbone --documents data/demo/documents --out data/demo/backbone_config

Reads   DOCUMENTS/<source>/*.jsonl.gz and data_prep/prompts/*.txt: the tokenizer learns from all domains and
        from the wording of the tasks, as LLaMA-2's knows medical words and everyday English before any
        medical training.
Writes  OUT/config.json (with the access class of the documents), tokenizer.json, tokenizer_config.json.
        `recipes/pretrain.py` with `from_scratch: true` turns it into a model.

A laboratory with LLaMA-2, Llama-3 or Qwen weights has no use for this script: give their folder to
`build_blocks` and to the recipes.
"""

import argparse
import itertools
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from data_prep import egress
from data_prep.files import one_sentence, read_jsonl, whole_folder
from data_prep.manifest import read_manifest
from data_prep.schema import BadInput

PROMPTS = [
    path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parents[1].glob("prompts/*.txt"))
]
PROMPT_WEIGHT = 100  # times that each prompt is counted: enough for its words to become tokens
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


def train_tokenizer(texts, vocab_size: int):
    """BPE over bytes, digits one by one and a BOS in front, as in LLaMA-2; a pad token of its own, unlike
    LLaMA-2."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab_size", type=int, default=2048)
    args = parser.parse_args(argv)
    with one_sentence():
        manifest = read_manifest(
            args.documents,
            made_by="python -m data_prep.build_documents --source NAME=PATH --out " + str(args.documents),
        )
        files = [args.documents / output["path"] for output in manifest["outputs"]]
        documents = (document["text"] for file in files for _, document in read_jsonl(file))
        tokenizer = train_tokenizer(itertools.chain(documents, PROMPTS * PROMPT_WEIGHT), args.vocab_size)
        from transformers import LlamaConfig

        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            architectures=["LlamaForCausalLM"],
        )
        if manifest["access"] != "public":
            config.access = manifest["access"]  # its words are those of the documents
        with whole_folder(args.out, mark="config.json") as out:
            tokenizer.model_max_length = config.max_position_embeddings
            tokenizer.save_pretrained(out)
            config.save_pretrained(out)
    print(
        f"wrote {args.out}: vocabulary of {len(tokenizer)}, {config.num_hidden_layers} layers of width "
        f"{config.hidden_size}"
    )


if __name__ == "__main__":
    egress.isolate(sys.argv[1:], BadInput)
    main()
