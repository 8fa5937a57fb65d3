"""Every YAML parses with its own recipe, and every command we print names files and flags that exist."""

import ast
import contextlib
import importlib
import io
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

import demo
import real

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "recipes/configs").glob("*.yaml"))
TEXTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(
        path
        for room in ("recipes", "data_prep", "evaluation", "accelerate_configs")
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".yaml", ".md")
    ),
]


def commands():
    """(file, command) of each command line in prose, docstrings, YAML headers, Makefile and demo."""
    for stage in demo.STAGES + demo.FULL + real.stages(None, "data/raw") + real.FULL:
        yield from (("demo.py", shlex.join(command)) for command in stage.commands())
    launch = "accelerate launch --config_file accelerate_configs/cpu.yaml"
    for path in [*TEXTS, ROOT / "Makefile"]:
        text = re.sub(r"\\\n\s*(?:#\s*)?", " ", path.read_text(encoding="utf-8"))
        text = re.sub(r"\$\((LAUNCH|TRAIN)\)", launch, text).replace("$(PY)", "python")
        text = text.replace("recipes/$1.py", "recipes/sft.py")  # of a training target
        for line in text.splitlines():
            line = line.strip().lstrip("#").strip().strip("`")
            begins = r"python -m (?:data_prep|evaluation|recipes)\.(?!{)|python recipes/|accelerate launch "
            for found in re.findall(rf"(?:^|`|Next: |\s|,)((?:{begins})(?:(?!&&).)*)", line):
                yield path.relative_to(ROOT).as_posix(), re.split(r"`|\"|, |,python|; | \.\.\.$", found)[0]


ROOMS = ("recipes", "data_prep", "evaluation")
COMMANDS = sorted(set(commands()))


def recipe_parser(name):
    if (ROOT / f"recipes/tools/{name}.py").is_file():
        return importlib.import_module(f"recipes.tools.{name}").make_parser()
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        return importlib.import_module(name).make_parser()
    finally:
        sys.path.pop(0)


@cache
def flags(script):
    """The flags that a script of this repository accepts: of its parser, of its --help, or in its text."""
    text = (ROOT / script).read_text(encoding="utf-8")
    if script.startswith("recipes/") and "def make_parser" in text and "__main__" not in script:
        return set(recipe_parser(Path(script).stem)._option_string_actions) | {"--config"}
    texts = script.startswith("recipes/") or "def main(argv=None" not in text
    if texts or "add_subparsers" in text:
        return set(re.findall(r"[\"'](--\w+)[\"']", text)) | {"--help"}
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        module.main(["--help"])
    return set(re.findall(r"--\w+", printed.getvalue()))


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 20 and {f for f, _ in COMMANDS} >= {
        "README.md",
        "Makefile",
        "demo.py",
        "recipes/sft.py",
        "recipes/configs/demo_chat.yaml",
    }


@pytest.mark.parametrize(("where", "command"), COMMANDS)
@pytest.mark.guarantee("Files", "Printed commands name files and flags that exist.")
def test_printed_commands_name_existing_files_and_flags(where, command):
    words = shlex.split(command.replace("'", "").replace("\\", ""), comments=True)
    if {"-m", "--module"} & set(words):
        module = next(word for word in words if word.split(".")[0] in ROOMS and "/" not in word).replace(
            ".", "/"
        )
        script = f"{module}/__main__.py" if (ROOT / module).is_dir() else f"{module}.py"
    else:
        script = next(word for word in words if word.startswith("recipes/"))
    assert (ROOT / script).is_file(), f"{where}: {script}"
    begin = script if script in words else module.replace("/", ".")
    rest = words[words.index(begin) + 1 :]
    for word in words:
        if word.startswith(("recipes/", "accelerate_configs/", "data_prep/", "evaluation/")) and re.search(
            r"\.(yaml|py|jinja)$", word
        ):
            assert (ROOT / word).is_file(), f"{where}: {word}"
    for flag in re.findall(r"(?<!\S)(--\w+)", " ".join(rest)):
        assert flag in flags(script), f"{where}: {script} has no {flag}"


def strings(tree):
    """The strings of a module, those of several literals and f-strings whole, with X for each value."""
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield node.value


def required(module):
    for node in ast.walk(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.Call) and any(
            word.arg == "required" and word.value.value for word in node.keywords
        ):
            yield node.args[0].value


def test_commands_of_data_prep_in_strings_name_what_is_required():
    checked = 0
    for path in (path for path in TEXTS if path.suffix == ".py"):
        for text in strings(ast.parse(path.read_text())):
            text = re.sub(r'"[^"\n]*"', "X", re.sub(r"\\\n\s*", " ", text))
            for module, rest in re.findall(r"python -m (data_prep\.\w+)( [^`;\n]*)", text):
                given = re.findall(r"--\w+", rest.split(", ")[0])
                if given and "--help" not in given and not rest.endswith("..."):
                    missing = set(required(module)) - set(given)
                    assert not missing, f"{path.relative_to(ROOT)}: python -m {module}{rest} lacks {missing}"
                    checked += 1
    assert checked > 20


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_recipe_yaml_parses_with_its_own_recipe(path):
    header = path.read_text().splitlines()[1]
    recipe = re.search(r"recipes[./](?:tools\.)?(\w+)(?:\.py)? --config", header).group(1)
    assert f"recipes/configs/{path.name}" in header, "the launch command stands on top"
    cpu = (
        [] if recipe in ("merge_adapter", "mixture_study") else ["--use_cpu", "true"]
    )  # without it a machine that has no GPU refuses bf16
    parsed = recipe_parser(recipe).parse_args_and_config(["--config", str(path), *cpu])
    written = yaml.safe_load(path.read_text())
    fields = {key: value for part in parsed for key, value in vars(part).items()}
    assert {key: fields[key] for key in ("output_dir",)} == {key: written[key] for key in ("output_dir",)}
    assert "trust_remote_code" not in written and written.get("push_to_hub", False) is False
    assert (
        set(written.get("report_to", [])) <= {"tensorboard", "trackio"} or written["report_to"] == "none"
    ), "files only"


def test_mixtures_parse():
    from data_prep.build_blocks import read_mixture

    for path in sorted((ROOT / "data_prep/mixtures").glob("*.yaml")):
        assert read_mixture(path)["block_length"] > 0
    paper = read_mixture(ROOT / "data_prep/mixtures/paper.yaml")
    assert (
        paper["ratio"] == {"biomedical": 15, "clinical": 1, "general": 4}
        and paper["tokens"] == 129_000_000_000
    )


def test_make_targets_of_the_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(
            r"\bmake ([a-z-]+)", re.sub(r"^(?!.*`?make ).*$", "", path.read_text(), flags=re.M)
        ):
            assert target in targets or target in ("alone",), f"{path.name}: make {target}"


def test_every_command_that_writes_ends_in_one_sentence_on_a_full_disk():
    """By data_prep.files.one_sentence, which other tests fill a disk for."""
    files = [path for room in ("data_prep", "evaluation") for path in sorted((ROOT / room).rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files if not path.is_symlink()}
    commands = {path for path in texts if re.search(r"^def main\(argv", texts[path], re.M)}
    others = {path.stem for path in commands if "one_sentence()" not in texts[path]}
    assert len(commands) > 35 and others == {"serve"}, "serve has its own, tested in test_serve.py"
