"""Load a model to embed cells, without torch if possible."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from langcell.checkpoints.checkpoint import WEIGHTS, resolve_checkpoint
from langcell.model.frozen_bag import FrozenBag
from langcell.nn.config import LangCellConfig

if TYPE_CHECKING:
    from langcell.model.langcell import LangCell

Embedder: TypeAlias = "LangCell | FrozenBag"  # embeds cells and projects texts


def load_embedder(name: str | Path, *, device: str = "auto", states: bool = False) -> Embedder:
    """Load a model to embed cells with; a bag of genes on a CPU comes as a `FrozenBag`.

    Parameters
    ----------
    name
        See `langcell.checkpoints.checkpoint.resolve_checkpoint`.
    device
        Where the weights go; a bag of genes stays on the CPU with "auto".
    states
        Token states are needed too, for matching.

    Raises
    ------
    OSError, ValueError
        As `LangCell.from_pretrained`.
    """
    folder = resolve_checkpoint(name)
    if device in ("auto", "cpu") and not states and _holds_bag(folder):
        return FrozenBag.read(folder)
    # Imported here: torch takes seconds to import.
    from langcell.model.langcell import LangCell

    return LangCell.from_pretrained(folder, device=device)


def _holds_bag(folder: Path) -> bool:
    path = folder / "config.json"
    has_files = path.is_file() and (folder / WEIGHTS).is_file()
    return has_files and LangCellConfig.read(path).cell.kind == "bag"
