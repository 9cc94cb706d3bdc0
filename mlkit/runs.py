"""The run folder: all that one training leaves behind, and the only thing through which notebooks speak to each other."""

import fnmatch
import importlib.metadata
import os
import platform
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import pandas as pd

from mlkit.errors import ParameterError, RunError
from mlkit.files import Claim, digest_file, make_folder, project_root, read_json, resolve, shown, write_csv, write_json

# Files of a run folder: who makes them, and what they are.
FILES: dict[str, tuple[str, str]] = {
    "config.json": (
        "the training",
        "every parameter, a fingerprint of the data, digests of the weights and the model of `prior_run`, package "
        "versions, and an identity of its own",
    ),
    "split.csv": ("the training", "which images were trained on, validated on, tested on"),
    "history.csv": ("the training", "iteration, epoch, loss, learning rate, images per second"),
    "epochs.csv": (
        "the training",
        "validation loss (plain cross-entropy of the known cells, whatever the run's loss and weights), mAP and the AP of "
        "each attribute after every epoch, and its seconds",
    ),
    "last.pt": ("the training", "only while it is unfinished: it goes on from here"),
    "model.pth": (
        "the training",
        "the best epoch's network with its attributes, image size, normalisation, calibration and thresholds",
    ),
    "predictions.csv": (
        "the training",
        "the validation and test images: attribute, target (empty: unknown), logit, calibrated probability (empty: the "
        "attribute was never seen in training)",
    ),
    "metrics.json": (
        "the training",
        "written last: what the kept model is worth on the test images (on the validation images where there are none); how "
        "long it took, on what, and whether it was stopped early",
    ),
    "members.csv": ("`mlkit ensemble`", "the mAP of each member and of the ensemble, and the paired difference"),
    "Aimonk_multilabel_problem.png": ("notebook 03", "the loss curve"),
    "prediction.csv": ("notebook 04", "what the model says of a single image"),
    "prediction.png": ("notebook 04", "the same beside the image"),
    "evaluation.csv": ("notebook 05", "all figures of each attribute, with intervals and baselines"),
    "linear_head.csv": (
        "notebook 05",
        "a baseline: AP of a logistic regression on what the network saw before any training; of this `config.json` alone",
    ),
    "errors.csv": ("notebook 05", "every wrong decision on a known cell, the most confident first"),
    "intervals.png": ("notebook 05", "average precision with its interval, beside chance and the baseline"),
    "pr_curves.png": ("notebook 05", "precision and recall"),
    "reliability.png": ("notebook 05", "predicted probabilities against what came true"),
    "confusion.png": ("notebook 05", "right and wrong decisions"),
    "scores.png": ("notebook 05", "predicted probabilities of known cells"),
    "errors.png": ("notebook 05", "the most confident mistakes"),
    "differences.csv": ("notebook 05", "a comparison with another run"),
    "differences.png": ("notebook 05", "the same as a figure"),
}
# A number that is read and written again has the same digits; newer pandas does so by itself, and warns of the option.
_EXACT: dict[str, Any] = {"float_precision": "round_trip"} if pd.__version__ < "3.1" else {}
_RECORD = ".written"  # names of the files that mlkit wrote, one a line
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
            overwrite: delete the run that is there, see `written`; other files stay.

        Raises:
            ParameterError: if `overwrite` is neither true nor false: "false" is a text, and no permission.
            RunError: if the folder holds a finished run, or an unfinished one with other parameters, or the data; if another
                process trains there.
        """
        if not isinstance(overwrite, bool):
            raise ParameterError(f"overwrite is {overwrite!r}; it must be true or false")
        folder = name if isinstance(name, Path) else named_folder(name) if name else _new_folder()
        for what in ("images", "labels"):
            place = resolve(parameters.get(what, "")).resolve()
            if parameters.get(what) and place.is_relative_to(folder.resolve()):
                raise RunError(f"{shown(folder)} holds the {what} ({shown(place)}); give the run another name")
        run = cls(folder, _claimed(folder))
        if overwrite and run.id:
            run._clear()
        if run.id:
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
                way = "train one with notebook 02 or `mlkit train`"
                raise RunError(f"no finished run in {shown(outputs_root())} yet; {way}{begun}")
            return runs[-1]
        path = folder_of(str(name))
        if not (path / "config.json").is_file():
            names = ", ".join(run.name for run in list_runs()) or "none"
            raise RunError(f"{path} is not a run folder (no config.json); known runs: {names}")
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
    def id(self) -> str:
        """Tells the run from all others that its folder held or will hold; empty where none is.

        Raises:
            RunError: if config.json is of something else.
        """
        if not (self.path / "config.json").is_file():
            return ""
        try:
            config = self.config()
            return str(config.get("id", config["created"]))  # an older run has no id
        except (ValueError, KeyError, AttributeError, TypeError):
            raise RunError(f"{shown(self / 'config.json')} is not of a run; choose another name") from None

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
        value: dict[str, Any] = read_json(self._existing(file))
        return value

    def read_table(self, file: str) -> pd.DataFrame:
        """A CSV file of the run. Raises RunError if it is not there."""
        # names stay as they were written: an attribute may be called "null", an image "0001"
        names = {"image": str, "attribute": str}
        path = self._existing(file)
        try:
            table: pd.DataFrame = pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""], **_EXACT)
        except ValueError as error:  # pandas' parser errors are such
            raise RunError(f"{path} is damaged ({error}); train the run again, with --overwrite") from None
        return table

    def validation_images(self) -> list[Path]:
        """Files that the run was validated on. Raises RunError if the run has no split yet."""
        split = self.read_table("predictions.csv" if self.members else "split.csv")  # members may be split each in its way
        folder = resolve(self.config()["parameters"]["images"])
        return [folder / image for image in split.image[split.split == "validation"].unique()]

    def new(self, file: str) -> Path:
        """Path of a file that is written now; its name goes on record as one of mlkit's own, see `written`."""
        if file not in self._record():
            make_folder(self.path)
            with open(self.path / _RECORD, "a", encoding="utf-8") as record:
                record.write(f"{file}\n")  # appended in one piece: several processes may write files at once
        return self.path / file

    def written(self) -> list[Path]:
        """The files that mlkit wrote here, by the run's own record; of an older run without one, those named in `FILES`."""
        names = [*self._record(), *([] if "id" in self.config() else FILES)]
        return [self / name for name in dict.fromkeys(names) if Path(name).name == name and (self / name).is_file()]

    def write_json(self, file: str, value: Any) -> None:
        """Write a value as JSON, whole or not at all."""
        write_json(self.new(file), value)

    def write_table(self, file: str, table: pd.DataFrame) -> None:
        """Write a table as CSV, without its index, whole or not at all."""
        write_csv(self.new(file), table, index=False)

    def _existing(self, file: str) -> Path:
        path = self.path / file
        if not path.is_file():
            if members := self.members:
                raise RunError(f"{self} is an ensemble and has no {file}; ask for one of its members: {', '.join(members)}")
            raise RunError(
                f"{shown(path)} is missing; the run has not come so far: run notebook 02 (or `mlkit train`) on it"
            )
        return path

    def _record(self) -> list[str]:
        record = self.path / _RECORD
        return record.read_text(encoding="utf-8").splitlines() if record.exists() else []

    def _clear(self) -> None:
        """Remove the run, and nothing else: executed notebooks and what other people put there stay.

        The checkpoint goes first and config.json last: when interrupted, nothing old is taken up by the next training.
        """
        order = ["last.pt", "metrics.json", ..., "config.json"]
        for file in sorted(self.written(), key=lambda file: order.index(file.name if file.name in order else ...)):
            file.unlink()
        (self / _RECORD).unlink(missing_ok=True)  # what gets one of these names from now on is not mlkit's


@dataclass(frozen=True)
class Stopped:
    """That a training was ended before its last epoch, as metrics.json has it.

    Attributes:
        reason: "pruned" by a search, or "patience": too many epochs without a better one.
        epoch: the last.
    """

    reason: str
    epoch: int

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> "Stopped | None":
        """Out of metrics.json; None for a training that went to its end. Runs older than this have a sentence there."""
        match facts.get("stopped"):
            case {"reason": reason, "epoch": epoch}:
                return cls(reason, epoch)
            case str(text) if text:
                return cls("pruned" if text.startswith("pruned") else "patience", facts.get("epochs", 0))
        return None

    def __str__(self) -> str:
        return f"{'pruned' if self.reason == 'pruned' else 'no better epoch for long'}, after epoch {self.epoch}"


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
        'it holds one of <>:"|?*, which Windows takes in no name': set(name) & set('<>:"|?*'),
        "Windows has a device of that name": name.partition(".")[0].upper() in _DEVICES,
        "it begins with a dot or a hyphen, or ends with a dot or a space": name[:1] in (".", "-") or name[-1:] in (".", " "),
        f"it is longer than {_LONGEST} bytes": len(name.encode(errors="replace")) > _LONGEST,
        "decoded pixels lie there": name == "cache",
        "there is a file of that name": os.path.isfile(outputs_root() / name),
    }
    if why := next((reason for reason, holds in reasons.items() if holds), ""):
        raise RunError(f"{name[:50]!r} cannot be the name of a folder in {shown(outputs_root())}: {why}; choose another")
    return outputs_root() / name


_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10))}
_LONGEST = 200  # bytes of a name; file systems take 255, and searches add to it
_CLAIMS: WeakValueDictionary[Path, Claim] = WeakValueDictionary()  # of this process
HELD = "MLKIT_HELD"  # folder of a run: who executes notebooks in it lets their kernel train there, and no process below that
_HELD = os.environ.pop(HELD, "")


def _claimed(folder: Path) -> Claim | None:
    """This process's claim of a run folder, new or not; None in the kernel of a notebook that its holder executes."""
    if str(folder) == _HELD:
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
    path = Path(name)  # which drops "./" and a "/" at the end
    plain = len(path.parts) == 1 and name not in ("..", "~")
    return outputs_root() / path if plain and (path.name == name or not resolve(name).is_dir()) else resolve(name)
