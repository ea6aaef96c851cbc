"""`python -m condense download`, from a server on loopback: whole, continued, refused."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from condense.__main__ import main
from condense.encoders import download


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every path but /gone; counts what it sends."""

    content = b""
    ranges = True  # whether it can continue
    breaks_after: int | None = None  # bytes of an answer, after which the connection ends
    says_length = True
    damages = False
    asked: list[str | None] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        content, asked = self.server.content, self.headers.get("Range")
        self.server.asked.append(asked)
        if self.path == "/gone":
            self.send_error(404)
            return
        first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.server.ranges else 0  # type: ignore[index]
        if first >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked and self.server.ranges else 200)
        if asked and self.server.ranges:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if self.server.says_length:
            self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        part = content[first:] if self.server.breaks_after is None else content[first:][: self.server.breaks_after]
        self.wfile.write(part)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as made:
        for i in range(3):
            made.writestr(f"data/{i}", os.urandom(1_000_000))
    server = Server(("127.0.0.1", 0), Handler)
    server.content, server.asked = (tmp_path / "made.zip").read_bytes(), []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setitem(download.URLS, "imagebind", f"http://127.0.0.1:{server.server_address[1]}/model.pth")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def refused(capsys: pytest.CaptureFixture[str], to: Path) -> str:
    capsys.readouterr()
    assert main(["download", "imagebind", "--to", str(to)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_a_file_arrives_whole_with_its_licence_and_progress(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "imagebind.pth"
    assert main(["download", "imagebind", "--to", str(target)]) == 0
    assert target.read_bytes() == server.content
    assert [file.name for file in target.parent.iterdir()] == ["imagebind.pth"]
    shown = capsys.readouterr()
    assert shown.out.strip() == str(target)
    assert "CC-BY-NC-SA 4.0" in shown.err
    assert re.search(r"imagebind\.pth  100\.0 % of 0\.00 GB  [\d.]+ MB/s  0 s left", shown.err)
    assert main(["download", "imagebind", "--to", str(target)]) == 0  # nothing is asked again
    assert len(server.asked) == 1


def test_a_folder_takes_the_official_name(server: Server, tmp_path: Path) -> None:
    assert main(["download", "imagebind", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "model.pth").read_bytes() == server.content


def test_an_interrupted_download_goes_on_where_it_ended(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, part = tmp_path / "a.pth", tmp_path / "a.pth.part"
    server.breaks_after = 1_200_000
    line = refused(capsys, target)
    assert f"broke after 1,200,000 of {len(server.content):,} bytes: run the same command again to continue" in line
    assert part.read_bytes() == server.content[:1_200_000]
    assert not target.exists()
    server.breaks_after = None
    assert main(["download", "imagebind", "--to", str(target)]) == 0
    assert server.asked == [None, "bytes=1200000-"]
    assert target.read_bytes() == server.content
    assert not part.exists()


@pytest.mark.parametrize("case", ["cannot continue", "was whole", "was too long"])
def test_what_is_there_already_is_used_only_if_it_fits(server: Server, tmp_path: Path, case: str) -> None:
    part = tmp_path / "a.pth.part"
    server.ranges = case != "cannot continue"
    extra = b"more" if case == "was too long" else b""
    part.write_bytes(b"garbage" if case == "cannot continue" else server.content + extra)
    assert main(["download", "imagebind", "--to", str(tmp_path / "a.pth")]) == 0
    assert (tmp_path / "a.pth").read_bytes() == server.content
    assert len(server.asked) == (2 if case == "was too long" else 1)


def test_what_goes_wrong_is_told_in_one_line(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.pth"
    (tmp_path / "a.pth.part").write_bytes(b"another file's beginning")
    assert "arrived damaged: fetch it again" in refused(capsys, target)
    assert not (tmp_path / "a.pth.part").exists()
    server.says_length = False
    assert "does not say how large" in refused(capsys, target)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    server.says_length = True
    assert "are needed on that disk, but only 10 are free" in refused(capsys, target)
    url = download.URLS["imagebind"].replace("model.pth", "gone")
    monkeypatch.setitem(download.URLS, "imagebind", url)
    assert f"{url}: the server answers 404 Not Found" in refused(capsys, target)
    monkeypatch.setitem(download.URLS, "imagebind", "http://127.0.0.1:9/model.pth")
    assert "cannot be fetched" in refused(capsys, target)
    target.write_bytes(b"something else")
    assert "already exists, but is not a complete checkpoint: remove it first" in refused(capsys, target)


def test_two_at_once_are_refused(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hold = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    part = tmp_path / "a.pth.part"
    command = [sys.executable, "-c", hold, str(part)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "held"
        assert "another download is writing it" in refused(capsys, tmp_path / "a.pth")
        other.communicate("\n")
