"""Several hosts on one machine, so that `ray up` and `ray submit` can be run as typed: real SSH between real addresses.

A host is a set of namespaces (network, processes, mounts, name), with a home folder, /tmp and sshd of its own. They are
joined by a bridge in a namespace of its own: nothing is added to the machine's network. Needs root.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NEEDED = ("ip", "nsenter", "rsync", "ssh", "ssh-keygen", "unshare")
SSHD = "/usr/sbin/sshd"
# What hosts are made of, once: a namespace with a cable, and a copy-on-write view of a folder in namespaces of its own.
TRIAL = """
set -e
trap 'ip netns del $2-a; ip netns del $2-b' EXIT
ip netns add $2-a
ip netns add $2-b
ip -n $2-a link add name switch0 type bridge
ip link add name cable netns $2-a type veth peer name eth0 netns $2-b
mkdir $1/lower $1/upper $1/work $1/view
ip netns exec $2-b unshare --mount --pid --uts --ipc --fork --kill-child --mount-proc bash -ec "
    mount --make-rprivate /
    mount -t tmpfs none /mnt
    mount -t overlay overlay -o lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work $1/view
    touch $1/view/file
    hostname tried
"
"""


def missing() -> str | None:
    """Why there can be no hosts here; None if there can."""
    if os.geteuid() != 0:
        return "needs root"
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if not Path(SSHD).exists():
        lacking.append("sshd")
    if lacking:
        return f"needs {', '.join(lacking)} (Debian: iproute2, openssh-server, rsync, util-linux)"
    with tempfile.TemporaryDirectory() as folder:  # where the hosts' own folders will be
        tried = subprocess.run(["bash", "-c", TRIAL, "bash", folder, f"t{os.getpid()}"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"needs namespaces, mounts and cables ({tried.stderr.strip()})"


class Hosts:
    """`laptop` has the key and no sshd; all others have an sshd that accepts it. Addresses go up in the order of names."""

    def __init__(self, folder: Path, names: list[str], network: str = "10.79.0", one_home: bool = False) -> None:
        """`folder`: everything that the hosts write is in there. `one_home`: they share the first one's home folder."""
        self.folder, self.names, self.one_home = folder, names, one_home
        self.prefix = f"c{os.getpid() % 100_000}"  # of namespaces and cables: two tests may run at a time
        self.address = {name: f"{network}.{10 + i}" for i, name in enumerate(names)}
        self.first: dict[str, int] = {}  # host -> id of its process 1, seen from outside
        self._outer: dict[str, subprocess.Popen[bytes]] = {}
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "laptop", "-f", str(folder / "id"))
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "host", "-f", str(folder / "host_key"))
        _run("ip", "netns", "add", self._space("switch"))
        _run("ip", "-n", self._space("switch"), "link", "add", "name", "switch0", "type", "bridge")
        _run("ip", "-n", self._space("switch"), "link", "set", "dev", "switch0", "up")
        for name in names:
            self._furnish(name)
            self._connect(name)
            self.boot(name)

    def home(self, name: str) -> Path:
        """A host's home folder, seen from outside."""
        return self.folder / (self.names[0] if self.one_home else name) / "home"

    def command(self, name: str, text: str) -> list[str]:
        """What runs a shell command in a host as a login would."""
        inside = ["nsenter", "-t", str(self.first[name]), "-m", "-p", "-n", "-u", "-i", "--"]
        clean = ["env", "-i", "HOME=/root", "TERM=xterm", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        return [*inside, *clean, "bash", "-c", f"source ~/.bashrc; cd; {text}"]

    def run(self, name: str, text: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs a shell command in a host; output and errors together."""
        return subprocess.run(
            self.command(name, text),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
        )

    def boot(self, name: str) -> None:
        """Starts a host, or restarts it after `crash`."""
        own = self.folder / name
        (own / "ready").unlink(missing_ok=True)
        environment = {
            **os.environ,
            "FOLDER": str(own),
            "HOME_FOLDER": str(self.home(name)),
            "NAME": name,
            "ADDRESS": self.address[name],
            "ENVIRONMENT": str(Path(sys.prefix).resolve()),  # as scripts in it name it
            "KEPT": " ".join(shlex.quote(path) for path in kept_folders()),
        }
        command = ["setpriv", "--pdeathsig", "KILL"]  # a killed test leaves no host behind
        command += ["ip", "netns", "exec", self._space(name)]
        command += ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        with open(own / "boot.log", "wb") as log:
            self._outer[name] = subprocess.Popen(
                [*command, "bash", str(HERE / "host_init.sh")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ends = time.monotonic() + 20
        while not (own / "ready").exists():
            if time.monotonic() > ends or self._outer[name].poll() is not None:
                raise RuntimeError(f"{name} does not start: {(own / 'boot.log').read_text()}")
            time.sleep(0.05)
        outer = self._outer[name].pid  # setpriv becomes `ip netns exec`, and this unshare, whose child is process 1
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        self.first[name] = int(children[0])

    def crash(self, name: str) -> None:
        """Ends all processes of a host at once, as a loss of power does."""
        os.kill(self.first.pop(name), signal.SIGKILL)
        self._outer.pop(name).wait(10)

    def cut_cable(self, name: str) -> None:
        """Packets to and from a host are lost; its processes go on."""
        _run("ip", "-n", self._space("switch"), "link", "set", f"to-{name}", "down")

    def plug_cable(self, name: str) -> None:
        """Ends `cut_cable`."""
        _run("ip", "-n", self._space("switch"), "link", "set", f"to-{name}", "up")

    def close(self) -> None:
        """Ends all hosts, and removes what was made for them."""
        for name in list(self.first):
            self.crash(name)
        for name in [*self.names, "switch"]:
            subprocess.run(["ip", "netns", "del", self._space(name)], capture_output=True)

    def _space(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def _furnish(self, name: str) -> None:
        own = self.folder / name
        for part in ("home/.ssh", "home/.config/pip", "tmp", "upper", "work"):
            (own / part).mkdir(parents=True)
        (own / "tmp").chmod(0o1777)
        (own / "home").chmod(0o700)
        keys = own / "home" / ".ssh"
        if name == "laptop":
            shutil.copy(self.folder / "id", keys / "id_ed25519")
            (own / "home" / ".bashrc").write_text("export PATH=~/condense-env/bin:$PATH\n")
        else:
            shutil.copy(self.folder / "id.pub", keys / "authorized_keys")
            shutil.copy(self.folder / "host_key", keys / "host_key")
            (own / "home" / ".bashrc").touch()
        (own / "home" / ".profile").write_text(". ~/.bashrc\n")
        for file in keys.iterdir():
            file.chmod(0o600)
        # There is no internet: everything but the project itself is in the environment that the hosts see.
        text = "[global]\nno-index = true\n[install]\nno-build-isolation = false\n"  # false: no isolation
        (own / "home" / ".config" / "pip" / "pip.conf").write_text(text)

    def _connect(self, name: str) -> None:
        space, switch = self._space(name), self._space("switch")
        _run("ip", "netns", "add", space)
        peer = ["peer", "name", "eth0", "netns", space]
        _run("ip", "link", "add", "name", f"to-{name}", "netns", switch, "type", "veth", *peer)
        _run("ip", "-n", switch, "link", "set", "dev", f"to-{name}", "master", "switch0", "up")
        _run("ip", "-n", space, "addr", "add", f"{self.address[name]}/24", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        # It leads nowhere, but Ray finds its own address by looking which way the internet would be.
        _run("ip", "-n", space, "route", "add", "default", "dev", "eth0")


def kept_folders() -> list[str]:
    """What a host must see although its /root and /tmp are its own: the Python that the environment was made from."""
    base = Path(sys.base_prefix).resolve()
    return [str(base)] if base.is_relative_to("/root") or base.is_relative_to("/tmp") else []


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()}")
