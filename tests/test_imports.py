"""No command loads at its start what it does not need: `--help` or a mistake is answered at once."""

import ast
import importlib.metadata
import re
import subprocess
import sys

import pytest

import demo
from data_prep import manifest

HEAVY = set(
    [
        "torch",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "lm_eval",
        "vllm",
        "matplotlib",
        "nltk",
        "rouge_score",
        "sklearn",
        "scipy",
        "pandas",
        "deepspeed",
        "bitsandbytes",
        "torchao",
        "tensorboard",
        "trackio",
    ]
)
# Of the recipes: a trainer is a recipe's subject
TRAINER = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}
COMMANDS = sorted(
    path.relative_to(demo.ROOT).with_suffix("").as_posix()
    for room in ("data_prep", "evaluation", "recipes")
    for path in (demo.ROOT / room).rglob("*.py")
    if "bench" not in path.stem  # they measure the heavy ones
    if path.name == "__main__.py" or 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
)


def at_start(path, seen):
    """{package: file} of each import outside functions, in a file and the local files that it imports."""
    seen.add(path)
    found, todo = {}, list(ast.parse(path.read_bytes()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        todo += ast.iter_child_nodes(node)
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for parts in (name.split(".") for name in names):
            found.setdefault(parts[0], path.relative_to(demo.ROOT).as_posix())
            for end in range(1, len(parts) + 1):
                for base in (demo.ROOT.joinpath(*parts[:end]), path.parent.joinpath(*parts[:end])):
                    for file in {base.with_suffix(".py"), base / "__init__.py"} - seen:
                        if file.is_file():
                            found = at_start(file, seen) | found
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_not_import_what_only_some_of_its_work_needs(command):
    allowed = TRAINER if command.startswith("recipes/") else set()
    loaded = at_start(demo.ROOT / f"{command}.py", set())
    assert not {name: file for name, file in loaded.items() if name in HEAVY - allowed}


def test_make_hello_needs_no_more_than_it_installs():
    """`make hello` sets up a few of the pinned packages; of what these bring along, markupsafe
    of Jinja2 alone is counted on."""
    light = re.search(r"\(\(([\w|-]+)\)==", (demo.ROOT / "Makefile").read_text(encoding="utf-8"))[1]
    installed = {re.sub("^py(?=yaml)", "", name.lower()).replace("-", "_") for name in light.split("|")} | {
        "markupsafe"
    }
    names = ("raw", "tasks", "hello")
    needed = [stage for stage in demo.STAGES + demo.HELLO if stage.name in names]
    for stage in needed:
        for command in stage.commands():
            file = demo.ROOT.joinpath(*command[command.index("-m") + 1].split(".")).with_suffix(".py")
            loaded = at_start(file, set())
            rooms = {"data_prep", "evaluation", "demo"}
            assert not {
                name: loaded[name] for name in loaded.keys() - sys.stdlib_module_names - rooms - installed
            }


def test_a_package_that_is_not_installed_is_left_out_of_a_manifest(monkeypatch):
    def version(name):
        if name != "lxml":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert manifest.versions() == {"lxml": "1"}


@pytest.mark.parametrize("module", ["data_prep.build_blocks", "evaluation.generate", "evaluation.report"])
def test_nor_do_the_libraries_that_it_imports(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=demo.ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(loaded.stdout.split())
