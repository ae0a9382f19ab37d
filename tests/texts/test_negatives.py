"""Which pairs of cells and texts are positive, negative or neither."""

import torch

from ontology.graph import Ontology
from pretrain.texts.negatives import comparable_terms, text_pairs

LYMPHOCYTE, T, CD4, B, NEURON = (
    "CL:0000542",
    "CL:0000084",
    "CL:0000624",
    "CL:0000236",
    "CL:0000540",
)


def test_ancestors_and_descendants_are_comparable_and_siblings_are_not() -> None:
    ontology = Ontology.bundled()
    terms = [LYMPHOCYTE, T, CD4, B, NEURON]
    comparable = comparable_terms(ontology, terms, terms)
    expected = [
        [1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert comparable.astype(int).tolist() == expected


def test_comparable_terms_of_two_lists_agree_with_the_ontology() -> None:
    ontology = Ontology.bundled()
    first, second = [T, NEURON], [B, CD4, LYMPHOCYTE]
    comparable = comparable_terms(ontology, first, second)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            assert comparable[i, j] == ontology.is_comparable(one, other)


def test_pairs_follow_type_then_aspects() -> None:
    comparable = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()  # type 0 is above type 1
    cell_terms, text_terms = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1, 2])
    cell_aspects = torch.tensor([[5, -1, -1], [6, -1, -1], [-1, -1, -1]])
    # Text 1 says more than text 0: type 0 in tissue 6. Text 3 names a tissue that cell 2 lacks.
    text_aspects = torch.tensor([[-1, -1, -1], [6, -1, -1], [6, -1, -1], [6, -1, -1]])
    positives, ignore = text_pairs(cell_terms, cell_aspects, text_terms, text_aspects, comparable)
    assert positives.int().tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert ignore.int().tolist() == [[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]]


def test_no_pair_is_both() -> None:
    generator = torch.Generator().manual_seed(0)
    comparable = torch.eye(6).bool() | (torch.rand(6, 6, generator=generator) < 0.3)
    terms = [torch.randint(6, (n,), generator=generator) for n in (20, 9)]
    aspects = [torch.randint(-1, 2, (n, 3), generator=generator) for n in (20, 9)]
    positives, ignore = text_pairs(terms[0], aspects[0], terms[1], aspects[1], comparable)
    assert not (positives & ignore).any()
    assert positives.any()
    assert ((positives | ignore) == comparable[terms[0]][:, terms[1]]).all()
