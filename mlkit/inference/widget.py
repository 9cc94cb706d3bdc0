"""A picture is chosen or dropped in JupyterLab, and the model answers at once."""

import os
import tempfile
from pathlib import Path
from typing import Any

from mlkit.data.images import load_image
from mlkit.errors import MlkitError
from mlkit.inference import plots
from mlkit.inference.predictor import Predictor
from mlkit.plots import beside, show
from mlkit.progress import SWITCH


def asker(predictor: Predictor) -> Any:
    """A button that takes a picture, and below it what the model says of it; None where notebooks are executed headless."""
    if os.environ.get(SWITCH) == "off":
        return None
    import ipywidgets
    from IPython.display import display

    upload, answer = ipywidgets.FileUpload(accept="image/*", description="Choose a picture"), ipywidgets.Output()

    def ask(change: dict[str, Any]) -> None:
        answer.clear_output()
        with answer, tempfile.TemporaryDirectory() as folder:
            file = change["new"][0]
            path = Path(folder, "picture")  # the name is the person's, and may be anything
            path.write_bytes(bytes(file["content"]))
            try:
                table = predictor.predict(path)
            except MlkitError as error:
                print(str(error).replace(str(path), file["name"]))
                return
            display(table.drop(columns=["image", "error"]).round(3))
            figure, ax = beside(load_image(path, reading=predictor.reading), list(table.attribute))
            plots.prediction(table, ax)
            show(figure)

    upload.observe(ask, names="value")
    return ipywidgets.VBox([upload, answer])
