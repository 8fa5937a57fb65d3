"""Run one function over many units of work, on this machine, a Slurm cluster or a Ray cluster: datatrove's executors behind one flag.

    --executor local:4               four processes on this machine (local: one, inside this process)
    --executor slurm:cluster.yaml    a Slurm job array; the YAML holds the site's settings (data_prep/slurm_example.yaml), the arguments of datatrove's
                                     SlurmPipelineExecutor. The command waits for the array, so start it on a login node inside tmux.
    --executor ray:64                64 tasks at a time on the Ray cluster that this machine belongs to (pip install "ray[default]")

A unit is a JSON object with a `name` and the arguments of the function, which writes whole files and returns a JSON object of facts. The facts are kept
under the unit's name with a hash of (function, unit, code, versions): what is killed goes on where it was, and what has changed is never taken for done.
datatrove marks tasks as done by their number, which outlives a changed setting, and its local pool waits for ever for a worker that was killed; hence the
results and the pool here. The executors, their logs and their Slurm scripts are datatrove's.
"""

import concurrent.futures
import hashlib
import importlib
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import urllib.parse
from pathlib import Path

os.environ["LOGURU_DIAGNOSE"] = (
    "NO"  # before datatrove is imported: its logs would print the values of variables, and so the text of notes
)

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from data_prep import egress
from data_prep.manifest import versions
from data_prep.schema import BadInput, Slurm, load

ROOT = Path(__file__).resolve().parents[2]
MOST_TASKS = 1000  # of one run of an executor: Slurm's usual limit for an array
CODE = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py")))
).hexdigest()


def stamp(path: str | Path) -> list:
    """[path, bytes, time of change]: what tells a raw file from a changed one without reading it."""
    stat = Path(path).stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]


def fingerprint(*parts) -> str:
    """A hash of JSON values, this code and the versions of the packages behind it."""
    return hashlib.sha256(
        json.dumps([CODE, versions(), *parts], sort_keys=True, default=str).encode()
    ).hexdigest()


def run(function: str, units: list[dict], work: str | Path, executor: str = "local") -> list[dict]:
    """Call `function` ("module:name") with the keys of each unit as arguments; return the facts in the order of the units.

    `work` keeps results, logs and statistics. BadInput if a unit fails: every message, or the folder of the logs where a worker died."""
    work = Path(work).absolute() / function.partition(":")[2]
    work.mkdir(parents=True, exist_ok=True)
    for error in work.glob("*.error"):
        error.unlink()
    known = [fingerprint(function, unit) for unit in units]
    step = Units(
        function,
        [(unit, mark) for unit, mark in zip(units, known, strict=True) if _facts(work, unit, mark) is None],
        str(work),
    )
    if step.units:
        _execute(step, executor, work)
    errors = [error.read_text() for error in sorted(work.glob("*.error"))]
    if errors:
        more = f" (and {len(errors) - 1} more like it: {work}/*.error)" if len(errors) > 1 else ""
        raise BadInput(f"{errors[0]}{more}. What is finished is kept for the next run")
    facts = [_facts(work, unit, mark) for unit, mark in zip(units, known, strict=True)]
    if None in facts:
        missing = [unit["name"] for unit, fact in zip(units, facts, strict=True) if fact is None]
        raise BadInput(
            f"{len(missing)} of {len(units)} units were not finished, the first is {missing[0]} (a worker was killed or failed; logs: {work}/logs). "
            f"Next: the same command again, with fewer workers if memory ran out; what is finished is kept"
        )
    return facts


def _result(work: Path, unit: dict, ending: str = "json") -> Path:
    return work / f"{urllib.parse.quote(unit['name'], safe='')}.{ending}"


def _facts(work: Path, unit: dict, known: str) -> dict | None:
    """What the unit gave when it was done under the fingerprint `known`, or None."""
    path = _result(work, unit)
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    return result["facts"] if result["fingerprint"] == known else None


class Units(PipelineStep):
    """A datatrove step that does its rank's share of the units. A unit that cannot be done leaves NAME.error with one sentence, and the others go on."""

    type, name = "Units", "me-llama-recipes"

    def __init__(self, function: str, units: list[tuple[dict, str]], work: str):
        super().__init__()
        self.function, self.units, self.work, self.folder = function, units, work, os.getcwd()
        self.terms = egress.held()  # a worker is another process

    def run(self, data=None, rank: int = 0, world_size: int = 1):
        os.chdir(self.folder)  # a worker elsewhere starts elsewhere, and paths are given from here
        if self.terms:
            egress.keep_inside(self.terms, BadInput)
        module, _, name = self.function.partition(":")
        function, work = getattr(importlib.import_module(module), name), Path(self.work)
        for unit, known in self.units[rank::world_size]:
            path = _result(work, unit)
            path.unlink(missing_ok=True)  # an older result describes files that are about to be replaced
            try:
                with self.track_time():
                    facts = function(**{key: value for key, value in unit.items() if key != "name"})
                _write(path, json.dumps({"fingerprint": known, "facts": facts}))
                self.stat_update("done")
            except (BadInput, OSError, MemoryError) as error:
                _write(
                    _result(work, unit, "error"),
                    str(error) if isinstance(error, BadInput) else f"{unit['name']}: {error!r}",
                )
                self.stat_update("failed")


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
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
            raise BadInput(
                f'--executor {given}: Ray is not installed. Next: pip install "ray[default]"'
            ) from error
        ray.init(ignore_reinit_error=True, log_to_driver=False, runtime_env={"env_vars": _environment()})
        RayPipelineExecutor(**common, workers=_count(given, value), mem_per_cpu_gb=1).run()
    elif kind == "slurm":
        if "SLURM_ARRAY_TASK_ID" in os.environ:
            raise BadInput(
                "this command starts Slurm arrays and cannot run inside one. Next: start it on a login node, or in a plain job"
            )
        settings = read_cluster(value)
        exports = [f"export {name}={shlex.quote(value)}" for name, value in _environment().items()]
        settings["env_command"] = "\n".join([*exports, settings.get("env_command", "")])
        settings["sbatch_args"] = {**settings.get("sbatch_args", {}), "wait": ""}
        try:
            SlurmArray(
                **common, **settings, max_array_size=MOST_TASKS, job_name=f"data_prep.{work.name}"
            ).run()
        except FileNotFoundError as error:
            raise BadInput(
                f"--executor {given}: no {error.filename} here. Next: run it on a login node of the cluster"
            ) from error
        except subprocess.CalledProcessError:
            pass  # a task of the array failed: what it left says which, and run() reads it
    else:
        raise BadInput(f"--executor {given}: must be local:N, slurm:YAML or ray:N")


def _count(given: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise BadInput(
            f"--executor {given}: expected a number of workers after the colon, as in {given.partition(':')[0]}:4"
        )
    return int(value)


def _environment() -> dict[str, str]:
    """What a worker on another machine needs to import this code, and to keep text out of its logs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {"PATH": path, "PYTHONPATH": str(ROOT), "LOGURU_DIAGNOSE": "NO", "TOKENIZERS_PARALLELISM": "false"}


def read_cluster(path: str) -> dict:
    """The site's settings of a Slurm cluster; BadInput names a key that is missing, unknown or of the wrong kind."""
    if not path or not Path(path).is_file():
        raise BadInput(
            f"--executor slurm:{path}: no such file. Next: copy data_prep/slurm_example.yaml and fill it in"
        )
    return load(path, Slurm).model_dump(exclude_unset=True)


class Local(LocalPipelineExecutor):
    """datatrove's local executor with a pool that notices when a worker is killed, and tries what was left once more."""

    def run(self):
        if self.workers == 1:
            for rank in self.get_incomplete_ranks():
                self._run_for_rank(rank, local_rank=1)  # 1: nothing below an error is printed
            return
        for _ in range(2):
            with concurrent.futures.ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn")
            ) as pool:
                futures = [pool.submit(self._run_for_rank, rank, 1) for rank in self.get_incomplete_ranks()]
                try:
                    for future in futures:
                        future.result()
                    return
                except concurrent.futures.process.BrokenProcessPool:
                    print(
                        f"{self.logging_dir.path}: a worker was killed (out of memory?); its share is done once more",
                        file=sys.stderr,
                        flush=True,
                    )


class SlurmArray(SlurmPipelineExecutor):
    """datatrove's Slurm executor without the extra job that only sums up statistics."""

    def launch_merge_stats(self):
        pass
