"""StatusWord without a device; with one: tests/python/simt and tests/python/gpu."""

from __future__ import annotations

import ctypes

from syncnorm.status_word import StatusWord, explanation


def test_what_a_device_sets_is_taken_once() -> None:
    memory = ctypes.c_int32(-1)  # as the host allocated it
    word = StatusWord(ctypes.addressof(memory), 3, memory)
    assert repr(word.array) == (
        "Array(shape=(1,), strides_in_elements=(1,), dtype='int32', device='cuda:3')"
    )
    assert not word.take()
    memory.value = 5
    assert word.take()
    assert not word.take()


def test_the_explanation_names_the_device() -> None:
    assert "some calls ago on CUDA device 3: got wires" in explanation("CUDA device 3")
