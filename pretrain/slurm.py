"""What a cluster wants to be given: a job for sbatch, a definition for Apptainer."""

import shlex
from dataclasses import dataclass

from langcell.version import __version__

_SAVE_S = 180  # from the signal to the end of the time: for the step, the checkpoint, the exit
_STOPPED = 130  # exit status of a run that was told to stop and saved its state


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
        Limit of one job, as SLURM writes it.
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


def sbatch(job: SlurmJob) -> str:
    """Return a script for sbatch.

    SLURM sends SIGTERM some minutes before the time is over; the run finishes its step, saves its
    state and ends with a status of its own, on which the job puts itself into the queue again.
    """
    options = {
        "job-name": "langcell-pretrain",
        "nodes": job.nodes,
        "ntasks-per-node": job.gpus,
        "gpus-per-node": job.gpus,
        "cpus-per-task": job.cpus,
        "time": job.time,
        "signal": f"TERM@{_SAVE_S}",
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
    head = "\n".join(["#!/bin/bash", *lines])
    return f"""{head}

export OMP_NUM_THREADS={job.cpus}
status=0
srun --kill-on-bad-exit=1 {shlex.join(command)} || status=$?
if [ "$status" -eq {_STOPPED} ]; then
    echo "stopped before the end; into the queue again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def apptainer_definition(base: str) -> str:
    """Return an Apptainer definition with langcell on top of an image that has Python.

    It is built in a checkout of the project, whose tested versions it installs; those of torch
    bring CUDA along.
    """
    return f"""Bootstrap: {base.partition("://")[0]}
From: {base.partition("://")[2]}

%files
    . /opt/langcell

%post
    pip install --no-cache-dir -c /opt/langcell/constraints.txt /opt/langcell

%environment
    export OMP_WAIT_POLICY=PASSIVE

%runscript
    exec langcell "$@"

%labels
    langcell {__version__}
"""
