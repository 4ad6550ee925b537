"""A cluster of three RabbitMQ nodes, each in a network namespace of its own, so that it can be cut off.

Where the kernel gives us no namespaces, the nodes have loopback addresses of their own, and can be killed only.
"""

import contextlib
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from deploy.local import install
from deploy.local.ports import free_port
from deploy.local.rabbitmq import RabbitNode
from tests.servers import manage

NODES = 3
# A minority stops by itself, and others are missed after so many seconds; the leaders of queues are spread.
_CONFIG = """\
cluster_name = malote
cluster_partition_handling = pause_minority
queue_leader_locator = balanced
net_ticktime = 10
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.randomized_startup_delay_range.min = 0
cluster_formation.randomized_startup_delay_range.max = 1
"""


class Node(RabbitNode):
    """One of the cluster's."""

    def __init__(self, cluster: "Cluster", number: int) -> None:
        self.host, self.namespace = cluster.hosts[number], cluster.namespaces[number] if cluster.namespaces else ""
        self._epmd_port, self._number = cluster.ports[-1], number
        names = "".join(
            f"cluster_formation.classic_config.nodes.{n + 1} = malote-{n}@{host}\n"
            for n, host in enumerate(cluster.hosts)
        )
        folder = cluster.folder / str(number)
        folder.mkdir()
        (folder / "name").write_text(f"malote-{number}")
        (folder / ".erlang.cookie").write_text(cluster.cookie)
        super().__init__(folder, *cluster.ports[:-1], cluster.password, _CONFIG + names)

    def _spawn(self, server: Path) -> None:
        if self.namespace:
            self._epmd = self._run("epmd", _epmd(self._epmd_port, self.host), self._own_home())
        self._node = self._run("node", [str(server)], self._environment(self._epmd_port))

    def _run(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        within = ["nsenter", f"--net=/run/netns/{self.namespace}"] if self.namespace else []
        return super()._run(name, [*within, *command], environment)


class Cluster:
    """Three nodes that know each other."""

    def __init__(self, folder: Path, network: str, namespaces: list[str], why_not: str) -> None:
        self.folder, self.namespaces, self.why_not = folder, namespaces, why_not
        self.hosts = [f"{network}.{number + 11}" for number in range(NODES)]
        self.ports = [free_port() for _ in range(5)]
        self.password, self.cookie = secrets.token_hex(8), secrets.token_hex(16)
        self.nodes = [Node(self, number) for number in range(NODES)]
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The administrator's address: that of each node."""
        return ",".join(node.amqp_url for node in self.nodes)

    def start(self) -> None:
        if not self.namespaces:
            self._epmd = subprocess.Popen(_epmd(self.ports[-1], *self.hosts), stdin=subprocess.DEVNULL)
        with ThreadPoolExecutor(NODES) as pool:
            list(pool.map(lambda node: node.start(120), self.nodes))

    def end(self) -> None:
        for node in self.nodes:
            node.kill()
        if self._epmd:
            self._epmd.kill()
            self._epmd.wait()

    def leader_of(self, queue: str) -> Node:
        """The node that leads a queue."""
        return self.node_of(self._queue(queue)["leader"].partition("@")[2])

    def depth(self, queue: str) -> int:
        """Messages in a queue, ready and unacknowledged."""
        return int(self._queue(queue)["messages"])

    def node_of(self, place: str) -> Node:
        """The node at a host, with or without a port."""
        return next(node for node in self.nodes if place.partition(":")[0] == node.host)

    def _queue(self, name: str) -> dict[str, Any]:
        """By the word of a node that runs."""
        for node in self.nodes:
            with contextlib.suppress(OSError):
                found: Any = manage(node, "GET", f"/queues/%2F/{name}")
                return dict(found)
        raise AssertionError("no node answers")

    def can_spare(self, node: Node) -> bool:
        """Whether every queue keeps most of its members without this node."""
        try:
            manage(node, "GET", "/health/checks/node-is-quorum-critical")
        except OSError:
            return False
        return True

    def cut_off(self, node: Node) -> None:
        """Nothing passes to the node or from it, and nobody is told."""
        _ip("link", "set", node.namespace, "nomaster")


@contextlib.contextmanager
def three_nodes(folder: Path) -> Iterator[Cluster]:
    """A running cluster, in network namespaces unless the kernel refuses to make any."""
    network = f"198.18.{secrets.randbelow(256)}"  # of the range for tests of networks: nobody has an address there
    bridge = f"mlt{secrets.token_hex(3)}"
    names = [f"{bridge}-{number}" for number in range(NODES)]
    try:
        try:
            if shutil.which("ip") is None:
                install.package("iproute2")
            _connect(bridge, names, network)
            cluster = Cluster(folder, network, names, "")
        except (install.Missing, OSError, subprocess.CalledProcessError) as error:
            cluster = Cluster(folder, "127.0.0", [], getattr(error, "stderr", "").strip() or str(error))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.end()
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
            subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True, check=False)


def _connect(bridge: str, names: list[str], network: str) -> None:
    """A namespace for each node, and a bridge between them. A cable has the name of the namespace that it leads to."""
    _ip("link", "add", bridge, "type", "bridge")
    _ip("address", "add", f"{network}.1/24", "dev", bridge)
    _ip("link", "set", bridge, "up")
    for number, name in enumerate(names):
        _ip("netns", "add", name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", name, "master", bridge, "up")
        _ip("-n", name, "address", "add", f"{network}.{number + 11}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")


def _epmd(port: int, *hosts: str) -> list[str]:
    return [shutil.which("epmd") or "epmd", "-port", str(port), "-address", ",".join(hosts)]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
