"""Request tokens for batches of claimed connections. Stores nothing, and must not run in a transaction.

While requests are in flight, the next batch is claimed and responses are stored. All of this runs in one thread;
responses that arrive in the meantime wait in the sockets.
"""

from collections.abc import Callable, Iterator

from connections.microsoft import http
from connections.services.tokens.batch import Batch, Job
from connections.services.tokens.batch_results import DueConnection, RefreshBatchResult

MOST_OPEN = 3  # batches at a time
# With this many responses, they are handed over to be stored before their batches are complete. Storing more at a time
# would take longer than the requests in flight, and keeping more would take too much memory.
MOST_HELD = 200
MOST_HELD_BYTES = 4_000_000  # 200 ordinary responses take an eighth of this


def request_tokens(dues: list[DueConnection]) -> list[RefreshBatchResult]:
    """Request tokens for one batch. Errors from Microsoft or the network are returned, not raised."""
    claims = iter([dues])
    return [result for results in request_batches(lambda: next(claims, [])) for result in results]


def request_batches(
    claim: Callable[[], list[DueConnection]], *, is_stopping: Callable[[], bool] = lambda: False
) -> Iterator[list[RefreshBatchResult]]:
    """Request tokens for all batches that ``claim`` returns, until it returns an empty one.

    Yields results to store. Once ``is_stopping`` returns True, nothing more is claimed or sent, but the results of
    requests that were sent are still yielded.
    """
    with http.borrowed_client() as client:
        pipeline = _Pipeline(claim, is_stopping, client.in_flight)
        while not pipeline.has_ended:
            for responses in client.exchange(pipeline.take):
                # Store results now, after the free slots have been filled again.
                yield from pipeline.completed()
                pipeline.receive(responses)
            yield from pipeline.completed()


class _Pipeline:
    """The batches whose requests are being sent or are in flight."""

    def __init__(
        self, claim: Callable[[], list[DueConnection]], is_stopping: Callable[[], bool], in_flight: int
    ) -> None:
        self._claim, self._is_stopping, self._in_flight = claim, is_stopping, in_flight
        self._open: list[Batch] = []
        self._has_claimed_all = False

    @property
    def has_ended(self) -> bool:
        return self._has_claimed_all and not self._open

    def take(self) -> http.Request[Job] | None:
        """Return the next request, canaries first, because other requests wait for them."""
        if self._is_stopping():
            self._has_claimed_all = True
            for batch in self._open:
                batch.drop_unsent()
        elif not self._has_claimed_all and self._needs_more():
            dues = self._claim()
            if dues:
                self._open.append(Batch(dues))
            else:
                self._has_claimed_all = True
        for canary in (True, False):
            for batch in self._open:
                request = batch.take(canary=canary)
                if request is not None:
                    return request
        return None

    def receive(self, responses: list[http.Response[Job]]) -> None:
        for response in responses:
            assert response.request.tag is not None  # noqa: S101 - each request of a batch has one
            stop = response.request.tag.batch.receive(response)
            if stop is not None:
                for batch in self._open:
                    batch.hold_back(stop)

    def completed(self) -> Iterator[list[RefreshBatchResult]]:
        """Yield the results of batches that are done or, if too many responses are held, of all batches."""
        is_full = sum(batch.held for batch in self._open) >= MOST_HELD
        is_full |= sum(batch.held_bytes for batch in self._open) > MOST_HELD_BYTES
        for batch in list(self._open):
            if batch.is_done:
                self._open.remove(batch)
            if batch.is_done or is_full:
                yield batch.collect()

    def _needs_more(self) -> bool:
        """Whether there will soon be more free slots than requests to send.

        The results about app registrations must be stored before more of their connections are claimed.
        """
        if len(self._open) >= MOST_OPEN or sum(batch.unsent_count for batch in self._open) >= self._in_flight:
            return False
        return all(batch.is_past_canaries and not batch.is_done for batch in self._open)
