"""A base model and one whole training, which nothing changes."""

import pytest

from ckd.config import Config
from tests.student.student_cohort import make_base
from tests.student.trainings import Ear, prepared, run_train


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, base) -> tuple[Config, Ear]:
    """A whole training with dropout: 2 epochs of 4 steps, checkpoints at 3, 4, 6, 8."""
    config = prepared(tmp_path_factory.mktemp("undisturbed"), base)
    return config, run_train(config)
