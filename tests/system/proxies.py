"""nginx and Caddy with the configurations of docs/reverse-proxy.md, on ports of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.conftest import ROOT, free_port
from tests.system.wire import TIMEOUT_SECONDS, eventually

PAGE = (ROOT / "docs" / "reverse-proxy.md").read_text(encoding="utf-8")
NAME = "embeddings.example.org"
# The servers that the page names.
FIRST, SECOND = "127.0.0.1:5001", "127.0.0.1:5002"
# The folders into which tests/system/install.sh unpacks both; Debian keeps nginx in /usr/sbin.
_UNPACKED = ROOT / "var" / "proxies" / "usr"
_PLACES = [os.environ["PATH"], "/usr/sbin", str(_UNPACKED / "sbin"), str(_UNPACKED / "bin")]


def blocks(language: str) -> list[str]:
    """Return the code blocks of the page in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def replaced(text: str, values: dict[str, str]) -> str:
    """Return the text with each key replaced; each must be in it."""
    for old, new in values.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def make_certificate(folder: Path) -> None:
    """Run the page's command for a self-signed certificate, with files in a folder."""
    command = next(block for block in blocks("") if block.startswith("openssl"))
    command = replaced(command, {"/etc/ssl": str(folder)})
    subprocess.run(
        ["bash", "-c", command], check=True, timeout=TIMEOUT_SECONDS, capture_output=True
    )


class Proxy(ABC):
    """A running proxy in front of one server.

    Args:
        folder: Folder for its files.
        addresses: Real addresses by those that the page names.

    Attributes:
        port: Its port for TLS.
        plain_port: Its port for plain HTTP.
        access_log: The access log that the page configures.
        certificate: What a client must trust.
    """

    language: str
    program: str
    # Path on the page, then where it is found below the proxy's folder.
    logs: tuple[str, str]

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        found = shutil.which(self.program, path=os.pathsep.join(_PLACES))
        if found is None:
            pytest.skip(f"there is no {self.program}; tests/system/install.sh fetches it")
        self._program = found
        self._folder = folder
        self._addresses = addresses
        self.port, self.plain_port = free_port(), free_port()
        self.certificate = folder / "embeddings.pem"
        self.access_log = folder / "embeddings.log"
        self.error_log = folder / "error.log"
        self.block = blocks(self.language)[0]
        make_certificate(folder)
        self._write(self.block)
        with self.error_log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command(),
                env={**os.environ, "HOME": str(folder)},
                stdout=output,
                stderr=output,
            )
        try:
            assert eventually(self._answers), self.error_log.read_text()
        except AssertionError:
            self.stop()
            raise

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command that runs the proxy in the foreground."""

    @abstractmethod
    def _around(self, block: str) -> str:
        """Return the whole configuration that holds a block of the page."""

    @abstractmethod
    def _reload(self) -> None:
        """Make the proxy take up its changed configuration, and wait for that."""

    @property
    def _config(self) -> Path:
        return self._folder / "config"

    def _write(self, block: str) -> None:
        folder = str(self._folder)
        text = replaced(block, {"/etc/ssl": folder, f"/var/log/{self.program}": folder})
        for on_page, real in self._addresses.items():
            text = text.replace(on_page, real)
        self._config.write_text(self._around(text), encoding="utf-8")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.error_log.read_text()
        try:
            with self.client() as client:
                client.get("/health/live")
                return True
        except httpx2.TransportError:
            return False

    @contextmanager
    def changed(self, values: dict[str, str]) -> Iterator[None]:
        """Run with some text of the page's configuration replaced."""
        self._write(replaced(self.block, values))
        self._reload()
        try:
            yield
        finally:
            self._write(self.block)
            self._reload()

    def trust(self) -> ssl.SSLContext:
        """Return a context that trusts the certificate and nothing else."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def client(self) -> httpx2.Client:
        """Return a client that trusts the certificate and asks for the name in it."""

        def name_the_server(request: httpx2.Request) -> None:
            request.extensions["sni_hostname"] = NAME

        return httpx2.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            headers={"Host": NAME},
            verify=self.trust(),
            event_hooks={"request": [name_the_server]},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )

    def stop(self) -> None:
        """End the proxy."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Nginx(Proxy):
    """nginx, with the page's block included as Debian's nginx.conf includes a site."""

    language = program = "nginx"

    def _command(self) -> list[str]:
        return [self._program, "-e", str(self.error_log), "-c", str(self._config)]

    def _around(self, block: str) -> str:
        ports = {
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            # The kernel would buffer megabytes for a client on the loopback.
            "listen 443 ": f"listen 127.0.0.1:{self.port} sndbuf=16k ",
        }
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {self._folder}/{kind};" for kind in kinds)
        return (
            f"daemon off; worker_processes 1; pid {self._folder}/pid;\n"
            f"error_log {self.error_log} notice;\nevents {{}}\n"
            f"http {{\naccess_log off; gzip on; {paths}\n{replaced(block, ports)}}}\n"
        )

    def _workers(self) -> set[str]:
        pid = self.process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())

    def _reload(self) -> None:
        before = self._workers()
        self.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: not before & self._workers()), self.error_log.read_text()


class Caddy(Proxy):
    """Caddy, with ports and the socket of its administration added to the page's options."""

    language, program = "caddyfile", "caddy"

    def _arguments(self) -> list[str]:
        return ["--config", str(self._config), "--adapter", "caddyfile"]

    def _command(self) -> list[str]:
        return [self._program, "run", *self._arguments()]

    @property
    def _admin(self) -> str:
        return f"unix/{self._folder}/admin.sock"

    def _around(self, block: str) -> str:
        assert block.startswith("{\n")
        ports = f"http_port {self.plain_port}\n\thttps_port {self.port}"
        return f"{{\n\tadmin {self._admin}\n\tdefault_bind 127.0.0.1\n\t{ports}\n{block[2:]}"

    def _reload(self) -> None:
        command = [self._program, "reload", *self._arguments(), "--address", self._admin]
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        assert done.returncode == 0, done.stderr.decode()
