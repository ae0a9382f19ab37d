"""Recipes that fine-tune the model with a head: our own, and those of the LangCell paper."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Trainable: TypeAlias = Literal["adapters", "cells", "everything", "classes"]


@dataclass(frozen=True, kw_only=True)
class TuningRecipe:
    """Settings of fine-tuning.

    Attributes
    ----------
    trainable: "adapters", LoRA on the linear layers of the cell encoder and its projection; "cells",
        all weights of these; "everything", both encoders, projections and the matching head; or
        "classes", only a linear classifier on the features of the frozen model
    reads_texts: logits include the similarity with the label's text; else only the classifier
    matches: train the matching head too, and add the log-probability of a match
    is_balanced: sample labels evenly; else permute the cells
    epochs: number of epochs, or the maximum if `patience` is set
    patience: epochs without a lower held-out loss before stopping; None runs all epochs
    unjudged_epochs: number of epochs if a label has one cell, so that nothing can be held out
    decays: decay the learning rate linearly to zero, after `warmup_steps` of warm-up
    """

    trainable: Trainable
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


# The last three follow the released LangCell code: few-shot of LangCell (both encoders,
# cross-entropy of similarities / temperature and of matches), fine-tuning of LangCell-CE, and its
# few-shot, which trains only the classifier. We fixed what we take for mistakes: the matching head
# is trained too, its term is a log-probability, nothing is selected on test cells, no layer is
# random and frozen (the model's own projection replaces the new pooler), and the seed is set.
RECIPES: dict[str, TuningRecipe] = {
    "lora": TuningRecipe(
        trainable="adapters",
        learning_rate=1e-3,
        weight_decay=0.01,
        batch_size=32,
        epochs=30,
        is_balanced=True,
        patience=4,
        unjudged_epochs=4,
    ),
    "full": TuningRecipe(
        trainable="cells",
        learning_rate=1e-4,
        weight_decay=0.01,
        batch_size=32,
        epochs=30,
        is_balanced=True,
        patience=4,
        unjudged_epochs=4,
    ),
    "langcell": TuningRecipe(
        trainable="everything", learning_rate=1e-5, batch_size=12, epochs=10, matches=True
    ),
    "langcell-ce": TuningRecipe(
        trainable="cells",
        reads_texts=False,
        learning_rate=5e-5,
        weight_decay=0.001,
        batch_size=16,
        epochs=20,
        decays=True,
        warmup_steps=500,
    ),
    "langcell-ce-frozen": TuningRecipe(
        trainable="classes",
        reads_texts=False,
        learning_rate=5e-3,
        weight_decay=0.001,
        batch_size=16,
        epochs=20,
        decays=True,
    ),
}
