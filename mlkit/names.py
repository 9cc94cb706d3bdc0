"""Names that people mistype: the nearest known one."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """End of an error message: "; did you mean 'x'?" or, where nothing is near, the list of what is known."""
    known = list(known)
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known[:20])}" + (" ..." if len(known) > 20 else "")
