"""Compute the gradient of a step: of the whole batch at once, or in micro-batches (GradCache)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from langcell.nn.features import CellFeatures
from pretrain.recipe.random_state import RandomState, random_state, set_random_state
from pretrain.steps.collator import StepBatch
from pretrain.steps.objective import Objective
from pretrain.steps.step_sizes import StepSizes
from pretrain.texts.step_texts import StepTexts, rank_rows

Backward = Callable[[Tensor], None]
Rows = TypeVar("Rows", slice, Tensor)
Hold = Callable[[], AbstractContextManager[object]]  # context without gradient synchronisation


def add_gradients(
    objective: Objective,
    batch: StepBatch,
    *,
    part: int = 0,
    backward: Backward = lambda loss: loss.backward(),
    hold: Hold = nullcontext,
) -> dict[str, Tensor]:
    """Accumulate the gradient of a batch into the parameters and return the losses.

    Parameters
    ----------
    objective
        Losses to minimise.
    batch
        Batch of this process.
    part
        Cells, or texts of a trained tower, per micro-batch; 0: the whole batch at once.
    backward
        Runs the backward pass of a scalar.
    hold
        Context without gradient synchronisation, for all micro-batches but the last.

    Returns
    -------
    dict
        Losses by name, unweighted, without gradient.
    """
    sizes = StepSizes.of(batch, objective.world)
    rows = rank_rows(objective.text_rows(batch), objective.world)
    if part and part < max(*sizes.rows, len(rows)):  # the same decision in all processes
        return _in_parts(objective, batch, sizes, rows, part, backward, hold)
    cells = _encode_cells(objective, batch, slice(0, len(batch.input_ids)))
    texts = _all_texts(objective, batch, _encode_texts(objective, rows))
    losses = objective.of_features(batch, sizes, cells.features, texts)
    losses |= objective.of_states(batch, sizes, cells)
    backward(objective.total(losses))
    return {name: loss.detach() for name, loss in losses.items()}


def _in_parts(
    objective: Objective,
    batch: StepBatch,
    sizes: StepSizes,
    text_rows: Tensor,
    part: int,
    backward: Backward,
    hold: Hold,
) -> dict[str, Tensor]:
    """Accumulate the gradient of the whole batch over micro-batches (GradCache, Gao et al. 2021).

    First, all cells, and texts of a trained tower, are encoded without a graph. The losses give the
    gradient of these features. Then each micro-batch is encoded again, and the gradient of its
    features is propagated to the parameters.
    """
    cells = _first_pass(
        lambda rows: _encode_cells(objective, batch, rows).features, _parts(batch, part), batch
    )
    own_texts = _first_pass(
        lambda rows: _encode_texts(objective, rows),
        text_rows.split(part) if len(text_rows) else (),
        batch,
    )
    texts = _all_texts(objective, batch, own_texts.leaf)
    losses = objective.of_features(batch, sizes, cells.leaf, texts)
    gradient, text_gradient = torch.zeros_like(cells.leaf), torch.zeros_like(own_texts.leaf)
    if losses:
        gradient, text_gradient = torch.autograd.grad(
            objective.total(losses),
            (cells.leaf, own_texts.leaf),
            allow_unused=True,
            materialize_grads=True,
        )
    found = {name: loss.detach() for name, loss in losses.items()}
    for rows, state in zip(cells.parts, cells.states, strict=True):
        is_last = rows.stop == len(batch.input_ids)
        with nullcontext() if is_last and not own_texts.parts else hold():
            set_random_state(state, cells.leaf.device)  # same dropout as in the first pass
            again = _encode_cells(objective, batch, rows)
            total = (again.features * gradient[rows]).sum()
            own = objective.of_states(batch, sizes, again, rows)
            if own:
                total = total + objective.total(own)
            if is_last and losses:
                # Gradient of projection and temperature; the features are constant here.
                still = objective.of_features(batch, sizes, cells.leaf.detach(), texts.detached())
                total = total + objective.total(still)
            backward(total)
        for name, loss in own.items():
            found[name] = found.get(name, 0) + loss.detach()
    _backward_texts(objective, own_texts, text_gradient, backward, hold)
    return found


def _backward_texts(
    objective: Objective,
    texts: "_FirstPass[Tensor]",
    gradient: Tensor,
    backward: Backward,
    hold: Hold,
) -> None:
    """Encode the texts of a trained tower again and propagate their gradient to its parameters."""
    done = 0
    for rows, state in zip(texts.parts, texts.states, strict=True):
        share = gradient[done : done + len(rows)]
        done += len(rows)
        with nullcontext() if done == len(gradient) else hold():
            set_random_state(state, gradient.device)
            backward((_encode_texts(objective, rows) * share).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class _FirstPass(Generic[Rows]):
    """Features of all micro-batches as a leaf tensor, and the random state before each of them."""

    parts: Sequence[Rows]
    leaf: Tensor
    states: list[RandomState]


def _first_pass(
    encode: Callable[[Rows], Tensor], parts: Sequence[Rows], batch: StepBatch
) -> _FirstPass[Rows]:
    """Encode micro-batches without a graph."""
    device = batch.input_ids.device
    states, made = [], []
    with torch.no_grad():
        for rows in parts:
            states.append(random_state(device))
            made.append(encode(rows))
    leaf = torch.cat(made) if made else torch.empty(0, device=device)
    return _FirstPass(parts=parts, leaf=leaf.requires_grad_(True), states=states)


def _parts(batch: StepBatch, part: int) -> list[slice]:
    """Split a batch; second views, which matching reads, form the last micro-batch."""
    n_rows, n_cells = len(batch.input_ids), batch.n_cells
    starts = list(range(0, n_cells, part))
    if 0 < n_rows - n_cells:
        starts.append(n_cells)
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], n_rows], strict=True)]


def _encode_cells(objective: Objective, batch: StepBatch, rows: slice) -> CellFeatures:
    return objective.model.encode_cell(batch.input_ids[rows], batch.attention_mask[rows])


def _encode_texts(objective: Objective, rows: Tensor) -> Tensor:
    """Return the pooled texts of a trained tower; empty for a frozen one."""
    tokens = objective.texts.tokens
    if tokens is None or not len(rows):
        return torch.empty(0, device=rows.device)
    return tokens.encode(objective.model, rows).pooled


def _all_texts(objective: Objective, batch: StepBatch, own: Tensor) -> StepTexts:
    """Gather the texts of the step, each process having encoded its share."""
    n = len(objective.text_rows(batch))
    return objective.texts_of(batch, objective.world.gather(own)[:n] if n else own)
