"""One core per test process, no hub, no telemetry: set before any library is imported. The fixtures that several modules share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", RAY_USAGE_STATS_ENABLED="0")
# Ray's workers import the tests' own workers.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH")])
)

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ckd", deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("ckd")


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory):
    """A tiny untrained teacher: <folder>/base and <folder>/adapter."""
    from ckd.teacher.tiny import UNTRAINED, make_teacher

    folder = tmp_path_factory.mktemp("teacher")
    texts = [f"The patient-acquired disease is disease {i}, Heart failure. None." for i in range(50)]
    make_teacher(str(folder), texts, np.zeros((50, 25)), 0, UNTRAINED)
    return str(folder)


@pytest.fixture(scope="session")
def local_ray():
    """One local Ray for all tests that ask for it: starting one costs seconds."""
    from cluster.session import session

    with session(cpus=4):
        yield
