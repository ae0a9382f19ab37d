"""Which kernels attend within packed rows."""

import sys
from types import ModuleType

import pytest
import torch

from langcell.nn.flash_attention import find_row_attention

varlen = pytest.importorskip("torch.nn.attention.varlen")


@pytest.fixture(autouse=True)
def forget():
    find_row_attention.cache_clear()
    yield
    find_row_attention.cache_clear()


@pytest.fixture
def used(monkeypatch):
    """Names of the versions that were called, in the place of both."""
    called = []
    module = ModuleType("flash_attn.cute")

    def fourth(query, key, value, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k):
        called.append("fourth")
        return query, None

    def second(query, key, value, first, other, width, again):
        called.append("second")
        return query

    module.flash_attn_varlen_func = fourth
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", module)
    monkeypatch.setattr(varlen, "varlen_attn", second)
    return called


def test_a_cpu_has_none_nor_has_an_old_gpu(monkeypatch):
    assert find_row_attention(torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert find_row_attention(torch.device("cuda")) is None


@pytest.mark.parametrize(
    ("capability", "head_size", "version"),
    [((9, 0), 64, "fourth"), ((9, 0), 32, "second"), ((8, 0), 64, "second")],
)
def test_the_fourth_version_is_taken_where_it_fits(
    used, monkeypatch, capability, head_size, version
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    query = torch.zeros(5, 2, head_size)
    attend = find_row_attention(torch.device("cuda"))
    assert attend(query, query, query, torch.tensor([0, 2, 5]), 3) is query
    assert used == [version]


def test_without_the_fourth_version_the_second_is_taken(used, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn.cute", None)  # not to be imported
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    query = torch.zeros(5, 2, 64)
    find_row_attention(torch.device("cuda"))(query, query, query, torch.tensor([0, 5]), 5)
    assert used == ["second"]
