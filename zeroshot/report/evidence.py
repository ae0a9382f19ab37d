"""The genes behind the calls of a report, where the model and the head that made them are at hand."""

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ontology.graph import Ontology
from zeroshot.evidence.group_evidence import GroupEvidence
from zeroshot.evidence.head_evidence import check_made_by, head_of_calls
from zeroshot.report.groups import Group, group_calls, with_evidence
from zeroshot.results.called_cells import CalledCells, Grouping

if TYPE_CHECKING:
    from zeroshot.heads.few_shot_head import FewShotHead


def check_head(details: Mapping[str, Any], head: "FewShotHead | None") -> None:
    """Refuse a head that did not make the calls; say what is missing without the one that did."""
    if head is not None:
        check_made_by(details, head)
    elif made_by := head_of_calls(details):
        warnings.warn(
            f"the report has no evidence genes: the calls were made with a head (id {made_by}); name "
            "it with --head",
            stacklevel=4,
        )


def add_evidence(
    groups: list[Group],
    grouping: Grouping,
    means: np.ndarray | None,
    cells: CalledCells,
    explain: Callable[..., dict[str, GroupEvidence]],
) -> tuple[list[Group], str]:
    """Add the genes behind the calls, or return the groups as they are and why there are none."""
    if means is None:
        return groups, "the file has no scores"
    members = np.array(grouping.names, dtype=object)[grouping.members]
    try:
        calls = group_calls(groups, means, cells, Ontology.bundled())
        return with_evidence(groups, explain(calls, members, cells.details)), ""
    except (ValueError, OSError) as error:
        return groups, str(error)
