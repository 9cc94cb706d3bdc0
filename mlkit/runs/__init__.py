"""The run folder: all that one training leaves behind, and the only thing through which notebooks speak to each other."""

from mlkit.files import outputs_root
from mlkit.runs.claims import HELD, Claim
from mlkit.runs.folder import Folder
from mlkit.runs.names import folder_of, named_folder
from mlkit.runs.run import PACKAGES, TRAIN_ONE, Run, contents, find_runs, list_runs
from mlkit.runs.stopped import Stopped
from mlkit.runs.table import FILES

__all__ = [
    "FILES",
    "HELD",
    "PACKAGES",
    "TRAIN_ONE",
    "Claim",
    "Folder",
    "Run",
    "Stopped",
    "contents",
    "find_runs",
    "folder_of",
    "list_runs",
    "named_folder",
    "outputs_root",
]
