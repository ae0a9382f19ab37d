"""The paper's scores: by hand, beside the golden vectors of its code, and from the command line."""

from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from langcell.model.embed_cells import CellEmbeddings
from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from langcell.released.convert import convert
from tests.support.released_files import V1, write_dictionaries
from zeroshot.annotate.annotator import annotate
from zeroshot.annotate.cell_scorer import CellScorer
from zeroshot.annotate.official_scoring import official_scores
from zeroshot.annotate.options import AnnotateOptions
from zeroshot.labels.candidates import CandidateSet

LABELS = ["B cell", "T cell", "monocyte", "natural killer cell"]


def test_scores_are_the_sum_of_two_softmaxes():
    similar = np.log([[0.5, 0.3, 0.2]])
    matches = np.array([[0.9, 0.5, 0.1]])
    weights = np.exp(matches[0]) / np.exp(matches[0]).sum()  # of probabilities, not of logits
    for alpha in (0, 0.1, 1):
        got = np.exp(official_scores(similar, np.log(matches), alpha=alpha))
        np.testing.assert_allclose(got[0], alpha * np.exp(similar[0]) + (1 - alpha) * weights)


@pytest.fixture(scope="module")
def golden(shared):
    return shared / "parity" / "golden_model"


@pytest.fixture(scope="module")
def released(golden, tmp_path_factory) -> LangCell:
    """The golden model through the converter; its tokenizer reads the number of a golden text."""
    folder = tmp_path_factory.mktemp("released")
    write_dictionaries(folder, [f"ENSG{number:011d}" for number in range(57)], V1)
    convert(
        golden / "mini_ckpt",
        folder / "ours",
        token_dictionary=folder / "token_dictionary.pkl",
        gene_medians=folder / "gene_median_dictionary.pkl",
    )
    return LangCell.from_pretrained(folder / "ours")


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_a_converted_release_gives_the_golden_scores(
    golden, released, alpha, monkeypatch, tmp_path
):
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path))
    inputs = load_file(golden / "inputs.safetensors")
    ids, mask = inputs["text_input_ids"], inputs["text_attention_mask"]

    def tokenizer(texts, **_how):
        rows = [int(text) for text in texts]
        width = int(mask[rows].sum(1).max())
        return {"input_ids": ids[rows, :width], "attention_mask": mask[rows, :width]}

    monkeypatch.setattr(released, "_tokenizer", tokenizer)
    candidates = CandidateSet(
        ids=("CL:1", "CL:2", "CL:3"),
        names=("a", "b", "c"),
        texts=("0", "1", "2"),
        described="given",
        is_choice=True,
    )
    with inference(released):
        cells = released.encode_cell(inputs["cell_input_ids"], inputs["cell_attention_mask"])
    block = CellEmbeddings(start=0, features=cells.features.numpy(), cells=cells)
    scorer = CellScorer(released, candidates, AnnotateOptions(scoring="official", alpha=alpha))
    scores, everything = scorer.score_all(block)
    expected = load_file(golden / "outputs.safetensors")[f"zero_shot_alpha{alpha}"]
    torch.testing.assert_close(
        torch.from_numpy(everything).exp(), expected, atol=2e-5, rtol=0
    )  # fmt: skip
    assert scores.best.tolist() == expected.argmax(1).tolist()
    assert scores.log_probabilities.shape == (5, 3)
    assert scorer.calibration.identifier == "uncalibrated"
    with pytest.raises(ValueError, match="matching needs token states"):
        scorer.score_all(CellEmbeddings(start=0, features=cells.features.numpy()))


@pytest.fixture
def cells(make_cells) -> anndata.AnnData:
    return make_cells(6)


def test_annotating_with_it_is_written_down(cells, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path))
    options = AnnotateOptions(scoring="official")
    annotate(cells, model=str(tiny_model), labels=LABELS, options=options)
    notes = cells.uns["langcell"]
    assert notes["parameters"]["scoring"] == "official" and notes["parameters"]["alpha"] == 0.1
    assert notes["scores"].startswith("score of the LangCell paper")
    assert notes["calibration"]["id"] == "uncalibrated"
    sums = np.asarray(cells.obsm["langcell_scores"].sum(axis=1)).ravel()
    np.testing.assert_allclose(sums, 1, atol=1e-4)


def test_a_calibration_of_the_model_is_left_out(cells, tiny_model, monkeypatch, tmp_path):
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path))
    model = LangCell.from_pretrained(tiny_model)
    model.calibration = "not read at all"
    annotate(
        cells, model=model, labels=LABELS, options=AnnotateOptions(scoring="official", alpha=1.0)
    )
    assert cells.uns["langcell"]["calibration"]["id"] == "uncalibrated"
    with pytest.raises(ValueError, match="is not a calibration"):
        annotate(cells, model=model, labels=LABELS, options=AnnotateOptions(overwrite=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scoring": "paper"}, "scoring must be fused or official, got 'paper'"),
        ({"alpha": 0.2}, "alpha needs scoring='official'"),
        ({"scoring": "official", "alpha": 1.5}, "alpha must be from 0 to 1, got 1.5"),
        ({"scoring": "official", "rerank": 5}, "matches every label, .* leave out rerank"),
        ({"scoring": "official", "tissue": "lung"}, "leave out rerank, tissue, head and"),
        (
            {"scoring": "official", "calibration": SimpleNamespace()},
            "has no tissue prior, head or calibration",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        AnnotateOptions(**given)
