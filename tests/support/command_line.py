"""The command line in this process: what a user sees, without the start of Python for every call."""

import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

from langcell.cli import main


def run_langcell(folder: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    """Run `langcell` in a folder, and leave this process as it was."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    terminate, thresholds = signal.getsignal(signal.SIGTERM), gc.get_threshold()
    arguments = ["langcell", *map(str, words)]
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", arguments),
        mock.patch.dict(os.environ),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        finally:
            signal.signal(signal.SIGTERM, terminate)
            gc.set_threshold(*thresholds)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def run_apart(*words: object) -> "subprocess.CompletedProcess[str]":
    """Run `langcell` in a process of its own, which may start others, to an end without error."""
    command = [sys.executable, "-m", "langcell", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done
