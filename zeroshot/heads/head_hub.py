"""Few-shot heads on the Hugging Face Hub, named `owner/name[@revision]`."""

from pathlib import Path

from langcell.checkpoints import hub
from langcell.runtime.parameter_names import option
from zeroshot.heads.few_shot_head import FewShotHead, HasHead
from zeroshot.heads.head_file import CALIBRATION, CARD, CHANGES, DESCRIPTION, WEIGHTS, read_head

_REQUIRED = (DESCRIPTION, WEIGHTS, CALIBRATION)
_FILES = (*_REQUIRED, CHANGES, CARD)


def as_head(given: "FewShotHead | HasHead | str | Path | None") -> FewShotHead | None:
    """Return the head that was given itself, fitted, or by its folder or hub id."""
    if given is None or isinstance(given, FewShotHead):
        return given
    if isinstance(given, str | Path):
        return load_head(given)
    head = getattr(given, "head", None)
    if not isinstance(head, FewShotHead):
        raise TypeError(
            f"head must be a few-shot head, its folder or hub id, got {type(given).__name__}"
        )
    return head


def load_head(name: str | Path) -> FewShotHead:
    """Load a head from a folder, or from the hub by `owner/name` or `owner/name@revision`.

    Raises
    ------
    OSError
        If there is neither such a folder nor such a repository on the hub.
    ValueError
        As in `zeroshot.heads.head_file.read_head`.
    """
    folder = Path(name).expanduser()
    if folder.exists():
        return read_head(folder)
    repo_id, revision = hub.split_revision(str(name))
    if isinstance(name, Path) or "/" not in repo_id or not hub.is_hub_id(repo_id):
        raise FileNotFoundError(
            f"no folder {str(name)!r} of a head; make one with langcell fewshot fit, or give "
            "owner/name of one on the hub"
        )
    try:
        fetched = hub.download(repo_id, _FILES, revision=revision, required=_REQUIRED)
    except OSError as error:
        raise OSError(
            f"no folder {str(name)!r} of a head, and {error}; a head is uploaded by langcell fewshot "
            f"push, and a model is given as {option('model')}"
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
    """Upload the folder of a head to the Hugging Face Hub; see `langcell.checkpoints.hub.upload`.

    This includes README.md, which contains the command, with its file names, that made the head.

    Returns
    -------
    Hash of the commit: `owner/name@HASH` loads exactly this version
    """
    read_head(Path(folder))  # raises before the upload if the head cannot be read
    return hub.upload(Path(folder), repo_id, revision=revision, private=private, message=message)
