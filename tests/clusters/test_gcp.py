"""clusters/gcp.yaml as `ray up` reads it: Ray's own code, with stand-ins for Google's client library and for what answers.

The library is not installed here (100 MB): what is asked for is checked against the API's reference of an instance.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).resolve().parents[2] / "clusters" / "gcp.yaml"
# Of compute.googleapis.com v1, `Instance` and what it holds; None: not looked into.
INSTANCE: dict[str, Any] = {
    "name": None,
    "machineType": None,
    "labels": None,
    "networkInterfaces": None,
    "serviceAccounts": None,
    "scheduling": {
        "onHostMaintenance": ("TERMINATE", "MIGRATE"),
        "provisioningModel": ("SPOT", "STANDARD"),
        "instanceTerminationAction": ("DELETE", "STOP"),
        "automaticRestart": (True, False),
    },
    "disks": [
        {
            "boot": (True, False),
            "autoDelete": (True, False),
            "type": ("PERSISTENT", "SCRATCH"),
            "initializeParams": {"diskSizeGb": None, "sourceImage": None},
        }
    ],
}


class Api:
    """Any chain of calls on it is a request, answered by `answers[its name]`; `asked` keeps the bodies."""

    def __init__(self, answers: dict[str, Any], asked: list[tuple[str, Any]], name: str = "", body: Any = None) -> None:
        self._answers, self._asked, self._name, self._body = answers, asked, name, body
        self._http = None

    def __getattr__(self, name: str) -> Any:
        full = f"{self._name}.{name}".lstrip(".")
        return lambda body=None, **_: Api(self._answers, self._asked, full, body)

    def execute(self, **_: Any) -> Any:
        self._asked.append((self._name, self._body))
        return self._answers[self._name]


def check(value: Any, known: Any, where: str = "instance") -> None:
    """Every field of `value` is a known one."""
    if isinstance(known, dict):
        assert isinstance(value, dict) and set(value) <= set(known), where
        for key, inner in value.items():
            check(inner, known[key], f"{where}.{key}")
    elif isinstance(known, list):
        assert isinstance(value, list), where
        for inner in value:
            check(inner, known[0], where)
    elif known is not None:
        assert value in known, where


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What is asked of Google."""
    asked: list[tuple[str, Any]] = []
    account = {"email": "ray@my-project.iam.gserviceaccount.com", "projectId": "my-project"}
    answers = {
        "projects.get": {
            "projectId": "my-project",
            "name": "my-project",
            "lifecycleState": "ACTIVE",
            "commonInstanceMetadata": {"items": [], "fingerprint": ""},
        },
        "projects.serviceAccounts.get": account,
        "projects.getIamPolicy": {"bindings": []},
        "projects.setIamPolicy": {},
        "projects.setCommonInstanceMetadata": {"name": "operation"},
        "globalOperations.get": {"status": "DONE"},
        "subnetworks.list": {"items": [{"selfLink": "subnetworks/default"}]},
        "instances.insert": {"name": "operation"},
    }
    modules: dict[str, dict[str, Any]] = {
        "googleapiclient": {},
        "googleapiclient.discovery": {"build": lambda *_, **__: Api(answers, asked), "Resource": Api},
        "googleapiclient.errors": {"HttpError": type("HttpError", (Exception,), {})},
        "google_auth_httplib2": {"AuthorizedHttp": object},
        "httplib2": {"Http": object},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("discovery", "errors"):
        setattr(sys.modules["googleapiclient"], name, sys.modules[f"googleapiclient.{name}"])
    for name in ("config", "node", "node_provider", "tpu_command_runner"):  # those of this test leave no trace
        monkeypatch.delitem(sys.modules, f"ray.autoscaler._private.gcp.{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return asked


def test_head_on_demand_and_spot_workers(asked: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private.gcp import node
    from ray.autoscaler._private.gcp.config import bootstrap_gcp

    config = prepare_config(yaml.safe_load(FILE.read_text()))
    validate_config(config)
    config = bootstrap_gcp(config)
    assert Path(config["auth"]["ssh_private_key"]).exists()
    compute = node.GCPCompute(
        Api({"instances.insert": {}}, asked), "my-project", "us-central1-a", config["cluster_name"]
    )
    monkeypatch.setattr(compute, "get_new_authorized_http", lambda _: None)
    for name in ("head", "worker"):
        of = config["available_node_types"][name]
        assert of["resources"] == {"CPU": 4, "GPU": 1}
        compute.create_instance(of["node_config"], {"ray-node-type": name, "ray-node-name": name}, False)
    head, worker = (body for name, body in asked if name == "instances.insert")
    for body in (head, worker):
        check(body, INSTANCE)
        assert body["machineType"].endswith("zones/us-central1-a/machineTypes/g2-standard-4")
    assert "provisioningModel" not in head["scheduling"] and worker["scheduling"]["provisioningModel"] == "SPOT"
    # Ray asks for no firewall rule: what the project's network lets in is what reaches the machines.
    assert not any("firewall" in name for name, _ in asked)
