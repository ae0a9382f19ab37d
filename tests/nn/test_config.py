import json
from dataclasses import replace

import pytest

from langcell.nn.config import (
    NO_TEXTS,
    CellEncoderConfig,
    LangCellConfig,
    MatchingConfig,
    TextEncoderConfig,
)


def config(**overrides) -> LangCellConfig:
    return LangCellConfig(cell=CellEncoderConfig(vocab_size=100), **overrides)


def test_json_round_trip():
    given = config(
        text=TextEncoderConfig(frozen=False, cross_attention=True, encoder_width=256),
        matching=MatchingConfig(kind="cross_attention"),
        embedding_dim=64,
    )
    assert LangCellConfig.from_dict(json.loads(given.to_json())) == given


def test_a_model_without_texts_says_so_by_its_tower_alone():
    assert config().has_texts
    config().check_has_texts()
    given = config(text=NO_TEXTS, embedding_dim=64)
    assert not given.has_texts and given.project_cells
    values = json.loads(given.to_json())
    assert values["text"] == {"tower": "", "sha256": ""} and "matching" not in values
    assert LangCellConfig.from_dict(values) == given
    with pytest.raises(ValueError, match="has no text tower: it can only embed cells; "):
        given.check_has_texts()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format_version",), 2, "format_version is 2"),
        (("format_version",), None, "format_version is None"),
        (("depth",), 3, "unknown key depth"),
        (("cell", "depth"), 3, "unknown key cell.depth"),
        (("cell", "hidden_size"), "256", "cell.hidden_size must be int, got '256'"),
        (("cell", "n_layers"), True, "cell.n_layers must be int, got True"),
        (("cell", "pooling"), "max", "cell.pooling must be one of cls, mean"),
        (("cell", "n_heads"), 3, "hidden_size must be a multiple of n_heads=3"),
        (("cell",), 3, "cell must be an object"),
        (("max_genes",), 513, "need cell.max_positions >= 514, got 513"),
        (("text", "max_tokens"), 513, "text.max_tokens=513 exceeds"),
        (("matching", "kind"), "cross_attention", "needs text.cross_attention=true"),
        (("text", "cross_attention"), True, "set text.frozen=false"),
        (("project_cells",), False, "embedding_dim must be 256, the width of pooled cells, got 64"),
        (("cells_only",), True, "embedding_dim must be 256, the width of pooled cells, got 64"),
    ],
)
def test_what_does_not_fit_is_named(path, value, message):
    values = json.loads(config(embedding_dim=64).to_json())
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        LangCellConfig.from_dict(values)


def test_missing_key_is_named():
    values = json.loads(config().to_json())
    del values["cell"]["vocab_size"]
    with pytest.raises(ValueError, match="vocab_size"):
        LangCellConfig.from_dict(values)


def test_parts_that_need_each_other_are_asked_for():
    with pytest.raises(ValueError, match="frozen=false needs a text tower, but .* is ''"):
        config(text=replace(NO_TEXTS, frozen=False))
    bag = CellEncoderConfig(vocab_size=100, kind="bag", bag_size=32)
    with pytest.raises(ValueError, match="a bag of genes needs project_cells=true"):
        LangCellConfig(cell=bag, project_cells=False, embedding_dim=bag.pooled_size)


def test_cross_attention_must_read_the_cell_width():
    with pytest.raises(ValueError, match="encoder_width must equal cell.hidden_size=256, got 0"):
        config(text=TextEncoderConfig(frozen=False, cross_attention=True))


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        LangCellConfig.read(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        LangCellConfig.read(path)
    path.write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"config\.json: not a langcell checkpoint"):
        LangCellConfig.read(path)
