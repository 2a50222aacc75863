"""The KubeRay manifests: the CRDs' own schemas, and what spot nodes, the token and the network need.

Every check must refuse mutations of the manifests.
"""

import json
import re
import shlex

import jsonschema
import pytest
import yaml

from ckd.configfile import load
from jobs.commands import COMMANDS
from tests.deploy.crds import accepted, crd, needs_crds
from tests.deploy.deploy_files import DEPLOY, PINS, ROOT, changed, fits_a_worker, parsed_start, parsed_watch, read

JOB, CLUSTER, NETWORK = (read(DEPLOY / f"kuberay-{name}.yaml") for name in ("rayjob", "raycluster", "network"))
MODELS = list(yaml.safe_load_all((DEPLOY / "kuberay-models.yaml").read_text()))
GPU = "nvidia.com/gpu"
HEAD = ("spec", "headGroupSpec")
WORKER = ("spec", "workerGroupSpecs", 0)
RAY = (*WORKER, "template", "spec", "containers", 0)
WATCH = (*WORKER, "template", "spec", "containers", 1)
VLLM = ("spec", "workerGroupSpecs", 1)


def ray_starts(manifest):
    """Both groups' rayStartParams make a `ray start` that Ray understands.

    Its resources keep driver and work apart.
    """
    head, workers = manifest["spec"]["headGroupSpec"], manifest["spec"]["workerGroupSpecs"]
    starts = [started(group) for group in (head, *workers)]
    assert starts[0]["num_cpus"] == 0 and json.loads(starts[0]["resources"]) == {"on_demand": 1}
    for group, start in zip(workers, starts[1:], strict=True):
        assert json.loads(start["resources"]) == {"spot": 1}
        asked = container(group, "ray-worker")["resources"]
        assert asked["limits"][GPU] == asked["requests"][GPU] == str(start["num_gpus"])
        assert fits_a_worker(start["num_gpus"])
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]


def started(group):
    line = " ".join(f"--{key}={value}" for key, value in group["rayStartParams"].items())
    return parsed_start(shlex.split(line))


def container(group, name):
    (found,) = [each for each in group["template"]["spec"]["containers"] if each["name"] == name]
    return found


def spot_nodes_are_drained(manifest):
    assert manifest["spec"]["enableInTreeAutoscaling"] is True
    (affinity,) = manifest["spec"]["headGroupSpec"]["template"]["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    kept_off = {(each["key"], each["operator"]) for each in affinity["matchExpressions"]}
    assert kept_off == {("cloud.google.com/gke-spot", "DoesNotExist"), ("eks.amazonaws.com/capacityType", "NotIn")}
    for group in manifest["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert pod["nodeSelector"] and {"key": GPU, "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
        assert any("spot" in each["key"] for each in pod["tolerations"])
        assert pod["containers"][0]["name"] == "ray-worker", "KubeRay takes the first container for Ray's"
        watch = container(group, "preemption")
        assert watch["command"][:3] == ["python", "-m", "cluster.preemption"]
        grace = parsed_watch(watch["command"][3:]).grace
        (sleep,) = re.findall(
            r"^sleep (\d+)$", container(group, "ray-worker")["lifecycle"]["preStop"]["exec"]["command"][-1]
        )
        assert grace == int(sleep) < pod["terminationGracePeriodSeconds"]
        named = {each["name"]: each for each in watch["env"]}
        assert list(named)[:2] == ["RAY_CLUSTER", "RAY_ADDRESS"], (
            "$(RAY_CLUSTER) is filled in only when it stands before"
        )
        assert named["RAY_ADDRESS"]["value"] == "$(RAY_CLUSTER)-head-svc:6379"


def only_the_token_opens(manifest):
    spec = manifest["spec"]
    assert spec["authOptions"]["mode"] == "token" and not spec["authOptions"].get("enableK8sTokenAuth")
    secret = {"name": spec["authOptions"]["secretName"], "key": "auth_token"}
    head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head["serviceType"] == "ClusterIP" and not head.get("enableIngress")
    for group in workers:
        (token,) = [each for each in container(group, "preemption")["env"] if each["name"] == "RAY_AUTH_TOKEN"]
        assert token.get("valueFrom") == {"secretKeyRef": secret}
    label, value = next(iter(NETWORK["spec"]["podSelector"]["matchLabels"].items()))
    for group in (head, *workers):
        assert group["template"]["metadata"]["labels"][label] == value, "the network policy would not hold for it"
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True and not pod.get("hostNetwork")
        for each in pod["containers"]:
            assert each["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert not any("value" in item and "TOKEN" in item["name"] for item in each.get("env", []))


def pinned(manifest):
    """One image, and its variant with vLLM in the group of several GPUs, where a teacher that needs them fits alone."""
    spec = manifest["spec"]
    assert spec["rayVersion"] == PINS["ray"]
    images = {name: set(re.findall(r"'image': '([^']+)'", str(group))) for name, group in groups(spec).items()}
    (plain,) = images.pop("head")
    assert plain.endswith(f":ray-{PINS['ray']}") and images == {"gpu-spot": {plain}, "gpu-spot-vllm": {f"{plain}-vllm"}}
    gpus = {name: started(group)["num_gpus"] for name, group in groups(spec).items() if name != "head"}
    assert gpus["gpu-spot-vllm"] > gpus["gpu-spot"] == 1


def groups(spec):
    return {"head": spec["headGroupSpec"], **{group["groupName"]: group for group in spec["workerGroupSpecs"]}}


def models_are_fetched_once(manifest):
    """Every Ray container has the shared cache where this project and Hugging Face look for it, the watcher has not."""
    (claim, owner) = MODELS
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name, group in groups(manifest["spec"]).items():
        pod = group["template"]["spec"]
        assert [v["persistentVolumeClaim"] for v in pod["volumes"]] == [{"claimName": claim["metadata"]["name"]}], name
        mounts = {m["mountPath"]: m["subPath"] for m in pod["containers"][0]["volumeMounts"]}
        cache = "/home/ckd/.cache"
        assert mounts == {
            f"{cache}/huggingface": "hub",
            f"{cache}/ckd/models": "models",
            f"{cache}/ckd/hashes": "hashes",
        }
        (job,) = owner["spec"]["template"]["spec"]["containers"]
        assert job["command"][-3:] == [f"/models/{folder}" for folder in mounts.values()]
        assert f"--owner={pod['securityContext']['runAsUser']}" in job["command"]
        assert all("volumeMounts" not in each for each in pod["containers"][1:])


CHECKS = [
    pytest.param(accepted, marks=needs_crds),
    ray_starts,
    spot_nodes_are_drained,
    only_the_token_opens,
    pinned,
    models_are_fetched_once,
]


@pytest.mark.parametrize("check", CHECKS)
def test_the_ray_cluster_passes(check):
    check(CLUSTER)


@needs_crds
def test_the_ray_job_fits_its_crd():
    accepted(JOB)


def test_the_jobs_cluster_is_the_standing_one():
    assert JOB["spec"]["rayClusterSpec"] == CLUSTER["spec"]


@pytest.mark.parametrize(
    ("check", "path", "to"),
    [
        pytest.param(accepted, ("spec", "rayVersions"), "2.60.0", marks=needs_crds),
        pytest.param(accepted, ("spec", "authOptions", "mode"), "tokens", marks=needs_crds),
        pytest.param(accepted, (*WORKER, "groupName"), None, marks=needs_crds),
        pytest.param(accepted, (*WORKER, "maxReplicas"), "8", marks=needs_crds),
        pytest.param(accepted, (*WORKER, "rayStartParams", "num-gpus"), 1, marks=needs_crds),
        pytest.param(
            accepted, (*WORKER, "template", "spec", "tolerations", 0, "effects"), "NoSchedule", marks=needs_crds
        ),
        pytest.param(accepted, (*RAY, "lifecycle", "preStop", "exec", "command"), "sleep 25", marks=needs_crds),
        pytest.param(accepted, (*RAY, "resource"), {}, marks=needs_crds),
        pytest.param(accepted, ("spec", "autoscalerOptions", "upscalingMode"), "Fast", marks=needs_crds),
        (ray_starts, (*HEAD, "rayStartParams", "num-cpu"), "0"),
        (ray_starts, (*HEAD, "rayStartParams", "resources"), '{"on_demand": 1}'),
        (ray_starts, (*WORKER, "rayStartParams", "resources"), '"{\\"on_demand\\": 1}"'),
        (ray_starts, (*WORKER, "rayStartParams", "num-gpus"), "2"),
        (ray_starts, (*RAY, "resources", "limits", GPU), "4"),
        (ray_starts, (*WORKER, "minReplicas"), 1),
        (spot_nodes_are_drained, (*WATCH, "command", 2), "cluster.premption"),
        (spot_nodes_are_drained, (*WATCH, "command", 4), "60"),
        (spot_nodes_are_drained, (*WATCH, "command", 3), "--graces"),
        (spot_nodes_are_drained, (*RAY, "lifecycle"), {"preStop": {"exec": {"command": ["/bin/sh", "-c", "sleep 5"]}}}),
        (spot_nodes_are_drained, (*WORKER, "template", "spec", "terminationGracePeriodSeconds"), 25),
        (spot_nodes_are_drained, ("spec", "enableInTreeAutoscaling"), False),
        (only_the_token_opens, ("spec", "authOptions", "mode"), "disabled"),
        (only_the_token_opens, ("spec", "authOptions", "secretName"), "another"),
        (only_the_token_opens, (*HEAD, "serviceType"), "LoadBalancer"),
        (only_the_token_opens, (*WATCH, "env", 2), {"name": "RAY_AUTH_TOKEN", "value": "0123"}),
        (only_the_token_opens, (*WORKER, "template", "spec", "securityContext", "runAsNonRoot"), False),
        (only_the_token_opens, (*HEAD, "template", "metadata", "labels"), {"app.kubernetes.io/part-of": "other"}),
        (pinned, ("spec", "rayVersion"), "2.59.0"),
        (pinned, (*RAY, "image"), "registry.example.org/ckd-ehr:ray-2.59.0"),
        (pinned, (*RAY, "image"), "registry.example.org/ckd-ehr:ray-2.60.0-vllm"),
        (pinned, (*VLLM, "template", "spec", "containers", 0, "image"), "registry.example.org/ckd-ehr:ray-2.60.0"),
        (pinned, (*VLLM, "rayStartParams", "num-gpus"), "1"),
        (ray_starts, (*VLLM, "rayStartParams", "num-gpus"), "2"),
        (spot_nodes_are_drained, (*VLLM, "template", "spec", "containers", 0, "lifecycle"), None),
        (only_the_token_opens, (*VLLM, "template", "metadata", "labels"), {"app.kubernetes.io/part-of": "other"}),
        (models_are_fetched_once, (*VLLM, "template", "spec", "volumes"), []),
        (models_are_fetched_once, (*RAY, "volumeMounts", 1, "subPath"), "hub"),
        (models_are_fetched_once, (*RAY, "volumeMounts", 0, "mountPath"), "/root/.cache/huggingface"),
        (models_are_fetched_once, (*WORKER, "template", "spec", "securityContext", "runAsUser"), 1001),
        (models_are_fetched_once, ("spec", "headGroupSpec", "template", "spec", "volumes"), None),
    ],
)
def test_a_broken_ray_cluster_is_refused(check, path, to):
    broken = changed(CLUSTER, path, to)
    with pytest.raises((AssertionError, KeyError)):
        check(broken)


@needs_crds
@pytest.mark.parametrize(
    "path",
    [("spec", "entryPoint"), ("spec", "rayClusterSpec", "headGroupSpec", "templates"), ("spec", "backoffLimits")],
)
def test_a_job_with_an_unknown_field_is_refused(path):
    with pytest.raises(AssertionError):
        accepted(changed(JOB, path, 1))


def runs_the_pipeline(job):
    """The entrypoint is a command of ours with keys that exist, on URLs.

    It asks for no more workers than the cluster's GPUs hold.
    """
    words = shlex.split(job["spec"]["entrypoint"])
    (*python, command, _, path), overrides = words[:6], words[6:]
    assert python == ["python", "-m", "jobs"] and command in COMMANDS
    assert "WORKDIR /app\n" in (DEPLOY / "Dockerfile").read_text()
    config = load(str(ROOT / path.removeprefix("/app/")), overrides)
    run, data = config.run, config.data
    assert all("://" in each for each in (run.artifacts, run.results, run.public_files, data.train, data.tuning))
    gpus = sum(
        group["maxReplicas"] * started(group)["num_gpus"] for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    )
    for stage in (config.teacher, config.student):
        assert 0 < stage.workers.max * stage.gpus_per_worker <= gpus
    head = json.loads(started(job["spec"]["rayClusterSpec"]["headGroupSpec"])["resources"])
    ((name, amount),) = json.loads(job["spec"]["entrypointResources"]).items()
    assert 0 < amount <= head[name]
    assert job["spec"]["shutdownAfterJobFinishes"] is True and job["spec"]["backoffLimit"] > 0


def test_the_job_runs_the_pipeline_on_urls_within_its_cluster():
    runs_the_pipeline(JOB)


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        (("spec", "entrypoint"), "teacher.workers=1..8", "teacher.workers=1..17"),
        (("spec", "entrypoint"), "jobs run", "jobs rnu"),
        (("spec", "entrypoint"), "-m jobs", "-m job"),
        (("spec", "entrypoint"), "run.results=s3://my-bucket/", "run.results="),
        (("spec", "entrypoint"), "student.workers", "student.worker"),
        (("spec", "entrypointResources"), "on_demand", "spot"),
    ],
)
def test_a_broken_job_is_refused(path, before, after):
    assert before in JOB["spec"][path[1]]
    with pytest.raises(Exception):  # noqa: B017  a wrong key is a ConfigError, a wrong resource a KeyError
        runs_the_pipeline(changed(JOB, path, JOB["spec"][path[1]].replace(before, after)))


@pytest.mark.parametrize("cluster", [CLUSTER["spec"], JOB["spec"]["rayClusterSpec"]], ids=["standing", "of a job"])
def test_head_and_workers_take_the_hubs_token_from_a_secret_that_may_be_absent(cluster):
    pods = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for container in (container for pod in pods for container in pod["spec"]["containers"]):
        given = {entry["name"]: entry.get("valueFrom") for entry in container["env"]}
        if container["name"].startswith("ray-"):
            assert given["HF_TOKEN"] == {"secretKeyRef": {"name": "ckd-hub-token", "key": "token", "optional": True}}
        else:
            assert "HF_TOKEN" not in given


@needs_crds
def test_the_network_policy_is_well_formed_and_lets_nobody_else_in():
    # KubeRay's own field for a head's ingress rules has the type that a NetworkPolicy's have.
    rules = crd("RayCluster").schema["properties"]["spec"]["properties"]["networkPolicy"]["properties"]["head"][
        "properties"
    ]["ingressRules"]
    network_is_closed(NETWORK, rules)
    for path, to in (
        (("spec", "ingress", 0, "from"), None),
        (("spec", "ingress", 0, "from", 0), {"podSelector": {}}),
        (("spec", "ingress", 1, "from", 0), {"namespaceSelector": {}}),
        (("spec", "ingress", 1, "port"), 8265),
        (("spec", "policyTypes"), ["Egress"]),
        (("spec", "ingress", 0, "from", 0), {"ipBlock": {"cidr": "0.0.0.0/0"}}),
    ):
        with pytest.raises((AssertionError, jsonschema.ValidationError)):
            network_is_closed(changed(NETWORK, path, to), rules)


def network_is_closed(policy, rules):
    assert set(policy) == {"apiVersion", "kind", "metadata", "spec"} and policy["spec"]["policyTypes"] == ["Ingress"]
    jsonschema.validate(policy["spec"]["ingress"], rules)
    for rule in policy["spec"]["ingress"]:
        assert rule.get("from"), "a rule without peers lets everybody in"
        for peer in rule["from"]:
            assert all(selector.get("matchLabels") for selector in peer.values())
            assert set(peer) <= {"podSelector", "namespaceSelector"}
            assert "ports" in rule or peer == {"podSelector": policy["spec"]["podSelector"]}
