"""What a cluster wants to be given: a job for sbatch, a definition for Apptainer."""

import re
import shlex
from dataclasses import dataclass

from langcell.runtime.version import __version__

_SAVE_S = 180  # from the signal to the end of the time: for the step, the checkpoint, the exit
_LEAST_S = 2 * _SAVE_S  # of a job: SLURM may send the signal a minute early
_TIME = re.compile(r"((\d+)-)?(\d+)(:\d+)?(:\d+)?", re.ASCII)
# What pip installs from; a checkout holds environments, runs and shards too.
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
        Recipe, or the name of one in the package.
    overrides
        `key=value` words.
    nodes, gpus, cpus
        Nodes, GPUs a node and CPU cores a GPU.
    time
        Limit of one job, as SLURM writes it, and longer than the run needs to stop in good order.
    partition, account
        Empty for the cluster's own.
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
        if seconds_of(self.time) <= _LEAST_S:
            raise ValueError(
                f"--time must be longer than {_LEAST_S // 60} minutes, as the run is told to stop"
                f" {_SAVE_S // 60} before the end; got {self.time!r}: give 24:00:00, for example"
            )


def seconds_of(time: str) -> int:
    """Return the seconds of a limit of time as SLURM writes it.

    Raises
    ------
    ValueError
        If it is none.

    >>> seconds_of("90"), seconds_of("90:30"), seconds_of("1:00:00"), seconds_of("2-12")
    (5400, 5430, 3600, 216000)
    """
    if not _TIME.fullmatch(time):
        raise ValueError(
            "--time must be minutes, minutes:seconds, hours:minutes:seconds, days-hours,"
            f" days-hours:minutes or days-hours:minutes:seconds; got {time!r}: give 24:00:00, for"
            " example"
        )
    days, is_with_days, rest = time.rpartition("-")
    parts = [int(each) for each in rest.split(":")]
    if not is_with_days and len(parts) < 3:
        parts.insert(0, 0)  # without days one or two numbers begin with minutes
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def sbatch(job: SlurmJob) -> str:
    """Return a script for sbatch.

    Some minutes before the time is over SLURM sends SIGUSR1 to the script, which passes it on as
    SIGTERM; the run finishes its step and saves its state, and the script puts the job into the
    queue again. Not the status of srun decides on that: where a process is still closing when the
    first has ended, it is that of the one that srun killed. A job that is cancelled gets no SIGUSR1
    and stays out of the queue.
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

# srun would end the run on SIGTERM; scancel hands it to the processes alone
told_to_stop=
trap 'told_to_stop=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

# since SLURM 22.05 srun takes no --cpus-per-task from sbatch
{srun} &
wait $!
status=$?
if [ "$told_to_stop" ]; then
    wait $!  # the signal ended the first wait, not the run
    status=$?
fi
if [ "$told_to_stop" ] && [ "$status" -ne 0 ]; then
    echo "stopped before the end; into the queue again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def apptainer_definition(base: str) -> str:
    """Return an Apptainer definition with langcell on top of an image that has Python.

    It is built in a checkout of the project, whose tested versions it installs; those of torch
    bring CUDA along.

    Raises
    ------
    ValueError
        If the image does not say where it comes from.
    """
    bootstrap, _, image = base.partition("://")
    if not (bootstrap and image):
        raise ValueError(
            f"--base must say where the image is from, as docker://python:3.12-slim; got {base!r}"
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
