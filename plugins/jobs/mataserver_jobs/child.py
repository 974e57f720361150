"""The process of one job: it runs the kind's function and tells how it went."""

from __future__ import annotations

import importlib
import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import MataError
from mataserver_jobs.disk import FULL, is_full
from mataserver_jobs.kinds import Assignment, Cancelled, Ended, Job

if TYPE_CHECKING:
    from mataserver import Parent


def run(parent: Parent) -> None:
    """Run the job that the first message names."""
    assignment = next(parent.messages(Assignment))
    parent.send(_ended(assignment, parent))


def _ended(assignment: Assignment, parent: Parent) -> Ended:
    try:
        function, spec = _function(assignment.function), assignment.spec
        job = Job(assignment, spec, parent.send)
        job.listen()
        result = function(job)
        return Ended("done", msgspec.to_builtins(result))
    except Cancelled:
        return Ended("cancelled")
    except MataError as error:
        return Ended("failed", error=error.detail)
    except OSError as error:  # no other attempt would find more room
        traceback.print_exc()
        return Ended("failed", error=FULL) if is_full(error) else _broken(error)
    except MemoryError:
        traceback.print_exc()
        return Ended("broken", error="it needed more memory than there is")
    except Exception as error:  # the worker's edge: whatever it is, the log holds it
        traceback.print_exc()
        return _broken(error)


def _broken(error: Exception) -> Ended:
    return Ended("broken", error=f"an error in its code: {type(error).__name__}")


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
