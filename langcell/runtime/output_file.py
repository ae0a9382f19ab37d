"""Files that are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_output(target: Path, *, suffixes: tuple[str, ...], overwrite: bool) -> None:
    """Refuse an output that cannot be written, before any work is done for it.

    Raises
    ------
    ValueError
        If the name does not end in one of `suffixes`.
    FileExistsError
        If it is there already and `overwrite` is False.
    OSError
        If its folder does not exist or cannot be written to.
    """
    if target.suffix not in suffixes:
        raise ValueError(f"cannot write {target}: its name must end in {' or '.join(suffixes)}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder")
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists already; choose another name or replace it with --overwrite"
        )
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"cannot write {target}: no permission to write in {target.parent}")


@contextmanager
def replaced_file(target: Path) -> Iterator[Path]:
    """Hand out a temporary name beside `target`; it takes the target's place at the end.

    Whatever stops the block, Ctrl-C included, removes the temporary file and leaves an older target
    as it was.
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
