"""`mlkit export`: a model for runtimes without mlkit."""

import argparse
from pathlib import Path
from typing import Any

from mlkit.cli.given import typed_run
from mlkit.errors import ParameterError
from mlkit.files import shown

_FORMATS = ("onnx", "torch-export", "openvino")


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("export", help="a model as one file for ONNX Runtime, OpenVINO or torch alone")
    command.add_argument("run", nargs="?", default="", metavar="RUN", help="name or folder (default: newest finished run)")
    command.add_argument("--format", choices=_FORMATS, help="default: onnx")
    command.add_argument("--int8", action="store_true", help="for OpenVINO, quantised too, and compared on the test images")
    command.add_argument("--most", type=float, default=0.005, metavar="MAP", help="mAP that INT8 may cost (default: 0.005)")
    command.set_defaults(command=export)


def export(options: argparse.Namespace) -> int:
    """Export a run's model, and print how far its answers are from PyTorch's."""
    form = options.format or ("openvino" if options.int8 else "onnx")
    if options.int8 and form != "openvino":
        raise ParameterError(f"--int8 is for OpenVINO; leave out --format {form}")
    from mlkit.errors import check_installed
    from mlkit.inference.export import export
    from mlkit.inference.quantised import quantise
    from mlkit.runs import Run

    if options.int8:
        check_installed("int8", "NNCF")
    run = Run.open(typed_run(options.run) if options.run else "")
    file, facts = export(run, form)
    print(f"{_written(file, facts)}: uint8 RGB (batch, height, width, 3) of any size to probabilities")
    same, whole = facts["largest_difference"], facts["largest_difference_full_size"]
    print(f"largest difference from PyTorch on {facts['images']} of {facts['of']} validation images: {same:.1g};", end=" ")
    print(f"of full-size pictures, which the file resizes itself: {whole:.2g}")
    if options.int8:
        file, facts = quantise(run, options.most)
        print(f"{_written(file, facts)}, {facts['size_ratio']:.2f} x float32")
        print(f"images/s: {facts['img_per_s']}, {facts['speed_ratio']:.2f} x float32 ({facts['float32_img_per_s']})")
        for figure in ("mAP", "F1"):
            difference, low, high = (facts[f"{figure}_{name}"] for name in ("difference", "low", "high"))
            print(f"{figure}: {difference:+.4f} [{low:+.4f}, {high:+.4f}] to float32", end=" ")
            print(f"on {facts['images']} {facts['judged_on']} images")
        print(f"largest difference of a probability from float32: {facts['largest_difference']:.2g}")
    return 0


def _written(file: Path, facts: dict[str, Any]) -> str:
    return f"{shown(file)}, {facts['megabytes']} MB"
