"""SIGTERM: at once where nothing is torn, later where something would be."""

import os
import signal

import pytest

from aent.signals import STATUS, Terminated, Termination


def _send():
    os.kill(os.getpid(), signal.SIGTERM)


def test_at_once_with_its_own_status():
    before = signal.getsignal(signal.SIGTERM)
    with Termination(), pytest.raises(SystemExit) as raised:
        _send()
    assert raised.value.code == STATUS == 75
    assert signal.getsignal(signal.SIGTERM) == before


def _deferred(termination, steps):
    with termination.deferred():
        for step in steps:
            step()


def test_after_what_must_be_finished():
    done = []
    with Termination() as termination:
        with pytest.raises(Terminated):
            _deferred(termination, [_send, lambda: done.append("finished")])
        _send()  # what is saved now is not interrupted by a second signal
        done.append("saved")
    assert done == ["finished", "saved"]


def test_an_error_in_what_must_be_finished_is_seen():
    with Termination() as termination, pytest.raises(ZeroDivisionError):
        _deferred(termination, [_send, lambda: 1 / 0])
