"""MLflow's artifacts in an object store: tried before the work, and one that fails later costs files, and few lines."""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client
from object_stores import BUCKET, ObjectStore, object_store

from condense.system.errors import UserError
from search.tracking import artifact_store
from search.tracking.artifact_store import RETRY, Untaken
from search.tracking.store import check_tracking
from search.tracking.tracker import MlflowTracker


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # who has no credentials would ask the machine's owner
    _cached_get_s3_client.cache_clear()
    with object_store("s3") as store:
        yield store
    _cached_get_s3_client.cache_clear()


def uri_with(folder: Path, location: str, experiment: str = "lab") -> str:
    """Of a tracking store with an experiment that has its artifacts there."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    check_tracking(uri)
    MlflowClient(uri).create_experiment(experiment, artifact_location=location)
    return uri


def keys() -> list[str]:
    return [found["Key"] for found in boto3.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_a_store_that_takes_files_is_left_as_it_was(tmp_path: Path, store: ObjectStore) -> None:
    check_tracking(uri_with(tmp_path, f"{store.address}/mlflow"), "lab")
    assert keys() == []


def test_what_is_wrong_is_told_before_the_work(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(location: str = f"{store.address}/mlflow") -> str:
        experiment = uuid.uuid4().hex
        _cached_get_s3_client.cache_clear()  # MLflow keeps its client for minutes
        with pytest.raises(UserError) as told:
            check_tracking(uri_with(tmp_path, location, experiment), experiment)
        text = str(told.value)
        assert (
            f"artifacts of the experiment '{experiment}' go to {location}, which does not take them from here (" in text
        )
        assert "\n" not in text
        return text.partition("from here (")[2]

    assert "The specified bucket does not exist" in refused("s3://nobody/mlflow")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "boto3", None)
        assert "boto3" in refused()
    with monkeypatch.context() as without:
        without.delenv("AWS_ACCESS_KEY_ID")
        without.setattr(boto3, "DEFAULT_SESSION", None)
        assert refused().startswith("Unable to locate credentials)")
    store.stop()
    assert refused().startswith("Connection refused)")
    monkeypatch.setattr(artifact_store, "SECONDS_TO_ANSWER", 0.0)
    assert refused().startswith("no answer in 0 s); a server with")


def test_a_store_that_fails_later_costs_files_only(
    tmp_path: Path, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker(uri_with(tmp_path, f"{store.address}/mlflow"), "lab", "abc", "small", 10)
    tracker.start({}, {})
    tracker.trial_started(0, {"lr": 0.1}, {}, {})
    assert tracker._writer.flush(30) and len(keys()) == 1  # its config.yaml
    store.stop()
    for number in range(1, 20):
        tracker.trial_started(number, {"lr": 0.1}, {}, {})
        tracker.trial_finished(number, "completed", {"score": 0.5})
    assert tracker.finish("completed", timeout=60)
    warnings = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "did not take artifact 'config.yaml' of 'trial 0001', dropped: Connection refused. Its store" in warnings[0]
    assert warnings[1] == "MLflow did not take the last 19 artifacts"
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    assert len([run for run in runs if run.data.metrics.get("score") == 0.5]) == 19
    assert all(run.info.status == "FINISHED" for run in runs if "score" in run.data.metrics)


def test_it_is_tried_again_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    untaken = Untaken(lambda: now)
    told: list[Any] = [caplog.records]
    assert not untaken.waits and untaken.attempts(6) == 6
    untaken.add("a.png", "trial 0001", "no route")
    assert untaken.waits and untaken.attempts(6) == 1
    untaken.skip()
    now = RETRY
    assert not untaken.waits
    untaken.add("b.png", "trial 0002", "no route")
    assert untaken.waits
    now = 2 * RETRY
    untaken.taken()
    untaken.end()
    assert not untaken.waits and untaken.attempts(6) == 6
    assert [r.getMessage()[:45] for r in told[0]] == [
        "MLflow did not take artifact 'a.png' of 'tria",
        "MLflow takes artifacts again; 3 were dropped",
    ]
