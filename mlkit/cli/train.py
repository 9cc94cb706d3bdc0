"""`mlkit train`: one training without a notebook, or every fold of a cross-validation."""

import argparse
from typing import Any

from mlkit.cli.given import add_dask_option, command_line, data_options, given_parameters, given_recipe, settings_table
from mlkit.files import locate, shown


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("train", parents=[data_options()], help="train without a notebook")
    command.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")
    command.add_argument(
        "--folds", type=int, metavar="K", help="K-fold cross-validation: K runs NAME-fold0 ..., results in NAME-folds"
    )
    world = command.add_argument_group("several processes", 'needs: pip install -e ".[distributed]"')
    world.add_argument("--processes", type=int, default=1, metavar="N", help="that share each batch, on each machine")
    world.add_argument("--machines", type=int, default=1, metavar="N", help="that train together, each by this command")
    world.add_argument("--rank", type=int, default=0, metavar="I", help="number of this machine; 0 has the run folder")
    world.add_argument("--rendezvous", default="", metavar="HOST:PORT", help="of machine 0, which all machines can reach")
    world.add_argument(
        "--max-restarts", type=int, default=0, metavar="N", help="of all processes, from the last checkpoint, when one died"
    )
    add_dask_option(command)  # of --folds
    command.add_argument("--help-parameters", action="store_true", help="list every setting: default, choices, meaning")
    command.set_defaults(command=train)


def train(options: argparse.Namespace) -> int:
    """Train without a notebook: what notebook 02 does, once or for every fold of a cross-validation."""
    from mlkit.training.recipe import known_settings

    if options.help_parameters:
        print(settings_table(known_settings()))
        return 0
    from mlkit.errors import ParameterError
    from mlkit.evaluation.metrics import macro
    from mlkit.inference.card import write_card
    from mlkit.runs import Run
    from mlkit.training.launch import ALONE, World, launch
    from mlkit.training.loop import train as train_model

    if options.folds is not None and ({"folds", "fold"} & {name for name, _ in options.parameter} or options.folds < 2):
        raise ParameterError(
            f"--folds is {options.folds}; it must be at least 2, and trains every fold: leave out -p folds and -p fold"
        )
    world = World(options.processes, options.machines, options.rank, options.rendezvous, options.max_restarts)
    if options.folds is not None and world != ALONE:
        raise ParameterError("--folds trains one run after the other, each in one process; give --processes to one fold")
    if options.dask and options.folds is None:
        raise ParameterError("--dask shares out the trainings of --folds K; a single one is not divided by it")
    recipe = given_recipe(given_parameters(options))
    if options.folds is not None:
        recipe = recipe.but(folds=options.folds, fold=0)
    dataset = recipe.open()
    print(dataset)
    if options.folds is not None:
        from mlkit.experiments.folds import cross_validate

        name = options.name or locate(recipe.source.labels).parent.name or "run"
        if not options.overwrite:  # else the same command begins again, as it was told
            options.goes_on = _goes_on(options, name)
        _print_folds(cross_validate(dataset, recipe, name, options.overwrite, options.dask), name)
        return 0
    if world.rank:
        launch(world, recipe.parameters(), dataset.fingerprint, None)
        print(f"done; machine 0 ({world.rendezvous}) has the run")
        return 0
    result = Run.create(options.name, recipe.parameters(), dataset.fingerprint, options.overwrite)
    options.goes_on = _goes_on(options, result.name)
    table = train_model(dataset, recipe.config, result, world=world)
    write_card(result)
    columns = ["positives", "negatives", "chance", "AP", "F1", "accuracy", "majority_accuracy", "threshold"]
    print(table[columns].round(3).to_string())
    mean, judged_on = macro(table), result.read_json("metrics.json")["judged_on"]
    print(f"{judged_on} mAP {mean.AP:.3f} over {mean.attrs['over']}, chance {mean.chance:.3f}")
    print(f"model: {shown(result / 'model.pth')}")
    return 0


def _goes_on(options: argparse.Namespace, name: str) -> str:
    """What goes on with a training that was begun: it has a name by now, and nothing to overwrite."""
    given = {
        "--images": options.images,
        "--labels": options.labels,
        "--name": name,
        "--folds": options.folds,
        "--dask": options.dask,
    }
    words = [word for option, value in given.items() if value for word in (option, str(value))]
    words += [word for file in options.file for word in ("-f", file)]
    words += [word for pair in options.parameter for word in ("-p", *pair)]
    return f"this goes on where it stopped: {command_line(['mlkit', 'train', *words])}"


def _print_folds(table: Any, name: str) -> None:
    """What concerns all attributes, and the average precision of each; the file has the rest."""
    from mlkit.evaluation.intervals import MEAN
    from mlkit.runs import outputs_root

    means = table.xs(MEAN, level="attribute").drop(columns="folds")
    print(f"\nmean over {table.attrs['over']}, those that every fold could judge\n{means.round(3).to_string(na_rep='')}")
    print(f"\naverage precision\n{table.loc['AP'].round(3).to_string(na_rep='')}")
    print(f"\nall figures: {shown(outputs_root() / f'{name}-folds' / 'folds.csv')}")
