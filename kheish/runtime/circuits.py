"""Which hops are spared at present, and until when: a circuit for each route and model, in memory alone.

A failure that another hop may make good opens a circuit: nothing that has another way goes there for a pause, or for as
long as the server asked. After it the circuit is half open: the first call that begins there is the probe, and the rest
wait out another pause or its answer. Any answer closes it; another failure doubles the pause.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kheish.core.chains import MAY_PASS
from kheish.core.events import Cooling, Event, Hop, ModelCallStarted
from kheish.core.outcomes import ModelFailed, ModelReplied
from kheish.limits import CIRCUIT_PAUSE_MAX_MS, CIRCUIT_PAUSE_MS, RETRY_AFTER_MAX_MS


class Circuit(msgspec.Struct):
    code: str
    until_ms: int
    pause_ms: int
    is_probed: bool = False


class Circuits:
    def __init__(self) -> None:
        self._circuits: dict[tuple[str, str], Circuit] = {}

    def cooling(self, at_ms: int) -> tuple[Cooling, ...]:
        if not self._circuits:
            return ()
        return tuple(
            Cooling(route=route, model=model, code=circuit.code, until_ms=circuit.until_ms)
            for (route, model), circuit in self._circuits.items()
            if circuit.until_ms > at_ms
        )

    def note_decided(self, events: Iterable[Event], at_ms: int) -> None:
        """Of what was decided, the calls that begin: one on a half-open circuit is its probe."""
        if not self._circuits:
            return
        for event in events:
            if isinstance(event, ModelCallStarted):
                circuit = self._circuits.get((event.route, event.model))
                if circuit is not None and circuit.until_ms <= at_ms:
                    circuit.until_ms, circuit.is_probed = at_ms + circuit.pause_ms, True

    def note_outcome(self, hop: Hop, outcome: ModelReplied | ModelFailed, at_ms: int) -> None:
        if not isinstance(outcome, ModelFailed) or outcome.has_output or outcome.code not in MAY_PASS:
            self._circuits.pop((hop.route, hop.model), None)
            return
        known = self._circuits.get((hop.route, hop.model))
        pause_ms = known.pause_ms if known else CIRCUIT_PAUSE_MS
        if known and known.is_probed:
            pause_ms = min(2 * pause_ms, CIRCUIT_PAUSE_MAX_MS)
        asked_ms = min(outcome.retry_after_ms or 0, RETRY_AFTER_MAX_MS)
        until_ms = max(at_ms + max(pause_ms, asked_ms), 0 if known is None or known.is_probed else known.until_ms)
        self._circuits[hop.route, hop.model] = Circuit(code=outcome.code, until_ms=until_ms, pause_ms=pause_ms)
