"""Files for runtimes without mlkit: a graph written with what is to be known of it, and opened again.

What imports OpenVINO here, and in whatever imports it later in this process, reports to nobody.
"""

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlkit.errors import check_installed
from mlkit.inference.graph import Graph

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "openvino": ".xml"}  # OpenVINO has the weights in .bin beside it
_NEEDS = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".pt2": (), ".xml": ("onnx", "onnxscript", "OpenVINO")}
_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO takes bf16 where the CPU has it
KEY = "mlkit"  # under which a file has what is to be known of it, as JSON


def check_runtime(form: str) -> None:
    """Raise MlkitError if a package is not installed that a format needs."""
    check_installed("export", *_NEEDS[SUFFIXES[form]])


def write_exported(graph: Graph, about: Mapping[str, Any], path: Path) -> None:
    """Write a graph, in the format that the suffix names: float32, batch, height and width free, one file with its weights.

    Args:
        graph: in eval mode.
        about: plain values for the file's metadata.
        path: .onnx, .pt2 or .xml; the last writes a .bin too.
    """
    example = torch.zeros(2, graph.size + 1, graph.size + 3, 3, dtype=torch.uint8)  # no two alike, or they stay so
    free = dict.fromkeys(range(3), torch.export.Dim.DYNAMIC)
    text = json.dumps(about, allow_nan=False)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        program = torch.export.export(graph, (example,), dynamic_shapes=(free,))
        if path.suffix == ".pt2":
            torch.export.save(program, path, extra_files={KEY: text})
            return
        names = {"input_names": ["pixels"], "output_names": ["probabilities"]}
        exported = torch.onnx.export(program, **names, dynamo=True, verbose=False)  # type: ignore[arg-type]
    assert exported is not None
    exported.model.metadata_props[KEY] = text
    onnx = path.with_suffix(".onnx")
    exported.save(onnx, external_data=False)
    if path.suffix == ".xml":
        model = _core().read_model(onnx)
        model.set_rt_info(text, KEY)
        save_openvino(model, path)
        onnx.unlink()


def open_exported(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """What makes probabilities (batch, attributes) of uint8 RGB (batch, height, width, 3), on the CPU, by a file alone."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda pixels: np.asarray(session.run(None, {"pixels": pixels})[0])
    if path.suffix == ".xml":
        compiled = _core().compile_model(path, "CPU", _FLOAT32)
        return lambda pixels: np.array(compiled(pixels)[0])
    module = torch.export.load(path).module()

    def call(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(module(torch.tensor(pixels)))

    return call


def read_about(path: Path) -> dict[str, Any]:
    """What a file says of itself."""
    if path.suffix == ".onnx":
        import onnx

        text = next(entry.value for entry in onnx.load(path).metadata_props if entry.key == KEY)
    elif path.suffix == ".xml":
        text = read_openvino(path).get_rt_info(KEY).astype(str)
    else:
        files = {KEY: ""}
        torch.export.load(path, extra_files=files)
        text = files[KEY]
    about: dict[str, Any] = json.loads(text)
    return about


def read_openvino(path: Path) -> Any:
    """A model of OpenVINO."""
    return _core().read_model(path)


def save_openvino(model: Any, path: Path) -> None:
    """Write a model of OpenVINO, its weights as they are."""
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)


def _core() -> Any:
    """OpenVINO, which would send statistics of use if it found the module for that."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # documented: importing it fails
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # Windows moves no file that is mapped
    return core
