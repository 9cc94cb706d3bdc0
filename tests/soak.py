"""Proof that nothing is lost: commands killed at random moments, writes that fail one after the other, processes at once.

`make soak`. Every command is compared with one that nobody disturbed: tables, figures and weights must be the same bytes.
The damaged files are in fuzz.py.
"""

import argparse
import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch

import mlkit.files
import mlkit.training.checkpoint
from mlkit.cli import main
from mlkit.data import sample, source
from mlkit.files import environment
from mlkit.losses import LOSSES
from mlkit.models.torchfile import load_torch
from mlkit.training.loop import Training

BASE: dict[str, Any] = {"backbone": "shufflenet_v2_x0_5", "weights": "none", "precision": "fp32"}
BASE |= {"image_size": 32, "batch_size": 16, "epochs": 2}
SETTINGS: tuple[dict[str, Any], ...] = (
    {"accumulate": 2, "clip_norm": 1.0},
    {"mixup": 0.4, "ema_decay": 0.9, "label_smoothing": 0.1},
    {"warmup_epochs": 0.5, "schedule": "cosine", "optimizer": "adamw", "flip": 0.5},
    {"sampler": "balanced", "pos_weight": "none", "loss": "partial_bce"},
    {"weights": "{whole}/model.pth", "freeze": "backbone"},
    *(
        {"loss": name, "pos_weight": "none"}
        | ({"loss_settings": "warmup: 0, delta: 0.1"} if loss.takes_epoch else {})
        | ({"prior_run": "{whole}"} if loss.takes_prior else {})
        for name, loss in LOSSES.items()
    ),
)
FINISHED = "holds a finished run"
TIMES = ("img_per_s", "seconds", "trial", "host", "error", "config")  # columns and facts that no two runs share
PHASES = {
    "anywhere": (sys.modules[__name__], "main"),
    "decoding": (source, "build_cache"),
    "saving": (Training, "checkpoint"),
}
PHASES |= {"a step": (Training, "epoch"), "the verdict": (Training, "finish")}


@dataclass(frozen=True)
class Kind:
    """What is killed, and when.

    Attributes:
        what: for people.
        arguments: of the command, which also goes on with what a killed one left.
        kills: one after the other: the phase, and the generation that dies: 0 the process itself, 1 the kernels and workers
            that it started, 2 the kernels of the workers.
        begun: whether there are finished runs before.
    """

    what: str
    arguments: list[str]
    kills: tuple[tuple[str, int], ...]
    begun: bool = True


def kinds(folder: Path) -> Iterator[Kind]:
    """All that is killed: trainings of every setting, notebooks, a search, an ensemble."""
    training = tuple((phase, 0) for phase in PHASES if phase != "anywhere")
    for settings in SETTINGS:
        yield Kind(f"a training, {settings}", command(folder, "run", settings), training, begun=False)
    itself, started, theirs = (("anywhere", generation) for generation in range(3))
    values = ["-p", "permutations", "100"]
    chain = ["run", *command(folder, "run", {})[1:], *values]
    yield Kind("the notebooks", chain, (itself, started, itself, started), begun=False)
    yield Kind("notebook 05 again", ["run", "--only", "05", "--name", "whole", *values], (itself, started, itself, started))
    space = folder / "space.yaml"
    space.write_text("learning_rate: [0.001, 0.003, 0.01]\n", encoding="utf-8")
    search = ["tune", *command(folder, "search", {"epochs": 1})[1:], "--space", str(space), "--workers", "2"]
    yield Kind("a search", [*search, "--grid", "--recover"], (theirs, started, itself) * 2, begun=False)
    yield Kind("folds", [*command(folder, "cv", {}), "--folds", "2"], (itself, itself), begun=False)
    cells = {"methods": "[masked_bce, ll_r]", "mechanisms": "[random]", "fractions": "[0.5]", "seeds": "[0]"}
    study = ["study", *command(folder, "study", cells)[1:], "--labels", str(folder / "truth.csv")]
    yield Kind("a study", study, (itself, itself), begun=False)
    yield Kind("an ensemble", ["ensemble", "whole", "other", "--name", "both"], (itself, itself))


def command(folder: Path, name: str, settings: dict[str, Any]) -> list[str]:
    """The command of a training on the data in `folder`."""
    values = {key: str(value).format(whole=folder / "runs" / "whole") for key, value in {**BASE, **settings}.items()}
    pairs = [word for key, value in values.items() for word in ("-p", key, value)]
    data = ["--images", str(folder / "images"), "--labels", str(folder / "labels.csv")]
    return ["train", *data, *pairs, "--name", name]


def quiet(arguments: list[str]) -> tuple[int, str]:
    """Exit code of a command, and what it said on standard error."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        code = main(arguments)
    return code, said.getvalue()


def apart(*works: Callable[[], tuple[int, str]]) -> list[tuple[int, str]]:
    """Do work in processes of their own, all at once; returns how each ended (negative: by a signal) and what it said."""
    sys.stdout.flush()
    said, children = [tempfile.TemporaryFile("w+", encoding="utf-8") for _ in works], []  # noqa: SIM115, closed with this
    for work, file in zip(works, said, strict=True):
        if not (child := os.fork()):
            try:
                code, text = work()
            except BaseException:
                code, text = 99, traceback.format_exc()
            file.write(text)
            file.flush()
            os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for file in said:
        file.seek(0)
    return [(code, file.read()) for code, file in zip(codes, said, strict=True)]


def differences(first: Path, second: Path) -> list[str]:
    """Files in which two folders differ, times, names of machines and the like aside; those that only one has, too."""
    kinds = (".csv", ".json", ".pth", ".pt", ".png", ".yaml", ".ipynb")
    names = [
        {
            str(file.relative_to(folder))
            for file in folder.rglob("[!.]*")
            if file.suffix in kinds and "cache" not in file.parts
        }
        for folder in (first, second)
    ]
    common = sorted(names[0] & names[1])
    return [*sorted(names[0] ^ names[1]), *(name for name in common if _content(first / name) != _content(second / name))]


def _content(file: Path) -> Any:
    """What of a file decides whether another is the same."""
    match file.suffix:
        case ".csv":
            table = pd.read_csv(file, dtype=str, keep_default_na=False)  # as text: every digit
            table = table[table.state != "fail"].sort_values("run") if file.name == "trials.csv" else table
            return table.drop(columns=list(TIMES), errors="ignore").to_csv(index=False)
        case ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            content.get("result", {}).pop("seconds", None)  # of a study's cell
            return {key: value for key, value in content.items() if key not in ("id", "created", "notebooks", *TIMES)}
        case ".pth":
            return {name: tensor.numpy().tobytes() for name, tensor in load_torch(file)["state_dict"].items()}
        case ".ipynb":
            return None
    return file.read_bytes()


def spent(arguments: list[str]) -> dict[str, float]:
    """Seconds that an undisturbed command spends in each phase."""

    def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*given: Any, **named: Any) -> Any:
            started = time.monotonic()
            try:
                return function(*given, **named)
            finally:
                seconds[phase] += time.monotonic() - started

        return inside

    def work() -> tuple[int, str]:
        Training.checkpoint_seconds = -1.0  # after every iteration
        for phase, (owner, name) in PHASES.items():
            setattr(owner, name, timed(phase, getattr(owner, name)))
        code, text = quiet(arguments)
        return code, text if code else json.dumps(seconds)

    seconds = dict.fromkeys(PHASES, 0.0)
    ((code, text),) = apart(work)
    if code:
        raise AssertionError(f"undisturbed: {' '.join(arguments)}\n{text}")
    return dict(json.loads(text))


def killed(arguments: list[str], phase: str, generation: int, seconds: float) -> bool:
    """Whether a command died of a kill after so many seconds in a phase; of itself, or since what it started was killed."""

    def end(*_: object) -> None:
        found = {psutil.Process()}
        for _ in range(generation):
            found = {child for process in found for child in process.children()}
        for process in found:
            process.kill()
        if not found:  # it has not started any yet
            signal.setitimer(signal.ITIMER_REAL, 0.05)

    def work() -> tuple[int, str]:
        Training.checkpoint_seconds = -1.0
        owner, name = PHASES[phase]
        function, left = getattr(owner, name), max(seconds, 1e-6)
        # what the alarm does by itself is what SIGKILL does: it ends the process between two instructions
        signal.signal(signal.SIGALRM, end if generation else signal.SIG_DFL)

        def inside(*given: Any, **named: Any) -> Any:
            nonlocal left
            signal.setitimer(signal.ITIMER_REAL, left)
            try:
                return function(*given, **named)
            finally:
                left = max(signal.setitimer(signal.ITIMER_REAL, 0)[0], 1e-6)

        setattr(owner, name, inside)
        return quiet(arguments)

    ((code, text),) = apart(work)
    if FINISHED in text:
        return False
    if code not in ((0, 1, 2) if generation else (0, -signal.SIGALRM)) or "Traceback" in text:
        raise AssertionError(f"{' '.join(arguments)}: exit {code}, {text}")
    return code != 0


def orphans(outputs: Path) -> None:
    """Wait for the processes that killed ones have left at work in an outputs folder."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        left = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("MLKIT_OUTPUTS") == str(outputs):
                    left.append(process)
        if not left:
            return
        time.sleep(0.2)
    raise AssertionError(f"still at work in {outputs}: {left}")


def survives(kind: Kind, runs: Path, place: Path, chance: random.Random, most: int) -> int:
    """Kill a command again and again, let it come to its end, and compare; returns how many times it was killed.

    `runs`: finished ones, for those that begin with some; `place`: for outputs.
    """
    calm, disturbed, deaths = place / "calm", place / "disturbed", list[str]()
    for outputs in (calm, disturbed):
        shutil.rmtree(outputs, ignore_errors=True)
        if kind.begun:
            shutil.copytree(runs, outputs)
    with environment(MLKIT_OUTPUTS=str(calm)):
        seconds = spent(kind.arguments)
    with environment(MLKIT_OUTPUTS=str(disturbed)):
        for number, (phase, generation) in enumerate(kind.kills[:most], 1):
            reach = seconds[phase] * (1 if number == len(kind.kills) else 0.5)  # something is left for the next
            if killed(kind.arguments, phase, generation, chance.uniform(0, reach)):
                deaths.append(phase + ", of a kernel or worker" * (generation > 0))
        orphans(disturbed)
        ((code, text),) = apart(partial(quiet, kind.arguments))
        if code and FINISHED not in text:  # killed when all was written
            raise AssertionError(f"{' '.join(kind.arguments)} does not go on: exit {code}, {text}")
    if wrong := differences(calm, disturbed):
        raise AssertionError(f"{kind.what}: {', '.join(wrong)} differ after kills in {'; '.join(deaths)}")
    print(f"{kind.what}: killed {len(deaths)} times ({'; '.join(deaths)}), the same bytes", flush=True)
    return len(deaths)


def crowd(folder: Path, outputs: Path, processes: int, runs: int) -> None:
    """Let processes decode into one cache and train a few runs in one outputs folder, all at once: a run by one of them."""
    names = [f"run{number % runs}" for number in range(processes)]
    with environment(MLKIT_OUTPUTS=str(outputs)):
        ended = apart(*(partial(quiet, command(folder, name, {})) for name in names))
    for code, text in ended:
        if code not in (0, 2) or (code and not ("is at work in" in text or FINISHED in text)):
            raise AssertionError(f"one of {processes} processes: exit {code}, {text}")
    wrong = [name for name in set(names) if differences(folder / "runs" / "whole", outputs / name)]
    if wrong or sum(code == 0 for code, _ in ended) != runs:
        raise AssertionError(f"of {processes} processes at once, {ended}; {', '.join(wrong)} differ")
    print(f"{processes} processes on one cache and {runs} runs: each trained once, the same bytes", flush=True)


def draw(root: Path, processes: int) -> Path:
    """Let processes draw one sample at once; returns its folder."""

    def work() -> tuple[int, str]:
        with environment(MLKIT_ROOT=str(root)):
            sample.ensure_sample(f"{sample.FOLDER}/labels.csv")
        return 0, ""

    sample.make_sample, real = partial(sample.make_sample, count=60), sample.make_sample
    ended = apart(*[work] * processes)
    sample.make_sample = real
    if ended != [(0, "")] * processes:
        raise AssertionError(f"of {processes} processes that draw the sample, {ended}")
    return root / sample.FOLDER


@contextmanager
def failing(number: int, code: int) -> Iterator[list[str]]:
    """Let the file of that number fail to get its name, as on a full or broken disk; gives the files that were written."""
    real, seen, every = mlkit.files.move, list[str](), Training.checkpoint_seconds

    def move(source: Path, target: Path) -> None:
        seen.append(target.name)
        if len(seen) == number:
            raise OSError(code, os.strerror(code), str(target))
        real(source, target)

    mlkit.files.move = mlkit.training.checkpoint.move = move
    Training.checkpoint_seconds = -1.0  # a checkpoint after every iteration
    try:
        yield seen
    finally:
        mlkit.files.move = mlkit.training.checkpoint.move = real
        Training.checkpoint_seconds = every


def fail_writes(folder: Path, outputs: Path, numbers: Iterable[int]) -> int:
    """Let one write after the other fail, those of the pixel cache too, and go on; returns how many did."""
    arguments, failed = command(folder, "run", {}), 0
    for number in numbers:
        kind = errno.ENOSPC if number % 2 else errno.EIO
        with environment(MLKIT_OUTPUTS=str(outputs / f"{number}")):
            with failing(number, kind) as seen:
                code, said = quiet(arguments)
            if len(seen) < number:
                break
            where = f"write {number}, {seen[number - 1]}: exit {code}"
            if code not in (0, 1) or (code == 1 and os.strerror(kind) not in said):
                raise AssertionError(f"{where}, {said!r}")
            if code and quiet(arguments)[0]:
                raise AssertionError(f"{where}, does not go on")
        if wrong := differences(folder / "runs" / "whole", outputs / f"{number}" / "run"):
            raise AssertionError(f"{where}, {', '.join(wrong)} differ")
        print(f"{where}, {'went on' if code else 'did without'}, the same bytes", flush=True)
        failed += 1
    return failed


def full_disk(folder: Path, outputs: Path) -> None:
    """Train on a file system that is full before the end, make it larger, and go on. Needs root and Linux."""
    arguments, small = command(folder, "run", {}), outputs / "small"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", small], check=True)
    try:
        with environment(MLKIT_OUTPUTS=str(small)):
            code, said = quiet(arguments)
            if code != 1 or os.strerror(errno.ENOSPC) not in said:
                raise AssertionError(f"full disk: exit {code}, {said!r}")
            subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
            if quiet(arguments)[0]:
                raise AssertionError("full disk: does not go on")
        if wrong := differences(folder / "runs" / "whole", small / "run"):
            raise AssertionError(f"full disk: {', '.join(wrong)} differ")
        print(f"a full disk: {said.strip()}; with more space it went on, the same bytes", flush=True)
    finally:
        subprocess.run(["umount", small], check=True)


if __name__ == "__main__":
    from fuzz import fuzz

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of all kinds together, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="let only every N-th write fail")
    parser.add_argument("--processes", type=int, default=16, help="that draw one sample, and fill one cache, at once")
    parser.add_argument("--runs", type=int, default=8, help="of these processes")
    parser.add_argument("--inputs", type=int, default=100_000, help="damaged files to read")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process that has begun threads cannot be forked
    with tempfile.TemporaryDirectory() as name:
        place, chance, died = Path(name), random.Random(options.seed), 0
        data = draw(place, options.processes)
        os.environ |= {"MLKIT_OUTPUTS": str(data / "runs"), "MLKIT_PROGRESS": "off"}
        for name in ("whole", "other")[: 1 if options.kills < 10 else 2]:  # of the ensemble, which comes late
            if (outcome := quiet(command(data, name, {"seed": int(name == "other")})))[0]:
                raise AssertionError(outcome[1])
        crowd(data, place / "crowd", options.processes, options.runs)
        failed = fail_writes(data, place / "writes", itertools.count(1, options.every))
        if options.every == 1 and sys.platform == "linux" and os.geteuid() == 0:
            full_disk(data, place / "writes")
        for kind in kinds(data):
            if died < options.kills:
                died += survives(kind, data / "runs", place, chance, options.kills - died)
        fuzz(data, options.inputs, options.seed)
        print(f"{failed} writes failed, {died} processes were killed: nothing lost")
