"""The part of a MuData that a function works on."""

from typing import Any


def modality_of(source: Any, modality: str | None) -> Any:
    """Return the AnnData of a modality of a MuData; any other source as it is.

    A MuData is known by its modalities, so that mudata need not be installed. What is written into
    the AnnData is in the MuData, as `mdata["rna"].obs`; `mdata.pull_obs()` copies it up.

    Parameters
    ----------
    source: MuData, AnnData or path
    modality: name of the modality with counts of RNA, None for other sources

    Raises
    ------
    ValueError
        If a MuData has no such modality or none is named, or a modality of anything else is.
    """
    if not hasattr(source, "mod"):
        if modality is not None:
            raise ValueError(
                f"modality={modality!r} is for a MuData, got {type(source).__name__}; leave it away"
            )
        return source
    names = ", ".join(map(str, source.mod))
    if modality is None:
        raise ValueError(f"a MuData needs modality=, the one with counts of RNA; it has {names}")
    if modality not in source.mod:
        raise ValueError(f"the MuData has no modality {modality!r}; it has {names}")
    return source.mod[modality]
