"""Hostile pickles and weights are refused, and nothing in them runs."""

import importlib
import json
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from langcell.checkpoints.bert_weights import read_tensors
from langcell.genes.dictionary import read_dictionary
from langcell.genes.safe_pickle import read_plain_pickle


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function, *given):
        self.called = function, given

    def __reduce__(self):
        return self.called


def test_plain_values_come_back_in_every_protocol():
    values = {
        "<pad>": 0, "a": np.int16(-7), "b": np.float64(0.1), "c": [1, 2.5, "x"], "d": {"e": None},
        "f": np.dtype(">i4").type(9), "g": np.float32(1.5), "h": np.bool_(True),
    }  # fmt: skip
    plain = {**values, "a": -7, "b": 0.1, "f": 9, "g": 1.5, "h": True}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found = read_plain_pickle(pickle.dumps(values, protocol))
        assert found == plain
        assert type(found["a"]) is int and type(found["b"]) is float
    big_endian = pickle.dumps(np.array([258], ">i2")[0])
    assert read_plain_pickle(big_endian) == 258


def touch(path: Path) -> str:
    return f"open({str(path)!r}, 'w')"


def hostile(path: Path) -> dict[str, bytes]:
    """Return pickles that would make a file if they ran, and what each asks for."""
    return {
        "posix.system": pickle.dumps({"a": Calls(os.system, f"touch {path}")}),
        "builtins.eval": pickle.dumps({Calls(eval, touch(path)): 1}),
        "builtins.exec": pickle.dumps([Calls(exec, touch(path))]),
        "builtins.getattr": pickle.dumps(Calls(getattr, "text", "format")),
        "subprocess.Popen": pickle.dumps(Calls(subprocess.Popen, ["touch", path])),
        "importlib.import_module": pickle.dumps(Calls(importlib.import_module, "os")),
        "os.system": b"cos\nsystem\n(S'touch " + str(path).encode() + b"'\ntR.",
        "__builtin__.eval": b"c__builtin__\neval\n(S'" + touch(path).encode() + b"'\ntR.",
        f"{np.arange(3).__reduce__()[0].__module__}._reconstruct": pickle.dumps(np.arange(3)),
        "numpy.load": b"cnumpy\nload\n(S'" + str(path).encode() + b"'\ntR.",
        "numpy.dtype.type": b"\x80\x04\x8c\x05numpy\x8c\x0adtype.type\x93.",
        "builtins.set": b"cbuiltins\nset\n(tR.",
        "persistent": b"Pid\n.",
        "a NumPy type 'O8'": pickle.dumps(np.dtype("O")),
        "a NumPy type 'U1'": b"cnumpy\ndtype\n(S'U1'\nI0\nI1\ntR.",
        "bytes as 'rot13'": b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
    }


def test_what_a_pickle_asks_for_is_named_and_never_run(tmp_path):
    mark = tmp_path / "it-ran"
    for asked, content in hostile(mark).items():
        path = tmp_path / "token_dictionary.pkl"
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"token_dictionary\.pkl: expected a dictionary"
        ) as said:
            read_dictionary(path)
        assert asked in str(said.value), str(said.value)
        assert "\n" not in str(said.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"a": 1})[:-3],
        b"cnumpy\ndtype\n)\x81.",  # a type without its name
        b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I1\nI2\ntb.",  # with a state that is none
        b"cnumpy.core.multiarray\nscalar\n(I1\nI2\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'f8'\nI0\nI1\ntRS'x'\ntR.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",  # nine exabytes of bytes
        b"h\x05.",
        b"I1\nI2\nb.",
    ],
)
def test_damaged_pickles_are_one_line(tmp_path, content):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pkl: expected a dictionary") as said:
        read_dictionary(path)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "values", [{"a": [1]}, {"a": None}, {"a": {"b": 1}}, {"a": "x"}, ["a"], 3, {"a": 10**400}]
)
def test_values_that_are_no_numbers_are_refused(tmp_path, values):
    for name, content in (
        ("a.pkl", pickle.dumps(values)),
        ("a.json", json.dumps(values).encode()),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="expected a dictionary from Ensembl id to number"):
            read_dictionary(tmp_path / name)


def test_hostile_weights_never_run(tmp_path):
    mark = tmp_path / "it-ran"
    for name, content in hostile(mark).items():
        path = tmp_path / "pytorch_model.bin"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"pytorch_model\.bin is not a readable weights file"):
            read_tensors(path)
        torch.save({"weight": Calls(eval, touch(mark))}, path)
        with pytest.raises(ValueError, match="is not a readable weights file"):
            read_tensors(path)
        assert not mark.exists(), name


def test_weights_that_are_no_tensors_by_name_are_refused(tmp_path):
    path = tmp_path / "cell_proj.bin"
    for content in ([torch.zeros(1)], {"weight": 3}, {1: torch.zeros(1)}, torch.zeros(2)):
        torch.save(content, path)
        with pytest.raises(ValueError, match="expected a dict of tensors"):
            read_tensors(path)
    for content in (b"", b"\xff" * 64, b'\x08\0\0\0\0\0\0\0{"a": 1}'):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="is not a readable weights file"):
            read_tensors(tmp_path / "model.safetensors")
