"""What clinicians rated on our rating page: diagnoses that most call right against those called wrong.

Origin    your own raters, on the page that evaluation.rating_page makes; license and access are each case's
Raw       *.html, the pages; *.csv, what the raters exported: {case_id, item, rater, match: y, n or u}
Pairs     the text of the case and a question; each wrong diagnosis gives one, the right ones take turns. All
          pairs of a case go to the same split
Oddities  unsure counts for neither side. Left out and counted: a tie, a rating of no page here, a case
          without a right or without a wrong diagnosis. A case is trained on or evaluated on, never both:
          with --task_rows, a folder that holds diagnosis/test.jsonl, such cases are dropped.
"""

import json
import re
from collections import Counter
from pathlib import Path

from data_prep.schema import BadInput
from data_prep.sources.raw_files import csv_rows, files_below

LICENSE, ACCESS = None, None  # of each case
QUESTION = "What is the most likely diagnosis?"
DATA = re.compile(r'id="data">(.*?)</script>', re.DOTALL)


def files(folder: Path) -> list[Path]:
    return [*files_below(folder, ("*.html",), "rating_page"), *files_below(folder, ("*.csv",), "rating_page")]


def read(folder: Path, drops):
    pages = [path for path in files(folder) if path.suffix == ".html"]
    cases = {case["id"]: (page, case) for page in pages for case in cases_of(page)}
    items = {p["item"]: p["name"] for _, case in cases.values() for p in case["predictions"]}
    votes = votes_of([path for path in files(folder) if path.suffix == ".csv"], items, drops)
    for name, (page, case) in cases.items():
        sides = {True: [], False: []}
        for item in (p["item"] for p in case["predictions"] if p["item"] in votes):
            said = Counter(votes[item].values())
            if said["y"] == said["n"]:
                drops.add("rating_page", "a tie, or all unsure", f"{page}: {name} {item}")
            else:
                sides[said["y"] > said["n"]].append(item)
        if not sides[True] or not sides[False]:
            missing = "right" if sides[False] else "wrong"
            drops.add("rating_page", f"no diagnosis is rated {missing}", f"{page}: {name}")
            continue
        for number, item in enumerate(sides[False]):
            yield {
                "id": f"rating_page:{item}",
                "prompt": f"{case['text'].strip()}\n\n{QUESTION}\n",
                "chosen": items[sides[True][number % len(sides[True])]],
                "rejected": items[item],
                "source": "rating_page",
                "license": case["license"],
                "access": case["access"],
                "group": f"rating_page:{name}",
            }


def cases_of(page: Path) -> list[dict]:
    """The cases that a page holds."""
    found = DATA.search(page.read_text(encoding="utf-8", errors="replace"))
    try:
        cases = json.loads(found[1])["cases"] if found else []
        known = ("id", "text", "predictions", "license", "access")
        complete = cases and all(case[key] for case in cases for key in known)
    except (ValueError, KeyError, TypeError, RecursionError):
        complete = False
    if not complete:
        raise BadInput(
            f"{page}: no rating page whose cases state license and access. "
            "Next: python -m evaluation.rating_page RUN --out PAGE; earlier ratings fit the new page"
        )
    return cases


def votes_of(paths: list[Path], items: dict, drops) -> dict:
    """{item: {rater: "y", "n" or "u"}}"""
    votes = {}
    for path in paths:
        for number, row in csv_rows(path, ("case_id", "item", "rater", "match")):
            where, match = f"{path}: record {number}", row["match"].strip().lower()
            if match not in ("y", "n", "u"):
                raise BadInput(f"{where}: match must be y, n or u. Next: export it from the page again")
            if row["item"] not in items:
                drops.add("rating_page", "a rating of no page here", where)
                continue
            said = votes.setdefault(row["item"], {})
            if said.setdefault(row["rater"], match) != match:
                raise BadInput(
                    f"{where}: this rater said otherwise before. Next: keep the later export of each rater"
                )
    return votes
