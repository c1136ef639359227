"""gunicorn's settings, taken from the plan, and the hooks around its forks.

Start with: gunicorn -c gunicorn-production.conf.py
"""

# Before any other import: patching later leaves shutdown errors from threading.
from gevent import monkey

monkey.patch_all()

import os
import socket
from typing import Any

from gunicorn.arbiter import Arbiter

from sentence_api.errors import one_line_exit
from sentence_api.http.body import BODY_READ
from sentence_api.planning import plan_for
from sentence_api.resources.formula import (
    HEADER_FIELD_BYTES,
    HEADER_FIELDS,
    SEND_BUFFER_BYTES,
)
from sentence_api.resources.process import offer_to_oom_killer
from sentence_api.server.draining import exit_as_stopped, refuse_before_stop
from sentence_api.server.logs import log_to_stderr
from sentence_api.server.shared import shared_folder
from sentence_api.server.worker import discard_body
from sentence_api.settings import read_settings

with one_line_exit():
    settings = read_settings(os.environ)
    plan = plan_for(settings)

_memory_disk = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared_folder(_memory_disk))
# A parallel tokenizer's threads do not survive the fork; serving never asks a model hub.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

wsgi_app = "api:app_or_exit()"
bind = f"{settings.host}:{settings.port}"
workers = plan.workers
worker_class = "sentence_api.server.worker.Worker"
worker_connections = plan.max_concurrent_requests
preload_app = True
timeout = settings.worker_timeout
graceful_timeout = settings.graceful_timeout
keepalive = settings.keepalive
limit_request_fields = HEADER_FIELDS
limit_request_field_size = HEADER_FIELD_BYTES
# No response depends on a proxy's headers, so none are honoured; "*" saves the check of each
# request's sender.
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}
forwarded_allow_ips = "*"
max_requests = settings.max_requests
max_requests_jitter = settings.max_requests // 10
worker_tmp_dir = _memory_disk
# On by default in gunicorn 27; nothing here uses it.
control_socket_disable = True
logger_class = "sentence_api.server.logs.Logger"
accesslog = "-" if settings.access_log else None
loglevel = settings.log_level
log_to_stderr(settings.log_level)


def _processes(application: Any) -> Any:
    return application.wsgi().processes


def when_ready(server: Any) -> None:
    """Limit the kernel's buffers for clients that do not read, and prepare for the stop."""
    # Each connection inherits both from its listener.
    patience = int(settings.request_timeout * 1000)
    for listener in server.LISTENERS:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
    refuse_before_stop(server)
    exit_as_stopped(server)
    _processes(server.app).server_starts()


def pre_fork(server: Any, worker: Any) -> None:
    """Give the new worker a slot that no living worker holds."""
    taken = [other.slot for other in server.WORKERS.values()]
    worker.slot = _processes(server.app).before_fork(taken)


def on_reload(server: Any) -> None:
    """Read the API keys again on SIGHUP, before the new workers are forked."""
    _processes(server.app).server_reloads()


def post_worker_init(worker: Any) -> None:
    """Warm up and verify the model before the first connection is accepted."""
    offer_to_oom_killer()

    def retire() -> None:
        worker.alive = False

    # gunicorn gives up at this status instead of starting worker after worker.
    with one_line_exit(Arbiter.WORKER_BOOT_ERROR):
        _processes(worker.app).start_worker(worker.slot, lambda: not worker.alive, retire)


def post_request(worker: Any, request: Any, environ: Any, _response: Any) -> None:
    """Collect garbage and check memory once the response is on its way."""
    if BODY_READ not in environ:
        discard_body(request, settings.keepalive)
    _processes(worker.app).after_request()


def on_exit(server: Any) -> None:
    """Note that the server was stopped, unless it never loaded."""
    if server.app.callable is not None:
        _processes(server.app).server_stops()


def worker_abort(worker: Any) -> None:
    """Mark a worker that gunicorn ended because its heartbeat had stopped: a crash."""
    worker.aborted = True


def worker_exit(server: Any, worker: Any) -> None:
    """Report whether the exit was requested or a fault."""
    asked = not worker.alive and not getattr(worker, "aborted", False)
    _processes(server.app).worker_stops(worker.slot, asked=asked)


def child_exit(server: Any, worker: Any) -> None:
    """Count the end of a worker."""
    _processes(server.app).worker_ended(worker.slot)
