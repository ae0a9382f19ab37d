"""Files for a cluster: a job script for sbatch, a definition for Apptainer."""

import re
import shlex
from dataclasses import dataclass

from langcell.runtime.version import __version__

_SAVE_S = 180  # seconds from the signal to the time limit: for the step, the checkpoint, the exit
_MIN_TIME_S = 2 * _SAVE_S  # of a job: SLURM may send the signal a minute early
_TIME = re.compile(r"((\d+)-)?(\d+)(:\d+)?(:\d+)?", re.ASCII)
# What pip needs; a checkout may also hold environments, runs and shards.
_SOURCES = (
    *("setup.cfg", "pyproject.toml", "constraints.txt", "MANIFEST.in", "README.md", "LICENSE"),
    *("langcell", "pretrain", "ontology", "zeroshot", "benchmarks"),
)


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """A pretraining job.

    Attributes
    ----------
    config
        Recipe, or the name of a bundled one.
    overrides
        Recipe values as `key=value`.
    nodes, gpus, cpus
        Nodes, GPUs per node and CPU cores per GPU.
    time
        Time limit of one job in SLURM's format, longer than the run needs to save a checkpoint.
    partition, account
        Empty for the cluster's defaults.
    image
        Apptainer image; empty for the environment that the job starts in.
    """

    config: str
    overrides: tuple[str, ...]
    nodes: int
    gpus: int
    cpus: int
    time: str
    partition: str = ""
    account: str = ""
    image: str = ""

    def __post_init__(self) -> None:
        if seconds_of(self.time) <= _MIN_TIME_S:
            raise ValueError(
                f"--time must be longer than {_MIN_TIME_S // 60} minutes, as the run is told to stop"
                f" {_SAVE_S // 60} minutes before the limit; got {self.time!r}: pass 24:00:00, for example"
            )


def seconds_of(time: str) -> int:
    """Return the seconds of a time limit in SLURM's format.

    Raises
    ------
    ValueError
        If the format is wrong.

    >>> seconds_of("90"), seconds_of("90:30"), seconds_of("1:00:00"), seconds_of("2-12")
    (5400, 5430, 3600, 216000)
    """
    if not _TIME.fullmatch(time):
        raise ValueError(
            "--time must be minutes, minutes:seconds, hours:minutes:seconds, days-hours,"
            f" days-hours:minutes or days-hours:minutes:seconds; got {time!r}: pass 24:00:00, for"
            " example"
        )
    days, is_with_days, rest = time.rpartition("-")
    parts = [int(each) for each in rest.split(":")]
    if not is_with_days and len(parts) < 3:
        parts.insert(0, 0)  # without days, one or two numbers start at the minutes
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def sbatch(job: SlurmJob) -> str:
    """Return a script for sbatch.

    Minutes before the time limit, SLURM sends SIGUSR1 to the script, which forwards it as SIGTERM.
    The run finishes its step and saves a checkpoint, and the script requeues the job. The exit
    status of srun alone does not decide this: srun may kill processes that are still closing when
    the first has exited. A cancelled job gets no SIGUSR1 and is not requeued.
    """
    options = {
        "job-name": "langcell-pretrain",
        "nodes": job.nodes,
        "ntasks-per-node": job.gpus,
        "gpus-per-node": job.gpus,
        "cpus-per-task": job.cpus,
        "time": job.time,
        "signal": f"B:USR1@{_SAVE_S}",
        "requeue": None,
        "open-mode": "append",
        "output": "%x-%j.log",
        **({"partition": job.partition} if job.partition else {}),
        **({"account": job.account} if job.account else {}),
    }
    lines = [
        f"#SBATCH --{name}" + ("" if value is None else f"={value}")
        for name, value in options.items()
    ]
    command = ["langcell", "pretrain", "--config", job.config, "--resume", "auto", *job.overrides]
    if job.image:
        command = ["apptainer", "exec", "--nv", job.image, *command]
    srun = f"srun --cpus-per-task={job.cpus} --kill-on-bad-exit=1 {shlex.join(command)}"
    head = "\n".join(["#!/bin/bash", *lines])
    return f"""{head}

export OMP_NUM_THREADS={job.cpus}

# srun would end the run on SIGTERM; scancel sends it to the processes only
told_to_stop=
trap 'told_to_stop=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

# since SLURM 22.05 srun does not inherit --cpus-per-task from sbatch
{srun} &
wait $!
status=$?
if [ "$told_to_stop" ]; then
    wait $!  # the signal ended the first wait, not the run
    status=$?
fi
if [ "$told_to_stop" ] && [ "$status" -ne 0 ]; then
    echo "stopped before the end; requeued"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def apptainer_definition(base: str) -> str:
    """Return an Apptainer definition that installs langcell on an image with Python.

    It must be built in a checkout of the project and installs the tested versions; torch brings
    CUDA.

    Raises
    ------
    ValueError
        If the image has no source, such as docker://.
    """
    bootstrap, _, image = base.partition("://")
    if not (bootstrap and image):
        raise ValueError(
            f"--base must name the source of the image, as docker://python:3.12-slim; got {base!r}"
        )
    files = "\n".join(f"    {name} /opt/langcell/{name}" for name in _SOURCES)
    return f"""Bootstrap: {bootstrap}
From: {image}

%files
{files}

%post
    pip install --no-cache-dir -c /opt/langcell/constraints.txt /opt/langcell

%environment
    export OMP_WAIT_POLICY=PASSIVE

%runscript
    exec langcell "$@"

%labels
    langcell {__version__}
"""
