"""What the fault tests of the pool share: inputs, the undisturbed run, and a head to which each test adds machines."""

import itertools

import pytest

from testbed.raycluster import cluster
from tests.faults.fake_embed import SHARDS, command, make_inputs, parts


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="session")
def undisturbed(inputs):
    folder = inputs / "undisturbed"
    folder.mkdir()
    assert command([str(folder), "0", "FakeEmbedWorker", "teacher.workers=0"]) == 0
    assert len(parts(folder)) == 2 * SHARDS
    return folder


@pytest.fixture
def folder(inputs, request):
    place = inputs / request.node.name.replace("[", "-").rstrip("]")
    place.mkdir()
    return place


@pytest.fixture(scope="package")
def head():
    with cluster(cpus=0) as one:
        yield one


@pytest.fixture
def machines(head):
    """Two fresh machines with a (fake) GPU each; they end with the test."""
    names = [f"{next(_COUNT)}-{name}" for name in ("a", "b")]
    for name in names:
        head.add(name, gpus=1, wait=False)
    head.wait(*names)
    yield names
    for name in names:
        head.vanish(name)


_COUNT = itertools.count()
