"""Kill the demo at random moments, again and again, and show that its report comes out the same.

    make fault-run                                                # two kills in each stage
    python -m tests.fault_run --kills 1 --seed 3 --undisturbed OTHER   # OTHER: a copy of this commit in which `make demo` has come to its end

`make demo` runs twice, in two copies of this repository: once undisturbed, and once killed (SIGKILL, all of its processes) at random moments of every
stage and started again each time. Then all files of both reports are compared, byte by byte. Of report.html and report.md some facts are left out first
that no two runs share (TIMES): how long a run took, how much memory it held, and the hash of a run.json, which says so too.
"""

import argparse
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from demo import STAGES

ROOT = Path(__file__).resolve().parent.parent
STAGE = re.compile(r"\[(\d+)/(\d+)\]")  # as make demo prints them
# What of a page is a fact about this run on this machine: its seconds and peak memory, and hashes of files that hold them
TIMES = re.compile(
    r"<dt>(?:seconds|peak memory)</dt><dd>[^<]*</dd>|(?:; |(?<=\*\*: ))(?:seconds|peak memory) [^;\n]*|(?<=run\.json \(sha256 )[0-9a-f]{12}(?=\))"
)


def same_report(one: Path, other: Path) -> list[str]:
    """The names of the files in which two folders of a report differ, what TIMES finds in the pages aside."""
    folders = [
        {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        for folder in (one, other)
    ]
    return sorted(
        name
        for name in folders[0].keys() | folders[1].keys()
        if len({_content(files.get(name)) for files in folders}) > 1
    )


def _content(path: Path | None) -> bytes | None:
    if path is None or path.suffix not in (".html", ".md"):
        return path and path.read_bytes()
    return TIMES.sub("", path.read_text()).encode()


def copy_of_repository(folder: Path) -> Path:
    """What git knows of this repository, and files it does not ignore, with their times; the .venv stays where it is."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(ROOT / ".git", folder / ".git", dirs_exist_ok=True)  # a run records its commit
    return folder


def demo(folder: Path, kill: tuple[int, float] | None = None) -> tuple[bool, dict[int, float]]:
    """Run `make demo` in a folder; with `kill` (stage, seconds) until so many seconds after it has begun that stage, or a later one. Returns whether it came
    to its end, and how long each stage took. What it prints is in demo.log."""
    command = ["make", "demo", f"VENV={ROOT / '.venv'}"]
    running = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    began = {}  # stage -> when

    def follow():
        with (folder / "demo.log").open("a") as log:
            for line in running.stdout:
                log.write(line)
                if found := STAGE.search(line):
                    began.setdefault(int(found[1]), time.monotonic())

    reader = threading.Thread(target=follow)
    reader.start()
    while running.poll() is None:
        reached = min(
            (moment for stage, moment in list(began.items()) if kill and stage >= kill[0]), default=math.inf
        )
        if kill and time.monotonic() >= reached + kill[1]:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        time.sleep(0.05)
    reader.join()
    moments = [*began.values(), time.monotonic()]
    return running.returncode == 0, {
        stage: end - start for stage, start, end in zip(began, moments, moments[1:], strict=False)
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=2, help="kills in each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "outputs" / "fault_run", help="folder of the two copies"
    )
    parser.add_argument(
        "--undisturbed",
        type=Path,
        help="take this copy's report for the undisturbed one; kills come --window seconds after a stage began, at most",
    )
    parser.add_argument(
        "--window",
        type=float,
        default=30,
        help="with --undisturbed, whose stages nobody timed; a later stage may be hit",
    )
    args = parser.parse_args(argv)
    shutil.rmtree(args.work, ignore_errors=True)
    rng, report = random.Random(args.seed), Path("outputs/demo/report")

    whole = args.undisturbed or copy_of_repository(args.work / "whole")
    if args.undisturbed:
        seconds = dict.fromkeys(range(1, len(STAGES) + 1), args.window)
    else:
        finished, seconds = demo(whole)
        if not finished:
            sys.exit(f"error: the undisturbed demo failed. Next: look at {whole / 'demo.log'}")
        print(f"undisturbed: {sum(seconds.values()):.0f} s in {len(seconds)} stages", flush=True)

    killed = copy_of_repository(args.work / "killed")
    done = 0
    for stage in sorted(seconds):
        for _ in range(args.kills):
            wait = rng.uniform(0, seconds[stage])
            finished, _ = demo(killed, (stage, wait))
            done += not finished
            print(
                f"stage {stage}: {'was done before the kill' if finished else f'killed {wait:.1f} s after it began'}",
                flush=True,
            )
    finished, _ = demo(killed)
    if not finished:
        sys.exit(
            f"error: after {done} kills the demo does not come to its end. Next: look at {killed / 'demo.log'}"
        )
    if different := same_report(whole / report, killed / report):
        sys.exit(
            f"error: after {done} kills the report differs in {', '.join(different)}. Next: diff -r {whole / report} {killed / report}"
        )
    print(
        f"after {done} kills all {sum(path.is_file() for path in (whole / report).rglob('*'))} files of the report are the same as without"
    )


if __name__ == "__main__":
    main()
