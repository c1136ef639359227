"""Scoreboard: one shared-memory row per worker."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

# Twice the most workers that the settings allow: old workers drain beside new workers.
SLOTS = 512


class Exit(IntEnum):
    """Reason that a worker announces for its end; a worker that announces none has crashed."""

    CRASH = 0
    STOP = 1
    RETIREMENT = 2


class _Slot(ctypes.Structure):
    _fields_ = [
        ("started", ctypes.c_double),
        ("pid", ctypes.c_int32),
        ("restarts", ctypes.c_uint32),
        ("exit", ctypes.c_uint8),
        ("ready", ctypes.c_bool),
    ]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Worker that has started and not ended; see `WorkerSample`."""

    slot: int
    pid: int
    started: float
    ready: bool
    restarts: int


class Scoreboard:
    """Shared table, made in the master before the first fork; a worker writes only its slot.

    Attributes:
        master: Process id of the master.
        started: When the server started, in seconds since 1970.
    """

    def __init__(self) -> None:
        self.master = os.getpid()
        self.started = time.time()
        shared = mmap.mmap(-1, ctypes.sizeof(_Slot) * SLOTS)
        self._slots = (_Slot * SLOTS).from_buffer(shared)

    def free_slot(self, taken: Iterable[int]) -> int:
        """Return the lowest slot that is not taken."""
        held = set(taken)
        return next(slot for slot in range(SLOTS) if slot not in held)

    def begin(self, slot: int) -> None:
        """Register this process as the worker of a slot."""
        entry = self._slots[slot]
        entry.started, entry.ready, entry.pid = time.time(), False, os.getpid()

    def set_ready(self, slot: int, *, ready: bool) -> None:
        """Record whether this worker takes requests."""
        self._slots[slot].ready = ready

    def announce(self, slot: int, how: Exit) -> None:
        """Record in the worker how it will end; the first reason holds."""
        if self._slots[slot].exit == Exit.CRASH:
            self._slots[slot].exit = how

    def end(self, slot: int) -> Exit:
        """Free a slot in the master and return how its worker ended."""
        entry = self._slots[slot]
        how = Exit(entry.exit)
        entry.exit, entry.pid, entry.ready = Exit.CRASH, 0, False
        entry.restarts += how is Exit.CRASH
        return how

    def living(self) -> list[WorkerInfo]:
        """Return the workers that have started and not ended."""
        return [
            WorkerInfo(slot, entry.pid, entry.started, entry.ready, entry.restarts)
            for slot, entry in enumerate(self._slots)
            if entry.pid
        ]
