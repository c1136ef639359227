"""The image that the container tests run."""

from __future__ import annotations

import os
import subprocess

import pytest


@pytest.fixture(scope="session")
def image() -> str:
    """Return the id of the image under test; it is built before the tests.

    The variable is not named like a setting: those that are unknown stop a server.
    """
    name = os.environ.get("TEST_IMAGE", "sentence-api:test")
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"there is no image {name}: {done.stderr.strip()}; build it and run this again")
    return done.stdout.strip()
