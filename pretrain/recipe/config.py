"""Recipes: the validated configuration of a pretraining run (data, model, losses, optimiser)."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pretrain.recipe.cell_config import (
    Augmentation,
    Balance,
    Columns,
    Holdout,
    Section,
    Shards,
    Source,
    Validation,
    Vocabulary,
)

# Augmentation that needs counts.
_NEED_COUNTS = ("thin", "overdispersion")


class Model(Section):
    """Sizes of the cell encoder, the matching head and the embedding space."""

    kind: Literal["transformer", "bag"] = "transformer"
    n_layers: int = Field(default=3, ge=1)  # ignored by a bag, which has one hidden layer
    hidden_size: int = Field(default=256, ge=1)
    n_heads: int = Field(default=4, ge=1)
    intermediate_size: int = Field(default=512, ge=1)  # of a transformer's blocks
    hidden_act: Literal["gelu", "gelu_new", "relu"] = "gelu"
    bag_size: int = Field(default=0, ge=0)  # hidden size of a bag, also of one beside a transformer
    max_genes: int = Field(default=256, ge=1)
    attended_genes: int = Field(
        default=0, ge=0
    )  # genes that a transformer attends to; 0: max_genes
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)  # above 0, torch has no fast CPU path
    pooling: Literal["cls", "mean"] = "cls"
    embedding_dim: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.07, gt=0)
    learn_temperature: bool = False  # starting from `temperature`
    matching: Literal["fusion", "cross_attention"] = (
        "fusion"  # the paper uses cross-attention in the text tower
    )
    matching_layers: int = Field(default=2, ge=1)  # of the fusion head, as are the next two
    matching_hidden_size: int = Field(default=256, ge=1)
    matching_interaction: bool = True  # without it the head needs far more pairs
    init_gene_embeddings: Literal["random", "svd"] = "svd"
    init_std: float = Field(default=0.02, gt=0)  # of gene embeddings initialised by SVD
    recompute: bool = False  # activation checkpointing: slower, far less memory
    start_from: str = ""  # checkpoint for a warm start (pretrain.run.warm_start)


class Text(Section):
    """The text tower, how it is trained, and the wording of the texts.

    A frozen tower (LiT, Zhai et al. 2022, arXiv 2111.07991) encodes each text once, before the
    first step; a trained one encodes the distinct texts of each step.
    """

    tower: str = Field(default="all-MiniLM-L6-v2", min_length=1)
    train: Literal["frozen", "lora", "full"] = "frozen"
    lr: float = Field(default=0.1, gt=0)  # factor on optimisation.lr, for a trained tower
    lora_rank: int = Field(default=8, ge=1)
    lora_scale: float = Field(default=2.0, gt=0)  # factor on the product of the low-rank matrices
    pooling: Literal["", "cls", "mean"] = ""  # "": the tower's own; CLS if it is not bundled
    max_tokens: int = Field(default=128, ge=8)
    definition: float = Field(default=0.6, ge=0, le=1)  # chance of the template with the definition
    aspect_drop: float = Field(
        default=0.7, ge=0, le=1
    )  # chance of dropping tissue, disease and stage
    candidates: Literal["all", "corpus"] = (
        "all"  # types whose texts are negatives and saved with the model
    )
    max_synonyms: int = Field(default=4, ge=0)


class Losses(Section):
    """Weights of the losses (0: off), and settings of their negatives."""

    masked_gene: float = Field(default=0.1, ge=0)
    cell_cell: float = Field(default=0.1, ge=0)
    cell_text: float = Field(default=0.5, ge=0)
    matching: float = Field(default=0.2, ge=0)
    distillation: float = Field(default=0.0, ge=0)  # towards the mean prediction of `teachers`
    contrast: Literal["softmax", "sigmoid"] = "softmax"  # form of cell_text, see langcell.nn.losses
    tile: int = Field(default=0, ge=0)  # rows of logits in memory at once; 0: all
    ontology: float = Field(default=1.0, ge=0)  # each cell against every candidate label
    ontology_form: Literal["partial", "subtree"] = "partial"  # see langcell.nn.losses
    ancestor_decay: float = Field(
        default=0.3, ge=0, le=1
    )  # factor on an ancestor's weight per edge
    second_views: int = Field(default=16, ge=0)  # cells per batch encoded twice, for cell_cell
    matching_cells: int = Field(default=8, ge=1)  # per batch, for the matching loss
    masked_positions: int = Field(default=256, ge=1)  # maximum per batch, for the masked-gene loss

    @property
    def read_texts(self) -> bool:
        """Whether any active loss reads texts."""
        return any((self.cell_text, self.matching, self.ontology, self.distillation))


class LinearTeacherSettings(Section):
    """A logistic regression on log counts that joins the teachers (`pretrain.cells.linear_teacher`)."""

    steps: int = Field(default=0, ge=0)  # of its own training, before the model's; 0: off
    genes: int = Field(default=6000, ge=1)  # most variable genes, its input
    lr: float = Field(default=3e-3, gt=0)
    penalty: float = Field(default=1e-3, ge=0)  # on the sum of squared weights
    weight: float = Field(default=0.2, gt=0)  # of its logits, added to the mean of the others'


class Optimisation(Section):
    """Optimiser, learning rate schedule and batch size."""

    steps: int = Field(default=3000, ge=1)
    batch_size: int = Field(default=64, ge=1)  # over all processes
    part: int = Field(default=0, ge=0)  # cells per micro-batch of a process; 0: its whole batch
    lr: float = Field(default=5e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant", "decay"] = "cosine"  # after the warm-up
    decay: float = Field(default=0.2, gt=0, le=1)  # share of steps at the end, for schedule "decay"
    final_lr: float = Field(default=0.02, ge=0, le=1)  # final factor on lr; "constant" ignores it
    warmup: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)
    average: float = Field(
        default=0.0, ge=0, lt=1
    )  # decay of the moving average of weights; 0: off
    precision: Literal["auto", "32", "bf16"] = "auto"  # bf16 on a GPU, 32 on a CPU
    threads: int = Field(default=0, ge=0)  # 0: all cores


class Compute(Section):
    """Devices of a run; they change results only by rounding and drawn masks."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda if available
    devices: int = Field(default=1, ge=1)  # per node, one process each
    nodes: int = Field(default=1, ge=1)
    compile: bool = False  # torch.compile of transformer blocks; no gain on an H100
    strategy: Literal["ddp", "fsdp"] = "ddp"  # fsdp also shards the weights; cuda only

    @property
    def n_processes(self) -> int:
        """Number of processes that train together."""
        return self.devices * self.nodes


class Recipe(Section):
    """Full configuration of a pretraining run."""

    corpus_root: str = ""  # folder of the files; relative to the working directory
    output: str = "runs/pretrain"
    teachers: tuple[str, ...] = ()  # checkpoints, for losses.distillation
    seed: int = Field(default=0, ge=0)
    ontology: str = "bundled"  # or the path of an .obo file
    columns: Columns = Columns()
    sources: tuple[Source, ...] = ()
    shards: Shards = Shards()
    holdout: Holdout = Holdout()
    validation: Validation = Validation()
    vocabulary: Vocabulary = Vocabulary()
    model: Model = Model()
    text: Text = Text()
    losses: Losses = Losses()
    linear_teacher: LinearTeacherSettings = LinearTeacherSettings()
    augmentation: Augmentation = Augmentation()
    balance: Balance = Balance()
    optimisation: Optimisation = Optimisation()
    compute: Compute = Compute()
    checkpoint_every: int = Field(default=250, ge=1)  # steps
    log_every: int = Field(default=25, ge=1)  # steps
    wandb: str = ""  # Weights & Biases project to log to; needs the extra wandb
    reference_cells: int = Field(default=2048, ge=1)  # whose features are saved with the model
    half: bool = True  # save weights as float16

    @model_validator(mode="before")
    @classmethod
    def _only_what_shards_can(cls, values: Any) -> Any:
        """With shards, turn off augmentation that needs counts; raise ValueError if it is set."""
        if not isinstance(values, dict) or not (values.get("shards") or {}).get("folder"):
            return values
        augmentation = dict(values.get("augmentation") or {})
        for name in _NEED_COUNTS:
            if augmentation.setdefault(name, 0):
                raise ValueError(
                    f"augmentation.{name} needs counts, but shards hold ranks: set it to 0 or remove "
                    "it (gene_dropout, subset and keep_tokens work on ranks)"
                )
        if (values.get("linear_teacher") or {}).get("steps"):
            raise ValueError("linear_teacher needs counts, but shards hold ranks: remove it")
        return {**values, "augmentation": augmentation}

    @model_validator(mode="after")
    def _parts_fit(self) -> "Recipe":
        if self.sources and self.shards.folder:
            raise ValueError(
                "a recipe needs either sources (files) or shards.folder (a corpus), got both: set "
                "sources=[] to use the shards"
            )
        if not self.sources and not self.shards.folder:
            raise ValueError("a recipe needs sources (files) or shards.folder (a corpus)")
        if bool(self.losses.distillation) != bool(self.teachers):
            raise ValueError("losses.distillation and teachers go together: set both or neither")
        if self.linear_teacher.steps and not self.teachers:
            raise ValueError(
                "linear_teacher needs other teachers: set teachers, or linear_teacher.steps: 0"
            )
        if self.model.kind == "bag" and self.losses.masked_gene:
            raise ValueError(
                "a bag of genes cannot predict masked genes: set losses.masked_gene: 0"
            )
        self._check_text()
        self._check_processes()
        return self

    def _check_processes(self) -> None:
        """Raise ValueError if processes cannot share a batch, or FSDP lacks a feature."""
        size, n, limit = (
            self.optimisation.batch_size,
            self.compute.n_processes,
            self.shards.max_tokens,
        )
        if size % n:
            raise ValueError(
                f"optimisation.batch_size {size} must be a multiple of the {n} processes"
            )
        if 0 < limit < n:
            raise ValueError(f"shards.max_tokens must be at least the {n} processes, got {limit}")
        if self.compute.strategy != "fsdp":
            return
        if self.optimisation.average:
            raise ValueError("fsdp keeps no averaged weights: set optimisation.average: 0")
        if limit and n > 1 and self.optimisation.part:
            raise ValueError(
                "fsdp needs the same number of micro-batches in each process, but shards.max_tokens "
                "makes batches of different sizes: set optimisation.part: 0, or compute.strategy: ddp"
            )

    def _check_text(self) -> None:
        """Raise ValueError if `text.train` does not fit the losses or the matching head."""
        is_frozen = self.text.train == "frozen"
        if not is_frozen and not self.losses.read_texts:
            raise ValueError(
                f"text.train {self.text.train} needs a loss that reads texts: set losses.cell_text, "
                "matching or ontology above 0, or text.train: frozen"
            )
        if not is_frozen and self.losses.distillation:
            raise ValueError(
                "distillation needs a frozen text tower: set text.train: frozen, or "
                "losses.distillation: 0"
            )
        if is_frozen and self.model.matching == "cross_attention":
            raise ValueError(
                "model.matching cross_attention adds weights to the text tower: set text.train to "
                "lora or full, or model.matching: fusion"
            )

    @property
    def root(self) -> Path:
        """Folder of the corpus."""
        return Path(self.corpus_root).expanduser()
