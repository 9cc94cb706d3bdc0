"""A run: its folder, how it is made, found, read and written."""

import fnmatch
import importlib.metadata
import platform
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlkit.errors import FormatError, MlkitError, ParameterError, RunError
from mlkit.files import digest_file, locate, outputs_root, resolve, shown
from mlkit.progress import say
from mlkit.runs.claims import Claim, claim_of, claimed
from mlkit.runs.folder import RECORD, Folder
from mlkit.runs.names import folder_of, named_folder, new_folder
from mlkit.runs.table import FILES

TRAIN_ONE = "train one with notebook 02 or `mlkit train`"  # the way out where there is no run, or no model
# Parameters of where the data is; whether it is the same, its fingerprint says.
_PLACES = ("images", "labels", "answers", "suggestions")
PACKAGES = ("mlkit", "torch", "torchvision", "numpy", "pandas", "pillow", "scikit-learn")


@dataclass(frozen=True)
class Run(Folder):
    """One run folder."""

    claim: Claim | None = field(default=None, repr=False, compare=False)

    @classmethod
    def create(cls, name: str | Path, parameters: dict[str, Any], fingerprint: str, overwrite: bool = False) -> "Run":
        """Make a run folder, or take up an unfinished one that has the same parameters and data.

        A notebook that is executed again, since its kernel died after the training, takes up the finished one, too. The
        folder is claimed for this process until its training ends, or the run is forgotten.

        Args:
            name: folder name under `outputs`, see `named_folder`; empty gives a new one, named by date and time. A `Path` is
                the folder itself.
            parameters: all that decides the result, plain values.
            fingerprint: of the data.
            overwrite: delete the run that is there, see `written`; other files stay.

        Raises:
            ParameterError: if `overwrite` is neither true nor false: "false" is a text, and no permission.
            RunError: if the folder holds a finished run, or an unfinished one with other parameters, or the data; if another
                process trains there.
        """
        if not isinstance(overwrite, bool):
            raise ParameterError(f"overwrite is {overwrite!r}; it must be true or false")
        folder = name if isinstance(name, Path) else named_folder(name) if name else new_folder()
        for what in ("images", "labels"):
            place = locate(parameters.get(what, "")).resolve()
            if parameters.get(what) and place.is_relative_to(folder.resolve()):
                raise RunError(f"{shown(folder)} holds the {what} ({shown(place)}); give the run another name")
        run = cls(folder, claim_of(folder))
        if overwrite and run.id:
            run._clear()
            if run.id:
                raise RunError(f"{shown(folder)} has no record ({RECORD}) of what mlkit wrote; delete the folder yourself")
        if run.id:
            changed = run.differences(parameters, fingerprint)
            if run.finished and (changed or run.claim is not None):
                raise RunError(f"{shown(run.path)} holds a finished run; choose another name, or overwrite")
            if changed:
                raise RunError(
                    f"{shown(run.path)} holds an unfinished run that differs in {', '.join(changed)}; "
                    "choose another name, or overwrite"
                )
            if (made := run.config())["parameters"] != parameters:  # the same data at another place
                run.write_json("config.json", made | {"parameters": parameters})
            return run
        config = {
            "id": uuid.uuid4().hex,
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
                raise RunError(f"no finished run in {shown(outputs_root())} yet; {TRAIN_ONE}{begun}")
            return runs[-1]
        path = folder_of(str(name))
        if not (path / "config.json").is_file():
            names = ", ".join(run.name for run in list_runs()) or "none"
            raise RunError(f"{path} is not a run folder (no config.json); known runs: {names}")
        return cls(path)

    def differences(self, parameters: Mapping[str, Any], fingerprint: str) -> list[str]:
        """Names of the parameters, the data, the files that are others than the run was made with and from."""
        made = self.config()
        old, was, now = made["parameters"], made.get("contents", {}), contents(parameters)
        names = [name for name in {**parameters, **old} if name not in _PLACES]
        changed = [name for name in names if parameters.get(name, ...) != old.get(name, ...)]
        changed += [] if made["data"] == fingerprint else ["the data"]
        return changed + [f"the content of {name}" for name in was | now if was.get(name) != now.get(name)]

    @property
    def title(self) -> str:
        """Its name where that is enough to find it, else its path: two folders elsewhere may have one name."""
        return self.name if self.path.parent == outputs_root() else str(self)

    @property
    def id(self) -> str:
        """Tells the run from all others that its folder held or will hold; empty where none is.

        Raises:
            RunError: if config.json is of something else.
            FormatError: if another mlkit wrote it.
        """
        if not (self.path / "config.json").is_file():
            return ""
        try:
            config = self.config()
            return str(config.get("id", config["created"]))  # an older run has no id
        except FormatError:
            raise
        except MlkitError:
            raise RunError(f"{shown(self / 'config.json')} is not of a run; choose another name") from None

    @property
    def finished(self) -> bool:
        return (self.path / "metrics.json").exists()

    def check_finished(self) -> None:
        """Raise RunError if it is not finished."""
        if not self.finished:
            raise RunError(f"{self} is not finished; go on with its training, or leave it out")

    @property
    def members(self) -> list[str]:
        """Of an ensemble, the runs that it was made of; empty for a training."""
        if not (self.path / "config.json").is_file():
            return []
        members = self.config()["parameters"].get("members", [])
        if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
            raise RunError(f"{shown(self / 'config.json')} is damaged: members are no names; make the ensemble again")
        return members

    def claimed(self) -> AbstractContextManager[None]:
        """Within: no other process trains here, nor makes notebooks. At the end, the claim of `create` is given back too.

        Raises:
            ClaimError: if another process does.
        """
        return claimed(self.path)

    def config(self) -> dict[str, Any]:
        """What `create` stored. Raises RunError if config.json is of something else."""
        config = self.read_json("config.json")
        if {"parameters", "created"} - config.keys():
            raise RunError(f"{shown(self / 'config.json')} is not of a run; choose another name")
        return config

    @property
    def images(self) -> Path:
        """Folder of the images that it was made from. Raises RunError if config.json names none."""
        parameters = self.config()["parameters"]
        if not isinstance(parameters, dict) or not isinstance(parameters.get("images"), str):
            raise RunError(f"{shown(self / 'config.json')} names no folder of images; train the run again, with --overwrite")
        return locate(parameters["images"])

    def training_images(self) -> list[str]:
        """Names of those that it learned from; of an ensemble, that any member did. Raises RunError if it has no split."""
        runs = [self] if (self / "split.csv").is_file() else [Run.open(name) for name in self.members] or [self]
        tables = [run.read_table("split.csv") for run in runs]
        return list(dict.fromkeys(image for table in tables for image in table.image[table.split == "train"]))

    def validation_images(self) -> list[Path]:
        """Files that the run was validated on. Raises RunError if the run has no split yet."""
        split = self.read_table("predictions.csv" if self.members else "split.csv")  # members may be split each in its way
        folder = self.images
        return [folder / image for image in split.image[split.split == "validation"].unique()]

    def written(self) -> list[Path]:
        """The files that mlkit wrote here, by the run's own record; of an older run without one, those named in `FILES`."""
        names = [*self.record(), *([] if "id" in self.config() else FILES)]
        return [self / name for name in dict.fromkeys(names) if Path(name).name == name and (self / name).is_file()]

    def existing(self, file: str) -> Path:
        """Path of a file of the run. Raises RunError if it is not there."""
        path = self.path / file
        if not path.is_file():
            if members := self.members:
                raise RunError(f"{self} is an ensemble and has no {file}; ask for one of its members: {', '.join(members)}")
            raise RunError(
                f"{shown(path)} is missing; the run has not come so far: run notebook 02 (or `mlkit train`) on it"
            )
        return path

    def _clear(self) -> None:
        """Remove the run, and nothing else: executed notebooks and what other people put there stay.

        The checkpoint goes first and config.json last: when interrupted, nothing old is taken up by the next training.
        """
        order = ["previous.pt", "last.pt", "metrics.json", ..., "config.json"]
        for file in sorted(self.written(), key=lambda file: order.index(file.name if file.name in order else ...)):
            file.unlink()
        (self / RECORD).unlink(missing_ok=True)  # what gets one of these names from now on is not mlkit's


def contents(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the files beside the data that decide a training's result, by the parameter that names them."""
    files = {}
    if (weights := parameters.get("weights") or "none") not in ("none", "imagenet"):
        files["weights"] = resolve(weights)
    if prior := parameters.get("prior_run"):
        files["prior_run"] = folder_of(prior) / "model.pth"
    return {name: digest_file(file) for name, file in files.items() if file.is_file()}


def list_runs() -> list[Run]:
    """Runs in the outputs folder, oldest first; a folder whose config.json is of something else is none.

    One that is damaged, or of another mlkit, is named and left out.
    """
    dated = []
    for path in outputs_root().glob("*/config.json"):
        try:
            dated.append((str(Run(path.parent).config()["created"]), path.parent.name))
        except RunError:
            continue
        except MlkitError as error:
            say(f"warning: left out: {error}")
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
            if not unfinished:
                run.check_finished()
            matches = [run]
        found |= {run.path: run for run in matches}
    return list(found.values())
