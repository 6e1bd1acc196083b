"""JupyterHub for a class. As it stands: a trial with two users, on this machine only.

    /srv/hub/bin/jupyterhub --config=docs/jupyterhub_config.py

docs/classroom.md says how to install what it needs, and explains every part.
"""

from __future__ import annotations

import os
import pwd
import secrets
from pathlib import Path
from typing import Any

TRIAL = True  # False: the accounts of this machine, and limits that are enforced
STUDENTS = {"ada", "bob"} if TRIAL else set(Path("students.txt").read_text().split())
COURSE = Path(os.environ.get("COURSE_ENV", "/srv/env"))  # the environment of the lessons
HUB = Path(os.environ.get("HUB_ENV", "/srv/hub"))  # the environment of the hub itself

MEMORY = "4G"  # per student: the server, and the kernels of the lessons that are open
CORES = 2  # per student
IDLE_SERVER = 3600  # seconds without use, then a student's server is stopped
IDLE_KERNEL = 1800  # seconds without use, then a kernel that no page shows is stopped
LOOK_EVERY = 300  # seconds

c: Any = get_config()  # noqa: F821  (JupyterHub defines it)

# Only this machine can connect. For a class, a web server with a certificate stands in front.
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:8081"
c.JupyterHub.concurrent_spawn_limit = 10  # servers that start at the same time
c.Authenticator.allowed_users = STUDENTS
c.ConfigurableHTTPProxy.command = str(
    HUB / "node_modules" / ".bin" / "configurable-http-proxy")

# Each student gets a server of the course's environment, and so its kernel.
c.Spawner.cmd = [str(COURSE / "bin" / "jupyterhub-singleuser")]
c.Spawner.args = [f"--MappingKernelManager.cull_idle_timeout={IDLE_KERNEL}",
                  f"--MappingKernelManager.cull_interval={LOOK_EVERY}"]
c.Spawner.default_url = "/lab"
c.Spawner.http_timeout = 120  # thirty servers that start at once are slow
c.Spawner.start_timeout = 120
c.Spawner.mem_limit = MEMORY
c.Spawner.cpu_limit = CORES


def home(student: str) -> Path:
    return Path.cwd() / "trial" / student if TRIAL else Path(pwd.getpwnam(student).pw_dir)


def own(folder: str) -> Any:
    """A folder in the student's home; the hub asks for it when it starts the student's server."""
    return lambda spawner: str(home(spawner.user.name) / folder)


c.Spawner.environment = {
    "COURSE_FOLDER": own("my_work"),  # outside the lessons, which a pull may change
    "COURSE_CACHE": own("course_cache"),  # complete data sets, when somebody asks for them
    "OMP_NUM_THREADS": str(CORES),  # else each kernel starts a thread for every core
}

if TRIAL:  # no isolation: both servers run as you
    c.JupyterHub.authenticator_class = "shared-password"  # one for all, so for a trial only
    c.SharedPasswordAuthenticator.user_password = password = secrets.token_urlsafe(12)
    print(f"Trial: the users are {' and '.join(sorted(STUDENTS))}, the password is {password}")
    c.JupyterHub.spawner_class = "simple"
    c.SimpleLocalProcessSpawner.home_dir_template = str(home("{username}"))
    if os.geteuid() == 0:  # in a container
        c.Spawner.args.append("--allow-root")
else:
    c.JupyterHub.authenticator_class = "pam"
    c.JupyterHub.spawner_class = "systemdspawner.SystemdSpawner"
    c.SystemdSpawner.isolate_tmp = True
    # The kernels' sockets lie in the student's home: over TCP, any account could read outputs.
    c.Spawner.args.append("--KernelManager.transport=ipc")

# Stops servers that nobody uses.
c.JupyterHub.services = [{"name": "idle-culler", "command": [
    str(HUB / "bin" / "jupyterhub-idle-culler"),
    f"--timeout={IDLE_SERVER}", f"--cull-every={LOOK_EVERY}"]}]
c.JupyterHub.load_roles = [{
    "name": "idle-culler", "services": ["idle-culler"],
    "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"]}]

# For a check from outside: start servers, and run lessons in them.
if token := os.environ.get("HUB_TOKEN"):
    c.JupyterHub.services.append({"name": "checker", "api_token": token})
    c.JupyterHub.load_roles.append({
        "name": "checker", "services": ["checker"],
        "scopes": ["admin:users", "admin:servers", "tokens", "access:servers"]})
