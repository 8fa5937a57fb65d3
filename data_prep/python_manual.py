"""General text that every machine has: the language reference of Python's own help, a collection of `plain`.

    python -m data_prep.python_manual --out data/real/raw/python_manual

Reads   pydoc_data.topics of the running Python (PSF-2.0): some 80 texts on the language, about 90,000 tokens
Writes  OUT/topics.jsonl {"id", "text"} and OUT/source.yaml. A paragraph that several topics quote stays in
        the first of them, so that no held-out text was also trained on.
"""

import argparse
import sys
from pathlib import Path
from pydoc_data.topics import topics

from data_prep.files import whole_folder, write_jsonl
from data_prep.schema import BadInput

CARD = "domain: general\nlicense: PSF-2.0\naccess: public\nid: id\n"


def rows():
    seen = set()
    for name, text in sorted(topics.items()):
        paragraphs = [part for part in text.split("\n\n") if part.strip() not in seen]
        seen |= {part.strip() for part in paragraphs}
        if paragraphs:
            yield {"id": name, "text": "\n\n".join(paragraphs)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        with whole_folder(args.out, "source.yaml") as folder:
            write_jsonl(folder / "topics.jsonl", rows())
            (folder / "source.yaml").write_text(CARD, encoding="utf-8")
    except BadInput as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
