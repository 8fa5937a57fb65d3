"""Disturb the demo at random moments and show that its results come out the same.

    make fault-run                                          each stage alone, disturbed in each way of KINDS
    make fault-run ARGS="--kills 2"                         the demo, killed twice in each stage
    make fault-run ARGS="--stages clean --kinds kill"       some of them
    python -m tests.fault_run --undisturbed OTHER ...       OTHER: a copy of this commit with a finished demo

The demo: `make demo` runs in two copies of this repository, once undisturbed and once killed (SIGKILL, all of
its processes) at random moments of every stage and started again each time. All files of both reports are
then compared byte by byte, except for facts that no two runs share (TIMES).

Stages: in a copy of the finished demo, the output of one stage is removed and made again while something
happens to it; then it is made once more, undisturbed, and its files are compared with the undisturbed ones.
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
import tempfile
import threading
import time
from pathlib import Path

from demo import OUT, STAGES, Stage

ROOT = Path(__file__).resolve().parent.parent
STAGE = re.compile(r"\[(\d+)/(\d+)\]")  # as make demo prints them
KINDS = {  # what happens to a stage, at a random moment where it has one
    "kill": "SIGKILL to all of its processes: power cut, out of memory",
    "parent": "SIGKILL to the command alone: its workers must not outlive it",
    "term": "SIGTERM to all: shutdown, Slurm",
    "interrupt": "SIGINT to all: Ctrl-C",
    "pause": "SIGSTOP for three seconds, then SIGCONT: suspended machine",
    "twice": "the same command a second time, at once: one of them may refuse",
    "full": "a disk with 64 KB left, under the stage's output only",
    "cut": "an input file cut in half: one sentence that names it, no traceback",
}
# Facts of a page about this run on this machine: seconds, peak memory, and hashes of files that hold them
TIMES = re.compile(
    r"<dt>(?:seconds|peak memory)</dt><dd>[^<]*</dd>|(?:; |(?<=\*\*: ))(?:seconds|peak memory) [^;\n]*|"
    r"(?<=run\.json \(sha256 )[0-9a-f]{12}(?=\))"
)
# Files of a stage that hold times, or hashes of such files
TIMED = re.compile(
    r"(run|complete|trainer_state|all_results|train_results)\.json|\.identity|\.lock|events\.out\..*|"
    r".*\.(pt|pth|bin|log)"
)
DATA = (".jsonl", ".gz", ".npy", ".safetensors")
MAKE = ["make", f"VENV={ROOT / '.venv'}", "-o", f"{ROOT / '.venv'}/.installed"]
SMALL_DISK = """
disk=$(mktemp -d) && mount -t tmpfs -o size=64k tmpfs "$disk" && mkdir "$disk"/upper "$disk"/work &&
mount -t overlay overlay -o "userxattr,lowerdir=$1,upperdir=$disk/upper,workdir=$disk/work" "$1" || exit 77
shift && exec "$@" """


def same_files(one: Path, other: Path, skipped: re.Pattern | None = None) -> list[str]:
    """The names of the files in which two folders differ, apart from what TIMES finds in pages."""
    folders = [
        {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        for folder in (one, other)
    ]
    return sorted(
        name
        for name in folders[0].keys() | folders[1].keys()
        if not (skipped and (skipped.fullmatch(Path(name).name) or ".work/" in f"/{name}"))
        and len({_content(files.get(name)) for files in folders}) > 1
    )


def _content(path: Path | None) -> bytes | None:
    if path is None or path.suffix not in (".html", ".md"):
        return path and path.read_bytes()
    return TIMES.sub("", path.read_text(encoding="utf-8")).encode()


def copy_of_repository(folder: Path) -> Path:
    """The files that git tracks or does not ignore, with their times; the .venv stays where it is."""
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
    """Run `make demo` in a folder, killed `kill` = (stage, seconds) after it began that stage or a later one.

    Returns whether it finished, and the seconds of each stage. Its output goes to demo.log."""
    command = [*MAKE, "demo"]
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


# ---------------------------------------------------------------- one stage
def disturb(kind: str, running: subprocess.Popen, wait: float) -> str:
    """Do what KINDS says to a running stage after `wait` seconds. Returns what was wrong, or nothing."""
    end = time.monotonic() + wait
    while time.monotonic() < end and running.poll() is None:
        time.sleep(0.01)
    if running.poll() is not None:
        return ""
    if kind == "parent":
        below = descendants(running.pid)
        commands = [pid for pid in below if b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        if commands:
            os.kill(commands[0], signal.SIGKILL)
            end = time.monotonic() + 15
            while (left := [pid for pid in commands[1:] if alive(pid)]) and time.monotonic() < end:
                time.sleep(0.1)
            if left:
                os.killpg(running.pid, signal.SIGKILL)
                return f"{len(left)} workers outlived it by 15 s"
        return ""
    if kind == "pause":
        os.killpg(running.pid, signal.SIGSTOP)
        time.sleep(3)
    name = {"kill": "SIGKILL", "term": "SIGTERM", "interrupt": "SIGINT", "pause": "SIGCONT"}[kind]
    os.killpg(running.pid, getattr(signal, name))
    return ""


def descendants(pid: int) -> list[int]:
    found = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:  # gone meanwhile
        return []
    for child in map(int, children):
        found += [child, *descendants(child)]
    return [child for child in found if alive(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


def forget(folder: Path, stage: Stage) -> None:
    """Remove what a stage has made, so that it starts again."""
    for name in stage.makes.split():
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / OUT / f".stages/{stage.name}.json").unlink(missing_ok=True)


def trial(whole: Path, folder: Path, stage: Stage, kind: str, rng: random.Random, seconds: float) -> str:
    """Make a stage in `folder` while `kind` happens, then once more in peace. Returns what was wrong."""
    named = {part for command in stage.commands() for word in command for part in word.split("=")}
    made_from = [
        name
        for other in STAGES
        for name in other.makes.split()
        if other is not stage and (other.name in stage.after.split() or name in named)
    ]
    forget(folder, stage)
    alone = [str(ROOT / ".venv/bin/python"), "demo.py", stage.name]
    command, wrong, cut = alone, "", None
    if kind == "full":
        out = folder / stage.makes.split()[0]
        small = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", SMALL_DISK, "-"]
        command = [*small, str(out.parent), *alone]
    if kind == "cut":
        read = (path for name in made_from for path in (folder / name).rglob("*") if path.is_file())
        cut = rng.choice(sorted(path for path in read if path.suffix in DATA and path.stat().st_size > 200))
        os.truncate(cut, cut.stat().st_size // 2)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        options = {"cwd": folder, "stdout": log, "stderr": log, "start_new_session": True}
        running = subprocess.Popen(command, **options)
        if kind == "twice":
            time.sleep(rng.uniform(0, seconds / 2))
            second = subprocess.Popen(command, **options)
            second.wait()
        elif kind not in ("full", "cut"):
            wrong = disturb(kind, running, rng.uniform(0, seconds))
        running.wait()
        log.seek(0)
        said = log.read()
    if kind == "full" and running.returncode == 77:
        wrong = "overlays are not allowed here"
    elif kind in ("full", "cut", "twice") and "Traceback (most recent call last)" in said:
        wrong = f"a traceback: {said.strip().splitlines()[-1]}"
    elif kind in ("full", "cut") and running.returncode and "error: " not in said:
        wrong = "no sentence"
    elif kind == "twice" and running.returncode and second.returncode:
        wrong = "both failed"
    if kind == "cut":
        if not running.returncode:  # of raw files, bad records are counted up to a share
            if "/raw/" not in cut.as_posix() and different(whole, folder, stage):  # else it is not read
                wrong = f"{cut.relative_to(folder)} was cut, and nothing was said"
            forget(folder, stage)
        shutil.copy2(whole / cut.relative_to(folder), cut)
    done = subprocess.run(alone, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        return f"{wrong}; cannot be made again: {last}".removeprefix("; ")
    others = different(whole, folder, stage)
    return "; ".join(filter(None, (wrong, others and f"other bytes in {', '.join(others[:4])}")))


def different(whole: Path, folder: Path, stage: Stage) -> list[str]:
    """The files of a stage that are not as the undisturbed ones."""
    names = stage.makes.split()
    return [f"{name}/{file}" for name in names for file in same_files(whole / name, folder / name, TIMED)]


def run_stages(whole: Path, work: Path, names: list[str], kinds: list[str], seed: int) -> int:
    """Each kind of trial in each stage; prints a line for each and returns how many failed."""
    folder, rng, failed, count = work / "stages", random.Random(seed), 0, 0
    shutil.copytree(whole, folder, symlinks=True)
    for stage in STAGES:
        if names and stage.name not in names:
            continue
        for kind in kinds:
            if kind == "cut" and not stage.after:
                continue  # it reads nothing
            wrong = trial(whole, folder, stage, kind, rng, stage.seconds)
            failed, count = failed + bool(wrong), count + 1
            print(f"{stage.name}, {kind}: {wrong or 'same bytes'}", flush=True)
            if wrong:  # the next trial starts from a sound copy
                shutil.rmtree(folder)
                shutil.copytree(whole, folder, symlinks=True)
    print(f"{count - failed} of {count} trials ended as their kind asks")
    return failed


# ---------------------------------------------------------------- the command
def main(argv=None):
    formatter = argparse.RawDescriptionHelpFormatter
    kinds = "\n".join(f"  {kind:10} {what}" for kind, what in KINDS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"kinds:\n{kinds}", formatter_class=formatter
    )
    parser.add_argument("--kills", type=int, default=2, help="kills in each stage of the demo")
    parser.add_argument(
        "--stages", nargs="*", metavar="NAME", help="trials of single stages instead; all without names"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of --stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "outputs" / "fault_run", help="folder of the copies"
    )
    parser.add_argument(
        "--undisturbed", type=Path, help="a copy whose demo is finished, instead of running one"
    )
    parser.add_argument(
        "--window",
        type=float,
        default=30,
        help="with --undisturbed: kills come this many seconds into a stage",
    )
    args = parser.parse_args(argv)
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    rng, report = random.Random(args.seed), Path("outputs/demo/report")

    whole = args.undisturbed or copy_of_repository(args.work / "whole")
    if args.undisturbed:
        seconds = dict.fromkeys(range(1, len(STAGES) + 1), args.window)
    else:
        finished, seconds = demo(whole)
        if not finished:
            sys.exit(f"error: the undisturbed demo failed. Next: see {whole / 'demo.log'}")
        print(f"undisturbed: {sum(seconds.values()):.0f} s in {len(seconds)} stages", flush=True)
    if args.stages is not None:
        failed = run_stages(whole.resolve(), args.work.resolve(), args.stages, args.kinds, args.seed)
        sys.exit(f"error: {failed} trials went wrong. Next: see their lines above" if failed else 0)

    killed = copy_of_repository(args.work / "killed")
    done = 0
    for stage in sorted(seconds):
        for _ in range(args.kills):
            wait = rng.uniform(0, seconds[stage])
            finished, _ = demo(killed, (stage, wait))
            done += not finished
            outcome = "finished before the kill" if finished else f"killed {wait:.1f} s after it began"
            print(f"stage {stage}: {outcome}", flush=True)
    finished, _ = demo(killed)
    if not finished:
        sys.exit(f"error: after {done} kills the demo does not finish. Next: see {killed / 'demo.log'}")
    if different := same_files(whole / report, killed / report):
        sys.exit(
            f"error: after {done} kills the report differs in {', '.join(different)}. "
            f"Next: diff -r {whole / report} {killed / report}"
        )
    files = sum(path.is_file() for path in (whole / report).rglob("*"))
    print(f"after {done} kills all {files} files of the report are the same as without")


if __name__ == "__main__":
    main()
