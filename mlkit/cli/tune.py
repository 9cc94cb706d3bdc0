"""`mlkit tune`: a search for better parameters."""

import argparse
import platform
import signal
from pathlib import Path
from typing import Any

from mlkit.cli.given import GOES_ON, add_dask_option, data_options, given_parameters, given_recipe
from mlkit.errors import MlkitError
from mlkit.files import locate, shown

_TRIALS = 20
_TOP = 3


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "tune",
        parents=[data_options()],
        help="search for better parameters, by Optuna",
        description="Search for better parameters. Called again with the same --name, it goes on, or joins the others.",
    )
    command.add_argument("--space", metavar="YAML", help="what varies (default: notebooks/parameters/space.yaml)")
    command.add_argument(
        "--trials", type=int, metavar="N", help=f"trials of the search in all (default of a new one: {_TRIALS})"
    )
    command.add_argument(
        "--grid",
        action="store_true",
        help="every combination of the space (lists, or ranges with a step) instead of a search, each to its end",
    )
    command.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[],
        metavar="SEED",
        help="train the best settings so far again with each of these seeds; with --grid, every combination",
    )
    command.add_argument("--top", type=int, metavar="N", help=f"settings that --seeds repeats (default: {_TOP})")
    command.add_argument("--workers", type=int, default=1, metavar="W", help="processes that run trials (default: 1)")
    add_dask_option(command)
    command.add_argument("--no-prune", action="store_true", help="train every trial to its end")
    command.add_argument("--recover", nargs="?", const="", metavar="HOST", help=_RECOVER)
    command.add_argument(
        "--storage",
        metavar="URL",
        help="where the trials are: a database, or grpc://HOST:PORT of --serve (default: a file)",
    )
    command.add_argument(
        "--serve",
        nargs="?",
        const="",
        metavar="HOST:PORT",
        help="let other machines work on the search, not this one",
    )
    command.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)  # a process of `--workers`
    command.set_defaults(command=tune, goes_on=GOES_ON)


_RECOVER = "go on with the trials of processes that were killed here (or on HOST, where nothing works any more)"


def tune(options: argparse.Namespace) -> int:
    """Begin or join a search, queue what is missing, work on it, and print what was found."""
    from mlkit.experiments.search import Tuning, use_storage
    from mlkit.experiments.search.storage import SERVED, serve
    from mlkit.experiments.search.worker import check_workers, run_workers, work

    # a closed terminal ends the workers as Ctrl-C does, and they give back their trials; SIGBREAK is Windows'
    for name in ("SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    if options.storage:
        use_storage(options.storage)
    if options.worker:
        work(Tuning.open(options.name))
        return 0
    if options.trials is not None and (options.grid or options.seeds):
        other = "--grid runs every combination" if options.grid else "--seeds repeats what was found"
        raise MlkitError(f"{other}, --trials is for a search; give one of them")
    if options.top is not None and (options.grid or not options.seeds):
        raise MlkitError(
            f"--top is {options.top}, of the settings that --seeds repeats after a search; give --seeds, or leave it out"
        )
    for name in ("workers", "trials", "top"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise MlkitError(f"--{name} is {value}; it must be at least 1")
    check_workers(options.workers)
    tuning = _begun(options)
    _recover(tuning, options.recover)
    _queue(tuning, options)
    print(f"{len(tuning.queued())} trials to run; results in {shown(tuning.folder)}")
    if options.serve is not None:
        serve(tuning.folder, options.serve or SERVED)
        return 0
    try:
        run_workers(tuning, options.workers, options.dask)
    finally:
        _print_results(tuning)
    return 0


def _recover(tuning: Any, host: str | None) -> None:
    """Queue again what was left behind, if asked (a name, or "" for this machine); else say that there is some."""
    left = tuning.abandoned(host or "")
    if host is not None:
        for trial in left:
            tuning.give_back(trial.number)
        print(f"queued again: {', '.join(f'trial {trial.number}' for trial in left) or 'nothing, no trial was left behind'}")
    elif left:
        numbers = ", ".join(str(trial.number) for trial in left)
        print(f"left behind by a process that was killed: trial {numbers}; --recover goes on with it")
    for trial in tuning.running():
        if (other := trial.user_attrs.get("host", platform.node())) != platform.node():
            print(f"trial {trial.number} is at work on {other}; if nothing works there any more: --recover {other}")


def _queue(tuning: Any, options: argparse.Namespace) -> None:
    """Queue the trials that the options ask for."""
    from mlkit.experiments.search import trials

    if options.seeds and "seed" in tuning.space.ranges:
        raise MlkitError("seed is in the space already; leave out --seeds")
    if options.grid:
        own = [] if "seed" in tuning.space.ranges else [tuning.parameters["seed"]]
        tuning.enqueue(tuning.space.grid(), options.seeds or own)
    elif options.seeds:
        tuning.enqueue(trials.promising(tuning, options.top or _TOP), options.seeds)
    elif options.trials is not None or not tuning.optuna_study().trials:  # who joins a search works on what is queued
        tuning.search(_TRIALS if options.trials is None else options.trials)


def _begun(options: argparse.Namespace) -> Any:
    """The search that the options name; begun where it is not there yet, or where they say with what."""
    from mlkit.experiments.search.setup import SPACE, go_on, set_up
    from mlkit.runs import outputs_root

    given = given_parameters(options)
    said = options.images or options.labels or options.parameter or options.file or options.space or options.no_prune
    name = options.name or locate(given["labels"]).parent.name + "-tune"
    goes_on = options.recover is not None or (options.seeds and not options.grid)  # needs what was searched before
    if not said and (goes_on or (outputs_root() / name / "tuning.json").exists()):
        return go_on(name)
    space = Path(options.space).absolute() if options.space else SPACE
    return set_up(name, given_recipe(given), space, not options.no_prune, options.grid)


def _print_results(tuning: Any) -> None:
    from mlkit.experiments.search import trials

    table = trials.trials(tuning)
    counts = ", ".join(f"{count} {state}" for state, count in table.state.value_counts().items())
    print(f"\n{len(table)} trials: {counts}")
    best = trials.ranking(table, tuning)
    if best.empty:
        return
    print(f"\nbest settings by validation mAP\n{best.head(5).to_string(index=False, float_format='{:.4g}'.format)}")
    if best.seeds[0] == 1:
        print("one seed each, luck has a part in it: `--seeds 1 2` trains the best again with others")
    elif (above := best[(best.seeds == 1) & (best.mAP > best.mAP[0])]).size:
        print(f"tried once, with a higher mAP: trial {', '.join(map(str, above.trial[:3]))}; `--seeds 1 2` repeats them")
    print(f"\nuse them: mlkit run -f {shown(trials.write_best(tuning))} --name {tuning.name}-best")
