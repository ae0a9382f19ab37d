"""Recognise MuData files (h5mu), which are not read directly."""

from typing import Any


def refuse_mudata(group: Any, label: str) -> None:
    """Raise if an open file is a MuData (h5mu), not an AnnData.

    Raises
    ------
    ValueError
        If it is a MuData; the message says how to read one modality.
    """
    if "mod" in group:
        names = list(group["mod"])
        some = "rna" if "rna" in names else names[0] if names else "rna"
        raise ValueError(
            f"{label} is a MuData file with modalities {', '.join(names) or 'none'}; write one as "
            f"h5ad, mudata.read_h5ad({label!r}, mod={some!r}).write_h5ad('{some}.h5ad'), or call "
            f"langcell.annotate(mdata, modality={some!r}) in Python"
        )
