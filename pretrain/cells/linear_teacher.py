"""Linear teacher: logistic regression on log counts, whose errors differ from those of the models."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from langcell.runtime.output_file import replaced_file
from pretrain.cells.mean_expression import gene_variability, type_means
from pretrain.cells.memory_corpus import Corpus
from pretrain.cells.sampling import CellSampler, SampledCells
from pretrain.recipe.config import LinearTeacherSettings

FILE = "linear_teacher.safetensors"
_PER_CELL = 1e4
_CLIP = 8.0  # standard deviations
_MIN_DEVIATION = 0.1  # keeps nearly constant genes from being scaled up
_MIN_SHARE = 0.05  # minimum share of a cell's total in the measured genes, to estimate the total
_STATISTICS = 20  # batches drawn to estimate means and deviations
_BEFORE_ALL = 2**41  # step numbers of those draws, distinct from those of training


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearTeacher:
    """Multinomial logistic regression over the training types.

    Attributes
    ----------
    genes
        Input genes, as columns of the corpus, int64, shape (n_read,).
    share
        Mean share of each gene of the corpus in an example's total, shape (n_genes,).
    mean, deviation
        Mean and standard deviation of log1p counts per 10,000 where measured, shape (n_read,).
    weight, bias
        Weights and bias, shapes (n_read, n_terms) and (n_terms,).
    """

    genes: Tensor
    share: Tensor
    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    @torch.no_grad()
    def logits(self, drawn: SampledCells) -> Tensor:
        """Return the logits of the training types, (n_cells, n_terms)."""
        return self.standardised(drawn) @ self.weight + self.bias

    def standardised(self, drawn: SampledCells) -> Tensor:
        """Return z-scores of log counts, 0 where a gene is not measured, (n_cells, n_read)."""
        values, measured = log_counts(drawn, self.genes.numpy(), self.share.numpy())
        deviations = (torch.from_numpy(values) - self.mean) / self.deviation
        return torch.where(torch.from_numpy(measured), deviations.clamp(-_CLIP, _CLIP), 0.0)

    def write(self, path: Path) -> None:
        """Write the weights, for a run that is resumed."""
        with replaced_file(path) as part:
            save_file({item.name: getattr(self, item.name) for item in fields(self)}, part)

    @classmethod
    def read(cls, path: Path) -> "LinearTeacher":
        """Read the weights that `write` saved."""
        return cls(**load_file(path))


def log_counts(
    drawn: SampledCells, genes: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return log1p of counts per 10,000 and which genes are measured, both (n_cells, n_read).

    The counts in genes that were not measured are estimated from `share`, so that the value of a
    gene hardly depends on which other genes were measured.
    """
    held = np.maximum(drawn.measured @ share, _MIN_SHARE)
    totals = np.asarray(drawn.counts.sum(axis=1)).ravel() / held
    values = drawn.counts[:, genes].toarray()  # one step's cells
    values *= (_PER_CELL / np.maximum(totals, 1e-9))[:, None]
    return np.log1p(values, out=values), drawn.measured[:, genes]


def fit_linear_teacher(
    sampler: CellSampler,
    settings: LinearTeacherSettings,
    *,
    batch_size: int,
    log: Callable[[str], None] = lambda line: None,
) -> LinearTeacher:
    """Fit the regression on cells drawn as in the steps of the run.

    Uses Adam with a linearly decaying learning rate and an L2 penalty; the sampler's augmentation
    drops random subsets of genes.

    Parameters
    ----------
    sampler
        Sampler of the run; the fit depends only on its seed.
    settings
        Number of genes, steps, learning rate and penalty.
    batch_size
        Cells per step.
    log
        Called with a progress message every 100 steps.
    """
    teacher = _untrained(sampler, settings, batch_size)
    terms = torch.from_numpy(sampler.corpus.term.astype(np.int64))
    weight, bias = teacher.weight.requires_grad_(), teacher.bias.requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=settings.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / settings.steps)
    for step in range(settings.steps):
        examples = sampler.choose(step, batch_size)
        cells = teacher.standardised(sampler.draw(examples, step))
        loss = functional.cross_entropy(cells @ weight + bias, terms[examples])
        optimiser.zero_grad()
        (loss + settings.penalty * weight.square().sum()).backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            log(f"linear teacher: step {step + 1}/{settings.steps}, loss {loss.item():.3f}")
    weight.requires_grad_(False)
    bias.requires_grad_(False)
    return teacher


def _untrained(
    sampler: CellSampler, settings: LinearTeacherSettings, batch_size: int
) -> LinearTeacher:
    """Choose genes and estimate their means and deviations; all weights are 0."""
    corpus = sampler.corpus
    variability = gene_variability(type_means(corpus))
    genes = np.sort(np.argsort(-variability, kind="stable")[: settings.genes])
    share = _gene_shares(corpus)
    n, total, squares = (np.zeros(len(genes)) for _ in range(3))
    for step in range(_BEFORE_ALL, _BEFORE_ALL + _STATISTICS):
        drawn = sampler.draw(sampler.choose(step, batch_size), step)
        values, measured = log_counts(drawn, genes, share)
        n += measured.sum(axis=0)
        total += values.sum(axis=0, dtype=np.float64)
        squares += np.square(values).sum(axis=0, dtype=np.float64)
    n = np.maximum(n, 1)
    deviation = np.sqrt(np.maximum(squares / n - np.square(total / n), 0))
    n_terms = len(corpus.term_ids)
    return LinearTeacher(
        genes=torch.from_numpy(genes),
        share=torch.from_numpy(share),
        mean=torch.from_numpy((total / n).astype(np.float32)),
        deviation=torch.from_numpy(np.maximum(deviation, _MIN_DEVIATION).astype(np.float32)),
        weight=torch.zeros(len(genes), n_terms),
        bias=torch.zeros(n_terms),
    )


def _gene_shares(corpus: Corpus) -> np.ndarray:
    """Return the mean share of each gene in an example's total, float32, (n_genes,), with sum 1."""
    totals = np.asarray(corpus.values.sum(axis=1, dtype=np.float64)).ravel()
    shares = corpus.values.T @ (1 / np.maximum(totals, 1e-12))
    return (shares / shares.sum()).astype(np.float32)
