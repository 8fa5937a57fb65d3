"""The readers of the pretraining corpus, by name. To add a source, copy the nearest module and add its line
here.

A module has DOMAIN, LICENSE, ACCESS; FILES_PER_OUTPUT (raw files that share one output: more than 1 where a
file is one document);
    files(path) -> list[Path]         the raw files below a folder (or that one file), in the order they are
                                      to be read
    read(file, drops) -> documents    a generator; what it leaves out it counts with drops.add(source, reason,
                                      "FILE: record N"), with bad=True where the record should not have been
                                      there at all
Where a record's fate depends on other files:
    scan(file) -> JSON                what the others must know of this file; run for each file, in parallel
    first_pass(files, scans) -> list  what `read` is told of each file as its third argument (None: nothing);
                                      scans is None without `scan`
Where domain, license and access are the user's to say, card(path) -> {"domain", "license", "access"} takes
the place of the constants.
"""

from data_prep.sources import (
    guidelines,
    hub,
    mimic_cxr,
    mimic_iii,
    mimic_iv_note,
    notes,
    pile_pubmed,
    plain,
    pmc,
    pubmed,
    redpajama,
)

SOURCES = {
    "pubmed": pubmed,
    "pmc": pmc,
    "mimic_iii": mimic_iii,
    "mimic_iv_note": mimic_iv_note,
    "mimic_cxr": mimic_cxr,
    "redpajama": redpajama,
    "pile_pubmed": pile_pubmed,
    "guidelines": guidelines,
    "notes": notes,
    "plain": plain,
    "hub": hub,
}
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")  # files of many documents: each has an output of its own


def card(name: str, path) -> dict[str, str]:
    """Domain, license and access of a source, of which `path` is a file."""
    module = SOURCES[name]
    return (
        module.card(path)
        if hasattr(module, "card")
        else {"domain": module.DOMAIN, "license": module.LICENSE, "access": module.ACCESS}
    )
