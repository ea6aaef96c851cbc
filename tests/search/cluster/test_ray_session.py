"""A local search's Ray listens on all addresses of the machine: nobody without its token may use it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from condense.system.errors import UserError
from search.cluster.ray_session import _shorten_temporary_folder, interpreter, prepare_environment, ray_session

INSIDE = """
from search.cluster.ray_session import _shorten_temporary_folder, prepare_environment, ray_session
prepare_environment()
with ray_session(None):
    import ray
    print("ADDRESS", ray.get_runtime_context().gcs_address, flush=True)
    print("DONE", ray.get(ray.remote(lambda: 7).options(num_cpus=0).remote()), flush=True)
    input()
"""
OUTSIDE = "import ray, sys; ray.init(address=sys.argv[1]); print('INSIDE')"


@pytest.mark.slow
def test_nobody_joins_without_the_token() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    pipe = subprocess.PIPE
    search = subprocess.Popen([sys.executable, "-c", INSIDE], stdin=pipe, stdout=pipe, text=True, env=environment)
    try:
        assert search.stdout is not None
        address = next(line for line in search.stdout if line.startswith("ADDRESS")).split()[1]
        assert next(search.stdout) == "DONE 7\n"
        intruders = [
            subprocess.Popen(
                [sys.executable, "-c", OUTSIDE, address],
                stdout=pipe,
                stderr=pipe,
                text=True,
                env={**environment, **other},
            )
            for other in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64})
        ]
        for intruder in intruders:
            out, err = intruder.communicate(timeout=120)
            assert intruder.returncode != 0 and "INSIDE" not in out
            assert "token" in err.lower() or "auth" in err.lower()
    finally:
        search.communicate("\n", timeout=60)
    assert search.returncode == 0


@pytest.mark.parametrize("ignored", [False, True])
def test_sigterm_interrupts_also_what_a_script_has_started_in_the_background(ignored: bool) -> None:
    """A shell without job control has what it starts with `&` ignore SIGINT."""
    start = "signal.signal(signal.SIGINT, signal.SIG_IGN);" if ignored else ""
    code = (
        f"import signal, time; {start} from search.cluster.ray_session import interrupted_by_sigterm\n"
        "try:\n with interrupted_by_sigterm():\n  print('READY', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n print('INTERRUPTED')"
    )
    search = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert search.stdout is not None and search.stdout.readline() == "READY\n"
        search.terminate()
        assert search.communicate(timeout=30)[0] == "INTERRUPTED\n"
    finally:
        search.kill()
        search.wait()


@pytest.mark.parametrize(
    ("address", "rule"), [("127.0.0.1:9", "nothing answers there"), ("ray://127.0.0.1:9", "must not be a Ray client")]
)
@pytest.mark.parametrize("asked", [None, "auto"])
def test_an_address_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, address: str, rule: str, asked: str | None
) -> None:
    monkeypatch.setattr("search.cluster.ray_session._connected", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=rule) as raised, ray_session(asked):
        pass
    assert str(raised.value).startswith(f"RAY_ADDRESS={address} in the environment: ")


@pytest.mark.parametrize("length", [43, 44])
def test_a_temporary_folder_with_a_long_name_is_not_rays(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/" + "x" * (length - 1))
    _shorten_temporary_folder()
    assert os.environ.pop("RAY_TMPDIR", None) == (None if length == 43 else "/tmp")


def test_loopback_is_behind_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTPS_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "intern.example")
    prepare_environment()
    for name in ("NO_PROXY", "no_proxy"):
        assert os.environ[name] == "intern.example,127.0.0.1,localhost,::1"
        monkeypatch.delenv(name)


def test_a_blank_in_the_path_of_python_is_quoted_for_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/home/her project/.venv/bin/python")
    assert interpreter() == {"py_executable": "'/home/her project/.venv/bin/python'"}
    monkeypatch.setattr(sys, "executable", "/home/project/.venv/bin/python")
    assert interpreter() == {}


WITH_VARIABLES = """
from search.cluster.ray_session import prepare_environment, ray_session
prepare_environment()
with ray_session(None):
    import os, ray
    asked = ray.remote(lambda: os.environ["GREETING"]).options(num_cpus=0, runtime_env={"env_vars": {"GREETING": "hello"}})
    print(ray.get(asked.remote(), timeout=100))
"""


@pytest.mark.faults
def test_a_process_with_variables_of_its_own_starts_from_a_path_with_a_blank(tmp_path: Path) -> None:
    venv.create(tmp_path / "her project", symlinks=True)
    (site,) = (tmp_path / "her project" / "lib").glob("python*/site-packages")
    (site / "all.pth").write_text(sysconfig.get_path("purelib"))
    command = [tmp_path / "her project" / "bin" / "python", "-c", WITH_VARIABLES]
    found = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert found.returncode == 0 and "hello" in found.stdout, found.stdout + found.stderr
