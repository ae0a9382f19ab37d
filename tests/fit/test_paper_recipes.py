"""The fine-tuning recipes of the LangCell paper on a converted release."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from langcell.model.langcell import LangCell
from langcell.released.convert import convert
from tests.fit.test_few_shot import labelled  # noqa: F401
from tests.support.released_files import V1, symbols_to_ids, write_dictionaries
from zeroshot.annotation.annotate import annotate
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.fit.batches import CellBatch
from zeroshot.fit.fit_few_shot import fit_few_shot
from zeroshot.fit.options import FewShotOptions
from zeroshot.fit.tuned_model import LabelTexts, TunedModel
from zeroshot.fit.tuning_recipes import RECIPES
from zeroshot.heads.head_file import read_head, write_head

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] cell type : b t . a that glows lymphocyte of lineage".split()
)
# The golden model knows 57 genes, of which the tokenizer rightly says that they are few.
pytestmark = pytest.mark.filterwarnings("ignore:low gene coverage")
GENES = np.r_[0:19, 40:59, 80:99]  # of the 400 of the tests, the 57 that the release knows


@pytest.fixture(scope="module")
def golden(shared):
    return shared / "parity" / "golden_model"


@pytest.fixture(scope="module")
def released(golden, coding_genes, tmp_path_factory):
    """The golden weights through the converter, with genes and words of the tests."""
    folder = tmp_path_factory.mktemp("released")
    genes = symbols_to_ids([coding_genes[each] for each in GENES])
    write_dictionaries(folder, genes, V1)
    (folder / "words").mkdir()
    (folder / "words" / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "words" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "words" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 20}))
    convert(
        golden / "mini_ckpt",
        folder / "ours",
        token_dictionary=folder / "token_dictionary.pkl",
        gene_medians=folder / "gene_median_dictionary.pkl",
        tokenizer=str(folder / "words"),
    )
    return folder / "ours"


@pytest.fixture
def golden_batch(golden):
    inputs = load_file(golden / "inputs.safetensors")
    return inputs, CellBatch(
        input_ids=inputs["cell_input_ids"],
        attention_mask=inputs["cell_attention_mask"],
        labels=inputs["labels"],
    )


def test_the_few_shot_loss_is_the_golden_one_but_for_its_matches(
    golden, released, golden_batch, monkeypatch
):
    """The release takes probabilities for logits; ours are their logarithms."""
    inputs, batch = golden_batch
    model, expected = LangCell.from_pretrained(released), load_file(golden / "outputs.safetensors")
    monkeypatch.setattr(
        LangCell,
        "tokenize_texts",
        lambda *_: (inputs["text_input_ids"], inputs["text_attention_mask"]),
    )
    labels = LabelTexts(texts=("a", "b", "c"), features=np.zeros((3, 16)), offsets=np.zeros(3))
    tuned = TunedModel(model, labels, RECIPES["langcell"])
    by_similarity, by_match = tuned(batch)
    close = {"atol": 2e-5, "rtol": 0}
    torch.testing.assert_close(by_similarity, expected["sim_scaled"], **close)
    torch.testing.assert_close(by_match.exp(), expected["ctm_prob"], **close)
    by_release = functional.cross_entropy(by_match.exp(), batch.labels)
    torch.testing.assert_close(by_release, expected["fewshot_loss_ctm"], **close)
    loss = tuned.loss(batch, torch.ones(3, dtype=torch.bool))
    by_hand = -by_match.log_softmax(1)[torch.arange(5), batch.labels].mean()
    torch.testing.assert_close(loss, expected["fewshot_loss_sim"] + by_hand, **close)
    (loss - functional.cross_entropy(by_match, batch.labels) + by_release).backward()
    weights = dict(tuned.model.named_parameters())
    for name, got in {
        "cell_proj.weight": "cell_projection.weight",
        "text_proj.weight": "text_projection.weight",
        "ctm_head.weight": "matching.weight",  # which the release left out of its optimizer
    }.items():
        torch.testing.assert_close(weights[got].grad, expected[f"fewshot_grad.{name}"], **close)
    assert all(each.grad is None or each.requires_grad for each in tuned.parameters())


@pytest.mark.parametrize("kind", ["langcell", "langcell-ce", "langcell-ce-frozen"])
def test_a_recipe_runs_on_converted_weights(kind, labelled, released, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path / "cache"))
    adata = labelled[:, GENES].copy()
    options = FewShotOptions(kind=kind, shots=4, seed=2024)
    fitted = fit_few_shot(adata, "mine", model=released, options=options)
    assert "12 cells, cross-validated" in fitted.held_out
    again = fit_few_shot(adata, "mine", model=released, options=options)
    assert again.head.identifier == fitted.head.identifier
    changed = {name.partition(".")[0] for name in fitted.head.changes}
    cells = {"cell_encoder", "cell_projection"}
    assert (
        changed
        == {
            "langcell": cells | {"text_encoder", "text_projection", "matching"},
            "langcell-ce": cells,
            "langcell-ce-frozen": set(),
        }[kind]
    )
    assert fitted.head.feature_weights.any() == (kind != "langcell")
    write_head(fitted.head, tmp_path / "head", card="")
    head = read_head(tmp_path / "head")
    named = annotate(adata, model=released, options=AnnotateOptions(head=head))
    assert set(named.names) <= {"B cell", "T cell", "a cell that glows"}
    assert adata.uns["langcell"]["head"]["kind"] == kind


def test_a_head_that_matches_scores_as_it_was_tuned(labelled, released, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("LANGCELL_CACHE", str(tmp_path))
    adata = labelled[:60, GENES].copy()
    model = LangCell.from_pretrained(released)
    options = FewShotOptions(kind="langcell", shots=4)
    head = fit_few_shot(adata, "mine", model=model, options=options).head
    found = annotate(adata, model=model, options=AnnotateOptions(head=head, top_k=3))
    tuned = head.adapt(model)
    texts = ["cell type: a cell that glows. "]
    with torch.no_grad():
        before = model.encode_text(*model.tokenize_texts(texts)).features
        after = tuned.encode_text(*tuned.tokenize_texts(texts)).features
    assert (before - after).abs().max() > 1e-6, "the text encoder learnt"
    assert tuned.sha256 != model.sha256 and found.details["model_sha256"] == model.sha256
    scores = adata.obsm["langcell_scores"].toarray()
    assert scores.sum(axis=1) == pytest.approx(np.ones(60), abs=1e-4)
