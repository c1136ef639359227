"""Commands of a container deployment, with a fake engine that records what it is told."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sentence_api.deploy import choices, container, image, runners
from sentence_api.deploy.__main__ import parse, wanted_by
from sentence_api.deploy.container import Wanted
from sentence_api.deploy.options import KEYS_FILE, Options, options_of
from sentence_api.deploy.release import keys_text
from sentence_api.errors import DeploymentFailed
from sentence_api.resources.sizes import MIB
from tests.builders import PLAN_FIGURES
from tests.conftest import ROOT
from tests.deploy.engine import PORT, FakeDocker, Project, write_keys

COMPOSE_UP = (
    "compose --project-name sentence-transformer-api --file docker-compose.production.yml"
    " --env-file var/container/compose.env up --detach --no-build"
)


def test_variables_are_the_plan(project: Project) -> None:
    """The Compose file gets the plan's exact limits, not rounded limits."""
    keys = project.state.keys_file(keys_text(None))
    digest = keys.name.removeprefix("keys-")
    options = options_of({PORT: "5002"})
    assert container.variables(PLAN_FIGURES, "mine", options, project.state, keys) == {
        "SENTENCE_API_NAME": "mine",
        "SENTENCE_API_KEYS": str(keys),
        "SENTENCE_API_KEYS_NAME": f"mine-keys-{digest}",
        "SENTENCE_API_HISTORY_SOURCE": str(project.state.history),
        "SENTENCE_API_SETTINGS_FILE": str(project.state.settings),
        "SENTENCE_API_REPLICAS": "1",
        "SENTENCE_API_STOP_GRACE": "35s",
        "SENTENCE_API_OPEN_FILES": "2048",
        "SENTENCE_API_CPU_RESERVATION": "0.75",
        "SENTENCE_API_PUBLISH": "127.0.0.1:5002",
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
def test_a_release_is_reached_from_its_host(bind: str, host: str, project: Project) -> None:
    """A port published on every address is reached over loopback."""
    keys = project.state.keys_file(keys_text(None))
    given = container.variables(PLAN_FIGURES, "mine", Options(bind=bind), project.state, keys)
    assert replace(project.release(), variables=given).url == f"http://{host}:5001"


def test_up_proves_then_switches_and_remembers(project: Project) -> None:
    """A new version is tested beside the old version before the switch."""
    project.up("sha256:old")
    project.docker.asked.clear()
    project.up("sha256:new")
    proof = next(i for i, c in enumerate(project.docker.asked) if c.startswith("run --detach"))
    change = project.docker.asked.index(COMPOSE_UP)
    assert proof < change
    assert project.docker.changes() == [COMPOSE_UP]
    assert project.serving() == "sha256:new"
    assert project.kept() == [(1, "sha256:old"), (2, "sha256:new")]
    assert project.events() == ["up", "up"]
    assert "sentence-transformer-api: image 355 MB, ready after " in "\n".join(project.said)


def test_the_plan_is_told_in_a_line(project: Project) -> None:
    """The line names one worker as one, and what the service needs beside its limit."""
    one = {**PLAN_FIGURES, "workers": 1, "bound_by": "memory"}
    assert [container._plan_line(plan) for plan in (one, PLAN_FIGURES)] == [
        "plan: 1 worker (bound by memory), 1536 MiB and 1.5 CPUs, needs 432 MiB",
        "plan: 2 workers (bound by cpus), 1536 MiB and 1.5 CPUs, needs 432 MiB",
    ]
    project.up()
    assert container._plan_line(PLAN_FIGURES) in project.said


def test_up_without_changes_does_nothing_and_says_so(project: Project) -> None:
    """The same image with the same limits is left running, with a message."""
    project.up()
    project.docker.asked.clear()
    project.up()
    assert project.docker.changes() == []
    assert project.said[-1] == (
        "nothing has changed: sentence-transformer-api runs this version and is ready at"
        f" http://127.0.0.1:{project.port}"
    )
    assert project.kept() == [(1, "sha256:new")]


def test_up_starts_what_is_the_same_and_does_not_answer(project: Project) -> None:
    """The same version is started where its container has ended."""
    project.up()
    project.docker.close()
    project.docker.folders.clear()
    project.docker.asked.clear()
    project.up()
    assert project.docker.changes() == [COMPOSE_UP]


def test_up_without_options_repeats_the_last_deployment(project: Project) -> None:
    """Name, keys, limits and settings stay until they are changed; the output says what changed."""
    given = {"NAME": "mine", "KEYS_FILE": write_keys(), "CPUS": "1.5", "LOG_LEVEL": "debug"}
    project.up(**given)
    file = choices.DEFAULT_FILE
    kept = {PORT: str(project.port), **{f"SENTENCE_API_{name}": given[name] for name in given}}
    assert choices.read(file) == kept
    first = project.state.current()
    project.docker.image = "sha256:newer"
    project.said.clear()
    container.up(Wanted(choices.read(file)), project.here)
    second = project.state.current()
    assert first is not None
    assert second is not None
    assert replace(second, image=first.image, since="", number=0) == replace(
        first, since="", number=0
    )
    assert (second.name, second.key) == ("mine", "secret-1")
    assert second.settings == {"SENTENCE_API_LOG_LEVEL": "debug", KEYS_FILE: "/run/secrets/keys"}
    assert [line for line in project.said if line.startswith("deployment.env")] == []
    assert choices.read(file) == kept


def test_keys_are_removed_only_where_that_is_said(project: Project) -> None:
    """Choices without keys do not remove those of what runs; `--no-keys` does, and is told."""
    keys = write_keys()
    project.up(KEYS_FILE=keys)
    file = choices.DEFAULT_FILE.read_text()
    project.docker.asked.clear()
    with pytest.raises(DeploymentFailed) as refused:
        project.up("sha256:newer")
    assert str(refused.value) == (
        "what runs needs an API key, and no file of keys is chosen: add --keys FILE, or --no-keys"
        " to serve everyone"
    )
    assert project.docker.changes() == []
    assert choices.DEFAULT_FILE.read_text() == file
    container.up(wanted_by(parse(["--no-keys"]), {}), project.here)
    current = project.state.current()
    assert current is not None
    assert (current.key, current.settings) == (None, {})
    assert f"deployment.env: SENTENCE_API_KEYS_FILE: {keys} -> default" in project.said
    assert choices.read(choices.DEFAULT_FILE) == {PORT: str(project.port)}


def test_a_failed_up_leaves_the_choices(project: Project) -> None:
    """Choices that failed are not repeated by the next `up`."""
    project.up("sha256:old", CPUS="1")
    before = choices.DEFAULT_FILE.read_text()
    project.docker.broken = {"sha256:new"}
    with pytest.raises(DeploymentFailed, match="nothing was changed"):
        project.up("sha256:new", CPUS="2")
    assert choices.DEFAULT_FILE.read_text() == before
    assert "deployment.env: SENTENCE_API_CPUS: 1 -> 2" in project.said


def test_a_file_of_choices_is_written_where_it_was_named(project: Project) -> None:
    """Choices of another file are kept there, and the default file is left alone."""
    wanted = Wanted({PORT: str(project.port)}, Path("mine.env"))
    container.up(wanted, project.here)
    assert choices.read(Path("mine.env")) == {PORT: str(project.port)}
    assert not choices.DEFAULT_FILE.exists()


def test_a_broken_candidate_changes_nothing(project: Project) -> None:
    """An image that does not start never replaces the running version; its log is shown."""
    project.up("sha256:old")
    project.docker.asked.clear()
    project.docker.broken = {"sha256:new"}
    with pytest.raises(DeploymentFailed, match="nothing was changed"):
        project.up("sha256:new")
    assert project.docker.changes() == []
    assert project.kept() == [(1, "sha256:old")]
    assert "logs --tail 20 sentence-transformer-api-candidate" in project.docker.asked
    assert project.docker.tried[-1] == "rm --force sentence-transformer-api-candidate"


def test_a_host_runs_stable_commands_inside_an_image(project: Project) -> None:
    """Inside an image a host runs commands of `python -m sentence_api`, never modules."""
    project.up("sha256:old")
    project.up("sha256:new")
    ran = [*project.docker.asked, *project.docker.tried]
    inside = [command.split(" -m ", 1)[1] for command in ran if "python" in command]
    assert {tuple(command.split()[:2]) for command in inside} == {
        ("sentence_api", name) for name in ("plan", "smoke", "canary", "healthcheck")
    }


def test_the_dockerfile_declares_our_protocol() -> None:
    """The Dockerfile writes the protocol label that a deployment asks for."""
    text = (ROOT / image.DOCKERFILE).read_text(encoding="utf-8")
    assert text.count(f'{image.PROTOCOL_LABEL}="{image.PROTOCOL}"') == 1
    assert text.count('"-m", "sentence_api", "healthcheck"]') == 1


def test_down_keeps_images_and_history(project: Project) -> None:
    """`down` removes the objects of Compose and keeps the rest; a repeat is harmless."""
    project.up()
    assert container.down(project.wanted(), project.here) is True
    assert project.docker.changes()[-1] == (
        "compose --project-name sentence-transformer-api down --remove-orphans"
    )
    assert project.events() == ["up", "down"]
    assert project.state.current() is None
    assert project.kept() == [(1, "sha256:new")]
    assert container.down(project.wanted(), project.here) is False


def test_a_host_without_compose_is_told_what_to_do(project: Project) -> None:
    """A missing plugin is named before anything is built."""
    project.docker.plugins = False
    with pytest.raises(
        DeploymentFailed, match=r"Compose plugin; install .* or deploy with --local"
    ):
        project.up()
    assert project.docker.asked == []


def test_settings_of_a_person_reach_the_container() -> None:
    """A user's settings apply inside, except those of the deployment and of the image."""
    environ = {
        "SENTENCE_API_LOG_LEVEL": "debug",
        "SENTENCE_API_CACHE_MB": "64",
        "WEB_CONCURRENCY": "1",
        "SENTENCE_API_PORT": "1",
        "ENGINE": "torch",
        "HOME": "/root",
    }
    assert choices.settings_inside(choices.given_by(environ)) == {
        "SENTENCE_API_LOG_LEVEL": "debug",
        "SENTENCE_API_CACHE_MB": "64",
        "SENTENCE_API_WORKERS": "1",
    }


def test_the_model_of_a_person_is_baked_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The build fixes model and engine, under the settings' names."""
    monkeypatch.setattr(image, "WHEELHOUSE", Path("no/such/folder"))
    plain = image.build_command(Options(), {})
    assert plain[plain.index("--target") + 1] == "runtime"
    assert [argument for argument in plain if "MODEL" in argument] == []
    environ = {"SENTENCE_TRANSFORMER_MODEL": "wheelhouse/mine", "ENGINE": "torch"}
    chosen = image.build_command(Options(base_image="mine:1"), choices.given_by(environ))
    assert chosen[chosen.index("--target") + 1] == "runtime-torch"
    assert {"--build-arg=MODEL=wheelhouse/mine", "--build-arg=BASE_IMAGE=mine:1"} <= set(chosen)
    assert "--network" not in chosen


def test_a_dry_run_shows_what_an_up_does(project: Project) -> None:
    """A dry run prints every changing command of `up`, and runs none of them."""
    project.up("sha256:old")
    project.docker.image = "sha256:new"
    kept = sorted(str(path) for path in Path().rglob("*"))
    project.docker.asked.clear()
    project.said.clear()
    container.dry_run(project.wanted(), project.here)
    changing = ("build", "run --detach", "compose", "tag", "rm")
    assert [line for line in project.docker.asked if line.startswith(changing)] == []
    assert sorted(str(path) for path in Path().rglob("*")) == kept
    shown = [line for line in project.said if line.startswith("docker ")]
    files = "\n".join(project.said)
    project.up("sha256:new")
    done = [line for line in project.docker.asked if line.startswith(changing[:3])]
    assert shown == [
        f"docker {shlex.join(command.split())}"
        for command in [
            *done[:2],
            "rm --force sentence-transformer-api-candidate",
            *done[2:],
        ]
    ]
    assert project.state.environment.read_text().strip() in files


def test_a_dry_run_before_the_first_build(project: Project) -> None:
    """Without an image only the build can be shown, with the way to the rest."""

    def no_image(command: str) -> None:
        if command.startswith("image inspect --format {{.Id}}"):
            raise DeploymentFailed("no such image")

    project.docker.after = no_image
    container.dry_run(project.wanted(), project.here)
    assert [line.partition(" --file")[0] for line in project.said] == [
        "docker build",
        "# the rest follows from the plan, which the image makes: run with --build-only, then again"
        " with --dry-run",
    ]


def test_another_mode_must_be_taken_down_first(project: Project) -> None:
    """Switching between Compose and swarm requires `down` first: both need the port."""
    project.up("sha256:old")
    project.docker.manager = True
    with pytest.raises(DeploymentFailed, match=r"with Compose; run .* down before"):
        project.up("sha256:new", SWARM="true")
    project.docker.manager = False
    with pytest.raises(DeploymentFailed, match="docker swarm init"):
        project.up("sha256:new", SWARM="true")


def test_replicas_on_one_machine_share_it() -> None:
    """Two replicas on one machine get half of it each; on two machines each gets a whole."""
    docker = FakeDocker()
    two = Options(swarm=True, replicas=2)
    image.plan_of("sha256:new", two, {}, docker)
    assert f"--cpus 1 --memory {1024 * MIB}" in docker.asked[-1]
    docker.nodes = 2
    image.plan_of("sha256:new", two, {"SENTENCE_API_WORKERS": "1"}, docker)
    assert f"--cpus 2 --memory {2048 * MIB}" in docker.asked[-1]
    assert "--env=SENTENCE_API_WORKERS=1" in docker.asked[-1]


def test_compose_file_asks_for_nothing_else(project: Project) -> None:
    """The deployment writes every variable of the Compose file, and none has a default.

    A variable that is missing is answered with the command that writes all of them.
    """
    text = (ROOT / runners.COMPOSE_FILE).read_text(encoding="utf-8")
    asked = dict(re.findall(r"\$\{(\w+):\?([^}]+)\}", text))
    assert set(asked) == {"SENTENCE_API_IMAGE", *project.release().variables}
    assert set(asked.values()) == {"run ./deploy*.sh env > .env"}
    assert text.count("${") == len(re.findall(r"\$\{\w+:\?", text))


def test_env_is_what_compose_needs_by_hand(project: Project) -> None:
    """`env` prints the variables for the image built by hand, and writes the files they name."""
    text = container.env(project.wanted(KEYS_FILE=write_keys()), project.here)
    lines = text.splitlines()
    assert lines[0].startswith("# Written by ./deploy-production.sh")
    found = dict(line.split("=", 1) for line in lines[1:])
    assert found["COMPOSE_PROJECT_NAME"] == found["SENTENCE_API_NAME"] == "sentence-transformer-api"
    assert found["SENTENCE_API_IMAGE"] == "sha256:new"
    assert Path(found["SENTENCE_API_KEYS"]).read_text() == Path("my-keys").read_text()
    assert Path(found["SENTENCE_API_SETTINGS_FILE"]).exists()
    assert project.docker.changes() == []
    project.docker.missing = {"sentence-api:latest"}
    with pytest.raises(DeploymentFailed) as refused:
        container.env(project.wanted(), project.here)
    assert str(refused.value) == (
        "there is no image sentence-api:latest yet; build it with"
        " docker build -f Dockerfile.production-optimized -t sentence-api:latest ."
    )


def test_status_says_where_it_serves(project: Project) -> None:
    """`status` names container, address and release, and tells a server that does not answer."""
    assert container.status(project.wanted(), project.here) is False
    assert project.said == ["not running; start it with ./deploy-production.sh"]
    project.up()
    project.said.clear()
    assert container.status(project.wanted(), project.here) is True
    at = f"at http://127.0.0.1:{project.port}"
    assert project.said == [
        f"sentence-transformer-api is ready {at}",
        "sentence-transformer-api: Up 2 minutes (healthy)",
        "release 1, image sha256:new",
    ]
    project.docker.close()
    assert container.status(project.wanted(), project.here) is False
    assert project.said[3] == f"sentence-transformer-api is not ready {at}"


def test_logs_and_restart_need_a_deployment(project: Project) -> None:
    """Both refuse where nothing runs, and use the project of what runs."""
    nothing = r"not running; start it with \./deploy-production\.sh"
    with pytest.raises(DeploymentFailed, match=nothing):
        container.logs(project.here, follow=False)
    with pytest.raises(DeploymentFailed, match=nothing):
        container.restart(project.wanted(), project.here)
    project.up(NAME="mine")
    container.logs(project.here, follow=True)
    assert project.docker.asked[-1] == (
        "compose --project-name mine --file docker-compose.production.yml"
        " --env-file var/container/compose.env logs --no-log-prefix --tail 100 --follow"
    )
    container.restart(project.wanted(), project.here)
    assert "restart 0123456789ab" in project.docker.asked
    assert project.said[-1] == f"mine is ready at http://127.0.0.1:{project.port}"


def test_builds_are_equal_and_quiet(project: Project) -> None:
    """A build has no attestations, which would give each another id; its output is in a file."""
    project.up()
    assert project.docker.build_environment == {
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        "BUILDKIT_PROGRESS": "plain",
    }
    assert project.state.build_log.read_text() == "#1 [1/9] FROM base\n"
    assert [line for line in project.said if "#1" in line] == []


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        (set(), "building the image"),
        ({"sentence-api:latest"}, "building the image; the first time takes minutes"),
    ],
)
def test_minutes_are_announced_only_where_they_come(
    missing: set[str], line: str, project: Project
) -> None:
    """Only a first build takes minutes; a later one has the engine's cache."""
    project.docker.missing = missing
    container.build(project.wanted(), project.here)
    assert project.said == [line]


def test_a_build_that_fails_shows_its_end(project: Project) -> None:
    """The last lines of a failed build are shown, with its log and the ways around a download."""

    class Failing(FakeDocker):
        def stream(self, *arguments: str, environ: Mapping[str, str], on_line: Any) -> None:
            for number in range(40):
                on_line(f"line {number}")
            raise DeploymentFailed(f"docker {' '.join(arguments[:1])} failed")

    project.docker = Failing()
    with pytest.raises(DeploymentFailed) as failed:
        container.build(project.wanted(), project.here)
    assert str(failed.value).startswith(
        "docker build failed; its output is in var/container/build.log; if it could not fetch its"
        " base image or packages, see --base-image and wheelhouse in docs/"
    )
    assert project.said == ["building the image", *(f"line {n}" for n in range(10, 40))]


def test_a_long_build_shows_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of both builders are shown now and then; all output goes to the file."""
    monkeypatch.setattr(image._Progress, "SECONDS", 0.0)
    said: list[str] = []
    lines = ["#7 [runtime 2/9] RUN install", "#7 0.1 fetching", "Step 3/12 : COPY . /app"]
    with (tmp_path / "log").open("w") as file:
        progress = image._Progress(file, said.append)
        for line in lines:
            progress(line)
    assert (tmp_path / "log").read_text().splitlines() == lines
    assert said == ["  0 s: [runtime 2/9] RUN install", "  0 s: [3/12] COPY . /app"]


def test_a_wheelhouse_of_other_requirements(project: Project, folder: Path) -> None:
    """A build with an outdated wheelhouse stops before pip, with the next step."""
    lock = folder / "requirements" / "serve.txt"
    lock.parent.mkdir()
    lock.write_text("flask==1\n")
    (folder / "wheelhouse").mkdir()

    class Collecting(FakeDocker):
        def ask(self, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
            if arguments[0] == "cp":
                Path(arguments[-1], image.CHECKSUMS).write_text("0  flask-1.whl\n")
            return super().ask(*arguments, environ=environ)

    def build() -> str:
        return image.build(("build", "."), docker, folder / "log", project.said.append)

    docker = Collecting()
    assert image.collect_wheels(Options(), docker) == 1
    build()
    lock.write_text("flask==2\n")
    with pytest.raises(DeploymentFailed, match=r"deploy-production\.sh wheelhouse again"):
        build()
    # An older version left no record of its requirements.
    (folder / "wheelhouse" / image.COLLECTED_FOR).unlink()
    build()
