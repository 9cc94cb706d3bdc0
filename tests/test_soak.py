"""A short part of `make soak`, in a process of its own: one that has begun threads cannot be forked."""

import subprocess
import sys
from pathlib import Path

from conftest import POSIX


@POSIX
def test_killed_trainings_and_failed_writes_lose_nothing():
    soak = Path(__file__).with_name("soak.py")
    done = subprocess.run(
        [sys.executable, soak, "--kills", "4", "--every", "40", "--processes", "4", "--runs", "1", "--inputs", "200"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].endswith("4 processes were killed: nothing lost"), done.stdout
