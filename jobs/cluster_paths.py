"""Checks where a run on a cluster keeps its files: every machine must see them, also after the job has ended."""

import os
from collections.abc import Iterator

from ckd.config import Config
from ckd.errors import ConfigError
from ckd.store.filesystems import is_local
from ckd.store.hub import adapter_on_hub, is_hub_id
from cluster.address import IN_A_JOB, named_cluster
from jobs.ray_session import require_address


def on_cluster(config: Config) -> bool:
    """Whether this process drives a run on a cluster: a submitted job, or RAY_ADDRESS is set and there are workers."""
    workers = max(config.teacher.workers.max, config.student.workers.max)
    return IN_A_JOB in os.environ or bool(workers and named_cluster())


def require_shared(config: Config) -> Config:
    """The configuration as it runs on a cluster: public files go below run.results unless they have a shared place.

    Raises ConfigError naming the first key whose files not every machine sees: they must be URLs, or lie below
    run.shared_mounts. No path is looked up, so this works on a machine that sees none of them.
    """
    run = config.run
    for mount in run.shared_mounts:
        if not mount.startswith("/") or _plain(mount) == "/":
            raise ConfigError(
                f"run.shared_mounts: '{mount}' is no folder below /; name what every machine mounts, such as /mnt/nfs"
            )
    for key, path in _folders(config):
        if not _shared(path, run.shared_mounts):
            raise ConfigError(
                f"{key}={path}: a path of one machine, which a cluster's others do not see and which ends with "
                "the job; give a URL (s3://, gs://) or a folder below one that run.shared_mounts lists"
            )
    public = run.public_files if _shared(run.public_folder, run.shared_mounts) else run.results
    return config.model_copy(update={"run": run.model_copy(update={"public_files": public})})


def placed(config: Config) -> Config:
    """The configuration of a stage that is about to run here: on a cluster as `require_shared`, else unchanged."""
    if not on_cluster(config):
        return config
    require_address()
    return require_shared(config)


def _folders(config: Config) -> Iterator[tuple[str, str]]:
    yield "run.results", config.run.results
    yield "run.artifacts", config.run.artifacts or config.run.results
    if config.run.embeddings:
        yield "run.embeddings", config.run.embeddings
    for key in ("train", "tuning", "held_out"):
        if path := getattr(config.data, key):
            yield f"data.{key}", path
    if config.teacher.adapter and not adapter_on_hub(config.teacher.adapter):
        yield "teacher.adapter", config.teacher.adapter
    if config.teacher.template_file:
        yield "teacher.chat_template", config.teacher.template_file
    for key, name in (
        ("teacher.base_model", config.teacher.base_model),
        ("student.base_model", config.student.base_model),
    ):
        if not is_hub_id(name):  # which every machine fetches for itself
            yield key, name


def _shared(path: str, mounts: tuple[str, ...]) -> bool:
    path = path.removeprefix("file://")
    if not is_local(path):
        return True
    return path.startswith("/") and any(f"{_plain(path)}/".startswith(f"{_plain(mount)}/") for mount in mounts)


def _plain(path: str) -> str:
    """The path without `..` and doubled slashes: /mnt/nfs/../home is not below /mnt/nfs."""
    return os.path.normpath(path).replace("//", "/")
