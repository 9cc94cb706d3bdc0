"""The chain executed into a run folder: what changed nothing is kept, what fails says how to go on."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mlkit.errors import ParameterError
from mlkit.files import locate
from mlkit.notebooks.chain import CHAIN, OWN, TRAINING
from mlkit.notebooks.digest import data_state, digest_of
from mlkit.notebooks.execution import NotebookError, execute
from mlkit.notebooks.manifest import Manifest, Wanted
from mlkit.parameters import check_parameters, known_parameters
from mlkit.progress import say
from mlkit.runs import Run, named_folder


def earlier_parameters(name: str, settings: Collection[str], chosen: Sequence[str] = CHAIN) -> dict[str, Any]:
    """Parameters that the run `name` was made with, by `run_notebooks` or otherwise; empty if there is no such run.

    Args:
        name: of the run.
        settings: names of all settings of a training.
        chosen: notebooks that are to be executed. Where the training is among them, what was asked for last counts; where
            they build on the training that is there, what that one was made with.
    """
    if not name:
        return {}
    run = Run(named_folder(name))
    manifest, made = Manifest(run), run.config()["parameters"] if run.id else {}
    known = {key for notebook in CHAIN for key in known_parameters(notebook)} | set(settings)
    # every setting is said, so that no recipe is needed
    trained = {key: value for key, value in {"recipe": "", **made}.items() if made and key in known}
    asked = {key: value for key, value in manifest.parameters.items() if key in known}  # an older mlkit may have had others
    return trained | asked if TRAINING in chosen and manifest.speaks_of_training() else asked | trained


def run_notebooks(
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    name: str = "",
    asked: Sequence[str] = (),
    overwrite: bool = False,
    timeout: int | None = None,
    elsewhere: Sequence[str] = (),
) -> Run:
    """Execute the notebooks in order into `outputs/<name>/`.

    Args:
        given: parameters and settings of the training; each notebook takes the parameters that it has, and those that train
            the settings, on top of their recipe.
        settings: all that a training has, see `check_parameters`.
        name: run folder; empty takes one after the data, and another number where that one holds something else.
        asked: notebooks to execute again, even where nothing changed, see `select`; without any, those of the chain that
            were not made from this already.
        overwrite: train again, and replace the run that is in the folder.
        timeout: seconds that one cell may take.
        elsewhere: state of images and labels that are not on this machine.

    Raises:
        ParameterError: before anything runs, for an unknown or mistyped parameter.
        RunError: if the run folder holds something else, or a finished training that nobody said to replace.
        NotebookError: if a notebook fails; what the notebooks before it made is kept.
    """
    known = {notebook: known_parameters(notebook) for notebook in CHAIN}
    own = {
        key: default for parameters in known.values() for key, default in parameters.items() if key not in (*OWN, "settings")
    }
    given = check_parameters(given, {**settings, **own})
    chosen = asked or CHAIN
    if overwrite and TRAINING not in chosen:
        raise ParameterError(f"--overwrite replaces a training, and {', '.join(chosen)} train nothing; leave it out")
    taken = {notebook: _taken(given, known[notebook], settings) for notebook in CHAIN}
    values = {notebook: known[notebook] | taken[notebook] for notebook in CHAIN}
    images, labels = (values[TRAINING][name] for name in ("images", "labels"))
    data = [*data_state(locate(images), locate(labels)), *elsewhere]
    digests = {notebook: digest_of(notebook, values[notebook], data) for notebook in CHAIN}
    settings = {key: given[key] for key in settings if key in given}
    wanted = Wanted(digests[TRAINING], settings, trains=TRAINING in chosen, asked=bool(asked), overwrite=overwrite)
    run = wanted.folder(name, locate(labels).parent.name or "run")
    with run.claimed():
        manifest, before = Manifest(run), run.id
        manifest.parameters = given
        for number, notebook in enumerate(chosen, 1):
            title = f"[{number}/{len(chosen)}] {notebook}"
            if manifest.holds(notebook, digests[notebook]) and not asked and not overwrite:
                say(f"{title}: nothing changed, kept")
                continue
            parameters = dict(taken[notebook])
            if "run" in known[notebook]:
                parameters["run"] = run.name
            if notebook == TRAINING:
                parameters["overwrite"] = overwrite
            manifest.set(notebook, digests[notebook], done=False)
            say(title)
            started = time.monotonic()
            try:
                execute(notebook, run, parameters, timeout)
            except NotebookError as error:
                error.replaces = overwrite and run.id == before
                raise
            manifest.set(notebook, digests[notebook], done=True)
            say(f"{title}: done in {time.monotonic() - started:.0f} s")
    return run


def _taken(given: Mapping[str, Any], known: Mapping[str, Any], settings: Collection[str]) -> dict[str, Any]:
    """What of the given a notebook takes: its own parameters, and in a dictionary the settings of the training."""
    parameters = {key: value for key, value in given.items() if key in known}
    if "settings" in known and (top := {key: given[key] for key in given if key in settings and key not in known}):
        parameters["settings"] = top
    return parameters
