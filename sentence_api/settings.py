"""Settings: one frozen object, read once from the environment.

Each field can be set as `SENTENCE_API_<FIELD>`; the short names listed with a field work too.
`docs/configuration.md` is generated from this class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sentence_api.errors import InvalidSetting

PREFIX = "SENTENCE_API_"
DEFAULT_MODEL = "all-MiniLM-L6-v2"

Engine = Literal["openvino", "torch"]
Precision = Literal["auto", "float32", "bfloat16"]


def _field(default: Any, help_text: str, *names: str, **limits: Any) -> Any:
    """Declare a setting that `SENTENCE_API_<FIELD>` or any of `names` can set."""
    return Field(default, description=help_text, json_schema_extra={"names": list(names)}, **limits)


def _percent(default: float, help_text: str) -> Any:
    """Declare a threshold in percent."""
    return _field(float(default), help_text, gt=0, le=100)


class Settings(BaseModel):
    """Settings of the service, given by the environment. None means: not set."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    model: str = _field(
        DEFAULT_MODEL,
        "Model to serve: the bundled default, a local sentence-transformers folder or a hub id.",
        "SENTENCE_TRANSFORMER_MODEL",
        min_length=1,
    )
    model_revision: str | None = _field(None, "Revision of a hub id; fetched at export only.")
    artifact: Path | None = _field(
        None, "Folder of the exported model; by default var/artifacts/<model>-<engine>."
    )
    engine: Engine = _field("openvino", "What computes the vectors.", "ENGINE")
    precision: Precision = _field(
        "auto", "auto is bfloat16 where the CPU computes in it, else float32.", "PRECISION"
    )
    device: Literal["auto", "cpu"] = _field("auto", "Device of the torch engine.", "DEVICE")
    force_cpu: bool = _field(False, "Same as DEVICE=cpu.", "FORCE_CPU")

    host: str = _field("127.0.0.1", "Address to listen on.", min_length=1)
    port: int = _field(5001, "Port to listen on.", "PORT", ge=1, le=65535)

    keys_file: Path | None = _field(
        None,
        "File of API keys, one a line; the query calls then need Authorization: Bearer"
        " KEY. Read again on SIGHUP.",
    )

    cpus: float | None = _field(None, "CPUs to plan for instead of what is found.", gt=0)
    memory: str | None = _field(None, "Memory to plan for instead of what is found, as 8G.")
    workers: int | None = _field(
        None, "Worker processes, exactly this many.", "WEB_CONCURRENCY", ge=1, le=256
    )
    max_workers: int | None = _field(
        None, "Worker processes, at most this many.", "MAX_WORKERS", ge=1, le=256
    )
    threads: int | None = _field(None, "Inference threads per worker.", ge=1, le=256)
    max_batch_items: int | None = _field(
        None, "Texts per forward pass.", "MAX_BATCH_ITEMS", ge=1, le=4096
    )
    max_batch_tokens: int | None = _field(
        None, "Padded tokens per forward pass.", "MAX_BATCH_TOKENS", ge=16, le=1_048_576
    )
    max_request_items: int | None = _field(
        None, "Texts per request; more are refused.", "MAX_REQUEST_ITEMS", ge=1, le=65_536
    )
    max_concurrent_requests: int | None = _field(
        None, "Open connections per worker.", "MAX_CONCURRENT_REQUESTS", ge=1, le=65_536
    )
    max_queue_tokens: int | None = _field(
        None, "Tokens that may wait in a worker before it answers 429.", ge=16
    )
    max_body_bytes: int = _field(
        2 * 1024 * 1024, "Largest request body in bytes.", "MAX_BODY_BYTES", ge=1024, le=1 << 30
    )

    cache_mb: int = _field(
        0,
        "MiB in each worker for the vectors of recent texts, with the texts; 0 keeps none.",
        ge=0,
        le=65_536,
    )

    request_timeout: float = _field(
        30.0, "Seconds a request may wait for its vectors.", gt=0, le=3600
    )
    body_timeout: float = _field(
        10.0, "Seconds a client has to send its body, and to take its answer.", gt=0, le=3600
    )
    keepalive: int = _field(
        5, "Seconds an idle connection, or one still sending its headers, is kept.", ge=1, le=3600
    )
    worker_timeout: int = _field(
        30, "Seconds without a heartbeat after which a worker is replaced.", ge=2, le=3600
    )
    graceful_timeout: int = _field(
        25, "Seconds a stopping worker has to finish its requests.", ge=1, le=3600
    )
    max_requests: int = _field(
        0, "Requests after which a worker is replaced; 0 is never.", "MAX_REQUESTS", ge=0
    )
    collect_every: int = _field(
        1, "Force a garbage collection after this many requests; 0 is never.", ge=0
    )
    recycle: bool = _field(True, "Replace a worker whose private memory passes the watermark.")
    recycle_min_age: int = _field(
        720, "Seconds a worker serves before it may be replaced for its memory.", ge=0
    )
    log_level: Literal["debug", "info", "warning", "error"] = _field(
        "info", "Least severe level that is logged.", "LOG_LEVEL"
    )
    access_log: bool = _field(False, "Log a line per request.")
    log_file: Path | None = _field(
        None, "File that stderr goes to; the server moves its content away when it is 10 MiB long."
    )

    history: Path = _field(
        Path("var/history"), "Folder of the history that check, monitor and report read."
    )
    history_seconds: float = _field(
        10.0, "Seconds between two samples of the history; 0 keeps none.", ge=0, le=3600
    )
    status_window: float = _field(
        60.0, "Seconds that the rates and shares of /status are over.", ge=1, le=3600
    )
    settling_seconds: float = _field(
        60.0,
        "Seconds after a start in which load is shown but not judged: loading, warm-up and the"
        " deployment's own tests.",
        ge=0,
        le=3600,
    )
    memory_warning: float = _percent(70, "Working set in percent of the limit: warning from here.")
    memory_critical: float = _percent(85, "The same: critical above this.")
    cpu_warning: float = _percent(80, "CPU time in percent of the quota: warning from here.")
    cpu_critical: float = _percent(95, "The same: critical above this.")
    latency_warning: float = _field(
        2.0, "95th percentile of response times in seconds: warning from here.", gt=0
    )
    latency_critical: float = _field(5.0, "The same: critical above this.", gt=0)
    restarts_warning: float = _field(
        5.0, "Unplanned worker restarts in an hour: warning from here.", gt=0
    )
    restarts_critical: float = _field(20.0, "The same: critical above this.", gt=0)
    throttled_warning: float = _percent(
        25, "Scheduler periods in which the quota ran out, in percent: warning from here."
    )
    throttled_critical: float = _percent(50, "The same: critical above this.")
    queue_warning: float = _percent(50, "Fullness of a queue in percent: warning from here.")
    queue_critical: float = _percent(90, "The same: critical above this.")
    rejected_warning: float = _percent(
        1, "Requests refused for load, in percent: warning from here."
    )
    rejected_critical: float = _percent(10, "The same: critical above this.")
    errors_warning: float = _percent(
        1, "Answers with a status from 500 up, in percent: warning from here."
    )
    errors_critical: float = _percent(5, "The same: critical above this.")


def names_of(field: str) -> list[str]:
    """Return the environment variables that set `field`, the long name first."""
    extra = cast(dict[str, list[str]], Settings.model_fields[field].json_schema_extra)
    return [PREFIX + field.upper(), *extra["names"]]


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings that `environ` gives; an empty value counts as not set.

    Raises:
        InvalidSetting: A value is out of range, or a `SENTENCE_API_*` variable is unknown.
    """
    variables = {name: field for field in Settings.model_fields for name in names_of(field)}
    for name in environ:
        if name.startswith(PREFIX) and name not in variables:
            raise InvalidSetting(f"unknown setting {name}; docs/configuration.md lists them all")
    given: dict[str, str] = {}
    for name, field in variables.items():
        if environ.get(name):
            given.setdefault(field, environ[name])
    try:
        return Settings.model_validate(given)
    except ValidationError as exc:
        raise InvalidSetting(_one_line(exc, environ)) from exc


def _one_line(exc: ValidationError, environ: Mapping[str, str]) -> str:
    """Return the first bad variable, its value and the reason, in one line."""
    error = exc.errors()[0]
    names = names_of(str(error["loc"][0]))
    name = next((name for name in names if environ.get(name)), names[0])
    return f"{name}={error['input']!r}: {error['msg'].lower()}"
