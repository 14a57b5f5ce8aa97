"""When calls are admitted, by a clock that the tests set."""

from blobfs.cache.circuit_breaker import CircuitBreaker


class Clock:
    """Time passes when a test says so."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def _open(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker("calls", clock)
    for _ in range(3):
        assert breaker.allows_call()
        breaker.failed()
    return breaker


def _refused_for(breaker: CircuitBreaker, clock: Clock) -> float:
    """How many seconds pass until a call is admitted, to a tenth."""
    start_s = clock.now_s
    while not breaker.allows_call():
        clock.now_s += 0.1
    return round(clock.now_s - start_s, 1)


def test_calls_are_admitted_at_first() -> None:
    breaker = CircuitBreaker("calls")
    assert breaker.is_healthy
    assert all(breaker.allows_call() for _ in range(10))


def test_failures_that_are_not_in_a_row_change_nothing() -> None:
    breaker = CircuitBreaker("calls")
    for _ in range(5):
        assert not breaker.failed()
        assert not breaker.failed()
        assert not breaker.is_healthy
        assert not breaker.succeeded()
        assert breaker.is_healthy
    assert breaker.allows_call()


def test_third_failure_in_a_row_opens_it_and_says_so_once() -> None:
    breaker = CircuitBreaker("calls", Clock())
    assert [breaker.failed() for _ in range(6)] == [False, False, True, False, False, False]
    assert not breaker.allows_call()


def test_one_call_is_admitted_after_a_second() -> None:
    clock = Clock()
    breaker = _open(clock)
    assert _refused_for(breaker, clock) == 1.0
    assert not breaker.allows_call(), "the first has not come back"


def test_wait_doubles_up_to_four_seconds() -> None:
    clock = Clock()
    breaker = _open(clock)
    waits_s = []
    for _ in range(5):
        waits_s.append(_refused_for(breaker, clock))
        breaker.failed()
    assert waits_s == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_failures_of_calls_made_before_do_not_prolong_the_wait() -> None:
    clock = Clock()
    breaker = _open(clock)
    for _ in range(16):
        breaker.failed()
    assert _refused_for(breaker, clock) == 1.0


def test_call_that_never_comes_back_is_not_waited_for() -> None:
    clock = Clock()
    breaker = _open(clock)
    _refused_for(breaker, clock)
    assert _refused_for(breaker, clock) == 1.0


def test_success_closes_it_and_says_so_once() -> None:
    clock = Clock()
    breaker = _open(clock)
    _refused_for(breaker, clock)
    assert [breaker.succeeded(), breaker.succeeded()] == [True, False]
    assert breaker.is_healthy
    assert all(breaker.allows_call() for _ in range(10))


def test_after_a_success_all_begins_anew() -> None:
    clock = Clock()
    breaker = _open(clock)
    for _ in range(3):
        _refused_for(breaker, clock)
        breaker.failed()
    breaker.succeeded()
    assert [breaker.failed() for _ in range(3)] == [False, False, True]
    assert _refused_for(breaker, clock) == 1.0
