import numpy as np
import pytest

from langcell.model.langcell import LangCell
from ontology.candidates import all_cell_types
from ontology.descriptions import describe
from ontology.graph import Ontology
from zeroshot.labels.candidates import (
    all_candidates,
    candidate_features,
    own_candidates,
    read_labels,
)


@pytest.fixture(scope="module")
def ontology():
    return Ontology.bundled()


@pytest.fixture(scope="module")
def model(tiny_model):
    return LangCell.from_pretrained(str(tiny_model))


def test_all_cell_types_in_the_words_of_the_paper(ontology):
    candidates = all_candidates(ontology)
    assert candidates.ids == all_cell_types(ontology)
    row = candidates.ids.index("CL:0000236")
    assert candidates.names[row] == "B cell"
    assert candidates.texts[row] == describe(ontology, "CL:0000236")
    assert candidates.keys == candidates.ids


def test_labels_of_one_term_are_one_candidate(ontology):
    candidates = own_candidates(
        ["T cells", " CL:0000236", "T lymphocyte", "text: Odd one"], ontology
    )
    assert candidates.ids == ("CL:0000084", "CL:0000236", "")
    assert candidates.names == ("T cell", "B cell", "Odd one")
    assert candidates.texts[2] == "cell type: Odd one. "
    assert candidates.keys == ("CL:0000084", "CL:0000236", "text: Odd one")


@pytest.mark.parametrize("label", ["text:", " TEXT:  "])
def test_a_text_without_words_is_refused(ontology, label):
    with pytest.raises(ValueError, match="label 'text:' has no words; write 'text: <words>'"):
        own_candidates(["T cell", "B cell", label], ontology)


def test_labels_of_a_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("# mine\nB cell\n\n  CD4-positive, alpha-beta T cell \ntext: a; b\n")
    assert read_labels(str(path)) == ["B cell", "CD4-positive, alpha-beta T cell", "text: a; b"]
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not a text file of labels"):
        read_labels(str(path))


def test_stored_embeddings_spare_the_text_tower(ontology, model, monkeypatch):
    def never(*_args, **_options):
        raise AssertionError("the text tower was asked")

    monkeypatch.setattr(model, "pool_texts", never)
    candidates = all_candidates(ontology)
    features = candidate_features(candidates, model)
    assert features.shape == (len(candidates), 16) and features.dtype == np.float32
    assert np.linalg.norm(features, axis=1) == pytest.approx(1, abs=1e-5)
    some = own_candidates(["CL:0000084", "CL:0000236"], ontology)
    rows = [candidates.ids.index(term_id) for term_id in some.ids]
    # One product with a matrix of another height: the last bits may differ.
    assert candidate_features(some, model) == pytest.approx(features[rows], abs=1e-6)


def test_other_texts_are_encoded(ontology, model):
    candidates = own_candidates(["text: one", "CL:0000236", "text: two"], ontology)
    features = candidate_features(candidates, model)
    wanted = model.encode_texts(["cell type: one. ", "cell type: two. "])
    # Half precision on the way, as for the stored ones.
    assert features[[0, 2]] == pytest.approx(wanted, abs=2e-3)
