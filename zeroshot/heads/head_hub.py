"""Heads on the Hugging Face hub: `owner/name[@revision]` wherever a folder of a head is named."""

from pathlib import Path
from typing import Protocol

from langcell.checkpoints import hub
from zeroshot.heads.few_shot_head import FewShotHead
from zeroshot.heads.head_file import CALIBRATION, CARD, CHANGES, DESCRIPTION, WEIGHTS, read_head

_REQUIRED = (DESCRIPTION, WEIGHTS, CALIBRATION)
_FILES = (*_REQUIRED, CHANGES, CARD)


class HasHead(Protocol):
    """A head with what was measured of it, as `zeroshot.fit_few_shot` returns."""

    @property
    def head(self) -> FewShotHead:
        """The head itself."""


def as_head(given: "FewShotHead | HasHead | str | Path | None") -> FewShotHead | None:
    """Return the head that was given itself, fitted, or by its folder or hub id."""
    if given is None or isinstance(given, FewShotHead):
        return given
    return load_head(given) if isinstance(given, str | Path) else given.head


def load_head(name: str | Path) -> FewShotHead:
    """Load a head from a folder, or from the hub by `owner/name` or `owner/name@revision`.

    Raises
    ------
    OSError
        If it is neither here nor on the hub; one line.
    ValueError
        As `zeroshot.heads.head_file.read_head`.
    """
    folder = Path(name).expanduser()
    if folder.exists():
        return read_head(folder)
    repo_id, revision = hub.split_revision(str(name))
    if isinstance(name, Path) or "/" not in repo_id or not hub.is_hub_id(repo_id):
        raise FileNotFoundError(
            f"no folder {str(name)!r} of a head; make one with langcell fewshot fit, or name one on "
            "the hub, owner/name"
        )
    try:
        fetched = hub.download(repo_id, _FILES, revision=revision, required=_REQUIRED)
    except OSError as error:
        raise OSError(
            f"no folder {str(name)!r} of a head, and {error}; a head is what langcell fewshot push "
            "uploads, and a model goes to --model"
        ) from error
    return read_head(fetched)


def push_head(
    folder: str | Path,
    repo_id: str,
    *,
    revision: str = "",
    private: bool = False,
    message: str = "Upload a langcell head",
) -> str:
    """Upload the folder of a head to the Hugging Face hub; see `langcell.checkpoints.hub.upload`.

    The card goes with it, which names the command, and so files, that the head was made with.

    Returns
    -------
    Hash of the commit: `owner/name@HASH` loads this and no other
    """
    read_head(Path(folder))  # nothing that could not be read goes up
    return hub.upload(Path(folder), repo_id, revision=revision, private=private, message=message)
