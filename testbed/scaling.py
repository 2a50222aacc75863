"""The configuration of Ray's autoscaler with its fake provider, whose nodes are processes of this machine.

Ray's own AutoscalingCluster and provider fake_multinode lack a file in its wheel.
"""

from typing import Any

HEAD_ID = "f" * 51 + "00000"  # what the fake node provider expects
SETTINGS = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
IDENTITY = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID, "RAY_CLOUD_INSTANCE_ID": HEAD_ID}  # the head's


def configuration(types: dict[str, dict], address: str) -> dict[str, Any]:
    """For node types as in a cluster YAML and the head at `address`."""
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "gcs_address": address,
        "launch_multiple": True,
        "head_node_id": HEAD_ID,
    }
    kinds = {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
    kinds |= {name: {"node_config": {}, "min_workers": 0, **kind} for name, kind in types.items()}
    return {
        "cluster_name": "ckd-fake",
        "provider": provider,
        "max_workers": sum(kind["max_workers"] for kind in kinds.values()),
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 10,
        "head_node_type": "ray.head.default",
        "available_node_types": kinds,
        **{key: {} for key in ("auth", "file_mounts", "docker")},
        **{key: [] for key in ("cluster_synced_files", "initialization_commands", "setup_commands")},
        **{f"{kind}_{key}": [] for kind in ("head", "worker") for key in ("setup_commands", "start_ray_commands")},
    }
