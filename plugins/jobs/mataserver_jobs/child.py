"""The process of one job: it runs the kind's function and reports the result."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import MataError
from mataserver_jobs import durable, file_transfer
from mataserver_jobs.disk import FULL, is_full
from mataserver_jobs.file_transfer import NextPiece, Piece, TransferError
from mataserver_jobs.kinds import Assignment, Cancelled, Ended, Job
from mataserver_jobs.lease_guard import LeaseGuard

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver import Parent
    from mataserver_jobs.file_transfer import Parcel


def run(parent: Parent) -> None:
    """Run the job that the first message names."""
    assignment = next(parent.messages(Assignment))
    if assignment.lease is not None:
        LeaseGuard.start(assignment.lease)
    if assignment.given is None:
        parent.send(_run_to_end(lambda: _stored_result(assignment, parent)))
        return
    with file_transfer.node_folder() as folder:
        ended = _run_on_node(assignment, assignment.given, folder, parent)
    parent.send(ended)  # who has it ends this process: the folder is gone by then


def _run_on_node(assignment: Assignment, given: Parcel, folder: Path, parent: Parent) -> Ended:
    """Run a job in a folder of this node: take what it is given, send back what it made."""

    def work() -> Any:
        file_transfer.receive_all(folder / "input", given, parent.read)
        return _result(msgspec.structs.replace(assignment, folder=str(folder)), parent)

    ended = _run_to_end(work)
    return ended if _send_back(folder / "output", parent) else SEND_FAILED


SEND_FAILED = Ended("broken", error="its files could not be sent")


def _send_back(output: Path, parent: Parent) -> bool:
    """Send the files of a result, a piece whenever the server asks for one; whether all went."""
    try:
        asked = parent.messages(NextPiece)
        for part in file_transfer.split_parcel(file_transfer.describe_files(output)):
            parent.send(part)
            for piece in file_transfer.read_pieces(output, part):
                parent.send(Piece(len(piece)), piece)
                next(asked)
    except (OSError, TransferError, StopIteration):
        traceback.print_exc()
        return False
    return True


def _stored_result(assignment: Assignment, parent: Parent) -> Any:
    """Run a job; what it made is on the disk when its end is told, however it ended."""
    output = Path(assignment.folder) / "output"
    try:
        result = _result(assignment, parent)
    except BaseException:
        try:
            durable.sync_all(output)
        except OSError:  # what the job itself ended with is what its owner must hear
            traceback.print_exc()
        raise
    durable.sync_all(output)
    return result


def _result(assignment: Assignment, parent: Parent) -> Any:
    function, spec = _function(assignment.function), assignment.spec
    job = Job(assignment, spec, parent.send)
    job.listen()
    return function(job)


def _run_to_end(work: Callable[[], Any]) -> Ended:
    try:
        return Ended("done", msgspec.to_builtins(work()))
    except Cancelled:
        return Ended("cancelled")
    except MataError as error:
        return Ended("failed", error=error.detail)
    except OSError as error:  # no other attempt would find more room
        traceback.print_exc()
        return Ended("failed", error=FULL) if is_full(error) else _failure(error)
    except MemoryError:
        traceback.print_exc()
        return Ended("broken", error="it needed more memory than there is")
    except Exception as error:  # the worker's edge: whatever it is, the log holds it
        traceback.print_exc()
        return _failure(error)


def _failure(error: Exception) -> Ended:
    return Ended("broken", error=f"an error in its code: {type(error).__name__}")


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
