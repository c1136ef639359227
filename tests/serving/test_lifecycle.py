import time

import pytest

from sentence_api.errors import Draining, NotReady, ServiceError
from sentence_api.serving.lifecycle import Lifecycle, State

LOADING = "the model is loading; try again shortly"
FAILED = "the model cannot be used; see /model-status"
STOPPING = "this worker is finishing its last requests"


def answer(lifecycle: Lifecycle, question: str) -> tuple[type[ServiceError], str] | None:
    """Return the class and the message of the refusal, or None."""
    try:
        getattr(lifecycle, question)()
    except ServiceError as exc:
        return type(exc), exc.message
    return None


@pytest.mark.parametrize(
    ("verified", "error", "draining", "state", "ready", "accepting"),
    [
        (False, None, False, State.STARTING, (NotReady, LOADING), (NotReady, LOADING)),
        (True, None, False, State.HEALTHY, None, None),
        (False, "broken", False, State.UNHEALTHY, (NotReady, FAILED), (NotReady, FAILED)),
        (True, "broken", False, State.UNHEALTHY, (NotReady, FAILED), (NotReady, FAILED)),
        # A draining process still answers arriving requests, but wants no new clients.
        (True, None, True, State.DRAINING, None, (Draining, STOPPING)),
        (False, None, True, State.DRAINING, (NotReady, LOADING), (Draining, STOPPING)),
        (False, "broken", True, State.DRAINING, (NotReady, FAILED), (Draining, STOPPING)),
    ],
)
def test_states(  # noqa: PLR0917 - a table's columns
    verified: bool,
    error: str | None,
    draining: bool,
    state: State,
    ready: tuple[type[ServiceError], str] | None,
    accepting: tuple[type[ServiceError], str] | None,
) -> None:
    """Draining precedes failure, failure precedes the other states, then the canary."""
    lifecycle = Lifecycle()
    lifecycle.serving(lambda: draining, lambda: None)
    lifecycle.loaded()
    if verified:
        lifecycle.verified()
    if error:
        lifecycle.failed(error)
    found = (
        lifecycle.state,
        answer(lifecycle, "require_ready"),
        answer(lifecycle, "require_accepting"),
    )
    assert found == (state, ready, accepting)


def test_a_new_process_is_starting() -> None:
    """Loaded weights are not enough for healthy: the canary has to pass in this process."""
    lifecycle = Lifecycle()
    assert (lifecycle.is_loaded, lifecycle.is_verified, lifecycle.error) == (False, False, None)
    lifecycle.loaded()
    assert (lifecycle.is_loaded, lifecycle.state) == (True, State.STARTING)


def test_a_model_may_come_back() -> None:
    """A failure lasts until loading begins again; unloading is no failure."""
    lifecycle = Lifecycle()
    lifecycle.loaded()
    lifecycle.failed("no memory")
    assert (lifecycle.is_loaded, lifecycle.state, lifecycle.error) == (
        True,
        State.UNHEALTHY,
        "no memory",
    )
    lifecycle.loading()
    assert (lifecycle.is_loaded, lifecycle.is_loading, lifecycle.error) == (False, True, None)
    lifecycle.loaded()
    lifecycle.verified()
    assert (lifecycle.state, lifecycle.is_verified) == (State.HEALTHY, True)
    lifecycle.unloaded()
    assert (lifecycle.is_loaded, lifecycle.is_verified, lifecycle.error) == (False, False, None)


def test_draining_is_asked_each_time() -> None:
    """The process may be asked to stop at any moment, so the state is never cached."""
    asked = [False, True]
    lifecycle = Lifecycle()
    lifecycle.serving(lambda: asked.pop(0), lambda: None)
    lifecycle.verified()
    assert [lifecycle.state, lifecycle.state] == [State.HEALTHY, State.DRAINING]


def test_states_are_named_as_health_names_them() -> None:
    """The states are the words of the HTTP API."""
    assert [str(state) for state in State] == ["starting", "healthy", "unhealthy", "draining"]


def test_repeated_faults_are_reported_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three failed passes within a minute are unhealthy; work is still accepted."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lifecycle = Lifecycle()
    lifecycle.verified()
    for seconds, state in ((0, State.HEALTHY), (50, State.HEALTHY), (5, State.UNHEALTHY)):
        now[0] += seconds
        lifecycle.pass_failed(True)
        assert lifecycle.state is state
        lifecycle.require_accepting()
    assert lifecycle.error == "3 forward passes failed within 60 s"
    now[0] += 6
    assert (lifecycle.state, lifecycle.error) == (State.HEALTHY, None)


def test_a_process_without_its_canary_gives_up() -> None:
    """A process whose canary fails refuses requests, gives the reason, and ends itself."""
    ended: list[None] = []
    lifecycle = Lifecycle()
    lifecycle.serving(lambda: False, lambda: ended.append(None))
    lifecycle.verified()
    lifecycle.pass_failed(False)
    assert (lifecycle.state, len(ended)) == (State.UNHEALTHY, 1)
    assert lifecycle.error == "the model no longer gives its reference vector"
    assert answer(lifecycle, "require_ready") == (NotReady, FAILED)
