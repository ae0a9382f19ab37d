"""Protocol of a model that can embed cells."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from langcell.checkpoints.label_embeddings import LabelEmbeddings
    from langcell.checkpoints.reference_cells import ReferenceCells
    from langcell.genes.vocabulary import GeneVocabulary
    from langcell.nn.config import LangCellConfig
    from langcell.nn.features import CellFeatures


class CellModel(Protocol):
    """A torch model that encodes tokenised cells, such as `LangCell`."""

    config: "LangCellConfig"
    vocabulary: "GeneVocabulary | None"
    label_embeddings: "LabelEmbeddings | None"
    reference: "ReferenceCells | None"
    calibration: str
    sha256: str
    training: bool

    @property
    def device(self) -> "torch.device":
        """Device of the weights."""

    @property
    def genes(self) -> "GeneVocabulary":
        """Gene vocabulary of the tokens."""

    def encode_cell(
        self,
        input_ids: "torch.Tensor",
        attention_mask: "torch.Tensor | None",
        *,
        cls_only: bool = False,
    ) -> "CellFeatures":
        """Encode tokenised cells; see `langcell.nn.two_tower.TwoTower.encode_cell`."""

    def state_dict(self) -> "dict[str, torch.Tensor]":
        """Return the weights by name."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, or back."""
