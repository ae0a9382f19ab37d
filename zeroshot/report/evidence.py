"""Add evidence genes to the groups of a report, if the model and the head are available."""

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from langcell.runtime.parameter_names import option
from ontology.graph import Ontology
from zeroshot.evidence.group_evidence import GroupEvidence
from zeroshot.evidence.head_evidence import check_made_by, head_of_calls
from zeroshot.report.groups import Group, group_calls, with_evidence
from zeroshot.results.called_cells import CalledCells, Grouping

if TYPE_CHECKING:
    from zeroshot.heads.few_shot_head import FewShotHead


def check_head(details: Mapping[str, Any], head: "FewShotHead | None") -> None:
    """Check that the head made the calls; warn if a head did and none is given."""
    if head is not None:
        check_made_by(details, head)
    elif made_by := head_of_calls(details):
        warnings.warn(
            f"the report has no evidence genes: the calls were made with a head (id {made_by}); pass "
            f"{option('head')}",
            stacklevel=4,
        )


def add_evidence(
    groups: list[Group],
    grouping: Grouping,
    means: np.ndarray | None,
    cells: CalledCells,
    explain: Callable[..., dict[str, GroupEvidence]],
) -> tuple[list[Group], str]:
    """Return the groups with evidence genes and '', or unchanged with the reason why not."""
    if means is None:
        return groups, "the file has no scores"
    members = np.array(grouping.names, dtype=object)[grouping.members]
    try:
        calls = group_calls(groups, means, cells, Ontology.bundled())
        return with_evidence(groups, explain(calls, members, cells.details)), ""
    except (ValueError, OSError) as error:
        return groups, str(error)
