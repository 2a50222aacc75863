"""The command line of a small whole run."""


def words(folder, rows, teacher_folder, bert, *more):
    """The command line of a run below `folder`."""
    return [
        "run",
        *(f"data.{split}={rows}/{split}.json" for split in ("train", "tuning", "held_out")),
        *(f"run.name=t run.results={folder}/results run.public_files={folder} data.shard_rows=32 seed=7".split()),
        *(f"teacher.base_model={teacher_folder}/base teacher.adapter={teacher_folder}/adapter".split()),
        *("teacher.dtype=float32", f"student.base_model={bert}", "student.max_length=64", "student.epochs=2"),
        *("student.learning_rate=1e-2", "student.checkpoint_steps=2"),
        *("head.epochs=3", "head.folds=3", *more),
    ]
