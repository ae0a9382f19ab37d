"""The gradient of one step: of the whole batch at once, or part by part in bounded memory."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from langcell.features import CellFeatures
from pretrain.collate import StepBatch
from pretrain.objective import Objective

Backward = Callable[[Tensor], None]
Hold = Callable[[], AbstractContextManager[object]]  # no exchange of gradients within it


def add_gradients(
    objective: Objective,
    batch: StepBatch,
    *,
    part: int = 0,
    backward: Backward = lambda loss: loss.backward(),
    hold: Hold = nullcontext,
) -> dict[str, Tensor]:
    """Add the gradient of a batch to that of the parameters; return the losses.

    Parameters
    ----------
    objective
        What is minimised.
    batch
        Of this process.
    part
        Cells that go through the encoder at once, with gradient; 0: all of them.
    backward
        Of a scalar.
    hold
        Context in which processes keep their gradients to themselves; the last part is outside.

    Returns
    -------
    dict
        Losses by name, unweighted, without gradient.
    """
    if not part or part >= len(batch.input_ids):
        cells = _encode(objective, batch, slice(0, len(batch.input_ids)))
        losses = objective.of_features(batch, cells.features) | objective.of_states(batch, cells)
        backward(objective.total(losses))
        return {name: loss.detach() for name, loss in losses.items()}
    return _in_parts(objective, batch, _parts(batch, part), backward, hold)


def _in_parts(
    objective: Objective, batch: StepBatch, parts: list[slice], backward: Backward, hold: Hold
) -> dict[str, Tensor]:
    """Accumulate over parts what one pass over the batch would give (GradCache, Gao et al. 2021).

    Features of all cells are made without a graph; losses on them give the gradient of each
    feature; each part is then encoded again and that gradient taken on to the parameters.
    """
    features, states = [], []
    with torch.no_grad():
        for rows in parts:
            states.append(_random_state(batch))
            features.append(_encode(objective, batch, rows).features)
    leaf = torch.cat(features).requires_grad_(True)
    losses = objective.of_features(batch, leaf)
    gradient = torch.zeros_like(leaf)
    if losses:
        (gradient,) = torch.autograd.grad(objective.total(losses), leaf)
    found = {name: loss.detach() for name, loss in losses.items()}
    for rows, state in zip(parts, states, strict=True):
        is_last = rows.stop == len(batch.input_ids)
        with nullcontext() if is_last else hold():
            _set_random_state(state)  # the dropout of the first pass
            cells = _encode(objective, batch, rows)
            total = (cells.features * gradient[rows]).sum()
            own = objective.of_states(batch, cells, rows)
            if own:
                total = total + objective.total(own)
            if is_last and losses:
                # What the losses owe to texts and temperature; features stand still here.
                total = total + objective.total(objective.of_features(batch, leaf.detach()))
            backward(total)
        for name, loss in own.items():
            found[name] = found.get(name, 0) + loss.detach()
    return found


def _parts(batch: StepBatch, part: int) -> list[slice]:
    """Cut a batch; the second views, which matching reads, stay together at the end."""
    n_rows, n_cells = len(batch.input_ids), batch.n_cells
    starts = list(range(0, n_cells, part))
    if 0 < n_rows - n_cells:
        starts.append(n_cells)
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], n_rows], strict=True)]


def _encode(objective: Objective, batch: StepBatch, rows: slice) -> CellFeatures:
    return objective.model.encode_cell(batch.input_ids[rows], batch.attention_mask[rows])


def _random_state(batch: StepBatch) -> tuple[Tensor, Tensor | None]:
    device = batch.input_ids.device
    return torch.get_rng_state(), (
        torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    )


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
