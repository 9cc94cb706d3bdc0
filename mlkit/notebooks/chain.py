"""Which notebooks there are in the chain, in their order."""

from mlkit.errors import ParameterError

CHAIN = (
    "01_explore_label_imbalance",
    "02_train_resnet18",
    "03_plot_loss",
    "04_single_image_inference",
    "05_evaluate",
)
TRAINING = CHAIN[1]
OWN = ("run", "overwrite", "trial")  # parameters that are not the person's to give


def select(only: str = "", start: str = "") -> list[str]:
    """The part of the chain that `--only` or `--from` names, by number (02) or name.

    Raises:
        ParameterError: if no notebook is called so, or both are given.
    """
    if only and start:
        raise ParameterError("--only executes one notebook, --from several; give one of them")
    for text in filter(None, (only, start)):
        if not any(_is(notebook, text) for notebook in CHAIN):
            raise ParameterError(f"no notebook {text!r} in the chain; known are {', '.join(CHAIN)}")
    if only:
        return [notebook for notebook in CHAIN if _is(notebook, only)]
    first = next((i for i, notebook in enumerate(CHAIN) if start and _is(notebook, start)), 0)
    return list(CHAIN[first:])


def _is(notebook: str, text: str) -> bool:
    return notebook == text.removesuffix(".ipynb") or notebook.split("_")[0] == text.zfill(2)
