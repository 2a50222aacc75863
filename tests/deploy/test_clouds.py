"""ray_cluster.yaml and its GCP variant: what Ray, the clouds, security and spot machines need.

Every check must refuse mutations of the files.
"""

import json
import logging
import re

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.deploy.cloud_models import compute_accepts, ec2_accepts, machine
from tests.deploy.deploy_files import CLUSTERS, ROOT, TEXTS, changed, fits_a_worker, parsed_watch, ray_start, read

AWS, GCP = read(CLUSTERS["aws"]), read(CLUSTERS["gcp"])


@pytest.fixture(autouse=True)
def quiet_ray():
    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)


def workers(config):
    return {name: group for name, group in config["available_node_types"].items() if name != config["head_node_type"]}


def ray_accepts(config):
    validate_config(prepare_config(config))


def counts_agree(config):
    groups = workers(config)
    for name, group in groups.items():
        resources = group["resources"]
        assert (resources["CPU"], resources.get("GPU", 0)) == machine(group), name
        assert not resources.get("GPU") or fits_a_worker(resources["GPU"]), name
    assert sum(bool(group["resources"].get("GPU")) for group in groups.values()) > 1, (
        "one machine type is one spot market"
    )
    assert config["max_workers"] <= sum(group["max_workers"] for group in groups.values())


def spot_is_where_it_belongs(config):
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "on_demand": 1} and head["max_workers"] == 0
    assert not is_spot(head)
    for name, group in workers(config).items():
        assert is_spot(group) and group["resources"].get("spot") == 1 and "on_demand" not in group["resources"], name
        assert group["min_workers"] == 0 < group["max_workers"], name
    cloud = config["provider"]["type"]
    (watch,) = [command for command in config["worker_start_ray_commands"] if "cluster.preemption" in command]
    assert "until " in watch and watch.rstrip().endswith("&") and "RAY_ADDRESS=$RAY_HEAD_IP:6379;" in watch, watch
    (words,) = re.findall(r"python -m cluster\.preemption ([^;]*);", watch)
    assert parsed_watch(words.split()).cloud == cloud


def is_spot(group):
    node = group["node_config"]
    return (
        node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        or node.get("scheduling", {}).get("provisioningModel") == "SPOT"
    )


def nobody_gets_in(config):
    for command in [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]:
        if "ray stop" not in command:
            assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in command, command
    (head,) = filter(None, map(ray_start, config["head_start_ray_commands"]))
    (worker,) = filter(None, map(ray_start, config["worker_start_ray_commands"]))
    assert (
        head["head"]
        and head["dashboard_host"] == "127.0.0.1"
        and head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    )
    assert worker["address"] == "$RAY_HEAD_IP:6379" and head["port"] == 6379
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["provider"]["use_internal_ips"] is True and config["provider"]["cache_stopped_nodes"] is False
    for group in config["available_node_types"].values():
        closed_machine(group["node_config"])


def closed_machine(node):
    if "InstanceType" in node:
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert all(
            disk["Ebs"]["Encrypted"] is True and disk["Ebs"]["DeleteOnTermination"] is True
            for disk in node["BlockDeviceMappings"]
        )
        assert node["SecurityGroupIds"] and node["IamInstanceProfile"]
    else:
        assert all(
            "accessConfigs" not in interface and interface["subnetwork"] for interface in node["networkInterfaces"]
        )
        assert all(disk["autoDelete"] is True for disk in node["disks"])


def only_code_travels(config):
    local = {
        path.removeprefix("/home/ubuntu/checkout/"): source
        for path, source in config["file_mounts"].items()
        if "checkout" in path
    }
    assert all(name == source and (ROOT / source).exists() for name, source in local.items())
    assert not {"data", "lora", "results", ".", ".git"} & set(local.values())
    assert {"ckd", "cluster", "jobs", "pyproject.toml", "constraints.txt"} <= set(local)
    assert any("--constraint ~/checkout/constraints.txt" in command for command in config["setup_commands"])


def vllm_has_its_machines(config):
    """Groups of several GPUs install vLLM's environment and all else that the others' setup does; no other group does.

    A teacher that wants several GPUs has room nowhere else.
    """
    plain = config["setup_commands"]
    assert all("g++" in command and "python3-dev" in command for command in config["initialization_commands"])
    for name, group in workers(config).items():
        several = group["resources"].get("GPU", 0) > 1
        assert several == ("worker_setup_commands" in group), name
        if several:
            cloud = config["provider"]["type"]
            install = (
                plain[1].replace("constraints.txt", "constraints-vllm.txt").replace(f"[{cloud}]", f"[{cloud},vllm]")
            )
            assert group["worker_setup_commands"] == [plain[0], install, *plain[2:]], name
    assert config["file_mounts"]["/home/ubuntu/checkout/constraints-vllm.txt"] == "constraints-vllm.txt"


CHECKS = [
    ray_accepts,
    counts_agree,
    spot_is_where_it_belongs,
    nobody_gets_in,
    only_code_travels,
    vllm_has_its_machines,
]


@pytest.mark.parametrize("check", [*CHECKS, ec2_accepts])
def test_the_aws_cluster_passes(check):
    check(AWS)


@pytest.mark.parametrize("check", [*CHECKS, compute_accepts])
def test_the_google_cluster_passes(check):
    check(GCP)


def group_path(name, *rest):
    return ("available_node_types", name, *rest)


@pytest.mark.parametrize(
    ("check", "path", "to"),
    [
        (ray_accepts, ("max_worker",), 3),
        (ray_accepts, ("head_node_type",), "heads"),
        (ray_accepts, group_path("gpu_spot_l4", "min_workers"), 99),
        (ec2_accepts, group_path("head", "node_config", "InstanceTyp"), "m7i.large"),
        (ec2_accepts, group_path("gpu_spot_l4", "node_config", "BlockDeviceMappings", 0, "Ebs", "VolumeSize"), "large"),
        (ec2_accepts, group_path("gpu_spot_l4", "node_config", "MetadataOptions", "HttpTokens"), "requird"),
        (ec2_accepts, group_path("gpu_spot_l4", "node_config", "InstanceType"), "g6.2xlrge"),
        (
            ec2_accepts,
            group_path("gpu_spot_l4", "node_config", "InstanceMarketOptions", "SpotOptions", "SpotInstanceType"),
            "once",
        ),
        (counts_agree, group_path("gpu_spot_l4", "node_config", "InstanceType"), "g6.12xlarge"),
        (counts_agree, group_path("gpu_spot_4l4", "resources", "GPU"), 8),
        (counts_agree, group_path("gpu_spot_l40s", "resources", "CPU"), 16),
        (counts_agree, ("max_workers",), 100),
        (spot_is_where_it_belongs, group_path("head", "resources"), {"CPU": 0, "spot": 1}),
        (spot_is_where_it_belongs, group_path("gpu_spot_a10g", "node_config", "InstanceMarketOptions"), None),
        (spot_is_where_it_belongs, group_path("gpu_spot_a10g", "min_workers"), 1),
        (spot_is_where_it_belongs, ("worker_start_ray_commands", 2), "python -m cluster.preemption --cloud gcp;"),
        (
            nobody_gets_in,
            ("head_start_ray_commands", 1),
            "ray start --head --port=6379 --dashboard-host=127.0.0.1",
        ),
        (nobody_gets_in, ("provider", "use_internal_ips"), False),
        (nobody_gets_in, ("file_mounts", "/home/ubuntu/.ray/auth_token"), "auth_token"),
        (nobody_gets_in, group_path("gpu_spot_l4", "node_config", "MetadataOptions", "HttpTokens"), "optional"),
        (nobody_gets_in, group_path("head", "node_config", "BlockDeviceMappings", 0, "Ebs", "Encrypted"), False),
        (nobody_gets_in, group_path("cpu_spot", "node_config", "SecurityGroupIds"), []),
        (vllm_has_its_machines, group_path("gpu_spot_4l4", "worker_setup_commands"), None),
        (vllm_has_its_machines, group_path("gpu_spot_4l4", "worker_setup_commands", 1), AWS["setup_commands"][1]),
        (vllm_has_its_machines, group_path("gpu_spot_4l4", "worker_setup_commands", 2), None),
        (vllm_has_its_machines, group_path("gpu_spot_l4", "worker_setup_commands"), ["true"]),
        (vllm_has_its_machines, ("file_mounts", "/home/ubuntu/checkout/constraints-vllm.txt"), "constraints.txt"),
        (vllm_has_its_machines, ("initialization_commands",), ["sudo apt-get install python3-venv"]),
        (
            ec2_accepts,
            group_path("gpu_spot_l4", "node_config", "BlockDeviceMappings", 0, "Ebs", "Throughput"),
            "500MB",
        ),
        (only_code_travels, ("file_mounts", "/home/ubuntu/checkout/data"), "data"),
        (only_code_travels, ("file_mounts",), {"/home/ubuntu/checkout/.": "."}),
    ],
)
def test_a_broken_aws_cluster_is_refused(check, path, to):
    broken = changed(AWS, path, to)
    with pytest.raises((AssertionError, ValueError, jsonschema.ValidationError)):
        check(broken)


@pytest.mark.parametrize("wrong", ["--dashboard-host=0.0.0.0", "--dashboard-hots=127.0.0.1", "--port=six"])
def test_a_head_that_listens_to_the_world_or_is_started_with_unknown_words_is_refused(wrong):
    command = AWS["head_start_ray_commands"][1].replace("--dashboard-host=127.0.0.1", wrong)
    with pytest.raises(AssertionError):
        nobody_gets_in(changed(AWS, ("head_start_ray_commands", 1), command))


@pytest.mark.parametrize(
    ("check", "path", "to"),
    [
        (ray_accepts, ("provider", "region"), 7),
        (compute_accepts, group_path("gpu_spot_l4", "node_config", "scheduling"), [{"preemptible": True}]),
        (compute_accepts, group_path("gpu_spot_l4", "node_config", "scheduling", "provisioningModel"), "SPOTTY"),
        (compute_accepts, group_path("head", "node_config", "machinetype"), "n2-standard-8"),
        (compute_accepts, group_path("head", "node_config", "disks", 0, "initializeParams", "diskSize"), 100),
        (compute_accepts, ("provider", "availability_zone"), "europe-west4-a"),
        (counts_agree, group_path("gpu_spot_4l4", "resources", "GPU"), 1),
        (counts_agree, group_path("gpu_spot_l4", "node_config", "machineType"), "g2-standard-48"),
        (
            spot_is_where_it_belongs,
            group_path("gpu_spot_l4", "node_config", "scheduling", "provisioningModel"),
            "STANDARD",
        ),
        (spot_is_where_it_belongs, ("worker_start_ray_commands",), GCP["worker_start_ray_commands"][:2]),
        (
            nobody_gets_in,
            group_path("head", "node_config", "networkInterfaces", 0, "accessConfigs"),
            [{"type": "ONE_TO_ONE_NAT"}],
        ),
        (nobody_gets_in, ("worker_start_ray_commands", 1), "ray start --address=$RAY_HEAD_IP:6379"),
    ],
)
def test_a_broken_google_cluster_is_refused(check, path, to):
    broken = changed(GCP, path, to)
    with pytest.raises((AssertionError, ValueError, jsonschema.ValidationError)):
        check(broken)


def test_both_clouds_run_the_same_commands():
    for section in (
        "file_mounts",
        "setup_commands",
        "head_start_ray_commands",
        "worker_start_ray_commands",
        "idle_timeout_minutes",
    ):
        assert json.dumps(AWS[section]).replace("[aws]", "[gcp]").replace("cloud aws", "cloud gcp").replace(
            "(two minutes)", ""
        ) == json.dumps(GCP[section])


def test_no_file_holds_a_secret():
    secret = re.compile(
        r"AKIA[0-9A-Z]{16}|-----BEGIN|(?i:auth_?token|secret|password)\s*[:=]\s*['\"]?[0-9A-Za-z+/_-]{20,}"
    )
    assert secret.search("RAY_AUTH_TOKEN: 3f9a0c1b2d4e5f60718293a4b5c6d7e8") and secret.search(
        'auth_token="3f9a0c1b2d4e5f60718293a4b5c6d7e8"'
    )
    assert [path.name for path in TEXTS if secret.search(path.read_text())] == []
