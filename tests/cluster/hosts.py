"""Hosts made of Linux namespaces: each with its own address, processes, /tmp, home directory and sshd (needs root).

Nothing of them can outlive this process: the kernel kills a host's first process when its parent dies, with it every
process of the host, and with those the host's mounts and its end of the network. The machine's own network is not
touched, as the switch that joins the hosts lives in a namespace too.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NETWORK = "10.77.0"
HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)  # where sshd looks for keys, whatever $HOME says
SHARED = Path("/mnt/shared")  # on every host; stands for NFS
PATIENCE = float(os.environ.get("TRANSFERGRID_PATIENCE", "1"))  # factor on all waiting limits, for a busy machine
PROGRAMS = ("ip", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", "rsync", "make")
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_PREFIX = "tg-hosts-"
_SCAN = """
import socket, sys
for port in range(1, 65536):
    with socket.socket() as tried:
        tried.settimeout(5)
        if tried.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""
_libc = ctypes.CDLL(None, use_errno=True)


def lacking() -> str | None:
    """Why hosts cannot be made here; None where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts are made of namespaces: needs Linux and root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian: apt-get install openssh-server rsync iproute2 make)"
    done = subprocess.run(["unshare", *_NAMESPACES, "true"], capture_output=True, text=True)
    return None if done.returncode == 0 else f"namespaces are not allowed here: {done.stderr.strip()}"


class Host:
    """One host. `start` it, run commands on it, `cut` its cable and `mend` it, `kill` it and start it again."""

    def __init__(self, name: str, number: int, network: Network) -> None:
        self.name, self.address, self._network = name, f"{NETWORK}.{number}", network
        self._cable = f"to-{name}"[:15]
        self._outer: subprocess.Popen[bytes] | None = None
        self._first = 0

    def start(self) -> None:
        """Power on, and wait for sshd."""
        places = (self._network.config, self._network.shared, ROOT, self._network.venv, Path(sys.base_prefix))
        command = ["unshare", *_NAMESPACES, "--propagation", "slave", str(HERE / "host.sh"), self.name]
        log = self._network.folder / f"{self.name}.log"
        self._outer = _popen([*command, *map(str, places)], log)
        self._first = _only_child(self._outer)
        self._network.plug(self._cable, self._first, self.address)
        wait_for(lambda: self.succeeds("test", "-e", "/run/ready"), f"host {self.name} to start (see {log})", 60)
        wait_for(lambda: any(port == 22 for _, port, _ in self.listeners()), f"sshd of {self.name}", 30)

    def kill(self) -> None:
        """Power off: every process ends at once, and what lay on the host's own disk is gone."""
        if self._outer is not None:
            self._outer.kill()  # unshare takes the host's first process along, and that all others
            self._outer.wait()
            wait_for(lambda: not Path(f"/proc/{self._first}").exists(), f"host {self.name} to end", 30)
        self._outer = None

    def cut(self) -> None:
        """Pull the network cable."""
        self._network.run("ip", "link", "set", self._cable, "down")

    def mend(self) -> None:
        """Put it back."""
        self._network.run("ip", "link", "set", self._cable, "up")

    def command(self, arguments: Sequence[str], cwd: Path = HOME) -> list[str]:
        """The command that does `arguments` on this host, as root at its console."""
        return ["nsenter", "--target", str(self._first), "--all", f"--wdns={cwd}", *arguments]

    def run(
        self,
        *arguments: str,
        cwd: Path = HOME,
        timeout: float = 300,
        check: bool = True,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[str]:
        """Run a command at the console; raises AssertionError with what it said where it fails."""
        done = subprocess.run(
            self.command(arguments, cwd), env=self.environment(environment), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=timeout * PATIENCE,
        )  # fmt: skip
        said = f"{' '.join(arguments)[:300]} on {self.name}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert not check or done.returncode == 0, said
        return done

    def succeeds(self, *arguments: str) -> bool:
        """Whether a command ends with 0."""
        return self.run(*arguments, check=False).returncode == 0

    def popen(
        self, *arguments: str, log: Path, cwd: Path = HOME, environment: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.Popen[bytes]:
        """Start a command that runs on; it writes to `log`, a file outside of the host."""
        return _popen(self.command(arguments, cwd), log, self.environment(environment))

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """What a login at this host would have."""
        path = f"{HOME}/transfergrid/.venv/bin:{_path()}"
        return {"HOME": str(HOME), "PATH": path, "LANG": "C.UTF-8", "USER": "root", "SHELL": "/bin/bash", **more}

    def listeners(self) -> list[tuple[str, int, str]]:
        """Where TCP connections are taken: address, port, and the process."""
        lines = self.run("ss", "-Hltnp").stdout.splitlines()
        fields = [line.split(maxsplit=5) for line in lines]
        return [(f[3].rpartition(":")[0], int(f[3].rpartition(":")[2]), f[5] if len(f) > 5 else "") for f in fields]

    def reaches(self, other: Host) -> set[int]:
        """The TCP ports of another host that take a connection from this one; all are tried."""
        return {int(port) for port in self.run("python3", "-c", _SCAN, other.address).stdout.split()}

    def processes(self, pattern: str) -> list[int]:
        """The host's own numbers of the processes whose command matches a regular expression."""
        return [int(pid) for pid in self.run("pgrep", "-f", "--", pattern, check=False).stdout.split()]


class Network:
    """Hosts on a switch. A context manager: at its end all of it is gone."""

    def __init__(self, *names: str, bashrc: str = "") -> None:
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self.shared, self.config = self.folder / "shared", self.folder / "config"
        self.venv = Path(sys.prefix)
        self.hosts = [Host(name, number, self) for number, name in enumerate(names, start=2)]
        self._switch: subprocess.Popen[bytes] | None = None
        self.shared.mkdir()
        self.config.mkdir()
        self._configure(bashrc)

    def _configure(self, bashrc: str) -> None:
        key = self.config / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", key], check=True)
        shutil.copy(self.config / "key.pub", self.config / "authorized_keys")
        names = [f"{host.address} {host.name}\n" for host in self.hosts]
        (self.config / "hosts").write_text("127.0.0.1 localhost\n" + "".join(names))
        (self.config / "bashrc").write_text(bashrc)
        sums = subprocess.run(
            ["sha256sum", "pyproject.toml", "constraints.txt"], cwd=ROOT, check=True, capture_output=True, text=True
        )
        (self.config / "installed").write_text(sums.stdout)
        shutil.copytree(ROOT / "docker/mlflow", self.config / "mlflow")
        shutil.copytree(ROOT / "tests/chaos/execution_log", self.config / "execution_log")

    def __enter__(self) -> Network:
        try:
            script = "ip link set lo up && ip link add br0 type bridge && ip link set br0 up && exec sleep infinity"
            command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
            self._switch = _popen(command, self.folder / "switch.log")
            self._switch_first = _only_child(self._switch)
            wait_for(lambda: "br0" in self.run("ip", "-br", "link", "show", "up"), "the switch", 30)
            for host in self.hosts:
                host.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.kill()
        if self._switch is not None:
            self._switch.kill()
            self._switch.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *arguments: str) -> str:
        """Run a command at the switch."""
        inside = ["nsenter", "--target", str(self._switch_first), "--net", *arguments]
        return subprocess.run(inside, check=True, capture_output=True, text=True, timeout=30).stdout

    def plug(self, cable: str, process: int, address: str) -> None:
        """Lay a cable from the switch to the namespace of a process. It goes with either end."""
        mac = f"02:00:00:00:00:{int(address.rpartition('.')[2]):02x}"  # a host that comes back keeps its card
        peer = ["peer", "name", "eth0", "address", mac, "netns", str(process)]
        self.run("ip", "link", "add", cable, "type", "veth", *peer)
        self.run("ip", "link", "set", cable, "master", "br0", "up")
        there = ["nsenter", "--target", str(process), "--net", "ip"]
        for what in (f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            subprocess.run([*there, *what.split()], check=True, timeout=30)


def wait_for(reached: Callable[[], object], what: str, seconds: float, pause: float = 0.2) -> float:
    """Wait until the function `reached` returns true. Returns the seconds; raises TimeoutError naming `what`."""
    began, seconds = time.monotonic(), seconds * PATIENCE
    while not reached():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(pause)
    return time.monotonic() - began


def _sweep() -> None:
    """Remove the folders of processes that were killed before they could; of their hosts nothing else is left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        if not Path(f"/proc/{folder.name.split('-')[2]}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _popen(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=_end_with_parent
        )


def _end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends, however it ends."""
    pr_set_pdeathsig = 1
    _libc.prctl(pr_set_pdeathsig, signal.SIGKILL)


def _only_child(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: process.poll() is not None or children.read_text().split(), "a namespace", 30, pause=0.02)
    assert process.poll() is None, "unshare failed"
    return int(children.read_text().split()[0])
