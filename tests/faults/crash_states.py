"""Every state of the disk that a crash may leave, built and opened by the real store: what was promised is there.

A scene runs once and is recorded; its states are built one after the other on a disk in memory, and each is recovered,
appended to, verified and recovered again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from kheish.errors import KheishError
from kheish.store import atomic, blobs, journal, locks, session_dir, vacuum, verify
from kheish.store.archive import export_session, import_session
from kheish.store.blobs import Blobs
from kheish.store.documents import read_document, write_document
from kheish.store.locks import DaemonLock
from kheish.store.records import Record, segment_name
from kheish.store.segments import Walk
from kheish.store.vacuum import vacuum_session
from tests.faults.disk_model import Recorder, Recording, State, crash_states
from tests.faults.tables import aligned
from tests.faults.turns import Turns
from tests.store.sessions import NOW_MS, REDUCER, Session, fold, frame, numbers

MEMORY = Path("/dev/shm")
STATES_DEFAULT = 60_000
"""Of each scene at most; together they are over 100,000."""
VIOLATIONS_SHOWN = 5


class Violation(Exception):
    """A promise that does not hold, in words."""


def recovered(root: Path, session_id: str) -> list[int]:
    """The numbers of the records of a session, which is opened, appended to, closed and opened again."""
    session = Session.open(root, session_id)
    try:
        first = _all_numbers(session)
        session.append()
        if _all_numbers(session) != [*first, session.journal.durable_seq]:
            raise Violation("an append after recovery is not read back")
    finally:
        session.close()
    again = Session.open(root, session_id)
    try:
        if again.opened.set_aside:
            raise Violation("recovery has to cut a second time")
        if _all_numbers(again)[:-1] != first:
            raise Violation("a second recovery finds something else")
    finally:
        again.close()
    if faults := verify.verify_session(
        root / "sessions" / session_id, fold, reducer=REDUCER, blob_refs=blobs_of, blobs=Blobs(root), live=False
    ):
        raise Violation(f"verify: {faults[0].reason}")
    return first


def _all_numbers(session: Session) -> list[int]:
    return numbers(session.journal.read())


def _read(root: Path, session_id: str) -> list[int]:
    return numbers(Walk(root / "sessions" / session_id, session_id))


def blobs_of(record: Record) -> list[str]:
    return [event["blob"] for event in record.events if "blob" in event]


class Crash:
    """What a crash left; on a disk once somebody looks. `opened` are all session directories that were recovered, by
    all that is in them, with what was found: two sessions that a crash left in as many ways as there are pairs need not
    be opened once a pair."""

    def __init__(self, state: State, place: Path, opened: dict[int, list[int]]) -> None:
        self.state = state
        self.marks = state.marks
        self._place = place
        self._opened = opened

    @functools.cached_property
    def root(self) -> Path:
        self._place.mkdir()
        self.state.build(self._place)
        return self._place

    def is_there(self, session_id: str) -> bool:
        return self.state.content_of("sessions", session_id) is not None

    def recovered(self, session_id: str) -> list[int]:
        contents = (self.state.content_of("sessions", session_id), self.state.content_of("blobs"))
        key = hash((session_id, contents))
        if key not in self._opened:
            self._opened[key] = recovered(self.root, session_id)
        return self._opened[key]

    def clear(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)


def check_session(crash: Crash, session_id: str) -> str:
    """What became of it: whole, shorter (what was not acknowledged is not all there), or absent."""
    acknowledged = crash.marks.get(session_id, -1)
    if not crash.is_there(session_id):
        if acknowledged >= 0:
            raise Violation(f"{session_id} was acknowledged and is not there")
        return "absent"
    found = crash.recovered(session_id)
    if found != list(range(1, len(found) + 1)):
        raise Violation(f"{session_id} holds {found}: not a prefix of what was sent")
    if len(found) < acknowledged:
        raise Violation(f"{session_id} has {len(found)} records of {acknowledged} acknowledged ones")
    return "whole" if len(found) == crash.marks.get(f"{session_id} sent", 0) else "prefix"


# -- the scenes ------------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """`prepare` makes what is durably there before; `play` is recorded; `check` says what became of it. With threads
    it is another scene for each order in which they come."""

    promise: str
    prepare: Callable[[Path], None]
    play: Callable[[Recorder], None]
    check: Callable[[Crash], str]
    has_threads: bool = False


def _nothing(root: Path) -> None:
    (root / "sessions").mkdir(mode=0o700)


def _append(recorder: Recorder, session: Session, count: int = 1, **extra: Any) -> None:
    for _ in range(count):
        name, seq = session.path.name, session.journal.next_seq
        recorder.mark(f"{name} sent", seq)
        session.append(**extra)
        recorder.mark(name, seq)


def _play_session(recorder: Recorder) -> None:
    """A new session, appended to over two ends of segments, with checkpoints between."""
    session = Session.create(recorder.folder)
    recorder.mark("s1", 0)
    for _ in range(4):
        _append(recorder, session, 2)
        session.checkpoint()
    session.close()


def _play_new(recorder: Recorder) -> None:
    """A session that is made with its first records, and goes on."""
    session = Session.new(recorder.folder)
    framed = [frame(session.journal, 1), frame(session.journal, 2)]
    recorder.mark("s1 sent", 2)
    session.journal.commit(framed)
    recorder.mark("s1", 2)
    _append(recorder, session, 2)
    session.close()


def _play_group(recorder: Recorder) -> None:
    """Records of two sessions, several at a time."""
    one, two = (Session.create(recorder.folder, name) for name in ("s1", "s2"))
    for _ in range(3):
        for session in (one, two):
            framed = [frame(session.journal, session.journal.next_seq) for _ in range(1)]
            framed.append(frame(session.journal, framed[-1].seq + 1))
            recorder.mark(f"{session.path.name} sent", framed[-1].seq)
            session.journal.commit(framed)
            recorder.mark(session.path.name, framed[-1].seq)
    one.close()
    two.close()


def _play_crowd(recorder: Recorder) -> None:
    """Two sessions at once, as the daemon's threads write them: one is new, the other one is closed, packed and used
    again; both keep the same blob."""
    store = Blobs(recorder.folder)

    def be_new() -> None:
        session = Session.new(recorder.folder, "s1")
        _append(recorder, session, blob=store.put(b"output" * 50))
        _append(recorder, session, 2)
        session.checkpoint()
        _append(recorder, session, 2)
        session.close()

    def be_put_away() -> None:
        session = Session.create(recorder.folder, "s2")
        _append(recorder, session, 2, blob=store.put(b"output" * 50))
        session.checkpoint()
        session.journal.end_segment()
        session.close()
        vacuum_session(session.path)
        session = session.reopen()
        _append(recorder, session, 2)
        session.close()

    Turns(recorder).run(be_new, be_put_away)


def _prepare_torn(root: Path) -> None:
    """What a crash left: whole records, and the beginning of another."""
    session = Session.create(root)
    session.append(4)
    session.checkpoint(2)
    session.close()
    with session.segments[-1].open("ab") as file:
        file.write(b'{"v":1,"seq":5,"at":1800000000005,"gen":1,"pos":5,"by":{},"events":[{"type":"' + b"x" * 600)


def _play_recovery(recorder: Recorder) -> None:
    """The recovery itself is cut off; what it finds was there before it."""
    recorder.mark("s1", 4)
    recorder.mark("s1 sent", 4)
    session = Session.open(recorder.folder)
    _append(recorder, session, 3)
    session.close()


def _play_failed_sync(recorder: Recorder) -> None:
    """The third append's sync fails: the record goes to a new file, and on it goes."""
    session = Session.create(recorder.folder)
    recorder.mark("s1", 0)
    _append(recorder, session, 2)
    failing = [os.stat(session.segments[-1]).st_ino]
    recorder.fail_sync = lambda inode: inode in failing and failing.pop() == inode
    _append(recorder, session, 4)
    session.close()


def _play_blobs(recorder: Recorder) -> None:
    """A blob is durable before the record that names it."""
    session = Session.create(recorder.folder)
    recorder.mark("s1", 0)
    store = Blobs(recorder.folder)
    for number in range(3):
        sha = store.put(b"output %d " % number * 50)
        _append(recorder, session, blob=sha)
    sha = store.put(b"output 0 " * 50)
    _append(recorder, session, blob=sha)
    session.close()


def _play_documents(recorder: Recorder) -> None:
    """A document is the old one or the new one."""
    for value in range(1, 6):
        recorder.mark("document sent", value)
        write_document(recorder.folder / "document.json", {"value": value})
        recorder.mark("document", value)


def _check_document(crash: Crash) -> str:
    path, marks = crash.root / "document.json", crash.marks
    if not path.exists():
        if "document" in marks:
            raise Violation("the document was acknowledged and is not there")
        return "absent"
    value = read_document(path, dict[str, int])["value"]
    if not marks.get("document", 0) <= value <= marks["document sent"]:
        raise Violation(f"the document says {value}, and {marks} was acknowledged")
    return "whole" if value == marks["document sent"] else "prefix"


def _play_generation(recorder: Recorder) -> None:
    """Daemons one after the other; no generation is given twice."""
    for _ in range(3):
        lock = DaemonLock(recorder.folder).acquire(now_ms=NOW_MS)
        recorder.mark("generation", lock.generation)
        lock.release()


def _check_generation(crash: Crash) -> str:
    lock = DaemonLock(crash.root).acquire(now_ms=NOW_MS)
    lock.release()
    used = crash.marks.get("generation", 0)
    if lock.generation <= used:
        raise Violation(f"generation {lock.generation} after {used}")
    return "whole" if lock.generation == used + 1 else "prefix"


def _prepare_archive(root: Path) -> None:
    _nothing(root)
    source = root / "source"
    session = Session.create(source)
    sha = Blobs(source).put(b"x" * 5000)
    session.append(3, blob=sha)
    session.close()
    with (root / "archive").open("wb") as out:
        export_session(source, "s1", out, blob_refs=blobs_of)
    shutil.rmtree(source)


def _play_import(recorder: Recorder) -> None:
    """A session that is taken in is there as a whole or not at all."""
    recorder.mark("s1 sent", 3)
    with (recorder.folder / "archive").open("rb") as archive:
        import_session(recorder.folder, archive)
    recorder.mark("s1", 3)


def _check_import(crash: Crash) -> str:
    outcome = check_session(crash, "s1")
    if outcome == "prefix":
        raise Violation("a part of the session was taken in")
    return outcome


def _prepare_segments(root: Path) -> None:
    session = Session.create(root)
    session.append(7)
    session.checkpoint(5)
    session.append(4)
    session.close()


def _play_vacuum(recorder: Recorder) -> None:
    """All that was there reads as before."""
    recorder.mark("s1", 11)
    recorder.mark("s1 sent", 11)
    vacuum_session(recorder.folder / "sessions" / "s1")


def _play_vacuum_of_the_dead(recorder: Recorder) -> None:
    """The newest segment was begun by somebody who died before it was synced: a crash may take it back."""
    recorder.mark("s1", 9)
    recorder.mark("s1 sent", 9)
    directory = recorder.folder / "sessions" / "s1"
    newest = directory / segment_name(10)
    fd = os.open(directory / ".begun", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, newest.read_bytes().partition(b"\n")[0] + b"\n")
    os.close(fd)
    os.replace(directory / ".begun", newest)
    vacuum_session(directory)


def _play_put_away(recorder: Recorder) -> None:
    """What was written is closed and packed between two uses."""
    Session.create(recorder.folder).close()
    recorder.mark("s1", 0)
    for _ in range(2):
        session = Session.open(recorder.folder)
        _append(recorder, session, 2)
        session.checkpoint()
        session.journal.end_segment()
        session.close()
        vacuum_session(session.path)


def _check_vacuum(crash: Crash) -> str:
    outcome, root = check_session(crash, "s1"), crash.root
    before = _read(root, "s1")
    vacuum_session(root / "sessions" / "s1")
    if _read(root, "s1") != before:
        raise Violation("after another vacuum it reads otherwise")
    if left := [path.name for path in (root / "sessions" / "s1").iterdir() if path.name.startswith(".tmp-")]:
        raise Violation(f"{left} is left after another vacuum")
    return outcome


def _check_put_away(crash: Crash) -> str:
    return (_check_vacuum if crash.is_there("s1") else _check_one)(crash)


def _check_one(crash: Crash) -> str:
    return check_session(crash, "s1")


def _check_two(crash: Crash) -> str:
    outcomes = {check_session(crash, name) for name in ("s1", "s2")}
    return outcomes.pop() if len(outcomes) == 1 else "prefix"


SCENES = {
    "session": Scene("appends, segments and checkpoints", _nothing, _play_session, _check_one),
    "new session": Scene("the first records of a session", _nothing, _play_new, _check_one),
    "group": Scene("two sessions, several records a sync", _nothing, _play_group, _check_two),
    "crowd": Scene("two sessions at once", _nothing, _play_crowd, _check_two, has_threads=True),
    "recovery": Scene("a torn tail, recovered", _prepare_torn, _play_recovery, _check_one),
    "failed sync": Scene("a sync that fails", _nothing, _play_failed_sync, _check_one),
    "blobs": Scene("blobs and the records that name them", _nothing, _play_blobs, _check_one),
    "documents": Scene("documents replaced as a whole", _nothing, _play_documents, _check_document),
    "generation": Scene("daemons one after the other", _nothing, _play_generation, _check_generation),
    "vacuum": Scene("closed segments packed", _prepare_segments, _play_vacuum, _check_vacuum),
    "vacuum of the dead": Scene(
        "one that was never durable", _prepare_segments, _play_vacuum_of_the_dead, _check_vacuum
    ),
    "put away": Scene("closed early, packed and used again", _nothing, _play_put_away, _check_put_away),
    "import": Scene("a session from an archive", _prepare_archive, _play_import, _check_import),
}


# -- broken stores ---------------------------------------------------------------------------------------------------


def _no_tail_repair(patch: Callable[[object, str, object], None]) -> None:
    patch(session_dir, "repair", lambda directory, torn, seq: None)


def _append_after_torn(patch: Callable[[object, str, object], None]) -> None:
    _no_tail_repair(patch)
    patch(journal, "_WRITE_FLAGS", journal._WRITE_FLAGS | os.O_APPEND)


def _no_sync(patch: Callable[[object, str, object], None]) -> None:
    patch(atomic, "sync_data", lambda fd: None)


def _no_dir_sync(patch: Callable[[object, str, object], None]) -> None:
    for module in (atomic, blobs):
        patch(module, "sync_dir", lambda path: None)
    patch(locks, "sync_names", lambda fd: None)


def _rename_unsynced(patch: Callable[[object, str, object], None]) -> None:
    for module in (atomic, blobs):
        patch(module, "sync_file", lambda fd: None)


def _sync_again(patch: Callable[[object, str, object], None]) -> None:
    """After a failed sync the same file is synced again, and believed."""

    def sync_again(self: Any, records: Any) -> None:
        atomic.sync_data(self._fd)
        self._note(records)

    patch(journal.Journal, "_recover", sync_again)


def _blob_unsynced(patch: Callable[[object, str, object], None]) -> None:
    patch(blobs, "sync_file", lambda fd: None)


def _no_settle(patch: Callable[[object, str, object], None]) -> None:
    patch(vacuum, "_settle_header", lambda newest, header: None)


class Mutant(NamedTuple):
    scene: str
    apply: Callable[[Callable[[object, str, object], None]], None]


MUTANTS = {
    "no_sync": Mutant("session", _no_sync),
    "no_directory_sync": Mutant("session", _no_dir_sync),
    "no_tail_repair": Mutant("recovery", _no_tail_repair),
    "append_after_a_torn_line": Mutant("recovery", _append_after_torn),
    "rename_without_sync": Mutant("documents", _rename_unsynced),
    "sync_again_after_a_failure": Mutant("failed sync", _sync_again),
    "blob_without_sync": Mutant("blobs", _blob_unsynced),
    "unpacked_before_packed_has_its_name": Mutant("vacuum", _no_dir_sync),
    "packed_while_the_next_is_not_durable": Mutant("vacuum of the dead", _no_settle),
}


@contextlib.contextmanager
def broken(mutant: str) -> Iterator[None]:
    """The store is broken in that way; "" leaves it whole."""
    undo: list[tuple[object, str, object]] = []

    def patch(owner: object, name: str, value: object) -> None:
        undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    patch(journal, "SEGMENT_RECORDS_MAX", 3)
    try:
        if mutant:
            MUTANTS[mutant].apply(patch)
        yield
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)


# -- the exploration -------------------------------------------------------------------------------------------------


def record(scene: Scene, order: int = 1) -> Recording:
    """What a scene does; `order` is the seed of the order in which its threads come."""
    with memory() as folder:
        scene.prepare(folder)
        with Recorder(folder, order) as recorder:
            scene.play(recorder)
        return recorder.recording()


class Share(NamedTuple):
    """One of so many parts of the states, for several processes."""

    number: int
    of: int


WHOLE = Share(0, 1)


class Explored(NamedTuple):
    """`opened` counts the session directories that were recovered, each once however many states have it."""

    operations: int
    states: int
    opened: int
    outcomes: Counter[str]
    violations: list[str]

    @staticmethod
    def sum(parts: list[Explored], operations: int) -> Explored:
        return Explored(
            operations,
            sum(part.states for part in parts),
            sum(part.opened for part in parts),
            sum((part.outcomes for part in parts), Counter()),
            [violation for part in parts for violation in part.violations],
        )


def explore(
    scene: Scene, recording: Recording, *, states: int, seed: int, share: Share = WHOLE, stop_at: int = VIOLATIONS_SHOWN
) -> Explored:
    """At most `states` states of a scene, spread over its crashes, or a share of them; ends early after some
    violations."""
    outcomes: Counter[str] = Counter()
    violations: list[str] = []
    opened: dict[int, list[int]] = {}
    count = 0
    with memory() as folder:
        for number, state in enumerate(crash_states(recording, states, seed)):
            if number % share.of != share.number:
                continue
            count += 1
            crash = Crash(state, folder / "state", opened)
            try:
                outcomes[scene.check(crash)] += 1
            except (Violation, KheishError, OSError, AssertionError) as error:
                done = recording.operations[state.at - 1] if state.at else "the beginning"
                violations.append(f"after operation {state.at} ({_short(done)}): {error}")
            crash.clear()
            if len(violations) >= stop_at:
                break
    return Explored(len(recording.operations), count, len(opened), outcomes, violations)


def _short(operation: object) -> str:
    text = repr(operation)
    return text if len(text) < 80 else f"{text[:77]}..."


def table(results: dict[str, Explored]) -> str:
    rows = [("scene", "operations", "states", "opened", "whole", "prefix", "absent", "VIOLATIONS")]
    for name, r in results.items():
        counts = (
            r.operations,
            r.states,
            r.opened,
            *(r.outcomes[o] for o in ("whole", "prefix", "absent")),
            len(r.violations),
        )
        rows.append((name, *map(str, counts)))
    return aligned(rows, texts=1)


@contextlib.contextmanager
def memory() -> Iterator[Path]:
    """A folder for states, in memory where there is such a place."""
    folder = Path(tempfile.mkdtemp(prefix="kheish-states-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def explore_all(states: int, seed: int, jobs: int, orders: int) -> dict[str, Explored]:
    """Every scene, in so many orders where it has threads, each shared by so many processes."""
    results = {}
    with ProcessPoolExecutor(jobs) as pool, broken(""):
        for name, scene in SCENES.items():
            recordings = [record(scene, order) for order in range(1, orders + 1 if scene.has_threads else 2)]
            shares = 1 if scene.has_threads else jobs
            parts = [
                pool.submit(_explore_share, name, recording, states, seed, Share(at, shares))
                for recording in recordings
                for at in range(shares)
            ]
            operations = max(len(recording.operations) for recording in recordings)
            results[name] = Explored.sum([part.result() for part in parts], operations)
            print(f"{name}: {results[name].states} states", file=sys.stderr, flush=True)
    return results


def _explore_share(name: str, recording: Recording, states: int, seed: int, share: Share) -> Explored:
    with broken(""):
        return explore(SCENES[name], recording, states=states, seed=seed, share=share)


def find_mutants(states: int, seed: int) -> int:
    """How many broken stores were not found."""
    missed = 0
    for name, mutant in MUTANTS.items():
        with broken(name):
            scene = SCENES[mutant.scene]
            result = explore(scene, record(scene), states=states, seed=seed, stop_at=1)
        print(f"{'found ' if result.violations else 'MISSED'}  {name}: {(result.violations or [''])[0]}", flush=True)
        missed += not result.violations
    return missed
