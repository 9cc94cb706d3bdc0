"""An ensemble made of finished runs: its members, what they must share, its model file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import nn

import mlkit
from mlkit.data.reading import Reading
from mlkit.errors import ParameterError, RunError
from mlkit.evaluation.calibration import Calibration
from mlkit.experiments.ensemble.votes import Votes
from mlkit.files import shown
from mlkit.models.modelfile import load_model
from mlkit.models.networks import Ensemble
from mlkit.runs import Run, named_folder
from mlkit.training.finish import TrainedModel, finish_run
from mlkit.training.recipe import Recipe


def build_ensemble(runs: Sequence[Run], name: str = "", overwrite: bool = False) -> Run:
    """Make an ensemble of finished runs, and judge it beside its members (`members.csv`).

    A member trained with `calibrate = False` speaks in its raw logits.

    Args:
        runs: at least two, of the same images, attributes, image_size and normalisation. An earlier ensemble in the folder
            that is written to does not count: a pattern of names may find it.
        name: of its run folder; empty takes what the members' names begin with, and "-ensemble".
        overwrite: replace what the folder holds.

    Raises:
        RunError: if there are fewer than two members, one is an ensemble, or their labels differ; if the folder holds a run.
        ParameterError: if they differ in what they must share.
    """
    path = named_folder(name or _default_name([run.name for run in runs]))
    there = [run for run in runs if run.path.resolve() == path.resolve()]
    if there and not there[0].members:
        raise RunError(f"{there[0]} is one of the members; give the ensemble another name")
    runs = [run for run in runs if run not in there]
    if len(runs) < 2:
        raise RunError(f"an ensemble needs at least two finished runs; given: {', '.join(map(str, runs)) or 'none'}")
    members = [_Member.open(run) for run in runs]
    _check(members)
    votes = Votes.read({m.run.title: m.run for m in members}, [m.calibration for m in members])

    parameters = {k: v for k, v in members[0].parameters.items() if all(m.parameters.get(k, ...) == v for m in members)}
    parameters |= {"images": shown(members[0].run.images), "members": votes.runs}
    data = ", ".join(dict.fromkeys(member.run.config()["data"] for member in members))
    run = Run.create(path, parameters, data, overwrite)
    splits = [member.run.read_table("split.csv") for member in members]
    if all(split.equals(splits[0]) for split in splits):
        run.write_table("split.csv", splits[0])
    run.write_table("members.csv", votes.beside().reset_index())
    network = Ensemble([member.network for member in members], [member.meta["calibration"] for member in members])
    of_members = [member.run.read_json("metrics.json") for member in members]
    seconds = [facts["seconds"] for facts in of_members if "seconds" in facts]
    facts = {
        "judging": str(votes),
        "members": votes.runs,
        "seconds": round(sum(seconds), 1) if len(seconds) == len(members) else None,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        **{
            name: "; ".join(dict.fromkeys(facts.get(name, "unknown") for facts in of_members))
            for name in ("device", "ran_on")
        },
    }
    outputs = {"validation": votes.mean(votes.validation), "test": votes.mean(votes.test)}
    prevalence = pd.DataFrame([facts["training_prevalence"] for facts in of_members]).astype(float).mean().to_numpy()
    # 1: the members' calibrated logits have no weight of positives in them any more
    model = TrainedModel(network, _meta(members), prevalence, pos_weight=1.0)
    finish_run(run, model, outputs, parameters.get("threshold", "f1"), facts, lambda: Recipe.of(parameters).open())
    return run


@dataclass(frozen=True)
class _Member:
    """A finished run, opened."""

    run: Run
    parameters: dict[str, Any]
    network: nn.Module
    meta: dict[str, Any]

    @classmethod
    def open(cls, run: Run) -> "_Member":
        if run.members:
            raise RunError(f"{run} is an ensemble itself; name its members in its place: {', '.join(run.members)}")
        run.check_finished()
        return cls(run, run.config()["parameters"], *load_model(run / "model.pth"))

    @property
    def calibration(self) -> Calibration:
        return Calibration.from_dict(self.meta["calibration"])

    @property
    def shared(self) -> dict[str, Any]:
        """What must be the same for all members."""
        values = {name: self.meta[name] for name in ("attributes", "image_size", "mean", "std")}
        # an image is known by its name within its folder; a raw logit and a log-odds have no meaningful mean
        reading = Reading.of(self.meta.get("reading", {}))
        values |= {"value_range": reading.value_range, "extra_channels": reading.extra_channels}
        return values | {"images": shown(self.run.images), "calibrate": self.parameters.get("calibrate", True)}


def _check(members: Sequence[_Member]) -> None:
    first = members[0]
    for member in members[1:]:
        for name, value in member.shared.items():
            if value != first.shared[name]:
                raise ParameterError(
                    f"{first.run.title} and {member.run.title} differ in {name}: {first.shared[name]} and {value}; all "
                    "members must share it: leave one out, or train it again with the other's"
                )


def _default_name(names: Sequence[str]) -> str:
    """What all names begin with, and "-ensemble"."""
    first, last = (min(names), max(names)) if names else ("", "")  # these two differ the earliest
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return f"{first[:same].rstrip('-_. ')}-ensemble".lstrip("-")


def _meta(members: Sequence[_Member]) -> dict[str, Any]:
    """What model.pth says of the ensemble; `finish_run` adds to it."""
    metas = [member.meta for member in members]
    each = {name: ", ".join(str(meta[name]) for meta in metas) for name in ("backbone", "weights", "loss", "epoch")}
    own = (*each, "calibration")
    precisions = {meta.get("precision", "auto") for meta in metas}
    return {
        **metas[0],
        **each,
        "backbone": f"ensemble of {each['backbone']}",
        "precision": precisions.pop() if len(precisions) == 1 else "auto",
        "never_seen": [name for name in metas[0]["attributes"] if any(name in meta.get("never_seen", ()) for meta in metas)],
        "trained": max(meta.get("trained", "") for meta in metas),
        "members": [{"run": member.run.title, **{name: member.meta[name] for name in own}} for member in members],
        "mlkit_version": mlkit.__version__,
    }
