"""Options of `langcell.annotate`."""

from dataclasses import dataclass
from pathlib import Path

from langcell.runtime.parameter_names import option
from zeroshot.annotation.official_scoring import ALPHA, FUSED, OFFICIAL, SCORINGS
from zeroshot.confidence.calibration import Calibration
from zeroshot.heads.few_shot_head import DONOR, STATE, FewShotHead
from zeroshot.labels.tissue_weights import MODES

DEFAULT_KEY = "langcell"
STATE_KEY = f"{DEFAULT_KEY}_state"


def default_key(head: FewShotHead | None) -> str:
    """Return the default prefix of results; a head of states gets one of its own."""
    return STATE_KEY if head is not None and head.target == STATE else DEFAULT_KEY


@dataclass(frozen=True, kw_only=True)
class AnnotateOptions:
    """How to annotate."""

    layer: str | None = None  # of the counts; found without
    allow_normalized: bool = False  # accept values that look like log1p or CPM
    device: str = "auto"  # of a model that is given by name
    devices: int = 1  # of that kind on each node, a process each
    nodes: int = 1  # started by torchrun or SLURM, each with the same command
    batch_size: int | None = None  # chosen for the device by default
    top_k: int = 10  # candidates a cell whose scores are kept
    rerank: int = 0  # candidates a cell that the matching head looks at; 0 leaves it out
    rerank_weight: float = 1.0  # of the match log-probability
    scoring: str = FUSED  # or "official", the sum of softmaxes of the paper
    alpha: float | None = None  # of the similarity in the official scoring; 0.1 by default
    confidence: float = 0.9  # least calibrated probability of a call; below it the call backs off
    calibration: Calibration | None = None  # in place of the model's own
    head: FewShotHead | None = None  # of labelled cells; its labels are the candidates
    key_added: str = DEFAULT_KEY  # what the names of all results begin with
    overwrite: bool = False  # replace an output or results that are there already
    inplace: bool = False  # add the results to the input h5ad itself
    command: str = ""  # that does the same, to be written down with the results
    tissue: str | None = None  # UBERON name or id of the cells, or "auto" for those in obs
    tissue_mode: str = "weigh"  # candidates by the tissue, or "restrict" them to it
    tissue_obo: str | Path | None = None  # release whose relations say where a type belongs

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"{option('top_k')} must be at least 1, got {self.top_k}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"{option('batch_size')} must be at least 1, got {self.batch_size}")
        if self.devices < 1 or self.nodes < 1:
            raise ValueError(
                f"{option('devices')} and {option('nodes')} must be at least 1, got {self.devices} "
                f"and {self.nodes}"
            )
        if self.is_distributed and self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(
                f"several devices must all be cpu or cuda, got {option('device', self.device)}; leave "
                "out the index of a device"
            )
        if self.head is not None:
            self._check_head(self.head)
        if self.rerank == 1 or self.rerank < 0:
            raise ValueError(
                f"{option('rerank')} must be 0 (off) or at least 2 candidates, got {self.rerank}"
            )
        self._check_scoring()
        if not 0 < self.confidence < 1:
            raise ValueError(
                f"{option('confidence')} must be between 0 and 1, got {self.confidence}"
            )
        if self.tissue_mode not in MODES:
            raise ValueError(
                f"{option('tissue_mode')} must be {' or '.join(MODES)}, got {self.tissue_mode!r}"
            )
        if self.tissue is None and (self.tissue_mode != MODES[0] or self.tissue_obo):
            raise ValueError(
                f"{option('tissue_mode')} and {option('tissue_obo')} need a tissue; give a name or "
                f"'auto' as {option('tissue')}"
            )

    def _check_head(self, head: FewShotHead) -> None:
        if self.rerank:
            raise ValueError(f"a head replaces reranking: leave out {option('rerank')}")
        if head.target == DONOR:
            raise ValueError(
                "the head labels donors, not cells: use langcell fewshot donors or "
                "langcell.call_donors"
            )
        if head.target == STATE and self.key_added == DEFAULT_KEY:
            raise ValueError(
                f"the head calls states, and the prefix {DEFAULT_KEY!r} is for cell types: give "
                f"another {option('key_added')}, such as {STATE_KEY}"
            )

    def _check_scoring(self) -> None:
        if self.scoring not in SCORINGS:
            raise ValueError(
                f"{option('scoring')} must be {' or '.join(SCORINGS)}, got {self.scoring!r}"
            )
        if self.scoring == FUSED:
            if self.alpha is not None:
                raise ValueError(f"{option('alpha')} needs {option('scoring', OFFICIAL)}")
            return
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"{option('alpha')} must be from 0 to 1, got {self.alpha}")
        if self.rerank or self.head or self.tissue is not None or self.calibration is not None:
            raise ValueError(
                "the official scoring matches every label, and has no tissue prior, head or "
                f"calibration: leave out {option('rerank')}, {option('tissue')}, {option('head')} and "
                f"{option('calibration')}"
            )

    @property
    def similarity_weight(self) -> float:
        """Weight of the similarity (alpha) in the official scoring."""
        return ALPHA if self.alpha is None else self.alpha

    @property
    def needs_states(self) -> bool:
        """Whether the matching head needs the token states of the cells."""
        matches = self.head is not None and self.head.matches
        return self.rerank > 0 or self.scoring == OFFICIAL or matches

    @property
    def is_distributed(self) -> bool:
        """Whether several processes share the work."""
        return self.devices * self.nodes > 1
