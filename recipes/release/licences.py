"""What the licenses of data and base model ask of the release together (licences.yaml knows each of them),
and the licence that holds it all."""

import fnmatch
import json
import re
from pathlib import Path

import yaml

from .files import Refused

TERMS = Path(__file__).with_name("licences.yaml")
PHYSIONET = "PhysioNet Credentialed Health Data License 1.5.0"


def read_terms():
    known = yaml.safe_load(TERMS.read_text(encoding="utf-8"))
    names = {
        normal(name): key
        for key, entry in known["licences"].items()
        for name in (key, *entry.get("names", ()))
    }
    return known | {"names": names, "permissions": known["permissions"] or {}}


def normal(name):
    return re.sub(r"[\s_-]+", "-", str(name).strip().casefold())


def find_licence(name, known, where):
    """The key of a licence in licences.yaml. Refused, with the line to add, if it is not there."""
    for pattern, key in known["names"].items():
        if fnmatch.fnmatchcase(normal(name), pattern):
            return key
    line = f"  {json.dumps(str(name))}: {{url: ADDRESS, terms: [attribution]}}"
    raise Refused(
        f"{where}: its licence '{name}' is not known. Next: read it, and add to {TERMS}, under licences, "
        f"what it asks: `{line}`"
    )


def base_licences(base, stated, known):
    """The licenses of the base model: by its name, by the card in its folder, by --base_license. Refused if
    nobody says one."""
    if base["from_scratch"] and not stated:
        return []
    last = Path(base["name"]).name.casefold()
    found = [name for pattern, name in known["base_models"].items() if fnmatch.fnmatchcase(last, pattern)]
    card = Path(base["path"] or "", "README.md")
    if (
        base["path"]
        and card.is_file()
        and (front := re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.S))
    ):
        named = (yaml.safe_load(front[1]) or {}).get("license", "other")
        cards = {entry["card"]: key for key, entry in known["licences"].items() if "card" in entry}
        found += [cards.get(named, named)] if named != "other" else []
    found += [stated] if stated else []
    if not found:
        raise Refused(
            f"{base['name']}: the license of this base model is not known. Next: --base_license, or "
            f"base_models in {TERMS}"
        )
    return list(dict.fromkeys(find_licence(name, known, base["name"]) for name in found))


def licences_in(sources, base, of_base, runs, known):
    """({key in licences.yaml: [names of the sources that are under it]}, the base model among them; the part
    of it that only credentialed people may have). What somebody signed for is out of that part
    (data_prep/declassify.py); an agreement that a run.json names is always in it."""
    used = {key: [base["name"]] for key in of_base}
    for source, name in [(row["source"], name) for row in sources for name in row["licences"]]:
        names = used.setdefault(find_licence(name, known, source), [])
        names += [source] if source not in names else []
    agreed = {
        find_licence(name, known, f"run.json of {run['stage']}"): run["stage"]
        for run in runs
        for name in run.get("agreements", ())
    }
    for key, stage in agreed.items():
        used.setdefault(key, [f"what {stage} read"])
    signed_for, unsigned = (
        {row["source"] for row in sources if row["declassified"] == said} for said in (True, False)
    )
    under = {key: names for key, names in used.items() if key in agreed or "access" in known["licences"][key]}
    closed = {
        key: [name for name in names if name not in signed_for - unsigned] for key, names in under.items()
    }
    return used, {key: names for key, names in closed.items() if names or key in agreed}


def roll_up(used, closed, asked, access, known):
    """The terms of all licences together, and the license of the release: `asked` if it holds them all, else
    Refused; without `asked` the loosest of those in use that does, else "other", which is all of them at
    once; of credentialed data PhysioNet's. `used`, `closed`: see licences_in."""
    entries, needed, unsettled = known["licences"], {}, {}
    for key, term, source in [
        (k, term, name) for k, names in used.items() for term in entries[k]["terms"] for name in names
    ]:
        if term == "permission" and source not in known["permissions"]:
            unsettled[source] = key
        elif term != "permission" and (term != "credentialed" or source in closed.get(key, ())):
            needed.setdefault(term, []).append(source)
    release = asked if asked in (None, "other") else find_licence(asked, known, "--license")
    if access == "credentialed":
        if release not in (None, PHYSIONET):
            raise Refused(
                f"--license {asked}: credentialed data was read, so only {PHYSIONET} is possible. Next: "
                f"leave --license out"
            )
        release = PHYSIONET
    elif release is None:
        if not needed:
            raise Refused(
                "neither data nor base asks for anything: the licence is yours to choose. Next: --license "
                "Apache-2.0, for one"
            )
        own = [key for key in used if "card" in entries[key] and needed.keys() <= set(entries[key]["terms"])]
        release = min(own, key=lambda key: len(entries[key]["terms"]), default="other")
    elif release != "other":
        if "card" not in entries[release]:
            raise Refused(
                f"--license {asked}: no model is released under it. Next: a licence that has a card in "
                f"{TERMS}, or other"
            )
        if lacking := sorted(needed.keys() - set(entries[release]["terms"])):
            said = f"looser than {', '.join(needed[lacking[0]])}: {known['terms'][lacking[0]]}"
            raise Refused(
                f"--license {asked}: {said}. Next: leave --license out, or --license other, which is all "
                f"terms together"
            )
    return {
        "release": release,
        "card": entries.get(release, {}).get("card", "other"),
        "url": entries.get(release, {}).get("url"),
        "open": unsettled,
        "terms": [
            {"term": term, "asks": known["terms"][term], "by": sources} for term, sources in needed.items()
        ],
        "used": [
            {"licence": key, "url": entries[key]["url"], "for": sources} for key, sources in used.items()
        ],
        "agreements": [entries[key].get("agreement", key) for key in closed],
        "permissions": {
            s: known["permissions"][s]
            for sources in used.values()
            for s in sources
            if s in known["permissions"]
        },
        "copies": [key for key in used if entries[key].get("copy")],
        "notices": [
            f"{key}. Copyright (c) {entries[key]['holder']}, all rights reserved."
            for key in used
            if "holder" in entries[key]
        ],
        "shown": [entries[key]["shown"] for key in used if "shown" in entries[key]],
        "name_begins": [entries[key]["name_begins"] for key in used if "name_begins" in entries[key]],
    }


def check_release(licence, access, name):
    """What access class and licences ask of this release, beyond the licence itself."""
    for begin in licence["name_begins"]:
        if not name.startswith(begin):
            raise Refused(
                f"--name {name}: the base model's licence wants a name that begins with '{begin}'. Next: "
                f"--name {begin}-{name}"
            )
    if access != "credentialed" and licence["open"]:
        source, said = next(iter(licence["open"].items()))
        line = f'  {source}: "who allowed it, when, and where that is filed"'
        why = f"{source}: its terms ('{said}') let nobody publish what was made of it"
        raise Refused(
            f"{why}. Next: train without it, or write what its owner allowed into {TERMS}, under "
            f"permissions: `{line}`"
        )


def base_files(base, licence, folder):
    """The licence files of the base model, where its licence asks that a copy goes along: those in `folder`
    before those beside the base."""
    if not licence["copies"]:
        return []
    places = [Path(place) for place in (base["path"], folder) if place]
    found = [path for place in places for path in sorted(place.glob("*")) if path.is_file()]
    files = {path.name: path for path in found if re.match("LICENSE|NOTICE|USE_POLICY", path.name)}
    if not any(name.startswith("LICENSE") for name in files):
        asks = f"{licence['copies'][0]} asks that a copy of it goes along"
        raise Refused(
            f"{base['name']}: {asks}. Next: --license_files FOLDER, which holds its LICENSE.txt and "
            f"USE_POLICY.md"
        )
    return list(files.values())
