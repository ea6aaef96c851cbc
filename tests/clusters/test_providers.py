"""clusters/*.yaml: Ray's own checks, and the same commands as in cluster.yaml, whose test runs them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from search.cluster.nodes import expected_nodes
from search.command import parse

ROOT = Path(__file__).resolve().parents[2]
MAIN = yaml.safe_load((ROOT / "cluster.yaml").read_text())
# Fields of KubeRay's resources, from its API reference (ray.io/v1).
RAY_JOB = {
    *("entrypoint", "submissionMode", "backoffLimit", "activeDeadlineSeconds", "runtimeEnvYAML", "rayClusterSpec"),
    *("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "suspend", "entrypointNumCpus", "entrypointNumGpus"),
}
RAY_CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
GROUP = {"rayStartParams", "template"}
HEAD_GROUP = GROUP | {"serviceType", "headService", "enableIngress"}
WORKER_GROUP = GROUP | {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"}
POD = {"containers", "volumes", "securityContext", "nodeSelector", "tolerations"}
CONTAINER = {"name", "image", "env", "resources", "volumeMounts", "ports"}


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_takes_it_and_it_does_what_cluster_yaml_does(name: str) -> None:
    config = yaml.safe_load((ROOT / "clusters" / f"{name}.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["provider"]["type"] == name and config["cluster_name"] and config["auth"]["ssh_user"]
    assert expected_nodes(config) == 3
    workers = config["available_node_types"]["worker"]
    assert workers["min_workers"] <= workers["max_workers"] <= config["max_workers"]
    assert not config.get("file_mounts_sync_continuously")
    for key in ("setup_commands", "worker_start_ray_commands", "file_mounts", "rsync_exclude", "rsync_filter"):
        assert config[key] == MAIN[key], key
    start = config["head_start_ray_commands"]
    assert start[:-1] == MAIN["head_start_ray_commands"][:-1]
    assert start[-1] == MAIN["head_start_ray_commands"][-1].replace("RAY_enable_autoscaler_v2=0 ", "")
    assert "0.0.0.0" not in (ROOT / "clusters" / f"{name}.yaml").read_text()


@pytest.fixture(scope="module")
def kuberay() -> dict[str, dict[str, Any]]:
    """kind -> resource."""
    resources = list(yaml.safe_load_all((ROOT / "clusters" / "kuberay.yaml").read_text()))
    return {resource["kind"]: resource for resource in resources}


def test_kubernetes_resources_have_known_fields_and_refer_to_one_another(kuberay: dict[str, dict[str, Any]]) -> None:
    job, disk, policy = kuberay["RayJob"], kuberay["PersistentVolumeClaim"], kuberay["NetworkPolicy"]
    assert job["apiVersion"] == "ray.io/v1" and set(job["spec"]) <= RAY_JOB
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert set(cluster) <= RAY_CLUSTER and set(cluster["headGroupSpec"]) <= HEAD_GROUP and set(workers) <= WORKER_GROUP
    for group in (cluster["headGroupSpec"], workers):
        assert group["template"]["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert set(pod) <= POD and set(container) <= CONTAINER
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == {
            v["name"] for v in pod.get("volumes", [])
        }
    (volume,) = cluster["headGroupSpec"]["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == disk["metadata"]["name"]
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP" and policy["spec"]["policyTypes"] == ["Ingress"]


def test_rays_autoscaler_reads_the_kubernetes_cluster(kuberay: dict[str, dict[str, Any]]) -> None:
    spec = kuberay["RayJob"]["spec"]["rayClusterSpec"]
    config = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "condense", "namespace": "any"}, "spec": spec}
    )
    types = config["available_node_types"]
    assert {name: (of["min_workers"], of["max_workers"]) for name, of in types.items()} == {
        "headgroup": (0, 0),
        "workers": (2, 4),
    }
    assert all((of["resources"]["CPU"], of["resources"]["GPU"]) == (4, 1) for of in types.values())


def test_kubernetes_starts_what_cluster_yaml_starts(kuberay: dict[str, dict[str, Any]]) -> None:
    spec = kuberay["RayJob"]["spec"]
    assert spec["entrypoint"].startswith("bash ~/condense-search/clusters/start_mlflow.sh && ")
    (container,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    start = MAIN["head_start_ray_commands"][-1]
    assert container["env"]
    for entry in container["env"]:
        assert f"{entry['name']}={entry['value']}" in start
    (ray,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    image = (ROOT / "clusters" / "Dockerfile").read_text()
    assert spec["rayClusterSpec"]["rayVersion"] == ray and f"FROM rayproject/ray:{ray}-py311" in image
    assert "bash /home/ray/condense-search/clusters/set_up.sh" in image


def test_kubernetes_goes_on_with_a_search_that_has_begun(kuberay: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """The entrypoint, in a shell, with a `python` that says what it was called with."""
    (tmp_path / "condense-search" / "clusters").mkdir(parents=True)
    (tmp_path / "condense-search" / "clusters" / "start_mlflow.sh").touch()
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    entrypoint = kuberay["RayJob"]["spec"]["entrypoint"]
    said = subprocess.run(entrypoint, shell=True, env=environment, check=True, capture_output=True, text=True).stdout
    script, *options = said.split()
    assert script == f"{tmp_path}/condense-search/search/run.py"
    parsed = parse(options)
    assert parsed.address == "auto" and parsed.space == "quickstart" and parsed.auto_resume and not parsed.resume
    assert parsed.output == tmp_path / "results" / "quickstart"
