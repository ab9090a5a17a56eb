"""Files that are written whole: what stood in one is gone only when there is something in its place."""

import os
import shutil


def put(text, path):
    """Write `text` into a neighbour, and then put that in the place of `path`.

    What is no file, such as a pipe or /dev/stdout, is written as it is, and so is a file whose folder takes no other. What
    cannot be encoded, as parts of a file's name that are no text, is written as its escape, which in JSON means the same.
    """
    content = text.encode("utf-8", errors="backslashreplace")
    if not _is_replaceable(path):
        path.write_bytes(content)
        return
    path = path.resolve()  # a link goes on to be one
    neighbour = path.with_name(f".{os.getpid()}.part")
    try:
        neighbour.write_bytes(content)
        if path.exists():
            shutil.copymode(path, neighbour)
        try:
            neighbour.replace(path)
        except OSError:  # it is mounted alone, say, or only its owner may replace it
            path.write_bytes(content)
    finally:
        neighbour.unlink(missing_ok=True)


def _is_replaceable(path):
    """Whether a file may come into its place. One in /dev or /proc is open somewhere, and would be written by nobody then."""
    is_file = path.is_file() or not path.exists()
    return is_file and path.absolute().parts[1] not in ("dev", "proc") and os.access(path.parent, os.W_OK)
