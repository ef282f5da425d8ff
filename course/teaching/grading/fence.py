"""What a graded function may not do, and how it is kept from it: limits, an audit hook, and on Linux a filter of system calls.

The filter is the kernel's and holds whatever runs in the process: no new process, no other program, no socket, no file opened
for writing, nothing renamed or removed. The hook sees what Python is asked to do, names it for the teacher, and also knows
paths: the solutions may not be read. Without seccomp (macOS, Windows) the hook is the only fence.
"""

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

SECRET = tuple(str(Path(__file__).parents[1] / name) for name in ("exercises", "clinic", "interview"))
SECRET_MODULES = ("course.teaching.exercises", "course.teaching.clinic", "course.teaching.interview")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = {  # the beginning of an audit event: what to tell the teacher
    "socket.": "opens a network connection", "subprocess.": "starts another program", "os.system": "starts another program",
    "os.exec": "starts another program", "os.posix_spawn": "starts another program", "os.spawn": "starts another program",
    "os.fork": "starts another process", "pty.": "starts another process", "os.kill": "sends a signal to a process",
    "signal.pthread_kill": "sends a signal to a process", "ctypes.": "calls machine code", "os.remove": "removes a file",
    "os.rename": "renames a file", "os.rmdir": "removes a folder", "os.mkdir": "makes a folder", "os.chmod": "changes a file's rights",
    "os.chown": "changes a file's rights", "os.link": "makes a link", "os.symlink": "makes a link", "os.truncate": "writes a file",
    "os.utime": "changes a file", "shutil.": "changes files", "webbrowser.": "opens a page",
}  # fmt: skip


def limit(seconds, memory, folder):
    """Limits of the operating system: processor time, memory beyond what is in use (bytes), no file of any size."""
    os.chdir(folder)
    try:
        import resource
    except ImportError:  # Windows has none of these: the parent's clock remains
        return
    now = _memory_in_use()
    sizes = {"RLIMIT_CPU": seconds, "RLIMIT_FSIZE": 1 << 20, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 64}
    if now:
        sizes["RLIMIT_AS"] = now + memory
    for name, size in sizes.items():
        if hasattr(resource, name):
            resource.setrlimit(getattr(resource, name), (size, size))


def _memory_in_use():
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def watch(tell, private=()):
    """Install the audit hook, which cannot be taken off again. `tell(words)` is called once for each breach while the
    returned list holds True: a library's own import may try what is forbidden, and is only kept from it. Nothing below
    the folders and files of `private` may be read."""
    serious, private = [False], tuple(map(os.path.realpath, private))

    def hook(event, arguments):
        words = _breach(event, arguments, private)
        if words:
            if serious[0]:
                tell(words)
            raise PermissionError(f"not while grading: this {words}")

    sys.addaudithook(hook)
    return serious


def _breach(event, arguments, private):
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & WRITING and path != os.devnull:
            return f"writes a file ({os.path.basename(os.fsdecode(path))})" if isinstance(path, (str, bytes)) else "writes a file"
        return _reading(os.path.realpath(os.fsdecode(path)), private) if isinstance(path, (str, bytes)) else ""
    if event in ("os.listdir", "os.scandir", "glob.glob"):
        return "looks at other submissions" if private and os.path.realpath(os.fsdecode(arguments[0] or ".")).startswith(private) else ""
    if event == "import":
        return "reads the solutions" if str(arguments[0]).startswith(SECRET_MODULES) else ""
    return next((words for start, words in FORBIDDEN.items() if event.startswith(start)), "")


def _reading(path, private):
    if path.startswith(SECRET):
        return "reads the solutions"
    if private and path.startswith(private):
        return "reads other submissions"
    if path.startswith("/proc/") and path.split("/")[2].isdigit() and int(path.split("/")[2]) != os.getpid():
        return "reads another process"
    return ""


# ---- seccomp: the numbers of the system calls, by machine

_X86 = dict(open=2, openat=257, clone=56, denied=(
    57, 58, 59, 322, 41, 42, 49, 50, 53, 62, 101, 310, 311, 85, 76, 77, 82, 264, 316, 83, 258, 84, 86, 265, 87, 263, 88, 266, 90, 91, 268,
    92, 93, 94, 260, 133, 259, 165, 161, 132, 235, 280, 188, 189, 190), absent=(435, 437, 425))  # fmt: skip
_ARM = dict(open=None, openat=56, clone=220, denied=(
    221, 281, 198, 199, 200, 201, 203, 129, 117, 270, 271, 45, 46, 38, 276, 34, 37, 35, 36, 52, 53, 54, 55, 33, 40, 51, 88, 5, 6, 7), absent=(435, 437, 425))  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, _X86), "aarch64": (0xC00000B7, _ARM)}
_ALLOW, _DENY, _MISSING = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38  # EPERM; ENOSYS lets the C library fall back
_CLONE_THREAD = 0x10000


def _program(arch, calls):
    """The filter as (code, jump if true, jump if false, value) instructions."""
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06
    out = [(load, 0, 0, 4), (equal, 1, 0, arch), (answer, 0, 0, _DENY), (load, 0, 0, 0)]
    for number in calls["absent"]:
        out += [(equal, 0, 1, number), (answer, 0, 0, _MISSING)]
    for number in calls["denied"]:
        out += [(equal, 0, 1, number), (answer, 0, 0, _DENY)]
    for name, argument in (("openat", 2), ("open", 1)):  # flags: only to read
        if calls[name] is not None:
            out += [(equal, 0, 4, calls[name]), (load, 0, 0, 16 + 8 * argument), (any_bit, 0, 1, WRITING), (answer, 0, 0, _DENY), (answer, 0, 0, _ALLOW)]
    out += [(equal, 0, 4, calls["clone"]), (load, 0, 0, 16), (any_bit, 1, 0, _CLONE_THREAD), (answer, 0, 0, _DENY), (answer, 0, 0, _ALLOW)]
    return [*out, (answer, 0, 0, _ALLOW)]


def filter_calls() -> bool:
    """Install the filter of system calls for this process and its threads; whether this machine has one."""
    if not sys.platform.startswith("linux") or platform.machine() not in _MACHINES:
        return False
    program = b"".join(struct.pack("HBBI", *line) for line in _program(*_MACHINES[platform.machine()]))
    code = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP" if struct.calcsize("P") == 8 else "HxxP", len(program) // 8, ctypes.addressof(code)))
    c = ctypes.CDLL(None, use_errno=True)
    return c.prctl(38, 1, 0, 0, 0) == 0 and c.prctl(22, 2, head, 0, 0) == 0
