"""The store: what is read is what was written, or it is made again; one process makes, the others wait."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor

from condense.storage.cache_folder import default_folder, read_entry
from condense.storage.store import Store, checksum, hash_of
from condense.storage.tensor_files import write_tensors
from condense.system.errors import what_ran_out

KEY = {"dataset": "a", "size": [1, 2], "nested": {"x": 1.5, "y": None}}


def content() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "features": torch.randn(4, 3, generator=g),
        "label": torch.arange(4),
        "flag": torch.tensor([True, False]),
        "empty": torch.empty(0, 5),
        "half": torch.randn(3, generator=g).bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


class Counted:
    """A `make` that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return content()


def test_made_once_and_read_back(tmp_path):
    make = Counted()
    for _ in range(2):
        assert same(Store(tmp_path).get_or_make("kind", KEY, make), content())
    assert make.calls == 1
    assert Store(tmp_path).get("kind", {"dataset": "b"}) is None
    assert Store(tmp_path).get("other kind", KEY) is None


def test_tensors_that_are_views_are_stored_as_what_they_show(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    made = {"transposed": base.T, "part": base[:, 1:3], "expanded": torch.ones(1, 3).expand(2, 3)}
    assert same(Store(tmp_path).get_or_make("kind", KEY, lambda: made), made)


def test_folder_is_the_one_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "here"))
    assert default_folder() == tmp_path / "here"
    assert Store().folder == tmp_path / "here"
    monkeypatch.delenv("CONDENSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "condense"


# Addresses ------------------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = st.dictionaries(st.text(max_size=5), values, max_size=4)


def canonical(x: object) -> object:
    """Equal exactly if two keys say the same: types matter (1 is not True), the order of keys does not."""
    if isinstance(x, dict):
        return frozenset((k, canonical(v)) for k, v in x.items())
    if isinstance(x, list):
        return tuple(canonical(v) for v in x)
    return (type(x).__name__, repr(x))


def reordered(x: object) -> object:
    if isinstance(x, dict):
        return {k: reordered(v) for k, v in reversed(list(x.items()))}
    return [reordered(v) for v in x] if isinstance(x, list) else x


@given(a=keys, b=keys)
def test_addresses_are_equal_exactly_for_equal_keys(a, b):
    assert hash_of(a) == hash_of(reordered(a))
    assert (hash_of(a) == hash_of(b)) == (canonical(a) == canonical(b))


def test_a_key_must_be_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        hash_of({"x": float("nan")})
    with pytest.raises(TypeError, match="not JSON serializable"):
        hash_of({"x": Path("somewhere")})


def test_checksum_covers_names_types_shapes_and_bytes():
    x = torch.tensor([1.0, 2.0])
    others = [{"b": x}, {"a": x.double()}, {"a": x[None]}, {"a": -x}, {"a": x, "c": x}, {"a": x.view(torch.int32)}, {}]
    sums = [checksum(t) for t in [{"a": x}, *others]]
    assert len(set(sums)) == len(sums)
    assert checksum({"a": x, "b": x}) == checksum({"b": x.clone(), "a": x})


# Damage ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory) -> bytes:
    store = Store(tmp_path_factory.mktemp("whole"))
    store.put("kind", KEY, content())
    return store.path("kind", KEY).read_bytes()


def damaged(folder: Path, data: bytes) -> Store:
    store = Store(folder)
    path = store.path("kind", KEY)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return store


def assert_never_wrong(store: Store) -> None:
    """A damaged file is made again, or read as it was written (where nothing depends on the damage)."""
    found = store.get("kind", KEY)
    assert found is None or same(found, content())
    make = Counted()
    assert same(store.get_or_make("kind", KEY, make), content())
    assert make.calls == (found is None)
    assert same(store.get_or_make("kind", KEY, make), content())
    assert make.calls == (found is None)  # the new file is whole


damage = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(data=st.data())
@damage
def test_a_flipped_byte_never_gets_through(tmp_path, whole_file, data):
    at = data.draw(st.integers(0, len(whole_file) - 1))
    flipped = whole_file[at] ^ data.draw(st.integers(1, 255))
    assert_never_wrong(damaged(tmp_path, whole_file[:at] + bytes([flipped]) + whole_file[at + 1 :]))


@given(data=st.data())
@damage
def test_a_truncated_file_never_gets_through(tmp_path, whole_file, data):
    store = damaged(tmp_path, whole_file[: data.draw(st.integers(0, len(whole_file) - 1))])
    assert store.get("kind", KEY) is None
    assert_never_wrong(store)


def test_every_byte_of_the_tensors_is_covered(tmp_path, whole_file):
    start = 8 + int.from_bytes(whole_file[:8], "little")
    assert len(whole_file) - start >= 4 * 3 * 4 + 4 * 8
    for at in range(start, len(whole_file)):
        store = damaged(tmp_path, whole_file[:at] + bytes([whole_file[at] ^ 1]) + whole_file[at + 1 :])
        assert store.get("kind", KEY) is None


def test_damage_is_logged(tmp_path, whole_file, caplog):
    with caplog.at_level(logging.WARNING):
        damaged(tmp_path, whole_file[:-1]).get_or_make("kind", KEY, content)
    assert "is damaged" in caplog.text
    assert str(Store(tmp_path).path("kind", KEY)) in caplog.text


def test_a_make_that_fails_leaves_nothing(tmp_path):
    def broken() -> dict[str, Tensor]:
        raise FloatingPointError("no")

    store = Store(tmp_path)
    with pytest.raises(FloatingPointError):
        store.get_or_make("kind", KEY, broken)
    assert store.get("kind", KEY) is None
    assert same(store.get_or_make("kind", KEY, content), content())  # the lock is free again


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.put("kind", KEY, content())

    def disk_full(*_: object) -> None:
        Path(str(_[0])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("condense.storage.store.write_tensors", disk_full)
    with pytest.raises(OSError, match="No space left") as raised:
        store.put("kind", KEY, {"features": torch.zeros(3)})
    assert raised.value.filename == str(store.path("kind", KEY))
    found = store.get("kind", KEY)
    assert found is not None
    assert same(found, content())
    assert [path.name for path in store.path("kind", KEY).parent.iterdir()] == [store.path("kind", KEY).name]


# Several processes ----------------------------------------------------------------------------------------------------


def ask_at_once(folder: str, start: float) -> tuple[bool, str]:
    """In a process of its own: asks when the others do; each `make` leaves a line in a file."""

    def make() -> dict[str, Tensor]:
        with open(Path(folder) / "calls", "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)  # long enough for the others to find nothing and wait
        return content()

    time.sleep(max(0.0, start - time.time()))
    found = Store(Path(folder)).get_or_make("kind", KEY, make)
    return same(found, content()), checksum(found)


def test_processes_that_ask_at_once_make_it_once(tmp_path, whole_file):
    damaged(tmp_path / "damaged", whole_file[:-1])
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.map(hash_of, [{}] * 3, chunksize=1)  # imports are done
        for folder in (tmp_path / "new", tmp_path / "damaged"):
            folder.mkdir(exist_ok=True)
            answers = pool.starmap(ask_at_once, [(str(folder), time.time() + 0.2)] * 3, chunksize=1)
            assert {whole for whole, _ in answers} == {True}
            assert len({digest for _, digest in answers}) == 1
            assert len((folder / "calls").read_text().splitlines()) == 1


# From another node ----------------------------------------------------------------------------------------------------


def test_what_another_has_is_fetched_and_not_made(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    Store(there).put("kind", KEY, content())
    make = Counted()
    found = Store(here, lambda kind, name: read_entry(there, kind, name)).get_or_make("kind", KEY, make)
    assert same(found, content())
    assert make.calls == 0
    assert same(Store(here).get_or_make("kind", KEY, make), content())
    assert make.calls == 0
    assert {p.suffix for p in (here / "kind").iterdir()} == {".safetensors", ".lock"}


def test_what_was_fetched_is_used_where_there_is_no_space_to_keep_it(tmp_path, monkeypatch, caplog):
    """A worker whose disk is full takes part all the same."""
    there, make = Store(tmp_path / "there"), Counted()
    there.put("kind", KEY, content())
    sent = there.path("kind", KEY).read_bytes()

    def disk_full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    here = Store(tmp_path / "here", lambda kind, name: sent)
    assert same(here.get_or_make("kind", KEY, make), content())
    assert make.calls == 0 and "no space is left" in caplog.text
    assert [path.suffix for path in (here.folder / "kind").iterdir()] == [".lock"]  # no half of a file

    def no_folder(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")  # on ext4, not on tmpfs

    with monkeypatch.context() as changed:
        changed.setattr(Path, "mkdir", no_folder)
        assert same(Store(tmp_path / "none", lambda kind, name: sent).get_or_make("kind", KEY, make), content())
    assert make.calls == 0 and not (tmp_path / "none").exists()
    damaged = Store(tmp_path / "damaged", lambda kind, name: sent[:-1] + bytes([sent[-1] ^ 1]))
    assert same(damaged.get_or_make("kind", KEY, make), content())
    assert make.calls == 1


def test_a_full_disk_is_an_os_error_with_the_file_s_name(tmp_path, monkeypatch):
    """safetensors has an exception of its own for it, whose text is this."""

    def disk_full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", disk_full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_tensors(tmp_path / "file", content())
    assert what_ran_out(raised.value) == f"no space is left on the disk of {tmp_path / 'file'}"


@pytest.mark.parametrize("sent", [None, b"", b"nonsense", b"torn"])
def test_what_cannot_be_fetched_whole_is_made(tmp_path, sent):
    here, there = tmp_path / "here", Store(tmp_path / "there")
    there.put("kind", KEY, content())
    if sent == b"torn":
        sent = there.path("kind", KEY).read_bytes()[:-3]
    make = Counted()
    assert same(Store(here, lambda kind, name: sent).get_or_make("kind", KEY, make), content())
    assert make.calls == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [("kind", "../../etc/passwd"), ("..", "0" * 32 + ".safetensors"), ("kind", "a.safetensors"), ("", "")],
)
def test_only_entries_are_given_away(tmp_path, kind, name):
    with pytest.raises(ValueError, match="not an entry"):
        read_entry(tmp_path, kind, name)
