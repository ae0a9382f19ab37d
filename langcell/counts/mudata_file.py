"""Files of several modalities, which are read one modality at a time."""

from typing import Any


def refuse_mudata(group: Any, label: str) -> None:
    """Refuse an open file that is no AnnData but a MuData (h5mu).

    Raises
    ------
    ValueError
        If it is one; the line says how to get at a modality.
    """
    if "mod" in group:
        names = list(group["mod"])
        some = "rna" if "rna" in names else names[0] if names else "rna"
        raise ValueError(
            f"{label} is a MuData file, with modalities {', '.join(names) or 'none'}; write one as "
            f"h5ad, mudata.read_h5ad({label!r}, mod={some!r}).write_h5ad('{some}.h5ad'), or use "
            f"zeroshot.annotate(mdata, modality={some!r}) in Python"
        )
