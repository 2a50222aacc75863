"""The header of a safetensors file: what it names, and every way in which it is not one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from ckd.store.files import write_bytes
from ckd.store.tensorfile import Tensor, tensors_in

WHOLE = save({"a": np.zeros((2, 3), np.float32), "b.c": np.zeros(0, np.float16)}, {"format": "pt"})


def test_a_file_names_its_tensors_here_and_at_a_url(tmp_path, root):
    for folder in (str(tmp_path), root):
        write_bytes(f"{folder}/t.safetensors", WHOLE)
        assert tensors_in(f"{folder}/t.safetensors") == {"a": Tensor((2, 3), "F32"), "b.c": Tensor((0,), "F16")}


@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_off_anywhere_is_refused(tmp_path_factory, size):
    path = tmp_path_factory.mktemp("cut") / "t.safetensors"
    path.write_bytes(WHOLE[:size])
    with pytest.raises(ValueError, match="^has .*: damaged, or not copied to its end"):
        tensors_in(str(path))


@given(st.binary(max_size=40))
def test_other_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("other") / "t.safetensors"
    path.write_bytes(content + b"\0\0 no safetensors file")
    with pytest.raises(ValueError, match="^has .*: damaged, or not copied to its end"):
        tensors_in(str(path))
