"""Run one function over many units of work on this machine, a Slurm cluster or a Ray cluster: datatrove's
executors behind one flag.

    --executor local:4               four processes on this machine (local: one, inside this process)
    --executor slurm:cluster.yaml    a Slurm job array; the YAML holds the site's settings
                                     (data_prep/slurm_example.yaml). The command waits for the array: start it
                                     on a login node inside tmux. Started again, it waits for the array it
                                     left.
    --executor ray:64                64 tasks at a time on the Ray cluster that this machine belongs to
                                     (pip install "ray[default]")

A unit is a JSON object with a `name` and the arguments of the function, which writes whole files and returns
a JSON object of facts. Facts are kept under the unit's name with a fingerprint: of the function's arguments,
of the code that it reads (`code`), and of the packages behind it. A killed build resumes, and a unit whose
fingerprint changed is done again. datatrove marks tasks as done by their number, which outlives a changed
setting, and its local pool waits forever for a worker that was killed; hence the results and the pool here.

What makes a unit stale is what it reads:
    code    the module of its function and the modules of data_prep which that one imports, directly or not;
            comments, docstrings and layout do not count. A reader of raw files counts for its own source
            only.
    files   size, time of modification and time of change of each raw file. A finished folder looks at size
            and time of modification, and hashes a file again whose time of change says that it was written to
            since (build_documents.corrected). A file system that keeps no time of change cannot show a
            correction that keeps size and time of modification.
"""

import concurrent.futures
import contextlib
import ctypes
import functools
import hashlib
import importlib
import json
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types
import urllib.parse
from pathlib import Path

# Before datatrove is imported: its logs would print the values of variables, and so the text of notes
os.environ["LOGURU_DIAGNOSE"] = "NO"

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from data_prep import egress
from data_prep.files import os_sentence
from data_prep.manifest import versions
from data_prep.schema import BadInput, Slurm, load

ROOT = Path(__file__).resolve().parents[2]
MOST_TASKS = 1000  # of one run of an executor: Slurm's usual limit for an array
POLL_SECONDS = 10  # between two looks at a Slurm array
IMPORT = re.compile(r"^\s*from (data_prep[\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)
REGISTRIES = ("data_prep.sources",)  # import every reader, but a unit reads with one: see `code`
SITE = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")  # say which cluster; all else is of the job around this
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


# ---------------------------------------------------------------- what makes a unit stale
def stamp(path: str | Path) -> list:
    """[path, bytes, time of modification, time of change]: shows that a raw file changed without reading
    it."""
    stat = Path(path).stat()
    return [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def fingerprint(modules: list[str], *parts) -> str:
    """A hash of JSON values, of the code of some modules, and of the versions of the packages behind it."""
    content = [sorted(map(code, modules)), versions(), *parts]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@functools.cache
def code(module: str) -> str:
    """A hash of what a module and the modules of data_prep that it imports, directly or not, tell Python to
    do."""
    found, left = {}, [module]
    while left:
        name = left.pop()
        if name not in found and (file := _file(name)):
            content = file.read_text(encoding="utf-8")
            found[name] = _compiled(content)
            left += [] if name in REGISTRIES else _imported(content)
    return hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imported(content: str) -> list[str]:
    """Names that may be modules of data_prep, among them attributes of modules."""
    found = re.findall(r"^\s*import (data_prep\S*)", content, re.MULTILINE)
    for package, names in IMPORT.findall(content):
        found += [package, *(f"{package}.{name}" for name in re.findall(r"(\w+)(?: as \w+)?", names))]
    return found


@functools.cache
def _compiled(content: str) -> str:
    """A hash of the bytecode of a file without docstrings, comments and line numbers."""
    parts, left = [], [compile(content, "", "exec", optimize=2)]
    while left:
        block = left.pop()
        constants = [part for part in block.co_consts if not isinstance(part, types.CodeType)]
        left += [part for part in block.co_consts if isinstance(part, types.CodeType)]
        shown = [sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c) for c in constants]
        parts.append([block.co_code.hex(), shown, block.co_names, block.co_varnames, block.co_freevars])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# ---------------------------------------------------------------- units and their results
def run(function: str, units: list[dict], work: str | Path, executor: str = "local") -> list[dict]:
    """Call `function` ("module:name") with the keys of each unit as arguments; return the facts in the order
    of the units. A unit's `name` is not an argument, nor is `code`, a hash of more code that it depends on.

    `work` keeps results, logs and statistics. BadInput if a unit fails, with its message, or with the folder
    of the logs where a worker died."""
    module, _, name = function.partition(":")
    work = Path(work).absolute() / name
    work.mkdir(parents=True, exist_ok=True)
    _await_earlier_array(work)
    for error in work.glob("*.error"):
        error.unlink()
    marks = [fingerprint([module], function, unit) for unit in units]
    pairs = list(zip(units, marks, strict=True))
    step = Units(
        function, [(unit, mark) for unit, mark in pairs if _facts(work, unit, mark) is None], str(work)
    )
    for unit, _ in step.units:  # an older result describes files that are about to be replaced
        _result(work, unit).unlink(missing_ok=True)
    if step.units:
        _execute(step, executor, work)
    errors = [error.read_text(encoding="utf-8") for error in sorted(work.glob("*.error"))]
    if errors:
        more = f" (and {len(errors) - 1} more like it: {work}/*.error)" if len(errors) > 1 else ""
        raise BadInput(f"{errors[0]}{more}. What is finished is kept for the next run")
    facts = [_facts(work, unit, mark) for unit, mark in pairs]
    if None in facts:
        missing = [unit["name"] for unit, fact in zip(units, facts, strict=True) if fact is None]
        raise BadInput(
            f"{len(missing)} of {len(units)} units were not finished, the first is {missing[0]} (a worker "
            "was "
            f"killed or failed; logs: {work}/logs). Next: the same command again, with fewer workers if "
            "memory "
            "ran out; what is finished is kept"
        )
    return facts


def _result(work: Path, unit: dict, ending: str = "json") -> Path:
    return work / f"{urllib.parse.quote(unit['name'], safe='')}.{ending}"


def _facts(work: Path, unit: dict, mark: str) -> dict | None:
    """What the unit gave when it was done under the fingerprint `mark`, or None."""
    path = _result(work, unit)
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result["facts"] if result["fingerprint"] == mark else None


class Units(PipelineStep):
    """A datatrove step that does its rank's share of the units. A unit that cannot be done leaves NAME.error
    with one sentence, and the others are done all the same."""

    type, name = "Units", "me-llama-recipes"

    def __init__(self, function: str, units: list[tuple[dict, str]], work: str):
        super().__init__()
        self.function, self.units, self.work, self.folder = function, units, work, os.getcwd()
        self.terms = egress.agreements()  # a worker is another process

    def run(self, data=None, rank: int = 0, world_size: int = 1):
        os.chdir(self.folder)  # paths are relative to where the build was started
        if self.terms:
            egress.block_egress(self.terms, BadInput)
        module, _, name = self.function.partition(":")
        function, work = getattr(importlib.import_module(module), name), Path(self.work)
        for unit, mark in self.units[rank::world_size]:
            try:
                with self.track_time():
                    facts = function(**{key: unit[key] for key in unit if key not in ("name", "code")})
                _write(_result(work, unit), json.dumps({"fingerprint": mark, "facts": facts}))
                self.stat_update("done")
            except (BadInput, OSError, MemoryError) as error:
                said = str(error) if isinstance(error, BadInput) else f"{unit['name']}: {os_sentence(error)}"
                try:
                    _write(_result(work, unit, "error"), said)
                except OSError:  # a full disk has no room for this either, nor for what datatrove writes
                    print(f"error: {said}", file=sys.stderr, flush=True)
                    sys.modules["loguru"].logger.disable("datatrove")  # it would log a traceback
                self.stat_update("failed")
            except Exception as error:
                if egress.agreements():  # datatrove logs the message, which may quote a record
                    raise RuntimeError(f"{unit['name']}: {type(error).__name__}, {_place(error)}") from None
                raise


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return (
        f"in {trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno} (message left out: it may "
        "quote a record)"
    )


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


# ---------------------------------------------------------------- the three executors
def _execute(step: Units, given: str, work: Path) -> None:
    kind, _, value = given.partition(":")
    logs = work / "logs" / f"{sum(1 for _ in work.glob('logs/*')) + 1:03d}"
    tasks = min(len(step.units), MOST_TASKS)
    common = {"pipeline": [step], "logging_dir": str(logs), "tasks": tasks}
    if kind == "local":
        Local(**common, workers=min(_count(given, value or "1"), tasks)).run()
    elif kind == "ray":
        try:
            import ray
        except ImportError as error:
            next_step = 'pip install "ray[default]"'
            raise BadInput(f"--executor {given}: Ray is not installed. Next: {next_step}") from error
        ray.init(ignore_reinit_error=True, log_to_driver=False, runtime_env={"env_vars": _environment()})
        RayPipelineExecutor(**common, workers=_count(given, value), mem_per_cpu_gb=1).run()
    elif kind == "slurm":
        _execute_on_slurm(common, given, value, work)
    else:
        raise BadInput(f"--executor {given}: must be local:N, slurm:YAML or ray:N")


def _count(given: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        example = f"{given.partition(':')[0]}:4"
        raise BadInput(f"--executor {given}: expected a number of workers after the colon, as in {example}")
    return int(value)


def _environment() -> dict[str, str]:
    """What a worker on another machine needs to import this code, and to keep text out of its logs."""
    before = {name: os.environ.get(name, "") for name in ("PATH", "PYTHONPATH")}
    first = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(ROOT)}
    paths = {name: os.pathsep.join(filter(None, (first[name], before[name]))) for name in first}
    return {**paths, "LOGURU_DIAGNOSE": "NO", "TOKENIZERS_PARALLELISM": "false"}


class Local(LocalPipelineExecutor):
    """datatrove's local executor with a pool that notices when a worker is killed and tries its share once
    more, and whose workers end with this process."""

    def run(self):
        if self.workers == 1:
            for rank in self.get_incomplete_ranks():
                self._run_for_rank(rank, local_rank=1)  # 1: nothing below an error is printed
            return
        spawn = multiprocessing.get_context("spawn")
        for _ in range(2):
            with concurrent.futures.ProcessPoolExecutor(
                self.workers, spawn, initializer=_end_with_parent, initargs=(os.getpid(),)
            ) as pool:
                futures = [pool.submit(self._run_for_rank, rank, 1) for rank in self.get_incomplete_ranks()]
                try:
                    for future in futures:
                        future.result()
                    return
                except concurrent.futures.process.BrokenProcessPool:
                    said = (
                        f"{self.logging_dir.path}: a worker was killed (out of memory?); retrying its "
                        "share once"
                    )
                    print(said, file=sys.stderr, flush=True)


def _end_with_parent(parent: int) -> None:
    """Linux: this process is killed when `parent` dies, however it dies."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)


# ---------------------------------------------------------------- Slurm
class SlurmArray(SlurmPipelineExecutor):
    """datatrove's Slurm executor without the extra job that only sums up statistics."""

    def launch_merge_stats(self):
        pass


def read_cluster(path: str) -> dict:
    """The site's settings of a Slurm cluster; BadInput names a key that is missing, unknown or of the wrong
    kind."""
    if not path or not Path(path).is_file():
        example = "data_prep/slurm_example.yaml"
        raise BadInput(f"--executor slurm:{path}: no such file. Next: copy {example} and fill it in")
    return load(path, Slurm).model_dump(exclude_unset=True)


def _execute_on_slurm(common: dict, given: str, path: str, work: Path) -> None:
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        next_step = "Next: start it on a login node, or in a plain job"
        raise BadInput(f"this command starts Slurm arrays and cannot run inside one. {next_step}")
    settings = read_cluster(path)
    exports = [f"export {name}={shlex.quote(value)}" for name, value in _environment().items()]
    settings["env_command"] = "\n".join([*exports, settings.get("env_command", "")])
    for name in [name for name in os.environ if name.startswith("SLURM_") and name not in SITE]:
        del os.environ[name]  # sbatch and srun would take memory, tasks and CPU bindings from it
    array = SlurmArray(**common, **settings, max_array_size=MOST_TASKS, job_name=f"data_prep.{work.name}")
    try:
        array.run()
    except FileNotFoundError as error:
        next_step = "Next: run it on a login node of the cluster"
        raise BadInput(f"--executor {given}: no {error.filename} here. {next_step}") from error
    except subprocess.CalledProcessError as error:
        raise BadInput(
            f"--executor {given}: sbatch refused the array (see above). Next: correct {path}"
        ) from error
    _write(work / "array", str(array.job_id))
    _wait(str(array.job_id), work, [unit for unit, _ in common["pipeline"][0].units])


def _await_earlier_array(work: Path) -> None:
    """An array that an interrupted command left in the queue still writes results: it is waited for."""
    if (work / "array").is_file():
        job = (work / "array").read_text(encoding="utf-8")
        if _queued(job):
            print(f"Slurm job {job} of an earlier run is still in the queue: waiting for it", flush=True)
        _wait(job, work, [])


def _wait(job: str, work: Path, units: list[dict]) -> None:
    """Wait until a Slurm array has left the queue; print progress and failures. Ctrl-C cancels the array."""
    results, reported, line = [_result(work, unit) for unit in units], set(), None
    try:
        while True:
            queued = _queued(job)
            for error in sorted(set(work.glob("*.error")) - reported):
                reported.add(error)
                print(f"Slurm job {job}: {error.read_text(encoding='utf-8')}", file=sys.stderr, flush=True)
            done = sum(result.is_file() for result in results)
            if results and line != (
                line := f"{done:,} of {len(results):,} units done, {len(reported):,} failed"
            ):
                print(f"Slurm job {job}: {line}", flush=True)
            if not queued:
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        subprocess.run(["scancel", job], check=False)
        print(f"Slurm job {job}: cancelled", file=sys.stderr, flush=True)
        raise
    (work / "array").unlink()


def _queued(job: str) -> bool:
    """Whether tasks of a job wait or run. A controller that does not answer is asked again."""
    asked = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True)
    return bool(asked.stdout.strip()) if asked.returncode == 0 else "Invalid job id" not in asked.stderr
