"""The run folder: all that one training leaves behind, and the only thing through which notebooks speak to each other.

outputs/<run>/
    config.json       every parameter, data fingerprint, digests of the other files it was made from, package versions
    split.csv         image -> train, validation or test
    history.csv       iteration, epoch, loss, lr, img_per_s
    epochs.csv        epoch, iteration, validation loss, mAP, AP of each attribute
    metrics.json      written last: a run that has it is finished
    predictions.csv   validation and test images: attribute, target, logit, probability
    members.csv       of an ensemble: its members beside it; split.csv, history.csv and epochs.csv are those of its members
    evaluation.csv    each attribute's figures with intervals and baselines, by notebook 05
    model.pth         the best epoch's model
    lock              claim of the process that trains here
    last.pt           only while training is unfinished: training goes on from it
    *.png, *.ipynb    figures, executed notebooks
"""

import fnmatch
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import pandas as pd

from mlkit.errors import RunError
from mlkit.files import Claim, atomic, digest_file, make_folder, project_root, resolve, shown, write_json

PACKAGES = ("mlkit", "torch", "torchvision", "numpy", "pandas", "pillow", "scikit-learn")


def outputs_root() -> Path:
    """Folder that holds the runs and the pixel cache; the environment variable MLKIT_OUTPUTS moves it to another disk."""
    path = Path(os.environ.get("MLKIT_OUTPUTS") or project_root() / "outputs").resolve()
    if path.is_file():
        raise RunError(f"{path} is a file; the runs need a folder: set MLKIT_OUTPUTS to another path")
    return path


@dataclass(frozen=True)
class Run:
    """One run folder."""

    path: Path
    claim: Claim | None = field(default=None, repr=False, compare=False)

    @classmethod
    def create(cls, name: str | Path, parameters: dict[str, Any], fingerprint: str, overwrite: bool = False) -> "Run":
        """Make a run folder, or take up an unfinished one that has the same parameters and data.

        The folder is claimed for this process until its training ends, or the run is forgotten.

        Args:
            name: folder name under `outputs`, see `named_folder`; empty gives a new one, named by date and time. A `Path` is
                the folder itself.
            parameters: all that decides the result, plain values.
            fingerprint: of the data.
            overwrite: delete what an earlier training left there.

        Raises:
            RunError: if the folder holds a finished run, or an unfinished one with other parameters, or the data; if another
                process trains there.
        """
        folder = name if isinstance(name, Path) else named_folder(name) if name else _new_folder()
        for what in ("images", "labels"):
            place = resolve(parameters.get(what, "")).resolve()
            if parameters.get(what) and place.is_relative_to(folder.resolve()):
                raise RunError(f"{shown(folder)} holds the {what} ({shown(place)}); give the run another name")
        run = cls(folder, _claimed(folder))
        if overwrite and (run.path / "config.json").exists():  # else it is no run, and perhaps somebody's data
            run._clear()
        if (run.path / "config.json").exists():
            if run.finished:
                raise RunError(f"{shown(run.path)} holds a finished run; choose another name, or overwrite")
            before = run.config()
            old = before["parameters"]
            changed = [k for k in parameters | old if parameters.get(k, ...) != old.get(k, ...)]
            changed += [] if before["data"] == fingerprint else ["the data"]
            was, now = before.get("contents", {}), contents(parameters)
            changed += [f"the content of {name}" for name in was | now if was.get(name) != now.get(name)]
            if changed:
                raise RunError(
                    f"{shown(run.path)} holds an unfinished run that differs in {', '.join(changed)}; "
                    "choose another name, or overwrite"
                )
            return run
        config = {
            "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "parameters": parameters,
            "data": fingerprint,
            "contents": contents(parameters),
            "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
            "python": platform.python_version(),
        }
        run.write_json("config.json", config)
        return run

    @classmethod
    def open(cls, name: str | Path = "") -> "Run":
        """A run, finished or not, by name or path; or (empty) the newest finished one with a model.

        Raises:
            RunError: if there is none; the text lists those that exist.
        """
        if not name:
            known = list_runs()
            runs = [run for run in known if run.finished and (run / "model.pth").exists()]
            if not runs:
                begun = f"; begun, and to be had by name: {', '.join(run.name for run in known)}" if known else ""
                way = "train one with notebook 02 or `mlkit train`"
                raise RunError(f"no finished run in {shown(outputs_root())} yet; {way}{begun}")
            return runs[-1]
        path = folder_of(str(name))
        if not (path / "config.json").is_file():
            names = ", ".join(run.name for run in list_runs()) or "none"
            raise RunError(f"{shown(path)} is not a run folder (no config.json); known runs: {names}")
        return cls(path)

    def is_made_of(self, parameters: Mapping[str, Any], fingerprint: str) -> bool:
        """Whether the run was made with these parameters from what the data and the files that they name hold now."""
        made = self.config()
        return (made["parameters"], made["data"], made.get("contents", {})) == (
            parameters,
            fingerprint,
            contents(parameters),
        )

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def title(self) -> str:
        """Its name where that is enough to find it, else its path: two folders elsewhere may have one name."""
        return self.name if self.path.parent == outputs_root() else str(self)

    @property
    def finished(self) -> bool:
        return (self.path / "metrics.json").exists()

    @property
    def members(self) -> list[str]:
        """Of an ensemble, the runs that it was made of; empty for a training."""
        if not (self.path / "config.json").is_file():
            return []
        return list(self.config()["parameters"].get("members", []))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Within: no other process trains here, nor makes notebooks. At the end, the claim of `create` is given back too.

        Raises:
            ClaimError: if another process does.
        """
        claim = _claimed(self.path)
        try:
            yield
        finally:
            if claim is not None:
                _CLAIMS.pop(self.path, None)
                claim.release()

    def __truediv__(self, file: str) -> Path:
        """Path of a file in the run folder."""
        return self.path / file

    def __str__(self) -> str:
        return shown(self.path)

    def config(self) -> dict[str, Any]:
        """What `create` stored."""
        return self.read_json("config.json")

    def read_json(self, file: str) -> dict[str, Any]:
        """A JSON file of the run. Raises RunError if it is not there."""
        value: dict[str, Any] = json.loads(self._existing(file).read_text(encoding="utf-8"))
        return value

    def read_table(self, file: str) -> pd.DataFrame:
        """A CSV file of the run. Raises RunError if it is not there."""
        # names stay as they were written: an attribute may be called "null", an image "0001"
        names = {"image": str, "attribute": str}
        return pd.read_csv(self._existing(file), dtype=names, keep_default_na=False, na_values=[""])

    def validation_images(self) -> list[Path]:
        """Files that the run was validated on. Raises RunError if the run has no split yet."""
        split = self.read_table("predictions.csv" if self.members else "split.csv")  # members may be split each in its way
        folder = resolve(self.config()["parameters"]["images"])
        return [folder / image for image in split.image[split.split == "validation"].unique()]

    def write_json(self, file: str, value: Any) -> None:
        write_json(self.path / file, value)

    def write_table(self, file: str, table: pd.DataFrame) -> None:
        """Write a table as CSV, without its index, whole or not at all."""
        with atomic(self.path / file) as temporary:
            table.to_csv(temporary, index=False)

    def _existing(self, file: str) -> Path:
        path = self.path / file
        if not path.is_file():
            if members := self.members:
                raise RunError(f"{self} is an ensemble and has no {file}; ask for one of its members: {', '.join(members)}")
            raise RunError(
                f"{shown(path)} is missing; the run has not come so far: run notebook 02 (or `mlkit train`) on it"
            )
        return path

    def _clear(self) -> None:
        """Remove what a training writes; other files (executed notebooks, the manifest of `mlkit run`) stay.

        The checkpoint goes first and config.json last: when interrupted, nothing old is taken up by the next training.
        """
        for pattern in ("*.pt", "metrics.json", "*.csv", "*.pth", "*.png", "config.json"):
            for file in self.path.glob(pattern):
                file.unlink()


def contents(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the files beside the data that decide a training's result, by the parameter that names them."""
    files = {}
    if (weights := parameters.get("weights") or "none") not in ("none", "imagenet"):
        files["weights"] = resolve(weights)
    if prior := parameters.get("prior_run"):
        files["prior_run"] = folder_of(prior) / "model.pth"
    return {name: digest_file(file) for name, file in files.items() if file.is_file()}


def list_runs() -> list[Run]:
    """Runs in the outputs folder, oldest first; a folder whose config.json is of something else is none."""
    dated = []
    for path in outputs_root().glob("*/config.json"):
        with suppress(ValueError, KeyError, TypeError):
            dated.append((str(Run(path.parent).config()["created"]), path.parent.name))
    return [Run(outputs_root() / name) for _, name in sorted(dated)]


def find_runs(patterns: Sequence[str] = (), unfinished: bool = False) -> list[Run]:
    """Finished runs: those named, or matched by a pattern (`mine-*`), in that order; all, oldest first, without any.

    Args:
        patterns: names, patterns, paths.
        unfinished: find unfinished runs as well.

    Raises:
        RunError: if a name is no (finished) run, or nothing matches a pattern.
    """
    known = [run for run in list_runs() if unfinished or run.finished]
    if not patterns:
        return known
    found: dict[Path, Run] = {}
    for pattern in patterns:
        matches = [run for run in known if fnmatch.fnmatchcase(run.name, pattern)]
        if not matches:  # a path, or an error that says what is wrong
            run = Run.open(pattern)
            if not (unfinished or run.finished):
                raise RunError(f"{run} is not finished; go on with its training, or leave it out")
            matches = [run]
        found |= {run.path: run for run in matches}
    return list(found.values())


def named_folder(name: str) -> Path:
    """`outputs/<name>`, the folder of something new.

    Raises:
        RunError: if the name is not that of a plain folder on any system, or has another use.
    """
    reasons = {
        "it is empty": not name,
        "it holds a / or \\, or what cannot be seen": not name.isprintable() or set(name) & {"/", "\\"},
        "it begins with a dot or a hyphen, or ends with a dot or a space": name[:1] in (".", "-") or name[-1:] in (".", " "),
        f"it is longer than {_LONGEST} bytes": len(name.encode(errors="replace")) > _LONGEST,
        "decoded pixels lie there": name == "cache",
        "there is a file of that name": os.path.isfile(outputs_root() / name),
    }
    if why := next((reason for reason, holds in reasons.items() if holds), ""):
        raise RunError(f"{name[:50]!r} cannot be the name of a folder in {shown(outputs_root())}: {why}; choose another")
    return outputs_root() / name


_LONGEST = 200  # bytes of a name; file systems take 255, and searches add to it
_CLAIMS: WeakValueDictionary[Path, Claim] = WeakValueDictionary()  # of this process
HELD = "MLKIT_HELD"  # process and folder of a run: who executes notebooks in it lets their kernel train there


def _claimed(folder: Path) -> Claim | None:
    """This process's claim of a run folder, new or not; None in the kernel of a notebook that its holder executes."""
    if os.environ.get(HELD) == f"{os.getppid()} {folder}":
        return None
    if (claim := _CLAIMS.get(folder)) is None:
        claim = _CLAIMS[folder] = Claim(folder / "lock", shown(folder))
    return claim


def _new_folder() -> Path:
    """A new folder named by date and time, with a number where another training began in the same second."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = make_folder(outputs_root()) / stamp, 1
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1
            path = path.with_name(f"{stamp}-{number}")


def folder_of(name: str) -> Path:
    """`outputs/<name>` for a plain name, the folder itself for a path."""
    return outputs_root() / name if Path(name).name == name and name not in (".", "..") else resolve(name)
