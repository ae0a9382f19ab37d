"""Download from and upload to the Hugging Face hub; use its local cache without network."""

import logging
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.utils import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

_WEIGHTS = ".safetensors"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def is_hub_id(name: str) -> bool:
    """Tell whether `name` looks like a hub id, `owner/name` or `name`.

    >>> is_hub_id("microsoft/BiomedNLP"), is_hub_id("./model"), is_hub_id("a/b/c")
    (True, False, False)
    """
    return _HUB_ID.fullmatch(name) is not None


def split_revision(name: str) -> tuple[str, str]:
    """Split `owner/name@revision` into its parts; the revision is '' if there is none.

    >>> split_revision("owner/name@v1.0"), split_revision("owner/name")
    (('owner/name', 'v1.0'), ('owner/name', ''))
    """
    repo_id, _, revision = name.partition("@")
    return repo_id, revision


def download(
    repo_id: str,
    patterns: Sequence[str],
    *,
    revision: str = "",
    required: Sequence[str] = (),
    only_cached: bool = False,
) -> Path:
    """Return a local folder with the files of a hub repository that match `patterns`.

    Parameters
    ----------
    repo_id
        `owner/name`.
    patterns
        Patterns of the files to download.
    revision
        Commit, tag or branch; by default the main branch.
    required
        Files that must exist. Those other than weights are downloaded first.
    only_cached
        Download nothing, as without network or with HF_HUB_OFFLINE=1.

    Raises
    ------
    OSError
        If the files are neither cached nor reachable.
    """
    only_cached = only_cached or not _is_online()
    small = [name for name in required if Path(name).suffix != _WEIGHTS]
    if small and not only_cached:
        _fetch(repo_id, small, revision=revision, required=small)
    return _fetch(repo_id, patterns, revision=revision, required=required, only_cached=only_cached)


def _fetch(
    repo_id: str,
    patterns: Sequence[str],
    *,
    revision: str,
    required: Sequence[str],
    only_cached: bool = False,
) -> Path:
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # otherwise each retry prints a line
    try:
        folder = huggingface_hub.snapshot_download(
            repo_id,
            revision=revision or None,
            allow_patterns=list(patterns),
            local_files_only=only_cached,
        )
    except (OSError, HFValidationError) as error:
        reason = _reason(error, revision, only_cached)
        raise OSError(
            f"{repo_id!r} could not be downloaded from the Hugging Face hub: {reason}"
        ) from error
    finally:
        logger.setLevel(level)
    if missing := [name for name in required if not (Path(folder) / name).is_file()]:
        where = f"the local cache, and {_absence()}" if only_cached else "the repository"
        raise OSError(f"{repo_id!r} has no {missing[0]} in {where}")
    return Path(folder)


def upload(
    folder: Path, repo_id: str, *, revision: str = "", private: bool = False, message: str
) -> str:
    """Upload the files of a folder in one commit; return the commit hash.

    Parameters
    ----------
    repo_id
        `owner/name`; created if it does not exist.
    revision
        Branch, created if it does not exist; by default the main branch.
    private
        Make a new repository private.
    message
        Commit message.

    Raises
    ------
    OSError
        If the hub cannot be reached or refuses the upload.
    """
    if not _is_online():
        raise OSError(f"{repo_id!r} cannot be uploaded: {_absence()}")
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            folder_path=folder, repo_id=repo_id, revision=revision or None, commit_message=message
        )
    except (OSError, HFValidationError) as error:
        raise OSError(
            f"{repo_id!r} could not be uploaded to the Hugging Face hub: "
            f"{_reason(error, revision, False)}"
        ) from error
    return commit.oid


def _reason(error: Exception, revision: str, only_cached: bool) -> str:
    """Return the reason of a hub error in one line, with what the user can do."""
    if isinstance(error, GatedRepoError):
        return "its owner must grant you access first; then log in with HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return "the repository does not exist or is private; log in with HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision!r}"
    if only_cached:
        at = f" at revision {revision!r}" if revision else ""
        return f"it is not in the local cache{at}, and {_absence()}"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _absence() -> str:
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return "there is no network to the hub"


def _is_online() -> bool:
    """Tell whether the hub can be reached; without this check its client retries for 20 seconds."""
    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True
