"""Which runs a command asks for: one for each input."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zeroshot.inputs import FORMATS, find_inputs, name_outputs
from zeroshot.run import AnnotationRun


def plan_runs(
    wanted: AnnotationRun, given: Sequence[Path], *, form: str = "h5ad", skip_existing: bool = False
) -> list[AnnotationRun]:
    """Return a run for each input.

    Parameters
    ----------
    wanted: what is asked for of each; its output and report are files for one input and folders,
        which are made, for several
    given: inputs, and folders of inputs
    form: of the outputs of several inputs: h5ad, csv or parquet
    skip_existing: leave inputs out whose output is there

    Raises
    ------
    ValueError, OSError
        If inputs or outputs are not what they must be.
    """
    inputs = find_inputs(given)
    inplace = wanted.options.inplace
    if len(inputs) == 1 and list(given) == inputs:
        if form != FORMATS[0] or skip_existing:
            raise ValueError("--format and --skip-existing are for several inputs, or a folder")
        default = None if inplace else name_outputs(inputs, Path.cwd())[0]
        return [replace(wanted, source=inputs[0], out=wanted.out or default)]
    if form not in FORMATS:
        raise ValueError(f"--format must be {', '.join(FORMATS)}, got {form!r}")
    if inplace:
        if wanted.out is not None or skip_existing:
            raise ValueError("--inplace adds to the inputs: leave --out and --skip-existing away")
        runs = [replace(wanted, source=each, out=None) for each in inputs]
    else:
        outputs = name_outputs(inputs, _folder(wanted.out, "--out"), form=form)
        runs = [
            replace(wanted, source=source, out=out)
            for source, out in zip(inputs, outputs, strict=True)
            if not (skip_existing and out.exists())
        ]
        if not runs:
            raise ValueError(f"all {len(inputs)} inputs have an output; --overwrite replaces them")
    if wanted.report is None:
        return runs
    folder = _folder(wanted.report, "--report")
    names = name_outputs([run.source for run in runs], folder, form="html")
    return [replace(run, report=name) for run, name in zip(runs, names, strict=True)]


def _folder(given: Path | None, option: str) -> Path:
    """Make the folder that several outputs go to."""
    if given is None:
        return Path.cwd()
    if given.exists() and not given.is_dir():
        raise NotADirectoryError(f"{option} {given} is a file; several inputs need a folder")
    if not given.exists() and given.suffix:
        raise ValueError(f"{option} {given} names a file; several inputs need a folder")
    given.mkdir(parents=True, exist_ok=True)
    return given
