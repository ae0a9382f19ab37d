"""Which runs a command asks for: one for each input."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zeroshot.commands.inputs import FORMATS, find_inputs, name_outputs
from zeroshot.commands.run import AnnotationRun
from zeroshot.results.writers import TABLES


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
        If inputs or outputs are not what they must be, or wishes exclude each other.
    """
    inputs = find_inputs(given)
    if len(inputs) > 1 or list(given) != inputs:
        return _plan_several(wanted, inputs, form, skip_existing)
    if form != FORMATS[0] or skip_existing:
        raise ValueError("--format and --skip-existing are for several inputs, or a folder")
    _check_wishes(wanted, None if wanted.out is None else wanted.out.suffix)
    default = None if wanted.options.inplace else name_outputs(inputs, Path.cwd())[0]
    return [replace(wanted, source=inputs[0], out=wanted.out or default)]


def _plan_several(
    wanted: AnnotationRun, inputs: list[Path], form: str, skip_existing: bool
) -> list[AnnotationRun]:
    """Plan a run for each of several inputs, or for each in a folder."""
    if form not in FORMATS:
        raise ValueError(f"--format must be {', '.join(FORMATS)}, got {form!r}")
    if wanted.options.inplace and (skip_existing or form != FORMATS[0]):
        raise ValueError("--inplace adds to the inputs: leave --skip-existing and --format away")
    if wanted.options.is_distributed:
        raise ValueError(
            "several devices share the work on one input; give them one, or leave --devices and "
            "--nodes away"
        )
    _check_wishes(wanted, f".{form}")
    outputs: list[Path | None] = [None for _ in inputs]
    if not wanted.options.inplace:
        outputs = list(name_outputs(inputs, _folder(wanted.out, "--out"), form=form))
    reports: list[Path | None] = [None for _ in inputs]
    if wanted.report is not None:
        reports = list(name_outputs(inputs, _folder(wanted.report, "--report"), form="html"))
    runs = [
        replace(wanted, source=source, out=out, report=report)
        for source, out, report in zip(inputs, outputs, reports, strict=True)
        if not (skip_existing and out is not None and out.exists())
    ]
    if not runs:
        raise ValueError(f"all {len(inputs)} inputs have an output; --overwrite replaces them")
    for made in {path.parent for run in runs for path in (run.out, run.report) if path is not None}:
        made.mkdir(parents=True, exist_ok=True)
    return runs


def _check_wishes(wanted: AnnotationRun, suffix: str | None) -> None:
    """Refuse what does not go together whatever the inputs hold.

    Parameters
    ----------
    wanted: what is asked for
    suffix: of the output, None for none that was named
    """
    if wanted.options.inplace and wanted.out is not None:
        raise ValueError(f"--inplace adds to the input itself; leave --out {wanted.out} away")
    if suffix not in TABLES:
        return
    if wanted.decoding.decoders:
        raise ValueError(
            "--smooth, --cluster-key and --assign-within read the scores, which an h5ad output alone "
            f"holds; the output asked for is {suffix}"
        )
    if wanted.report is not None:
        raise ValueError(
            f"--report reads an annotated h5ad, and the output asked for is {suffix}; name an .h5ad"
        )


def _folder(given: Path | None, option: str) -> Path:
    """Return the folder that several outputs go to, which need not be there yet."""
    if given is None:
        return Path.cwd()
    if given.exists() and not given.is_dir():
        raise NotADirectoryError(f"{option} {given} is a file; several inputs need a folder")
    if not given.exists() and given.suffix:
        raise ValueError(f"{option} {given} names a file; several inputs need a folder")
    return given
