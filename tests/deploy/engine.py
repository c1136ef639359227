"""A fake engine that records its commands, and what a deployment needs around it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sentence_api.deploy import container, image
from sentence_api.deploy.container import Wanted
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.naming import DEFAULT_NAME
from sentence_api.deploy.release import Release, State, keys_text
from sentence_api.deploy.switch import Deployment
from sentence_api.errors import DeploymentFailed
from sentence_api.resources.sizes import MIB
from tests.builders import PLAN_FIGURES

CANARY = {"text": "canary", "vector": [0.6, 0.8]}
WRONG_CANARY = {"text": "canary", "vector": [0.0, 1.0]}
PORT, KEYS = "SENTENCE_API_PORT", "SENTENCE_API_KEYS_FILE"
_PROJECT = "label=com.docker.compose.project="
_STACK = "label=com.docker.stack.namespace="


class Handler(BaseHTTPRequestHandler):
    """A server that gives unit vectors, and that of the canary."""

    def do_GET(self) -> None:
        """Answer the readiness check."""
        self._send({"status": "ready"})

    def do_POST(self) -> None:
        """Answer both query calls."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "questions" in asked:
            self._send({"embeddings": [[1.0, 0.0]] * len(asked["questions"])})
        else:
            vector = CANARY["vector"] if asked["question"] == CANARY["text"] else [1.0, 0.0]
            self._send({"embedding": vector, "dimensions": 2})

    def _send(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """A server whose backlog holds every connection of a probe, which else wait a second."""

    request_queue_size = 64


class FakeDocker(Docker):
    """A fake engine, whose containers answer on the port that they publish.

    Attributes:
        image: Id of the image that is built next.
        asked: Every command, in order.
        tried: Every command of which only the success counts.
        after: Called with each command when it has run.
        refusal: Complaint of an engine that does not answer.
        folders: Project folder of each name that Compose runs.
        stacks: Names that a swarm runs.
        by_hand: Names of containers that `docker run` made.
        broken: Images that never become ready.
        missing: Images that are gone.
        old: Images that lack our commands.
        canaries: The canaries of images that do not have the right one.
    """

    def __init__(self, image: str = "sha256:new") -> None:
        super().__init__()
        self.image = image
        self.asked: list[str] = []
        self.tried: list[str] = []
        self.after: Callable[[str], None] = lambda _command: None
        self.refusal = ""
        self.folders: dict[str, str] = {}
        self.stacks: set[str] = set()
        self.by_hand: set[str] = set()
        self.broken: set[str] = set()
        self.missing: set[str] = set()
        self.old: set[str] = set()
        self.canaries: dict[str, Any] = {}
        self.plugins = True
        self.candidate = ""
        self.nodes = 0
        self.manager = False
        self._servers: dict[int, Server] = {}

    def ask(self, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
        """Answer by the kind of command."""
        del environ
        command = " ".join(arguments)
        self.asked.append(command)
        if self.refusal:
            raise DeploymentFailed(f"docker {' '.join(arguments[:3])} failed: {self.refusal}")
        answer = self._answer(command, arguments)
        self.after(command)
        return answer

    def complaint(self) -> str:
        """Return the refusal."""
        return self.refusal

    def show(self, *arguments: str) -> None:
        """Record a command whose output a person would see."""
        self.asked.append(" ".join(arguments))

    def stream(
        self, *arguments: str, environ: Mapping[str, str], on_line: Callable[[str], None]
    ) -> None:
        """Record a build with its environment."""
        self.asked.append(" ".join(arguments))
        self.build_environment = dict(environ)
        on_line("#1 [1/9] FROM base")
        self.after(self.asked[-1])

    def works(self, *arguments: str) -> bool:
        """Tell whether the command would succeed."""
        command = " ".join(arguments)
        self.tried.append(command)
        if self.refusal:
            return False
        self.after(command)
        if arguments[:2] == ("image", "inspect"):
            return arguments[2] not in self.missing
        if arguments[:2] == ("container", "inspect"):
            return arguments[2] in {*self.by_hand, *self.folders}
        if arguments[:2] == ("compose", "version"):
            return self.plugins
        if arguments[:2] == ("service", "inspect"):
            return False
        return arguments[0] != "exec" or self.candidate not in self.broken

    def changes(self) -> list[str]:
        """Return the commands that change the deployment."""
        return [command for command in self.asked if command.startswith("compose")]

    def serve(self, port: int) -> None:
        """Answer on a port, as a container that publishes it does."""
        if port not in self._servers:
            server = Server(("127.0.0.1", port), Handler)
            self._servers[port] = server
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()

    def close(self) -> None:
        """Answer no longer."""
        while self._servers:
            _, server = self._servers.popitem()
            server.shutdown()
            server.server_close()

    def _answer(self, command: str, arguments: tuple[str, ...]) -> str:
        if command.startswith("compose"):
            return self._compose(arguments)
        if command.startswith("ps --all"):
            return self._containers(command)
        if command.startswith("run --detach"):
            self.candidate = arguments[-1]
        if command.startswith("inspect --format {{.State.Status}}"):
            return "exited false" if self.candidate in self.broken else "running false"
        if command.startswith("image inspect --format {{index .Config.Labels"):
            return "" if arguments[-1] in self.old else str(image.PROTOCOL)
        if command.endswith(" -m sentence_api canary"):
            assert arguments[-4] not in self.old
            return json.dumps(self.canaries.get(arguments[-4], CANARY))
        answers = {
            "info --format {{.DockerRootDir}}": "/nowhere",
            "info --format {{json": json.dumps(
                {"NCPU": 2, "MemTotal": 2048 * MIB, "Swarm": {"Nodes": self.nodes}}
            ),
            "info --format {{.Swarm.ControlAvailable}}": "true" if self.manager else "false",
            "image inspect --format {{.Id}}": self.image,
            "image inspect --format {{.Size}}": "355000000",
            "run --rm": json.dumps(PLAN_FIGURES),
            "stats": "200MiB / 1.5GiB",
        }
        return next((text for start, text in answers.items() if command.startswith(start)), "")

    def _compose(self, arguments: tuple[str, ...]) -> str:
        """Start or stop what Compose would; its own project's variables are in a file."""
        name = arguments[arguments.index("--project-name") + 1]
        if "up" in arguments:
            file = Path(arguments[arguments.index("--env-file") + 1])
            published = dict(line.split("=", 1) for line in file.read_text().splitlines()[1:])
            port = int(published["SENTENCE_API_PUBLISH"].rpartition(":")[2])
            for other in {*self._servers} - {port}:
                self._servers[other].shutdown()
                self._servers.pop(other).server_close()
            self.serve(port)
            self.folders[name] = str(Path.cwd())
        elif "down" in arguments and self.folders.pop(name, None) is not None:
            self.close()
        return ""

    def _containers(self, command: str) -> str:
        """List containers by a label: their folders, or their ids."""
        if _PROJECT in command:
            name = command.partition(_PROJECT)[2].split()[0]
            held = self.folders.get(name, "")
            return held if "working_dir" in command else "0123456789ab" if held else ""
        if _STACK in command:
            return "fedcba987654" if command.partition(_STACK)[2] in self.stacks else ""
        return "sentence-transformer-api: Up 2 minutes (healthy)"


@dataclass
class Project:
    """A folder with a deployment, seen as its commands see it.

    Attributes:
        port: A free port.
        docker: The engine.
        state: The deployment's files.
        said: Every line for the person.
    """

    port: int
    docker: FakeDocker = field(default_factory=FakeDocker)
    state: State = field(default_factory=State)
    said: list[str] = field(default_factory=list)

    @property
    def here(self) -> Deployment:
        """The deployment, as commands take it."""
        return Deployment(self.docker, self.state, self.said.append)

    def wanted(self, **choices: str) -> Wanted:
        """Return the choices of a command on this port; names go without our prefix."""
        given = {f"SENTENCE_API_{name}": value for name, value in choices.items()}
        return Wanted({PORT: str(self.port), **given})

    def up(self, image: str = "sha256:new", **choices: str) -> None:
        """Deploy an image."""
        self.docker.image = image
        container.up(self.wanted(**choices), self.here)

    def release(self, image: str = "sha256:new", name: str = DEFAULT_NAME) -> Release:
        """Return the release of an image under the plan of every test."""
        wanted = self.wanted()
        keys = self.state.keys_file(keys_text(wanted.options.keys))
        given = container.variables(PLAN_FIGURES, name, wanted.options, self.state, keys)
        return Release(image, given, choices=dict(wanted.choices))

    def kept(self) -> list[tuple[int, str]]:
        """Return the number and image of the releases that are kept."""
        return [(each.number, each.image) for each in self.state.releases()]

    def serving(self) -> str | None:
        """Return the image for which the files of Compose are written, if it runs one."""
        text = self.state.environment.read_text() if self.docker.folders else ""
        return text.partition("SENTENCE_API_IMAGE=")[2].partition("\n")[0] or None

    def events(self) -> list[str]:
        """Return the events of the history."""
        history = self.state.folder / "history.jsonl"
        lines = history.read_text().splitlines() if history.exists() else []
        return [json.loads(line)["event"] for line in lines]


def write_keys(path: Path = Path("my-keys")) -> str:
    """Write a file of API keys; return its path."""
    path.write_text("# mine\nsecret-1\n")
    return str(path.resolve())
