"""System calls that no child of the server needs, denied by the kernel.

Linux: seccomp(2). The filter applies to this process, its future threads and descendants, and is
irrevocable. Denied calls fail with EPERM.
"""

from __future__ import annotations

import ctypes
import platform
import struct

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_GET_ACTION_AVAIL, _SECCOMP_CALL = 2, {"x86_64": 317, "aarch64": 277}
_ALLOW, _DENY = 0x7FFF0000, 0x00050001  # EPERM is 1
_NOT_IMPLEMENTED = 0x00050026  # ENOSYS is 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32 = 0x40000000
"""The x32 ABI of x86_64: from here on, calls are numbered a second time."""
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

DENIED_CALLS = {
    # name: its number on x86_64 and on aarch64
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "bpf": (321, 280),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "unshare": (272, 97),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "io_uring_setup": (425, 425),  # its operations bypass seccomp
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
}


SELF_ONLY_CALLS = {
    # name: its numbers, and the required values of its first arguments: 0 is the caller
    "prlimit64": ((302, 261), (0,)),
    "sched_setaffinity": ((203, 122), (0,)),
    "sched_setparam": ((142, 118), (0,)),
    "sched_setscheduler": ((144, 119), (0,)),
    "sched_setattr": ((314, 274), (0,)),
    "setpriority": ((141, 140), (0, 0)),
    "ioprio_set": ((251, 30), (1, 0)),
    "migrate_pages": ((256, 238), (0,)),
    "move_pages": ((279, 239), (0,)),
}
"""Calls that a process may make about itself only: a CPU time limit, for example, kills a process
as a signal does."""

CLONE, CLONE3 = (56, 220), (435, 435)
NAMESPACES = 0x7E020000
"""The flags of clone(2) that create namespaces. Those of clone3 lie in memory, out of a filter's
reach: it returns ENOSYS, and libraries fall back to clone."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def build_filter(machine: str) -> bytes:
    """Return the BPF filter for a machine (``platform.machine()``); empty if unsupported.

    Calls of another architecture are all denied: their numbers have other meanings.
    """
    if machine not in _ARCHITECTURES:
        return b""
    column = list(_ARCHITECTURES).index(machine)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _DENY),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _DENY)]
    for own, wanted in SELF_ONLY_CALLS.values():
        code += _self_only_rules(own[column], wanted)
    code += [
        (_EQUAL, 0, 4, CLONE[column]),
        (_LOAD, 0, 0, _ARGUMENTS_AT),
        (_ANY_BIT, 0, 1, NAMESPACES),
        (_RETURN, 0, 0, _DENY),
        (_RETURN, 0, 0, _ALLOW),
        (_EQUAL, 0, 1, CLONE3[column]),
        (_RETURN, 0, 0, _NOT_IMPLEMENTED),
    ]
    numbers = [each[column] for each in DENIED_CALLS.values()]
    code += [(_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _DENY)]
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def _self_only_rules(number: int, wanted: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Return the filter's part for a call whose first arguments must equal ``wanted``.

    Checks the low half of an argument: the kernel treats these as 32-bit numbers.
    """
    part = []
    for at, value in enumerate(wanted):
        part.append((_LOAD, 0, 0, _ARGUMENTS_AT + 8 * at))
        part.append((_EQUAL, 0, 2 * (len(wanted) - at) - 1, value))
    part += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _DENY)]
    return [(_EQUAL, 0, len(part), number), *part]


def is_available() -> bool:
    """Whether this kernel supports filters, and this machine's call numbers are known."""
    number = _SECCOMP_CALL.get(platform.machine())
    if number is None:
        return False
    action = ctypes.c_uint32(_DENY & 0xFFFF0000)
    return bool(ctypes.CDLL(None).syscall(number, _GET_ACTION_AVAIL, 0, ctypes.byref(action)) == 0)


def restrict() -> bool:
    """Install the filter; return whether the kernel enforces it.

    Call it while the process has one thread, after ``kernel.set_no_new_privileges``.
    """
    code = build_filter(platform.machine())
    if not code:
        return False
    filtered = _Program(len(code) // 8, code)
    prctl = ctypes.CDLL(None).prctl
    return bool(prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(filtered), 0, 0) == 0)
