"""Atomic file writes: a file is written completely or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from langcell.runtime.parameter_names import option


def check_output(target: Path, *, suffixes: tuple[str, ...], overwrite: bool) -> None:
    """Raise if an output file cannot be written; call it before any work is done.

    Raises
    ------
    ValueError
        If the name does not end in one of `suffixes`.
    FileExistsError
        If the file exists and `overwrite` is False.
    OSError
        If its folder does not exist or is not writable.
    """
    if target.suffix not in suffixes:
        raise ValueError(f"cannot write {target}: its name must end in {' or '.join(suffixes)}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder")
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists already; choose another name or pass {option('overwrite', True)}"
        )
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"cannot write {target}: no permission to write in {target.parent}")


@contextmanager
def replaced_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path next to `target`; rename it to `target` at the end of the block.

    If the block raises (Ctrl-C included), the temporary file is deleted and an existing target is
    left unchanged.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            temporary.touch(exist_ok=False)
        except OSError as error:
            raise type(error)(f"cannot write {target}: {error.strerror}") from error
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
