"""Measure start-up time and steady-state speed of a command on files of cells."""

import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

FEW = 100  # cells of the run that measures start-up


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool to measure: name, number of cells, and its command for a file and output."""

    name: str
    n_cells: int
    command: Callable[[Path, Path], list[str]]
    warm_up: bool = False  # run once on the large file first, to fill caches on disk


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Wall time and CPU time of one process."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Start-up in seconds, and cells per second of wall time and CPU time beyond it."""

    tool: str
    n_cells: int
    start_s: float
    start_cpu_s: float
    cells_per_s: float
    cells_per_cpu_s: float


def run_measured(command: Sequence[str]) -> Usage:
    """Run a command and return its times.

    Raises
    ------
    RuntimeError
        If it fails; the message has the end of its stderr.
    """
    # Installed packages have compiled bytecode, whatever the environment of this run.
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=environment
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            stderr = errors.read().decode(errors="replace").strip()[-500:]
            raise RuntimeError(f"{' '.join(command)} failed: {stderr}")
    return Usage(seconds=seconds, cpu_seconds=used.ru_utime + used.ru_stime)


def measure(tool: Tool, files: dict[int, Path], *, n_starts: int) -> Speed:
    """Measure start-up and steady state of one tool.

    Parameters
    ----------
    tool: tool to run
    files: a file of FEW cells and one of `tool.n_cells`, by number of cells
    n_starts: runs on the FEW cells, of which the fastest is used
    """
    out = files[FEW].with_name("calls.csv")

    def run(n_cells: int) -> Usage:
        out.unlink(missing_ok=True)
        return run_measured(tool.command(files[n_cells], out))

    if tool.warm_up:
        run(tool.n_cells)
    starts = [run(FEW) for _ in range(n_starts)]
    start = min(each.seconds for each in starts)
    start_cpu = min(each.cpu_seconds for each in starts)
    whole = run(tool.n_cells)
    n_further = tool.n_cells - FEW
    return Speed(
        tool=tool.name,
        n_cells=tool.n_cells,
        start_s=round(start, 2),
        start_cpu_s=round(start_cpu, 2),
        cells_per_s=round(n_further / max(whole.seconds - start, 1e-9), 1),
        cells_per_cpu_s=round(n_further / max(whole.cpu_seconds - start_cpu, 1e-9), 1),
    )


def machine() -> dict[str, str | int | float]:
    """Describe this machine; the load is the mean of the last minute."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }
