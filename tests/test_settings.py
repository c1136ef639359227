from pathlib import Path

import pytest
from pydantic import ValidationError

from sentence_api.errors import InvalidSetting
from sentence_api.settings import PREFIX, Settings, names_of, read_settings

DEFAULTS = {
    "model": "all-MiniLM-L6-v2",
    "model_revision": None,
    "artifact": None,
    "engine": "openvino",
    "precision": "auto",
    "device": "auto",
    "force_cpu": False,
    "host": "127.0.0.1",
    "port": 5001,
    "keys_file": None,
    "cpus": None,
    "memory": None,
    "workers": None,
    "max_workers": None,
    "threads": None,
    "max_batch_items": None,
    "max_batch_tokens": None,
    "max_request_items": None,
    "max_concurrent_requests": None,
    "max_queue_tokens": None,
    "max_body_bytes": 2 * 1024 * 1024,
    "cache_mb": 0,
    "request_timeout": 30.0,
    "body_timeout": 10.0,
    "keepalive": 5,
    "worker_timeout": 30,
    "graceful_timeout": 25,
    "max_requests": 0,
    "collect_every": 1,
    "recycle": True,
    "recycle_min_age": 720,
    "log_level": "info",
    "access_log": False,
    "log_file": None,
    "history": Path("var/history"),
    "history_seconds": 10.0,
    "status_window": 60.0,
    "settling_seconds": 60.0,
    "memory_warning": 70.0,
    "memory_critical": 85.0,
    "cpu_warning": 80.0,
    "cpu_critical": 95.0,
    "latency_warning": 2.0,
    "latency_critical": 5.0,
    "restarts_warning": 5.0,
    "restarts_critical": 20.0,
    "throttled_warning": 25.0,
    "throttled_critical": 50.0,
    "queue_warning": 50.0,
    "queue_critical": 90.0,
    "rejected_warning": 1.0,
    "rejected_critical": 10.0,
    "errors_warning": 1.0,
    "errors_critical": 5.0,
}
SHORT_NAMES = {
    "SENTENCE_TRANSFORMER_MODEL": ("model", "some/model", "some/model"),
    "ENGINE": ("engine", "torch", "torch"),
    "PRECISION": ("precision", "float32", "float32"),
    "DEVICE": ("device", "cpu", "cpu"),
    "FORCE_CPU": ("force_cpu", "1", True),
    "PORT": ("port", "8080", 8080),
    "WEB_CONCURRENCY": ("workers", "3", 3),
    "MAX_WORKERS": ("max_workers", "4", 4),
    "MAX_BATCH_ITEMS": ("max_batch_items", "32", 32),
    "MAX_BATCH_TOKENS": ("max_batch_tokens", "2048", 2048),
    "MAX_REQUEST_ITEMS": ("max_request_items", "100", 100),
    "MAX_CONCURRENT_REQUESTS": ("max_concurrent_requests", "50", 50),
    "MAX_BODY_BYTES": ("max_body_bytes", "4096", 4096),
    "MAX_REQUESTS": ("max_requests", "1000", 1000),
    "LOG_LEVEL": ("log_level", "debug", "debug"),
}
# Each limit of each number: a value one step outside is refused, the limit itself is not.
BOUNDS = {
    "port": (1, 65535),
    "workers": (1, 256),
    "max_workers": (1, 256),
    "threads": (1, 256),
    "max_batch_items": (1, 4096),
    "max_batch_tokens": (16, 1_048_576),
    "max_request_items": (1, 65_536),
    "max_concurrent_requests": (1, 65_536),
    "max_queue_tokens": (16, None),
    "max_body_bytes": (1024, 1 << 30),
    "cache_mb": (0, 65_536),
    "keepalive": (1, 3600),
    "worker_timeout": (2, 3600),
    "graceful_timeout": (1, 3600),
    "max_requests": (0, None),
    "collect_every": (0, None),
    "recycle_min_age": (0, None),
    "history_seconds": (0, 3600),
    "status_window": (1, 3600),
    "settling_seconds": (0, 3600),
    "memory_critical": (1, 100),
}


def test_defaults() -> None:
    """An empty environment gives exactly the documented defaults."""
    assert read_settings({}).model_dump() == DEFAULTS


@pytest.mark.parametrize("name", sorted(SHORT_NAMES))
def test_short_names(name: str) -> None:
    """The short names set the same fields as the long names, and only those."""
    field, text, value = SHORT_NAMES[name]
    assert read_settings({name: text}).model_dump() == {**DEFAULTS, field: value}
    assert read_settings({PREFIX + field.upper(): text}).model_dump() == {**DEFAULTS, field: value}


def test_names_of_each_field() -> None:
    """Each field has its long name and exactly the listed short names."""
    names = {field: names_of(field) for field in Settings.model_fields}
    short = {field: name for name, (field, _, _) in SHORT_NAMES.items()}
    assert names == {
        field: [f"SENTENCE_API_{field.upper()}", *([short[field]] if field in short else [])]
        for field in DEFAULTS
    }


def test_values_are_converted() -> None:
    """Text becomes the type of its field."""
    settings = read_settings(
        {
            "SENTENCE_API_ARTIFACT": "some/folder",
            "SENTENCE_API_CPUS": "2.5",
            "SENTENCE_API_MEMORY": "8G",
            "SENTENCE_API_RECYCLE": "false",
            "SENTENCE_API_ACCESS_LOG": "yes",
            "SENTENCE_API_REQUEST_TIMEOUT": "0.25",
        }
    )
    assert settings.model_dump() == {
        **DEFAULTS,
        "artifact": Path("some/folder"),
        "cpus": 2.5,
        "memory": "8G",
        "recycle": False,
        "access_log": True,
        "request_timeout": 0.25,
    }


def test_the_long_name_wins() -> None:
    """If both names are set, the long name counts."""
    assert read_settings({"PORT": "1", "SENTENCE_API_PORT": "2"}).port == 2


def test_an_empty_value_is_not_set() -> None:
    """`PORT=` in an environment file means the default, and does not hide the other name."""
    assert read_settings({"PORT": ""}) == read_settings({})
    assert read_settings({"SENTENCE_API_PORT": "", "PORT": "2"}).port == 2


def test_foreign_variables_are_left_alone() -> None:
    """Only our own prefix is checked; `PORTS` and `PATH` belong to other programs."""
    assert read_settings({"PATH": "/bin", "PORTS": "x", "SENTENCE": "x"}) == read_settings({})


@pytest.mark.parametrize("name", ["SENTENCE_API_PROT", "SENTENCE_API_", "SENTENCE_API_port"])
def test_an_unknown_variable_stops_the_start(name: str) -> None:
    """A misspelt setting is named, not ignored, whatever its value."""
    for value in ("1", ""):
        with pytest.raises(InvalidSetting) as caught:
            read_settings({name: value})
        assert str(caught.value) == f"unknown setting {name}; docs/configuration.md lists them all"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("PORT", "http", "PORT='http': input should be a valid integer,"),
        ("SENTENCE_API_PORT", "0", "SENTENCE_API_PORT='0': input should be greater than or equal"),
        ("PORT", "1\n2", "PORT='1\\n2': input should be a valid integer"),
        ("ENGINE", "onnx", "ENGINE='onnx': input should be 'openvino' or 'torch'"),
        ("DEVICE", "cuda", "DEVICE='cuda': input should be 'auto' or 'cpu'"),
        ("FORCE_CPU", "maybe", "FORCE_CPU='maybe': input should be a valid boolean,"),
        ("SENTENCE_API_CPUS", "0", "SENTENCE_API_CPUS='0': input should be greater than 0"),
        ("SENTENCE_API_CPUS", "nan", "SENTENCE_API_CPUS='nan': input should be "),
        ("SENTENCE_API_CPUS", "inf", "SENTENCE_API_CPUS='inf': input should be "),
        ("SENTENCE_API_BODY_TIMEOUT", "nan", "SENTENCE_API_BODY_TIMEOUT='nan': input should be "),
        ("SENTENCE_API_BODY_TIMEOUT", "inf", "SENTENCE_API_BODY_TIMEOUT='inf': input should be "),
        ("SENTENCE_API_KEEPALIVE", "2.5", "SENTENCE_API_KEEPALIVE='2.5': input should be "),
    ],
)
def test_a_bad_value_stops_the_start(name: str, value: str, line: str) -> None:
    """The error line names the variable as it was set, its value, and the valid form."""
    with pytest.raises(InvalidSetting) as caught:
        read_settings({name: value})
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", sorted(BOUNDS))
def test_ranges(field: str) -> None:
    """Each number is accepted up to its limits and refused beyond them."""
    least, most = BOUNDS[field]
    name = PREFIX + field.upper()
    assert getattr(read_settings({name: str(least)}), field) == least
    refused = [least - 1]
    if most is not None:
        assert getattr(read_settings({name: str(most)}), field) == most
        refused.append(most + 1)
    for value in refused:
        with pytest.raises(InvalidSetting, match=name):
            read_settings({name: str(value)})


def test_settings_are_frozen() -> None:
    """No setting changes after the start, and no field can be added."""
    settings = read_settings({})
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Settings.model_validate({"prot": 1})


def test_every_setting_has_help() -> None:
    """Each field has a help sentence, from which the documentation is generated."""
    lacking = [
        name
        for name, field in Settings.model_fields.items()
        if not (field.description or "").endswith(".")
    ]
    assert lacking == []
