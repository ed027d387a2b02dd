"""A virtual environment that a script makes for itself and runs itself in.

Why it exists: the export needs TensorFlow and the quantiser onnxruntime's Python, which no other part of the project
needs, at versions that are known to work together. A lock file with hashes says which; a marker file in the environment says which lock it was made from,
so that it is made once and again only when the lock changes.

It must not know what the script inside does. Standard library only, Python 3.9 or later, Linux and macOS.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MARKER = "headstart-export.json"


class EnvironmentFailure(Exception):
    """What went wrong and what to do about it, in one line."""


def inside(folder):
    """Whether this process runs on the environment's own interpreter."""
    return Path(sys.prefix).resolve() == Path(folder).resolve()


def enter(folder, requirements, pythons, space_bytes, log, download="about 370 MB"):
    """Makes the environment if it is missing or out of date, then replaces this process with the script inside it.

    `pythons` are the (major, minor) versions that the lock has wheels for, the preferred first; `log` takes a line;
    `download` says how much pip downloads.
    """
    prepare(Path(folder), Path(requirements), pythons, space_bytes, log, download)
    python = str(Path(folder) / "bin" / "python")
    sys.stdout.flush()
    sys.stderr.flush()
    # -E and -s: PYTHONPATH and the user's own packages must not replace what the lock pins.
    os.execv(python, [python, "-E", "-s", os.path.abspath(sys.argv[0]), *sys.argv[1:]])


def prepare(folder, requirements, pythons, space_bytes, log, download="about 370 MB"):
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise EnvironmentFailure(
            f"cannot make the environment folder {folder}: {error.strerror} (hint: name another with --venv DIR)"
        ) from error
    try:
        # Two scripts started at once: the second waits here, then finds the environment complete.
        fcntl.flock(lock, fcntl.LOCK_EX)
        marker = read_marker(folder)
        if marker == {"requirements_sha256": digest, "state": "complete"} and (folder / "bin" / "python").exists():
            return
        if marker is None and any(folder.iterdir()):
            raise EnvironmentFailure(
                f"{folder} holds files but is no environment of this script, and is left alone "
                "(hint: name a new or empty folder with --venv DIR, or delete it)"
            )
        build(folder, requirements, digest, pythons, space_bytes, log, download)
    finally:
        os.close(lock)


def read_marker(folder):
    try:
        return json.loads((folder / MARKER).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}


def write_marker(folder, digest, state):
    temporary = folder / (MARKER + ".tmp")
    temporary.write_text(json.dumps({"requirements_sha256": digest, "state": state}) + "\n")
    os.replace(temporary, folder / MARKER)


def build(folder, requirements, digest, pythons, space_bytes, log, download):
    interpreter = find_python(pythons)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < space_bytes:
        raise EnvironmentFailure(
            f"{folder} has {free_bytes / 1e9:.1f} GB free, the environment needs {space_bytes / 1e9:.1f} GB "
            "(hint: name a folder on another disk with --venv DIR)"
        )

    write_marker(folder, digest, "building")
    for entry in folder.iterdir():
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()

    log(f"making {folder} with {interpreter}")
    made = subprocess.run([interpreter, "-m", "venv", str(folder)], capture_output=True, text=True)
    if made.returncode != 0:
        raise EnvironmentFailure(
            f"`{interpreter} -m venv {folder}` failed: {last_line(made.stderr or made.stdout)} "
            "(hint: on Debian and Ubuntu `apt install python3-venv`)"
        )

    log(f"installing what {requirements.name} pins ({download} to download, once)")
    pip_log = folder / "pip.log"
    with open(pip_log, "w") as output:
        # Wheels only: building one of these from source needs a tool chain and takes hours.
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--require-hashes", "--only-binary", ":all:"]
        code = subprocess.run([*pip, "-r", str(requirements)], stdout=output, stderr=subprocess.STDOUT).returncode
    if code != 0:
        raise EnvironmentFailure(explain_pip(pip_log.read_text(errors="replace"), pip_log))
    write_marker(folder, digest, "complete")


def find_python(pythons):
    """This interpreter if the lock has wheels for it, else the first on PATH that has and works."""
    probe = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    names = [f"{major}.{minor}" for major, minor in pythons]
    candidates = [f"python{name}" for name in names]
    if sys.version_info[:2] in pythons:
        candidates.insert(0, sys.executable)
    without_venv = None
    for candidate in candidates:
        path = shutil.which(candidate)
        if path is None:
            continue
        tried = subprocess.run([path, "-c", probe], capture_output=True, text=True)
        # A version manager's stand-in may be on PATH for a version that is not installed, hence the run.
        if tried.returncode == 0 and tried.stdout.strip() in names:
            return path
        if "No module named" in tried.stderr:
            without_venv = without_venv or path
    if without_venv:
        raise EnvironmentFailure(
            f"{without_venv} lacks the `venv` or `ensurepip` module "
            "(hint: on Debian and Ubuntu `apt install python3-venv`)"
        )
    raise EnvironmentFailure(
        f"{Path(sys.argv[0]).name} needs Python {' or '.join(sorted(names))}, this is {sys.version.split()[0]} and PATH has none of "
        "them (hint: install one, or start this script with it)"
    )


def explain_pip(text, pip_log):
    errors = [line for line in text.splitlines() if line.startswith("ERROR: ")]
    reason = errors[0][len("ERROR: "):].strip() if errors else last_line(text)
    if re.search(r"NewConnectionError|NameResolutionError|ConnectTimeout|Connection refused|ProxyError|SSLError", text):
        return (
            f"pip cannot reach its package index; its log is {pip_log} "
            "(hint: go online, or set the proxy or mirror that `pip config` and PIP_INDEX_URL name)"
        )
    if "No space left" in text:
        return f"no space left while installing; pip's log is {pip_log} (hint: name another disk with --venv DIR)"
    if "DO NOT MATCH THE HASHES" in text:
        return f"a package differs from the one pinned; pip's log is {pip_log} (hint: use an unmodified index)"
    return (
        f"pip failed: {reason}; its log is {pip_log} "
        "(hint: the pins have wheels for Linux on x86-64 and arm64 and macOS on arm64)"
    )


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
