"""What a comparison of runs comes to: what each network costs and reaches, and the answer in sentences."""

import pandas as pd

from mlkit.experiments.comparison.ranking import Comparison


def answer(table: pd.DataFrame, moved: pd.DataFrame) -> str:
    """What a comparison found, in sentences: the best run, the second, what moved mAP most, the cheapest that will do.

    Args:
        table: of `Comparison.table`.
        moved: of `effects.effects`.
    """
    best = table.iloc[0]
    every = f"of {best['of']} attributes"
    lines = [
        f"Best by validation mAP ({best.validation_mAP:.3f} over {best.validation_over} {every}): {best.name}, with mAP "
        f"{best.mAP:.3f} [{best.low:.3f}, {best.high:.3f}] over {best.over} {every} on the images that judge."
    ]
    if len(table) == 1:
        return "\n".join([*lines, "No other run can be compared with it."])
    second = table.iloc[1]
    lines.append(f"Second: {second.name}, {_against(second)}.")
    if (highest := table.iloc[int(table.mAP.to_numpy().argmax())]).name not in (best.name, second.name):
        lines.append(f"Highest on the judging images: {highest.name}, {_against(highest)}; choosing it for that flatters.")
    clean = moved[moved.pairs > 0]
    if len(clean):
        most = clean.iloc[int(clean.difference.abs().to_numpy().argmax())]
        clear = "" if most.low > 0 or most.high < 0 else ", not clearly"
        lines.append(
            f"Moved mAP most, of {len(clean)} clean comparison{'s' * (len(clean) > 1)}: {most.parameter} from "
            f"{most['from']} to {most['to']}, {most.difference:+.3f} [{most.low:+.3f}, {most.high:+.3f}]{clear}."
        )
    else:
        lines.append("Which parameter moved mAP is not known: no two runs differ in one parameter alone.")
    enough = table[~(table.difference_high < 0) & table.seconds.notna()]
    if len(enough):
        cheap = enough.iloc[int(enough.seconds.to_numpy(float).argmin())]
        cost = f"{cheap.seconds:.0f} s of training"
        cost += f", {cheap.parameters / 1e6:.1f} M parameters" if pd.notna(cheap.parameters) else ""
        itself = "it is the best itself" if cheap.name == best.name else _against(cheap)
        lines.append(f"Cheapest run that is not clearly worse: {cheap.name} ({cost}), {itself}.")
    return "\n".join(lines)


def architectures(compared: Comparison) -> pd.DataFrame:
    """What each run's network costs and reaches, the fastest training first.

    Returns:
        Index run; columns backbone ("ensemble" for one), conditions (device, precision, image size, what was frozen:
        images/s compare only where they are equal), img_per_s of the training, parameters, seconds, and mAP, low, high.
    """
    table, rows = compared.table(), []
    for title, predicted in compared.predicted.items():
        made = predicted.run.config()["parameters"]
        frozen = made.get("freeze", "none")
        parts = [
            "" if pd.isna(table.ran_on[title]) else table.ran_on[title],
            f"{made['image_size']} px" if "image_size" in made else "",
            f"{frozen} frozen" if frozen != "none" != made.get("weights") else "",
        ]
        backbone = "ensemble" if "members" in made else made.get("backbone", "unknown")
        rows.append({"backbone": backbone, "conditions": ", ".join(filter(None, parts))})
    facts = table[["img_per_s", "parameters", "seconds"]].astype(float).join(table[["mAP", "low", "high"]])
    return pd.DataFrame(rows, index=table.index).join(facts).sort_values("img_per_s", ascending=False, kind="stable")


def _against(run: pd.Series) -> str:
    """The difference of one row of `Comparison.table` to the best, and whether it is clear."""
    clear = (
        "clearly worse" if run.difference_high < 0 else "clearly better" if run.difference_low > 0 else "no clear difference"
    )
    return f"{run.difference:+.3f} [{run.difference_low:+.3f}, {run.difference_high:+.3f}] against the best: {clear}"
