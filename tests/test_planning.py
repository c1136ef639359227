from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from sentence_api.engine.artifact import MANIFEST, Canary, Manifest, require_engine
from sentence_api.errors import (
    ArtifactInvalid,
    DoesNotFit,
    InvalidSetting,
    InvalidSize,
    StartupError,
    one_line_exit,
)
from sentence_api.planning import PlanInputs, find_subject, plan_for, plan_subject
from sentence_api.resources.footprint import REFERENCE, Footprint
from sentence_api.resources.formula import make_plan
from sentence_api.resources.host import read_host
from sentence_api.resources.plan import Machine, Overrides
from sentence_api.resources.sizes import GIB, MIB
from sentence_api.settings import Settings, read_settings

FLOAT32 = Footprint(base_bytes=300 * MIB, worker_bytes=40 * MIB, token_bytes=30_000)
BFLOAT16 = Footprint(base_bytes=200 * MIB, worker_bytes=20 * MIB, token_bytes=20_000)
TINY = Manifest(
    model="tiny",
    source="folder:tiny",
    revision=None,
    engine="openvino",
    dimensions=2,
    max_tokens=128,
    pooling="mean",
    normalizes=True,
    pad_token_id=0,
    prompts={},
    default_prompt=None,
    canary=Canary(text="a", vector=(1.0, 0.0)),
    files={},
    accuracy={},
    footprints={"float32": FLOAT32, "bfloat16": BFLOAT16},
    versions={},
    created="2026-01-01T00:00:00+00:00",
)


def settings(tmp_path: Path, **given: Any) -> Settings:
    """Return settings for a machine of 4 CPUs and 8 GiB without an artifact."""
    defaults = {
        "cpus": 4,
        "memory": "8G",
        "artifact": tmp_path / "artifact",
        "precision": "float32",
    }
    return Settings.model_validate({**defaults, **given})


def export(tmp_path: Path, **changes: Any) -> None:
    """Write an artifact with only a manifest, which is all that planning reads."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / MANIFEST).write_text(TINY.model_copy(update=changes).model_dump_json())


def test_this_machine(tmp_path: Path) -> None:
    """Without sizes in the settings the machine is that of this process."""
    host = read_host()
    subject = find_subject(settings(tmp_path, cpus=None, memory=None))
    assert subject.machine == Machine(host.cpus, host.memory_bytes, host.contained)
    assert subject.sources["cpus"] == host.cpu_source
    assert subject.sources["memory"] == host.memory_source


def test_a_size_stands_for_a_whole_machine(tmp_path: Path) -> None:
    """Sizes in the settings describe a whole machine with a reserve, not a container."""
    subject = find_subject(settings(tmp_path, cpus=2.5, memory="1.5G"))
    assert subject.machine == Machine(2.5, 3 * GIB // 2, contained=False)
    assert (subject.sources["cpus"], subject.sources["memory"]) == ("as set", "as set")


def test_a_measured_model(tmp_path: Path) -> None:
    """The manifest gives the footprint of the serving precision."""
    export(tmp_path)
    sizes = {"cpus": "as set", "memory": "as set"}
    for precision, footprint in (("float32", FLOAT32), ("bfloat16", BFLOAT16)):
        sources = {**sizes, "footprint": f"measured at export, {precision}"}
        expected = PlanInputs(Machine(4, 8 * GIB), footprint, 128, sources)
        assert find_subject(settings(tmp_path, precision=precision)) == expected


def test_a_precision_that_was_not_measured(tmp_path: Path) -> None:
    """float32 is the upper bound for a precision that the exporting machine could not measure."""
    export(tmp_path, footprints={"float32": FLOAT32})
    assert find_subject(settings(tmp_path, precision="bfloat16")).footprint == FLOAT32


@pytest.mark.parametrize(
    ("given", "footprint", "source"),
    [
        ({}, REFERENCE, "reference of the bundled model; it is not exported here yet"),
        ({"model": "org/other"}, None, "unknown; the model is not exported here yet"),
        ({"engine": "torch"}, None, "unknown; the model is not exported here yet"),
    ],
    ids=["bundled", "other model", "other engine"],
)
def test_a_model_that_is_not_exported(
    given: dict[str, str], footprint: Footprint | None, source: str, tmp_path: Path
) -> None:
    """Only the bundled model in its default engine can be planned before its export."""
    sources = {"cpus": "as set", "memory": "as set", "footprint": source}
    expected = PlanInputs(Machine(4, 8 * GIB), footprint, 256, sources)
    assert find_subject(settings(tmp_path, **given)) == expected


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff"])
def test_a_damaged_manifest(content: bytes, tmp_path: Path) -> None:
    """An unreadable manifest stops the plan: a guess could be too small."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactInvalid, match=r"^cannot read .*manifest\.json: [^\n]+$"):
        find_subject(settings(tmp_path))


def test_an_artifact_without_a_manifest(tmp_path: Path) -> None:
    """A folder that is not an artifact is refused as such."""
    (tmp_path / "artifact").mkdir()
    with pytest.raises(ArtifactInvalid, match=r"^no model at .*artifact; make one with: "):
        find_subject(settings(tmp_path))


@pytest.mark.parametrize("memory", ["8X", "-1", "0", "nan"])
def test_junk_sizes(memory: str, tmp_path: Path) -> None:
    """An invalid size stops the plan with one line."""
    with pytest.raises(InvalidSize, match=f"^'{memory}' is not a size; "):
        plan_for(settings(tmp_path, memory=memory))


def test_every_override_is_a_setting(tmp_path: Path) -> None:
    """Each number that a user may set reaches the formula."""
    subject = find_subject(settings(tmp_path))
    assert {field.name for field in fields(Overrides)} <= set(Settings.model_fields)
    numbers = {
        "workers": 2,
        "max_workers": 3,
        "threads": 5,
        "max_batch_items": 7,
        "max_batch_tokens": 1111,
        "max_request_items": 13,
        "max_concurrent_requests": 17,
        "max_queue_tokens": 1919,
        "max_body_bytes": 9_000_000,
        "cache_mb": 21,
    }
    assert set(numbers) == {field.name for field in fields(Overrides)}
    for name, value in numbers.items():
        expected = make_plan(
            subject.machine, subject.footprint, overrides=Overrides(**{name: value})
        )
        assert expected != make_plan(subject.machine, subject.footprint)
        assert plan_subject(subject, settings(tmp_path, **{name: value})) == expected


def test_the_longest_text_reaches_the_plan(tmp_path: Path) -> None:
    """A model with a larger maximum gets passes that hold its longest text."""
    subject = replace(find_subject(settings(tmp_path)), max_tokens=2048)
    assert plan_subject(subject, settings(tmp_path)).max_batch_tokens == 2048


def test_the_plan_for_some_settings(tmp_path: Path) -> None:
    """The plan combines the machine, the manifest and the overrides."""
    export(tmp_path)
    expected = make_plan(
        Machine(4, 8 * GIB), FLOAT32, max_tokens=128, overrides=Overrides(workers=2)
    )
    assert plan_for(settings(tmp_path, workers=2)) == expected


def test_where_nothing_fits(tmp_path: Path) -> None:
    """A machine that is too small is refused with the missing memory."""
    with pytest.raises(DoesNotFit, match=r"^one worker needs .* is there: .* missing$"):
        plan_for(settings(tmp_path, memory="64M"))


def test_an_artifact_of_another_engine(tmp_path: Path) -> None:
    """An artifact serves only the engine that it was exported for."""
    torch = TINY.model_copy(update={"engine": "torch"})
    require_engine(settings(tmp_path), TINY)
    require_engine(settings(tmp_path, engine="torch"), torch)
    with pytest.raises(ArtifactInvalid) as caught:
        require_engine(settings(tmp_path), torch)
    assert str(caught.value) == (
        f"{tmp_path}/artifact was exported for the torch engine, ENGINE is openvino;"
        " export it again"
    )


@pytest.mark.parametrize("error", [DoesNotFit, InvalidSetting, ArtifactInvalid])
def test_a_start_that_fails(error: type[StartupError], capsys: pytest.CaptureFixture[str]) -> None:
    """A `StartupError` becomes one line and an exit status, 1 by default."""
    with pytest.raises(SystemExit) as plain, one_line_exit():
        raise error("what happened")
    assert (plain.value.code, *capsys.readouterr()) == (1, "", "sentence-api: what happened\n")
    with pytest.raises(SystemExit) as chosen, one_line_exit(3):
        raise error("what happened")
    assert (chosen.value.code, *capsys.readouterr()) == (3, "", "sentence-api: what happened\n")


def test_a_fault_is_not_hidden() -> None:
    """Any other exception than a `StartupError` keeps its traceback."""
    with pytest.raises(KeyError), one_line_exit():
        raise KeyError
    with one_line_exit():
        pass


def test_sizes_from_the_environment(tmp_path: Path) -> None:
    """From variables to plan: 8G and 3 CPUs without a footprint give three workers."""
    plan = plan_for(
        read_settings(
            {
                "SENTENCE_API_CPUS": "3",
                "SENTENCE_API_MEMORY": "8G",
                "SENTENCE_TRANSFORMER_MODEL": "org/other",
                "SENTENCE_API_ARTIFACT": str(tmp_path / "none"),
            }
        )
    )
    assert (plan.workers, plan.memory_limit_bytes, plan.cpu_limit) == (3, 6 * GIB, 2.5)
