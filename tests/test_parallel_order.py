"""Results in the order of the items, whatever thread is done first."""

import threading
import time

import pytest

from quanttool.parallel import in_order


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_results_come_in_order(threads):
    def work(i):
        time.sleep(0.002 * (i % 3 == 0))
        return i * i

    assert list(in_order(work, range(30), threads)) == [i * i for i in range(30)]


def test_no_more_than_a_few_items_are_under_way():
    started, lock = [], threading.Lock()

    def work(i):
        with lock:
            started.append(i)
        return i

    for i in in_order(work, range(50), 2):
        time.sleep(0.001)
        assert max(started) <= i + 3


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_is_raised_and_stops_the_rest(threads):
    done = []

    def work(i):
        if i == 4:
            raise ValueError("four")
        done.append(i)

    with pytest.raises(ValueError, match="four"):
        list(in_order(work, range(1000), threads))
    assert len(done) < 20
