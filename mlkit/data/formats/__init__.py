"""Label files of other tools, read into label tables and written back; what guesses about a file stands here."""

from mlkit.data.formats.registry import FORMATS, read_other, recognise, write_other

__all__ = ["FORMATS", "read_other", "recognise", "write_other"]
