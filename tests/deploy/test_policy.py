"""The IAM policies allow what Ray's own launcher does with ray_cluster.yaml, and nothing more.

The launcher runs against moto's EC2.
"""

import json

import boto3
import moto
import pytest
from ray.autoscaler._private.util import prepare_config

from tests.deploy.deploy_files import CLUSTERS, DEPLOY, ROOT, changed, read


def actions(policy):
    return {action for statement in policy["Statement"] for action in listed(statement["Action"])}


def listed(value):
    return [value] if isinstance(value, str) else value


def least_privilege(policy):
    for statement in policy["Statement"]:
        names, resources = listed(statement["Action"]), listed(statement["Resource"])
        assert statement["Effect"] == "Allow" and not {"NotAction", "NotResource"} & set(statement)
        assert not any("*" in name for name in names), statement["Sid"]
        # EC2's Describe* know no resources: docs/operating.md says so
        assert "*" not in resources or all(name.startswith("ec2:Describe") for name in names), statement["Sid"]
        assert not any(
            resource.startswith("arn:aws:s3:::*") or resource == "arn:aws:s3:::my-bucket/*" for resource in resources
        ), statement["Sid"]
        for name in names:
            spread = [resource for resource in resources if resource.endswith("*") and ":instance/" in resource]
            assert not spread or "Condition" in statement, f"{statement['Sid']}: any machine of the account"
            assert name != "iam:PassRole" or resources == ["arn:aws:iam::123456789012:role/ckd-worker"], statement[
                "Sid"
            ]


@pytest.fixture
def account(monkeypatch, tmp_path):
    """moto's EC2 with a network, the AWS file with its ids, and the names of the calls made."""
    from ray.autoscaler._private.aws import utils

    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes an SSH key there
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    for cache in (utils.resource_cache, utils.client_cache):
        cache.cache_clear()
    with moto.mock_aws():
        ec2 = boto3.client("ec2", region_name="us-east-1")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnets = [ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24")["Subnet"]["SubnetId"] for n in range(3)]
        security = ec2.create_security_group(GroupName="ckd", Description="x", VpcId=vpc)["GroupId"]
        image = ec2.describe_images(Owners=["099720109477"])["Images"][0]["ImageId"]
        config = prepare_config(read(CLUSTERS["aws"]))
        for group in config["available_node_types"].values():
            group["node_config"].update(SubnetIds=subnets, SecurityGroupIds=[security], ImageId=image)
        iam = boto3.client("iam")
        for name in ("ckd-head", "ckd-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        yield config
    for cache in (utils.resource_cache, utils.client_cache):
        cache.cache_clear()


def test_rays_launcher_starts_and_stops_every_group_and_the_heads_policy_covers_its_calls(account):
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    config = AWSNodeProvider.bootstrap_config(account)
    called = set()
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for resource in (provider.ec2, provider.ec2_fail_fast):
        resource.meta.client.meta.events.register("before-call.ec2", lambda model, **_: called.add(f"ec2:{model.name}"))
    filled = AWSNodeProvider.fillout_available_node_types_resources(config)
    for name, group in config["available_node_types"].items():
        tags = {"ray-node-name": name, "ray-node-type": "worker", "ray-user-node-type": name, "ray-launch-config": "x"}
        assert len(provider.create_node(group["node_config"], tags, 1)) == 1, name
        assert filled["available_node_types"][name]["resources"].items() >= group["resources"].items()
    nodes = provider.non_terminated_nodes({})
    spot = [node for node in nodes if provider.cached_nodes[node].instance_lifecycle == "spot"]
    assert len(nodes) == len(config["available_node_types"]) == 1 + len(spot)
    provider.set_node_tags(nodes[0], {"ray-node-status": "up-to-date"})
    provider.terminate_node(nodes[0])
    provider.terminate_nodes(nodes[1:])
    allowed = actions(json.loads((DEPLOY / "iam-policy.json").read_text()))
    assert called == {action for action in allowed if action.startswith("ec2:")}


@pytest.mark.parametrize("name", ["iam-policy.json", "iam-policy-worker.json"])
def test_the_policies_give_no_more_than_the_page_justifies(name):
    policy = json.loads((DEPLOY / name).read_text())
    least_privilege(policy)
    page = (ROOT / "docs" / "operating.md").read_text()
    assert all(f"`{statement['Sid']}`" in page for statement in policy["Statement"])
    for broken in (
        changed(policy, ("Statement", 1, "Action"), "s3:*"),
        changed(policy, ("Statement", 1, "Action"), ["*"]),
        changed(policy, ("Statement", 1, "Resource"), "*"),
        changed(policy, ("Statement", 1, "Resource"), "arn:aws:s3:::my-bucket/*"),
    ):
        with pytest.raises(AssertionError):
            least_privilege(broken)


def test_a_policy_over_machines_of_others_is_refused():
    policy = json.loads((DEPLOY / "iam-policy.json").read_text())
    places = {statement["Sid"]: index for index, statement in enumerate(policy["Statement"])}
    for path, to in (
        ((places["TagAndStopMachinesOfThisCluster"], "Condition"), None),
        ((places["GiveWorkersTheirRole"], "Resource"), "arn:aws:iam::123456789012:role/*"),
        ((places["StartMachinesOfThisCluster"], "Resource"), "*"),
    ):
        with pytest.raises(AssertionError):
            least_privilege(changed(policy, ("Statement", *path), to))


def test_a_worker_may_do_nothing_but_read_and_write_the_prefix_and_the_head_the_same_there():
    head, worker = (json.loads((DEPLOY / name).read_text()) for name in ("iam-policy.json", "iam-policy-worker.json"))
    assert all(action.startswith("s3:") for action in actions(worker))
    assert head["Statement"][: len(worker["Statement"])] == worker["Statement"]
