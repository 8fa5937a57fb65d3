"""No command loads at its start what it does not need: `--help` or a mistake is answered at once."""

import ast
import subprocess
import sys

import pytest

import demo

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


@pytest.mark.parametrize("module", ["data_prep.build_blocks", "evaluation.generate", "evaluation.report"])
def test_nor_do_the_libraries_that_it_imports(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=demo.ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(loaded.stdout.split())
