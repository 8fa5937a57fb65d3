"""The readers of the pretraining corpus, by name. To add a source, copy the nearest module and add its line here.

A module has DOMAIN, LICENSE, ACCESS; FILES_PER_OUTPUT (raw files that share one output: more than 1 where a file is one document);
    files(path) -> list[Path]         the raw files below a folder (or that one file), in the order they are to be read
    read(file, drops) -> documents    a generator; what it leaves out it counts with drops.add(source, reason, "FILE: record N")
and, where a record's fate depends on other files, first_pass(files), whose result is handed to read as a third argument.
"""

from data_prep.sources import mimic_cxr, mimic_iii, mimic_iv_note, pmc, pubmed, redpajama

SOURCES = {
    "pubmed": pubmed,
    "pmc": pmc,
    "mimic_iii": mimic_iii,
    "mimic_iv_note": mimic_iv_note,
    "mimic_cxr": mimic_cxr,
    "redpajama": redpajama,
}
