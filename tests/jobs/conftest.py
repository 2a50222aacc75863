"""A student of the tests, and a command in this process."""

import pytest

from jobs.cli import main
from tests.student.student_cohort import OTHERS, make_base


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("bert"), others=OTHERS)


@pytest.fixture
def here(capsys, monkeypatch):
    """Runs a command in this process and a folder: exit code, standard output, standard error."""

    def run(folder, arguments):
        monkeypatch.chdir(folder)
        capsys.readouterr()
        code = main(arguments)
        return code, *capsys.readouterr()

    return run
