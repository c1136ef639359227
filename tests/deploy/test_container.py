"""Decisions of a container deployment, with a fake engine that records its commands."""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sentence_api.deploy import container, image, preflight, runners
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.options import Options
from sentence_api.deploy.release import Release, State, keys_text
from sentence_api.errors import DeploymentFailed
from sentence_api.resources.sizes import MIB
from sentence_api.settings import Settings, names_of
from tests.builders import PLAN_FIGURES
from tests.conftest import ROOT

CANARY = {"text": "canary", "vector": [0.6, 0.8]}


class FakeDocker(Docker):
    """A fake engine; images in `broken` never become ready, images in `old` lack commands.

    Attributes:
        asked: Every command, in order.
        tried: Every command of which only the success counts.
    """

    def __init__(self, image: str = "sha256:new") -> None:
        self.image = image
        self.asked: list[str] = []
        self.tried: list[str] = []
        self.broken: set[str] = set()
        self.old: set[str] = set()
        self.plugins = True
        self.candidate = ""
        self.canary = CANARY
        self.nodes = 0
        self.manager = False

    def ask(self, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
        """Answer by the kind of command."""
        del environ
        command = " ".join(arguments)
        self.asked.append(command)
        answers = {
            "info --format {{.DockerRootDir}}": "/nowhere",
            "info --format {{json": json.dumps(
                {"NCPU": 2, "MemTotal": 2048 * MIB, "Swarm": {"Nodes": self.nodes}}
            ),
            "info --format {{.Swarm.ControlAvailable}}": "true" if self.manager else "false",
            "image inspect --format {{.Id}}": self.image,
            "image inspect --format {{.Size}}": "355000000",
            "run --rm": json.dumps(PLAN_FIGURES),
            "ps --all": "0123456789ab",
            "stats": "200MiB / 1.5GiB",
            "logs": "the last lines",
        }
        if command.startswith("run --detach"):
            self.candidate = arguments[-1]
        if command.startswith("inspect --format {{.State.Status}}"):
            return "exited false" if self.candidate in self.broken else "running false"
        if command.startswith("image inspect --format {{index .Config.Labels"):
            return "" if arguments[-1] in self.old else str(image.PROTOCOL)
        if command.endswith(" -m sentence_api canary"):
            assert arguments[-4] not in self.old
            return json.dumps(self.canary)
        return next((text for start, text in answers.items() if command.startswith(start)), "")

    def show(self, *arguments: str) -> None:
        """Record a command whose output a person would see."""
        self.asked.append(" ".join(arguments))

    def works(self, *arguments: str) -> bool:
        """Tell whether the command would succeed."""
        self.tried.append(" ".join(arguments))
        if arguments[0] == "compose":
            return self.plugins
        return arguments[0] != "exec" or self.candidate not in self.broken

    def changes(self) -> list[str]:
        """Return the commands that change the deployment."""
        return [command for command in self.asked if command.startswith("compose")]


class Handler(BaseHTTPRequestHandler):
    """A server that gives unit vectors; its canary can be made wrong."""

    canary = CANARY["vector"]

    def do_GET(self) -> None:
        """Answer the readiness check."""
        self._send({"status": "ready"})

    def do_POST(self) -> None:
        """Answer both query calls."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "questions" in asked:
            self._send({"embeddings": [[1.0, 0.0]] * len(asked["questions"])})
        else:
            vector = self.canary if asked["question"] == CANARY["text"] else [1.0, 0.0]
            self._send({"embedding": vector, "dimensions": 2})

    def _send(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[Options]:
    """Serve as the published port of a container would."""
    short = partial(container.requests_per_second, seconds=0.1)
    monkeypatch.setattr(container, "requests_per_second", short)

    class Own(Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Options(port=server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.fixture
def state(tmp_path: Path) -> State:
    """Return an empty state, as if a running version held the port."""
    made = State(tmp_path / "container")
    made.folder.mkdir()
    return made


def release(image: str, options: Options, state: State) -> Release:
    """Return the release of an image under PLAN."""
    keys = state.keys_file(keys_text(options.keys))
    return Release(image, container.variables(PLAN_FIGURES, options, state, keys))


def test_variables_are_the_plan(options: Options, state: State) -> None:
    """The Compose file gets the plan's exact limits, not rounded limits."""
    keys = state.keys_file(keys_text(None))
    digest = keys.name.removeprefix("keys-")
    assert container.variables(PLAN_FIGURES, options, state, keys) == {
        "SENTENCE_API_KEYS": str(keys),
        "SENTENCE_API_KEYS_NAME": f"sentence-api-keys-{digest}",
        "SENTENCE_API_HISTORY_SOURCE": str(state.history),
        "SENTENCE_API_SETTINGS_FILE": str(state.settings),
        "SENTENCE_API_REPLICAS": "1",
        "SENTENCE_API_STOP_GRACE": "35s",
        "SENTENCE_API_OPEN_FILES": "2048",
        "SENTENCE_API_CPU_RESERVATION": "0.75",
        "SENTENCE_API_PUBLISH": f"127.0.0.1:{options.port}",
        "SENTENCE_API_MEMORY_LIMIT": str(1536 * MIB),
        "SENTENCE_API_MEMORY_RESERVATION": str(432 * MIB),
        "SENTENCE_API_CPU_LIMIT": "1.5",
    }


@pytest.mark.parametrize(
    ("bind", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104
        ("", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
    ],
)
def test_a_release_is_reached_from_its_host(bind: str, host: str, state: State) -> None:
    """A port published on every address is reached over loopback."""
    assert release("sha256:new", Options(bind=bind), state).url == f"http://{host}:5001"


def test_up_proves_then_switches_and_remembers(options: Options, state: State) -> None:
    """A new version is tested beside the old version before the switch."""
    old, new = release("sha256:old", options, state), release("sha256:new", options, state)
    state.write("current", old)
    docker = FakeDocker()
    said: list[str] = []
    container.up(options, docker, state, said.append)
    proof = next(i for i, c in enumerate(docker.asked) if c.startswith("run --detach"))
    change = next(i for i, c in enumerate(docker.asked) if c.startswith("compose"))
    assert proof < change
    assert docker.changes() == [
        "compose --project-name sentence-api --file docker-compose.production.yml"
        f" --env-file {state.environment} up --detach --no-build"
    ]
    assert "SENTENCE_API_IMAGE=sha256:new\n" in state.environment.read_text()
    assert (state.read("current"), state.read("previous")) == (new, old)
    assert "image 355 MB" in "\n".join(said)


def test_up_without_changes_does_nothing_and_says_so(options: Options, state: State) -> None:
    """The same image with the same limits is left running, with a message."""
    state.write("current", release("sha256:new", options, state))
    docker = FakeDocker()
    said: list[str] = []
    container.up(options, docker, state, said.append)
    assert docker.changes() == []
    assert said[-1].startswith("nothing has changed")


def test_a_broken_candidate_changes_nothing(options: Options, state: State) -> None:
    """An image that does not start never replaces the running version; its log is shown."""
    old = release("sha256:old", options, state)
    state.write("current", old)
    docker = FakeDocker()
    docker.broken = {"sha256:new"}
    said: list[str] = []
    with pytest.raises(DeploymentFailed, match="nothing was changed"):
        container.up(options, docker, state, said.append)
    assert docker.changes() == []
    assert state.read("current") == old
    assert "logs --tail 20 sentence-api-candidate" in docker.asked


def test_a_failed_switch_rolls_back(
    options: Options, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version with wrong vectors on the published port is replaced by the previous version."""
    old = release("sha256:old", options, state)
    state.write("current", old)
    docker = FakeDocker()
    wrong = {"text": CANARY["text"], "vector": [0.0, 1.0]}

    def canary_of(asked: str, _docker: Docker) -> tuple[str, list[float]]:
        canary = wrong if asked == "sha256:new" else CANARY
        return str(canary["text"]), list(canary["vector"])

    monkeypatch.setattr(image, "canary_of", canary_of)
    with pytest.raises(DeploymentFailed, match=r"wrong reference vector.*is back"):
        container.up(options, docker, state, lambda _: None)
    assert len(docker.changes()) == 2
    assert "SENTENCE_API_IMAGE=sha256:old\n" in state.environment.read_text()
    assert state.read("current") == old
    history = (state.folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in history] == ["rollback"]


def test_rollback_swaps_the_releases(options: Options, state: State) -> None:
    """A second rollback restores the newer version."""
    old, new = release("sha256:old", options, state), release("sha256:new", options, state)
    state.write("current", new)
    state.write("previous", old)
    container.roll_back_to_previous(FakeDocker(), state, lambda _: None)
    assert (state.read("current"), state.read("previous")) == (old, new)
    state.write("previous", None)
    with pytest.raises(DeploymentFailed, match="no earlier version"):
        container.roll_back_to_previous(FakeDocker(), state, lambda _: None)


def test_rollback_to_an_image_without_our_commands_is_refused(
    options: Options, state: State
) -> None:
    """An image without the commands is refused in one line, before anything changes."""
    old, new = release("sha256:old", options, state), release("sha256:new", options, state)
    state.write("current", new)
    state.write("previous", old)
    docker = FakeDocker()
    docker.old = {"sha256:old"}
    with pytest.raises(DeploymentFailed) as refused:
        container.roll_back_to_previous(docker, state, lambda _: None)
    assert str(refused.value) == (
        "the image of the earlier version, sha256:old, is too old to be tested by this deployment;"
        " check out that version and run its ./deploy-production.sh"
    )
    assert docker.changes() == []
    assert (state.read("current"), state.read("previous")) == (new, old)


def test_an_old_image_comes_back_after_a_failed_switch(options: Options, state: State) -> None:
    """The previous version runs again after a failed `up`, even without a `canary` command."""
    old = release("sha256:old", options, state)
    state.write("current", old)
    docker = FakeDocker()
    docker.old = {"sha256:old"}
    docker.canary = {"text": CANARY["text"], "vector": [0.0, 1.0]}
    with pytest.raises(DeploymentFailed, match=r"wrong reference vector.*is back"):
        container.up(options, docker, state, lambda _: None)
    assert "SENTENCE_API_IMAGE=sha256:old\n" in state.environment.read_text()
    assert state.read("current") == old


def test_a_host_runs_stable_commands_inside_an_image(options: Options, state: State) -> None:
    """Inside an image a host runs commands of `python -m sentence_api`, never modules."""
    docker = FakeDocker()
    state.write("current", release("sha256:old", options, state))
    container.up(options, docker, state, lambda _: None)
    inside = [c.split(" -m ", 1)[1] for c in [*docker.asked, *docker.tried] if "python" in c]
    assert {tuple(command.split()[:2]) for command in inside} == {
        ("sentence_api", name) for name in ("plan", "smoke", "canary", "healthcheck")
    }


def test_the_dockerfile_declares_our_protocol() -> None:
    """The Dockerfile writes the protocol label that a deployment asks for."""
    text = (ROOT / image.DOCKERFILE).read_text(encoding="utf-8")
    assert text.count(f'{image.PROTOCOL_LABEL}="{image.PROTOCOL}"') == 1
    assert text.count('"-m", "sentence_api", "healthcheck"]') == 1


def test_down_keeps_images_and_history(options: Options, state: State) -> None:
    """`down` removes the objects of Compose and keeps the rest; a repeat is harmless."""
    state.write("current", release("sha256:new", options, state))
    docker = FakeDocker()
    assert container.down(docker, state) is True
    assert docker.changes()[-1].endswith("down --remove-orphans")
    assert (state.folder / "history.jsonl").exists()
    assert container.down(docker, state) is False


def test_a_host_without_compose_is_told_what_to_do(options: Options, state: State) -> None:
    """A missing plugin is named before anything is built."""
    docker = FakeDocker()
    docker.plugins = False
    with pytest.raises(
        DeploymentFailed, match=r"Compose plugin; install .* or deploy with --local"
    ):
        container.up(options, docker, state, lambda _: None)
    assert docker.asked == []


def test_a_taken_port_is_named(options: Options, state: State) -> None:
    """The first deployment to a port in use is refused before the build."""
    docker = FakeDocker()
    with pytest.raises(DeploymentFailed, match=f"port {options.port} on 127.0.0.1 cannot be"):
        container.up(options, docker, state, lambda _: None)
    assert not any(command.startswith("build") for command in docker.asked)


def test_settings_of_a_person_reach_the_container() -> None:
    """A user's settings apply inside, except the listening address."""
    environ = {
        "SENTENCE_API_LOG_LEVEL": "debug",
        "SENTENCE_API_CACHE_MB": "64",
        "WEB_CONCURRENCY": "1",
        "SENTENCE_API_PORT": "1",
        "ENGINE": "torch",
        "HOME": "/root",
    }
    assert image.chosen_settings(environ) == {
        "SENTENCE_API_LOG_LEVEL": "debug",
        "SENTENCE_API_CACHE_MB": "64",
        "WEB_CONCURRENCY": "1",
    }


def test_every_short_name_is_known() -> None:
    """The host cannot read `Settings`, so its list of names is compared with `Settings` here."""
    short = {name for field in Settings.model_fields for name in names_of(field)[1:]}
    baked = {"ENGINE", "SENTENCE_TRANSFORMER_MODEL"}
    assert short - baked - {"PORT"} == image.SHORT_SETTINGS


def test_the_model_of_a_person_is_baked_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The build fixes model and engine, under the settings' names."""
    monkeypatch.setattr(image, "WHEELHOUSE", Path("no/such/folder"))
    plain = image.build_command(Options(), {})
    assert plain[plain.index("--target") + 1] == "runtime"
    assert [argument for argument in plain if "MODEL" in argument] == []
    environ = {"SENTENCE_TRANSFORMER_MODEL": "wheelhouse/mine", "ENGINE": "torch"}
    chosen = image.build_command(Options(base_image="mine:1"), environ)
    assert chosen[chosen.index("--target") + 1] == "runtime-torch"
    assert {"--build-arg=MODEL=wheelhouse/mine", "--build-arg=BASE_IMAGE=mine:1"} <= set(chosen)
    assert "--network" not in chosen


def test_a_dry_run_shows_what_an_up_does(
    options: Options, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run prints every changing command of `up`, and runs none of them."""
    state.write("current", release("sha256:old", options, state))
    kept = sorted(path.name for path in state.folder.iterdir())
    dry, real = FakeDocker(), FakeDocker()
    said: list[str] = []
    container.dry_run(options, dry, state, said.append)
    assert sorted(path.name for path in state.folder.iterdir()) == kept
    container.up(options, real, state, lambda _: None)
    changing = ("build", "run --detach", "compose")
    done = [command for command in real.asked if command.startswith(changing)]
    assert [line for line in said if line.startswith("docker ")] == [
        f"docker {shlex.join(command.split())}".replace("'{{", "{{")
        for command in [*done[:2], "rm --force sentence-api-candidate", *done[2:]]
    ]
    assert [command for command in dry.asked if command.startswith(changing)] == []
    assert state.environment.read_text().strip() in "\n".join(said)
    del capsys


def test_a_machine_without_memory_is_told(tmp_path: Path) -> None:
    """A plan above the available memory is refused before anything starts."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable: 409600 kB\n")
    with pytest.raises(DeploymentFailed, match=r"400 MiB of memory are available .* needs 432"):
        preflight.check_memory(PLAN_FIGURES, meminfo)
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable: 512000 kB\n")
    preflight.check_memory(PLAN_FIGURES, meminfo)
    preflight.check_memory(PLAN_FIGURES, tmp_path / "missing")


def test_another_mode_must_be_taken_down_first(options: Options, state: State) -> None:
    """Switching between Compose and swarm requires `down` first: both need the port."""
    state.write("current", release("sha256:old", options, state))
    docker = FakeDocker()
    docker.manager = True
    with pytest.raises(DeploymentFailed, match=r"with Compose; run .* down before"):
        container.up(replace(options, swarm=True), docker, state, lambda _: None)
    docker.manager = False
    with pytest.raises(DeploymentFailed, match="docker swarm init"):
        container.up(replace(options, swarm=True), docker, state, lambda _: None)


def test_replicas_on_one_machine_share_it(options: Options) -> None:
    """Two replicas on one machine get half of it each; on two machines each gets a whole."""
    docker = FakeDocker()
    two = replace(options, swarm=True, replicas=2)
    image.plan_of("sha256:new", two, {}, docker)
    assert f"--cpus 1 --memory {1024 * MIB}" in docker.asked[-1]
    docker.nodes = 2
    image.plan_of("sha256:new", two, {"WEB_CONCURRENCY": "1"}, docker)
    assert f"--cpus 2 --memory {2048 * MIB}" in docker.asked[-1]
    assert "--env=WEB_CONCURRENCY=1" in docker.asked[-1]


def test_compose_file_asks_for_nothing_else(options: Options, state: State) -> None:
    """The deployment writes every variable of the Compose file, and none has a default."""
    text = (ROOT / runners.COMPOSE_FILE).read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+):\?[^}]+\}", text))
    assert asked == {"SENTENCE_API_IMAGE", *release("sha256:new", options, state).variables}
    assert text.count("${") == len(re.findall(r"\$\{\w+:\?", text))


def test_a_wheelhouse_of_other_requirements(monkeypatch: Any, tmp_path: Path) -> None:
    """A build with an outdated wheelhouse stops before pip, with the next step."""
    monkeypatch.chdir(tmp_path)
    lock = tmp_path / "requirements" / "serve.txt"
    lock.parent.mkdir()
    lock.write_text("flask==1\n")
    (tmp_path / "wheelhouse").mkdir()

    class Collecting(FakeDocker):
        def ask(self, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
            if arguments[0] == "cp":
                Path(arguments[-1], image.CHECKSUMS).write_text("0  flask-1.whl\n")
            return super().ask(*arguments, environ=environ)

    docker = Collecting()
    assert image.collect_wheels(Options(), docker) == 1
    image.build(("build", "."), docker)
    lock.write_text("flask==2\n")
    with pytest.raises(DeploymentFailed, match=r"deploy-production\.sh wheelhouse again"):
        image.build(("build", "."), docker)
    # An older version left no record of its requirements.
    (tmp_path / "wheelhouse" / image.COLLECTED_FOR).unlink()
    image.build(("build", "."), docker)
