"""The clouds' own models of what they sell and take: EC2's requests, Compute Engine's instances, machine types."""

import gzip
import json
from pathlib import Path

import botocore.session
import jsonschema
import moto
from botocore.validate import ParamValidator
from googleapiclient import discovery_cache as discovery

GCP_MACHINES = {
    "n2-standard-16": (16, 0),
    "g2-standard-8": (8, 1),
    "g2-standard-48": (48, 4),
    "a2-highgpu-1g": (12, 1),
}  # vCPUs, GPUs: cloud docs


def request_shape():
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def run_instances(node_config):
    """The request that Ray makes of a node_config: SubnetIds is its own key, of which it takes one."""
    rest = {key: value for key, value in node_config.items() if key != "SubnetIds"}
    return {**rest, "SubnetId": node_config["SubnetIds"][0], "MinCount": 1, "MaxCount": 1}


def wrong_words(value, shape, path=""):
    """Enumerated strings that EC2 does not know; botocore leaves them to the server."""
    if shape.type_name == "structure":
        return [word for key in value for word in wrong_words(value[key], shape.members[key], f"{path}.{key}")]
    if shape.type_name == "list":
        return [word for item in value for word in wrong_words(item, shape.member, path)]
    return [f"{path}={value}"] if shape.type_name == "string" and shape.enum and value not in shape.enum else []


def ec2_accepts(config):
    for name, group in config["available_node_types"].items():
        request, shape = run_instances(group["node_config"]), request_shape()
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert not wrong_words(request, shape), name


def discovered(schema):
    """A schema of Google's discovery document as JSON schema that knows no other keys.

    64-bit integers travel as strings or numbers.
    """
    if "$ref" in schema:
        return {"$ref": f"#/definitions/{schema['$ref']}"}
    if schema.get("type") == "array":
        return {"type": "array", "items": discovered(schema["items"])}
    if schema.get("type") == "object":
        properties = {key: discovered(value) for key, value in schema.get("properties", {}).items()}
        extra = schema.get("additionalProperties")
        return {
            "type": "object",
            "properties": properties,
            "additionalProperties": discovered(extra) if extra else False,
        }
    kinds = ["string", "integer"] if schema.get("format") in ("int64", "uint64") else schema["type"]
    return {"type": kinds, **({"enum": schema["enum"]} if "enum" in schema else {})} if kinds != "any" else {}


def compute_schema():
    document = json.loads((Path(discovery.__file__).parent / "documents" / "compute.v1.json").read_text())
    return {
        "$ref": "#/definitions/Instance",
        "definitions": {name: discovered(schema) for name, schema in document["schemas"].items()},
    }


def compute_accepts(config, validator=[]):  # noqa: B006  made once: the document has five megabytes
    if not validator:
        validator.append(jsonschema.Draft7Validator(compute_schema()))
    for name, group in config["available_node_types"].items():
        errors = [error.message for error in validator[0].iter_errors(group["node_config"])]
        assert not errors, f"{name}: {errors}"
        zone = config["provider"]["availability_zone"]
        assert all(
            f"zones/{zone}/" in disk["initializeParams"]["diskType"] for disk in group["node_config"]["disks"]
        ), f"{name}: another zone's disk"


def machine(group):
    """(vCPUs, GPUs) that the cloud sells under the group's machine name."""
    name = group["node_config"].get("InstanceType")
    if name is None:
        return GCP_MACHINES[group["node_config"]["machineType"]]
    sold = json.loads(
        gzip.decompress((Path(moto.__file__).parent / "ec2" / "resources" / "instance_types.json.gz").read_bytes())
    )[name]
    assert "spot" in sold["SupportedUsageClasses"], name
    return sold["VCpuInfo"]["DefaultVCpus"], sum(gpu["Count"] for gpu in sold.get("GpuInfo", {}).get("Gpus", []))
