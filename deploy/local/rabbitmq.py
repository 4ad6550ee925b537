"""A RabbitMQ node that belongs to one folder; several can run on one machine, as any user."""

import base64
import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

from deploy.local import install, processes
from deploy.local.files import write_private
from deploy.local.ports import HOST, accepts, free_port

ADMINISTRATOR = "malote"
_IMAGE = "rabbitmq:3-management"
_PLUGINS = "[rabbitmq_management,rabbitmq_prometheus].\n"
# Erlang's own port is at the same address; epmd is started separately; idle schedulers do not spin.
_ERL_ARGS = "-kernel inet_dist_use_interface {{{interface}}} -start_epmd false +sbwt none -malote {name}"
# 64 MiB of write-ahead log in place of 512: the node rolls it sooner and keeps less of it in memory. Once a minute it
# frees what its processes have no use for any more: what the start left is a tenth of it.
_CONFIG = """\
listeners.tcp.default = {bind}:{amqp_port}
management.tcp.ip = {bind}
management.tcp.port = {management_port}
prometheus.tcp.ip = {bind}
prometheus.tcp.port = {metrics_port}
default_user = {user}
default_pass = {password}
disk_free_limit.absolute = 50MB
max_message_size = 1048576
raft.wal_max_size_bytes = 67108864
background_gc_enabled = true
log.file.level = info
"""


class RabbitNode:
    """A node with everything that it keeps below `folder`, listening on `host` only, the loopback address.

    `password` is the administrator's (letters, digits, - and _). It is set at the first start, which makes
    the user. `config` are further lines of its rabbitmq.conf."""

    host = HOST

    def __init__(
        self,
        folder: Path,
        amqp_port: int,
        management_port: int,
        metrics_port: int,
        dist_port: int,
        password: str,
        config: str = "",
    ) -> None:
        self.folder = folder.absolute()
        self.amqp_port = amqp_port
        self.management_port = management_port
        self.metrics_port = metrics_port
        self.dist_port = dist_port
        self.password = password
        self.config = config
        self._node: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def amqp_url(self) -> str:
        """The administrator's address at vhost `/`."""
        return self.url_for(ADMINISTRATOR, self.password)

    @property
    def management_url(self) -> str:
        """The management API's address with the administrator's login, without `/api`."""
        return f"http://{ADMINISTRATOR}:{quote(self.password)}@{self.host}:{self.management_port}"

    def url_for(self, user: str, password: str, vhost: str = "/") -> str:
        """Another user's address."""
        return f"amqp://{quote(user)}:{quote(password)}@{self.host}:{self.amqp_port}/{quote(vhost, safe='')}"

    @property
    def pid(self) -> int:
        """The running broker's process id, 0 when it does not run."""
        return self._node.pid if self._node is not None and self._node.poll() is None else 0

    def start(self, timeout: float = 60) -> None:
        """Launch it and await it. Raises what these raise."""
        self.launch()
        self.await_ready(timeout)

    def launch(self) -> None:
        """Start, and go on from what a killed node left. Raises install.Missing without RabbitMQ, RuntimeError where a
        port is taken."""
        self.end_left_overs()
        self._write_files()
        for port in (self.amqp_port, self.management_port, self.metrics_port):
            if accepts(port):
                raise RuntimeError(f"port {port} is taken: RabbitMQ can't listen there")
        try:
            self._spawn(install.rabbitmq())
        except install.Missing:
            if not install.docker():
                raise
            self._spawn_container()

    def await_ready(self, timeout: float = 60) -> None:
        """Wait until AMQP and the management API answer. Raises RuntimeError, with the log's last lines, when the node
        ends or `timeout` seconds have passed."""
        ready = processes.until(lambda: self.pid == 0 or self.answers(), timeout)
        if not ready or self.pid == 0:
            self.kill()
            raise RuntimeError(
                f"RabbitMQ did not start; the end of its log ({self.folder / 'log'}):\n{self._log_tail()}"
            )

    def answers(self) -> bool:
        """Whether the node answers an AMQP handshake and an authenticated request to the management API."""
        return _speaks_amqp(self.host, self.amqp_port) and self._manages()

    def stop(self, timeout: float = 30) -> None:
        """End the node gracefully; after `timeout` seconds, kill it."""
        if self._node is not None and self._node.poll() is None:
            self._node.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._node.wait(timeout)
        self.kill()

    def wait(self) -> None:
        """Wait for the end of the broker's process."""
        if self._node is not None:
            self._node.wait()

    def kill(self) -> None:
        """Kill the node by SIGKILL, as a crash would. `start` works again afterwards."""
        if self._in_container:
            subprocess.run(["docker", "rm", "-f", self._name], capture_output=True, check=False)
        for process in (self._node, self._epmd):
            if process is not None and process.poll() is None:
                processes.signal_group(process.pid, signal.SIGKILL)
                process.wait()
        self._node = self._epmd = None

    @functools.cached_property
    def _name(self) -> str:
        """The node's name, made once for each folder, so that its data is found after the folder has moved."""
        path = self.folder / "name"
        if not path.exists():
            path.write_text(f"malote-{secrets.token_hex(4)}")
        return path.read_text().strip()

    @property
    def _in_container(self) -> bool:
        return self._node is not None and isinstance(self._node.args, list) and self._node.args[0] == "docker"

    def _write_files(self) -> None:
        for name in ("data", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        write_private(self.folder / "enabled_plugins", _PLUGINS)
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            write_private(cookie, secrets.token_hex(16))
        cookie.chmod(0o400)
        config = _CONFIG.format(
            bind=self.host,
            amqp_port=self.amqp_port,
            management_port=self.management_port,
            metrics_port=self.metrics_port,
            user=ADMINISTRATOR,
            password=self.password,
        )
        write_private(self.folder / "rabbitmq.conf", config + self.config)

    def _spawn(self, server: Path) -> None:
        epmd_port = free_port()
        epmd = shutil.which("epmd") or "epmd"
        self._epmd = self._run("epmd", [epmd, "-port", str(epmd_port), "-address", HOST], self._own_home())
        if not processes.until(lambda: accepts(epmd_port), 10):
            raise RuntimeError(f"Erlang's epmd did not start; the end of its log:\n{self._log_tail()}")
        self._node = self._run("node", [str(server)], self._environment(epmd_port))

    def _own_home(self) -> dict[str, str]:
        """The node's HOME, in which Erlang looks for its cookie, and by which processes of several nodes are told
        apart."""
        return {**os.environ, "HOME": str(self.folder)}

    def _environment(self, epmd_port: int) -> dict[str, str]:
        """The variables that replace /etc/rabbitmq and the user's home for the distribution's script."""
        erlang = _ERL_ARGS.format(interface=self.host.replace(".", ","), name=self._name)
        inherited = {k: v for k, v in self._own_home().items() if not k.startswith(("RABBITMQ_", "ERL_"))}
        return inherited | {
            "ERL_EPMD_PORT": str(epmd_port),
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the broker, and is not its parent
            "RABBITMQ_NODENAME": f"{self._name}@{self.host}",
            "RABBITMQ_USE_LONGNAME": "true",  # an address for a host: no name has to resolve
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self.folder / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "data" / "pid"),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": erlang,
        }

    def _spawn_container(self) -> None:
        """The last resort, with the image's own configuration; published on the loopback address only."""
        subprocess.run(["docker", "rm", "-f", self._name], capture_output=True, check=False)
        if subprocess.run(["docker", "image", "inspect", _IMAGE], capture_output=True, check=False).returncode != 0:
            subprocess.run(["docker", "pull", "-q", _IMAGE], check=False)
        command = ["docker", "run", "--rm", "--name", self._name, "--hostname", "malote"]
        command += ["-p", f"{HOST}:{self.amqp_port}:5672", "-p", f"{HOST}:{self.management_port}:15672"]
        command += ["-p", f"{HOST}:{self.metrics_port}:15692"]
        command += ["-v", f"{self._name}:/var/lib/rabbitmq", "-e", f"RABBITMQ_DEFAULT_USER={ADMINISTRATOR}"]
        command += ["-e", f"RABBITMQ_DEFAULT_PASS={self.password}", _IMAGE]
        self._node = self._run("node", command, dict(os.environ))

    def _run(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log" / f"{name}.out").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        (self.folder / f"{name}.pid").write_text(str(process.pid))
        return process

    def end_left_overs(self) -> None:
        """End the node of this folder if it has outlived a killed owner."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kill()
        processes.end(processes.read_pid(self.folder / "node.pid"), self._name)
        epmd = processes.read_pid(self.folder / "epmd.pid")
        if processes.variable(epmd, "HOME") == str(self.folder):  # every node has an epmd that looks like ours
            processes.end(epmd, "epmd -port", grace=0)

    def _manages(self) -> bool:
        login = base64.b64encode(f"{ADMINISTRATOR}:{self.password}".encode()).decode()
        url = f"http://{self.host}:{self.management_port}/api/overview"
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            if error.code == 401:
                raise RuntimeError(
                    f"{self.folder} keeps another administrator's password; remove that folder"
                ) from error
            return False
        except OSError:
            return False

    def _log_tail(self) -> str:
        lines: list[str] = []
        for path in sorted((self.folder / "log").glob("*"), key=lambda path: path.stat().st_mtime):
            if path.is_file():
                lines += path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-20:])


def _speaks_amqp(host: str, port: int) -> bool:
    """The broker answers the protocol header with a method frame (type 1: Connection.Start)."""
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
