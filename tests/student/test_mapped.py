"""Arrays in a mapped file equal what was built, are built once per machine, and are gone afterwards."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ckd.errors import ArtifactError
from ckd.store.artifacts import Stage
from ckd.student.examples import SOFT_LABELS, Examples, ShardExamples
from ckd.student.mapped import MappedArrays
from ckd.student.tokens import token_fields
from tests.student.student_cohort import make_base, make_cohort, make_config, make_tokens, make_visits

kinds = st.sampled_from(["<i4", "<i8", "<f2", "<f4", "<f8", "|b1", "<U7"])
arrays = kinds.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)))


@settings(deadline=None, max_examples=40)
@given(made=st.dictionaries(st.sampled_from("abcd"), arrays, min_size=1))
def test_what_is_mapped_is_what_was_built(tmp_path_factory, made):
    with MappedArrays(tmp_path_factory.mktemp("mapped")) as mapped:
        found = mapped.get("x", lambda: made)
        assert found.keys() == made.keys()
        for name, array in made.items():
            np.testing.assert_array_equal(found[name], array)
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert not (array.size and found[name].flags.writeable)


def _get(folder: Path, built: Path, answers) -> None:
    def build():
        with built.open("a") as file:
            file.write("built\n")
        return {"a": np.arange(1000)}

    answers.put(int(MappedArrays(folder).get("x", build)["a"].sum()))


def test_several_processes_build_an_array_once(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_get, args=(tmp_path / "m", tmp_path / "built", answers)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=30) for _ in processes] == [499500] * 4
    for process in processes:
        process.join()
    assert (tmp_path / "built").read_text() == "built\n"


def test_the_files_are_the_user_s_alone_and_go_at_the_end_while_what_is_mapped_stays(tmp_path):
    with MappedArrays(tmp_path / "m") as mapped:
        found = mapped.get("x", lambda: {"a": np.arange(5)})["a"]
        assert (tmp_path / "m").stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "m").exists()
    assert found.tolist() == [0, 1, 2, 3, 4]


def test_without_a_writable_disk_the_arrays_stay_in_memory(tmp_path):
    (tmp_path / "file").write_text("no folder")
    built = []
    with MappedArrays(tmp_path / "file" / "m") as mapped:
        found = mapped.get("x", lambda: built.append(1) or {"a": np.arange(5)})
    assert found["a"].tolist() == [0, 1, 2, 3, 4] and built == [1]


def test_an_error_of_building_is_raised_as_it_is_and_leaves_nothing(tmp_path):
    def build():
        raise ArtifactError("part missing")

    with MappedArrays(tmp_path / "m") as mapped:
        with pytest.raises(ArtifactError, match="part missing"):
            mapped.get("x", build)
        assert mapped.get("x", lambda: {"a": np.arange(2)})["a"].tolist() == [0, 1]


def test_examples_are_the_same_mapped_and_not_and_a_part_is_read_once(tmp_path):
    config = make_config(tmp_path, make_base(tmp_path / "base"))
    cohort = make_cohort(
        config.run.artifacts_root, [*make_visits("train", 20), *make_visits("train", 5, labeled=False)], shard_rows=8
    )
    make_tokens(config)
    shards = cohort.select("train", labeled=None)

    def examples(mapped: MappedArrays | None) -> list[ShardExamples]:
        made = Examples(
            config.run.artifacts_root,
            shards,
            token_fields(config),
            hard_weight=0.9,
            teacher=[SOFT_LABELS],
            mapped=mapped,
        )
        return [made[position] for position in range(len(shards))]

    plain = examples(None)
    with MappedArrays(tmp_path / "m") as mapped:
        first = examples(mapped)
        for shard in shards:
            Path(Stage(config.run.artifacts_root, "tokens", {}).path(shard.index)).unlink()
        for wanted, *others in zip(plain, first, examples(mapped), strict=True):
            for found in others:
                assert found.visit_ids == wanted.visit_ids
                for name in ("tokens", "offsets", "hard", "soft_logits", "hard_weight", "weight"):
                    np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
