"""What the sources made of JSON or table records share: which records have a text that can be used."""

import hashlib


def with_text(source: str, fields: tuple[str, ...], records, drops):
    """Yield (where, record, text, digest) for each (where, record) whose first of `fields` is a text; the
    others count as bad.

    The digest is of the text, 20 hexadecimal digits: the id of a record without one."""
    for where, record in records:
        text = (
            next((record[field] for field in fields if field in record), None)
            if isinstance(record, dict)
            else None
        )
        if not isinstance(text, str):
            found = (
                ", ".join(map(printable, list(record)[:20]))
                if isinstance(record, dict)
                else type(record).__name__
            )
            reason = f"no object with a text in {' or '.join(fields)}"
            drops.add(source, reason, f"{where} (found: {found or 'no field'})", bad=True)
        elif not text.strip():
            drops.add(source, "empty text", where, bad=True)
        else:
            try:
                yield where, record, text, hashlib.sha256(text.encode()).hexdigest()[:20]
            except UnicodeEncodeError:  # JSON can spell half a character, UTF-8 cannot
                drops.add(source, "not valid Unicode", where, bad=True)


def printable(value) -> str:
    """A value as a text that can be written: half a character becomes a question mark."""
    return str(value).encode(errors="replace").decode()
