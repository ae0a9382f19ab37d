"""Select a modality of a MuData."""

import os
from typing import Any


def modality_of(source: Any, modality: str | None) -> Any:
    """Return the AnnData of one modality of a MuData; return any other source unchanged.

    A MuData is recognised by its attribute `mod`, so that mudata need not be installed. Results
    written to the AnnData appear in `mdata["rna"].obs`; `mdata.pull_obs()` copies them to `mdata.obs`.

    Parameters
    ----------
    source: MuData, AnnData or path
    modality: name of the modality with RNA counts, None for other sources

    Raises
    ------
    ValueError
        If a MuData has no such modality, if `modality` is missing for a MuData, or if it is given
        for another source.
    """
    if not isinstance(source, str | os.PathLike) and not hasattr(source, "obs"):
        raise TypeError(
            f"expected an AnnData, a MuData or the path of a file, got {type(source).__name__}"
        )
    if not hasattr(source, "mod"):
        if modality is not None:
            raise ValueError(
                f"modality={modality!r} is for a MuData, got {type(source).__name__}; leave it out"
            )
        return source
    names = ", ".join(map(str, source.mod))
    if modality is None:
        raise ValueError(f"a MuData needs modality=, the one with RNA counts; it has {names}")
    if modality not in source.mod:
        raise ValueError(f"the MuData has no modality {modality!r}; it has {names}")
    return source.mod[modality]
