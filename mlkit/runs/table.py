"""The files of a run folder."""

from types import NoneType

# Columns that others read, and what is in them.
COLUMNS: dict[str, dict[str, type]] = {
    "split.csv": {"image": str, "split": str},
    "history.csv": {"iteration": int, "epoch": int, "loss": float},
    "epochs.csv": {"epoch": int, "mAP": float},
    "predictions.csv": {"split": str, "image": str, "attribute": str, "target": float, "logit": float, "probability": float},
}
# Values that others read, and their types, where they are there.
_NUMBER = (int, float, NoneType)
VALUES: dict[str, dict[str, tuple[type, ...]]] = {
    "config.json": {"created": (str,), "data": (str,), "parameters": (dict,), "contents": (dict,)},
    "metrics.json": {
        **dict.fromkeys(("mean", "attributes", "training_prevalence"), (dict,)),
        **dict.fromkeys(("judged_on", "ran_on", "device", "judging"), (str,)),
        **dict.fromkeys(("seconds", "img_per_s", "parameters", "best_epoch", "epochs"), _NUMBER),
        "left_out_of_mean": (list,),
    },
}
NUMBERS = ("mean", "attributes", "training_prevalence")  # mappings of numbers, or of such
# Who makes them, and what they are.
FILES: dict[str, tuple[str, str]] = {
    "config.json": (
        "the training",
        "every parameter, a fingerprint of the data, digests of the weights and the model of `prior_run`, package "
        "versions, and an identity of its own",
    ),
    "split.csv": ("the training", "which images were trained on, validated on, tested on"),
    "history.csv": ("the training", "iteration, epoch, loss, learning rate, images per second"),
    "epochs.csv": (
        "the training",
        "validation loss (plain cross-entropy of the known cells, whatever the run's loss and weights), mAP and the AP of "
        "each attribute after every epoch, and its seconds",
    ),
    "last.pt": ("the training", "only while it is unfinished: it goes on from here"),
    "next.pt": ("the training", "only while it is unfinished: what becomes `last.pt` once it is written whole"),
    "previous.pt": ("the training", "only while it is unfinished: the checkpoint before `last.pt`, should that be damaged"),
    "model.pth": (
        "the training",
        "the best epoch's network with its attributes, image size, normalisation, calibration, thresholds and any guarantee",
    ),
    "MODEL.md": (
        "the training",
        "the model card: data, recipe, figures with intervals, thresholds, what it must not be used for, how to cite",
    ),
    "predictions.csv": (
        "the training",
        "the validation and test images: attribute, target (empty: unknown), logit, calibrated probability (empty: the "
        "attribute was never seen in training)",
    ),
    "metrics.json": (
        "the training",
        "written last: what the kept model is worth on the test images (on the validation images where there are none); how "
        "long it took, on what, and whether it was stopped early",
    ),
    "members.csv": (
        "`mlkit ensemble`",
        "the mAP of each member and of the ensemble, over the attributes that judge all, and the paired difference",
    ),
    "Aimonk_multilabel_problem.png": ("notebook 03", "the loss curve"),
    "prediction.csv": ("notebook 04", "what the model says of a single image"),
    "prediction.png": ("notebook 04", "the same beside the image"),
    "explanation.png": ("notebook 04", "where the image speaks for each attribute"),
    "neighbours.png": ("notebook 04", "the training images that the network takes for most alike, with their labels"),
    "evaluation.csv": ("notebook 05", "all figures of each attribute, with intervals and baselines"),
    "linear_head.csv": (
        "notebook 05",
        "a baseline: AP of a logistic regression on what the network saw before any training; of this `config.json` alone",
    ),
    "views.csv": ("notebook 05", "what more views of an image gain and cost, on the validation images"),
    "errors.csv": ("notebook 05", "every wrong decision on a known cell, the most confident first"),
    "intervals.png": ("notebook 05", "average precision with its interval, beside chance and the baseline"),
    "pr_curves.png": ("notebook 05", "precision and recall"),
    "reliability.png": ("notebook 05", "predicted probabilities against what came true"),
    "confusion.png": ("notebook 05", "right and wrong decisions"),
    "scores.png": ("notebook 05", "predicted probabilities of known cells"),
    "errors.png": ("notebook 05", "the most confident mistakes"),
    "differences.csv": ("notebook 05", "a comparison with another run"),
    "differences.png": ("notebook 05", "the same as a figure"),
    "model.onnx": ("`mlkit export`", "the model for ONNX Runtime: from pixels of any size to probabilities"),
    "model.pt2": ("`mlkit export`", "the same for torch alone"),
    "model.xml": ("`mlkit export`", "the same for OpenVINO, its weights in `model.bin`"),
    "model-int8.xml": ("`mlkit export`", "the same in INT8, its weights in `model-int8.bin`"),
    "export.json": ("`mlkit export`", "how far the answers of these are from PyTorch's; what INT8 costs and gains"),
    "report.html": (
        "`mlkit run`, `mlkit report`",
        "the executed notebooks on one page, the answers first, which opens and prints anywhere",
    ),
}
