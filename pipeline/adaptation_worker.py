"""The process in which adaptation runs: bytes in, bytes out, one torch thread, a deadline.

A torch thread beside the poll loop makes the loop several times slower; a process does not. The
worker is spawned at start and imports torch before the first request, so that an episode waits
for no import. One that misses its deadline is killed and replaced; one whose parent is gone ends
by itself, because its pipe closes.
"""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: a result, or why there is none."""

    key: tuple[int, int]
    result: bytes
    error: str


class AdaptationWorker:
    """One request at a time.

    Args:
        timeout_s: Longest a request may take.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._key: tuple[int, int] | None = None
        self._deadline_s = 0.0
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=serve, args=(theirs,), name="metadrift-adaptation", daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def busy_with(self) -> tuple[int, int] | None:
        """The request in progress."""
        return self._key

    @property
    def pid(self) -> int | None:
        """The worker's process id."""
        return self._process.pid

    def submit(self, key: tuple[int, int], request: bytes) -> None:
        """Start on a request.

        Raises:
            RuntimeError: Another request is in progress.
        """
        if self._key is not None:
            raise RuntimeError(f"the worker is busy with {self._key}")
        self._key = key
        self._deadline_s = time.monotonic() + self._timeout_s
        try:
            self._pipe.send_bytes(request)
        except (BrokenPipeError, OSError):
            self._restart()
            self._pipe.send_bytes(request)

    def collect(self) -> Answer | None:
        """Return the answer when there is one; a dead or overdue worker answers with its error."""
        if self._key is None:
            return None
        key, error, result = self._key, "", b""
        try:
            if self._pipe.poll(0):
                answer = self._pipe.recv_bytes()
                error, result = (
                    ("", answer[1:]) if answer[:1] == b"+" else (answer[1:].decode(), b"")
                )
            elif time.monotonic() > self._deadline_s:
                error = f"killed at its deadline of {self._timeout_s:g} s (episode.timeout_s)"
                self._restart()
            elif not self._process.is_alive():
                error = f"the worker ended with exit code {self._process.exitcode}"
                self._restart()
            else:
                return None
        except (EOFError, OSError):
            error = f"the worker ended with exit code {self._process.exitcode}"
            self._restart()
        self._key = None
        return Answer(key, result, error)

    def wait(self) -> Answer:
        """Block until the request in progress is answered or overdue.

        Raises:
            RuntimeError: No request is in progress.
        """
        if self._key is None:
            raise RuntimeError("the worker has no request")
        while True:
            answer = self.collect()
            if answer is not None:
                return answer
            self._pipe.poll(0.05)

    def _restart(self) -> None:
        self._end()
        self._start()

    def _end(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(2)

    def close(self) -> None:
        """End the process."""
        self._end()


def serve(pipe: Connection) -> None:
    """Answer requests until the parent is gone (the worker's main function)."""
    import torch

    from adapters.bake_off import run_bake_off
    from adapters.bake_off_codec import decode_request, encode_results

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which ends us
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # the first optimiser imports for seconds
    os.nice(5)
    while True:
        try:
            request = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            answer = b"+" + encode_results(run_bake_off(decode_request(request)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the episode's record
            answer = b"-" + f"{type(error).__name__}: {error}".encode()
        try:
            pipe.send_bytes(answer)
        except (BrokenPipeError, OSError):
            return
