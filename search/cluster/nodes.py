"""A `ray up` cluster, seen from its head: how many nodes to expect, where MLflow runs, which commands to type at home."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from condense.system.errors import UserError
from search.space.resources import A_LITTLE, Resources

PATIENCE = 180.0  # seconds that a search waits for nodes that are still starting
EVERY = 10.0  # seconds between two messages
MLFLOW_PORT = 5000  # clusters/start_mlflow.sh
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxies are set


def bootstrap_file() -> Path:
    """Where `ray up` puts the cluster's configuration on the head."""
    return Path(os.path.expanduser("~/ray_bootstrap_config.yaml"))  # as it is for a user without a home folder


def bootstrap_config() -> dict[str, Any] | None:
    """The cluster's configuration; None if this is not a head."""
    try:
        content = yaml.safe_load(bootstrap_file().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None


def expected_nodes(config: Mapping[str, Any]) -> int:
    """How many nodes the cluster starts with, the head included. The search does not wait for nodes an autoscaler adds later."""
    provider = config.get("provider") or {}
    if provider.get("type") == "local":
        return 1 + len(provider.get("worker_ips") or [])
    types = config.get("available_node_types") or {}
    head = config.get("head_node_type")
    return 1 + sum(int(of.get("min_workers") or 0) for name, of in types.items() if name != head)


def awaited_nodes(address: str | None) -> int | None:
    """How many nodes a search waits for: $CONDENSE_NODES, or the size of the cluster whose head this is; None: no waiting.

    `address`: as given on the command line. Raises UserError if the variable is not a number.
    """
    if count := os.environ.get("CONDENSE_NODES"):
        if not count.isdecimal():
            raise UserError(f"CONDENSE_NODES: must be a number of nodes, but got {count!r}")
        return int(count)
    config = bootstrap_config()
    return expected_nodes(config) if config is not None and address in (None, "auto") else None


def wait_for_nodes(
    nodes: Callable[[], list[dict[str, Any]]], expected: int, say: Callable[[str], None], patience: float = PATIENCE
) -> int:
    """Waits until `expected` hosts have joined (`nodes`: `ray.nodes`), and says so; returns how many are alive.

    `ray up` returns half a minute before the workers have joined. A node that was lost is not waited for, and a broken
    one delays the search by `patience` seconds at most.
    """
    started = said = time.monotonic()
    alive, lost = _hosts(nodes())
    there = len(alive) + len(lost)
    if there < expected:
        say(f"waiting for nodes: {there} of {expected} have joined")
    while there < expected and time.monotonic() - started < patience:
        time.sleep(min(0.5, patience / 10))
        alive, lost = _hosts(nodes())
        before, there = there, len(alive) + len(lost)
        if there != before or time.monotonic() - said > EVERY:
            said = time.monotonic()
            say(f"waiting for nodes: {there} of {expected} have joined after {said - started:.0f} s")
    if there < expected:
        say(
            f"warning: only {there} of {expected} nodes joined within {patience:.0f} s; "
            "starting without the others (they are used once they join)"
        )
    for host in sorted(lost):
        say(f"warning: lost {host}; going on without it (it is used again once it is back)")
    return len(alive)


def _hosts(nodes: list[dict[str, Any]]) -> tuple[set[str], set[str]]:
    """Addresses of live nodes, and addresses of lost ones; a host that comes back is a new node to Ray, with its old address."""
    alive = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    return alive, {node["NodeManagerAddress"] for node in nodes} - alive


def check_resources(nodes: list[dict[str, Any]], here: str, wanted: Resources, local: bool) -> list[str]:
    """Warnings if trials must wait for a node with the resources they want, or if this node (`here`) lacks them.

    Raises UserError if they would wait forever: on a `local` machine no nodes are added.
    """
    alive = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
    warnings, fits = [], list(alive.values())
    for key, kind, share in (
        ("node_kind", wanted.node_kind, A_LITTLE),
        ("gpus_per_trial", "GPU", wanted.gpus_per_trial),
        ("cpus_per_trial", "CPU", wanted.cpus_per_trial),
    ):
        if kind is None or not share:
            continue
        most = max((resources.get(kind, 0.0) for resources in fits), default=0.0)
        fits = [resources for resources in fits if resources.get(kind, 0.0) >= share]
        if fits:
            continue
        what = f"resources.{key} is {kind if key == 'node_kind' else f'{share:g}'}"
        if local:
            has = "is no such node" if key == "node_kind" else f"has {f'{most:g} {kind}s' if most else f'no {kind}'}"
            raise UserError(f"{what}, but this machine {has}")
        warnings.append(f"{what}, but no node has this and the rest of `resources` yet: trials wait for one that does")
        break
    if wanted.gpus_per_trial and not alive.get(here, {}).get("GPU"):
        warnings.append("this node has no GPU: embeddings will be computed on its CPU")
    return warnings


def head_tracking_uri(port: int = MLFLOW_PORT) -> str | None:
    """The MLflow server that `clusters/start_mlflow.sh` runs on this head; None without one."""
    if not bootstrap_file().exists():
        return None
    uri = f"http://127.0.0.1:{port}"
    try:
        with LOCAL.open(f"{uri}/version", timeout=5) as answer:  # anything may answer on this port, and to /health
            return uri if re.fullmatch(rb"\d+(\.\w+)+", answer.read(100).strip()) else None
    except (OSError, ValueError):
        return None


def from_home(output: Path, served: bool) -> list[str]:
    """The last lines of a search on a cluster's head: commands for the machine on which `ray submit` was typed."""
    home = Path.home()
    there = f"~/{output.relative_to(home)}" if output.is_relative_to(home) else str(output)
    provider = ((bootstrap_config() or {}).get("provider") or {}).get("type", "local")
    file = "cluster.yaml" if provider == "local" else f"clusters/{provider}.yaml"
    lines = [f"fetch it   ray rsync-down {file} '{there}/' {output.name}/"]
    if served:
        lines.append(f"forward    ray exec -p {MLFLOW_PORT} {file} 'sleep infinity'   and open the link above")
    return lines
