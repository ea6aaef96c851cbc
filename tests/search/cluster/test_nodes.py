"""What a search knows of the cluster whose head it runs on. The cluster itself: tests/cluster."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from condense.system.errors import UserError
from search.cluster.nodes import (
    awaited_nodes,
    bootstrap_config,
    check_resources,
    expected_nodes,
    from_home,
    head_tracking_uri,
    wait_for_nodes,
)
from search.space.model import Resources
from search.tracking.store import default_tracking_uri

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a head."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "ray_bootstrap_config.yaml").write_text((ROOT / "cluster.yaml").read_text())
    return tmp_path


VERSION = b"3.17.2"


@pytest.fixture
def healthy_port() -> Iterator[int]:
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in ("/health", "/version") else 404)
            self.end_headers()
            self.wfile.write(VERSION if self.path == "/version" else b"OK")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Healthy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_configuration_is_rays() -> None:
    """Ray's own check; it lets a missing name or user pass, so these are looked for here."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    assert config["cluster_name"] and config["auth"]["ssh_user"] and config["provider"]["type"] == "local"
    assert not config.get("file_mounts_sync_continuously")  # it would restart Ray on the workers time and again
    commands = [*config["setup_commands"], *config["head_start_ray_commands"]]
    for script in ("set_up.sh", "start_mlflow.sh"):
        assert any(f"~/condense-search/clusters/{script}" in command for command in commands), script
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert "RAY_enable_autoscaler_v2=0" in head and "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert all("RAY_AUTH_MODE=" in command and "unset OMP_NUM_THREADS" in command for command in (head, worker))
    assert "--dashboard-host=127.0.0.1" in head


def test_expected_nodes() -> None:
    assert expected_nodes({"provider": {"type": "local", "worker_ips": ["a", "b"]}}) == 3
    assert expected_nodes({"provider": {"type": "local"}}) == 1
    types = {"head": {"min_workers": 0}, "gpu": {"min_workers": 2, "max_workers": 8}, "cpu": {}}
    assert expected_nodes({"provider": {"type": "aws"}, "available_node_types": types, "head_node_type": "head"}) == 3


def test_awaited_nodes(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert awaited_nodes(None) == awaited_nodes("auto") == 3
    assert awaited_nodes("elsewhere:6379") is None
    monkeypatch.setenv("CONDENSE_NODES", "5")
    assert awaited_nodes(None) == awaited_nodes("elsewhere:6379") == 5
    monkeypatch.setenv("CONDENSE_NODES", "all")
    with pytest.raises(UserError, match="CONDENSE_NODES: must be a number of nodes, but got 'all'"):
        awaited_nodes(None)


def nodes(alive: int, dead: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """As `ray.nodes` gives them."""
    up = [{"NodeManagerAddress": f"10.0.0.{i}", "Alive": True} for i in range(alive)]
    return [*up, *({"NodeManagerAddress": address, "Alive": False} for address in dead)]


def test_it_waits_until_all_are_there_but_not_for_ever() -> None:
    said: list[str] = []
    counts = iter([1, 1, 2, 3])
    assert wait_for_nodes(lambda: nodes(next(counts)), 3, said.append, patience=2) == 3
    assert said[0] == "waiting for nodes: 1 of 3 have joined"
    assert said[-1].startswith("waiting for nodes: 3 of 3 have joined after")
    said.clear()
    assert wait_for_nodes(lambda: nodes(2), 3, said.append, patience=0.2) == 2
    assert said[-1].startswith("warning: only 2 of 3 nodes joined")
    said.clear()
    assert wait_for_nodes(lambda: nodes(4), 3, said.append) == 4
    assert said == []


def test_a_host_that_was_lost_is_not_waited_for() -> None:
    said: list[str] = []
    assert wait_for_nodes(lambda: nodes(2, ("10.0.0.9", "10.0.0.1")), 3, said.append) == 2  # .1 is back as a new node
    assert said == ["warning: lost 10.0.0.9; going on without it (it is used again once it is back)"]


def test_the_heads_server_is_found_if_it_answers(
    head: Path, healthy_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bootstrap_config() is not None
    assert head_tracking_uri(healthy_port) == f"http://127.0.0.1:{healthy_port}"
    assert head_tracking_uri(1) is None
    monkeypatch.setattr("search.tracking.store.head_tracking_uri", lambda: "http://127.0.0.1:5000")
    assert default_tracking_uri(head / "results" / "x") == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert default_tracking_uri(head / "results" / "x") == "http://elsewhere:5000"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing listens there
    assert head_tracking_uri(healthy_port) is not None
    monkeypatch.setattr("test_nodes.VERSION", b"<html>another service</html>")
    assert head_tracking_uri(healthy_port) is None
    (head / "ray_bootstrap_config.yaml").unlink()
    assert head_tracking_uri(healthy_port) is None and bootstrap_config() is None


def test_commands_for_home(head: Path) -> None:
    lines = from_home(head / "results" / "mine", served=True)
    assert lines[0].endswith("ray rsync-down cluster.yaml '~/results/mine/' mine/")
    assert "ray exec -p 5000 cluster.yaml" in lines[1]
    assert len(from_home(head / "results" / "mine", served=False)) == 1


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_commands_for_home_name_the_file_of_a_cloud(head: Path, provider: str) -> None:
    file = f"clusters/{provider}.yaml"
    (head / "ray_bootstrap_config.yaml").write_text((ROOT / file).read_text())
    lines = from_home(head / "results" / "mine", served=True)
    assert len(lines) == 2 and all(f" {file} " in line for line in lines)


def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": resources}


def test_what_trials_want_and_nobody_has() -> None:
    small = [node("head", CPU=2.0), node("lost", alive=False, CPU=64.0, GPU=8.0)]
    large = [*small, node("worker", CPU=16.0, GPU=1.0)]
    share, cores = Resources(gpus_per_trial=0.25), Resources(cpus_per_trial=8)
    assert check_resources(small, "head", Resources(), local=True) == []
    with pytest.raises(UserError, match=r"gpus_per_trial is 0\.25, but this machine has no GPU"):
        check_resources(small, "head", share, local=True)
    with pytest.raises(UserError, match="cpus_per_trial is 8, but this machine has 2 CPUs"):
        check_resources(small, "head", cores, local=True)
    waiting, slow = check_resources(small, "head", share, local=False)
    assert "trials wait for one" in waiting and "this node has no GPU" in slow
    assert check_resources(large, "head", share, local=False) == [slow]
    assert check_resources(large, "worker", share, local=False) == []
    assert check_resources(large, "head", cores, local=False) == []


def test_what_no_single_node_has() -> None:
    nodes = [node("head", CPU=64.0), node("worker", CPU=2.0, GPU=1.0), node("big", CPU=16.0, a100=1.0)]
    (line,) = check_resources(nodes, "worker", Resources(gpus_per_trial=0.25, cpus_per_trial=8), local=False)
    assert line.startswith("resources.cpus_per_trial is 8, but no node has this and the rest of `resources` yet")
    (line,) = check_resources(nodes, "worker", Resources(gpus_per_trial=0.25, node_kind="a100"), local=False)
    assert line.startswith("resources.gpus_per_trial is 0.25, but no node has this")
    assert check_resources(nodes, "head", Resources(cpus_per_trial=8, node_kind="a100"), local=False) == []
    with pytest.raises(UserError, match=r"resources\.node_kind is h100, but this machine is no such node"):
        check_resources(nodes[:1], "head", Resources(node_kind="h100"), local=True)
