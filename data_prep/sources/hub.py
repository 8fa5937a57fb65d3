"""Any dataset of the Hugging Face Hub, by name and revision, streamed with `datasets`: a source.yaml
(sidecar.py) says which and what.

Origin      source.yaml: `dataset` (its name on the Hub, or a folder that `datasets` can load, from where
            source.yaml is), `revision` (the commit, 40 hexadecimal digits: a branch or tag may hold other
            data tomorrow), `split`, and `config` if it has several.
License     as source.yaml says; the page of the dataset has it. It is required, and so are domain and access.
Raw schema  rows with a column of text, named in source.yaml

Oddities    The raw file of the manifest is source.yaml: name and commit identify the data. No code of the
            dataset is ever run. A gated dataset needs `hf auth login` first. Streaming reads the rows in
            their order, through one process for each source.yaml.
"""

import re
from pathlib import Path

from data_prep.schema import BadInput
from data_prep.sources import sidecar
from data_prep.sources.raw_files import files_below

FILES_PER_OUTPUT = 1


def files(path: str | Path) -> list[Path]:
    found = files_below(path, (sidecar.NAME,), "hub")
    for file in found:
        _settings(file)  # what is not whole is named before anything is fetched
    return found


def card(path: str | Path) -> dict[str, str]:
    settings = _settings(Path(path))
    return {key: settings[key] for key in sidecar.CARD}


def read(file: Path, drops):
    """Yield the documents of the dataset that one source.yaml names."""
    from datasets import load_dataset  # here, as it takes seconds to import

    settings = _settings(file)
    folder = file.parent / settings["dataset"]
    dataset = str(folder) if folder.is_dir() else settings["dataset"]
    try:
        rows = load_dataset(
            dataset,
            settings["config"],
            split=settings["split"],
            revision=settings["revision"],
            streaming=True,
        )
        records = ((f"{file}: row {number}", row) for number, row in enumerate(rows, 1))
        name = "/".join(filter(None, (settings["dataset"], settings["config"], settings["split"])))
        for document in sidecar.documents("hub", name, settings, records, drops):
            document["meta"]["revision"] = settings["revision"]
            yield document
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: {dataset} cannot be read ({' '.join(str(error).split())})") from error


def _settings(file: Path) -> dict:
    settings = sidecar.kept_class(sidecar.read_sidecar(file, hub=True), file)
    if (
        not re.fullmatch(r"[0-9a-f]{40}", settings["revision"])
        and not (file.parent / settings["dataset"]).is_dir()
    ):
        raise BadInput(
            f"{file}: revision '{settings['revision']}' must be a commit of 40 hexadecimal digits. Next: "
            "copy it from the dataset's page"
        )
    return settings
