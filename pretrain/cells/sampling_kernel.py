"""Compiled kernel that draws one random cell from one corpus row."""

import math

import numpy as np

from langcell.runtime.compiled import compiled

AS_IS, THIN, POISSON, DETECT = range(4)


@compiled
def sample_cell(
    rng: np.random.Generator,
    columns: np.ndarray,
    values: np.ndarray,
    measured: np.ndarray,
    mode: int,
    rate: float,
    overdispersion: float,
    loss: float,
    out_columns: np.ndarray,
    out_values: np.ndarray,
) -> int:
    """Write the genes of one drawn cell into the buffers; return their number.

    `rate` is counts per unit of `values` (POISSON, DETECT) or the share of counts kept (THIN).
    """
    n = 0
    for place in range(len(columns)):
        column, value = columns[place], float(values[place])
        if not measured[column] or (loss > 0 and rng.random() < loss):
            continue
        if mode == THIN:
            value = float(rng.binomial(int(value), rate))
        elif mode != AS_IS:
            if overdispersion > 0:
                value *= rng.standard_gamma(1 / overdispersion) * overdispersion
            if mode == POISSON:
                value = float(rng.poisson(rate * value))
            elif rng.random() < math.exp(-rate * value):
                continue  # not detected
        if value > 0:
            out_columns[n], out_values[n] = column, value
            n += 1
    return n
