"""Threads whose changes to a disk come in an order that is the same each time."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from tests.faults.disk_model import Recorder


class Turns:
    """Threads that take turns, each up to its next change to the disk, in the recorder's order."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._chooser = random.Random(recorder.order)
        self._gates: dict[int, threading.Lock] = {}
        self._errors: list[BaseException] = []
        self._mine = threading.local()

    def run(self, *plays: Callable[[], None]) -> None:
        self._gates = {number: threading.Lock() for number in range(len(plays))}
        threads = [threading.Thread(target=self._take_part, args=(each,)) for each in enumerate(plays)]
        for gate in self._gates.values():
            gate.acquire()
        for thread in threads:
            thread.start()
        self._recorder.before_change = self._switch
        self._pass_on()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _take_part(self, numbered: tuple[int, Callable[[], None]]) -> None:
        self._mine.number, play = numbered
        self._gates[self._mine.number].acquire()
        try:
            play()
        except BaseException as error:
            self._errors.append(error)
        del self._gates[self._mine.number]
        self._pass_on()

    def _pass_on(self) -> None:
        if self._gates:
            self._gates[self._chooser.choice([*self._gates])].release()

    def _switch(self) -> None:
        self._pass_on()
        self._gates[self._mine.number].acquire()
