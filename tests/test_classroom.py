"""A class: the configuration of the hub holds what docs/classroom.md promises."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "docs" / "jupyterhub_config.py"
PAGE = (ROOT / "docs" / "classroom.md").read_text()


class Section(SimpleNamespace):
    """What JupyterHub calls c: every name that is asked for becomes a section."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = Section()
        setattr(self, name, value)
        return value


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Reads the file as JupyterHub does, in an empty folder; with trial=False for a class."""
    def read(*, trial: bool = True) -> Section:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "students.txt").write_text("root\nnobody\n")
        text = CONFIG.read_text()
        assert text.count("\nTRIAL = True") == 1
        copy = tmp_path / "jupyterhub_config.py"
        copy.write_text(text if trial else text.replace("\nTRIAL = True", "\nTRIAL = False"))
        c = Section()
        runpy.run_path(str(copy), {"get_config": lambda: c})
        return c
    monkeypatch.delenv("HUB_TOKEN", raising=False)
    return read


@pytest.mark.parametrize("trial", [True, False])
def test_the_hub_listens_on_this_machine_only_and_names_its_limits(configured, trial):
    c = configured(trial=trial)
    for url in (c.JupyterHub.bind_url, c.JupyterHub.hub_bind_url):
        assert url.startswith("http://127.0.0.1:")
    assert re.fullmatch(r"\d+G", c.Spawner.mem_limit) and c.Spawner.cpu_limit >= 1
    assert c.Spawner.environment["OMP_NUM_THREADS"] == str(c.Spawner.cpu_limit)
    (culler,) = c.JupyterHub.services
    assert any(option.startswith("--timeout=") for option in culler["command"])
    assert "allow_all" not in vars(c.Authenticator)


def test_a_trial_has_two_users_and_a_new_password_each_time(configured, capsys):
    first, second = (configured().SharedPasswordAuthenticator.user_password for _ in range(2))
    assert first != second and first in capsys.readouterr().out
    assert configured().Authenticator.allowed_users == {"ada", "bob"}


def test_a_class_has_the_accounts_of_the_machine_and_a_spawner_that_enforces(configured):
    c = configured(trial=False)
    assert c.JupyterHub.authenticator_class == "pam"
    assert c.JupyterHub.spawner_class == "systemdspawner.SystemdSpawner"
    assert c.Authenticator.allowed_users == {"root", "nobody"}
    assert "--allow-root" not in c.Spawner.args
    assert "--KernelManager.transport=ipc" in c.Spawner.args


@pytest.mark.parametrize("trial", [True, False])
def test_what_a_student_makes_goes_home(configured, tmp_path, trial):
    environment = configured(trial=trial).Spawner.environment
    of_root = SimpleNamespace(user=SimpleNamespace(name="root"))
    home = tmp_path / "trial" / "root" if trial else Path("~root").expanduser()
    assert environment["COURSE_FOLDER"](of_root) == str(home / "my_work")
    sources = "".join(path.read_text() for path in (ROOT / "course_lib").rglob("*.py"))
    for variable in environment:
        assert variable == "OMP_NUM_THREADS" or f'"{variable}"' in sources


def test_the_key_for_a_check_is_there_only_when_it_is_given(configured, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", "a key of this test")
    names = {service["name"] for service in configured().JupyterHub.services}
    assert names == {"idle-culler", "checker"}


def test_the_page_links_what_exists_and_states_the_limits_of_the_file(configured):
    for link in re.findall(r"\]\((?!https://|#)([^)#]+)[^)]*\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
    text = CONFIG.read_text()
    for name in ("MEMORY", "CORES", "IDLE_SERVER", "IDLE_KERNEL"):
        value = re.search(rf"^{name} = \"?(\w+)\"?", text, re.MULTILINE)
        assert value and re.search(rf"`{name} = \"?{value[1]}\"?`", PAGE), name
    assert "docs/classroom.md" in (ROOT / "README.md").read_text()


def test_the_page_calls_commands_that_exist():
    targets = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z]+)", PAGE, re.MULTILINE)):
        assert re.search(rf"^{target}:", targets, re.MULTILINE), target
