"""Run by SkyPilot's own Python: for each task on standard input (JSON), what SkyPilot says against it, or null."""

import json
import sys

import sky
from sky.jobs import recovery_strategy as recovery_strategy  # registers them
from sky.utils import common_utils, registry, schemas


def complaint(task):
    """SkyPilot's words; null for a task that it would launch."""
    try:
        common_utils.validate_schema(task, schemas.get_task_schema(), "task: ")
        common_utils.validate_schema(task["resources"], schemas.get_resources_schema(), "resources: ")
        made = sky.Task.from_yaml_config(task, env_overrides={"CKD_URL": "s3://my-bucket/ckd"})
        for resources in made.resources:
            registry.JOBS_RECOVERY_STRATEGY_REGISTRY.from_str(resources.job_recovery["strategy"])
    except Exception as error:  # noqa: BLE001  a dozen kinds
        return f"{type(error).__name__}: {error}"[:300]
    return None


json.dump([complaint(task) for task in json.load(sys.stdin)], sys.stdout)
