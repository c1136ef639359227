"""Plan of this machine and these settings, from host, manifest and formula."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sentence_api.engine.artifact import Manifest, artifact_path, read_manifest
from sentence_api.engine.loader import resolve_precision
from sentence_api.resources.footprint import REFERENCE, Footprint
from sentence_api.resources.formula import DEFAULT_MAX_TOKENS, make_plan
from sentence_api.resources.host import read_host
from sentence_api.resources.plan import Machine, Overrides, Plan
from sentence_api.resources.sizes import parse_size
from sentence_api.settings import DEFAULT_MODEL, Settings

# Time for a server to stop, on top of its workers' time to finish requests: signals, the master's
# own end, a busy machine.
STOP_MARGIN_SECONDS = 10


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """Inputs of a plan: a machine, and a model with its memory if known.

    Attributes:
        machine: CPUs and memory.
        footprint: The model's memory, or None when it is unknown.
        max_tokens: Longest text the model reads.
        sources: Sources of CPUs, memory and footprint, for a person.
    """

    machine: Machine
    footprint: Footprint | None
    max_tokens: int
    sources: dict[str, str]


def plan_for(settings: Settings) -> Plan:
    """Return the plan that a server with these settings follows on this machine.

    Raises:
        StartupError: A size cannot be read, or not even one worker fits.
    """
    return plan_subject(find_subject(settings), settings)


def plan_subject(subject: PlanInputs, settings: Settings) -> Plan:
    """Return the plan for `subject` with the numbers that `settings` overrides.

    Raises:
        DoesNotFit: Not even one worker fits.
    """
    given = {field.name: getattr(settings, field.name) for field in fields(Overrides)}
    return make_plan(
        subject.machine,
        subject.footprint,
        max_tokens=subject.max_tokens,
        overrides=Overrides(**given),
    )


def find_subject(settings: Settings) -> PlanInputs:
    """Read the machine and the manifest; a memory size in the settings counts as a whole machine.

    Raises:
        StartupError: A size cannot be read, or the manifest is damaged.
    """
    host = read_host()
    memory = parse_size(settings.memory) if settings.memory else host.memory_bytes
    machine = Machine(
        cpus=settings.cpus or host.cpus,
        memory_bytes=memory,
        contained=host.contained and settings.memory is None,
    )
    sources = {
        "cpus": "as set" if settings.cpus else host.cpu_source,
        "memory": "as set" if settings.memory else host.memory_source,
    }
    manifest = _manifest(settings)
    if manifest is not None:
        precision = resolve_precision(settings.engine, settings.precision, manifest)
        sources["footprint"] = f"measured at export, {precision}"
        return PlanInputs(machine, manifest.footprint(precision), manifest.max_tokens, sources)
    if settings.model == DEFAULT_MODEL and settings.engine == "openvino":
        sources["footprint"] = "reference of the bundled model; it is not exported here yet"
        return PlanInputs(machine, REFERENCE, DEFAULT_MAX_TOKENS, sources)
    sources["footprint"] = "unknown; the model is not exported here yet"
    return PlanInputs(machine, None, DEFAULT_MAX_TOKENS, sources)


def _manifest(settings: Settings) -> Manifest | None:
    """Return the manifest of the artifact, or None if there is no artifact."""
    path = artifact_path(settings)
    return read_manifest(path) if path.exists() else None


def plan_figures(plan: Plan, settings: Settings) -> dict[str, int | float | str]:
    """Return the figures that a deployment needs before it starts a container, for JSON."""
    return plan.as_dict() | {"stop_grace_seconds": stop_grace(settings)}


def stop_grace(settings: Settings) -> int:
    """Return the seconds after which a server that was asked to stop may be killed."""
    return settings.graceful_timeout + STOP_MARGIN_SECONDS
