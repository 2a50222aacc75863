"""The fixtures that several modules share."""

import numpy as np
import pytest


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
