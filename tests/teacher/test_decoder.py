"""Where the teacher's weights go when they are loaded: to the device at once, not through the machine's memory."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from ckd.configfile import load
from ckd.store.pretrained import Source
from ckd.teacher import decoder
from tests.teacher.plain_teacher import contract_teacher

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class AskedError(Exception):
    """The load, asked for."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Source("teacher.base_model", "m", f"{contract_teacher(tmp_path_factory.mktemp('teacher'))}/base")


@pytest.mark.parametrize(
    ("device", "device_map", "goes_to"),
    [(CPU, "", {"": CPU}), (GPU, "", {"": GPU}), (CPU, "auto", {"": CPU}), (GPU, "auto", "auto")],
)
def test_every_tensor_is_asked_for_on_the_device_that_computes_it(monkeypatch, source, device, device_map, goes_to):
    def asked(*given, device_map, **options):
        raise AskedError(device_map)

    monkeypatch.setattr(decoder, "load_model", asked)
    with pytest.raises(AskedError) as told:
        decoder.load_decoder(load(None, [f"teacher.device_map={device_map}"]).teacher, source, device)
    assert told.value.args == (goes_to,)


def test_the_loaded_weights_are_those_of_the_files_on_that_device(source):
    model = decoder.load_decoder(load(None, ["teacher.dtype=float32"]).teacher, source, CPU)[1]
    plain = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32).base_model.state_dict()
    loaded = model.state_dict()
    assert loaded.keys() == plain.keys() and all(torch.equal(loaded[name], plain[name]) for name in plain)
    assert {value.device for value in loaded.values()} == {CPU}
