"""clusters/aws.yaml as `ray up` reads it, against moto's imitation of AWS: what would be made there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_LAUNCH_CONFIG, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

FILE = Path(__file__).resolve().parents[2] / "clusters" / "aws.yaml"


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty account, and a home folder for the key that Ray makes."""
    from ray.autoscaler._private.aws import config

    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setattr(config.time, "sleep", lambda _: None)  # half a minute for IAM to spread the news
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield


@pytest.mark.slow
def test_head_on_demand_spot_workers_and_nothing_open_but_ssh(account: None) -> None:
    config = prepare_config(yaml.safe_load(FILE.read_text()))
    validate_config(config)
    client = boto3.client("ec2", config["provider"]["region"])
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    config = AWSNodeProvider.fillout_available_node_types_resources(bootstrap_aws(config))
    assert config["available_node_types"]["worker"]["resources"]["GPU"] == 1
    assert config["available_node_types"]["head"]["resources"]["GPU"] == 1

    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    for name, kind in (("head", "head"), ("worker", "worker"), ("worker", "worker")):
        node_config = copy.deepcopy(config["available_node_types"][name]["node_config"])
        if name == "head":
            node_config["IamInstanceProfile"] = config["head_node"]["IamInstanceProfile"]
        tags = {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: name, TAG_RAY_LAUNCH_CONFIG: "1"}
        provider.create_node(node_config, tags, 1)
    made: list[dict[str, Any]] = [
        instance for reservation in client.describe_instances()["Reservations"] for instance in reservation["Instances"]
    ]
    spot = [instance for instance in made if instance.get("InstanceLifecycle") == "spot"]
    assert (len(made), len(spot)) == (3, 2)
    assert [instance for instance in made if "IamInstanceProfile" in instance] == [i for i in made if i not in spot]
    groups = {group["GroupId"] for instance in made for group in instance["SecurityGroups"]}
    open_to_all = [
        rule["FromPort"]
        for group in client.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
        for rule in group["IpPermissions"]
        if rule["IpRanges"]
    ]
    assert open_to_all == [22]
