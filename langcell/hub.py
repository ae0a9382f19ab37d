"""Fetch folders from the Hugging Face hub, or from its local cache when there is no network."""

import logging
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

import huggingface_hub
from huggingface_hub import constants

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def is_hub_id(name: str) -> bool:
    """Tell whether `name` has the form of a hub id, `owner/name` or `name`.

    >>> is_hub_id("microsoft/BiomedNLP"), is_hub_id("./model"), is_hub_id("a/b/c")
    (True, False, False)
    """
    return _HUB_ID.fullmatch(name) is not None


def download(
    repo_id: str, patterns: Sequence[str], *, revision: str = "", only_cached: bool = False
) -> Path:
    """Return a local folder with the files of a hub repository that match `patterns`.

    With `only_cached` nothing is fetched.

    Raises
    ------
    OSError
        If the files are neither cached nor reachable; one line.
    """
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its retries would print a line each
    try:
        folder = huggingface_hub.snapshot_download(
            repo_id,
            revision=revision or None,
            allow_patterns=list(patterns),
            local_files_only=only_cached or not _is_online(),
        )
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{repo_id!r} could not be fetched from the Hugging Face hub: {reason}"
        ) from (error)
    finally:
        logger.setLevel(level)
    return Path(folder)


def _is_online() -> bool:
    """Tell whether the hub can be asked at all; without this its client retries for 20 seconds."""
    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True
