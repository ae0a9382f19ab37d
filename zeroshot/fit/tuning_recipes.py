"""How heads are tuned together with the model: ours, and those of the LangCell paper."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Learns: TypeAlias = Literal["adapters", "cells", "everything", "classes"]


@dataclass(frozen=True, kw_only=True)
class TuningRecipe:
    """What learns, by which loss, and how.

    Attributes
    ----------
    learns: low-rank "adapters" of the cell encoder's linear layers and projection; these "cells"
        weights whole; "everything", that is both encoders, projections and matching head; or the
        "classes" alone, weights of labels on the features of a model that stays as it is
    reads_texts: labels begin as their texts, which goes on to speak for them; else as nothing
    matches: the matching head learns too, and the log-probability of a match counts
    is_balanced: labels are drawn evenly, and cells of a label in turns; else cells in turns
    epochs: passes over as many cells as there are; the most of them where `patience` is set
    patience: epochs without a gain on the cells held out; None goes through all epochs
    unjudged_epochs: where a label has one cell, so that nothing can be held out
    decays: the learning rate sinks in a line to nothing, after `warmup_steps` up
    """

    learns: Learns
    learning_rate: float
    batch_size: int
    epochs: int
    reads_texts: bool = True
    matches: bool = False
    is_balanced: bool = False
    weight_decay: float = 0.0
    patience: int | None = None
    unjudged_epochs: int | None = None
    decays: bool = False
    warmup_steps: int = 0


# The last three are those of the released code, section by section: few-shot of LangCell (both
# encoders, cross-entropy of similarities / temperature and of matches), fine-tuning of LangCell-CE
# and its few-shot, in which the classifier alone learns. What we hold to be slips is mended: the
# matching head learns too, its term is a log-probability, nothing is chosen on test cells, nothing
# depends on a layer that is random and frozen (the model's own projection stands in the place of
# the new pooler), and the seed is given.
RECIPES: dict[str, TuningRecipe] = {
    "lora": TuningRecipe(
        learns="adapters",
        learning_rate=1e-3,
        weight_decay=0.01,
        batch_size=32,
        epochs=30,
        is_balanced=True,
        patience=4,
        unjudged_epochs=4,
    ),
    "full": TuningRecipe(
        learns="cells",
        learning_rate=1e-4,
        weight_decay=0.01,
        batch_size=32,
        epochs=30,
        is_balanced=True,
        patience=4,
        unjudged_epochs=4,
    ),
    "langcell": TuningRecipe(
        learns="everything", learning_rate=1e-5, batch_size=12, epochs=10, matches=True
    ),
    "langcell-ce": TuningRecipe(
        learns="cells",
        reads_texts=False,
        learning_rate=5e-5,
        weight_decay=0.001,
        batch_size=16,
        epochs=20,
        decays=True,
        warmup_steps=500,
    ),
    "langcell-ce-frozen": TuningRecipe(
        learns="classes",
        reads_texts=False,
        learning_rate=5e-3,
        weight_decay=0.001,
        batch_size=16,
        epochs=20,
        decays=True,
    ),
}
