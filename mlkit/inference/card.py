"""`MODEL.md`: what a model is, was made from, is worth, and must not be used for, from its run folder.

After Mitchell et al. 2019, Model Cards for Model Reporting (arXiv:1810.03993), as far as numbers can say.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

import mlkit
from mlkit.errors import WriteError
from mlkit.evaluation import predictions
from mlkit.evaluation.intervals import MEAN
from mlkit.evaluation.metrics import ENOUGH
from mlkit.evaluation.predictions import Predictions
from mlkit.evaluation.thresholds import rests_on_few
from mlkit.files import write_text
from mlkit.progress import listed, say
from mlkit.runs import Run
from mlkit.training.config import TrainConfig

_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def write_card(run: Run) -> None:
    """Write MODEL.md into a finished run's folder, over the one that was there; a full disk is said, and no more.

    Raises:
        RunError: if the run is not finished.
    """
    run.check_finished()
    facts, config = run.read_json("metrics.json"), run.config()
    predicted = Predictions.read(run)
    table = predictions.summary(predicted, predicted.bounds())
    made, parameters = facts.get("trained", config["created"])[:10], config["parameters"]
    what = f"An ensemble of {', '.join(run.members)}" if run.members else f"A {parameters.get('backbone', 'network')}"
    parts = [
        f"# {_plain(run.name)}",
        f"{_plain(what)} that says of an image which of {len(predicted.attributes)} attributes it has. Made on {made} by "
        f"mlkit {config['versions']['mlkit']}; `mlkit predict IMAGE --model {run.name}` asks it.",
        "## What it was made from",
        *_data(run, facts, config),
        "## How",
        _settings(parameters),
        "## What it is worth",
        f"On {len(predicted.images)} {predicted.split} images: {predictions.mean_ap(table)}, where a random ranking has "
        f"{table.loc[MEAN].chance:.3f}. Intervals hold 95 %.",
        _worth(table),
        "## How it decides",
        *_decisions(predicted, str(facts.get("policy", parameters.get("threshold", "f1")))),
        "## What it must not be used for",
        "\n".join(f"- {limit}" for limit in _limits(predicted, table, facts, parameters)),
        "## Cite",
        f"mlkit {mlkit.__version__}, and this model by its data `{config['data']}` and run `{run.id}`.",
    ]
    try:
        write_text(run.new("MODEL.md"), "\n\n".join(parts) + "\n")
    except WriteError as error:  # the model is whole without it
        say(f"warning: {error}; this writes it again: mlkit thresholds {run.title} --policy {facts.get('policy', 'f1')}")


def _data(run: Run, facts: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    parameters = config["parameters"]
    places = [f"- {name}: {_plain(str(parameters[name]))}" for name in ("images", "labels") if name in parameters]
    lines = [*places, f"- fingerprint of labels and images: `{config['data']}`"]
    if (run / "split.csv").exists():
        counts = run.read_table("split.csv").split.value_counts()
        sides = {"train": "taught", "validation": "chose epoch, calibration and thresholds", "test": "judge"}
        lines += [f"- {counts[side]:,} images {what}" for side, what in sides.items() if side in counts]
    if "near_duplicates" in parameters:
        apart = "are all on one side of the split" if parameters["near_duplicates"] else "were not looked for"
        lines.append(f"- near duplicates {apart}")
    if "training_cells" not in facts:
        return ["\n".join(lines)]
    cells = pd.DataFrame.from_dict(facts["training_cells"], orient="index", columns=["yes", "no", "unknown"])
    return ["\n".join(lines), "Cells that taught:", _table(cells.rename_axis("attribute"))]


def _settings(parameters: Mapping[str, Any]) -> str:
    """What differs from the defaults, since they are many."""
    usual = vars(TrainConfig())
    others = {name: value for name, value in parameters.items() if name in usual and value != usual[name]}
    lines = [f"- {name}: {_plain(str(value))}" for name, value in others.items()]
    return (
        "\n".join(["Settings other than the defaults (`mlkit train --help-parameters`):", "", *lines])
        if lines
        else "The defaults."
    )


def _worth(table: pd.DataFrame) -> str:
    readable = predictions.readable(table)
    return _table(
        readable[["positives", "negatives", "AP", "chance", "F1", "always_yes_F1", "accuracy", "majority_accuracy"]]
    )


def _decisions(predicted: Predictions, policy: str) -> list[str]:
    thresholds = pd.DataFrame({"threshold": predicted.thresholds}, pd.Index(predicted.attributes, name="attribute")).round(3)
    if predicted.guarantee is None:
        return [
            f"An attribute is there from its threshold on, chosen on the validation images (`{policy}`).",
            _table(thresholds),
        ]
    notes = [f"- {_plain(note)}" for note in predicted.guarantee.notes(predicted.attributes)]
    return [
        f"Yes, no, or unsure (`{policy}`), judged on the {predicted.split} images:",
        "\n".join(notes),
        _table(predicted.decided().round(3)),
    ]


def _limits(
    predicted: Predictions, table: pd.DataFrame, facts: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Iterable[str]:
    """What the numbers speak against, a sentence each."""
    each = table.drop(MEAN)
    yield "Images of another kind than those it was made from: nothing here says what it is worth on them."
    if predicted.split != "test":
        yield "Anything that rests on the figures above: the images that judge chose the model too, so they flatter."
    few = each.index[each[["positives", "negatives"]].min(axis=1) < ENOUGH]
    if len(few):
        yield _about(few, f"fewer than {ENOUGH} known yes, or known no, judge them: nobody knows how good it is")
    chance = predicted.above_chance()
    poor = [name for name in each.index if chance[name] > 0.05]
    if poor:
        yield _about(poor, "no better than a random ranking, as far as these images can tell")
    if note := rests_on_few(predicted.chosen_on):
        yield _plain(f"Decisions that must hold elsewhere: {note}.")
    unknown = predictions.unknown_cells(predicted)
    odd = unknown.index[unknown.difference.abs() > 2 * unknown.standard_error]
    if len(odd):
        yield _about(
            odd, "the model gives unknown cells other probabilities than known ones, so the figures may not hold for all"
        )
    if not parameters.get("near_duplicates", True):
        yield "Comparisons with other models: near duplicates of what taught may be among the images that judge."
    if lacking := facts.get("left_out_of_mean"):
        yield _about(lacking, "they lack a yes or a no among the images that judge, and are in no mean")


def _about(names: Sequence[str] | pd.Index, what: str) -> str:
    return f"{_plain(listed(names))}: {what}."


def _table(frame: pd.DataFrame) -> str:
    """A table in Markdown; names are data, and stay what they are."""
    rows = frame.reset_index().astype(object)
    rows = rows.where(rows.notna(), "")
    lines = [[_plain(str(name)) for name in rows.columns], ["---"] * rows.shape[1]]
    lines += [[_plain(str(value)) for value in row] for row in rows.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown, and the HTML in it, does not take for its own signs."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))
