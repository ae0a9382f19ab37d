"""How to fit a head to a few labelled cells."""

from dataclasses import dataclass

from langcell.runtime.parameter_names import option
from zeroshot.fit.fit_head import KINDS as FITTED
from zeroshot.fit.tuning_recipes import RECIPES
from zeroshot.heads.few_shot_head import DONOR, STATE, TARGETS, TYPE

KINDS = (*FITTED, *RECIPES)  # heads on a frozen model, and heads that tune the model too


@dataclass(frozen=True, kw_only=True)
class FewShotOptions:
    """How to fit a head."""

    target: str = TYPE  # what labels say, one of `zeroshot.heads.few_shot_head.TARGETS`
    kind: str = "auto"  # or one of `KINDS`
    shots: int | None = None  # cells of each label, drawn; all by default
    labels: tuple[str, ...] = ()  # further ones, that no cell has and the head shall know by text
    group_key: str | None = None  # column of obs that folds do not divide, such as the donor
    type_key: str | None = None  # of the cell types, each of which counts the same in a donor
    seed: int = 0  # of the drawn cells, and of tuning
    layer: str | None = None  # of the counts; found without
    allow_normalized: bool = False
    device: str = "auto"  # of a model that is given by name
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("auto", *KINDS):
            raise ValueError(
                f"{option('kind', flag='--head')} must be one of auto, {', '.join(KINDS)}, "
                f"got {self.kind!r}"
            )
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"{option('shots')} must be at least 1, got {self.shots}")
        if self.target not in TARGETS:
            raise ValueError(
                f"{option('target')} must be one of {', '.join(TARGETS)}, got {self.target!r}"
            )
        if self.target != TYPE and self.labels:
            raise ValueError(
                f"{option('target', self.target)} is fitted to cells only: leave out "
                f"{option('labels')}"
            )
        if self.target == STATE and self.kind in RECIPES and RECIPES[self.kind].reads_texts:
            without_texts = [name for name, each in RECIPES.items() if not each.reads_texts]
            kind = option("kind", self.kind, flag="--head")
            raise ValueError(
                f"{option('target', STATE)} is fitted to cells only, and {kind} scores labels by "
                f"text: use linear, {' or '.join(without_texts)}"
            )
        if self.target != DONOR and self.type_key is not None:
            raise ValueError(
                f"{option('type_key')} needs {option('target', DONOR)}, got "
                f"{option('target', self.target)}"
            )
