"""A teacher of another family: logistic regression on log counts, which errs in other places."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from langcell.runtime.output_file import replaced_file
from pretrain.cells.corpus import Corpus
from pretrain.cells.mean_expression import gene_variability, type_means
from pretrain.cells.sampling import CellSampler, SampledCells
from pretrain.recipe.config import LinearTeacherSettings

FILE = "linear_teacher.safetensors"
_PER_CELL = 1e4
_CLIP = 8.0  # deviations
_LEAST_DEVIATION = 0.1  # a gene that hardly varies must not weigh like one that does
_LEAST_SHARE = 0.05  # of a cell's total in the measured genes; below it the total is a guess
_STATISTICS = 20  # draws of a batch behind means and deviations
_BEFORE_ALL = 2**41  # steps of those draws, apart from those of training


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearTeacher:
    """Multinomial logistic regression over the training types.

    Attributes
    ----------
    genes
        Columns of the corpus that it reads, int64, shape (n_read,).
    share
        Mean share of each gene of the corpus in an example's total, shape (n_genes,).
    mean, deviation
        Of log1p counts per 10,000 where the gene is measured, shape (n_read,).
    weight, bias
        Shapes (n_read, n_terms) and (n_terms,).
    """

    genes: Tensor
    share: Tensor
    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    @torch.no_grad()
    def logits(self, drawn: SampledCells) -> Tensor:
        """Return unnormalised log-probabilities of the training types, (n_cells, n_terms)."""
        return self.standardised(drawn) @ self.weight + self.bias

    def standardised(self, drawn: SampledCells) -> Tensor:
        """Return deviations from the mean, 0 where a gene is not measured, (n_cells, n_read)."""
        values, measured = log_counts(drawn, self.genes.numpy(), self.share.numpy())
        deviations = (torch.from_numpy(values) - self.mean) / self.deviation
        return torch.where(torch.from_numpy(measured), deviations.clamp(-_CLIP, _CLIP), 0.0)

    def write(self, path: Path) -> None:
        """Write the weights, for a run that is resumed."""
        with replaced_file(path) as part:
            save_file({item.name: getattr(self, item.name) for item in fields(self)}, part)

    @classmethod
    def read(cls, path: Path) -> "LinearTeacher":
        """Read what `write` wrote."""
        return cls(**load_file(path))


def log_counts(
    drawn: SampledCells, genes: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return log1p of counts per 10,000 and which genes are measured, both (n_cells, n_read).

    What a cell holds in genes that were not measured is guessed from `share`, so that a gene has
    about the same value whatever else was measured.
    """
    held = np.maximum(drawn.measured @ share, _LEAST_SHARE)
    totals = np.asarray(drawn.counts.sum(axis=1)).ravel() / held
    values = drawn.counts[:, genes].toarray()  # one step's cells
    values *= (_PER_CELL / np.maximum(totals, 1e-9))[:, None]
    return np.log1p(values, out=values), drawn.measured[:, genes]


def fit_linear_teacher(
    sampler: CellSampler,
    settings: LinearTeacherSettings,
    *,
    batch_size: int,
    say: Callable[[str], None] = lambda line: None,
) -> LinearTeacher:
    """Fit the regression on the cells that a run's own steps would see.

    Adam with a linearly falling rate and a penalty on squared weights; random subsets of measured
    genes come with the sampler's augmentation.

    Parameters
    ----------
    sampler
        Of the run: the fit depends on its seed alone.
    settings
        Sizes, steps, rate.
    batch_size
        Cells of a step.
    say
        Takes a line now and then.
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
            say(f"linear teacher: step {step + 1}/{settings.steps}, loss {loss.item():.3f}")
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
        deviation=torch.from_numpy(np.maximum(deviation, _LEAST_DEVIATION).astype(np.float32)),
        weight=torch.zeros(len(genes), n_terms),
        bias=torch.zeros(n_terms),
    )


def _gene_shares(corpus: Corpus) -> np.ndarray:
    """Mean share of each gene in an example's total, float32, shape (n_genes,), sums to 1."""
    totals = np.asarray(corpus.values.sum(axis=1, dtype=np.float64)).ravel()
    shares = corpus.values.T @ (1 / np.maximum(totals, 1e-12))
    return (shares / shares.sum()).astype(np.float32)
