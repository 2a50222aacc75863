"""The server's benchmark: its student is a folder that `ckd serve` takes."""

from benchmarks.serving.server import make_texts, write_student
from ckd.predict.modelfolder import ModelFolder


def test_the_load_benchmark_serves_a_folder_as_training_leaves_one(tmp_path):
    texts = make_texts(5)
    model = ModelFolder.open(write_student(str(tmp_path), texts))
    assert model.calibration is None
