"""Complex clinical case diagnosis: from what models answered to judged differentials, top-k accuracy and
agreement with clinicians.

differential.py   an answer -> the ranked list that it gives, or None
matching.py       the offline judge: are two names of a diagnosis the same?
judges.py         every judge behind one call
ratings.py        what clinicians rated, from CSV
verdicts.py       the append-only log of what was judged
statistics.py     top-k, intervals, McNemar, agreement
section.py        the summary as a table, pictures and a section of the report
"""
